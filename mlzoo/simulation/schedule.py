"""Trio runs of which a seed decides the order of tasks, under a clock that jumps as soon as nobody has work.

Trio draws the order in which ready tasks run from a generator of its own and lets nobody seed it but the test tools
that it knows; this uses the same two names. That they are there is asserted at import, and a test compares the order
of two runs.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

import trio
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, MutableSequence, Sequence

_RUN: Any = trio._core._run  # noqa: SLF001 - trio has no public name for it
assert _RUN._ALLOW_DETERMINISTIC_SCHEDULING in {True, False}, "trio names its switch for repeatable order otherwise now"  # noqa: SLF001
assert callable(_RUN._r.shuffle), "trio draws the order of tasks from something else now"  # noqa: SLF001

WATCHDOG_S = 5e4  # of virtual time, after which whatever still waits will wait for ever
TURNS = 100_000  # of the scheduler, after which something goes round in a circle

T = TypeVar("T")


class Deadlock(AssertionError):
    """The fault of what was run: it waits for something that nothing will ever bring about, or goes round for ever."""


class _Order(Random):
    """What trio draws the order of ready tasks from, once in each turn of the scheduler.

    Ends a run that never comes to rest, as the virtual clock then stands still and no deadline ever passes.
    """

    def __init__(self, seed: str, turns: int) -> None:
        super().__init__(seed)
        self.left = turns
        self.scope = trio.CancelScope()

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Shuffle the tasks of a turn; one alone has no order, and nothing is drawn for it.

        Draws what ``Random.shuffle`` draws, in little more than half of its time: every turn of a story passes here.
        """
        self.left -= 1
        if self.left < 0:
            self.scope.cancel()
        draw = self.getrandbits
        for last in range(len(x) - 1, 0, -1):
            bits = (last + 1).bit_length()
            drawn = draw(bits)
            while drawn > last:
                drawn = draw(bits)
            x[last], x[drawn] = x[drawn], x[last]


class _NoEvents:
    """What trio asks for events of the system in each turn: there are none but its own, of what others call it for."""

    def __init__(self, runner: Any) -> None:
        system, called_for = runner.io_manager, runner.entry_queue
        self._get_events, self.process_events = system.get_events, system.process_events
        self.wait_readable, self.statistics, self.close = system.wait_readable, system.statistics, system.close
        self._calls, self._calls_once = called_for.queue, called_for.idempotent_queue

    def get_events(self, timeout: float) -> Any:
        """Ask the system only where somebody has called."""
        return self._get_events(timeout) if self._calls or self._calls_once else ()


def _standing_clock() -> MockClock:
    """Return a clock that moves by its jumps alone: the real one need not be looked at to know its time."""
    clock: Any = MockClock(autojump_threshold=0)
    clock.current_time = lambda: clock._virtual_base  # noqa: SLF001 - it lets nobody derive from it
    return cast("MockClock", clock)


def run(
    seed: int | str,
    function: Callable[..., Awaitable[T]],
    *args: Any,
    instruments: Sequence[trio.abc.Instrument] = (),
    turns: int = TURNS,
    watchdog_s: float = WATCHDOG_S,
) -> T:
    """Run an async function; equal seeds give equal orders of tasks, and equal times.

    Raises:
        Deadlock: it did not end within the watchdog's time, or in so many turns.
    """
    order = _Order(f"{seed} order", turns)
    with _deterministic(order), _threads_run_inline():
        main = partial(_watched, function, args, order.scope, watchdog_s, is_watched_closely=bool(instruments))
        return trio.run(main, clock=_standing_clock(), instruments=instruments)


async def _watched(
    function: Callable[..., Awaitable[T]],
    args: tuple[Any, ...],
    scope: trio.CancelScope,
    watchdog_s: float,
    *,
    is_watched_closely: bool,
) -> T:
    """Without a deadline somewhere the clock could not jump, and a deadlock would hang instead of failing."""
    runner = _RUN.GLOBAL_RUN_CONTEXT.runner
    runner.io_manager = _NoEvents(runner)
    if not is_watched_closely:
        # Trio asks four times in each step whether anybody watches it, which a plain dictionary denies in no time.
        runner.instruments = {}
    with scope:
        scope.deadline = trio.current_time() + watchdog_s
        return await function(*args)
    raise Deadlock(f"not done after {watchdog_s:.0f} s of virtual time, or too many turns")


@contextmanager
def _deterministic(order: _Order) -> Iterator[None]:
    allowed, drawn = _RUN._ALLOW_DETERMINISTIC_SCHEDULING, _RUN._r  # noqa: SLF001
    _RUN._ALLOW_DETERMINISTIC_SCHEDULING, _RUN._r = True, order  # noqa: SLF001
    collects = gc.isenabled()
    gc.disable()  # When it strikes depends on what else the process has done, and finalizers may run then.
    try:
        yield
    finally:
        if collects:
            gc.enable()
        _RUN._ALLOW_DETERMINISTIC_SCHEDULING, _RUN._r = allowed, drawn  # noqa: SLF001


@contextmanager
def _threads_run_inline() -> Iterator[None]:
    """Have what would run in threads run here: the clock would jump while a thread still works."""
    threads: Any = trio.to_thread
    kept = threads.run_sync

    async def inline(function: Callable[..., T], *args: Any, **_options: Any) -> T:
        await trio.lowlevel.checkpoint()
        return function(*args)

    threads.run_sync = inline
    try:
        yield
    finally:
        threads.run_sync = kept
