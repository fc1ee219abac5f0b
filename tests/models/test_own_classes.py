"""Classes of a user's own, in a package of their own, are found by their names as those here are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from zoo_specs import answer, made, texts, train

from mlzoo.errors import ConfigError
from mlzoo.models.artifact import load, save
from mlzoo.parts import known

pytestmark = pytest.mark.torch
PAGE = Path(__file__).parents[2] / "docs" / "own-models.md"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package with the class of the documentation, and one that cannot be imported."""
    part = PAGE.read_text(encoding="utf-8").split("\n## Register your own class\n")[1]
    (code,) = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    place = tmp_path / "installed"
    about = place / "my_package-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    points = "[mlzoo.backbones]\nzoo-test-gru = zoo_test_gru:TinyGru\nzoo-test-gone = zoo_test_gone:Gone\n"
    (about / "entry_points.txt").write_text(points)
    (place / "zoo_test_gru.py").write_text(code)
    monkeypatch.syspath_prepend(place)


def test_the_class_of_the_documentation_is_found_learns_and_comes_back(package, encoder, tmp_path):
    plain = {**texts(), "backbone": {"kind": "zoo-test-gru", "width": 16}}
    model, spec = made(plain, encoder)
    inputs = ["one two", "the quick brown fox jumps", "one seven", "the lazy dog"]
    train(model, inputs, ["bad", "good", "bad", "good"])
    assert [said["label"] for said in answer(model, inputs)] == ["bad", "good", "bad", "good"]
    alone = [answer(model, [text])[0]["score"] for text in inputs]
    np.testing.assert_allclose(alone, [said["score"] for said in answer(model, inputs)], atol=1e-5)
    save(model, spec, tmp_path / "artifact")
    assert answer(load(tmp_path / "artifact"), inputs) == answer(model, inputs)


def test_its_name_is_among_those_that_there_are_and_its_options_are_checked(package, encoder):
    assert {"zoo-test-gru", "transformer"} <= set(known("backbone"))
    with pytest.raises(ConfigError, match="did you mean zoo-test-gru"):
        made({**texts(), "backbone": {"kind": "zoo-test-gro"}}, encoder)
    with pytest.raises(ConfigError, match=r"backbone.widht: .*did you mean width"):
        made({**texts(), "backbone": {"kind": "zoo-test-gru", "widht": 3}}, encoder)


def test_a_package_that_cannot_be_imported_is_named(package, encoder):
    with pytest.raises(ConfigError, match=r"zoo_test_gone:Gone, which my-package declares, cannot be imported"):
        made({**texts(), "backbone": {"kind": "zoo-test-gone"}}, encoder)


def test_without_the_package_the_name_stands_for_nothing(encoder):
    with pytest.raises(ConfigError, match=r"a package adds one by an entry point of the group mlzoo.backbones"):
        made({**texts(), "backbone": {"kind": "zoo-test-gru"}}, encoder)
