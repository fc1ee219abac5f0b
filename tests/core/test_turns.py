"""Whose turn it is: interactive requests go first, and yet none of a batch waits for ever."""

from __future__ import annotations

from core_driver import OTHER, Core, row, start
from hypothesis import given, settings
from hypothesis import strategies as st

from mlzoo.core.state import BATCH_YIELDS_MS
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

ROOMY = cmd.Bounds(max_queued=1000, max_running=4, queued_bytes=1000, drain_ms=5000)
PRIORITY = st.sampled_from(("interactive", "batch"))


class Queue:
    """One slot, and all that want it."""

    def __init__(self):
        self.core = Core(None)
        self.core.tell(start(ROOMY))
        self.core.chat("first", OTHER)
        self.core.ready(OTHER)
        self.running = "first"
        self.came = {}  # request -> when, and of which priority

    def come(self, name, priority):
        self.came[name] = (self.core.at_ms, priority)
        self.core.chat(name, OTHER, priority=priority)

    def next(self):
        """End what runs, and return what runs now, or None where nobody waits."""
        events = self.core.step(row(self.running, "stop"))
        dispatched = [event.request for event in events if isinstance(event, ev.RequestDispatched)]
        self.running = dispatched[0] if dispatched else None
        return self.running

    def waiting(self):
        return [r.id for r in self.core.state.requests.values() if r.phase == "queued"]


def may_go_before(one, other):
    """Whether a request may go before another that waits."""
    (one_ms, one_priority), (other_ms, other_priority) = one, other
    if one_priority == other_priority:
        return one_ms <= other_ms
    if one_priority == "interactive":
        return one_ms <= other_ms + BATCH_YIELDS_MS
    return one_ms + BATCH_YIELDS_MS <= other_ms


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrivals=st.lists(st.tuples(st.integers(0, 20_000), PRIORITY, st.integers(0, 2)), max_size=30))
def test_each_goes_before_those_only_that_it_may_go_before(arrivals):
    queue = Queue()
    for number, (gap_ms, priority, ends) in enumerate(arrivals):
        queue.core.pass_time(gap_ms)
        queue.come(f"r{number}", priority)
        for _ in range(min(ends, len(queue.waiting()))):
            check(queue)
    while queue.waiting():
        check(queue)


def check(queue):
    now = queue.next()
    assert all(may_go_before(queue.came[now], queue.came[other]) for other in queue.waiting())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(every_ms=st.integers(500, 5000))
def test_one_of_a_batch_gets_its_turn_under_an_endless_stream_of_interactive_ones(every_ms):
    queue = Queue()
    queue.come("patient", "batch")
    came_ms = queue.core.at_ms
    number = 0
    while queue.running != "patient":
        queue.come(f"i{number}", "interactive")  # There is always one more that waits than can run.
        queue.core.pass_time(every_ms)
        queue.next()
        number += 1
        assert queue.core.at_ms - came_ms <= BATCH_YIELDS_MS + 2 * every_ms
    assert queue.core.at_ms - came_ms >= BATCH_YIELDS_MS
