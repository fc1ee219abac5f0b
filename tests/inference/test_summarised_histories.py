"""A history that is too long and is summarised: two answers of one model, of which the sidecar hears as one request."""

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_long_histories import talk
from tiny_models import Heard, load, run

from mlzoo.frames import Prefilled, Stepped, Truncation, WorkFailed
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat
from mlzoo.inference.summaries import OF, Summarising, plan_of
from mlzoo.pipelines.context import room_for_prompt, summary_tokens, turns_to_summarise

pytestmark = pytest.mark.torch
ASKS = "in short"


@pytest.fixture(scope="module")
def tiny(tiny_directory):
    """A model of this file's own: what is as long as its context leaves much in its slots."""
    return load_chat(load(tiny_directory), torch.device("cpu"))


def summarised_talk(count, **more):
    """A turn behind so many others, of which the first ones may be summarised."""
    frame = talk(count, truncation=Truncation(policy="summarise"))
    names = tuple(f"req-{number}" for number in range(1, count + 1))
    return attrs.evolve(frame, asks=ASKS, numbers=tuple(range(1, count + 1)), names=names, **more)


def serving(model):
    return Summarising(BatchEngine(model), model)


def made_of(heard):
    """The summary among the rows, the rows behind it, and how many stood before it."""
    rows = heard.rows["r"]
    [place] = [number for number, row in enumerate(rows) if row.summary is not None]
    return rows[place].summary, rows[place + 1 :], place


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 50), st.integers(1, 500))
def test_more_turns_go_into_a_summary_than_must_and_none_where_all_fit(turns, beside, room):
    tokens = beside + sum(turns)
    cut = turns_to_summarise(turns, tokens, room)
    assert (cut == 0) == (tokens <= room or not turns)
    assert cut == 0 or tokens - sum(turns[:cut]) <= room // 2 or cut == len(turns)


def test_what_fits_is_answered_as_ever(tiny):
    frame = summarised_talk(2)
    assert plan_of(tiny.text, frame, 10_000) is None
    heard = run(serving(tiny), summarised_talk(0))
    assert [row.tokens for row in heard.rows["r"]] == [
        row.tokens for row in run(BatchEngine(tiny), summarised_talk(0)).rows["r"]
    ]


def test_the_oldest_turns_are_summarised_and_the_answer_is_that_to_the_summary(tiny):
    heard = run(serving(tiny), summarised_talk(30))
    summary, rows, before = made_of(heard)
    assert before == 0
    assert len(summary.of) == summary.turns - summary.left_out
    assert summary.of[-1] == f"req-{summary.turns}"
    frame = summarised_talk(30)
    pair = ({"role": "user", "content": ASKS}, {"role": "assistant", "content": summary.text})
    messages = (frame.messages[0], *pair, *frame.messages[1 + 2 * summary.turns :])
    plain = attrs.evolve(frame, messages=messages, leading=0, turns=(), truncation=Truncation())
    assert [row.tokens for row in run(BatchEngine(tiny), plain).rows["r"]] == [row.tokens for row in rows]
    assert len(tiny.text.read(None, messages)) <= room_for_prompt(tiny.decoder.context, 4)
    assert not [row for name, found in heard.rows.items() if OF in name for row in found]


def test_a_summary_is_extended_and_takes_the_place_of_the_one_before(tiny):
    frame = summarised_talk(30)
    pair = ({"role": "user", "content": ASKS}, {"role": "assistant", "content": "the fox said so"})
    later = attrs.evolve(
        frame,
        messages=(frame.messages[0], *pair, *frame.messages[1:]),
        leading=3,
        summary=2,
        left_out=3,
        numbers=tuple(range(11, 41)),
    )
    plan = plan_of(tiny.text, later, tiny.decoder.context)
    assert plan.question(tiny.decoder.context).messages[1:3] == pair
    again, _, _ = made_of(run(serving(tiny), later))
    assert again.turns > 10
    assert again.left_out >= 3
    behind = plan.turn(again).messages
    assert behind[1:3] == (pair[0], {"role": "assistant", "content": again.text})
    assert behind[3:] == later.messages[3 + 2 * plan.cut :]


def test_what_does_not_fit_even_beside_a_summary_is_left_out_of_it(tiny):
    frame, context = summarised_talk(200), tiny.decoder.context
    plan = plan_of(tiny.text, frame, context)
    assert 0 < plan.left_out < plan.cut
    question = tiny.text.read(None, plan.question(context).messages)
    assert len(question) + summary_tokens(context) <= context
    summary, _, _ = made_of(run(serving(tiny), frame))
    assert (summary.left_out, summary.of[0]) == (plan.left_out, f"req-{plan.left_out + 1}")


def test_where_no_turn_fits_beside_the_beginning_the_oldest_go_without_a_summary(tiny):
    frame = summarised_talk(30)
    words = "the quick brown fox " * (tiny.decoder.context // 4)
    long = ({"role": "user", "content": words}, {"role": "assistant", "content": words})
    messages = (frame.messages[0], *long * 2, frame.messages[-1])
    frame = attrs.evolve(frame, messages=messages, turns=(2, 2), numbers=(1, 2), names=("req-1", "req-2"))
    rows = run(serving(tiny), frame).rows["r"]
    assert all(row.summary is None for row in rows)
    assert rows[0].truncated == 2


def test_where_the_model_says_nothing_the_oldest_go_without_a_summary(tiny, monkeypatch):
    monkeypatch.setattr("mlzoo.inference.summaries.Plan.summary", lambda _plan: None)
    rows = run(serving(tiny), summarised_talk(30)).rows["r"]
    assert all(row.summary is None for row in rows)
    assert rows[0].truncated > 0


def test_one_that_goes_on_is_not_summarised_again(tiny):
    frame = summarised_talk(200)
    half = attrs.evolve(frame, resume="prefill", tokens=(5,), said="x", cut=195)
    assert plan_of(tiny.text, half, tiny.decoder.context) is None


def test_what_is_abandoned_while_it_is_summarised_says_nothing_more(tiny):
    engine = serving(tiny)
    heard = engine.submit(summarised_talk(30)) + engine.step()
    assert {frame.request for frame in heard if isinstance(frame, Prefilled)} <= {"r"}
    engine.abandon("r")
    while not engine.idle:
        assert engine.step() == []


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_what_is_forgotten_while_it_is_summarised_is_not_kept_of_the_answer_either(tiny, is_forgotten):
    engine, heard = serving(tiny), Heard()
    frame = summarised_talk(30)
    plan = plan_of(tiny.text, frame, tiny.decoder.context)
    heard.take(engine.submit(frame))
    heard.take(engine.step())
    if is_forgotten:
        engine.forget()
    while not engine.idle:
        heard.take(engine.step())
    summary, _, _ = made_of(heard)
    again = run(engine, attrs.evolve(plan.turn(summary), request="again"))
    assert (again.rows["again"][0].cached_tokens == 0) == is_forgotten


def test_where_the_model_fails_over_a_summary_its_request_fails(tiny, monkeypatch):
    engine = serving(tiny)
    assert engine.submit(summarised_talk(30)) == []
    failed = WorkFailed(request="r" + OF, code=1005, message="no memory is left")
    monkeypatch.setattr(engine._engine, "step", lambda: [failed])
    assert engine.step() == [attrs.evolve(failed, request="r")]
    monkeypatch.setattr(engine._engine, "step", lambda: [Stepped(rows=())])
    assert engine.step() == [Stepped(rows=())]
