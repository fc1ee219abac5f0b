"""What stands for the log where the log cannot be used: it records nothing, and remembers a little for slow readers.

With it a sidecar still answers ``initialize``, ``ping``, ``status`` and ``shutdown``; everything else is refused before
it would need more than this.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from mlzoo.errors import OutOfRange
from mlzoo.events.records import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlzoo.errors import Failure
    from mlzoo.events.records import Group

REMEMBERED = 4096  # asides that a host which does not read can still be sent


class Unrecorded:
    """The part of ``mlzoo.events.log.Log`` that a refusing sidecar needs."""

    def __init__(self) -> None:
        self.id = ""
        self.last_seq = 0
        self.failed = None
        self.on_progress: list[Callable[[], None]] = []
        self._asides: deque[Aside] = deque(maxlen=REMEMBERED)
        self._count = 0

    def aside(
        self,
        connection: str,
        method: str,
        rpc: str | int | None,
        params: Any = None,
        result: Any = None,
        failure: Failure | None = None,
    ) -> int:
        """Remember an aside and return its number."""
        self._count += 1
        aside = Aside(
            aside_seq=self._count,
            after_seq=0,
            time_ms=0,
            connection=connection,
            method=method,
            rpc=rpc,
            params=params,
            result=result,
            failure=failure,
        )
        self._asides.append(aside)
        return self._count

    def commit_asides(self) -> None:
        """Write nothing."""

    def keep_asides(self, _connection: str, _first: int | None) -> None:
        """Keep no more than what is remembered anyway."""

    def read_asides(self, connection: str, first: int) -> Iterator[Aside]:
        """Yield what is remembered from an aside_seq on.

        Raises:
            OutOfRange: It is not remembered any more (type expired).
        """
        oldest = self._count - len(self._asides) + 1
        if first < oldest:
            raise OutOfRange(f"the answers before {oldest} are not remembered", oldest=oldest)
        return iter([a for a in self._asides if a.connection == connection and a.aside_seq >= first])

    def groups_of(self, _request: str, _after_seq: int) -> Iterator[Group]:
        """Yield nothing: no request was ever accepted."""
        return iter(())

    def read(self, _after_seq: int, _limit: int) -> list[Group]:
        """Return nothing."""
        return []

    def is_shown(self, _group: Group) -> bool:
        """Return False."""
        return False

    def forget_index(self, _request: str) -> None:
        """Forget nothing."""

    def size_bytes(self) -> int:
        """Return 0."""
        return 0
