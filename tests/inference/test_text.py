"""Prompts and chat templates, and what is said where they do not go together."""

from __future__ import annotations

import pytest
from tiny_models import TEMPLATE, tokenizer

from mlzoo.errors import InvalidParams, MlzooError, Unsupported
from mlzoo.inference.failing import broken
from mlzoo.inference.text import DETAIL_CHARS, Text

pytestmark = pytest.mark.torch
MARKER = "xyzzy-4711"
TELLTALE = "{% for m in messages %}{{ raise_exception('I do not take ' + m.role + ': ' + m.content) }}{% endfor %}"
ADDING = "{{ messages[0].content + 1 }}"


def text(template=TEMPLATE):
    return Text(tokenizer(template=template), "tiny")


def failure(text, message):
    """Return what becomes of a message that is not taken, as the worker says it."""
    with pytest.raises(MlzooError) as caught:
        text.read(None, (message,))
    return broken("r", caught.value)


@pytest.mark.parametrize("template", [TELLTALE, ADDING, "{% nonsense %}"])
def test_what_a_template_says_of_messages_is_text_and_never_a_failures_message(template):
    failed = failure(text(template), {"role": MARKER, "content": MARKER})
    assert (failed.code, failed.data) == (-32602, {"path": "messages"})
    assert MARKER not in failed.message
    assert "chat template of tiny" in failed.message
    assert (MARKER in failed.detail) == (template == TELLTALE)


def test_the_words_of_a_template_have_an_end():
    failed = failure(text(TELLTALE), {"role": "user", "content": "x" * 5000})
    assert len(failed.detail) == DETAIL_CHARS


def test_a_part_that_is_no_text_is_refused_without_its_words():
    failed = failure(text(), {"role": "user", "content": [{"type": MARKER, "text": MARKER}]})
    assert (failed.code, failed.data["model"]) == (1010, "tiny")
    assert MARKER not in str(failed)


def test_an_error_of_a_library_is_named_by_its_kind_alone():
    failed = broken("r", ValueError(MARKER))
    assert (failed.code, failed.detail, failed.data) == (-32603, "", {})
    assert MARKER not in failed.message
    assert "ValueError" in failed.message
    assert "ValueError" in failed.story  # for the sidecar's own log


def test_a_model_without_a_template_takes_no_messages():
    with pytest.raises(Unsupported):
        text(None).read(None, ({"role": "user", "content": MARKER},))


def test_an_empty_prompt_begins_with_the_models_first_token():
    assert text().read("", None) == (0,)
    bare = tokenizer()
    bare.bos_token = bare.eos_token = None
    with pytest.raises(InvalidParams):
        Text(bare, "tiny").read("", None)
