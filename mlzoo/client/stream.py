"""The answer to one request, piece by piece, then whole.

Knows nothing of lines and processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, assert_never

from mlzoo.client.inbox import Answered, Delta, Failed, Progress

if TYPE_CHECKING:
    from mlzoo.client.inbox import Inbox

OnProgress = Callable[[Mapping[str, Any]], None]


class Stream:
    """Iterate over its deltas, then ask for the result; or ask for the result at once. For one consumer.

    A consumer may take its time: what it has not taken is bounded (``mlzoo.client.inbox``), and nobody waits for it.

    Attributes:
        id: The request's id on the wire, for ``Client.cancel``.
        seq: The number of the last delta that was taken, -1 before the first: where ``resume`` would go on.
    """

    def __init__(self, request: int, inbox: Inbox, on_progress: OnProgress | None) -> None:
        self.id = request
        self.seq = -1
        self._inbox = inbox
        self._on_progress = on_progress

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Mapping[str, Any]:
        """Return the next delta.

        Raises:
            RemoteError: The request failed or was cancelled.
            SidecarDied: The sidecar is gone.
            ProtocolViolation: The sidecar wrote what is no message of the protocol.
        """
        arrival = await self._advance()
        if isinstance(arrival, Answered):
            raise StopAsyncIteration
        return arrival.content

    async def result(self) -> Any:
        """Return the final result, passing over deltas that were not taken; raises as iterating does."""
        while True:
            arrival = await self._advance()
            if isinstance(arrival, Answered):
                return arrival.result

    async def _advance(self) -> Delta | Answered:
        while True:
            arrival = await self._inbox.take()
            match arrival:
                case Delta():
                    self.seq = arrival.seq
                    return arrival
                case Progress():
                    if self._on_progress is not None:
                        self._on_progress(arrival.params)
                case Answered():
                    return arrival
                case Failed():
                    raise arrival.error
                case _:
                    assert_never(arrival)
