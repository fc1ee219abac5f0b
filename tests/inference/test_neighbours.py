"""As many processors are left to others as they keep busy."""

from __future__ import annotations

import pytest

from mlzoo.inference.neighbours import LOOK_S, STALE_S, Neighbours

pytestmark = pytest.mark.torch


class Machine:
    """Clocks that a test turns: of time, of the processors, and of this process."""

    def __init__(self) -> None:
        self.now_s = self.busy_s = self.own_s = 0.0
        self.neighbours = Neighbours(lambda: self.busy_s, lambda: self.own_s, lambda: self.now_s)

    def after(self, others: float, *, own: float = 2.0, passes_s: float = LOOK_S, most: int = 4) -> int:
        """Let time pass in which others and we use so many processors; return how many threads it then is."""
        self.passes(passes_s, others=others, own=own)
        return self.neighbours.threads(most)

    def rests(self, seconds: float, *, others: float) -> None:
        """Let time pass in which there is nothing to compute."""
        self.neighbours.rest()
        self.passes(seconds, others=others)
        self.neighbours.wake()

    def passes(self, seconds: float, *, others: float, own: float = 0.0) -> None:
        """Let time pass in which others and we use so many processors."""
        self.now_s += seconds
        self.busy_s += (others + own) * seconds
        self.own_s += own * seconds


def test_alone_all_threads_compute():
    machine = Machine()
    assert [machine.after(0.0) for _ in range(3)] == [4, 4, 4]


def test_what_this_process_uses_itself_is_no_neighbour():
    assert Machine().after(0.1, own=4.0) == 4


@pytest.mark.parametrize(("others", "threads"), [(0.4, 4), (0.9, 3), (1.0, 3), (1.9, 2), (3.2, 1), (40.0, 1)])
def test_a_processor_is_left_for_each_that_others_use(others, threads):
    assert Machine().after(others) == threads


def test_one_that_is_left_is_taken_back_once_it_is_idle():
    machine = Machine()
    assert [machine.after(others) for others in (1.0, 0.6, 0.3, 0.1, 0.1)] == [3, 3, 3, 4, 4]


def test_between_two_looks_nothing_changes():
    machine = Machine()
    assert machine.after(3.0, passes_s=LOOK_S / 2) == 4
    assert machine.after(3.0, passes_s=LOOK_S / 2) == 1


def test_what_was_seen_long_ago_says_nothing_of_now():
    machine = Machine()
    assert machine.after(3.0, passes_s=STALE_S) == 4
    assert machine.after(3.0) == 1


def test_what_others_do_while_nothing_is_computed_says_nothing_of_now():
    machine = Machine()
    machine.rests(LOOK_S, others=3.0)
    assert machine.after(0.0) == 4


def test_a_short_rest_is_a_part_of_what_is_looked_at():
    machine = Machine()
    machine.rests(LOOK_S / 2, others=3.0)
    assert machine.after(3.0, passes_s=LOOK_S / 2) == 1


def test_short_requests_with_long_rests_between_them_are_added_up():
    machine = Machine()
    threads = []
    for others in (3.0, 3.0, 0.0, 0.0, 0.0, 0.0):
        machine.rests(LOOK_S, others=1.0)
        threads.append(machine.after(others, passes_s=LOOK_S * 0.6))
    assert threads == [4, 1, 1, 4, 4, 4]


def test_one_thread_is_always_left():
    assert Machine().after(2.0, most=1) == 1


def test_the_clocks_of_this_machine_can_be_read():
    assert Neighbours().threads(2) in {1, 2}
