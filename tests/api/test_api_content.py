"""What params of inference mean, and what this version does not serve yet."""

import pytest

from mlzoo.api.content import check_tools, embed_texts, stop_strings, told_messages, unsupported_features
from mlzoo.api.wire import structure
from mlzoo.errors import InvalidParams
from mlzoo.replay.volatile import canonical

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
CLOCK = {"type": "function", "function": {"name": "clock"}}
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
    assert told_messages(chat.messages) == (
        {"role": "system", "content": "S"},
        {"role": "user", "content": "one\ntwo"},
    )


CALL = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}


def test_null_beside_calls_of_the_assistant_is_no_text():
    sent = {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]}
    [told] = told_messages(structure("chat", sent).messages)
    assert (told["role"], told["content"], told["tool_calls"][0]["name"]) == ("assistant", "", "clock")
    assert canonical("chat", sent) == {"messages": [told]}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant"},
        {"role": "assistant", "tool_calls": []},
        {"role": "assistant", "tool_calls": None},
        {"role": "user", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c"},
        {"role": "system"},
    ],
)
def test_null_anywhere_else_is_refused(message):
    with pytest.raises(InvalidParams) as refused:
        structure("chat", {"messages": [{**message, "content": None}]})
    assert (refused.value.data["path"], refused.value.data["expected"]) == ("messages[0].content", "a string or a list")


def test_where_there_is_an_image_the_parts_are_told_one_by_one():
    text = {"type": "text", "text": "What is this?"}
    chat = structure("chat", {"messages": [{"role": "user", "content": [text, IMAGE]}]})
    [told] = told_messages(chat.messages)
    assert told == {"role": "user", "content": [text, IMAGE]}
    assert unsupported_features(chat) == []
    with_detail = {**IMAGE, "image_url": {**IMAGE["image_url"], "detail": "auto"}}
    sent = {"messages": [{"role": "user", "content": [text, with_detail]}]}
    assert canonical("chat", sent) == {"messages": [told]}
    assert told_messages(structure("chat", sent).messages) == (told,)


@pytest.mark.parametrize(
    ("params", "features"),
    [
        ({}, []),
        ({"key": "k"}, []),
        ({"persona": "p"}, []),
        ({"conversation": "new"}, []),
        ({"response_format": {"type": "json_object"}}, []),
        ({"tools": [CLOCK], "tool_choice": "required"}, []),
        ({"determinism": "exact"}, []),
        ({"determinism": "fast"}, []),
        ({"retention": "ephemeral"}, []),
        ({"retention": "keep"}, []),
        ({"provider": "openai"}, []),
        ({"provider": "local"}, []),
        ({"persona": "p", "provider": "openai", "tools": [CLOCK]}, []),
        ({"messages": [{"role": "tool", "content": "", "tool_call_id": "c"}]}, []),
    ],
)
def test_what_a_chat_asks_for_beyond_this_version_is_named(params, features):
    assert unsupported_features(structure("chat", HELLO | params)) == features


LISTS = {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
CALL = {"name": "clock", "arguments": '{"at": "noon"}'}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (CALL, {"id": "", **CALL}),
        ({"id": "c", **CALL}, {"id": "c", **CALL}),
        ({"id": "c", "type": "function", "function": CALL}, {"id": "c", **CALL}),
        ({"function": {"name": "clock"}}, {"id": "", "name": "clock", "arguments": "{}"}),
        ({"name": "clock"}, {"id": "", "name": "clock", "arguments": "{}"}),
    ],
)
def test_a_call_of_an_earlier_turn_is_told_in_one_way_however_it_was_sent(call, told):
    answered = {"role": "tool", "content": "12", "tool_call_id": "c"}
    turns = [{"role": "assistant", "content": "", "tool_calls": [call]}, answered]
    first, second = told_messages(structure("chat", {"messages": turns}).messages)
    assert first == {"role": "assistant", "content": "", "tool_calls": [told]}
    assert second == answered
    assert canonical("chat", {"messages": turns}) == {"messages": [first, second]}


@pytest.mark.parametrize("arguments", ["[]", "{", "", "noon"])
def test_arguments_of_an_earlier_turn_are_the_text_of_an_object(arguments):
    turn = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "clock", "arguments": arguments}}]}
    chat = structure("chat", {"messages": [turn]})
    if not arguments:
        assert told_messages(chat.messages)[0]["tool_calls"][0]["arguments"] == "{}"
        return
    with pytest.raises(InvalidParams) as caught:
        told_messages(chat.messages)
    assert caught.value.data["path"] == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"tools": [CLOCK, CLOCK]}, "tools[1].function.name"),
        ({"tools": [LISTS]}, "tools[0].function.parameters.type"),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice.function.name",
        ),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice.function.name"),
        ({"tool_choice": "required"}, "tools"),
        ({"tool_choice": "required", "tools": []}, "tools"),
    ],
)
def test_tools_that_cannot_be_called_as_asked_are_refused_with_the_place(params, path):
    with pytest.raises(InvalidParams) as caught:
        check_tools(structure("chat", HELLO | params))
    assert caught.value.data["path"] == path


@pytest.mark.parametrize("choice", ["none", "auto", "required", {"type": "function", "function": {"name": "clock"}}])
def test_tools_that_can_be_called_are_taken(choice):
    check_tools(structure("chat", HELLO | {"tools": [CLOCK], "tool_choice": choice}))


def test_other_methods_are_looked_at_too():
    assert unsupported_features(structure("complete", {"prompt": "", "provider": "openai"})) == []
    assert unsupported_features(structure("embed", {"input": "", "key": "k"})) == []
    assert unsupported_features(structure("tokenize", {"text": ""})) == []
    assert unsupported_features(structure("ping", None)) == []
