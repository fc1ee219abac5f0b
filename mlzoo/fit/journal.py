"""The log of training runs: the project's own, decided by its own core. Knows nothing of what is trained."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from mlzoo import __version__
from mlzoo.actors.ledger import recover
from mlzoo.config.schema import LogConfig
from mlzoo.core.decide import decide
from mlzoo.events.log import Log
from mlzoo.state_codec import encode_state
from mlzoo.world import real_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mlzoo.core.state import State
    from mlzoo.events.commands import Command
    from mlzoo.events.types import Event
    from mlzoo.world import Clock


class Journal:
    """Records what a training process reports, and tells what follows from it."""

    def __init__(self, log: Log, state: State, clock: Clock) -> None:
        self._log = log
        self._state = state
        self._clock = clock
        self._began_ms = clock.awake_ms() - log.clock_ms
        log.bind_state(lambda: encode_state(self._state), lambda: log.last_seq + 1)

    def record(self, command: Command, text: Any = None) -> tuple[Event, ...]:
        """Decide a command and write it with what follows; it is synced soon, and at the latest when the log closes.

        Raises:
            StorageFailed: The disk would not.
        """
        at_ms = self._clock.awake_ms() - self._began_ms
        events, self._state = decide(self._state, command, self._log.last_seq + 1, at_ms)
        self._log.append(command, events, text, at_ms)
        self._log.commit()
        return events


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Journal]:
    """Open a log for as long as a block lasts, and make it durable at its end.

    Raises:
        LogUnusable: Another process has it, or it is damaged.
        StorageFailed: The disk would not.
    """
    world = real_world()
    log = await Log.open(path, world, LogConfig(), version=__version__)
    try:
        journal = Journal(log, recover(log), world.clock)
        async with trio.open_nursery() as nursery:
            await nursery.start(log.run_flusher)
            yield journal
            nursery.cancel_scope.cancel()
    finally:
        await log.close()
