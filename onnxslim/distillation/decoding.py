"""How a weight is made of stored integers, found by asking: what decodes it is run on probes.

Whatever the nodes are, a weight ``unit * (code - zero)`` is told by what it becomes when single bits of the
stored tensor are set: which element holds the code of which weight, at which bit, how many bits it has, and
which stored scale multiplies it.  Where it is a sum of several such parts, each is looked at with the scales
of the others at zero.  What was found is tried on other codes and scales before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.constants import constant_sources
from onnxslim.analysis.extract import extract
from onnxslim.distillation.forms import Coded, Codes, Form, Grown, Plain, Scale
from onnxslim.distillation.sums import Summed
from onnxslim.errors import OnnxSlimError
from onnxslim.model import edit
from onnxslim.runtime.client import RemoteSession, Worker

__all__ = ["decoded", "is_float"]

Array = npt.NDArray[Any]

_UNKNOWN = "how it is decoded is not known"
_DIGITS = 1024  # told apart by one probe of a scale, in 16 bits too
_NARROW = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
_CLOSE = 1e-3
_WHOLE = 128  # codes from which on scales stay: kernels of integers have others that depend on them
_ALL = np.ones(1, bool)
_SIGNS = 2  # levels of a part of a sum
_PARTS = range(2, 5)  # of which a weight may be the sum
_FEW = 3  # values that are all that a weight of 8 bits has: signs, with zero or without


def decoded(
    worker: Worker, model: ir.Model, value: ir.Value, grown: Mapping[str, Grown] = MappingProxyType({})
) -> Form | str:
    """The form of a weight that is computed from stored tensors; or why it is not known.

    Args:
        grown: what is trained elsewhere, by the name of a stored tensor that is proportional to it.
    """
    sources = constant_sources(model)[value]
    arrays = {source.name or "": edit.constant_value(source) for source in sources}
    known = {name: array for name, array in arrays.items() if name and array is not None}
    if len(known) < len(sources):
        return _UNKNOWN
    try:
        with _opened(worker, model, value.name or "", known) as (session, stored):
            decoder = _Decoder(session, stored)
            form = decoder.form()
            if isinstance(form, str):
                form = _summed(session, stored)
            moving = [name for name in known if name in grown]
            if not moving or isinstance(form, str):
                return form
            if len(moving) > 1 or not isinstance(form, Coded | Summed) or not decoder.grows_with(moving[0]):
                return "it depends on scales of activations in a way that is not known"
            form.follows = grown[moving[0]]
            return form
    except OnnxSlimError as error:
        return f"it cannot be decoded: {error.what}"


@contextmanager
def _opened(
    worker: Worker, model: ir.Model, name: str, stored: Mapping[str, Array]
) -> Iterator[tuple[RemoteSession, dict[str, Array]]]:
    """The part of a model that decodes one weight, and the stored tensors that it reads, now its inputs."""
    part, _ = extract(model, [name])
    for source in list(stored):  # constants of nodes become inputs as well
        value = next((v for node in part.graph for v in node.outputs if v.name == source), None)
        if value is not None:
            edit.store_constant(part.graph, value, stored[source])
    read = [source for source in stored if source in part.graph.initializers]
    for source in read:
        part.graph.inputs.append(part.graph.initializers.pop(source))
    with worker.load(part) as session:
        yield session, {source: stored[source] for source in read}


def _summed(session: RemoteSession, stored: Mapping[str, Array]) -> Summed | str:
    """The form of a weight that is a sum of signs times scales."""
    for masks in _separations(stored):
        bases: list[Coded] = []
        for mask in masks:
            base = _Decoder(session, stored, mask).form()
            if not isinstance(base, Coded) or base.codes.levels != _SIGNS:
                break
            bases.append(base)
        else:
            found = Summed(tuple(bases))
            whole = _Decoder(session, stored)
            if _near(found.value(), whole.weight) and whole.adds_up(found):
                return found
    return _UNKNOWN


def _separations(stored: Mapping[str, Array]) -> Iterator[list[dict[str, Array]]]:
    """Ways to leave one part of a sum after the other: by rows of a tensor of scales, or tensor by tensor."""
    for name, array in stored.items():
        if array.ndim > 1 and len(array) in _PARTS:
            rows = np.arange(len(array)).reshape(-1, *[1] * (array.ndim - 1))
            yield [{name: rows == row} for row in range(len(array))]
    scales = [name for name, array in stored.items() if is_float(array) and array.size > 1]
    if len(scales) in _PARTS:
        yield [{name: np.zeros(1, bool) for name in scales if name != kept} for kept in scales]


class _Decoder:
    """Runs the part of a model that decodes one weight.

    Args:
        masks: what of the stored tensors is taken for zero, by name: False where it is.
    """

    def __init__(
        self,
        session: RemoteSession,
        stored: Mapping[str, Array],
        masks: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        self._session, self.stored, self._masks = session, stored, masks
        self.weight = self._run({})

    def _run(self, given: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        values = {**self.stored, **given}
        for name, mask in self._masks.items():
            values[name] = values[name] * mask.astype(values[name].dtype)
        return np.asarray(self._session.run(values)[0], np.float32)

    def grows_with(self, source: str) -> bool:
        """Whether the weight is proportional to one of the tensors that it is computed from."""
        content = self.stored[source]
        return _near(self._run({source: np.asarray(2 * content, content.dtype)}), 2 * self.weight)

    def adds_up(self, form: Summed) -> bool:
        """Whether any sum of the parts is what the weight becomes: integers might overflow."""
        before, rng = form.latent.copy(), np.random.default_rng(0)
        form.latent[:] = form.total([rng.random(before.size) < 0.5 for _ in form.bases])
        agrees = _near(form.value(), self._run(form.contents()))
        form.latent[:] = before
        return agrees

    def form(self) -> Form | str:
        count = self.weight.size
        for name, array in self.stored.items():
            if is_float(array) and array.size == count:
                floats = array.astype(np.float32)
                if np.array_equal(floats.reshape(-1), self.weight.reshape(-1)):
                    return Plain(name, floats.reshape(self.weight.shape), array.dtype)
        holders = [
            name
            for name, array in self.stored.items()
            if (bits := _bits(array)) and bits * array.size >= count and name not in self._masks
        ]
        if len(holders) > 1:
            holders = [name for name in holders if self._matters(name)]
        if len(holders) != 1 or count < 2:
            return _UNKNOWN
        return self._coded(holders[0])

    def _matters(self, name: str) -> bool:
        """Whether the weight depends on a stored tensor of integers."""
        one, other = (self._run({name: _filled(self.stored[name], bits)}) for bits in (0, 1))
        return not np.array_equal(one, other)

    def _coded(self, name: str) -> Form | str:
        stored = self.stored[name]
        scales = [
            source
            for source, array in self.stored.items()
            if is_float(array) and self._masks.get(source, _ALL).any()
        ]
        ones = {source: np.ones_like(self.stored[source]) for source in scales}

        def run(content: Array, given: Mapping[str, Array] = ones) -> Array:
            return self._run({**given, name: content.reshape(stored.shape)}).reshape(-1)

        bits = _bits(stored)
        bottom = run(_filled(stored, 0))
        grown = np.stack([run(_filled(stored, 1 << bit)) for bit in range(bits)]) - bottom
        seen = grown != 0
        if not seen.any(0).all():
            return _UNKNOWN
        shift, width = seen.argmax(0), seen.sum(0)
        if (width != width[0]).any():
            return _UNKNOWN
        unit = np.take_along_axis(grown, shift[None], 0)[0]
        top = np.take_along_axis(grown, (shift + width[0] - 1)[None], 0)[0]
        signed = bool((top / unit < 0).all()) and width[0] > 1
        index = np.zeros(unit.size, np.int64)
        full, empty = (_filled(stored, every).reshape(-1) for every in ((1 << bits) - 1, 0))
        for bit in range(max(stored.size - 1, 1).bit_length()):
            chosen = (np.arange(stored.size) >> bit) & 1
            index |= (run(np.where(chosen, full, empty)) != bottom).astype(np.int64) << bit
        size = int(width[0])
        if index.max() >= stored.size or shift.max() + size > bits:
            return _UNKNOWN  # several elements hold the code of one weight
        low = -(1 << size - 1) if signed else 0
        codes = Codes(name, stored, index, shift.astype(np.uint8), size, low, low + (1 << size) - 1)
        return self._scaled(_narrowed(codes), scales, unit)

    def _scaled(self, codes: Codes, scales: list[str], unit: Array) -> Form | str:
        """Which scale multiplies each element; a form of the whole, once it has passed a trial."""
        one, none = codes.packed(np.ones(unit.size, np.int64)), _filled(codes.stored, 0)
        name, group = "", np.zeros(unit.size, np.int64)
        for source in scales:
            found = self._groups(source, {codes.name: one}, {codes.name: none}, scales)
            if found is not None:
                name, group = source, found
                break
        scale = self.stored[name] if name else np.ones(1, np.float32)
        given = {name: np.ones_like(scale)} if name else {}
        bottom, top = (self._run({**given, codes.name: each}).reshape(-1) for each in (none, one))
        zero = (np.rint(-2 * bottom / (top - bottom)) / 2).astype(np.float32)  # signs have none: 0.5
        unit = np.asarray((top - bottom) * scale.astype(np.float32).reshape(-1)[group], np.float32)
        trained = name if codes.levels < _WHOLE else ""
        form = Coded(codes, Scale(trained, scale, group), unit, zero, self.weight.shape)
        return form if self._holds(form) else _UNKNOWN

    def _groups(
        self, source: str, one: Mapping[str, Array], none: Mapping[str, Array], scales: list[str]
    ) -> npt.NDArray[np.int64] | None:
        """For each element of the weight the stored element that multiplies it; None if none does.

        Args:
            one, none: the codes, all 1 or all 0.
        """
        array = self.stored[source]
        ones = {each: np.ones_like(self.stored[each]) for each in scales}

        def grown(content: Array) -> Array:
            given = {**ones, source: content.reshape(array.shape).astype(array.dtype)}
            return (self._run({**given, **one}) - self._run({**given, **none})).reshape(-1)

        unit, group, place = grown(np.ones(array.size)), np.zeros(self.weight.size, np.int64), 1
        if not unit.all():  # some elements do not depend on it
            return None
        while place < max(array.size, 2):
            digits = (np.arange(array.size) // place) % _DIGITS
            found = np.rint(grown(digits + 2) / unit).astype(np.int64) - 2
            if (found < 0).any():
                return None
            group += found * place
            place *= _DIGITS
        return group if group.max() < array.size else None

    def _holds(self, form: Coded) -> bool:
        """Whether a form says what the weight becomes: as it is stored, and with other codes and scales."""
        if not _near(form.value(), self.weight):
            return False
        rng = np.random.default_rng(0)
        trial = Coded(form.codes, form.scale, form.unit, form.zero, form.shape)
        low = form.codes.low
        code = low + form.codes.step * rng.integers(0, form.codes.levels, trial.latent.size)
        trial.growth[:] = rng.uniform(-0.3, 0.3, trial.growth.size) if form.scale.name else 0
        trial.latent[:] = trial._unit() * (code - form.zero)
        given = {form.codes.name: form.codes.packed(code)}
        if form.scale.name:
            given[form.scale.name] = trial.scales()
        return _near(trial.value(), self._run(given))


def _narrowed(codes: Codes) -> Codes:
    """The range that the codes really take, where a type of 8 bits holds signs, or is symmetric."""
    if codes.width != 8:
        return codes
    found = np.unique(codes.read())
    if len(found) == 2 or (len(found) == _FEW and found[0] + found[2] == 2 * found[1]):
        return replace(codes, low=int(found[0]), high=int(found[-1]), step=int(found[1] - found[0]))
    symmetric = codes.low < 0 and found[0] > codes.low
    return replace(codes, low=codes.low + 1) if symmetric else codes


def _near(one: Array, other: Array) -> bool:
    return bool(np.abs(one - other).max() <= _CLOSE * np.abs(other).max() + 1e-12)


def is_float(array: Array) -> bool:
    """Whether its elements are floats, of whichever width."""
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def _bits(array: Array) -> int:
    """Of an element of a type that may hold codes; else 0."""
    if array.dtype in (np.uint8, np.int8, np.int32):
        return 8 * array.dtype.itemsize
    return _NARROW.get(array.dtype.name, 0)


def _filled(like: Array, bits: int) -> Array:
    """A tensor whose elements all have these bits."""
    if like.dtype.kind in "iu":
        return np.full(like.shape, bits, f"u{like.dtype.itemsize}").view(like.dtype)
    width = _NARROW[like.dtype.name]
    signed = like.dtype.name.startswith("int") and bits >= 1 << (width - 1)
    return np.full(like.shape, bits - (1 << width) if signed else bits, np.int8).astype(like.dtype)
