"""Trio runs of which a seed decides the order of tasks, under a clock that jumps as soon as nobody has work.

Trio draws the order in which ready tasks run from a generator of its own and lets nobody seed it but the test tools
that it knows; this uses the same two names. That they are there is asserted at import, and a test compares the order
of two runs.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

_RUN: Any = trio._core._run  # noqa: SLF001 - trio has no public name for it
assert _RUN._ALLOW_DETERMINISTIC_SCHEDULING in {True, False}, "trio names its switch for repeatable order otherwise now"  # noqa: SLF001
assert callable(_RUN._r.shuffle), "trio draws the order of tasks from something else now"  # noqa: SLF001

WATCHDOG_S = 5e4  # of virtual time, after which whatever still waits will wait for ever
TURNS = 100_000  # of the scheduler, after which something goes round in a circle

T = TypeVar("T")


class Deadlock(AssertionError):
    """The fault of what was run: it waits for something that nothing will ever bring about, or goes round for ever."""


class _Turns(trio.abc.Instrument):
    """Ends a run that never comes to rest, as the virtual clock then stands still and no deadline ever passes."""

    def __init__(self, turns: int) -> None:
        self.left = turns
        self.scope = trio.CancelScope()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - each is a turn
        self.left -= 1
        if self.left < 0:
            self.scope.cancel()


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
    with _deterministic(seed), _threads_run_inline():
        clock = MockClock(autojump_threshold=0)
        counted = _Turns(turns)
        bound = (counted, watchdog_s)
        return trio.run(_watched, function, args, *bound, clock=clock, instruments=(counted, *instruments))


async def _watched(function: Callable[..., Awaitable[T]], args: tuple[Any, ...], turns: _Turns, watchdog_s: float) -> T:
    """Without a deadline somewhere the clock could not jump, and a deadlock would hang instead of failing."""
    with turns.scope:
        turns.scope.deadline = trio.current_time() + watchdog_s
        return await function(*args)
    raise Deadlock(f"not done after {watchdog_s:.0f} s of virtual time, or too many turns")


@contextmanager
def _deterministic(seed: int | str) -> Iterator[None]:
    allowed, drawn = _RUN._ALLOW_DETERMINISTIC_SCHEDULING, _RUN._r.getstate()  # noqa: SLF001
    _RUN._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001
    _RUN._r.seed(f"{seed} order")  # noqa: SLF001
    collects = gc.isenabled()
    gc.disable()  # When it strikes depends on what else the process has done, and finalizers may run then.
    try:
        yield
    finally:
        if collects:
            gc.enable()
        _RUN._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # noqa: SLF001
        _RUN._r.setstate(drawn)  # noqa: SLF001


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
