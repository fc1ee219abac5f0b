"""Answers that must have a form have it, whoever runs beside them; and nobody else is another one by it."""

from __future__ import annotations

import json
import random
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import attrs
import jsonschema
import pytest
import torch
from json_schemas import schemas
from tiny_models import Heard, ask, load, run, save_causal, tokenizer

from mlzoo.frames import WorkFailed
from mlzoo.inference.constraint import Constraint, Constraints, grammar_of
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
THING = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["fox", "dog", "größer"]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 99},
        "four or five": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "kind", "legs", "four or five"],
    "additionalProperties": False,
}
COUNT = 200  # schemas
SAMPLED = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": 5}
WAYS = {
    "greedy": {},
    "from all": {"temperature": 1.0, "seed": 3},
    "sampled": {**SAMPLED, "logprobs": True, "top_logprobs": 2},
    "with a repetition penalty": {**SAMPLED, "min_p": 0.01, "repetition_penalty": 1.3},
}


def by(schema):
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}


def thing(request, prompt="the quick", max_tokens=200, **fields):
    return ask(request, prompt, max_tokens, response_format=by(THING), **fields)


def finish(heard, request):
    return heard.rows[request][-1].finish_reason


@pytest.fixture(scope="module", params=["llama", "gpt2", "gptj"])
def model(request, tmp_path_factory):
    """Two that run in slots, and one that runs one request at a time."""
    return load_chat(load(save_causal(tmp_path_factory.mktemp(request.param), request.param)), CPU)


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_of_its_schema(model, way):
    heard = run(BatchEngine(model), thing("r", **WAYS[way]))
    assert finish(heard, "r") == "stop"
    jsonschema.validate(json.loads(heard.text("r")), THING)


def test_an_answer_that_is_cut_says_so(model):
    heard = run(BatchEngine(model), thing("r", max_tokens=3))
    assert finish(heard, "r") == "length"
    assert heard.text("r").startswith("{")


@pytest.mark.parametrize(
    ("form", "means"),
    [
        ({"type": "regex", "pattern": "(one|two) [a-f]{3,5}"}, "(one|two) [a-f]{3,5}"),
        ({"type": "grammar", "grammar": 'start: "fox" (" and " ("dog" | "cat")){2}'}, "fox( and (dog|cat)){2}"),
        ({"type": "grammar", "grammar": 'root ::= "fox" | "dog " [0-9]'}, "fox|dog [0-9]"),
        ({"type": "regex", "pattern": "größer|日本|😀"}, "größer|日本|😀"),
    ],
)
def test_an_answer_is_of_its_expression_or_grammar(model, form, means):
    heard = run(
        BatchEngine(model),
        *(ask(f"r{seed}", max_tokens=60, response_format=form, temperature=1.5, seed=seed) for seed in range(6)),
    )
    for request in heard.rows:
        assert re.fullmatch(means, heard.text(request))
        assert finish(heard, request) == "stop"


def test_any_object_is_one(tiny):
    form = {"type": "json_object"}
    heard = run(
        BatchEngine(tiny),
        *(ask(f"r{i}", max_tokens=300, response_format=form, **SAMPLED | {"seed": i}) for i in range(8)),
    )
    whole = [heard.text(request) for request in heard.rows if finish(heard, request) == "stop"]
    assert all(isinstance(json.loads(text), dict) for text in whole)
    assert all(heard.text(request).startswith("{") for request in heard.rows)


def test_what_may_be_any_text_is_what_it_is_without(tiny):
    frame = ask("r", "dog " * 5, 20, **SAMPLED)
    free = run(BatchEngine(tiny), frame)
    assert run(BatchEngine(tiny), attrs.evolve(frame, response_format={"type": "text"})).rows == free.rows


# ------------------------------------------------------------------------------------------------------------- company


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_same_alone_and_in_company(tiny, way):
    frames = [thing(f"r{i}", f"one {i} " * (i + 1), exact=True, **WAYS[way]) for i in range(4)]
    frames += [ask("free", "dog " * 9, 40, exact=True, **WAYS[way])]
    together = run(BatchEngine(tiny), *frames)
    for frame in frames:
        alone = run(BatchEngine(tiny), frame)
        assert alone.tokens(frame.request) == together.tokens(frame.request)
        assert alone.rows[frame.request] == [attrs.evolve(row, cached_tokens=0) for row in together.rows[frame.request]]


@pytest.mark.parametrize("way", WAYS)
def test_reading_ahead_changes_nothing(tmp_path, way):
    model = load_chat(load(save_causal(tmp_path)), CPU)
    frame = thing("r", "one two three four one two three four", exact=True, **WAYS[way])
    model.decoder.ahead = False
    expected = run(BatchEngine(model), frame)
    model.decoder.ahead = True
    engine, heard, steps = BatchEngine(model), Heard(), 0
    heard.take(engine.submit(frame))
    while not engine.idle:
        heard.take(engine.step())
        steps += 1
    assert heard.rows["r"] == expected.rows["r"]
    if way == "greedy":
        assert steps < len(expected.tokens("r"))  # What the form leaves no choice about was read ahead.


@pytest.mark.parametrize("resume", ["exact", "prefill"])
@pytest.mark.parametrize("at", [1, 9, 20])
def test_it_goes_on_after_an_interruption(tiny, resume, at):
    frame = thing("r", temperature=1.0, seed=11)
    whole = run(BatchEngine(tiny), frame).rows["r"]
    before = whole[:at]
    cut = attrs.evolve(
        frame,
        resume=resume,
        tokens=tuple(token for row in before for token in row.tokens),
        said="".join(row.content for row in before),
    )
    heard = run(BatchEngine(tiny), cut)
    assert heard.rows["r"] == whole[at:]


def test_what_was_said_in_another_form_cannot_go_on(tiny):
    said = run(BatchEngine(tiny), ask("r", max_tokens=5)).rows["r"]
    tokens = tuple(token for row in said for token in row.tokens)
    cut = attrs.evolve(thing("r"), resume="exact", tokens=tokens, said="".join(row.content for row in said))
    [failed] = run(BatchEngine(tiny), cut).others
    assert failed.code == 1008


def test_probabilities_are_those_of_the_whole_distribution(tiny):
    heard = run(
        BatchEngine(tiny),
        ask("r", max_tokens=1, logprobs=True),
        thing("held", max_tokens=1, logprobs=True, top_logprobs=3),
    )
    [free], [held] = heard.rows["r"], heard.rows["held"]
    assert held.logprobs[0].top[0] == (free.logprobs[0].token, pytest.approx(free.logprobs[0].logprob))
    assert held.logprobs[0].logprob < free.logprobs[0].logprob


# ------------------------------------------------------------------------------------------------------ without a mask


@pytest.mark.parametrize("seed", range(4))
def test_whether_one_token_may_stand_somewhere_is_said_as_by_the_mask(tiny, seed):
    grammar, draw = grammar_of(by(THING)), random.Random(seed)
    asked, masked = (tiny.constraints.compiled(grammar, (), lazy=lazy).result() for lazy in (True, False))
    while not masked.is_over:
        for constraint in (asked, masked):
            constraint.look()
        [one], [other] = asked.allowed(), masked.allowed()
        mask = other.mask()
        assert [one.permits(token) for token in range(len(mask))] == mask.tolist()
        token = draw.choice(mask.nonzero()[:, 0].tolist())
        asked.take(token)
        masked.take(token)
    assert asked.is_over


def test_so_is_what_may_stand_after_tokens_that_are_guessed(tiny):
    grammar = grammar_of(by(THING))
    asked, masked = (tiny.constraints.compiled(grammar, (), lazy=lazy).result() for lazy in (True, False))
    guessed = masked.guess((), 8, 0.0)
    wrong = next(token for token, may in enumerate(_allowed(masked, guessed[:1])) if not may)
    for tokens in (guessed, [*guessed[:1], wrong, *guessed[1:]]):
        for constraint in (asked, masked):
            constraint.look(tokens)
        pairs = list(zip(asked.allowed(), masked.allowed(), strict=True))
        assert len(pairs) == len(tokens) + 1
        for one, other in pairs:
            mask = other.mask().tolist()
            assert [one.permits(token) for token in range(len(mask))] == mask
            assert one.mask().tolist() == mask


def test_what_may_stand_after_a_guessed_end_is_what_a_mask_says(tiny):
    grammar = grammar_of({"type": "regex", "pattern": "(one|two) [a-f]"})
    walker, asked, masked = (
        tiny.constraints.compiled(grammar, (), lazy=lazy).result() for lazy in (False, True, False)
    )
    tokens = []
    while not walker.is_over:
        tokens.append(_allowed(walker, ()).index(True))
        walker.take(tokens[-1])
    for constraint in (asked, masked):
        constraint.look([*tokens, tokens[0]])
    for one, other in zip(asked.allowed(), masked.allowed(), strict=True):
        mask = other.mask().tolist()
        assert one.mask().tolist() == mask
        assert not any(one.permits(token) for token, may in enumerate(mask) if not may)
    asked.take(tokens[0])  # It is as before.


def _allowed(constraint, tokens):
    constraint.look(tokens)
    return constraint.allowed()[-1].mask().tolist()


def test_masks_are_computed_ahead_once_they_were_needed_for_most_tokens(tiny):
    ahead = []

    def start(compute, *given):
        ahead.append(given)
        done = Future()
        done.set_result(compute(*given))
        return done

    matcher = tiny.constraints.compiled(grammar_of(by(THING)), ()).result()._matcher
    constraint, taken = Constraint(matcher, tiny.vocabulary, start, lazy=True), 0
    while not ahead:
        constraint.look()
        if ahead:
            break
        [place] = constraint.allowed()
        constraint.take(int(place.mask().nonzero()[0]))
        taken += 1
    assert taken == 3
    [place] = constraint.allowed()
    assert place.permits(int(place.mask().nonzero()[0]))


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted as Linux shows them")
def test_masks_start_no_threads_beside_those_of_the_forward(tiny):
    matcher = tiny.constraints.compiled(grammar_of(by(THING)), ()).result()._matcher
    constraint = Constraint(matcher, 100_000, Future, lazy=False)  # wide enough for torch to share it out
    most = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with ThreadPoolExecutor(1) as masks:
            masks.submit(int).result()
            before = _threads()
            assert not masks.submit(constraint._compute, (0, 0)).result()[-1].numpy().any()
            assert _threads() <= before
    finally:
        torch.set_num_threads(most)


def _threads():
    return len(list(Path("/proc/self/task").iterdir()))


# ------------------------------------------------------------------------------------------------------------ failures

BROKEN = {
    "a schema that contradicts itself": (
        {"type": "integer", "minimum": 5, "maximum": 1},
        "response_format.json_schema.schema",
    ),
    "a schema of what is not kept to": (
        {"type": "array", "uniqueItems": True, "contains": {}},
        "response_format.json_schema.schema",
    ),
    "a reference to elsewhere": ({"$ref": "https://example.org/schema"}, "response_format.json_schema.schema"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_schema_that_cannot_be_compiled_fails_alone_in_the_librarys_words(tiny, what):
    schema, path = BROKEN[what]
    heard = run(BatchEngine(tiny), ask("free"), ask("held", response_format=by(schema)))
    [failed] = heard.others
    assert (failed.request, failed.code, failed.data["path"]) == ("held", -32602, path)
    assert failed.detail
    assert finish(heard, "free") is not None


@pytest.mark.parametrize(
    "form",
    [
        {"type": "regex", "pattern": "(open"},
        {"type": "grammar", "grammar": "start: nobody"},
        {"type": "grammar", "grammar": "::="},
    ],
)
def test_so_does_an_expression_or_a_grammar(tiny, form):
    [failed] = run(BatchEngine(tiny), ask("held", response_format=form)).others
    assert (failed.code, failed.data["path"]) == (
        -32602,
        f"response_format.{'pattern' if form['type'] == 'regex' else 'grammar'}",
    )
    assert failed.detail


def test_a_matcher_that_gives_up_ends_its_row_alone(tiny):
    engine, heard = BatchEngine(tiny), Heard()
    for frame in (thing("held"), thing("other"), ask("free", max_tokens=30)):
        heard.take(engine.submit(frame))
    while len(heard.rows.get("held", ())) < 3:
        heard.take(engine.step())
    row = engine._running["held"]
    row.constraint._rest()
    row.constraint._matcher.consume_token(END_OF_ALL)  # As after a lexer that ran out of fuel: it stays in error.
    assert row.constraint._matcher.is_error()
    while not engine.idle:
        heard.take(engine.step())
    [failed] = heard.others
    assert (failed.request, failed.code) == ("held", -32602)
    assert finish(heard, "other") == "stop"
    assert len(heard.tokens("free")) == 30


END_OF_ALL = 0  # a special token, which stands in no JSON


def test_a_request_may_be_abandoned_while_its_form_is_compiled(tiny):
    engine = BatchEngine(tiny)
    assert engine.submit(thing("r")) == []
    assert not engine.idle
    engine.abandon("r")
    assert engine.idle


def test_a_tokenizer_without_an_end_is_refused(tiny):
    constraints = Constraints(tokenizer(), "tiny", tiny.vocabulary, frozenset())
    refusal = constraints.compiled(grammar_of({"type": "json_object"}), ()).exception()
    assert refusal.failure().code == 1010


# ------------------------------------------------------------------------------------------------------ many schemas


def test_every_whole_answer_to_two_hundred_schemas_is_valid(tmp_path):
    """A model of random weights does not end all of them in time; ``bench/constrained.py`` asks a real one for more."""
    model = load_chat(load(save_causal(tmp_path), slots=16, compile="none"), CPU)
    wanted = schemas(COUNT)
    frames = [
        ask(f"r{number}", f"{number} dogs", 300, temperature=0.7, seed=number, response_format=by(schema))
        for number, schema in enumerate(wanted)
    ]
    heard = run(BatchEngine(model), *frames)
    assert heard.others == []
    checker = jsonschema.FormatChecker(formats=("ipv4", "uuid", "email"))
    cut = [number for number in range(COUNT) if finish(heard, f"r{number}") == "length"]
    for number, schema in enumerate(wanted):
        if number not in cut:
            answer = json.loads(heard.text(f"r{number}"))
            jsonschema.Draft202012Validator(schema, format_checker=checker).validate(answer)
    assert len(cut) < COUNT / 3
    assert not any(isinstance(other, WorkFailed) for other in heard.others)
