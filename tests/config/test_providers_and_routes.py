"""Providers and routes in files: what they say, and how a fault is told with its place."""

import pytest
from config_files import own_file

from mlzoo.errors import ConfigError, ModelNotFound

VLLM = "kind: openai\nbase_url: http://127.0.0.1:8000/v1\nmax_concurrency: 4\n"
BIG = "kind: chat\nprovider: vllm\nremote: big/model\ncapabilities: [tools]\naliases: [large]\n"


def refused(load, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    return caught.value.message


@pytest.fixture
def vllm(tmp_path):
    own_file(tmp_path, "provider/vllm.yaml", VLLM)
    own_file(tmp_path, "model/big.yaml", BIG)
    return tmp_path


def test_a_provider_of_ones_own_is_a_file_and_so_are_its_models(load, vllm):
    settings = load("providers.vllm.first_s=3.5")
    assert (settings.providers["vllm"].max_concurrency, settings.providers["vllm"].first_s) == (4, 3.5)
    assert (settings.model("large").remote, settings.model("big").capabilities) == ("big/model", ("tools",))
    assert {"openai", "anthropic", "vllm"} == set(settings.providers)
    assert load() == load(), "what was kept in the cache is what was composed"


def test_a_route_leads_to_models_by_name_and_alias_and_through_other_routes(load, vllm):
    own_file(vllm, "route/any.yaml", "chain: [inner, smollm2]\n")
    own_file(vllm, "route/inner.yaml", "chain: [large, smollm2]\n")
    settings = load()
    assert [entry.name for entry in settings.chain("any")] == ["big", "smollm2"]
    assert [entry.name for entry in settings.chain("large")] == ["big"]
    with pytest.raises(ModelNotFound, match="'any' is a route, and no model; it leads to big, smollm2"):
        settings.model("any")
    with pytest.raises(ModelNotFound) as caught:
        settings.chain("none")
    assert "any" in caught.value.data["available"]


def test_a_route_that_leads_back_to_itself_is_told_with_its_way(load, vllm):
    file = own_file(vllm, "route/a.yaml", "chain: [smollm2, b]\n")
    own_file(vllm, "route/b.yaml", "chain: [a]\n")
    broken = load().broken
    assert "the route leads back to itself: a -> b -> a" in broken["a"]
    assert "the route leads back to itself: b -> a -> b" in broken["b"]
    assert str(file) in broken["b"]


def test_a_route_to_nowhere_is_told_with_its_place_and_what_was_meant(load, vllm):
    file = own_file(vllm, "route/a.yaml", "chain: [smollm2, smolm2]\n")
    told = f"{file}: chain[1]: no model and no route is called 'smolm2'; did you mean smollm2?"
    assert load().broken["a"] == told
    assert refused(load, "routes.a.chain=[smolm2]").endswith("is called 'smolm2'; did you mean smollm2?")


def test_a_route_has_models_of_one_kind(load, vllm):
    file = own_file(vllm, "route/a.yaml", "chain: [smollm2, minilm]\n")
    assert load().broken["a"].startswith(f"{file}: chain: expected models of one kind")


@pytest.mark.parametrize(
    "text",
    [
        "chain: [\n",
        "chian: [smollm2]\n",
        "chain: 7\n",
        "- smollm2\n",
        'chain: ["${nope}"]\n',
        "chain: ???\n",
        "chain: [x]\n",
    ],
)
def test_a_route_that_does_not_hold_costs_itself_and_those_that_lead_to_it_alone(load, vllm, text):
    file = own_file(vllm, "route/bad.yaml", text)
    own_file(vllm, "route/outer.yaml", "chain: [smollm2, bad]\n")
    own_file(vllm, "route/fine.yaml", "chain: [smollm2]\n")
    settings = load()
    assert str(file) in settings.broken["bad"]
    assert "'bad' does not hold" in settings.broken["outer"]
    assert [entry.name for entry in settings.chain("fine")] == ["smollm2"]
    with pytest.raises(ModelNotFound, match=r"bad\.yaml"):
        settings.chain("bad")
    assert "'bad' does not hold" in load("routes.fine.chain=[bad]").broken["fine"]


def test_an_override_about_a_broken_route_is_refused_or_mends_it(load, vllm):
    file = own_file(vllm, "route/bad.yaml", "chain: [\n")
    assert str(file) in refused(load, "routes.bad.chain=[smollm2]")
    own_file(vllm, "route/bad.yaml", "chain: 7\n")
    assert [entry.name for entry in load("routes.bad.chain=[smollm2]").chain("bad")] == ["smollm2"]


def test_what_is_wrong_with_a_model_is_told_of_it_where_a_route_of_its_name_is_wrong_too(load, vllm):
    file = own_file(vllm, "model/bad.yaml", "kind: chatty\n")
    own_file(vllm, "route/bad.yaml", "chain: 7\n")
    assert str(file) in load().broken["bad"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: openai\n", "base_url: expected an http or https URL, got ''"),
        ("kind: openai\nbase_url: ftp://x\n", "base_url: expected an http or https URL"),
        ("kind: openai\nbase_url: http://me:pw@x/v1\n", "base_url: expected a URL without credentials"),
        ("kind: opanai\nbase_url: http://x\n", "kind: expected one of openai, anthropic, scripted"),
        ("kind: openai\nbase_url: http://x\nretries: -1\n", "retries: expected >= 0"),
        ("kind: openai\nbase_url: http://x\nkey: sk-1\n", "key: there is no such setting"),
        ("name: local\nkind: openai\nbase_url: http://x\n", "name: expected another name"),
    ],
)
def test_a_provider_that_does_not_hold_fails_alone_with_its_models_and_its_file_is_told(load, vllm, text, says):
    file = own_file(vllm, "provider/mine.yaml", text)
    model = own_file(vllm, "model/my-own.yaml", "kind: chat\nprovider: mine\n")
    settings = load()
    assert settings.broken_providers["mine"].startswith(f"{file}: {says}")
    assert set(settings.providers) == {"openai", "anthropic", "vllm"}
    assert settings.model("big").provider == "vllm"
    with pytest.raises(ModelNotFound, match="does not hold") as caught:
        settings.model("my-own")
    assert f"{model}: provider: that of 'mine' does not hold: {file}: {says}" in caught.value.message
    assert load() == settings, "what was kept in the cache is what was composed"


@pytest.mark.parametrize("text", ["kind: [openai\n", "- kind\n", "kind: openai\nbase_url: ${nowhere}\n", ""])
def test_nor_does_one_that_says_nothing_usable_keep_the_others_from_working(load, tmp_path, text):
    file = own_file(tmp_path, "provider/mine.yaml", text)
    settings = load()
    assert settings.broken_providers["mine"].startswith(str(file))
    assert "smollm2" in settings.models


def test_a_provider_that_has_another_name_than_its_broken_file_is_known_by_it(load, tmp_path):
    file = own_file(tmp_path, "provider/mine.yaml", "name: ours\nkind: openai\n")
    own_file(tmp_path, "model/my-own.yaml", "kind: chat\nprovider: ours\n")
    assert str(file) in load().broken["my-own"]


def test_an_override_about_a_broken_provider_is_refused_or_mends_it(load, tmp_path):
    own_file(tmp_path, "provider/mine.yaml", "kind: openai\n")
    assert "base_url: expected an http or https URL" in refused(load, "providers.mine.retries=2")
    assert load("providers.mine.base_url=http://x/v1").providers["mine"].base_url == "http://x/v1"


def test_a_route_to_a_model_of_a_broken_provider_is_broken_as_well_and_says_why(load, vllm):
    file = own_file(vllm, "provider/vllm.yaml", "kind: openai\n")
    own_file(vllm, "route/any.yaml", "chain: [smollm2, large]\n")
    own_file(vllm, "route/outer.yaml", "chain: [any]\n")
    own_file(vllm, "route/fine.yaml", "chain: [smollm2]\n")
    settings = load()
    assert [entry.name for entry in settings.chain("fine")] == ["smollm2"]
    for route in ("any", "outer"):
        with pytest.raises(ModelNotFound, match="'large' does not hold") as caught:
            settings.chain(route)
        assert str(file) in caught.value.message


def test_a_model_of_no_provider_is_broken_and_the_others_work(load, tmp_path):
    file = own_file(tmp_path, "model/lost.yaml", "kind: chat\nprovider: nobody\n")
    own_file(tmp_path, "model/both.yaml", "kind: chat\nprovider: openai\nsource: path:/x\n")
    settings = load()
    assert settings.broken["lost"].startswith(f"{file}: provider: no provider is called 'nobody' (there are local, ")
    assert "source: expected none" in settings.broken["both"]
    assert "smollm2" in settings.models
