"""Supervision under any history of crashes: order, one instance at a time, and everybody up again in the end."""

import random
from collections import Counter

import trio
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from mlzoo.actors import Backoff, Backpressure, ChildSpec, Intensity, Mailbox, Supervisor, SupervisorSpec

MANY = Intensity(10_000)


@frozen
class Boom:
    pass


class Tree:
    """A supervisor over children that note when they come up and go down."""

    def __init__(self, strategy, size, *, seed=0, backoff=Backoff(0)):  # noqa: B008  A frozen value.
        self.up = Counter()
        self.crashed_at = {}
        self.lines = []
        self.started_too_early = []
        self.size = size
        self.strategy = strategy
        self.children = tuple(
            ChildSpec(Mailbox[Boom](str(place), Backpressure(100)), self.actor) for place in range(size)
        )
        spec = SupervisorSpec("tree", self.children, strategy=strategy, backoff=backoff, intensity=MANY)
        self.supervisor = Supervisor(spec, random=random.Random(seed))

    async def actor(self, inbox):
        place = int(inbox.ref.name)
        if self.strategy != "one_for_one" and any(self.is_missing(before) for before in range(place)):
            self.started_too_early.append(place)
        self.lines.append(("start", place))
        self.up[place] += 1
        assert self.up[place] == 1
        try:
            async for _ in inbox:
                self.lines.append(("crash", place))
                self.crashed_at[place] = trio.current_time()
                raise ValueError(place)
            self.lines.append(("stop", place))
        finally:
            self.up[place] -= 1

    def is_missing(self, place):
        """Whether a child is down; one that crashed in this very moment was up when the next start was decided."""
        return self.up[place] != 1 and self.crashed_at.get(place) != trio.current_time()

    def expected(self, place):
        """Return what the crash of the child at this place leads to, as OTP's manual has it."""
        group = {
            "one_for_one": [place],
            "one_for_all": list(range(self.size)),
            "rest_for_one": list(range(place, self.size)),
        }[self.strategy]
        stops = [("stop", other) for other in reversed(group) if other != place]
        return [("crash", place), *stops, *(("start", other) for other in group)]


strategies = st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"])
sizes = st.integers(1, 5)


@given(strategies, sizes, st.lists(st.integers(0, 4), max_size=6))
def test_each_crash_stops_its_group_in_reverse_and_starts_it_in_order(strategy, size, crashes):
    tree = Tree(strategy, size)

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(tree.supervisor.run)
            assert tree.lines == [("start", place) for place in range(size)]
            for place in (crash % size for crash in crashes):
                tree.lines.clear()
                tree.children[place].mailbox.tell_nowait(Boom())
                await wait_all_tasks_blocked()
                assert tree.lines == tree.expected(place)
            tree.lines.clear()
            tree.supervisor.stop()
        assert tree.lines == [("stop", place) for place in reversed(range(size))]

    trio.run(main)


@given(strategies, sizes, st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=12), st.integers())
def test_crashes_at_any_moment_never_break_the_order_and_end_with_everybody_up(strategy, size, crashes, seed):
    tree = Tree(strategy, size, seed=seed, backoff=Backoff(1, most_s=3))

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(tree.supervisor.run)
            for place, pause_s in crashes:
                tree.children[place % size].mailbox.tell_nowait(Boom())
                if pause_s:
                    await trio.sleep(pause_s / 2)
            await trio.sleep(1000)
            assert tree.up == Counter(range(size))
            assert [status.state for status in tree.supervisor.snapshot()] == ["running"] * size
            assert sum(line[0] == "crash" for line in tree.lines) == len(crashes)
            tree.supervisor.stop()
        assert tree.started_too_early == []
        assert tree.up.total() == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
