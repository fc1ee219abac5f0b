"""Calls of tools: in the form that the model's template has, as OpenAI has them, forced or free."""

from __future__ import annotations

import json
from itertools import pairwise

import attrs
import jsonschema
import pytest
import torch
from call_templates import FORMS, MARKERS, NAMED, UNKNOWN
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TEMPLATE, Heard, ask, causal, load, run, tokenizer

from mlzoo.frames import Prefilled
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat
from mlzoo.inference.tool_calls import Forced, Free, call_id
from mlzoo.inference.tool_forms import ToolForm, tool_form

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["Köln", "Paris"]}, "days": {"$ref": "#/$defs/few"}},
            "required": ["town", "days"],
            "additionalProperties": False,
            "$defs": {"few": {"type": "integer", "minimum": 1, "maximum": 9}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NOW = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}
TOOLS = (WEATHER, NOW)
MESSAGES = ({"role": "user", "content": "the quick"},)


def made(directory, template):
    """Save a tiny model whose tokenizer has the markers as special tokens, and load it."""
    spoken = tokenizer(template=template)
    spoken.add_special_tokens({"additional_special_tokens": MARKERS})
    causal(vocab_size=len(spoken), max_position_embeddings=1024).save_pretrained(directory)
    spoken.save_pretrained(directory)
    return load_chat(load(directory), CPU)


@pytest.fixture(scope="module", params=FORMS)
def model(request, tmp_path_factory):
    return made(tmp_path_factory.mktemp("calls"), FORMS[request.param])


def chat(request="r", tool_choice="auto", tools=TOOLS, max_tokens=200, messages=MESSAGES, **fields):
    return ask(request, messages=messages, max_tokens=max_tokens, tools=tools, tool_choice=tool_choice, **fields)


def called(heard, request="r"):
    """Return the calls that were told, joined."""
    calls: dict[int, dict[str, str]] = {}
    for row in heard.rows[request]:
        for delta in row.tool_calls:
            call = calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
            for field in call:
                call[field] += getattr(delta, field)
    return [call for _, call in sorted(calls.items())]


def finish(heard, request="r"):
    return heard.rows[request][-1].finish_reason


class Scripted:
    """A decoder that has one row and says what it is told to, then the end."""

    slots, grain, chunk, context = 1, 1, None, 4096

    takes_any_rows = False

    def __init__(self, model, text):
        self._script = [*model.text._tokenizer(text, add_special_tokens=False)["input_ids"], *model.end_tokens]
        self._vocabulary, self._read = model.vocabulary, 0

    def prefill(self, _slot, tokens, start, _images, *, adapter):
        assert adapter == ""
        self._read = start + len(tokens)
        return self._logits(self._read)

    def decode(self, _slots, _tokens, positions, *, exact, adapters):
        assert list(adapters) == []
        return self._logits(positions[0] + 1)[None]

    def reads_ahead(self, _sequences, *, exact, adapted):
        return False

    def release(self, _slot, _tokens, *, dirty):
        pass

    def _logits(self, place):
        logits = torch.zeros(self._vocabulary)
        logits[self._script[place - self._read if place >= self._read else 0]] = 9.0
        return logits


def say(model, text, **fields):
    """Return what is heard where a model says a text."""
    return run(BatchEngine(attrs.evolve(model, decoder=Scripted(model, text))), chat(**fields))


def written(model, *calls):
    """Return calls as the model writes them."""
    form = model.tool_form
    parts = [name + form.middle + arguments for name, arguments in calls]
    return form.before + (form.between or "\n").join(parts) + form.after


# -------------------------------------------------------------------------------------------------------------- forced


@pytest.mark.parametrize("seed", range(6))
def test_a_call_that_must_be_made_is_made_with_arguments_of_its_schema(model, seed):
    heard = run(BatchEngine(model), chat(tool_choice="required", temperature=1.0, seed=seed))
    assert {type(other) for other in heard.others} <= {Prefilled}
    assert heard.text("r") == ""
    assert finish(heard) in {"tool_calls", "length"}
    for index, call in enumerate(called(heard)):
        assert call["id"] == call_id("r", index)
        tool = next(tool["function"] for tool in TOOLS if tool["function"]["name"] == call["name"])
        if finish(heard) == "tool_calls":
            jsonschema.validate(json.loads(call["arguments"]), tool["parameters"])


def test_a_function_that_is_named_is_called_once(model):
    choice = {"type": "function", "function": {"name": "weather"}}
    heard = run(BatchEngine(model), *(chat(f"r{i}", choice, temperature=1.0, seed=i) for i in range(4)))
    for request in heard.rows:
        [call] = called(heard, request)
        assert call["name"] == "weather"
        assert json.loads(call["arguments"]).keys() == {"town", "days"}
        assert finish(heard, request) == "tool_calls"


def test_arguments_come_piece_by_piece(model):
    heard = run(BatchEngine(model), chat(tool_choice={"type": "function", "function": {"name": "weather"}}))
    pieces = [delta for row in heard.rows["r"] for delta in row.tool_calls]
    assert (pieces[0].id, pieces[0].name, pieces[0].arguments) == (call_id("r", 0), "weather", "")
    assert len(pieces) > 5
    assert all(piece.arguments and not piece.id for piece in pieces[1:])


def test_a_call_that_is_cut_says_so_and_keeps_what_there_is(model):
    choice = {"type": "function", "function": {"name": "weather"}}
    whole = called(run(BatchEngine(model), chat(tool_choice=choice)))[0]["arguments"]
    for most in range(1, 90, 2):
        heard = run(BatchEngine(model), chat(tool_choice=choice, max_tokens=most))
        if finish(heard) == "length" and called(heard):
            [call] = called(heard)
            assert whole.startswith(call["arguments"])
            break
    else:
        raise AssertionError("it was never cut within the call")


@pytest.mark.parametrize("at", [2, 9, 16])
def test_a_call_goes_on_after_an_interruption_and_nothing_is_told_twice(model, at):
    frame = chat(tool_choice={"type": "function", "function": {"name": "weather"}}, temperature=1.0, seed=3)
    whole = run(BatchEngine(model), frame).rows["r"]
    before = whole[:at]
    tokens = tuple(token for row in before for token in row.tokens)
    cut = attrs.evolve(frame, resume="exact", tokens=tokens, said="".join(row.content for row in before))
    assert run(BatchEngine(model), cut).rows["r"] == whole[at:]


def test_parameters_that_cannot_be_compiled_are_refused(model):
    bad = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "minProperties": 5, "maxProperties": 1}},
    }
    [failed] = run(BatchEngine(model), chat(tool_choice="required", tools=(bad,))).others
    assert (failed.code, failed.data["path"]) == (-32602, "tools")
    assert failed.detail


# ---------------------------------------------------------------------------------------------------------------- free


def test_a_call_that_a_model_makes_is_told(model):
    heard = say(model, written(model, ("weather", '{"town": "Köln", "days": 2}')))
    assert called(heard) == [{"id": call_id("r", 0), "name": "weather", "arguments": '{"town": "Köln", "days": 2}'}]
    assert heard.text("r") == ""
    assert finish(heard) == "tool_calls"


def test_several_calls_are_told_in_their_order(model):
    if model.tool_form.between is None:
        pytest.skip("this form has one call in an answer")
    heard = say(model, written(model, ("weather", '{"town": "}]"}'), ("now", "{}"), ("now", '{"a": [{}]}')))
    assert [(call["name"], call["arguments"]) for call in called(heard)] == [
        ("weather", '{"town": "}]"}'),
        ("now", "{}"),
        ("now", '{"a": [{}]}'),
    ]
    assert heard.text("r") == ""


def test_text_before_a_call_is_text(model):
    if not model.tool_form.marker:
        pytest.skip("where a call has no marker it is the whole answer")
    heard = say(model, "I look. " + written(model, ("now", "{}")))
    assert heard.text("r") == "I look. "
    assert [call["name"] for call in called(heard)] == ["now"]


@pytest.mark.parametrize("text", ["the quick brown fox", "<tool", "one {two} three [", ""])
def test_what_is_no_call_is_text(model, text):
    heard = say(model, text)
    assert heard.text("r") == text
    assert called(heard) == []
    assert finish(heard) == "stop"


BROKEN = {
    "a tool that there is not": ("elsewhere", "{}"),
    "arguments that are no JSON": ("now", "{fox: dog}"),
    "arguments that do not end": ("now", '{"a": '),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_whole_call_of_a_tool_is_text_as_it_was_said(model, what):
    text = written(model, BROKEN[what])
    heard = say(model, text)
    assert called(heard) == []
    assert heard.text("r").split() == text.split()
    assert finish(heard) == "stop"


def test_a_free_call_that_is_cut_is_text(model):
    text = written(model, ("weather", '{"town": "Köln", "days": 2}'))
    heard = say(model, text, max_tokens=12)
    assert called(heard) == []
    assert "".join(text.split()).startswith("".join(heard.text("r").split()))
    assert finish(heard) == "length"


def test_where_none_is_to_be_called_a_call_is_text(model):
    text = '{"name": "now", "arguments": {}}'
    heard = say(model, text, tool_choice="none")
    assert (heard.text("r"), called(heard)) == (text, [])


# ----------------------------------------------------------------------------------------------------------- templates


def test_the_template_is_told_of_tools_and_of_what_they_answered(model):
    call = {"id": "abcdefghi", "name": "now", "arguments": '{"where": "here"}'}
    as_openai = {"id": "abcdefghi", "type": "function", "function": {"name": "now", "arguments": '{"where": "here"}'}}
    told = {"role": "tool", "content": "noon", "tool_call_id": "abcdefghi"}
    answered = [
        (*MESSAGES, {"role": "assistant", "content": "", "tool_calls": [one]}, told) for one in (call, as_openai)
    ]
    [ours, theirs] = [model.text.read(None, messages, TOOLS) for messages in answered]
    assert ours == theirs
    rendered = model.text.decode(ours)
    assert "Tells the weather." in rendered
    assert '{"where": "here"}' in rendered
    assert "noon" in rendered
    assert "Tells the weather." not in model.text.decode(model.text.read(None, MESSAGES))


def test_what_was_found_is_told(model):
    assert any(why.startswith("tools: its chat template writes calls as ") and "NAME" in why for why in model.why)


@pytest.mark.parametrize("template", [TEMPLATE, UNKNOWN, None])
def test_a_model_without_calls_refuses_tools(tmp_path, template):
    model = made(tmp_path, template)
    assert isinstance(model.tool_form, str)
    assert model.tool_form in model.why
    [failed] = run(BatchEngine(model), chat()).others
    assert (failed.code, failed.data["feature"]) == (1010, "tools")


def test_it_refuses_what_tools_answered_as_well(tmp_path):
    model = made(tmp_path, TEMPLATE)
    answered = (*MESSAGES, {"role": "tool", "content": "noon"})
    [failed] = run(BatchEngine(model), chat(tools=(), messages=answered)).others
    assert (failed.code, failed.data["feature"]) == (1010, "tools")


def test_an_answer_has_a_form_or_calls_tools(model):
    [failed] = run(BatchEngine(model), chat(response_format={"type": "json_object"})).others
    assert (failed.code, failed.data["feature"]) == (1010, "response_format")


# ------------------------------------------------------------------------------------------------------------- readers


def cut(text, places):
    """Cut a text into pieces."""
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(borders)]


@pytest.fixture(scope="module")
def forms():
    found = {}
    for name, template in FORMS.items():
        spoken = tokenizer(template=template)
        spoken.add_special_tokens({"additional_special_tokens": MARKERS})
        found[name] = tool_form(spoken)
        assert isinstance(found[name], ToolForm), name
    return found


@pytest.mark.parametrize("name", FORMS)
@given(places=st.lists(st.integers(0, 400), max_size=30))
def test_however_a_text_is_cut_the_same_is_read(forms, name, places):
    form = forms[name]
    calls = [("weather", '{"town": "Kö}\\"ln", "d": [1, {}]}'), ("now", "{}")][: 1 if form.between is None else 2]
    text = form.before + (form.between or "").join(n + form.middle + a for n, a in calls) + form.after
    for reader in (Free(form, {"weather", "now"}, "r"), Forced(form, "r")):
        said = "".join(map(reader.feed, cut(text, places))) + reader.finish()
        joined: dict[int, list[str]] = {}
        for delta in reader.calls:
            whole = joined.setdefault(delta.index, ["", ""])
            whole[0] += delta.name
            whole[1] += delta.arguments
        assert (said, [tuple(whole) for whole in joined.values()]) == ("", calls)


PARTS = ["<tool_call>", "</tool_call>", "<tool", *MARKERS, '{"name": ', '"fog"', '"arguments": {}', "{", "}", "[", "]"]
PARTS += [" ", "\n", "fox", ","]


@pytest.mark.parametrize("name", FORMS)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=12), places=st.lists(st.integers(0, 90), max_size=12))
def test_what_holds_no_call_loses_nothing_but_white_space(forms, name, parts, places):
    text = "".join(parts)
    reader = Free(forms[name], {"weather"}, "r")
    said = "".join(map(reader.feed, cut(text, places))) + reader.finish()
    assert reader.calls == []
    assert said.split() == text.split()


def test_marks_of_special_tokens_are_found(forms):
    assert forms["named"].special.keys() == set(MARKERS)
    assert forms["list"].special.keys() == {"[TOOL_CALLS]"}
    assert (forms["tags"].marker, forms["tags"].closing) == ("<tool_call>", "</tool_call>")
    assert forms["one object"].between is None
    assert NAMED is FORMS["named"]


def test_a_tool_may_say_nothing_of_its_parameters(model):
    heard = run(BatchEngine(model), chat(tool_choice="required", tools=(CLOCK,), max_tokens=60))
    assert Heard is type(heard)
    assert called(heard)[0]["name"] == "clock"
