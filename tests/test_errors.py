"""What an error may guess about the one who made it."""

import pytest

from mlzoo.api.methods import METHODS
from mlzoo.errors import nearest


@pytest.mark.parametrize(
    ("name", "meant"), [("chatt", "chat"), ("model.list", "models.list"), ("tokenise", "tokenize")]
)
def test_a_name_that_was_mistyped_is_recognised(name, meant):
    assert nearest(name, METHODS) == f"; did you mean {meant}?"


@pytest.mark.parametrize("name", ["", "foo", "list", "help", "generate", "x" * 1000])
def test_a_name_that_is_near_none_gets_no_wild_guess(name):
    assert not nearest(name, METHODS)
