"""Calibrations as files and values: every bit is kept, nothing in a file is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim.calibration.observers import Histogram
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.errors import CalibrationError
from tests.calibration.reference import CONV, images, same_bits
from tests.models import model, proto


def test_saving_keeps_every_bit(tmp_path: Path) -> None:
    calibration = calibrate(proto(CONV), {"x": images(3)}, second_moments=["r"])
    calibration.save(tmp_path / "cal.npz")
    again = Calibration.load(tmp_path / "cal.npz")
    assert same_bits(again, calibration)
    for field in ("fingerprint", "skipped", "samples", "data", "is_random", "seed", "notes"):
        assert getattr(again, field) == getattr(calibration, field), field
    assert again.range("y", "entropy") == calibration.range("y", "entropy")
    assert list(tmp_path.iterdir()) == [tmp_path / "cal.npz"]


def test_a_calibration_of_nothing_can_be_saved(tmp_path: Path) -> None:
    text = "net (int64[1] a) => (int64[1] y) { y = Neg (a) }"
    calibration = calibrate(proto(text), [{"a": np.array([3])}])
    calibration.save(tmp_path / "cal.npz")
    assert not Calibration.load(tmp_path / "cal.npz").states


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = Calibration("f", {})
    calibration.save(tmp_path / "cal.npz")
    before = (tmp_path / "cal.npz").read_bytes()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(CalibrationError, match="No space left"):
        calibration.save(tmp_path / "cal.npz")
    assert (tmp_path / "cal.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_another_model_is_refused(tmp_path: Path) -> None:
    calibration = calibrate(proto(CONV), {"x": images(2)})
    onnx.save(proto(CONV), tmp_path / "m.onnx")
    for same in (proto(CONV), model(CONV), tmp_path / "m.onnx"):
        calibration.check(same)
    for other in (
        CONV.replace("0.5", "0.25"),
        CONV.replace("Relu", "Abs"),
        CONV.replace("1, 1, 1, 1", "1, 1, 1, 0"),
    ):
        with pytest.raises(CalibrationError, match="another model"):
            calibration.check(proto(other))
    with pytest.raises(CalibrationError, match="not observed") as caught:
        calibration.range("rr")
    assert caught.value.hint is not None


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    calibrate(proto(CONV), {"x": images(2)}, second_moments=["x"]).save(tmp_path / "cal.npz")
    with np.load(tmp_path / "cal.npz") as file:
        good = dict(file)
    head = good["head"].tobytes()
    damage: list[dict[str, Any]] = [
        {"head": np.frombuffer(b"[]", np.uint8)},
        {"head": np.frombuffer(b"{" * 100_000, np.uint8)},
        {"head": np.frombuffer(head.replace(b"calibration/1", b"calibration/9"), np.uint8)},
        {"names": np.frombuffer(good["names"].tobytes().replace(b'"x", ', b""), np.uint8)},
        {"names": np.frombuffer(good["names"].tobytes().replace(b'"x"', b'"c"'), np.uint8)},
        {"present": 1 - good["present"]},
        {"rows": good["rows"] * 2**40},
        {"products": good["products"][1:]},
        {"counts": good["counts"][:-1]},
        {"counts": -good["counts"]},
        {"bins": good["bins"] * 10**6},
        {"bins": good["bins"][:, :2]},
        {"range": good["range"] * np.nan},
        {"moments": good["moments"][:2]},
        {"channels": -good["channels"]},
    ]
    for part in damage:
        np.savez(tmp_path / "bad.npz", **{**good, **part})
        with pytest.raises(CalibrationError):
            Calibration.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", image=images(1))
    with pytest.raises(CalibrationError, match="no calibration"):
        Calibration.load(tmp_path / "bad.npz")


def test_a_calibration_is_immutable() -> None:
    calibration = Calibration("f", {}, {})
    with pytest.raises(AttributeError):
        calibration.samples = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        calibration.states["x"] = Histogram.empty()  # type: ignore[index]


# --- merge ---------------------------------------------------------------------------------------


def test_merging_gives_the_histograms_of_one_run() -> None:
    data = images(40)
    whole = calibrate(proto(CONV), {"x": data}, second_moments=["r"])
    parts = [calibrate(proto(CONV), {"x": part}, second_moments=["r"]) for part in np.split(data, [7, 20])]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.samples == 40 and list(merged.states) == list(whole.states)
    for name in whole.states:
        assert merged.range(name) == whole.range(name)
        assert merged.histogram(name).counts.tobytes() == whole.histogram(name).counts.tobytes()
        assert merged.range(name, "moving-average") == pytest.approx(whole.range(name, "moving-average"))
    for name in ("x", "r"):
        ours, theirs = merged.moments(name), whole.moments(name)
        assert ours is not None and theirs is not None
        np.testing.assert_allclose(ours.variance, theirs.variance, rtol=1e-9)
    np.testing.assert_allclose(merged.second_moments("r"), whole.second_moments("r"), rtol=1e-12)


def test_merging_keeps_what_both_have_and_names_the_rest() -> None:
    some, others = (
        calibrate(proto(CONV), {"x": images(2)}, tensors=names) for names in (["c", "r"], ["r", "s"])
    )
    merged = some.merge(others)
    assert list(merged.states) == ["r"] and set(merged.skipped) == {"c", "s"}
    with pytest.raises(CalibrationError, match="only one of the merged"):
        merged.range("c")


def test_calibrations_of_different_models_do_not_merge() -> None:
    other = calibrate(proto(CONV.replace("Relu", "Abs")), {"x": images(2)})
    with pytest.raises(CalibrationError, match="different models"):
        calibrate(proto(CONV), {"x": images(2)}).merge(other)


def test_second_moments_match_float64() -> None:
    data = images(20)
    calibration = calibrate(proto(CONV), {"x": data}, second_moments=["x"])
    rows = np.moveaxis(data.astype(np.float64), 1, -1).reshape(-1, 2)
    np.testing.assert_allclose(calibration.second_moments("x"), rows.T @ rows / len(rows), rtol=1e-12)
    with pytest.raises(CalibrationError, match="second moments of 'c' were not kept"):
        calibration.second_moments("c")
    for name, why in (("q", "no such tensor"), ("w", "constant"), ("size", "no floats")):
        with pytest.raises(CalibrationError, match=why):
            calibrate(proto(CONV), {"x": data}, second_moments=[name])
    with pytest.raises(CalibrationError, match="not the tensor"):
        calibrate(proto(CONV), {"x": data}, tensors=["r"], second_moments=["c"])
