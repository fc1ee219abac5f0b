"""A history that is too long: whole turns go, the oldest first, and it is told how many."""

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ask, load, run

from mlzoo.frames import Truncation, WorkFailed
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.history import read_prompt
from mlzoo.inference.loader import load_chat
from mlzoo.pipelines.context import room_for_prompt, turns_to_cut

pytestmark = pytest.mark.torch
DROP = Truncation(policy="drop_oldest")


@pytest.fixture(scope="module")
def tiny(tiny_directory):
    """A model of this file's own: what is as long as its context leaves much in its slots."""
    return load_chat(load(tiny_directory), torch.device("cpu"))


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 50), st.integers(1, 500))
def test_no_more_turns_go_than_must(turns, beside, room):
    tokens = beside + sum(turns)
    cut = turns_to_cut(turns, tokens, room, DROP)
    left = tokens - sum(turns[:cut])
    assert left <= room or cut == len(turns)
    assert cut == 0 or left + turns[cut - 1] > room


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 9), st.integers(1, 500))
def test_no_more_turns_stay_than_are_to_be_kept_and_fewer_where_they_do_not_fit(turns, keep, room):
    cut = turns_to_cut(turns, sum(turns), room, Truncation(policy="keep_last", keep_last=keep))
    assert cut >= len(turns) - keep
    assert sum(turns[cut:]) <= room or cut == len(turns)
    assert turns_to_cut(turns, sum(turns), room, Truncation()) == 0


@pytest.mark.parametrize(("max_tokens", "room"), [(None, 75), (10, 90), (50, 50), (1000, 50)])
def test_there_is_room_for_the_answer(max_tokens, room):
    assert room_for_prompt(100, max_tokens) == room


def talk(count, system="be brief", truncation=DROP):
    """A turn behind so many others, each of a question and an answer."""
    history = [
        message
        for number in range(count)
        for message in (
            {"role": "user", "content": f"question {number} the quick brown fox"},
            {"role": "assistant", "content": f"answer {number}"},
        )
    ]
    messages = ({"role": "system", "content": system}, *history, {"role": "user", "content": "and now"})
    frame = ask("r", messages=messages, max_tokens=4)
    return attrs.evolve(frame, leading=1, turns=(2,) * count, truncation=truncation)


def test_what_fits_is_read_whole(tiny):
    frame = talk(2)
    tokens, _, cut = read_prompt(tiny.text, frame, 10_000)
    assert (tokens, cut) == (tiny.text.read(None, frame.messages), 0)


@pytest.mark.parametrize("count", [3, 30, 200])
def test_the_oldest_turns_go_and_the_system_prompt_and_the_question_stay(tiny, count):
    frame = talk(count)
    context = tiny.decoder.context
    whole = len(tiny.text.read(None, frame.messages))
    tokens, _, cut = read_prompt(tiny.text, frame, context)
    room = room_for_prompt(context, 4)
    kept = (frame.messages[0], *frame.messages[1 + 2 * cut :])
    assert tokens == tiny.text.read(None, kept)
    assert (cut > 0) == (whole > room)
    assert len(tokens) <= room
    if cut:
        longer = (frame.messages[0], *frame.messages[1 + 2 * (cut - 2) :])
        assert len(tiny.text.read(None, longer)) > room, "no more than one turn goes that might have stayed"


def test_the_first_row_says_how_many_turns_went_and_a_resumption_leaves_out_the_same(tiny):
    frame = talk(200)
    _, _, cut = read_prompt(tiny.text, frame, tiny.decoder.context)
    rows = run(BatchEngine(tiny), frame).rows["r"]
    assert [row.truncated for row in rows] == [cut, 0, 0, 0]
    half = attrs.evolve(frame, resume="exact", tokens=rows[0].tokens, said=rows[0].content, cut=cut)
    again = run(BatchEngine(tiny), half).rows["r"]
    assert [row.tokens for row in again] == [row.tokens for row in rows[1:]]
    assert all(row.truncated == 0 for row in again)


def test_a_policy_that_leaves_nothing_out_has_the_request_refused(tiny):
    heard = run(BatchEngine(tiny), talk(200, truncation=Truncation()))
    [failed] = [frame for frame in heard.others if isinstance(frame, WorkFailed)]
    assert failed.code == 1006


def test_what_was_running_when_something_was_forgotten_is_not_kept_for_others(tiny):
    engine = BatchEngine(tiny)
    frame = ask("r", "the quick brown fox jumps over the lazy dog " * 8, 6)
    assert engine.submit(frame) == []
    engine.step()
    engine.forget()
    while not engine.idle:
        engine.step()
    assert run(engine, attrs.evolve(frame, request="s")).rows["s"][0].cached_tokens == 0
