"""How models are run while they are measured: threads, providers, device, and on which inputs."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxslim.analysis.indices import index_limits
from onnxslim.calibration.data import Limits, probe_random_feeds
from onnxslim.errors import ModelError, OnnxSlimError, OptionError, ResourceError
from onnxslim.model.io import load
from onnxslim.runtime.client import BoundSession, Provider, RemoteSession, Worker, open_worker
from onnxslim.runtime.errors import RuntimeRefused
from onnxslim.runtime.providers import device_of, resolve
from onnxslim.runtime.sources import RunnableModel
from onnxslim.runtime.values import TensorInfo

__all__ = ["Feed", "Inputs", "Setting", "draw_inputs", "given_inputs", "naming", "thread_counts"]

Feed = Mapping[str, Any]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_FEEDS = 8
_DRAWN = 4


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn onnxruntime's refusals into errors that name the model, ``A`` or ``B``."""
    try:
        yield
    except RuntimeRefused as error:
        raise ModelError(error.what, where=error.where or f"model {name}", hint=error.hint) from error


@dataclass(frozen=True, slots=True)
class Setting:
    """How every session of a measurement is made; all sessions of one are made alike.

    Args:
        threads: intra-op threads.
        providers: onnxruntime's names, in order of preference.
        cuda_graph: capture the work of a call as a CUDA graph and replay it.
    """

    threads: int = 1
    providers: tuple[str, ...] = (_CPU,)
    cuda_graph: bool = False

    @classmethod
    def of(cls, threads: int = 1, providers: Sequence[str] = (), cuda_graph: bool = False) -> Setting:
        """Read and check what a user asks for; providers also by short name, default CPU.

        Raises:
            OptionError: a bad number or name, or a CUDA graph without CUDA.
            DependencyError: a provider is not installed.
        """
        thread_counts(threads)
        found = resolve(providers)
        if cuda_graph and _CUDA not in found:
            raise OptionError("a CUDA graph needs the CUDA provider", hint="add --providers cuda")
        return cls(threads, found, cuda_graph)

    @property
    def device(self) -> str | None:
        """The device in whose memory inputs and outputs stay; None for the host."""
        return device_of(self.providers)

    @property
    def on_cpu(self) -> bool:
        """Whether the calling thread itself does the work, so that its CPU time means something."""
        return self.threads == 1 and self.providers == (_CPU,)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of :meth:`Worker.load`.

        Threads spin during a call, as users will have it, but not after it, when they would go on for tens
        of milliseconds: a user has one session, and here those of one would take the cores from the other.
        """
        providers: list[Provider] = [
            (name, {"enable_cuda_graph": "1"}) if self.cuda_graph and name == _CUDA else name
            for name in self.providers
        ]
        config = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}
        return {"optimize": "all", "threads": self.threads, "providers": providers, "config": config}

    def load(self, worker: Worker, name: str, model: RunnableModel, **more: Any) -> RemoteSession:
        """A session of the model that is called ``name`` in errors.

        Raises:
            ModelError: onnxruntime does not load it.
        """
        with naming(name):
            return worker.load(model, **{**self.options, **more})

    def bound(self, session: RemoteSession) -> BoundSession:
        """The session as an argument of what is called in the worker."""
        return BoundSession(session, self.device)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is measured on: at most eight feeds; ``note`` is what a reader must know of them, or empty."""

    feeds: tuple[Feed, ...]
    note: str = ""

    @property
    def shapes(self) -> str:
        """The shapes of the first feed, for people.

        Example:
            >>> import numpy as np
            >>> Inputs(({"x": np.zeros((1, 3)), "t": np.zeros(())},)).shapes
            'x 1x3, t scalar'
        """
        return ", ".join(
            f"{name} {'x'.join(map(str, value.shape)) or 'scalar'}"
            for name, value in self.feeds[0].items()
            if hasattr(value, "shape")
        )


def thread_counts(values: int | Sequence[int]) -> tuple[int, ...]:
    """The numbers of threads to measure with, each once.

    Raises:
        OptionError: there is none, or one is below 1.

    Example:
        >>> thread_counts(1), thread_counts([2, 1, 2])
        ((1,), (2, 1))
    """
    counts = (values,) if isinstance(values, int) else tuple(dict.fromkeys(values))
    if not counts or min(counts) < 1:
        raise OptionError(f"there must be at least one thread, not {min(counts, default='none')}")
    return counts


def given_inputs(feeds: Iterable[Feed]) -> Inputs:
    """The first feeds of the user's data, labels aside.

    Raises:
        OptionError: there are none.
    """
    used = tuple(
        {name: value for name, value in feed.items() if name != "__labels__"}
        for feed, _ in zip(feeds, range(_FEEDS), strict=False)
    )
    if not used:
        raise OptionError("there are no inputs to measure on", hint="give some with --data, or none at all")
    return Inputs(used)


def draw_inputs(
    model: RunnableModel,
    setting: Setting,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Inputs:
    """Random feeds on which the model really runs; sizes and ranges that are not given are tried.

    Args:
        dims: sizes of symbolic dimensions.
        shapes: whole shapes by input name.

    Raises:
        OptionError: there is no such dimension or input, or nothing that was tried runs.
        ModelError: onnxruntime does not load the model.
    """
    with open_worker(fresh=True) as worker, setting.load(worker, "A", model) as session:
        inputs = session.inputs
        _check_names(inputs, dims or {}, shapes or {})
        reason, alive = "", True

        def accepts(feed: Feed) -> bool:
            nonlocal reason, alive
            try:
                if alive:
                    session.run(feed)
            except (RuntimeRefused, ResourceError) as error:
                reason = error.what
                alive = isinstance(error, RuntimeRefused)  # else the worker is gone
                return False
            return alive

        feeds = probe_random_feeds(inputs, accepts, _DRAWN, seed, dims, shapes=shapes, limits=_limits(model))
        found = tuple(feed for feed in feeds or () if accepts(feed))
    if not found:
        raise OptionError(
            f"the model runs on no random input that was tried: {reason or 'no size fits into memory'}",
            hint="give inputs with --data, or sizes with --dim or --input-shape",
        )
    drawn = Inputs(found)
    guessed = [
        info.name
        for info in inputs
        if info.name not in (shapes or {})
        and any(not isinstance(dim, int) and dim not in (dims or {}) for dim in info.shape or ())
    ]
    if not guessed:
        return drawn
    note = f"open dimensions were guessed ({drawn.shapes}): name the sizes of your use with --dim or --data"
    return Inputs(drawn.feeds, note)


def _limits(model: RunnableModel) -> Limits:
    """What indices of the model may be; nothing where the file is one that only the runtime reads."""
    if isinstance(model, bytes):
        return {}
    try:
        return index_limits(load(model))
    except OnnxSlimError:
        return {}


def _check_names(
    inputs: Sequence[TensorInfo], dims: Mapping[str, int], shapes: Mapping[str, Sequence[int]]
) -> None:
    known = {dim: None for info in inputs for dim in info.shape or () if isinstance(dim, str)}
    for what, given, names in (
        ("symbolic dimension", dims, list(known)),
        ("input", shapes, [info.name for info in inputs]),
    ):
        for name in given:
            if name not in names:
                close = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names) or 'none'}"
                raise OptionError(f"the model has no {what} {name!r}", hint=hint)
    ranks = {info.name: info.shape for info in inputs}
    for name, shape in shapes.items():
        declared = ranks[name]
        if declared is not None and not _fits(shape, declared):
            text = ",".join(map(str, shape))
            raise OptionError(f"the input {name!r} cannot have the shape {text}", hint=f"it is {declared}")


def _fits(shape: Sequence[int], declared: Sequence[int | str | None]) -> bool:
    return len(shape) == len(declared) and all(
        not isinstance(dim, int) or dim == size for size, dim in zip(shape, declared, strict=True)
    )
