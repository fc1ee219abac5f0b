"""A form that nothing satisfies, or that cannot be followed, is a failure with its path, and never ends as ``stop``."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ask, load, run, save_causal

from mlzoo.inference.constraint import grammar_of
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.form_faults import TRIES, place_of_fault
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
WRONG = {"type": "strin"}
UNSATISFIABLE = {
    "a schema that is itself": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}},
    "a class without characters": {"type": "regex", "pattern": r"[^\s\S]"},
    "a rule without an end": {"type": "grammar", "grammar": "start: start"},
}
DEAD_ENDS = {
    "a rule behind letters": {"type": "grammar", "grammar": 'start: "abc" b\nb: b'},
    "a part that is itself": {
        "type": "json_schema",
        "json_schema": {
            "schema": {
                "type": "object",
                "properties": {"a": {"$ref": "#/properties/a"}},
                "required": ["a"],
                "additionalProperties": False,
            }
        },
    },
}
TOO_LARGE = {
    "a rule that goes on before it ends": {"type": "grammar", "grammar": 'start: "a" start'},
    "a rule that begins with itself": {"type": "grammar", "grammar": 'start: a\na: "x" a | a "y"'},
}
NONE = {"type": "integer", "minimum": 5, "maximum": 3}
NEEDS_NONE = {"type": "object", "properties": {"b": NONE}, "required": ["b"]}
REFERRING = {"properties": {"x": {"$ref": "#/$defs/w"}}}
SCHEMAS = {
    "": WRONG,
    ".properties.a": {"type": "object", "properties": {"b": {"type": "string"}, "a": WRONG}},
    ".items.anyOf[1]": {"type": "array", "items": {"anyOf": [{"type": "string"}, WRONG]}},
    ".properties.a.additionalProperties": {"properties": {"a": {"additionalProperties": WRONG}}},
    ".properties.a.properties.b": {"type": "object", "properties": {"a": NEEDS_NONE}, "required": ["a"]},
    ".prefixItems[0]": {"type": "array", "prefixItems": [WRONG], "items": True},
    ".properties.a.properties.x": {"properties": {"a": REFERRING}, "$defs": {"w": WRONG}},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    return load_chat(load(save_causal(tmp_path_factory.mktemp("tiny")), compile="none"), torch.device("cpu"))


def refusal_of(tiny, form):
    return tiny.constraints.compiled(grammar_of(form), ()).exception()


@pytest.mark.parametrize(
    ("form", "says"),
    [
        *((form, "no text has") for form in UNSATISFIABLE.values()),
        *((form, "be followed") for form in TOO_LARGE.values()),
    ],
    ids=[*UNSATISFIABLE, *TOO_LARGE],
)
def test_a_form_that_no_text_has_or_that_is_too_large_is_a_failure_of_its_own_request(tiny, form, says):
    heard = run(BatchEngine(tiny), ask("held", "the quick", 200, response_format=form), ask("other", "a dog", 5))
    [failed] = heard.others
    assert (failed.request, failed.code) == ("held", -32602)
    assert says in failed.message
    assert failed.data["path"].startswith("response_format")
    assert bool(failed.detail) == (form in TOO_LARGE.values())
    assert "<state>" not in failed.detail, "what the library says of itself helps nobody"
    assert len(heard.tokens("other")) == 5


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 1}], ids=["greedy", "drawn"])
@pytest.mark.parametrize("form", DEAD_ENDS.values(), ids=DEAD_ENDS)
def test_a_form_that_leads_to_where_nothing_follows_ends_as_a_failure_and_not_as_an_answer(tiny, form, sampling):
    heard = run(BatchEngine(tiny), ask("held", "the quick", 200, response_format=form, **sampling))
    [failed] = heard.others
    assert (failed.request, failed.code) == ("held", -32602)
    assert not any(row.finish_reason for row in heard.rows["held"])


@pytest.mark.parametrize(("path", "schema"), SCHEMAS.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_innermost_part_that_is_not_taken_is_named(tiny, path, schema):
    refusal = refusal_of(tiny, {"type": "json_schema", "json_schema": {"schema": schema}})
    assert refusal.data["path"] == "response_format.json_schema.schema" + path


def test_the_whole_is_named_where_its_parts_are_well_alone(tiny):
    schema = {"allOf": [{"type": "string"}, {"type": "integer"}]}
    refusal = refusal_of(tiny, {"type": "json_schema", "json_schema": {"schema": schema}})
    assert refusal.data["path"] == "response_format.json_schema.schema"


def test_a_schema_of_any_size_is_looked_through_for_a_bounded_time():
    asked = []

    def words(schema):
        asked.append(schema)
        return "wrong" if "properties" in schema else ""

    schema = {"properties": {str(number): {} for number in range(10 * TRIES)}}
    assert place_of_fault(schema, words) == ""
    assert len(asked) == 1 + TRIES


def test_a_schema_that_is_none_by_the_librarys_own_options_is_at_fault_as_a_whole():
    assert place_of_fault({"properties": {"a": {}}}, lambda _schema: "") == ""


def test_parts_that_are_none_are_passed_over():
    schema = {"properties": 7, "items": True, "anyOf": {"x": {}}, "allOf": [True, 3], "not": None}
    assert place_of_fault(schema, lambda _schema: "wrong") == ""
