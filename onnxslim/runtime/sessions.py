"""Sessions in the worker: options, running, and values on their way in and out of onnxruntime.

Runs in the worker process only; imports numpy and onnxruntime only.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxslim.model.encoding import INTEGERS, encodings, is_encoding_key
from onnxslim.runtime.framing import BITS, Raw

__all__ = ["DeviceRun", "Session"]

_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# onnxruntime's names of element types -> numpy's or ml_dtypes'
_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "float8e8m0": "float8_e8m0fnu",
    "float4e2m1": "float4_e2m1fn",
}
# numbers of onnx.TensorProto.DataType
_ELEMENT_TYPES = {
    "bfloat16": 16,
    "float8_e4m3fn": 17,
    "float8_e4m3fnuz": 18,
    "float8_e5m2": 19,
    "float8_e5m2fnuz": 20,
    "uint4": 21,
    "int4": 22,
    "float4_e2m1fn": 23,
    "float8_e8m0fnu": 24,
    "uint2": 25,
    "int2": 26,
}
_KIND = re.compile(r"(tensor|seq|optional|map)\((.*)\)$")


class Session:
    """One onnxruntime session; ``ort`` is the real thing, which functions called in the worker get."""

    def __init__(
        self,
        model: bytes | str,
        *,
        optimize: str,
        threads: int,
        providers: Sequence[Any],
        config: Mapping[str, str],
        dump: str | None,
        profile: str | None = None,
        arena: bool = True,
    ) -> None:
        options = ort.SessionOptions()
        options.enable_cpu_mem_arena = arena
        options.graph_optimization_level = _LEVELS[optimize]
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        if dump is not None:
            options.optimized_model_filepath = dump
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        self.ort = ort.InferenceSession(
            model, options, providers=[tuple(p) if isinstance(p, list) else p for p in providers]
        )
        self.ort.disable_fallback()
        wanted = [p[0] if isinstance(p, list | tuple) else p for p in providers]
        absent = [name for name in wanted if name not in self.ort.get_providers()]
        if absent:  # onnxruntime would go on without
            raise RuntimeError(f"{absent[0]} does not start, perhaps for want of a driver or library")
        self.inputs = [_describe(argument) for argument in self.ort.get_inputs()]
        self.outputs = [_describe(argument) for argument in self.ort.get_outputs()]
        metadata = self.ort.get_modelmeta().custom_metadata_map
        self.encodings = {key: text for key, text in metadata.items() if is_encoding_key(key)}
        known = encodings(self.encodings, "input")
        self._encoded = {
            info["name"]: (known[info["name"]], info["dtype"])
            for info in self.inputs
            if info["name"] in known and info["dtype"] in INTEGERS
        }
        self.plain = not any(info["dtype"] in BITS for info in (*self.inputs, *self.outputs))

    def run(self, feed: Mapping[str, Any], outputs: Sequence[str] | None) -> list[Any]:
        values = self.bind(feed, outputs)()
        return list(values) if self.plain else [_from_ort(value) for value in values]

    def bind(
        self, feed: Mapping[str, Any], outputs: Sequence[str] | None = None, *, device: str | None = None
    ) -> Callable[[], Any]:
        """A function that runs on this feed and does nothing else; for types that numpy lacks it returns
        onnxruntime's own values.  Floats for an input whose integers stand for floats are quantized first.

        With a device (``cuda``), inputs are copied there once, outputs stay there, and a call ends when the
        device has computed them; it returns nothing.
        """
        feed = {name: self._in_integers(name, value) for name, value in feed.items()}
        if device is not None:
            return DeviceRun(self.ort, feed, device)
        if self.plain:
            return functools.partial(self.ort.run, outputs, dict(feed))
        names = outputs if outputs is not None else [info["name"] for info in self.outputs]
        values = {name: _to_ort(name, value) for name, value in feed.items()}
        return functools.partial(self.ort.run_with_ort_values, list(names), values)

    def _in_integers(self, name: str, value: Any) -> Any:
        encoding = self._encoded.get(name)
        if encoding is None or not isinstance(value, np.ndarray) or value.dtype != np.float32:
            return value
        return encoding[0].quantize(value, encoding[1])


class DeviceRun:
    """A call whose inputs and outputs stay in the memory of a device, and which ends when that has computed.

    ``inputs`` and ``binding`` are what it is bound to.
    """

    def __init__(self, session: ort.InferenceSession, feed: Mapping[str, Any], device: str) -> None:
        self.session = session
        self.binding = session.io_binding()
        self.inputs: dict[str, ort.OrtValue] = {}
        for argument in session.get_inputs():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(feed[argument.name]), device, 0)
            self.inputs[argument.name] = value
            self.binding.bind_ortvalue_input(argument.name, value)
        for argument in session.get_outputs():
            self.binding.bind_output(argument.name, device, 0)
        self.binding.synchronize_inputs()

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()


def _describe(argument: Any) -> dict[str, Any]:
    """The fields of a TensorInfo."""
    text, kind = argument.type, "tensor"
    while match := _KIND.match(text):
        if match[1] != "tensor" and kind == "tensor":
            kind = {"seq": "sequence"}.get(match[1], match[1])
        text = match[2]
    if "(" in text or "," in text:
        kind = "other" if kind == "tensor" else kind
    shape = None
    if kind in ("tensor", "optional") and argument.shape is not None:
        shape = [dim if isinstance(dim, int) and dim >= 0 else _symbol(dim) for dim in argument.shape]
    return {"name": argument.name, "dtype": _DTYPES.get(text, text), "shape": shape, "kind": kind}


def _symbol(dim: Any) -> str | None:
    return dim if isinstance(dim, str) and dim else None


def _to_ort(name: str, value: Any) -> ort.OrtValue:
    if isinstance(value, Raw):
        made = ort.OrtValue.ortvalue_from_shape_and_type(list(value.shape), _ELEMENT_TYPES[value.dtype])
        if value.data.nbytes != made.tensor_size_in_bytes():
            raise ValueError(
                f"input {name} has {value.data.nbytes} bytes where its shape needs another number"
            )
        if value.data.nbytes:
            ctypes.memmove(made.data_ptr(), value.data.ctypes.data, value.data.nbytes)
        return made
    if isinstance(value, np.ndarray):
        return ort.OrtValue.ortvalue_from_numpy(value)
    raise ValueError(f"input {name}: sequences and optionals cannot be fed beside types that numpy lacks")


def _from_ort(value: ort.OrtValue) -> Any:
    if not value.has_value():
        return None
    if not value.is_tensor():
        raise ValueError("sequences cannot be fetched beside types that numpy lacks")
    text = _KIND.sub(r"\2", value.data_type())
    dtype = _DTYPES.get(text, text)
    if dtype not in BITS:
        return value.numpy()
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return Raw(dtype, tuple(value.shape()), np.frombuffer(content, np.uint8))
