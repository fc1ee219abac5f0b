"""Before the process leaves: every host gets the time to take what is due to it, and no host more than is its right.

The time that a host has begins once the log has synced what is owed: before, there is nothing that it could take. Knows
connections and the log; not why the process leaves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlzoo.actors.services import Peer, Services
    from mlzoo.world import Disk

FLUSH_S = 5.0  # that a host gets to take what is due when the sidecar leaves


class Flushing:
    """Of one life.

    A host that closed its end of stdio waits for its answers, so it may take them as slowly as it likes; if it is gone,
    its pipe is broken and nothing waits. Everybody else, and whoever asked for the end of the process, has a bound.

    Args:
        late: called where a host had not taken everything when its time was over.
        disk: of the log; one that hangs may keep up the end for ever.
    """

    def __init__(self, late: Callable[[], None], disk: Disk) -> None:
        self._late = late
        self._disk = disk
        self._patient = False
        self._begun = False  # whether no work is left
        self._reading = False  # whether the time to read has begun
        self._own = trio.CancelScope()
        self._others = trio.CancelScope()

    def be_patient(self) -> None:
        """Let the host on stdio take its time: it has closed its end, and waits for what is due."""
        self._patient = True

    def hurry(self) -> None:
        """Bound the wait for that host, and for the disk where no work is left: others want the end of the process."""
        self._patient = False
        if self._begun:
            self._disk.bound(FLUSH_S)
        if self._reading:
            self._own.deadline = min(self._own.deadline, trio.current_time() + FLUSH_S)

    def insist(self) -> None:
        """Bound the waits for that host and for the disk, from now on: the end was asked for twice."""
        self.hurry()
        self._disk.bound(FLUSH_S)

    async def run(self, services: Services, own: Peer) -> None:
        """Return once all that is due has been taken, or its time is over. Nothing new may come.

        Args:
            services: whose connections these are.
            own: the host on stdio, if it is still there.
        """
        self._begun = True
        await services.hub.wait_shown()
        until = trio.current_time() + FLUSH_S
        self._reading = True
        self._others.deadline = until
        self._own.deadline = math.inf if self._patient else until
        peers = tuple(services.connections.values())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain_all, [peer for peer in peers if peer is own], self._own)
            nursery.start_soon(self._drain_all, [peer for peer in peers if peer is not own], self._others)

    async def _drain_all(self, peers: Iterable[Peer], scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(_drain, peer)
        if scope.cancelled_caught:
            self._late()


async def _drain(peer: Peer) -> None:
    try:
        await peer.drain()
    except trio.BrokenResourceError:
        return  # It does not read any more: nothing is due to it.
