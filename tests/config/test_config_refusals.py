"""What does not hold is refused in one line that says where it stands, what was meant and what is allowed."""

import pytest
from config_files import TOY, own_file

from mlzoo.errors import ConfigError, ModelNotFound

NOTHING = "sets nothing: expected KEY=VALUE, such as limits.max_running=8 or model=NAME"


def refused(load, *overrides, environ=None):
    """Return the message of a refusal, which is one line and names no file but the user's."""
    with pytest.raises(ConfigError) as caught:
        load(*overrides, environ=environ)
    message = caught.value.message
    assert "\n" not in message
    assert "mlzoo-config-" not in message
    return message


# ------------------------------------------------------------------------------------------ where, and what instead


def test_a_fault_in_a_file_is_told_with_file_key_nearest_name_and_what_is_allowed(load, tmp_path):
    file = own_file(tmp_path, "limits/small.yaml", "drain: 3\n")
    told = refused(load, "limits=small")
    assert told.startswith(f"{file}: drain: there is no such setting; did you mean drain_s? (there are line_bytes, ")


def test_a_fault_in_the_users_choices_is_told_with_that_file(load, tmp_path):
    text = "defaults: [limits: {limits}, log: default, devices: default, model: smollm2, model@embed: minilm, _self_]\n"
    file = own_file(tmp_path, "config.yaml", text.replace("{limits}", "default") + "limits: {max_running: 0}\n")
    assert refused(load) == f"{file}: limits.max_running: expected >= 1, got 0"
    own_file(tmp_path, "config.yaml", text.replace("{limits}", "defalt"))
    told = f"{file}: defaults: limits has no option 'defalt'; did you mean default? (there are default)"
    assert refused(load) == told
    own_file(tmp_path, "config.yaml", text.replace("limits: {limits}", "limts: default"))
    assert (
        "there is no group 'limts'; did you mean limits? (there are devices, limits, log, model, provider)"
        in refused(load)
    )


def test_a_fault_in_a_variable_is_told_with_its_name(load):
    told = refused(load, environ={"MLZOO_LIMITS_MAX_RUNNING": "x"})
    assert told == "MLZOO_LIMITS_MAX_RUNNING: limits.max_running: expected an integer, got 'x'"
    told = refused(load, environ={"MLZOO_EMBED": "smollm2"})
    assert told == "MLZOO_EMBED: 'smollm2' is no model that can embed (there are minilm)"


def test_a_variable_that_is_near_nothing_gets_no_wild_guess(load):
    assert "did you mean" not in refused(load, environ={"MLZOO_FOO": "1"})


def test_a_file_that_is_no_yaml_is_told_with_the_line(load, tmp_path):
    file = own_file(tmp_path, "limits/default.yaml", "max_queued: 3\nmax_running: [1\nx: 3\n")
    assert refused(load).startswith(f"{file}, line 3: not YAML: ")
    file.write_text("- a\n- list\n")
    assert refused(load) == f"{file}: expected settings, a line KEY: VALUE each"


MODELS = "(there are claude-haiku, gpt-4o-mini, minilm, smollm2; `mlzoo models list` tells of them)"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("foo", f"'foo' {NOTHING}"),
        ("limit", f"'limit' {NOTHING}; did you mean limits?"),
        ("=3", f"'=3' {NOTHING}"),
        ("store=/a(b)", "store: the value '/a(b)' cannot be read; quote what is text: \"store='/a(b)'\""),
        ("model=x", f"model=x: no model is called 'x' {MODELS}"),
        ("model@embed=x", f"model@embed=x: no model is called 'x' {MODELS}"),
        ("model=smolm2", f"model=smolm2: no model is called 'smolm2'; did you mean smollm2? {MODELS}"),
        ("defaults.chat=x", "defaults: there is no such setting; write model=NAME or model@embed=NAME"),
        ("broken.x=y", "broken: there is no such setting"),
        ("models.smollm2=3", "models.smollm2: expected settings, a line KEY: VALUE each, got 3"),
    ],
)  # fmt: skip
def test_what_is_no_override_is_told_in_our_own_words(load, override, told):
    assert refused(load, override).startswith(told)


def test_the_way_to_quote_that_is_told_works(load):
    assert load("store='/a(b)'").store == "/a(b)"


# ------------------------------------------------------------------------------------------ one broken model


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: [chat\n", ", line 2: not YAML: "),
        ("- kind\n", ": expected settings, a line KEY: VALUE each"),
        ("", ": kind: this setting is missing"),
        ("kind: chat\n", ": source: this setting is missing"),
        ("kind: chta\nsource: path:/x\n", ": kind: expected one of chat, embed, predict, got 'chta'"),
        (TOY + "slot: 3\n", ": slot: there is no such setting; did you mean slots? (there are name, kind, "),
        (
            "kind: chat\nsource: foo:bar\n",
            ": source: expected wheel:PACKAGE==VERSION/PATH, hub:OWNER/NAME[@REVISION] or path:PATH, got 'foo:bar'",
        ),
        ("kind: chat\nsource: 'path:${nowhere}'\n", ": source: Interpolation key 'nowhere' not found"),
        ("defaults: [other]\n" + TOY, ": defaults: a model's file cannot choose others"),
        ("name: smollm2\n" + TOY, ": name: two configuration files describe a model called 'smollm2'"),
    ],
)
def test_a_model_whose_file_does_not_hold_fails_alone_and_says_why(load, tmp_path, text, told):
    file = own_file(tmp_path, "model/mine.yaml", text)
    settings = load()
    assert set(settings.models) == {"claude-haiku", "gpt-4o-mini", "smollm2", "minilm"}
    assert settings.broken["mine"].startswith(f"{file}{told}")
    with pytest.raises(ModelNotFound, match="the configuration of model 'mine' does not hold: ") as caught:
        settings.model("mine")
    assert settings.broken["mine"] in caught.value.message
    assert refused(load, "model=mine") == settings.broken["mine"]


def test_a_file_whose_name_or_bytes_cannot_be_read_fails_alone(load, tmp_path):
    dotted = own_file(tmp_path, "model/toy-1.5.yaml", TOY)
    binary = own_file(tmp_path, "model/binary.yaml", "")
    binary.write_bytes(b"\xff\xfe")
    assert load().broken == {
        "binary": f"{binary}: cannot be read: it is no UTF-8",
        "toy-1.5": f"{dotted}: the name of a configuration file cannot hold a dot; rename it and write name: inside",
    }


def test_a_broken_file_in_the_place_of_the_default_model_leaves_the_others_usable(load, tmp_path):
    own_file(tmp_path, "model/smollm2.yaml", "kind: [\n")
    settings = load()
    assert "smollm2" not in settings.models
    assert "minilm" in settings.models
    assert settings.defaults.chat == "smollm2"
    with pytest.raises(ModelNotFound, match="does not hold"):
        settings.model("smollm2")


def test_an_override_about_a_broken_model_is_refused(load, tmp_path):
    own_file(tmp_path, "model/mine.yaml", "kind: chat\n")
    assert "source: this setting is missing" in refused(load, "models.mine.slots=3")
    assert load("models.mine.source=path:/x", "models.mine.slots=3").models["mine"].slots == 3


def test_what_is_broken_is_remembered_with_the_composed_result(load, tmp_path):
    own_file(tmp_path, "model/mine.yaml", "kind: chat\n")
    assert load() == load()
    assert load().broken
    own_file(tmp_path, "model/mine.yaml", TOY)
    assert not load().broken


def test_a_source_that_names_nothing_is_refused_before_any_pull(load):
    told = refused(load, "models.smollm2.source=foo:bar")
    assert told.startswith("models.smollm2.source: expected wheel:PACKAGE==VERSION/PATH, ")
    assert told.endswith("got 'foo:bar'")


# ------------------------------------------------------------------------------------------ custom models

MINE = "kind: predict\nsource: path:/weights/mine\n"
PARTS = """\
backbone: {kind: mlp, hidden: [8]}
head: {kind: classification}
pipeline: {kind: tabular, columns: {x: number}}
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            MINE + PARTS.replace("kind: mlp", "kind: mlpp"),
            "backbone.kind: there is no backbone 'mlpp'; did you mean mlp?",
        ),
        (
            MINE + PARTS.replace("classification", "clasification"),
            "head.kind: there is no head 'clasification'; did you",
        ),
        (MINE + "backbone: {kind: mlp}\n", "head: this setting is missing: backbone need"),
        (MINE + PARTS + "labels: [a, a]\n", "labels: expected names that differ"),
        (MINE.replace("predict", "embed") + PARTS, "backbone: this setting is for kind: predict alone"),
        (MINE.replace("predict", "predicts"), "kind: expected one of chat, embed, predict, got 'predicts'"),
    ],
)
def test_a_custom_model_of_parts_that_do_not_exist_fails_alone(load, tmp_path, text, told):
    file = own_file(tmp_path, "model/mine.yaml", text)
    config = load()
    assert f"{file}: {told}" in config.broken["mine"]
    assert "smollm2" in config.models


def test_a_custom_model_is_parts_and_a_source(load, tmp_path):
    own_file(tmp_path, "model/mine.yaml", MINE + PARTS + "labels: ['no', 'yes']\n")
    entry = load().model("mine")
    assert entry.zoo() == {
        "backbone": {"kind": "mlp", "hidden": [8]},
        "head": {"kind": "classification"},
        "pipeline": {"kind": "tabular", "columns": {"x": "number"}},
        "labels": ["no", "yes"],
    }
    assert load().model("mine") == entry  # from the cache as from the files
    own_file(tmp_path, "model/other.yaml", MINE)
    assert load().model("other").zoo() is None


# ------------------------------------------------------------------------------------------ adapters


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{TOY}adapters: {{a: /weights/a}}\n", "adapters.a: expected wheel:PACKAGE==VERSION/PATH, hub:"),
        (f"{TOY}adapters: {{'../a': 'path:/a'}}\n", "adapters.../a: expected a name of letters, digits, dots, hyphens"),
        (f"{TOY}adapters: {{1: 'path:/a'}}\n", "adapters"),
        (f"{TOY}adapters: [a]\n", "adapters"),
        (f"{TOY}adapters: {{a: 1}}\n", "adapters"),
        (
            TOY.replace("chat", "embed") + "adapters: {a: 'path:/a'}\n",
            "adapters: expected none: this setting is for kind: chat",
        ),
    ],
)
def test_adapters_that_do_not_hold_break_their_model_alone(load, tmp_path, text, told):
    file = own_file(tmp_path, "model/toy.yaml", text)
    config = load()
    assert config.broken["toy"].startswith(f"{file}: {told}")
    assert "smollm2" in config.models


def test_adapters_of_a_model_are_names_with_sources(load, tmp_path):
    own_file(tmp_path, "model/toy.yaml", f"{TOY}adapters: {{poet: 'path:/weights/poet', clerk: 'hub:me/clerk'}}\n")
    for _ in range(2):  # The second time it comes from the cache.
        entry = load().models["toy"]
        assert dict(entry.adapters) == {"poet": "path:/weights/poet", "clerk": "hub:me/clerk"}
        assert (entry.adapter("poet").name, entry.adapter("poet").source) == ("poet", "path:/weights/poet")


def test_a_model_that_is_answered_elsewhere_has_no_adapters_here(load, tmp_path):
    own_file(tmp_path, "model/far.yaml", "kind: chat\nprovider: openai\nadapters: {a: 'path:/a'}\n")
    assert "adapters: expected none: provider openai answers" in load().broken["far"]
