import pytest

from onnxslim.errors import OptionError
from onnxslim.recipes.budget import (
    Drop,
    Target,
    parse_drop,
    parse_duration,
    parse_latency_target,
    parse_size_target,
)


def test_a_drop_is_absolute_or_relative() -> None:
    assert parse_drop("0.01") == Drop(0.01)
    assert parse_drop("1%") == Drop(0.01, relative=True)
    assert parse_drop("2 %").allows(before=50.0, after=49.0)
    assert not parse_drop("2%").allows(before=50.0, after=48.9)
    assert not parse_drop("0.01").allows(before=50.0, after=49.5)


def test_a_loss_that_the_samples_cannot_show_is_no_loss() -> None:
    drop = parse_drop("1%")
    assert drop.allows(before=1.0, after=13 / 14, resolution=1 / 14)
    assert not drop.allows(before=1.0, after=12 / 14, resolution=1 / 14)
    assert not drop.allows(before=1.0, after=0.989, resolution=0.001), (
        "enough samples: the budget alone counts"
    )


def test_a_relative_drop_of_a_negative_metric_still_allows_less() -> None:
    assert parse_drop("10%").allows(before=-1.0, after=-1.1)
    assert not parse_drop("10%").allows(before=-1.0, after=-1.2)


def test_targets_are_ratios_or_absolute() -> None:
    assert parse_latency_target("0.7x").met(0.7, 1.0)
    assert parse_latency_target("5ms") == Target(0.005, "absolute")
    assert parse_size_target("2MB") == Target(2e6, "absolute")
    assert parse_size_target("1 MiB").value == 2**20
    assert not parse_size_target("0.3x").met(31, 100)


@pytest.mark.parametrize("text", ["", "abc", "-1", "0.1x", "nan", "1e3", "1 %%"])
def test_a_bad_drop_is_named_with_an_example(text: str) -> None:
    with pytest.raises(OptionError, match="--max-drop"):
        parse_drop(text)


@pytest.mark.parametrize("text", ["0x", "fast", "5", "-2MB", "3 parsecs"])
def test_a_bad_target_is_refused(text: str) -> None:
    with pytest.raises(OptionError):
        parse_latency_target(text)
    with pytest.raises(OptionError):
        parse_size_target(text)


def test_durations() -> None:
    assert [parse_duration(t) for t in ("90", "90s", "1.5min", "1h", 3)] == [90, 90, 90, 3600, 3]
    with pytest.raises(OptionError, match="above zero"):
        parse_duration("0s")
