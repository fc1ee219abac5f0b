"""Words are gathered for a moment, and none is lost or said out of its turn."""

from __future__ import annotations

from itertools import pairwise

from mlzoo.frames import Prefilled, Row, Stepped, Summary, TokenLogprob, WorkFailed
from mlzoo.inference.saying import EVERY_S, LONG_STEP_S, Saying

STEP_S = EVERY_S / 2


class Worker:
    """A worker whose steps take as long as a test says; ``said`` is what its sidecar hears, with when."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.saying = Saying(lambda: self.now_s)
        self.said: list[tuple[float, object]] = []

    def step(self, *frames, step_s=STEP_S, may_wait=True) -> None:
        self.now_s += step_s
        self.hear(self.saying.due())
        self.hear(self.saying.after(list(frames), may_wait=may_wait))

    def hear(self, frames) -> None:
        self.said += [(self.now_s, frame) for frame in frames]

    def texts(self) -> list[str]:
        return [" ".join(row.content for row in frame.rows) for _, frame in self.said if isinstance(frame, Stepped)]


def stepped(*contents: str, **more) -> Stepped:
    """Return a step of rows a, b and so on."""
    return Stepped(rows=tuple(row("abcd"[n], content, **more) for n, content in enumerate(contents)))


def row(request: str, content: str, **more) -> Row:
    return Row(request=request, content=content, tokens=(len(content),), **more)


def test_the_first_words_of_an_answer_are_said_at_once():
    worker = Worker()
    worker.step(stepped("It", prompt_tokens=9))
    assert worker.said == [(STEP_S, stepped("It", prompt_tokens=9))]


def test_words_of_several_steps_go_together_once_it_is_time_and_a_row_has_all_of_its_own():
    worker = Worker()
    for n in range(4):
        worker.step(stepped(f"a{n}", f"bb{n}"), step_s=EVERY_S / 4)
    heard = Row(request="a", content="a0a1a2", tokens=(2,) * 3), Row(request="b", content="bb0bb1bb2", tokens=(3,) * 3)
    assert worker.said == [(EVERY_S, Stepped(rows=heard))]


def test_no_message_comes_sooner_after_another_than_it_must():
    worker = Worker()
    for n in range(40):
        worker.step(stepped(str(n % 10)))
    times = [at for at, _ in worker.said]
    assert min(later - at for at, later in pairwise(times)) >= EVERY_S
    assert "".join(worker.texts()) == "0123456789" * 3 + "012345678"


def test_the_last_words_are_said_at_once_with_all_that_is_held():
    worker = Worker()
    worker.step(stepped("once", "there"))
    worker.step(Stepped(rows=(row("a", " upon", finish_reason="length"),)))
    assert worker.texts() == ["once there", " upon"]
    assert [at for at, _ in worker.said] == [2 * STEP_S] * 2


def test_whatever_else_comes_of_a_step_comes_after_what_is_held():
    worker = Worker()
    worker.step(stepped("once"))
    failed = WorkFailed(request="b", code=1, message="no")
    worker.step(stepped(" upon"), failed)
    assert worker.texts() == ["once", " upon"]
    assert worker.said[-1] == (2 * STEP_S, failed)


def test_a_summary_is_said_at_once():
    worker = Worker()
    summary = Summary(text="t", turns=1, left_out=0, of=())
    made = Stepped(rows=(Row(request="a", content="", tokens=(), summary=summary),))
    worker.step(stepped("once"))
    worker.step(made)
    assert [frame for _, frame in worker.said] == [stepped("once"), made]


def test_nothing_is_held_while_a_prompt_is_read():
    worker = Worker()
    worker.step(stepped("once"))
    worker.step(stepped(" upon"), may_wait=False)
    worker.step(Prefilled(request="b", done=1, total=2), may_wait=False)
    assert worker.texts() == ["once", " upon"]


def test_nothing_is_held_where_steps_are_long():
    worker = Worker()
    for n in range(3):
        worker.step(stepped(str(n)), step_s=LONG_STEP_S * 1.5)
    assert [at for at, _ in worker.said] == [LONG_STEP_S * 1.5 * (n + 1) for n in range(3)]


def test_what_is_held_is_said_at_once_where_somebody_asks_for_it():
    worker = Worker()
    worker.step(stepped("once"))
    worker.hear(worker.saying.held())
    worker.hear(worker.saying.held())
    assert worker.said == [(STEP_S, stepped("once"))]


def test_nothing_more_is_said_of_a_request_that_nobody_wants_any_more():
    worker = Worker()
    worker.step(stepped("once", "there"))
    worker.saying.forget("a")
    worker.hear(worker.saying.held())
    assert worker.texts() == ["there"]


def test_log_probabilities_stay_with_their_tokens():
    worker = Worker()
    probable = [TokenLogprob(token=str(n), logprob=-float(n)) for n in range(2)]
    for n in range(2):
        worker.step(Stepped(rows=(row("a", str(n), logprobs=(probable[n],)),)), step_s=EVERY_S / 4)
    worker.hear(worker.saying.held())
    ((_, heard),) = worker.said
    assert heard.rows == (Row(request="a", content="01", tokens=(1, 1), logprobs=tuple(probable)),)
