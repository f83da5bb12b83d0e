"""Three passes on a ModelProto: python examples/three_passes.py IN.onnx OUT.onnx"""

import sys

import onnx

import onnxslim
from onnxslim.passes import EliminateNoops, FoldConstants, RemoveDeadCode

source, target = sys.argv[1:]
proto = onnx.load(source)
result = onnxslim.Pipeline((FoldConstants(), EliminateNoops(), RemoveDeadCode())).run(proto)
for record in result.report.passes:
    print(f"{record.name}: {record.nodes_removed} nodes fewer")
onnx.save(result.to_proto(), target)
