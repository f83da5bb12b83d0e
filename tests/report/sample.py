"""Reports as runs fill them: a float ResNet against its INT8 form, and variations that no run would wish."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

from onnxslim.model.io import FileInfo
from onnxslim.passes.base import Decline
from onnxslim.report.report import PassRecord, Report

HOSTILE = "</style></title><script>alert('1')</script>\"onload=x&<img src=http://a.example/b>\x1b[31m\u202e|`[x](y)\n"


def latency(
    ratio: float = 0.358, *, epochs: int = 14, rounds: int = 22, noise: float = 0.02, name: str = ""
) -> dict[str, Any]:
    """A measurement whose rounds scatter around ``ratio``."""
    rng = random.Random(f"{ratio} {epochs} {rounds}")

    def around(center: float) -> list[list[float]]:
        return [
            [
                center + shift + rng.gauss(0, noise) + (0.3 if rng.random() < 0.01 else 0)
                for _ in range(rounds)
            ]
            for shift in (rng.gauss(0, noise / 2) for _ in range(epochs))
        ]

    half = 1.8 * noise / math.sqrt(epochs)
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    verdict = "faster" if high < 0.98 else "slower" if low > 1.02 else "inconclusive"
    if low > 1 / 1.02 and high < 1.02:
        verdict = "equal"
    before = {"p50": 0.02452, "p90": 0.02561, "p99": 0.0312, "best": 0.02431}
    after = {key: value * ratio for key, value in before.items()}
    return {
        "name": name,
        "verdict": verdict,
        "ratio": ratio,
        "interval": (low, high),
        "control": 1.0012,
        "control_interval": (0.9968, 1.0041),
        "clock": "wall",
        "threads": 1,
        "providers": ("CPUExecutionProvider",),
        "before": before,
        "after": after,
        "before_ms": 1e3 * before["p50"],
        "after_ms": 1e3 * after["p50"],
        "diagnosis": ("the machine became 6% slower meanwhile; the ratio is not affected",),
        "epochs": epochs,
        "rounds": epochs * rounds,
        "seconds": 20.3,
        "seed": 0,
        "raw": {"b_over_a": around(math.log(ratio)), "control": around(0.0), "wall_ns": [], "cpu_ns": []},
    }


def profile(nodes: int = 53) -> dict[str, Any]:
    """Convolutions that became integer kernels, and a QuantizeLinear that was left over."""
    rng = random.Random(nodes)
    before, after, joined = [], [], []
    for number in range(nodes):
        output = f"resnet/stage{number // 14}/block{number % 14}/conv/Relu_output_0"
        time = rng.lognormvariate(5.5, 0.8)
        old = {
            "output": output,
            "op": "Conv",
            "provider": "CPUExecutionProvider",
            "us": time,
            "integer": False,
        }
        new = {**old, "op": "QLinearConv", "us": 0.33 * time, "integer": True}
        before.append(old)
        after.append(new)
        joined.append(
            {
                "output": output,
                "before": {"op": "Conv", "us": time},
                "after": {"op": "QLinearConv", "us": 0.33 * time},
            }
        )
    lone = {"output": "input_QuantizeLinear", "op": "QuantizeLinear", "provider": "CPUExecutionProvider"}
    after.append({**lone, "us": 140.0, "integer": False})
    joined.append({"output": lone["output"], "before": None, "after": {"op": "QuantizeLinear", "us": 140.0}})

    def side(found: list[dict[str, Any]], kernels: dict[str, int], leftover: list[str]) -> dict[str, Any]:
        total = sum(node["us"] for node in found)
        hottest = sorted(found, key=lambda node: -node["us"])
        return {
            "runs": 40,
            "total_us": total,
            "nodes": [{**node, "share": node["us"] / total} for node in hottest],
            "kernels": kernels,
            "integer": sum(node["integer"] for node in found),
            "leftover": leftover,
            "providers": {"CPUExecutionProvider": sum(kernels.values())},
        }

    return {
        "before": side(
            before, {"Conv": nodes, "Add": 16, "MaxPool": 1, "GlobalAveragePool": 1, "Gemm": 1}, []
        ),
        "after": side(
            after,
            {
                "QLinearConv": nodes,
                "QLinearAdd": 16,
                "MaxPool": 1,
                "QLinearGlobalAveragePool": 1,
                "QGemm": 1,
                "QuantizeLinear": 1,
                "DequantizeLinear": 1,
            },
            ["input_QuantizeLinear", "logits_DequantizeLinear"],
        ),
        "joined": joined,
    }


def resnet() -> Report:
    """All that ``bench`` and ``compress`` can fill in, as one would see it."""
    first = latency(name="batch 1, 1 thread")
    return Report(
        input=FileInfo("models/resnet50.onnx", "3b1f" * 16, 102_442_488, 126),
        output=FileInfo("models/resnet50.int8.onnx", "90ac" * 16, 25_993_211, 377),
        before={
            "nodes": 126,
            "params": 25_557_032,
            "bytes": 102_442_488,
            "macs": 4_089_184_256,
            "ops": {
                "Conv": 53,
                "Relu": 49,
                "Add": 16,
                "BatchNormalization": 4,
                "MaxPool": 1,
                "Flatten": 1,
                "Gemm": 1,
            },
        },
        after={
            "nodes": 377,
            "params": 25_530_472,
            "bytes": 25_993_211,
            "macs": 4_089_184_256,
            "ops": {
                "DequantizeLinear": 195,
                "QuantizeLinear": 106,
                "Conv": 53,
                "Add": 16,
                "Relu": 4,
                "MaxPool": 1,
                "Flatten": 1,
                "Gemm": 1,
            },
        },
        passes=(
            PassRecord("fold-constants", "exact", True, 0.21, 3, -1024),
            PassRecord("fold-batch-norm", "close", True, 0.05, 4, 26_560),
            PassRecord("merge-common-subexpressions", "exact", False, 0.01),
            PassRecord(
                "simplify-reshapes", "exact", True, 0.01, 2, 0, rolled_back="output logits differs by 0.5"
            ),
            PassRecord("quantize-static", "lossy", True, 3.4, -258, 76_449_277),
        ),
        declined=(
            *(
                Decline(
                    "quantize-static", f"resnet/stage{i}/shortcut/Add", "an integer kernel would not pay here"
                )
                for i in range(16)
            ),
            Decline("quantize-static", "resnet/Flatten", "moves data only"),
            Decline("fold-constants", "resnet/Shape_3", "depends on the size of an input that is not fixed"),
        ),
        verification={
            "ok": True,
            "verified": True,
            "promise": "lossy",
            "samples": 16,
            "outputs": (
                {
                    "name": "logits",
                    "max_abs_diff": 0.3127,
                    "ref_max": 18.42,
                    "sqnr_db": 31.6,
                    "bit_equal": False,
                    "ok": True,
                },
                {
                    "name": "features",
                    "max_abs_diff": 0.0712,
                    "ref_max": 3.9,
                    "sqnr_db": 28.4,
                    "bit_equal": False,
                    "ok": True,
                },
            ),
            "unverifiable": {"noise": "it hangs on the random operator RandomNormal"},
        },
        metric={"name": "top1", "before": 0.761, "after": 0.758, "n": 1000, "interval": (0.7305, 0.7836)},
        latency=first,
        scenarios=(
            first,
            latency(0.371, name="batch 8, 1 thread"),
            latency(0.612, name="batch 1, 2 threads", noise=0.05),
            latency(0.999, name="batch 1, graph optimizations off"),
            latency(1.015, name="batch 32, 2 threads", noise=0.06),
            latency(1.31, name="batch 1, float16 inputs"),
        ),
        footprint={
            "before": {
                "session_s": 0.412,
                "first_s": 0.0367,
                "rss_bytes": 214_300_000,
                "peak_rss_bytes": 398_000_000,
                "arena_bytes": None,
            },
            "after": {
                "session_s": 0.291,
                "first_s": 0.0139,
                "rss_bytes": 92_800_000,
                "peak_rss_bytes": 181_000_000,
                "arena_bytes": None,
            },
        },
        throughput=(
            {"streams": 1, "before": 40.7, "after": 113.2, "ratio": 2.78, "interval": (2.71, 2.84)},
            {"streams": 2, "before": 74.1, "after": 188.0, "ratio": 2.54, "interval": (2.31, 2.77)},
        ),
        profile=profile(),
        gates=(
            {"gate": "latency <= 0.5x", "verdict": "met", "found": "0.358 with an upper end of 0.361"},
            {
                "gate": "top1 drop <= 1%",
                "verdict": "undecided",
                "found": "1000 samples cannot show a loss of 1%",
            },
            {"gate": "rss <= 0.4x", "verdict": "broken", "found": "0.433 of the memory"},
        ),
        tried=(
            {
                "name": "int8, per channel, bias corrected",
                "bytes_ratio": 0.254,
                "ratio": 0.358,
                "interval": [0.355, 0.361],
                "score": 0.758,
                "sqnr_db": 31.6,
                "kept": True,
                "reason": "",
            },
            {
                "name": "weights packed",
                "bytes_ratio": 0.255,
                "ratio": 1.004,
                "interval": [0.998, 1.01],
                "score": 0.76,
                "sqnr_db": 40.2,
                "kept": False,
                "reason": "",
            },
            {
                "name": "simplified only",
                "bytes_ratio": 0.999,
                "kept": False,
                "reason": "larger than the target",
            },
        ),
        environment={
            "python": "3.11.9",
            "machine": "Linux x86_64",
            "processor": "Intel Xeon, AVX512-VNNI, 2 cores",
            "onnx": "1.21.0",
            "onnxruntime": "1.24.1",
            "numpy": "2.3.1",
        },
        seeds={"data": 0, "order": 0},
        notes=("the feeds are random: accuracy says nothing about real inputs",),
    )


def single() -> Report:
    """``bench`` of one model."""
    whole = resnet()
    measured = {
        **latency(),
        "verdict": None,
        "ratio": 1.0,
        "interval": (1.0, 1.0),
        "after": None,
        "after_ms": None,
    }
    measured["raw"] = {**measured["raw"], "b_over_a": []}
    assert whole.footprint and whole.profile
    return Report(
        input=whole.input,
        before=whole.before,
        latency=measured,
        footprint={"before": whole.footprint["before"], "after": None},
        throughput=tuple(
            {**entry, "after": None, "ratio": None, "interval": None} for entry in whole.throughput
        ),
        profile={"before": whole.profile["before"], "after": None, "joined": ()},
        environment=whole.environment,
        seeds=whole.seeds,
    )


def simplified() -> Report:
    """``simplify``: nothing was timed."""
    whole = resnet()
    return Report(
        input=whole.input,
        output=replace(whole.input, path="out.onnx", nodes=120, bytes=102_400_100) if whole.input else None,
        before=whole.before,
        after={**whole.before, "nodes": 120, "ops": {"Conv": 53, "Relu": 49, "Add": 16, "Gemm": 1}},
        passes=whole.passes[:4],
        declined=whole.declined[-1:],
        verification={"ok": True, "verified": True, "promise": "close", "samples": 4, "outputs": ()},
        environment=whole.environment,
    )


def hostile() -> Report:
    """Names that try to be markup, and numbers that are none."""
    whole, long = resnet(), "n" * 100_000 + HOSTILE
    assert whole.input and whole.verification and whole.profile
    node = {"op": HOSTILE, "us": math.nan}
    return replace(
        whole,
        input=replace(whole.input, path=HOSTILE),
        output=replace(whole.input, path=long, bytes=0),
        before={"nodes": 0, "params": 0, "bytes": 0, "macs": None, "ops": {HOSTILE: 3}},
        after={"nodes": 7, "params": 0, "bytes": 0, "macs": 5, "ops": {HOSTILE: 0, long: 10**9}},
        passes=(PassRecord(HOSTILE, HOSTILE, True, rolled_back=long),),
        declined=(Decline(HOSTILE, long, HOSTILE), Decline(long, HOSTILE, long)),
        verification={
            "ok": False,
            "reason": HOSTILE,
            "promise": HOSTILE,
            "samples": 1,
            "outputs": ({"name": long, "max_abs_diff": math.nan, "ref_max": math.inf, "sqnr_db": -math.inf},),
            "unverifiable": {HOSTILE: long},
        },
        metric={"name": HOSTILE, "before": math.nan, "after": None, "n": 0, "interval": (math.nan, 1.0)},
        latency={**latency(), "name": HOSTILE, "providers": (HOSTILE,), "interval": None, "ratio": math.inf},
        scenarios=(
            {"name": long, "ratio": 0.0, "verdict": HOSTILE, "interval": (0.0, 0.0)},
            {"name": HOSTILE, "ratio": 1e-9, "verdict": "faster", "interval": (1e-12, 1e9), "before": None},
            {},
        ),
        footprint={"before": {"session_s": -1.0, "rss_bytes": 0}, "after": {"first_s": math.inf}},
        throughput=({"streams": HOSTILE, "before": 0.0, "after": 0.0},),
        transfers={"before": {"compute_s": 0.0}, "after": None},
        profile={
            "before": {"kernels": {HOSTILE: 0}, "nodes": [{"output": long, **node}], "leftover": [long] * 9},
            "after": {"kernels": {}, "providers": {HOSTILE: 1}},
            "joined": [{"output": HOSTILE, "before": node, "after": None}, {}],
        },
        gates=({"gate": HOSTILE, "verdict": HOSTILE, "found": long}, {}),
        tried=({"name": HOSTILE, "reason": long, "ratio": math.nan, "score": HOSTILE},),
        environment={HOSTILE: long},
        seeds={HOSTILE: 1},
        notes=(HOSTILE, long),
    )


def large() -> Report:
    """Thousands of everything."""
    whole = resnet()
    return replace(
        whole,
        passes=whole.passes * 100,
        declined=tuple(
            Decline("quantize-static", f"decoder/layer{i}/attention/MatMul", f"the reason numbered {i // 2}")
            for i in range(5000)
        ),
        latency=latency(epochs=50, rounds=40),
        scenarios=tuple(latency(0.5 + i / 200, name=f"setting {i}") for i in range(200)),
        profile=profile(3000),
        before={**whole.before, "ops": {f"Operator{i}": i for i in range(500)}},
        notes=tuple(f"note {i}: " + "word " * 50 for i in range(300)),
        gates=whole.gates * 50,
        tried=whole.tried * 100,
        throughput=whole.throughput * 100,
    )
