"""Forms that were compiled are kept for who asks again; not for ever, and not those that nobody may keep."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ask, load, run, save_causal

from mlzoo.inference.constraint import KEPT_FORMS, FormRefusal, grammar_of
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
THING = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    return load_chat(load(save_causal(tmp_path_factory.mktemp("tiny")), compile="none"), torch.device("cpu"))


def by(schema):
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}


def pattern(text):
    return {"type": "regex", "pattern": text}


def test_a_form_that_is_asked_for_again_needs_no_compiling_until_it_is_forgotten(tiny):
    first, grammar = tiny.constraints.compiled(grammar_of(by(THING)), ()).result(), grammar_of(by(THING))
    first.take(first.guess((), 1, 0.0)[0])
    again = tiny.constraints.compiled(grammar, ())
    assert again.done()
    assert again.result().guess((), 9, 0.0) != first.guess((), 9, 0.0), "it stands where the first one stands by now"
    tiny.constraints.forget()
    assert grammar not in tiny.constraints._forms


def test_few_forms_are_kept_and_none_that_is_no_form(tiny):
    tiny.constraints.forget()
    patterns = [f"a{{{number}}}" for number in range(1, KEPT_FORMS + 9)]
    for text in patterns:
        tiny.constraints.compiled(grammar_of(pattern(text)), ()).result()
    assert len(tiny.constraints._forms) == KEPT_FORMS
    for _ in range(2):
        refused = tiny.constraints.compiled(grammar_of(pattern("(")), ())
        assert isinstance(refused.exception(), FormRefusal)


def test_nothing_stays_of_the_form_of_an_ephemeral_request(tiny):
    secret = pattern("my secret [0-9]")
    tiny.constraints.forget()
    heard = run(BatchEngine(tiny), ask("r", response_format=secret, ephemeral=True))
    assert heard.text("r").startswith("my secret ")
    assert not tiny.constraints._forms
    run(BatchEngine(tiny), ask("s", response_format=secret))
    run(BatchEngine(tiny), ask("t", response_format=secret, ephemeral=True))
    assert len(tiny.constraints._forms) == 1, "what somebody else had said already stays theirs"
