"""The story of a request whose beginning has gone from the log, told out of the copy of its answer.

Knows no log: it is given the copy, and the groups that are left, whose order it keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.errors import Interrupted, OutOfRange
from mlzoo.events import types as ev
from mlzoo.events.records import request_of
from mlzoo.views import Delta, Refusal, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.events.answers import KeptAnswer
    from mlzoo.events.records import Group
    from mlzoo.views import Piece

ENDS = (ev.RequestCompleted, ev.RequestReplied, ev.RequestCancelled, ev.RequestFailed, ev.RequestRefused)


class CopyView:
    """Gives what a host that came under a key heard, as ``RequestView`` does of records.

    Args:
        request: The request that the key names.
        kept: Its copy; None where it is not kept any more.
        since: Where the host came to hear of it.
    """

    def __init__(self, request: str, kept: KeptAnswer | None, *, since: int) -> None:
        self.after_seq = since
        self._request = request
        self._kept = kept
        self._told = 0  # pieces

    def read(self, group: Group) -> Iterator[Piece]:
        """Yield what a group brought to the host: pieces up to what it says, or the end."""
        self.after_seq = group.last_seq
        for event in group.events:
            if request_of(event) != self._request:
                continue
            if isinstance(event, ev.RequestStreamed) and event.seq is not None:
                yield from self._pieces(event.seq + 1)
            elif isinstance(event, ev.RequestSuspended):
                message = "The process that worked on this request left: resume it with its key."
                failure = Interrupted(message, seq=self._told - 1, resumable=True, partial=self._text()).failure()
                yield Refusal(failure)
            elif isinstance(event, ENDS):
                yield from self.rest()

    def rest(self) -> Iterator[Piece]:
        """Yield all that is left to be told."""
        if self._kept is None:
            message = "the story of this request is not kept any more"
            yield Refusal(OutOfRange(message, oldest=self._told).failure())
            return
        yield from self._pieces(len(self._kept.pieces))
        yield Result(self._kept.result) if self._kept.failure is None else Refusal(self._kept.failure)

    def _pieces(self, count: int) -> Iterator[Piece]:
        pieces = self._kept.pieces if self._kept is not None else []
        for seq, delta in enumerate(pieces[self._told : count], self._told):
            self._told = seq + 1
            yield Delta(seq, delta)

    def _text(self) -> str:
        pieces = self._kept.pieces if self._kept is not None else []
        return "".join(piece.get("content", "") for piece in pieces[: self._told])
