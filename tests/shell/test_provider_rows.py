"""Rows that come faster than they are reported: joined, in order, whole, and the end after them."""

import trio

from mlzoo import frames
from mlzoo.actors.gathering import WAITING_CHARS, Gathering
from mlzoo.frames_joined import joined


class Reports:
    def __init__(self):
        self.heard = []
        self.at_s = []

    async def hear(self, frame):
        await trio.lowlevel.checkpoint()
        self.heard.append(frame)
        self.at_s.append(trio.current_time())


def row(request, content="", **more):
    return frames.Row(request=request, content=content, tokens=(), **more)


async def test_the_first_row_is_reported_at_once_and_what_follows_soon_together(autojump_clock, nursery):
    reports = Reports()
    gathering = Gathering(reports)
    gathering.every_s = 5.0
    nursery.start_soon(gathering.run)
    began = trio.current_time()
    await gathering.say(row("a", "1"))
    await trio.sleep(1)
    for number in "234":
        await gathering.say(row("a", number))
        await gathering.say(row("b", number))
    gathering.end(frames.WorkFailed(request="b", code=1008, message="gone"))
    await trio.sleep(10)
    first, second, end = reports.heard
    assert [(r.request, r.content) for r in first.rows] == [("a", "1")]
    assert [(r.request, r.content) for r in second.rows] == [("a", "234"), ("b", "234")]
    assert end.request == "b"
    assert [at_s - began for at_s in reports.at_s] == [0, 5, 5]


async def test_a_request_that_has_much_waiting_waits_itself(autojump_clock, nursery):
    reports = Reports()
    gathering = Gathering(reports)
    gathering.every_s = 5.0
    nursery.start_soon(gathering.run)
    began = trio.current_time()
    await gathering.say(row("a", "x"))
    await trio.sleep(1)
    await gathering.say(row("a", "x" * (WAITING_CHARS + 1)))
    assert trio.current_time() - began == 5


def test_two_rows_are_joined_field_by_field():
    call = frames.ToolCallDelta(index=0, arguments="{")
    first = row("a", "so ", reasoning="hm", prompt_tokens=3, tool_calls=(call,))
    last = row("a", "be it", completion_tokens=4, finish_reason="stop", tool_calls=(call,))
    assert joined(first, last) == row(
        "a",
        "so be it",
        reasoning="hm",
        prompt_tokens=3,
        completion_tokens=4,
        finish_reason="stop",
        tool_calls=(call, call),
    )
