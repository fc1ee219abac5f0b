# ruff: noqa: TC004 - the types are for readers and mypy; nothing looks at them while it runs.
"""What connections share: the sidecar as its handlers see it.

Filled by ``mlzoo.app`` as the start goes on: the log is there first, the state once it has been recovered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mlzoo.actors.hub import Hub
    from mlzoo.actors.ledger import Ledger
    from mlzoo.actors.mailbox import Ref
    from mlzoo.actors.messages import EngineMessage
    from mlzoo.actors.metrics import Metrics
    from mlzoo.actors.outbox import Outbox
    from mlzoo.actors.specs import ChildStatus
    from mlzoo.config import Config
    from mlzoo.core.state import State
    from mlzoo.devices import Device
    from mlzoo.errors import LogUnusable
    from mlzoo.events.commands import JsonObject
    from mlzoo.events.log import Log
    from mlzoo.providers.secrets import Secrets
    from mlzoo.store import Store
    from mlzoo.world import World

    ProbeDevices = Callable[[], Awaitable[tuple[Device, ...]]]


class Peer(Protocol):
    """A host's connection, as those see it who answer its calls."""

    name: str
    outbox: Outbox
    after_aside: int  # the last call of it that was answered by an aside

    def notify(self, request: str, method: str, params: JsonObject) -> None:
        """Send a notification about a request to each of its calls that hears of it, recorded as an aside."""

    async def drain(self) -> None:
        """Return once everything that is due has been sent; nothing new may come."""


@attrs.define(kw_only=True, eq=False)
class Services:
    """One sidecar."""

    config: Config
    world: World
    log: Log
    hub: Hub
    engine: Ref[EngineMessage]
    probe: ProbeDevices
    report: Callable[[str, int | None], None]
    leave: Callable[[], None]
    pid: int
    started_ms: int
    secrets: Secrets
    devices: tuple[Device, ...] = ()
    unusable: LogUnusable | None = None
    ledger: Ledger | None = None
    metrics: Metrics | None = None
    forget_in_workers: Callable[[], None] = lambda: None  # what their memory keeps of requests that have ended
    actors: Callable[[], tuple[ChildStatus, ...]] = tuple
    connections: dict[str, Peer] = attrs.field(factory=dict)

    def refuse(self, error: LogUnusable) -> None:
        """Serve from now on only what needs no log, and wake those who wait for something of it."""
        self.unusable = error
        for call in tuple(self.log.on_progress):
            call()

    @property
    def store(self) -> Store:
        """The weights on this machine, as the configuration places them."""
        from mlzoo.store import open_store  # noqa: PLC0415 (not on the way to the first ping)

        return open_store(self.config)

    @property
    def state(self) -> State:
        """The state now; an empty one while the log is still being recovered."""
        from mlzoo.core.state import State  # noqa: PLC0415 (not on the way to the first ping)

        return State() if self.ledger is None else self.ledger.state

    def wall_ms(self, at_ms: int) -> int:
        """Return the wall clock's time at a moment of the log's clock since this sidecar started."""
        if self.ledger is None:
            return 0
        return self.world.clock.wall_ms() - (self.ledger.now_ms() - at_ms)
