"""The OpenRPC document: its form, and that it says what the code does."""

import functools
import json
import re

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schema_reader import faults, resolve, unserved, values

from mlzoo import errors
from mlzoo.api import inference, lifecycle
from mlzoo.api.content import unsupported_features
from mlzoo.api.fields import checked
from mlzoo.api.methods import METHODS
from mlzoo.api.notifications import NOTIFICATIONS
from mlzoo.api.openrpc import document
from mlzoo.api.wire import structure, unstructure

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
METHOD_KEYS = {"name", "summary", "description", "paramStructure", "params", "result", "errors", "x-params"}


@attrs.frozen(kw_only=True)
class Happened:
    """Something happened."""

    request: str
    pair: tuple[str, float] = ("a", 1.0)
    timing: inference.Timing | None = None


@functools.cache
def made():
    return document(events={"Happened": Happened})


def components():
    return made()["components"]["schemas"]


def every_schema(node):
    if isinstance(node, dict):
        yield node
        for inner in node.values():
            yield from every_schema(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from every_schema(inner)


def test_the_document_has_the_form_of_openrpc():
    whole = json.loads(json.dumps(made()))
    assert re.fullmatch(r"1\.3\.\d", whole["openrpc"])
    assert {"title", "version"} <= set(whole["info"])
    assert {key for key in whole if not key.startswith("x-")} == {"openrpc", "info", "methods", "components"}
    names = [method["name"] for method in whole["methods"]]
    assert names == list(METHODS)
    for method in whole["methods"]:
        assert set(method) <= METHOD_KEYS
        assert method["paramStructure"] == "by-name"
        assert {"name", "schema"} == set(method["result"])
        required = [descriptor["required"] for descriptor in method["params"]]
        assert required == sorted(required, reverse=True), "required ones come first"
        for descriptor in method["params"]:
            assert set(descriptor) <= {"name", "required", "schema", "description"}
        assert len({descriptor["name"] for descriptor in method["params"]}) == len(method["params"])
    for name in [*whole["components"]["schemas"], *whole["components"]["errors"]]:
        assert re.fullmatch(r"[a-zA-Z0-9.\-_]+", name)


def test_every_reference_leads_somewhere():
    for node in every_schema(made()):
        if "$ref" in node:
            _, kind, name = node["$ref"].removeprefix("#/").split("/")
            assert name in made()["components"][kind]


@pytest.mark.parametrize("name", sorted(components()))
def test_every_schema_uses_only_keywords_that_it_may(name):
    schema = resolve(components()[name], components())
    assert schema["type"] == "object"
    assert schema["description"]
    assert set(schema["required"]) <= set(schema["properties"])
    for inner in schema["properties"].values():
        resolve(inner, components())


def test_the_params_of_a_method_are_the_fields_of_its_class():
    for method in made()["methods"]:
        names = {descriptor["name"] for descriptor in method["params"]}
        assert names == {field.name for field in attrs.fields(METHODS[method["name"]].params)}


def test_the_chat_schema_tells_defaults_enums_ranges_and_meaning():
    chat = components()["ChatParams"]
    assert chat["required"] == ["messages"]
    assert chat["additionalProperties"] is False
    top_p = chat["properties"]["top_p"]
    assert (top_p["type"], top_p["exclusiveMinimum"], top_p["maximum"]) == ("number", 0, 1)
    assert top_p["description"]
    assert chat["properties"]["priority"]["enum"] == ["interactive", "batch"]
    assert chat["properties"]["priority"]["default"] == "interactive"
    assert chat["properties"]["stream"]["default"] is False
    assert chat["properties"]["stop"]["anyOf"][1]["items"] == {"type": "string", "minLength": 1}


def test_what_a_host_hears_stays_open_and_what_it_says_is_closed():
    for name in ("ChatResult", "Stream", "StatusResult"):
        assert "additionalProperties" not in components()[name]
    for name in ("ChatParams", "Message", "TextPart", "Client"):
        assert components()[name]["additionalProperties"] is False


def test_a_result_promises_all_that_it_never_leaves_out():
    assert set(components()["InitializeResult"]["required"]) == {
        "protocol_version", "server", "capabilities", "limits", "connection",
    }  # fmt: skip
    assert "role" in components()["AnswerMessage"]["required"]
    assert "degraded" not in components()["ChatResult"]["required"]


def test_secret_fields_are_marked():
    @attrs.frozen
    class Authenticate:
        """A credential."""

        secret: str = attrs.field(metadata={"description": "It.", "secret": True})

    shown = document(events={"Authenticate": Authenticate})["components"]["schemas"]
    (name,) = [name for name in shown if name.endswith("Authenticate")]
    assert shown[name]["properties"]["secret"]["x-secret"] is True


def test_every_error_of_the_protocol_is_listed_with_code_type_and_retryable():
    listed = made()["components"]["errors"]
    codes = [error["code"] for error in listed.values()]
    assert sorted(codes) == sorted([-32800, *range(-32603, -32599), -32700, *range(1001, 1018)])
    assert listed["overloaded"]["data"] == {"type": "overloaded", "retryable": True}
    for error in listed.values():
        (cls,) = [cls for cls in errors.MlzooError.__subclasses__() if vars(cls).get("code") == error["code"]]
        assert error["data"] == {"type": cls.type, "retryable": cls.retryable}
        assert "fault" in error["message"] or "mend" in error["message"], "each says whose fault it is"


def test_notifications_are_listed():
    assert (
        [shown["name"] for shown in made()["x-notifications"]]
        == list(NOTIFICATIONS)
        == ["stream", "progress", "event", "subscription_ended"]
    )


def test_event_types_of_the_caller_are_listed_under_names_of_their_own():
    reference = made()["x-events"]["Happened"]
    schema = resolve(reference, components())
    assert schema["required"] == ["request"]
    assert schema["properties"]["pair"]["minItems"] == 2
    assert "Happened" not in components(), "a class of another module has its module's name before its own"


def test_a_type_without_a_schema_is_a_bug():
    @attrs.frozen
    class Odd:
        """What JSON has not."""

        value: set[int]

    with pytest.raises(TypeError, match="no schema"):
        document(events={"Odd": Odd})


def test_every_field_with_bounds_checks_them():
    for spec in METHODS.values():
        for name in reached(spec.params):
            for field in attrs.fields(name):
                rules = {key: rule for key, rule in field.metadata.items() if key in {"bounds", "needs", "instead_of"}}
                assert field.validator is checked or not any(rules.values()), field


def reached(cls):
    return (cls, inference.Message, inference.TextPart, inference.ImagePart, inference.ImageUrl, lifecycle.Client)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data(), method=st.sampled_from(sorted(METHODS)))
def test_what_the_schema_of_params_allows_is_accepted(data, method):
    (shown,) = [shown for shown in made()["methods"] if shown["name"] == method]
    params = data.draw(values(shown["x-params"], components()))
    assert not list(faults(params, shown["x-params"], components()))
    assert type(structure(method, params)) is METHODS[method].params


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data(), method=st.sampled_from(["chat", "complete", "embed", "tokenize", "detokenize"]))
def test_the_schema_marks_exactly_what_this_version_refuses_as_unsupported(data, method):
    (shown,) = [shown for shown in made()["methods"] if shown["name"] == method]
    params = data.draw(values(shown["x-params"], components()))
    marked = list(unserved(params, shown["x-params"], components()))
    features = unsupported_features(structure(method, params))
    assert bool(marked) == bool(features), (marked, features)


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({}, None),
        ({"key": "k"}, None),
        ({"persona": "p"}, None),
        ({"conversation": "new"}, None),
        ({"response_format": {"type": "json_object"}}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None),
        ({"tool_choice": "required"}, None),
        ({"tool_choice": "auto"}, None),
        ({"determinism": "exact"}, None),
        ({"retention": "ephemeral"}, None),
        ({"provider": "elsewhere"}, None),
        ({"provider": "local"}, None),
        ({"messages": [{"role": "tool", "content": "x"}]}, None),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, None),
    ],
)
def test_a_host_sees_what_is_not_served_before_it_calls(params, place):
    chat = {"messages": [{"role": "user", "content": "x"}]} | params
    reference = {"$ref": "#/components/schemas/ChatParams"}
    assert not list(faults(chat, reference, components())), "what is not served is none the less of the protocol"
    assert list(unserved(chat, reference, components())) == ([] if place is None else [place])
    assert bool(unsupported_features(structure("chat", chat))) == (place is not None)


@pytest.mark.parametrize(
    "params",
    [{}, {"messages": []}, {"messages": [{"role": "x", "content": ""}]}, {"messages": [], "x": 1}, {"messages": 1}],
)
def test_what_the_code_refuses_the_schema_refuses(params):
    assert list(faults(params, {"$ref": "#/components/schemas/ChatParams"}, components()))


def test_results_are_what_their_schemas_say():
    result = inference.ChatResult(
        id="req-1",
        model="m",
        provider="local",
        device="cpu",
        message=inference.AnswerMessage(content="x"),
        finish_reason="length",
        usage=inference.Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2, cached_tokens=0),
        seed=1,
        determinism="fast",
        timing=inference.Timing(queue_ms=0, ttft_ms=0, total_ms=0),
    )
    plain = unstructure(result)
    reference = {"$ref": "#/components/schemas/ChatResult"}
    assert not list(faults(plain, reference, components()))
    assert list(faults(plain | {"finish_reason": "bored"}, reference, components()))
