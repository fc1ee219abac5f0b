"""What a run is, said in files and overrides, and what is said where that does not hold."""

from pathlib import Path

import pytest

from mlzoo.errors import ConfigError
from mlzoo.fit.composing import compose

BUILT_IN = Path(__file__).parent.parent.parent / "configs"


@pytest.fixture
def composed(tmp_path):
    def compose_(config, *overrides, multirun=False):
        return compose(str(config), overrides, (tmp_path, BUILT_IN), multirun=multirun)

    return compose_


def own(tmp_path, text, name="own"):
    (tmp_path / "fit").mkdir(exist_ok=True)
    path = tmp_path / "fit" / f"{name}.yaml"
    path.write_text(text)
    return path


def refusal(composed, *words, **options):
    with pytest.raises(ConfigError) as caught:
        composed(*words, **options)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_run_is_a_built_in_configuration_and_what_is_said_over_it(composed):
    [run] = composed("text", "name=reviews", "data.path=a.csv", "optimiser.lr=0.5", "optimiser.lr=0.25")
    assert (run.settings.name, run.settings.base, run.settings.optimiser.lr) == ("reviews", "minilm", 0.25)
    assert run.settings.model["head"] == {"kind": "classification"}


def test_a_file_of_ones_own_is_based_on_another_and_is_found_by_path_and_by_name(composed, tmp_path):
    path = own(tmp_path, "defaults: [table, _self_]\nname: wine\ndata: {path: wine.csv}\nepochs: 7\n")
    for config in (path, "own"):
        [run] = composed(config)
        assert (run.settings.name, run.settings.epochs, run.settings.batch_size) == ("wine", 7, 32)


def test_a_file_may_be_based_on_one_that_is_called_as_it_is(composed, tmp_path):
    elsewhere = tmp_path / "text.yaml"
    elsewhere.write_text("defaults: [text, _self_]\nname: mine\ndata: {path: a.csv}\n")
    assert composed(elsewhere)[0].settings.model["backbone"] == {"kind": "transformer"}


def test_several_values_are_as_many_runs_each_with_each(composed):
    runs = composed("text", "name=a", "data.path=a.csv", "seed=range(1,3)", "epochs=5,6", multirun=True)
    assert [run.chosen for run in runs] == [
        ("seed=1", "epochs=5"), ("seed=1", "epochs=6"), ("seed=2", "epochs=5"), ("seed=2", "epochs=6"),
    ]  # fmt: skip
    assert [(run.settings.seed, run.settings.epochs) for run in runs] == [(1, 5), (1, 6), (2, 5), (2, 6)]


def test_several_values_without_multirun_are_refused_with_the_way_on(composed):
    assert "--multirun" in refusal(composed, "text", "name=a", "data.path=a.csv", "epochs=5,6")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimser.lr=1", "did you mean optimiser?"),
        ("optimiser.lr=x", "optimiser.lr: expected a number, got 'x'"),
        ("batch_size=0", "batch_size: expected >= 1, got 0"),
        ("name='a.b'", "name: expected letters, digits, - and _, got 'a.b'"),
        ("trained=some", "trained: expected one of head, all, lora, got 'some'"),
        ("data.delimiter=ab", "data.delimiter: expected one character, got 'ab'"),
        ("hydra.run.dir=x", "hydra.* settings have no meaning here"),
    ],
)
def test_what_does_not_hold_is_said_in_a_line_with_its_place(composed, override, told):
    assert told in refusal(composed, "text", "name=a", "data.path=a.csv", override)


def test_what_is_missing_is_said_with_the_file_and_how_to_give_it(composed):
    told = refusal(composed, "text", "name=a")
    assert "data.path" in told
    assert "data.path=..." in told


def test_an_unknown_configuration_is_answered_with_the_nearest_name(composed):
    assert "did you mean text?" in refusal(composed, "texts")
    assert "there is no file" in refusal(composed, "no/such.yaml")


def test_a_file_that_is_no_yaml_is_told_with_its_line(composed, tmp_path):
    path = own(tmp_path, "name: a\ndata: {path\n")
    told = refusal(composed, path)
    assert str(path) in told
    assert "not YAML" in told


def test_a_base_that_does_not_exist_is_named_with_its_file(composed, tmp_path):
    path = own(tmp_path, "defaults: [texd, _self_]\nname: a\n")
    assert f"{path}: defaults: there is no configuration 'texd'; did you mean text?" in refusal(composed, path)
