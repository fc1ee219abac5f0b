"""How many threads to compute with now: fewer while others keep processors busy.

Threads that wait for each other by spinning gain a third on a quiet machine, and lose ten times that beside a busy
neighbour, whose turn on a processor holds all others up at each of hundreds of barriers in a step. So it is looked at
what others use of the processors that this process may use, and as many are left to them. Knows clocks of processors;
nothing of models.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 0.25  # between two looks: the clocks of processors tick a hundred times a second
STALE_S = 2.0  # after which what was seen says nothing of now
BUSY = 0.5  # processors that others must use before one is left to them
QUIET = 0.25  # of the one that was left, at most, that they may use when it is taken back


class Neighbours:
    """What others use of some processors, looked at now and then.

    Args:
        busy_s: Seconds that these processors have been busy, for anybody.
        own_s: Seconds that this process has used of them.
        clock: Seconds that pass.
    """

    def __init__(
        self,
        busy_s: Callable[[], float] | None = None,
        own_s: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._busy_s = busy_s or _busy_s
        self._own_s = own_s
        self._clock = clock
        self._left = 0  # processors that are left to others
        self._seen = self._now()
        self._rests: tuple[float, float, float] | None = None  # when nothing was left to compute

    def rest(self) -> None:
        """Hear that there is nothing to compute from now on."""
        self._rests = self._now()

    def wake(self) -> None:
        """Hear that there is something to compute again: what others did meanwhile says nothing of what they do now.

        So a long rest is left out of what is looked at; requests that are shorter than a look are added up.
        """
        if self._rests is not None and self._clock() - self._rests[0] >= LOOK_S:
            rested = [now - before for now, before in zip(self._now(), self._rests, strict=True)]
            seen_s, busy_s, own_s = self._seen
            self._seen = seen_s + rested[0], busy_s + rested[1], own_s + rested[2]
        self._rests = None

    def _now(self) -> tuple[float, float, float]:
        return self._clock(), self._busy_s(), self._own_s()

    def threads(self, most: int) -> int:
        """Return how many threads to compute with, of so many at most."""
        now_s = self._clock()
        seen_s, busy_s, own_s = self._seen
        if now_s - seen_s >= LOOK_S:
            self._seen = self._now()
            if now_s - seen_s < STALE_S:
                self._look((self._seen[1] - busy_s - (self._seen[2] - own_s)) / (now_s - seen_s))
        return max(1, most - self._left)

    def _look(self, others: float) -> None:
        """Leave a processor more to others, or one less, by how many they use."""
        if others > self._left + BUSY:
            self._left = int(others + 1 - BUSY)
        elif others < self._left - 1 + QUIET:
            self._left = max(0, int(others + 1 - QUIET))


def _busy_s() -> float:
    """Return how long the processors that this process may use have been busy, a hypervisor's other guests included."""
    times = psutil.cpu_times(percpu=True)
    if sys.platform == "linux":
        mine = os.sched_getaffinity(0)
        times = [one for place, one in enumerate(times) if place in mine]
    busy_s: float = sum(sum(one) - one.idle - getattr(one, "iowait", 0.0) - getattr(one, "guest", 0.0) for one in times)
    return busy_s
