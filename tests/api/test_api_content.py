"""What params of inference mean, and what this version does not serve yet."""

import pytest

from mlzoo.api.content import embed_texts, plain_messages, stop_strings, unsupported_features
from mlzoo.api.wire import structure
from mlzoo.errors import Unsupported

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}


@pytest.mark.parametrize(("sent", "strings"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stop_strings_are_none_or_several(sent, strings):
    assert stop_strings(structure("chat", HELLO | {"stop": sent})) == strings


@pytest.mark.parametrize(("sent", "texts"), [("ab", ("ab",)), (["a", "b"], ("a", "b"))])
def test_texts_to_embed_are_several_also_where_one_was_sent(sent, texts):
    assert embed_texts(structure("embed", {"input": sent})) == texts


def test_parts_of_text_are_joined_by_newlines():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    chat = structure("chat", {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": parts}]})
    assert plain_messages(chat.messages) == (
        {"role": "system", "content": "S"},
        {"role": "user", "content": "one\ntwo"},
    )


def test_an_image_is_unsupported_and_never_dropped():
    chat = structure("chat", {"messages": [{"role": "user", "content": [IMAGE]}]})
    assert unsupported_features(chat) == ["vision"]
    with pytest.raises(Unsupported) as caught:
        plain_messages(chat.messages)
    assert caught.value.data == {"feature": "vision"}


@pytest.mark.parametrize(
    ("params", "features"),
    [
        ({}, []),
        ({"key": "k"}, []),
        ({"persona": "p"}, ["persona"]),
        ({"conversation": "new"}, []),
        ({"response_format": {"type": "json_object"}}, ["response_format"]),
        ({"response_format": {"type": "text"}}, []),
        ({"tools": [{"type": "function"}]}, ["tools"]),
        ({"tools": []}, []),
        ({"tool_choice": "required"}, ["tool_choice"]),
        ({"tool_choice": {"type": "function"}}, ["tool_choice"]),
        ({"tool_choice": "none"}, []),
        ({"determinism": "exact"}, []),
        ({"determinism": "fast"}, []),
        ({"retention": "ephemeral"}, []),
        ({"retention": "keep"}, []),
        ({"provider": "openai"}, []),
        ({"provider": "local"}, []),
        ({"persona": "p", "tools": [{}], "messages": [{"role": "tool", "content": ""}]}, ["persona", "tools"]),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, ["tools"]),
        ({"messages": [{"role": "tool", "content": "", "tool_call_id": "c"}]}, ["tools"]),
    ],
)
def test_what_a_chat_asks_for_beyond_this_version_is_named(params, features):
    assert unsupported_features(structure("chat", HELLO | params)) == features


def test_other_methods_are_looked_at_too():
    assert unsupported_features(structure("complete", {"prompt": "", "provider": "openai"})) == []
    assert unsupported_features(structure("embed", {"input": "", "key": "k"})) == []
    messages = [{"role": "user", "content": [IMAGE]}]
    assert unsupported_features(structure("tokenize", {"messages": messages})) == ["vision"]
    assert unsupported_features(structure("tokenize", {"text": ""})) == []
    assert unsupported_features(structure("ping", None)) == []
