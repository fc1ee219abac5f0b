"""Personas from files: what they say, what they inherit, and that one which does not hold costs itself alone."""

import pytest

from mlzoo.config.files import ConfigFile
from mlzoo.config.personas import personas_of


def personas(**texts):
    files = {f"persona/{name}": ConfigFile(f"/etc/{name}.yaml", text) for name, text in texts.items()}
    return personas_of({"model/toy": ConfigFile("/etc/toy.yaml", "3"), **files}, {"toy", "small"})


def test_a_file_is_a_persona_of_its_name_and_may_extend_another():
    entries, broken = personas(
        base="system: be kind\nsampling: {temperature: 0.5, top_k: 3}\ntruncation: {policy: keep_last, turns: 4}",
        child="extends: base\nname: junior\nsystem: be brief\nsampling: {top_k: 9}\nmodel: small",
    )
    assert broken == {}
    junior = entries["junior"]
    assert (junior.system, junior.model, junior.truncation.turns) == ("be brief", "small", 4)
    assert (junior.sampling.temperature, junior.sampling.top_k) == (0.5, 9)
    assert entries["base"].sampling.top_k == 3


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ({"bad": "system: 3"}, "/etc/bad.yaml: system: expected a string, got 3"),
        ({"bad": "systen: x"}, "did you mean system?"),
        ({"bad": "model: smal"}, "/etc/bad.yaml: model: no model is called 'smal'; did you mean small?"),
        ({"bad": "extends: nobody"}, "/etc/bad.yaml: extends: there is no persona 'nobody'"),
        ({"bad": "extends: bad"}, "bad extends bad: that is a circle"),
        ({"bad": "extends: other", "other": "extends: bad"}, "bad extends other extends bad: that is a circle"),
        ({"bad": "truncation: {policy: burn}"}, "expected one of drop_oldest, keep_last, none, summarise"),
        ({"bad": "a: [1"}, "/etc/bad.yaml, line 1: not YAML"),
        ({"bad": "name: good"}, "two configuration files describe a persona called 'good'"),
    ],
)
def test_one_that_does_not_hold_costs_itself_alone(texts, why):
    entries, broken = personas(a_good="name: good", **texts)
    assert why in broken["bad"]
    assert "good" in entries
