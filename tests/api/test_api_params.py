"""Params as hosts send them, and each way in which they are refused."""

import json
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from schema_reader import any_json

from mlzoo.api import inference, lifecycle, models, observation
from mlzoo.api.inference import TOKEN_MAX, TOKENS_MAX
from mlzoo.api.methods import METHODS
from mlzoo.api.wire import shown, structure
from mlzoo.errors import InvalidParams
from mlzoo.replay.volatile import SECRETS, canonical

USER = {"role": "user", "content": "Hello"}
HELLO = {"messages": [USER]}


def refusal(method, params):
    with pytest.raises(InvalidParams) as caught:
        structure(method, params)
    return caught.value


# -------------------------------------------------------------------------------------------------------- accepted


def test_initialize_names_the_host():
    assert structure(
        "initialize", {"protocol_version": "1", "client": {"name": "app", "version": "2.0"}}
    ) == lifecycle.InitializeParams(protocol_version="1", client=lifecycle.Client(name="app", version="2.0"))


def test_a_chat_needs_only_messages_and_the_defaults_are_the_protocols():
    chat = structure("chat", HELLO)
    assert chat.messages == (inference.Message(role="user", content="Hello"),)
    given_by_default = {
        field.name: getattr(chat, field.name)
        for field in attrs.fields(inference.ChatParams)
        if getattr(chat, field.name) is not None and field.name != "messages"
    }
    assert given_by_default == {
        "stream": False,
        "logprobs": False,
        "priority": "interactive",
        "determinism": "fast",
        "retention": "keep",
    }


def test_a_chat_with_all_that_the_protocol_has():
    everything = {
        "model": "smollm2",
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "name": "sum"}]},
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
        ],
        "persona": "butler",
        "conversation": "new",
        "stream": True,
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "stop": ["\n", "END"],
        "seed": 2**53 - 1,
        "logprobs": True,
        "top_logprobs": 20,
        "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "sum", "parameters": {}}}],
        "tool_choice": "auto",
        "key": "order-1",
        "deadline_ms": 1000,
        "priority": "batch",
        "determinism": "exact",
        "retention": "ephemeral",
        "require_device": "cuda:0",
        "provider": "local",
        "adapter": "a",
    }
    chat = structure("chat", everything)
    assert {field.name for field in attrs.fields(inference.ChatParams)} == set(everything)
    assert chat.stop == ("\n", "END")
    assert chat.messages[1].content == (inference.TextPart(type="text", text="Hi"),)


def test_complete_takes_the_same_fields_but_those_of_a_conversation():
    chat = {field.name for field in attrs.fields(inference.ChatParams)}
    complete = {field.name for field in attrs.fields(inference.CompleteParams)}
    assert chat - complete == {"messages", "persona", "conversation", "tools", "tool_choice"}
    assert complete - chat == {"prompt"}
    assert structure("complete", {"prompt": "Once", "max_tokens": 3}).prompt == "Once"


@pytest.mark.parametrize(("sent", "kept"), [("a", "a"), (["a", "b"], ("a", "b"))])
def test_embed_takes_a_text_or_several(sent, kept):
    params = structure("embed", {"input": sent})
    assert params.input == kept
    assert params.normalize is True


def test_tokenize_takes_a_text_or_messages():
    assert structure("tokenize", {"text": ""}).text == ""
    assert structure("tokenize", HELLO).messages == (inference.Message(role="user", content="Hello"),)
    assert structure("detokenize", {"tokens": [0, 1]}).tokens == (0, 1)


@pytest.mark.parametrize("params", [{"request": 1}, {"request": "a"}, {"request": -(2**53)}, {"key": "k"}])
def test_cancel_names_a_request_by_id_or_key(params):
    assert structure("cancel", params) == inference.CancelParams(**params)


def test_the_params_of_models():
    assert structure("models.load", {"model": "m"}) == models.ModelsLoadParams(model="m", device="auto", pin=False)
    assert structure("models.pull", {"model": "m", "accept_license": True}).accept_license is True
    assert structure("models.estimate", {"model": "m", "context": 2048}).context == 2048
    for method in ("models.info", "models.remove", "models.unload"):
        assert structure(method, {"model": "m"}) == models.ModelParams(model="m")


def test_the_params_of_events():
    read = structure("events.read", {"after": -1, "limit": 5, "types": ["RequestFailed"], "request": "req-1"})
    assert read == observation.EventsReadParams(after=-1, limit=5, types=("RequestFailed",), request="req-1")
    assert structure("events.read", {}) == observation.EventsReadParams()
    assert structure("events.subscribe", None) == observation.EventsSubscribeParams()
    assert structure("events.unsubscribe", {"subscription": "s"}).subscription == "s"


def test_an_integer_is_a_number_and_becomes_one():
    assert isinstance(structure("chat", HELLO | {"temperature": 1}).temperature, float)


def test_null_stands_for_absent_where_a_field_may_be_absent():
    assert structure("chat", HELLO | {"model": None, "stop": None, "seed": None}) == structure("chat", HELLO)


def test_the_hosts_own_key_is_dropped():
    assert structure("chat", HELLO | {"_meta": {"anything": [1]}}) == structure("chat", HELLO)


# --------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("method", METHODS)
def test_params_by_position_are_refused(method):
    assert refusal(method, ["smollm2"]).data == {"path": "", "expected": "an object"}


ROLES = 'one of "system", "user", "assistant", "tool"'


def said(content):
    return {"messages": [{"role": "user", "content": content}]}


ANY_FORMAT = 'one of "text", "json_object", "json_schema", "regex", "grammar"'
A_SCHEMA, A_TEXT = "response_format.json_schema.schema", "a string of at least 1 character"
KINDS = [
    ({"messages": "Hello"}, "messages", "a list"),
    ({"messages": []}, "messages", "a list of at least 1 item and at most 10000 items"),
    ({"messages": ["Hello"]}, "messages[0]", "an object"),
    ({"messages": [USER, {"role": "usr", "content": "x"}]}, "messages[1].role", ROLES),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", ROLES),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "a string or a list"),
    (said(None), "messages[0].content", "a string or a list"),
    (said([]), "messages[0].content", "a list of at least 1 item and at most 10000 items"),
    (said(["x"]), "messages[0].content[0]", "an object"),
    (said([{"type": "audio"}]), "messages[0].content[0].type", 'one of "text", "image_url"'),
    (said([{"type": "text", "text": 1}]), "messages[0].content[0].text", "a string"),
    (said([{"type": "image_url", "image_url": {"url": 1}}]), "messages[0].content[0].image_url.url", "a string"),
    ({"model": 1}, "model", "a string"),
    ({"model": ""}, "model", "a string of at least 1 character and at most 256 characters"),
    ({"model": "m" * 257}, "model", "a string of at least 1 character and at most 256 characters"),
    ({"stream": 1}, "stream", "true or false"),
    ({"stream": None}, "stream", "true or false"),
    ({"max_tokens": "1"}, "max_tokens", "an integer"),
    ({"max_tokens": True}, "max_tokens", "an integer"),
    ({"max_tokens": 1.0}, "max_tokens", "an integer"),
    ({"max_tokens": 2**63}, "max_tokens", "an integer within +-2^53"),
    ({"max_tokens": 0}, "max_tokens", f"an integer at least 1 and at most {2**53}"),
    ({"temperature": "1"}, "temperature", "a number"),
    ({"temperature": True}, "temperature", "a number"),
    ({"temperature": math.nan}, "temperature", "a finite number"),
    ({"temperature": math.inf}, "temperature", "a finite number"),
    ({"temperature": -0.1}, "temperature", "a number at least 0"),
    ({"top_p": 0}, "top_p", "a number above 0 and at most 1"),
    ({"top_p": 1.01}, "top_p", "a number above 0 and at most 1"),
    ({"top_k": -1}, "top_k", f"an integer at least 0 and at most {2**53}"),
    ({"min_p": -0.1}, "min_p", "a number at least 0 and at most 1"),
    ({"min_p": 1.1}, "min_p", "a number at least 0 and at most 1"),
    ({"repetition_penalty": 0}, "repetition_penalty", "a number above 0"),
    ({"stop": 1}, "stop", "a string or a list"),
    ({"stop": ""}, "stop", "a string of at least 1 character"),
    ({"stop": ["a", 1]}, "stop[1]", "a string"),
    ({"stop": ["a", ""]}, "stop[1]", "a string of at least 1 character"),
    ({"stop": ["a"] * 17}, "stop", "a list of at most 16 items"),
    ({"seed": -1}, "seed", f"an integer at least 0 and at most {2**53 - 1}"),
    ({"seed": 2**53}, "seed", f"an integer at least 0 and at most {2**53 - 1}"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "an integer at least 0 and at most 20"),
    ({"top_logprobs": 1}, "top_logprobs", "top_logprobs only where logprobs is true"),
    ({"deadline_ms": 0}, "deadline_ms", f"an integer at least 1 and at most {2**53}"),
    ({"priority": "urgent"}, "priority", 'one of "interactive", "batch"'),
    ({"determinism": "slow"}, "determinism", 'one of "fast", "exact"'),
    ({"retention": "drop"}, "retention", 'one of "keep", "ephemeral"'),
    ({"tools": {}}, "tools", "a list"),
    ({"tools": ["x"]}, "tools[0]", "an object"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "an object"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "a string"),
    ({"tool_choice": 1}, "tool_choice", 'one of "none", "auto", "required" or an object'),
    ({"tool_choice": "always"}, "tool_choice", 'one of "none", "auto", "required"'),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function", "an object"),
    ({"response_format": "json"}, "response_format", "an object"),
    ({"response_format": {}}, "response_format.type", ANY_FORMAT),
    ({"response_format": {"type": "yaml"}}, "response_format.type", ANY_FORMAT),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "an object"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, A_SCHEMA, "an object"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}}, A_SCHEMA, "an object"),
    ({"response_format": {"type": "regex", "pattern": ""}}, "response_format.pattern", A_TEXT),
    ({"response_format": {"type": "regex"}}, "response_format.pattern", "a string"),
    ({"response_format": {"type": "grammar", "grammar": 1}}, "response_format.grammar", "a string"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "path", "expected"), KINDS)
def test_a_chat_is_refused_with_the_place_and_what_should_stand_there(params, path, expected):
    error = refusal("chat", HELLO | params)
    assert error.data["path"] == path
    assert error.data["expected"] == expected
    assert error.message.startswith(f"{path}: expected {expected}") or "this is missing" in error.message


@pytest.mark.parametrize(
    ("method", "params", "path", "expected"),
    [
        ("chat", {}, "messages", "a list"),
        ("complete", {}, "prompt", "a string"),
        ("embed", {}, "input", "a string or a list"),
        ("embed", {"input": []}, "input", "a list of at least 1 item"),
        ("embed", {"input": ["a", None]}, "input[1]", "a string"),
        ("embed", {"input": "a", "normalize": "yes"}, "normalize", "true or false"),
        ("tokenize", {}, "messages", "exactly one of text and messages"),
        ("tokenize", {"text": "a", **HELLO}, "messages", "exactly one of text and messages"),
        ("detokenize", {"tokens": "1"}, "tokens", "a list"),
        ("detokenize", {"tokens": [1, -1]}, "tokens[1]", "an integer at least 0"),
        ("cancel", {}, "key", "exactly one of request and key"),
        ("cancel", {"request": 1, "key": "k"}, "key", "exactly one of request and key"),
        ("cancel", {"request": 1.5}, "request", "a string or an integer"),
        ("cancel", {"request": True}, "request", "a string or an integer"),
        ("initialize", {"protocol_version": "1"}, "client", "an object"),
        ("initialize", {"protocol_version": "1", "client": {"name": "a"}}, "client.version", "a string"),
        ("models.load", {}, "model", "a string"),
        ("models.estimate", {"model": "m", "context": 0}, "context", f"an integer at least 1 and at most {2**53}"),
        ("events.read", {"after": -2}, "after", f"an integer at least -1 and at most {2**53}"),
        ("events.read", {"limit": 10_001}, "limit", "an integer at least 1 and at most 10000"),
        ("events.read", {"types": [""]}, "types[0]", "a string of at least 1 character"),
        ("events.unsubscribe", {}, "subscription", "a string"),
    ],
)  # fmt: skip
def test_other_params_are_refused_with_the_place_and_what_should_stand_there(method, params, path, expected):
    error = refusal(method, params)
    assert error.data["path"] == path
    assert error.data["expected"].startswith(expected)


def test_an_unknown_protocol_version_is_answered_with_those_that_are_served():
    error = refusal("initialize", {"protocol_version": "2", "client": {"name": "a", "version": "1"}})
    assert error.data == {"path": "protocol_version", "expected": '"1"', "allowed": ["1"]}


@pytest.mark.parametrize(
    ("params", "path", "meant"),
    [
        (HELLO | {"temprature": 1}, "temprature", "temperature"),
        ({"messages": [USER | {"contents": ""}]}, "messages[0].contents", "content"),
        (HELLO | {"stop_strings": []}, "stop_strings", None),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_nearest_name(params, path, meant):
    error = refusal("chat", params)
    assert error.data["path"] == path
    assert f"{path}: there is no such parameter" in error.message
    assert meant is None or error.message.endswith(f"did you mean {meant}?")


def test_a_misspelt_role_is_refused_with_the_nearest():
    assert refusal("chat", {"messages": [{"role": "asistant", "content": ""}]}).message.endswith(
        "did you mean assistant?"
    )


def test_several_faults_are_told_together():
    message = refusal("chat", {"mesages": [], "seed": "1"}).message
    assert "messages: this is missing" in message
    assert "mesages: there is no such parameter; did you mean messages?" in message
    assert "seed: expected an integer, got a string" in message


def test_a_long_list_of_faults_costs_one_and_many_unknown_keys_a_few():
    message = refusal("embed", {"input": [1] * 100_000}).message
    assert message == "input[0]: expected a string, got an integer"
    message = refusal("embed", {"input": "a"} | {f"key{index}": 1 for index in range(10_000)}).message
    assert message.count("no such parameter") == 3
    assert message.endswith("(and more)")


def test_a_list_that_is_too_long_is_refused_before_its_items_are_looked_at():
    error = refusal("chat", {"messages": [None] * 10_001})
    assert error.data == {"path": "messages", "expected": "a list of at least 1 item and at most 10000 items"}


def test_a_long_list_with_one_fault_at_its_end_names_that_one():
    assert refusal("detokenize", {"tokens": [1] * 1000 + [True]}).data["path"] == "tokens[1000]"
    assert refusal("detokenize", {"tokens": [1] * 1000 + [2**53 + 1]}).data["path"] == "tokens[1000]"
    assert refusal("detokenize", {"tokens": [1] * 1000 + [-1]}).data["path"] == "tokens[1000]"


def test_no_value_of_the_hosts_is_repeated_in_an_error():
    secret = "my diary"
    for params in (
        {"messages": [{"role": secret, "content": ""}]},
        {"messages": secret},
        HELLO | {"temperature": secret},
        HELLO | {"stop": [secret, 1]},
        HELLO | {"priority": secret},
    ):
        error = refusal("chat", params)
        assert secret not in error.message
        assert secret not in str(error.data)


def test_classes_check_their_ranges_also_where_the_code_makes_them():
    with pytest.raises(InvalidParams, match="above 0"):
        inference.CompleteParams(prompt="", top_p=0.0)


NAMES = sorted({field.name for spec in METHODS.values() for field in attrs.fields(spec.params)} | {"_meta", "x"})


@given(
    method=st.sampled_from(sorted(METHODS)),
    params=any_json | st.dictionaries(st.sampled_from(NAMES), any_json, max_size=4),
)
def test_whatever_is_sent_gives_params_or_a_refusal(method, params):
    match outcome(method, params):
        case InvalidParams() as refused:
            assert refused.message
            assert isinstance(refused.data["path"], str)
            assert refused.data["expected"]
            json.dumps(refused.data)
        case made:
            assert type(made) is METHODS[method].params


def outcome(method, params):
    try:
        return structure(method, params)
    except InvalidParams as error:
        return error


def test_tokens_to_be_turned_into_text_are_bounded_in_number_and_size():
    assert structure("detokenize", {"tokens": [0, TOKEN_MAX]}).tokens == (0, TOKEN_MAX)
    assert len(structure("detokenize", {"tokens": [7] * TOKENS_MAX}).tokens) == TOKENS_MAX
    too_many = refusal("detokenize", {"tokens": [7] * (TOKENS_MAX + 1)})
    assert too_many.data == {"path": "tokens", "expected": f"a list of at most {TOKENS_MAX} items"}
    too_large = refusal("detokenize", {"tokens": [1, TOKEN_MAX + 1]})
    assert too_large.data["path"] == "tokens[1]"
    assert too_large.data["expected"] == f"an integer at least 0 and at most {TOKEN_MAX}"


@pytest.mark.parametrize("key", ["my secret is x", "geheimnis-ß", "x" * 65, '"', "a.b", ""])
def test_an_unknown_key_that_is_no_name_of_a_programs_is_not_repeated(key):
    for params in ({key: 1}, {"input": "a", key: 1}):
        found = refusal("embed", params)
        assert not key or key not in str((found.message, found.data))
    assert refusal("embed", {"input": "a", key: 1}).data["path"] == ""
    assert refusal("embed", {"input": "a", "top-k": 1}).data["path"] == "top-k"


def test_what_is_marked_as_a_secret_is_replaced_before_it_is_recorded_and_taken_for_any_text_in_a_replay():
    marked = {
        name: [f.name for f in attrs.fields(spec.params) if f.metadata.get("secret")] for name, spec in METHODS.items()
    }
    assert {name for name, fields in marked.items() if fields} == {n for n, spec in METHODS.items() if spec.secret}
    for method, fields in marked.items():
        assert list(SECRETS.get(method, ())) == fields
        for field in fields:
            assert shown(method, {field: "hush"}) == {field: "[secret]"}
            assert canonical(method, {field: "hush"}) == canonical(method, {field: "[secret]"})
            assert "hush" not in str(shown(method, {"other": "hush", "hush": 1})) + str(shown(method, ["hush"]))
