"""Targets as data: they load, name operators and kernels that exist, and come back from their own text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx.defs
import pytest

from onnxslim.errors import OptionError
from onnxslim.ops.registry import all_specs
from onnxslim.runtime.providers import known
from onnxslim.runtime.targets.load import load_target, parse_target, target_names
from onnxslim.runtime.targets.target import Cost
from onnxslim.runtime.targets.work import Work, convolution, product
from onnxslim.runtime.targets.write import terms, to_toml

MINIMAL = """runtime = "r"
machine = "m"
provider = "CPUExecutionProvider"
activation = "uint8"
weight = "int8"
fusion = []
"""
FUSION = '[[fusion]]\nop = "Add"\nkernel = "QLinearAdd"\noutput = "quantized"\n'


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_consistent(name: str) -> None:
    target = load_target(name)
    assert target.name == name and target.runtime and target.machine
    assert target.provider in {provider.name for provider in known()} | {"CPUExecutionProvider"}
    assert target.source or target.measured, "a rule that nobody measured needs a source"
    for fusion in target.fusions:
        assert target.fusion(fusion.op_type, depthwise=fusion.depthwise) is fusion
        assert onnx.defs.has(fusion.op_type)
        assert all_specs()["", fusion.op_type].quant is not None, "the planner would not see it"
        names = (*fusion.activations, *fusion.biases, *fusion.free_behind)
        assert all(onnx.defs.has(name) for name in names)
        if not target.measured:
            assert fusion.float_cost == fusion.integer_cost == Cost(), "only what was measured has costs"


def test_the_measured_target_tells_what_pays() -> None:
    target = load_target()
    assert target.measured and "AMD" in target.machine
    work = convolution(28 * 28, 64, 64, 9, block=target.block)
    conv = target.fusion("Conv")
    assert conv is not None and conv.integer_cost.of(work) < 0.6 * conv.float_cost.of(work)
    assert target.fusion("Conv", depthwise=True) is not conv


@pytest.mark.parametrize("name", target_names())
def test_text_and_back(name: str) -> None:
    target = load_target(name)
    again = parse_target(to_toml(target, "a comment\nof two lines"), name)
    assert again == target


def test_costs_are_written_with_three_digits() -> None:
    target = load_target()
    cost = Cost(node=1234.56, mac=0.00123456)
    text = to_toml(replace(target, quantize=cost))
    assert parse_target(text, "x").quantize == Cost(node=1230.0, mac=0.00123)
    assert terms(Cost()) == {}


def test_costs_are_sums_over_the_work() -> None:
    cost = Cost(node=1, mac=2, rest=7, tap=3, weight=4, output=5)
    assert cost.of(Work(mac=10, rest=1, tap=1, weight=1, output=1)) == 1 + 20 + 7 + 3 + 4 + 5


@pytest.mark.parametrize("channels", [1, 8, 16, 24, 32, 33])
def test_work_is_counted_in_blocks(channels: int) -> None:
    """Against the sums of the loops that a kernel runs, the last block whole."""
    blocks = -(-channels // 16)
    found = convolution(49, 8, channels, 9, block=16)
    assert found.mac + found.rest == 49 * 8 * 9 * blocks * 16
    assert (found.rest == 0) == (channels % 16 == 0)
    assert (found.tap, found.weight, found.output) == (49 * 9, 8 * 9 * channels, 49 * channels)
    matrix = product(49, 72, channels, block=16)
    assert (matrix.mac, matrix.rest, matrix.tap) == (found.mac, found.rest, 0)
    assert product(7, 3, channels).mac == 7 * 3 * channels


def test_unknown_target() -> None:
    with pytest.raises(OptionError, match="no target 'cpu-x86-vnnj'") as caught:
        load_target("cpu-x86-vnnj")
    assert "did you mean 'cpu-x86-vnni'?" in str(caught.value)


def test_a_target_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    assert load_target(str(path)).fusions == ()
    path.write_text(MINIMAL.replace("fusion = []", "block = 8"), encoding="utf-8")
    with pytest.raises(OptionError, match="lacks 'fusion'"):  # the file is read anew
        load_target(str(path))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("not toml", "not valid TOML"),
        ("x = " + "[" * 100_000, "not valid TOML"),
        (MINIMAL.replace('machine = "m"\n', ""), "lacks 'machine'"),
        (MINIMAL.replace('"uint8"', '"int16"'), "'activation' cannot be 'int16'"),
        (MINIMAL + "blok = 16\n", "unknown key 'blok'"),
        (MINIMAL + "block = true\n", "'block' cannot be True"),
        (MINIMAL + "[quantize]\nnode = -1\n", "'node' cannot be -1"),
        (MINIMAL + "[quantize]\noutput = nan\n", "'output' cannot be nan"),
        (MINIMAL + "[quantize]\nflops = 1\n", "unknown key 'flops'"),
        (MINIMAL.replace("fusion = []", FUSION.replace("Add", "Hadd")), "'Hadd' is not an operator"),
        (MINIMAL.replace("fusion = []", FUSION + FUSION), "two fusions for Add"),
        (MINIMAL.replace("fusion = []", "[quantize]\n" + FUSION), "lacks 'float_cost'"),
        (MINIMAL.replace("fusion = []", FUSION + 'activations = "Relu"'), "'activations' cannot be"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=what) as caught:
        load_target(str(path))
    assert caught.value.where is not None and "broken.toml" in caught.value.where


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary, large, folder = (tmp_path / f"{name}.toml" for name in ("binary", "large", "folder"))
    binary.write_bytes(b"\xff\xfe\x00")
    large.write_text("#" * (1 << 21), encoding="utf-8")
    folder.mkdir()
    for path, what in [
        (binary, "cannot be read"),
        (large, "too large"),
        (folder, "no such"),
        (tmp_path / "none.toml", "no such"),
    ]:
        with pytest.raises(OptionError, match=what):
            load_target(str(path))


def test_types_and_powers_of_two_are_written_as_they_were_read() -> None:
    text = MINIMAL.replace(
        "activation =", 'activation_types = ["uint8", "int16"]\npower_of_two_scales = true\nactivation =', 1
    )
    target = parse_target(text, "mine")
    assert target.activation_types == ("uint8", "int16") and target.power_of_two_scales
    assert parse_target(to_toml(target), "mine") == target
    with pytest.raises(OptionError, match="activation_types"):
        parse_target(text.replace('"int16"', '"int4"'), "mine")
