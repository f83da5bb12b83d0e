"""Feeds: cutting, checking, splitting; each source of data that a user may name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxslim.calibration.data import Feeds, open_feeds, probe_random_feeds, random_feeds
from onnxslim.errors import CalibrationError, OptionError, ResourceError
from onnxslim.runtime.values import TensorInfo as Info

IMAGE = Info("image", "float32", ("batch", 2, 3))
RNG = np.random.default_rng(0)


def images(count: int) -> np.ndarray:
    return RNG.standard_normal((count, 2, 3)).astype(np.float32)


def values(feeds: Feeds, name: str = "image") -> list[np.ndarray]:
    return [feed[name] for feed in feeds]


# --- the first axis counts samples ---------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_is_cut_into_single_samples_with_labels(tmp_path: Path, save: Any, order: str) -> None:
    data, labels = images(7), np.arange(7)
    save(tmp_path / "d.npz", image=np.asarray(data, order=order), __labels__=labels)
    feeds = open_feeds(str(tmp_path / "d.npz"), [IMAGE])
    assert len(feeds) == 7
    for _ in range(2):  # re-iterable
        for i, sample in enumerate(feeds.samples()):
            np.testing.assert_array_equal(sample.feed["image"], data[i : i + 1], strict=True)
            assert sample.labels is not None and sample.labels.tolist() == [i]
    assert feeds.labels is not None and np.concatenate(feeds.labels).tolist() == labels.tolist()


def test_a_batch_groups_rows_and_keeps_the_short_last_one(tmp_path: Path) -> None:
    data = images(7)
    feeds = open_feeds({"image": data, "__labels__": np.arange(7)}, [IMAGE], batch=3)
    assert [v.shape[0] for v in values(feeds)] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(values(feeds)), data)
    assert [labels.tolist() for labels in feeds.labels or []] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_fixed_batch_drops_the_rest_and_says_so() -> None:
    feeds = open_feeds(images(7), [Info("image", "float32", (3, 2, 3))])
    assert [v.shape for v in values(feeds)] == [(3, 2, 3)] * 2
    assert "1 rows left over" in feeds.description
    with pytest.raises(OptionError, match="batch of 2"):
        open_feeds(images(7), [Info("image", "float32", (3, 2, 3))], batch=2)


def test_one_axis_more_than_the_input_is_a_stack_of_feeds() -> None:
    data = images(4)
    feeds = open_feeds({"image": data}, [Info("image", "float32", (2, 3))])
    np.testing.assert_array_equal(np.stack(values(feeds)), data)


def test_scalars_and_initial_states_serve_every_sample() -> None:
    inputs = [
        Info("input", "float32", (None, None)),
        Info("state", "float32", (2, None, 4)),
        Info("sr", "int64", ()),
    ]
    arrays = {"input": images(5)[:, 0], "state": np.ones((2, 1, 4), np.float32), "sr": np.int64(16000)}
    feeds = open_feeds(arrays, inputs)
    assert len(feeds) == 5
    for feed in feeds:
        assert feed["input"].shape == (1, 3) and feed["state"].shape == (2, 1, 4) and feed["sr"] == 16000
    arrays["state"] = np.zeros((5, 2, 1, 4), np.float32)  # one state per sample
    assert [feed["state"].shape for feed in open_feeds(arrays, inputs)] == [(2, 1, 4)] * 5


def test_arrays_of_different_lengths_are_refused() -> None:
    inputs = [Info("a", "float32", (None, 3)), Info("b", "float32", (None, 3))]
    with pytest.raises(CalibrationError, match="'a' 4, 'b' 5"):
        open_feeds({"a": images(4)[:, 0], "b": images(5)[:, 0]}, inputs)
    with pytest.raises(CalibrationError, match="3 labels for 4 feeds"):
        open_feeds({"image": images(4), "__labels__": np.arange(3)}, [IMAGE])


def test_a_folder_of_npz_files_may_be_ragged(tmp_path: Path) -> None:
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", ids=np.ones((1, 4 + i), np.int64), __labels__=np.array([i]))
    feeds = open_feeds(tmp_path, [Info("ids", "int64", (None, None))])
    assert [v.shape for v in values(feeds, "ids")] == [(1, 4), (1, 5), (1, 6)]
    assert [labels.tolist() for labels in feeds.labels or []] == [[0], [1], [2]]


# --- sources from Python -------------------------------------------------------------------------


def test_lists_functions_and_iterators_are_re_iterable() -> None:
    made = [{"image": v[None]} for v in images(5)]
    for source in (made, lambda: iter(made), iter(made)):
        feeds = open_feeds(source, [IMAGE])
        assert len(feeds) == 5
        for _ in range(2):
            np.testing.assert_array_equal(values(feeds), [feed["image"] for feed in made])


def test_an_endless_function_can_be_limited() -> None:
    def endless() -> Any:
        while True:
            yield {"image": np.zeros((1, 2, 3), np.float32)}

    assert len(open_feeds(endless, [IMAGE], samples=3)) == 3
    assert len(open_feeds(endless(), [IMAGE], samples=3)) == 3


def test_a_python_file_is_imported_with_its_folder_on_the_path_only_then(tmp_path: Path) -> None:
    (tmp_path / "helper_of_feeds.py").write_text(
        "import numpy as np\nVALUE = np.ones((1, 2, 3), np.float32)\n"
    )
    (tmp_path / "feeds.py").write_text(
        "from helper_of_feeds import VALUE\ndef data():\n    for i in range(4): yield {'image': VALUE * i}\n"
        "def broken():\n    yield {'image': VALUE}\n    raise KeyError('gone')\n"
    )
    before = list(sys.path)
    feeds = open_feeds(f"{tmp_path}/feeds.py:data", [IMAGE])
    assert sys.path == before
    assert [float(v.max()) for v in values(feeds)] == [0, 1, 2, 3]
    with pytest.raises(OptionError, match="no function 'dat'") as caught:
        open_feeds(f"{tmp_path}/feeds.py:dat", [IMAGE])
    assert caught.value.hint == "did you mean 'data'?"
    with pytest.raises(CalibrationError, match="KeyError: 'gone'"):
        list(open_feeds(f"{tmp_path}/feeds.py:broken", [IMAGE]))
    with pytest.raises(OptionError, match="the import fails"):
        open_feeds(f"{tmp_path}/missing.py:data", [IMAGE])
    sys.modules.pop("helper_of_feeds")


def test_options_that_would_do_nothing_are_refused() -> None:
    feeds = [{"image": v[None]} for v in images(2)]
    with pytest.raises(OptionError, match="feeds already"):
        open_feeds(feeds, [IMAGE], batch=2)
    with pytest.raises(OptionError, match="no batch size"):
        open_feeds("random", [IMAGE], batch=2)
    with pytest.raises(OptionError, match="holds none"):
        open_feeds({"image": images(2)}, [IMAGE], images="scale=1")


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(CalibrationError, match="no such data"):
        open_feeds("nowhere.npz", [IMAGE])
    with pytest.raises(OptionError, match="int is not data"):
        open_feeds(3, [IMAGE])  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="must map input names"):
        open_feeds([np.zeros(3)], [IMAGE])
    with pytest.raises(CalibrationError, match="dict, not an array"):
        open_feeds([{"image": {"a": 1}}], [IMAGE])
    with pytest.raises(CalibrationError, match="not an array"):
        open_feeds([{"image": [[1.0], [1.0, 2.0]]}], [IMAGE])
    with pytest.raises(CalibrationError, match="no samples"):
        open_feeds([], [IMAGE])
    with pytest.raises(CalibrationError, match="no samples"):
        open_feeds({"image": images(0)}, [IMAGE])


# --- parts ---------------------------------------------------------------------------------------


def test_split_is_disjoint_complete_and_seeded() -> None:
    feeds = open_feeds({"image": images(10), "__labels__": np.arange(10)}, [IMAGE])
    first, second = feeds.split(0.7, seed=3)
    ids = [[int(labels[0]) for labels in part.labels or []] for part in (first, second)]
    assert sorted(ids[0] + ids[1]) == list(range(10)) and len(ids[0]) == 7
    again = feeds.split(0.7, seed=3)[0]
    assert [int(labels[0]) for labels in again.labels or []] == ids[0]
    assert [int(labels[0]) for labels in feeds.split(0.7, seed=4)[0].labels or []] != ids[0]
    nested, _ = second.split(0.5)
    assert {int(labels[0]) for labels in nested.labels or []} < set(ids[1])
    with pytest.raises(CalibrationError, match="two parts"):
        feeds.take(1).split(0.5)


def test_samples_are_spread_over_sorted_data() -> None:
    data = np.arange(12, dtype=np.float32).reshape(12, 1)
    feeds = open_feeds(data, [Info("x", "float32", (None, 1))], samples=4)
    assert [v.item() for v in values(feeds, "x")] == [0, 3, 6, 9]
    assert "4 of 12" in feeds.description
    assert [v.item() for v in values(feeds.take(2), "x")] == [0, 3]


# --- what does not fit ---------------------------------------------------------------------------


def test_names_are_checked_with_a_suggestion() -> None:
    with pytest.raises(CalibrationError, match="'image' is missing") as caught:
        open_feeds({"imgae": images(2)}, [IMAGE])
    assert "imgae" in str(caught.value)
    with pytest.raises(CalibrationError, match="'imagee' is not an input") as caught:
        open_feeds({"image": images(2), "imagee": images(2)}, [IMAGE])
    assert "did you mean 'image'" in str(caught.value)


def test_shapes_are_checked() -> None:
    with pytest.raises(CalibrationError, match=r"axis 1 is 3, not 2"):
        open_feeds([{"image": np.zeros((1, 3, 3), np.float32)}], [IMAGE])
    with pytest.raises(CalibrationError, match=r"rank 2, the model takes \[batch, 2, 3\]"):
        open_feeds([{"image": np.zeros((2, 3), np.float32)}], [IMAGE])
    with pytest.raises(CalibrationError, match="rank 3"):
        open_feeds({"image": np.zeros((2, 3), np.float32)}, [IMAGE])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_named(bad: float) -> None:
    data = images(4)
    data[2, 1, 1] = bad
    feeds = open_feeds(data, [IMAGE])
    with pytest.raises(CalibrationError, match=r"NaN|Inf") as caught:
        list(feeds)
    assert "sample 2" in str(caught.value) and "'image'" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.array([[1.5, 2.5]]), "float32"),
        (np.array([[1, 2]], np.uint8), "float32"),
        (np.array([[1, 2]], np.int64), "int32"),
        (np.array([[1.0, 2.0]]), "int64"),
        (np.array([[0, 1]]), "bool"),
        (np.array([[1.5, 2.5]], np.float32), "bfloat16"),
    ],
)
def test_harmless_casts_are_done_and_noted(given: np.ndarray, dtype: str) -> None:
    feeds = open_feeds([{"x": given}], [Info("x", dtype, (1, 2))])
    (value,) = values(feeds, "x")
    assert value.dtype.name == dtype
    assert value.astype(given.dtype).tolist() == given.tolist()
    assert feeds.notes == (f"input 'x': {given.dtype} values taken as {dtype}",)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.array([[1.5, 2.0]]), "int64"),
        (np.array([[2**40, 1]]), "int32"),
        (np.array([[-1, 1]]), "uint64"),
        (np.array([[2**63, 1]], np.uint64), "int64"),
        (np.array([[2**24 + 1, 1]]), "float32"),
        (np.array([[1e300, 1]]), "float32"),
        (np.array([[2, 1]]), "bool"),
        (np.array([["a", "b"]]), "float32"),
        (np.array([[1.0, 2.0]]), "string"),
        (np.array([[1j, 2]]), "float32"),
    ],
)
def test_lossy_casts_are_refused(given: np.ndarray, dtype: str) -> None:
    with pytest.raises(CalibrationError, match="the model takes"):
        open_feeds([{"x": given}], [Info("x", dtype, (1, 2))])


def test_strings_and_bfloat16_survive_an_npz(tmp_path: Path) -> None:
    half = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    np.savez(tmp_path / "d.npz", text=np.array([["ein", "zwei"]]), half=half)
    inputs = [Info("text", "string", (None, 2)), Info("half", "bfloat16", (None, 2))]
    (feed,) = open_feeds(tmp_path / "d.npz", inputs)
    assert feed["text"].dtype == object and feed["text"].tolist() == [["ein", "zwei"]]
    assert feed["half"].dtype == half.dtype and feed["half"].tobytes() == half.tobytes()


# --- random --------------------------------------------------------------------------------------


def test_random_feeds_are_seeded_sized_and_say_so() -> None:
    inputs = [
        Info("x", "float32", ("batch", 3, "h")),
        Info("ids", "int64", ("batch", "seq")),
        Info("flag", "bool", (2,)),
        Info("word", "string", (1,)),
        Info("half", "bfloat16", (2,)),
        Info("nibble", "int4", (3,)),
        Info("pixel", "uint8", (100,)),
    ]
    feeds = random_feeds(inputs, samples=3, seed=5, dims={"batch": 2, "seq": 6})
    first, *rest = list(feeds)
    assert len(rest) == 2 and feeds.is_random and "random" in feeds.description
    assert first["x"].shape == (2, 3, 8) and first["ids"].shape == (2, 6)
    assert set(np.unique(first["ids"])) <= {0, 1} and first["pixel"].max() > 100
    assert [first[info.name].dtype.name for info in inputs][:4] == ["float32", "int64", "bool", "object"]
    (again,) = feeds.split(0.1, seed=1)[0]
    assert any(np.array_equal(again["x"], feed["x"]) for feed in feeds)  # parts are parts of the whole
    assert not np.array_equal(first["x"], next(iter(random_feeds(inputs, seed=6, dims={"batch": 2})))["x"])


def test_a_symbol_has_one_size_wherever_it_stands() -> None:
    inputs = [Info("x", "float32", ("batch", "t")), Info("state", "float32", (2, "batch", 4))]
    feed = next(iter(random_feeds(inputs)))
    assert feed["x"].shape == (1, 8) and feed["state"].shape == (2, 1, 4)
    unknown = next(iter(random_feeds([Info("x", "float32", ("?", 3, "?", "?"))])))
    assert unknown["x"].shape == (1, 3, 8, 8)


def test_random_feeds_refuse_what_cannot_be_made() -> None:
    with pytest.raises(ResourceError, match="one random feed"):
        random_feeds([Info("x", "float32", ("a", 1 << 40))])
    with pytest.raises(CalibrationError, match="no random data"):
        random_feeds([Info("x", "float32", None, "sequence")])


def test_probing_finds_what_a_model_accepts() -> None:
    inputs = [Info("x", "int64", (None, None))]
    seen: list[tuple[int, int]] = []

    def accepts(feed: dict[str, Any]) -> bool:
        seen.append((feed["x"].size, int(feed["x"].max())))
        return feed["x"].size == 32 and feed["x"].max() < 2

    found = probe_random_feeds(inputs, accepts)
    assert found is not None and next(iter(found))["x"].shape == (1, 32)
    assert probe_random_feeds(inputs, lambda feed: False) is None
    recurrent = [Info("x", "float32", (None, None)), Info("state", "float32", (2, None, 4))]
    found = probe_random_feeds(recurrent, lambda f: f["state"].shape[1] == 1 and f["x"].size == 512)
    assert found is not None


def test_indices_lie_within_what_they_pick_from() -> None:
    inputs = [
        Info("ids", "int64", (1, 200)),
        Info("byte", "uint8", (200,)),
        Info("real", "float32", (200,)),
        Info("along", "int32", (200,)),
        Info("x", "float32", ("n", 3)),
    ]
    limits = {"ids": (5, 3), "byte": (1000,), "real": (4,), "along": ("n",)}
    for feed in random_feeds(inputs, dims={"n": 7}, limits=limits):
        assert [set(np.unique(feed[name])) for name in ("ids", "real", "along")] == [
            set(range(size)) for size in (3, 4, 7)
        ]
        assert feed["byte"].max() > 100 and feed["real"].dtype == np.float32


def test_a_guessed_range_is_accepted_to_its_end() -> None:
    """The first feed alone would run by luck: its few indices need not hold the largest."""
    inputs = [Info("x", "int64", (1,))]
    first = next(iter(random_feeds(inputs, int_high=100)))
    lucky = int(first["x"][0]) + 1
    found = probe_random_feeds(inputs, lambda feed: int(feed["x"].max()) < lucky, samples=50)
    assert found is not None and max(int(feed["x"].max()) for feed in found) < lucky
    found = probe_random_feeds(inputs, lambda feed: int(feed["x"].max()) < lucky, limits={"x": (lucky,)})
    assert found is not None and {int(feed["x"][0]) for feed in found} - {0, 1}
