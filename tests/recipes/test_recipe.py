import pytest

from onnxslim.errors import OptionError
from onnxslim.recipes.engine import Deferred, Repeat
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.recipe import apply_overrides, load_recipe, needs_calibration, parse_recipe, steps_of


def test_a_recipe_becomes_steps_with_their_options() -> None:
    specs = parse_recipe('[[pass]]\nname = "pack-weights"\nmin_sqnr_db = 30\n[[pass]]\nname = "simplify"')
    packed, *rest = steps_of(specs)
    assert packed.min_sqnr_db == 30.0  # type: ignore[union-attr]
    assert any(isinstance(step, Repeat) for step in rest)
    assert not needs_calibration(specs)


def test_a_pass_that_calibrates_is_built_when_its_turn_comes() -> None:
    specs = parse_recipe('[[pass]]\nname = "quantize-static"')
    assert needs_calibration(specs)
    with pytest.raises(OptionError, match="needs calibration data"):
        steps_of(specs)
    (step,) = steps_of(specs, lambda model: None)
    assert isinstance(step, Deferred)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no passes"),
        ("pass = 3", "lists no passes"),
        ("[[pass]]", "has no name"),
        ("[[pass]]\nname = 3", "has no name"),
        ('[[pass]]\nname = "fold-constant"', "no pass 'fold-constant'"),
        ('[[pass]]\nname = "simplify"\nfast = true', "takes no options"),
        ('steps = 3\n[[pass]]\nname = "simplify"', "unknown key 'steps'"),
        ("[[pass", "not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_explained(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_recipe(text)


def test_a_near_miss_gets_a_suggestion() -> None:
    with pytest.raises(OptionError) as caught:
        parse_recipe('[[pass]]\nname = "fold-constant"')
    assert caught.value.hint == "did you mean fold-constants?"


def test_a_recipe_that_is_no_file_is_refused(tmp_path: object) -> None:
    with pytest.raises(OptionError, match="no file"):
        load_recipe(str(tmp_path))


def test_overrides_reach_a_pass_inside_a_repeat_and_unknown_names_are_refused() -> None:
    from onnxslim.passes.pack_weights import PackWeights

    (step,) = apply_overrides((Repeat((PackWeights(),)),), {"pack-weights": {"min_sqnr_db": "12"}})
    assert isinstance(step, Repeat)
    assert step.passes[0].min_sqnr_db == 12.0  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="no pass 'pack-weight'"):
        apply_overrides(simplify_steps(), {"pack-weight": {}})
    with pytest.raises(OptionError):
        apply_overrides((PackWeights(),), {"pack-weights": {"nope": "1"}})
