"""The client of the worker process: load models, run them, call functions beside them.

    with open_worker() as worker:
        session = worker.load(model)
        [y] = session.run({"x": x})

A model that crashes, hangs or eats memory ends the worker, never us.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from onnxslim.errors import OptionError
from onnxslim.runtime import framing
from onnxslim.runtime.errors import WorkerDied, WorkerTimeout
from onnxslim.runtime.failures import cause_of_death, error_of
from onnxslim.runtime.sources import RunnableModel, payload_of
from onnxslim.runtime.values import TensorInfo, Value, lift, lower

__all__ = [
    "DEFAULT_BUDGET",
    "BoundSession",
    "Optimize",
    "Provider",
    "RemoteSession",
    "TensorInfo",
    "Value",
    "Worker",
    "open_worker",
]

Optimize = Literal["none", "basic", "extended", "all"]
Provider = str | tuple[str, Mapping[str, str]]

_NO_SPINNING = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
DEFAULT_BUDGET = 4 << 30
_DEFAULT_WALL = 300.0


class Worker:
    """One persistent child process; made by :func:`open_worker`.

    It starts at the first request, and again at the next request after it died.

    Args:
        budget_bytes: memory beyond the runtime's own and twice the declared weights.
        wall_s: seconds that one request may take.
        limited: bound the address space; impossible with an accelerator, which :meth:`load` knows itself.
    """

    def __init__(
        self, budget_bytes: int = DEFAULT_BUDGET, wall_s: float = _DEFAULT_WALL, limited: bool = True
    ) -> None:
        self.budget_bytes = budget_bytes
        self.wall_s = wall_s
        self.generation = 0  # counts the processes; a session belongs to one
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: BinaryIO | None = None
        self._limited = limited

    def load(
        self,
        model: RunnableModel,
        *,
        optimize: Optimize = "none",
        threads: int = 1,
        providers: Sequence[Provider] = ("CPUExecutionProvider",),
        config: Mapping[str, str] | None = None,
        dump: str | os.PathLike[str] | None = None,
        profile: str | os.PathLike[str] | None = None,
        arena: bool = True,
    ) -> RemoteSession:
        """Create a session in the worker.

        Args:
            model: a model, a message (also as bytes), or a path.
            optimize: onnxruntime's graph optimization level.
            threads: of the session; they sleep when idle unless ``config`` says otherwise.
            providers: in order of preference; by name, or (name, options).
            config: session configuration entries of onnxruntime.
            dump: where onnxruntime shall write its optimized model.
            profile: prefix of the file to which onnxruntime shall write its events.
            arena: keep memory from run to run; with inputs of many sizes it grows with their number.

        Raises:
            RuntimeRefused: onnxruntime does not load it.
            WorkerDied, WorkerTimeout, MemoryLimit: it did not survive loading.
        """
        # an accelerator reserves address space far beyond any limit
        self._limited = self._limited and all(name == "CPUExecutionProvider" for name in providers)
        number = next(self._numbers)
        with payload_of(model) as payload:
            answer = self.request(
                "load",
                {
                    "model": payload.model,
                    "number": number,
                    "budget": self.budget_bytes,
                    "weights": payload.weights,
                    "limited": self._limited,
                    "optimize": optimize,
                    "threads": threads,
                    "providers": list(providers),
                    "config": {**_NO_SPINNING, **payload.config, **(config or {})},
                    "dump": None if dump is None else str(dump),
                    "profile": None if profile is None else str(profile),
                    "arena": arena,
                },
                doing="loading the model",
            )
        return RemoteSession(
            self,
            number,
            _tensor_infos(answer["inputs"]),
            _tensor_infos(answer["outputs"]),
            self.generation,
            answer["encodings"],
        )

    def call(
        self, function: str, *args: Any, timeout: float | None = None, weights: int = 0, **kwargs: Any
    ) -> Any:
        """Call ``"package.module:function"`` in the worker.

        Args:
            function: its module must import numpy and onnxruntime only.
            args, kwargs: JSON-able values, arrays and bytes; a ``RemoteSession`` anywhere in them arrives as
                the real onnxruntime session.  Tuples arrive as lists, and so does a returned one.
            timeout: seconds; default the worker's.
            weights: bytes of weights of the models that the function will load itself.

        Raises:
            RemoteError: the function raised anything but an error of onnxruntime.
        """
        return self.request(
            "call",
            {
                "function": function,
                "args": self._with_marks(list(args)),
                "kwargs": self._with_marks(kwargs),
                "budget": self.budget_bytes,
                "weights": weights,
                "limited": self._limited,
            },
            timeout,
            doing=f"calling {function}",
        )

    def _with_marks(self, item: Any) -> Any:
        if isinstance(item, RemoteSession):
            item.check()
            return {framing.SESSION: item.number}
        if isinstance(item, BoundSession):
            item.session.check()
            return {framing.BOUND: item.session.number, "device": item.device}
        if isinstance(item, Mapping):
            return {key: self._with_marks(value) for key, value in item.items()}
        if isinstance(item, list | tuple):
            return [self._with_marks(each) for each in item]
        return item

    def request(
        self, request: str, arguments: dict[str, Any], timeout: float | None = None, *, doing: str
    ) -> Any:
        """Send one request and wait for its answer; ``doing`` describes it in errors."""
        message = framing.encode(lower([request, arguments]))
        with self._lock:
            seconds = self.wall_s if timeout is None else timeout
            process = self._running()
            timed_out = threading.Event()

            def expire() -> None:
                timed_out.set()
                process.kill()

            timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), expire)
            timer.daemon = True
            timer.start()
            try:
                framing.write(cast(BinaryIO, process.stdin), message)
                answer = framing.read(cast(BinaryIO, process.stdout), lift)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                tail = self._stderr_tail()
                code = self._end()
                if timed_out.is_set():
                    what = f"onnxruntime was still {doing} after {seconds:g} s"
                    raise WorkerTimeout(what, hint="allow more time, or use a smaller model") from None
                raise WorkerDied(cause_of_death(code, doing, tail)) from None
            except BaseException:  # interrupted: the process is in the middle of something
                self._end()
                raise
            finally:
                timer.cancel()
        if "error" in answer:
            raise error_of(answer["error"], answer["message"], self.budget_bytes, doing)
        return answer["value"]

    def alive(self, generation: int) -> bool:
        """Whether the process of this number still runs."""
        return generation == self.generation and self._process is not None and self._process.poll() is None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._stderr = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (closed by _end)
            # the child finds the same packages as we do, but nothing in the working directory
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, sys.path)]),
                "OPENBLAS_NUM_THREADS": "1",
                "PYTHONIOENCODING": "utf-8",
            }
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "onnxslim.runtime.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment,
                bufsize=0,
            )
            self.generation += 1
        return self._process

    def _stderr_tail(self, size: int = 2000) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - size))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def _end(self) -> int | None:
        """Kill the process; returns how it ended, by itself or by us."""
        process, self._process = self._process, None
        stderr, self._stderr = self._stderr, None
        if stderr is not None:
            stderr.close()
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)  # a process that closed its pipes is about to end by itself
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return process.wait()

    def close(self) -> None:
        """End the process; the next request would start a new one."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # the child ends at the end of its input
        self._end()


class RemoteSession:
    """An onnxruntime session in the worker.

    Attributes:
        inputs, outputs: what the model takes and gives, in its own order.
        encodings: what its metadata say about integers that stand for floats, see
            :mod:`onnxslim.model.encoding`.
    """

    def __init__(
        self,
        worker: Worker,
        number: int,
        inputs: tuple[TensorInfo, ...],
        outputs: tuple[TensorInfo, ...],
        generation: int,
        encodings: Mapping[str, str],
    ) -> None:
        self.encodings = encodings
        self.inputs = inputs
        self.outputs = outputs
        self.number = number
        self._worker = worker
        self._generation = generation
        self._closed = False

    def check(self) -> None:
        """Raise WorkerDied if the process that held the session is gone."""
        if self._closed or not self._worker.alive(self._generation):
            reason = "it was closed" if self._closed else "its worker process ended"
            raise WorkerDied(f"the session is gone: {reason}", hint="load the model again")

    def run(
        self, feed: Mapping[str, Value], outputs: Sequence[str] | None = None, timeout: float | None = None
    ) -> list[Value]:
        """Run once.

        Args:
            feed: an array per input; strings as object arrays, sequences as lists, empty optionals as None.
            outputs: names of those wanted, in this order; default all.
            timeout: seconds; default the worker's.

        Raises:
            RuntimeRefused: onnxruntime does not run it on this feed.
            WorkerDied, WorkerTimeout, MemoryLimit: it did not survive.
        """
        self.check()
        wanted = None if outputs is None else list(outputs)
        fed = {name: np.asarray(x) if isinstance(x, np.generic) else x for name, x in feed.items()}
        arguments = {"session": self.number, "feed": fed, "outputs": wanted}
        try:
            return cast(
                "list[Value]", self._worker.request("run", arguments, timeout, doing="running the model")
            )
        except TypeError as error:
            raise OptionError(f"the feed cannot be used: {error}") from error

    def close(self) -> None:
        """Free the session; harmless when it is gone already."""
        if not self._closed and self._worker.alive(self._generation):
            self._worker.request("close", {"session": self.number}, doing="closing a session")
        self._closed = True

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class BoundSession:
    """Among the arguments of :meth:`Worker.call`: arrives as ``bind(feed)``, which returns a function without
    arguments that runs the session on this feed, whatever its element types; with a ``device`` its inputs and
    outputs stay in the memory of that device."""

    session: RemoteSession
    device: str | None = None


_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_current: contextvars.ContextVar[Worker | None] = contextvars.ContextVar("worker", default=None)


@contextlib.contextmanager
def open_worker(
    budget_bytes: int = DEFAULT_BUDGET,
    wall_s: float = _DEFAULT_WALL,
    *,
    fresh: bool = False,
    limited: bool = True,
) -> Iterator[Worker]:
    """A worker process for the time of the context; inside another such context, the outer one's.

    Args:
        budget_bytes: memory beyond the runtime's own and twice the declared weights.
        wall_s: seconds that one request may take.
        fresh: a process of its own even inside another context.
        limited: bound the address space; impossible with an accelerator.

    Example:
        >>> from onnx.parser import parse_model
        >>> text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
        >>> with open_worker() as worker:
        ...     worker.load(parse_model(text)).inputs[0].shape
        (2,)
    """
    outer = _current.get()
    if outer is not None and not fresh:
        yield outer
        return
    worker = Worker(budget_bytes, wall_s, limited)
    token = _current.set(worker)
    try:
        yield worker
    finally:
        _current.reset(token)
        worker.close()


def _tensor_infos(described: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(d["name"], d["dtype"], None if d["shape"] is None else tuple(d["shape"]), d["kind"])
        for d in described
    )
