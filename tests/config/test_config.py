"""Configuration: groups, overrides, variables, refusals with the nearest name, and the cache."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from config_files import TOY, own_file

from mlzoo import config
from mlzoo.config import Config
from mlzoo.config.loading import from_environment, search_path
from mlzoo.errors import ConfigError, ModelNotFound


def test_the_built_in_files_say_what_the_classes_say(load):
    composed = load()
    assert attrs.evolve(composed, models={}, providers={}, personas={}) == Config()
    assert list(composed.personas) == ["brief"]
    assert {entry.kind for entry in composed.models.values()} == {"chat", "embed"}


def test_each_known_model_stands_under_its_name_and_is_found_by_its_alias(load):
    composed = load()
    assert composed.model("smollm2").name == "smollm2"
    assert composed.model("all-minilm-l6-v2") is composed.models["minilm"]
    with pytest.raises(ModelNotFound, match="no model is called 'gpt'") as caught:
        composed.model("gpt")
    assert caught.value.data == {"model": "gpt", "available": ["claude-haiku", "gpt-4o-mini", "minilm", "smollm2"]}


def test_an_override_sets_one_value_and_the_last_one_wins(load):
    composed = load("limits.max_running=8", "limits.max_running=9", "devices.auto=[cpu]", "log.durability=process")
    assert composed.limits.max_running == 9
    assert composed.devices.auto == ("cpu",)
    assert composed.log.durability == "process"


def test_a_group_choice_takes_another_file(load):
    assert load("devices=cpu").devices.auto == ("cpu",)


def test_what_is_said_under_model_is_said_about_the_chosen_one(load, tmp_path):
    own_file(tmp_path, "model/toy.yaml", TOY)
    composed = load("model=toy", "model.slots=3", "model.sampling.temperature=0.5", "models.smollm2.slots=5")
    assert composed.defaults.chat == "toy"
    assert composed.models["toy"].slots == 3
    assert composed.models["toy"].sampling.temperature == 0.5
    assert composed.models["smollm2"].slots == 5
    assert load("models.smollm2.slots=5").models["smollm2"].slots == 5


def test_the_model_that_embeds_is_chosen_in_the_same_way(load, tmp_path):
    own_file(tmp_path, "model/toy.yaml", TOY.replace("chat", "embed"))
    assert load("model@embed=toy", "embed.slots=2").defaults.embed == "toy"
    with pytest.raises(ConfigError, match="'smollm2' is no model that can embed"):
        load("model@embed=smollm2")


def test_a_file_of_the_user_comes_before_the_built_in_one(load, tmp_path):
    own_file(tmp_path, "model/smollm2.yaml", "name: smollm2\n" + TOY)
    own_file(tmp_path, "limits/small.yaml", "max_running: 2\n")
    composed = load("limits=small")
    assert composed.models["smollm2"].source == "path:/weights/toy"
    assert composed.limits == config.Limits(max_running=2)


def test_the_name_inside_a_model_file_counts(load, tmp_path):
    own_file(tmp_path, "model/toy.yaml", "name: toy-1.5\n" + TOY)
    assert load("model=toy").defaults.chat == "toy-1.5"


def test_variables_come_after_files_and_before_overrides(load):
    environ = {"MLZOO_LIMITS_MAX_RUNNING": "7", "MLZOO_STORE": "/a dir/it's, [here]", "HOME": "/elsewhere"}
    assert load(environ=environ).limits.max_running == 7
    assert load(environ=environ).store == "/a dir/it's, [here]"
    assert load("limits.max_running=9", environ=environ).limits.max_running == 9


@pytest.mark.parametrize(
    "path", [r"C:\Users\me\models", "C:\\", r"it\'s", "a b", "", "=x", "~/models", "[x", "{", "ü", "7"]
)
def test_a_path_in_a_variable_is_kept_as_it_is(load, path):
    assert load(environ={"MLZOO_STORE": path}).store == path


def test_a_variable_that_means_nothing_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean MLZOO_LIMITS_MAX_RUNNING"):
        from_environment({"MLZOO_LIMITS_MAX_RUNING": "7"})


@pytest.mark.parametrize(
    ("override", "path", "told"),
    [
        ("limits.max_runing=1", "limits.max_runing", "there is no such setting; did you mean max_running?"),
        ("limit.max_running=1", "limit", "there is no such setting; did you mean limits?"),
        ("models.smollm2.slot=1", "models.smollm2.slot", "did you mean slots?"),
        ("limits.max_running=x", "limits.max_running", "expected an integer, got 'x'"),
        ("limits.max_running=1.5", "limits.max_running", "expected an integer, got 1.5"),
        ("limits.max_running=true", "limits.max_running", "expected an integer, got True"),
        ("limits.max_running=0", "limits.max_running", "expected >= 1, got 0"),
        ("limits.drain_s=soon", "limits.drain_s", "expected a number, got 'soon'"),
        ("devices.cpu_threads=0", "devices.cpu_threads", "expected >= 1, got 0"),
        ("devices.auto=cpu", "devices.auto", "expected a list, got 'cpu'"),
        ("log.durability=ram", "log.durability", "expected one of disk, process, got 'ram'"),
        ("store=7", "store", "expected a string, got 7"),
        ("model=smolm2", "model", "did you mean smollm2?"),
        ("model=minilm", "model.kind", "no model that can chat"),
        ("+models.new.kind=chat", "models.new.source", "this setting is missing"),
        ("limits.max_running=1,2", "limits.max_running", "sweeps"),
        ("hydra.run.dir=/tmp", "hydra.run.dir", "no meaning here"),
    ],
)
def test_a_wrong_override_is_refused_with_its_path_and_what_was_expected(load, override, path, told):
    with pytest.raises(ConfigError) as caught:
        load(override)
    assert told in caught.value.message
    assert caught.value.data["path"] == path


def test_what_an_override_deletes_gets_its_default(load):
    assert load("limits.max_running=3", "~limits.max_running").limits == config.Limits()


@pytest.mark.parametrize("override", ["limits.max_running", "=3", "limits.max_running=[1", "model=[a,b]"])
def test_what_is_no_override_at_all_is_refused(load, override):
    with pytest.raises(ConfigError):
        load(override)


def test_a_file_that_is_not_yaml_or_not_text_is_refused(load, tmp_path):
    own_file(tmp_path, "limits/default.yaml", "max_running: [1\n")
    with pytest.raises(ConfigError):
        load()
    (tmp_path / "own" / "limits" / "default.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"default\.yaml: cannot be read: it is no UTF-8"):
        load()


def test_a_directory_that_was_asked_for_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        search_path(tmp_path / "nowhere", {})
    with pytest.raises(ConfigError, match="does not exist"):
        search_path(None, {"MLZOO_CONFIG_DIR": str(tmp_path / "nowhere")})


def test_the_second_start_takes_the_composed_result_and_imports_nothing_heavy(tmp_path):
    script = (
        "import sys; from pathlib import Path; from mlzoo import config;"
        f"c = config.load(['limits.max_running=8'], environ={{}}, cache_dir=Path({str(tmp_path)!r}));"
        "print(c.limits.max_running, sorted({'hydra', 'omegaconf', 'yaml', 'cattrs'} & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(config.__file__).parents[2]), "XDG_CONFIG_HOME": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environ)
        for _ in range(2)
    ]
    assert runs[0].stdout == "8 ['cattrs', 'hydra', 'omegaconf', 'yaml']\n"
    assert runs[1].stdout == "8 []\n"


def test_a_cached_result_equals_the_composed_one_and_a_changed_file_is_seen(load, tmp_path):
    assert load("model.sampling.top_k=5") == load("model.sampling.top_k=5")
    own_file(tmp_path, "limits/default.yaml", "max_running: 2\n")
    assert load().limits.max_running == 2
    own_file(tmp_path, "limits/default.yaml", "max_running: 3\n")
    assert load().limits.max_running == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"inputs": {}, "config": {}}'])
def test_a_damaged_cache_is_ignored_and_written_again(load, tmp_path, damage):
    composed = load()
    (place,) = (tmp_path / "cache").iterdir()
    whole = place.read_bytes()
    place.write_bytes(damage)
    assert load() == composed
    assert place.read_bytes() == whole


def test_a_cache_with_values_that_cannot_be_is_ignored(load, tmp_path):
    composed = load()
    (place,) = (tmp_path / "cache").iterdir()
    place.write_bytes(place.read_bytes().replace(b'"max_running":96', b'"max_running":-1'))
    assert load() == composed


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_the_cache_is_for_its_owner_alone(load, tmp_path):
    load()
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    (place,) = (tmp_path / "cache").iterdir()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_a_cache_directory_that_cannot_be_made_costs_speed_only(tmp_path):
    (tmp_path / "file").write_text("")
    assert config.load(environ={}, cache_dir=tmp_path / "file" / "cache").limits == config.Limits()
