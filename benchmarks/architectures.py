"""Exports of public architectures, with random weights: graphs that no analysis of ours was written for.

    PYTHON -m benchmarks.architectures FOLDER [NAMES...]

PYTHON has torch, torchvision, timm, transformers and onnxscript.  Each goes to FOLDER/NAME.onnx, small enough
to be run; ``python -m benchmarks.coverage FOLDER/*.onnx`` then prunes them.  Networks of images are exported
with an open batch, of text with an open batch and length; a name that ends in ``-old`` goes through the
exporter of TorchScript, at operator set 17.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import nn

TORCHVISION = (
    "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v3_small",
    "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vit_b_32",
)  # fmt: skip
TIMM = (
    "convmixer_768_32", "dla34", "eva02_tiny_patch14_224", "fastvit_t8", "ghostnet_050", "hrnet_w18_small",
    "levit_128s", "mixer_s32_224", "mobilevit_xxs", "poolformer_s12", "repvgg_a0", "res2net50_14w_8s",
    "resnetv2_50", "tf_efficientnetv2_b0", "vovnet39a", "xcit_nano_12_p16_224",
)  # fmt: skip
TEXT = ("albert", "bert", "deberta-v2", "distilbert", "gemma2", "gpt2", "llama", "mamba", "qwen3", "roberta")
LARGE = ("224", "levit_128s", "vit_b_32")  # ends of names of what takes images of 224 pixels
OLD = ("mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5")


class Logits(nn.Module):
    """The first output of a network of text."""

    def __init__(self, model: nn.Module, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, ids: torch.Tensor) -> Any:
        return self.model(input_ids=ids, **self.options)[0]


def image_network(make: Callable[[str], nn.Module], name: str) -> tuple[nn.Module, torch.Tensor]:
    """A classifier of ten classes with normalisations that do something, and two images."""
    model = make(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    side = 224 if any(name.endswith(mark) for mark in LARGE) else 64
    return model, torch.randn(2, 3, side, side)


def text_network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Two layers of width 64, and two sentences."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    tokens = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    made = transformers.AutoConfig.for_model(name, **tokens, attn_implementation="eager")
    for key, size in {**sizes, "num_key_value_heads": 2, "head_dim": 16, "embedding_size": 32}.items():
        if hasattr(made, key):
            setattr(made, key, size)
    decoder = name in ("gemma2", "gpt2", "llama", "mamba", "qwen3")
    kind = transformers.AutoModelForCausalLM if decoder else transformers.AutoModel
    model = Logits(kind.from_config(made), {"use_cache": False} if decoder else {})
    return model, torch.randint(3, 99, (2, 16))


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network of a name, and an example of its input."""
    if name in TEXT:
        return text_network(name)
    if name in TIMM:
        return image_network(lambda name: timm.create_model(name, num_classes=10), name)
    more = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    return image_network(lambda name: torchvision.models.get_model(name, num_classes=10, **more), name)


def export(name: str, path: Path) -> None:
    """Write one network."""
    model, example = network(name.removesuffix("-old"))
    model.eval()
    if name.endswith("-old"):
        axes = {"input": {0: "batch"}, "output": {0: "batch"}}
        names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
        torch.onnx.export(model, (example,), path, dynamo=False, opset_version=17, dynamic_axes=axes, **names)
        return
    dims: dict[int, Any] = {0: torch.export.Dim("batch")}
    if not example.is_floating_point():
        dims[1] = torch.export.Dim("length", min=2, max=64)
    torch.onnx.export(
        model, (example,), path, dynamo=True, external_data=False, verbose=False, dynamic_shapes=(dims,)
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="default: all")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    failed = 0
    for name in given.names or (*TORCHVISION, *TIMM, *TEXT, *(f"{name}-old" for name in OLD)):
        try:
            export(name, given.folder / f"{name}.onnx")
            print(name, file=sys.stderr)
        except Exception as error:  # exporters raise whatever they like
            failed += 1
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
