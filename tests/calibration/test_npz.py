"""Archives that are large, broken or hostile: never unpickled, never whole in memory."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from onnxslim.calibration.data import open_feeds
from onnxslim.calibration.sources import npz
from onnxslim.errors import CalibrationError, OnnxSlimError, ResourceError
from onnxslim.runtime.values import TensorInfo as Info
from tests.calibration.test_data import IMAGE, images


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(f"{name}.npy", data)
    return path


def npy_bytes(array: np.ndarray, **kwargs: bool) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **kwargs)
    return out.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    out = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (7,)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    bomb = np.array([Bomb()], dtype=object)
    path = archive(tmp_path / "d.npz", image=npy_bytes(bomb, allow_pickle=True))
    with pytest.raises(CalibrationError, match="never loaded"):
        open_feeds(path, [IMAGE])
    (tmp_path / "raw.npz").write_bytes(pickle.dumps([1]))
    with pytest.raises(CalibrationError, match="not a readable"):
        open_feeds(tmp_path / "raw.npz", [IMAGE])


HOSTILE = {
    "declares more than it holds": npy_header((1000, 2, 3)) + b"\0" * 24,
    "declares less than it holds": npy_header((1, 2, 3)) + b"\0" * 48,
    "a shape beyond int64": npy_header((2**62, 2**62)),
    "a negative shape": npy_header((-1, 2, 3)),
    "one gigantic row": npy_header((1, 2**40)),
    "not an array": b"hello",
    "an empty member": b"",
    "an unknown version": b"\x93NUMPY\x09\x00" + b"\0" * 100,
    "a header that never ends": b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 65535,
    "code in the header": b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os')._exit(7)".ljust(32),
    "a header that is no literal": b"\x93NUMPY\x01\x00\x20\x00" + b"{'descr': '<f4', (".ljust(32),
    "a deeply nested header": b"\x93NUMPY\x01\x00\x28\x23" + b"(" * 9000,
    "a structured type": npy_bytes(np.zeros(3, dtype=[("a", "f4")])),
    "dates": npy_bytes(np.zeros((1, 2, 3), "M8[s]")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_refused(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "d.npz", image=HOSTILE[name])
    with pytest.raises(OnnxSlimError) as caught:
        open_feeds(path, [IMAGE])
    assert caught.value.exit_code == 2 and str(path) in str(caught.value)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", image=images(200))
    whole = (tmp_path / "d.npz").read_bytes()
    broken = tmp_path / "broken.npz"
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:cut])
        with pytest.raises(CalibrationError):
            open_feeds(broken, [IMAGE])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    broken.write_bytes(bytes(flipped))
    with pytest.raises(CalibrationError):
        list(open_feeds(broken, [IMAGE]))


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "d.npz", "w") as out:
        out.writestr("image.npy", npy_bytes(images(1)))
        out.writestr("image.npy", npy_bytes(images(2)))
    with pytest.raises(CalibrationError, match="same name"):
        open_feeds(tmp_path / "d.npz", [IMAGE])


def test_pipes_and_devices_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "d.npz")
    for path in (tmp_path / "d.npz", Path("/dev/zero")):
        with pytest.raises(CalibrationError, match="not a regular file"):
            open_feeds(path, [IMAGE])


def test_a_feed_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAX_FEED_BYTES", 100)
    np.savez(tmp_path / "d.npz", image=images(100))
    assert len(list(open_feeds(tmp_path / "d.npz", [IMAGE], batch=4))) == 25
    with pytest.raises(ResourceError):
        open_feeds(tmp_path / "d.npz", [IMAGE], batch=5)


def test_memory_does_not_depend_on_the_number_of_samples(tmp_path: Path) -> None:
    rows = np.zeros((400, 65536), np.float32)  # 105 MB
    rows[:, 0] = np.arange(400)
    np.savez_compressed(tmp_path / "d.npz", x=rows)
    tracemalloc.start()
    feeds = open_feeds(tmp_path / "d.npz", [Info("x", "float32", (None, 65536))])
    total = sum(float(feed["x"][0, 0]) for feed in feeds)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == sum(range(400))
    assert peak < 8 << 20
