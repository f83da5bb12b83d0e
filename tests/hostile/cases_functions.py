"""A model's own functions."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from tests.hostile.corpus import kept, refused, survived
from tests.models import proto

HEAD = '<ir_version: 10, opset_import: ["" : 17, "local" : 1]>'
LOCAL = '<domain: "local", opset_import: ["" : 17, "local" : 1]>'


def _function(name: str, *callees: str) -> onnx.FunctionProto:
    """A chain of calls, or a Neg."""
    names = ["a", *(f"t{index}" for index in range(len(callees) - 1)), "b"]
    nodes = [
        helper.make_node(callee, [names[index]], [names[index + 1]], domain="local")
        for index, callee in enumerate(callees)
    ] or [helper.make_node("Neg", ["a"], ["b"])]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, imports)


def _model(*functions: onnx.FunctionProto, call: str) -> onnx.ModelProto:
    model = proto(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = local.{call}(x) }}")
    model.functions.extend(functions)
    return model


@refused
def function_that_calls_itself(folder: Path) -> onnx.ModelProto:
    return _model(_function("f", "f"), call="f")


@refused
def functions_that_call_each_other(folder: Path) -> onnx.ModelProto:
    return _model(_function("f", "h"), _function("h", "f"), call="f")


@refused
def recursion_that_nobody_starts(folder: Path) -> onnx.ModelProto:
    return _model(_function("f"), _function("h", "h"), call="f")


@refused
def avalanche_of_calls(folder: Path) -> onnx.ModelProto:
    chain = [_function(f"f{index}", *[f"f{index + 1}"] * 10) for index in range(12)]
    return _model(*chain, _function("f12"), call="f0")


@refused
def deep_chain_of_calls(folder: Path) -> onnx.ModelProto:
    chain = [_function(f"f{index}", f"f{index + 1}") for index in range(5000)]
    return _model(*chain, _function("f5000"), call="f0")


@refused
def function_defined_twice(folder: Path) -> onnx.ModelProto:
    return _model(_function("f"), _function("f"), call="f")


@refused
def function_with_undefined_output(folder: Path) -> onnx.ModelProto:
    model = _model(_function("f"), call="f")
    model.functions[0].output[0] = "nothing"
    return model


@refused
def function_with_undefined_input(folder: Path) -> onnx.ModelProto:
    model = _model(_function("f"), call="f")
    model.functions[0].node[0].input[0] = "x"  # the caller's, which a function does not see
    return model


@refused
def function_with_a_cycle(folder: Path) -> onnx.ModelProto:
    model = _model(_function("f", "h", "h"), _function("h"), call="f")
    model.functions[0].node[0].input[0] = "b"
    return model


@refused
def function_without_operator_set(folder: Path) -> onnx.ModelProto:
    model = _model(_function("f"), call="f")
    del model.functions[0].opset_import[:]
    return model


@refused
def function_without_name(folder: Path) -> onnx.ModelProto:
    return _model(_function("f"), _function(""), call="f")


@kept
def function_called_twice(folder: Path) -> onnx.ModelProto:
    return proto(f"""{HEAD} g (float[2] x) => (float[2] y) {{ t = local.f(x) y = local.f(t) }}
        {LOCAL} f (a) => (b) {{ t = Neg(a) one = Constant<value_float = 1.0>() b = Add(t, one) }}""")


@kept
def function_with_attributes(folder: Path) -> onnx.ModelProto:
    return proto(f"""{HEAD} g (float[2] x) => (float[2] y) {{
            t = local.f<slope = 0.5>(x) y = local.f<slope = 0.1>(t)
        }}
        {LOCAL} f <slope> (a) => (b) {{ b = LeakyRelu<alpha: float = @slope>(a) }}""")


@kept
def function_in_a_function(folder: Path) -> onnx.ModelProto:
    return _model(_function("f", "h", "h"), _function("h", "k"), _function("k"), call="f")


@kept
def function_that_nobody_calls(folder: Path) -> onnx.ModelProto:
    return _model(_function("f"), _function("unused"), call="f")


@survived  # onnxruntime does not sort functions
def function_with_unsorted_nodes(folder: Path) -> onnx.ModelProto:
    model = _model(_function("f", "h", "k"), _function("h"), _function("k"), call="f")
    nodes = list(model.functions[0].node)
    del model.functions[0].node[:]
    model.functions[0].node.extend(reversed(nodes))
    return model
