"""What happens in a story, one thing at a time, as the invariants are shown it. Knows none of them."""

from __future__ import annotations

import attrs

from mlzoo.core.state import State
from mlzoo.simulation.evidence import Heard, JsonObject, Record


@attrs.frozen
class Recorded:
    """A record of a group was written."""

    record: Record


@attrs.frozen
class Rewritten:
    """A line of a file of groups was replaced by another one."""

    was: bytes
    now: bytes


@attrs.frozen
class Told:
    """The sidecar let go of a message to a host."""

    host: Heard
    message: JsonObject


@attrs.frozen
class Emitted:
    """The sidecar let go of bytes to a host; waiting and held is what lies in the pipe and in memory then."""

    host: Heard
    data: bytes
    room_bytes: int
    waiting_bytes: int
    held_bytes: int


@attrs.frozen
class Spawned:
    """A worker process was started."""

    device: str


@attrs.frozen
class Recovered:
    """A start has found the log after a crash: the state that it folds, and that of a fold from the beginning."""

    oldest_seq: int
    last_seq: int
    state: State | None
    whole: State | None
    again: bool
    faults: tuple[str, ...]


@attrs.frozen
class Ended:
    """A life came to its end in peace."""

    status: int
    open_requests: int


Step = Recorded | Rewritten | Told | Emitted | Spawned | Recovered | Ended
