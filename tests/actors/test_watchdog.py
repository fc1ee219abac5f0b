"""The watchdog of a worker process: who is taken for hung, and who is not."""

import pytest

from mlzoo import frames
from mlzoo.actors.watchdog import BEATS, Patience, Watchdog

BEAT_S, STEP_S, LOAD_S = 8.0, 40.0, 100.0
STEP_BEATS, LOAD_BEATS = 40, 100  # in the bounds above, as the watchdog's interval makes them
WORK = frames.Generate(request="r", model="m", prompt="p", sampling=frames.Sampling())
DONE = frames.Stepped(rows=(frames.Row(request="r", content="", tokens=(), finish_reason="stop"),))
LOADED = frames.Loaded(
    model="m", memory_bytes=1, context=1, slots=1, dtype="float32", architecture="toy", batching="slots"
)
UP = frames.Up(pid=1, device="cpu", versions={}, threads=1, wait_policy="passive")


@pytest.fixture
def starting():
    return Watchdog(Patience(beat_s=BEAT_S, step_s=STEP_S, load_s=LOAD_S))


@pytest.fixture
def working(starting):
    starting.heard(UP)
    starting.told(WORK)
    return starting


def beats(watchdog, count, answer=None):
    """Let some beats pass, each with the same answer or none; return how many it took to find something wrong."""
    for number in range(1, count + 1):
        if watchdog.tick() is not None:
            return number
        if answer is not None:
            watchdog.stirred()
            watchdog.heard(answer)
    return None


def beating(turn, doing="work"):
    return frames.Beating(turn=turn, doing=doing)


def test_the_shortest_bound_is_divided_into_beats(starting):
    assert starting.interval_s == BEAT_S / BEATS


def test_one_that_works_and_says_nothing_is_found_after_the_bound_for_beats(working):
    assert beats(working, 1000) == BEATS


def test_any_sign_of_life_begins_the_count_of_silence_again(working):
    assert beats(working, BEATS - 1) is None
    working.stirred()
    assert beats(working, 1000) == BEATS


def test_one_that_answers_and_gets_on_is_never_found(working):
    assert all(beats(working, 1, beating(turn)) is None for turn in range(1000))


def test_one_that_answers_and_gets_no_further_is_found_after_the_bound_for_a_step(working):
    assert (
        beats(working, 1000, beating(7)) == STEP_BEATS + 2
    )  # The first answer tells the turn, the rest that it stays.


def test_what_it_forgot_and_idles_over_is_found_like_a_step_that_does_not_end(working):
    assert beats(working, 1000, beating(7, "idle")) == STEP_BEATS + 2


def test_a_load_may_keep_it_from_answering_for_as_long_as_a_load_may_take(working):
    working.told(frames.Load(model="m", path="/m", kind="chat"))
    assert beats(working, LOAD_BEATS - 1) is None
    working.heard(LOADED)
    assert beats(working, 1000) == 1  # It loads no more, and has been silent for long.


def test_a_load_may_stay_in_one_turn_for_as_long_as_a_load_may_take(working):
    working.told(frames.Load(model="m", path="/m", kind="chat"))
    assert beats(working, 1000, beating(7, "load")) == LOAD_BEATS + 2


def test_a_start_may_take_as_long_as_a_load(starting):
    assert beats(starting, 1000) == LOAD_BEATS


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (WORK, DONE),
        (WORK, frames.WorkFailed(request="r", code=1005, message="no room")),
        (frames.Embed(request="r", model="m", texts=()), frames.Embedded(
            request="r", vectors="", count=0, dimensions=0, prompt_tokens=0
        )),
        (frames.Tokenize(request="r", model="m", text=""), frames.Tokenized(request="r", tokens=())),
        (frames.Detokenize(request="r", model="m", tokens=()), frames.Detokenized(request="r", text="")),
        (frames.Load(model="m", path="/m", kind="chat"), LOADED),
        (frames.Load(model="m", path="/m", kind="chat"), frames.LoadFailed(model="m", message="torn")),
        (frames.Unload(model="m"), frames.Unloaded(model="m")),
    ],
    ids=lambda frame: type(frame).__name__,
)  # fmt: skip
def test_nothing_is_due_any_more_once_what_was_asked_for_has_come(starting, asked, said):
    assert starting.due
    starting.heard(UP)
    assert not starting.due
    starting.told(asked)
    assert starting.due
    starting.heard(said)
    assert not starting.due


def test_what_nobody_wants_any_more_is_not_due(working):
    working.told(frames.Abandon(request="r"))
    assert not working.due


def test_one_that_was_silent_while_nothing_was_due_is_not_blamed_for_it(working):
    assert beats(working, BEATS - 1) is None
    working.heard(DONE)
    working.told(WORK)
    assert beats(working, 1000) == BEATS


def test_what_cannot_be_heard_because_the_sidecar_waits_for_its_disk_is_no_silence(working):
    working.listening = False
    assert beats(working, 1000) is None
    working.listening = True
    assert beats(working, 1000) == BEATS
