"""The ledger: the log, the state folded from it, and the log's clock. It outlives the engine that writes it.

Only the engine appends. Everybody may read the state: it is frozen, and reading costs no message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from mlzoo.actors.messages import Order
from mlzoo.core.apply import Folding
from mlzoo.core.state import WorkerState, needed_from, under_key
from mlzoo.errors import Failure, LogUnusable, StorageFailed
from mlzoo.events.commands import Start, Submit
from mlzoo.events.identity import unwritable
from mlzoo.events.records import CORE_VERSION, Group, is_terminal, request_of
from mlzoo.events.segments import newer
from mlzoo.state_codec import decode_state, encode_state

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.core.state import State
    from mlzoo.events.commands import JsonObject, KeyFacts, Resume
    from mlzoo.events.keys import KeyIndex
    from mlzoo.events.log import Log
    from mlzoo.world import Clock


@attrs.frozen
class Decided:
    """A group that was appended, and the workers as they were then."""

    group: Group
    workers: Mapping[str, WorkerState]


class Ledger:
    """What must survive a restart of the engine."""

    def __init__(self, log: Log, state: State, clock: Clock, keys: KeyIndex, start: Start | None = None) -> None:
        self.log = log
        self.state = state
        self.keys = keys
        self.copied_seq = 0  # what results of keys need from before it has been copied
        self.work: dict[str, tuple[Submit, Any]] = {}  # requests that live, with the text that their worker needs
        # What the engine has taken and not finished, should it crash.
        self.orders: deque[Order] = deque([] if start is None else [Order(start)])  # not decided yet
        self.unshown: list[Group] = []  # appended, not shown to their readers yet
        self.decided: deque[Decided] = deque()  # appended, not carried out yet
        self.acting: int | None = None  # the event of the first of them that is being carried out
        self._clock = clock
        self._began_ms = clock.awake_ms() - log.clock_ms

    def now_ms(self) -> int:
        """Return the time of the log's clock, which goes on where the last sidecar stopped."""
        return self._clock.awake_ms() - self._began_ms

    def awake_at_s(self, at_ms: int) -> float:
        """Return a moment of trio's clock at which the log's reads ``at_ms``.

        Half a millisecond into it: the clocks are read in whole milliseconds, and one that read a hair before the
        moment would strike for nothing, again and again.
        """
        return (at_ms + self._began_ms + 0.5) / 1000

    def needed_from(self) -> int:
        """Return the lowest log_seq that may not be deleted."""
        lowest = needed_from(self.state)
        return self.log.last_seq + 1 if lowest is None else lowest

    def kept_from(self) -> int:
        """Return the lowest log_seq that the result of a key needs, or a conversation."""
        return min(self.keys_from(), self.conversations_from())

    def conversations_from(self) -> int:
        """Return the lowest log_seq that a conversation needs, or a persona."""
        histories = [found.history.from_seq for found in self.state.conversations.values()]
        histories += [found.base_seq for found in self.state.personas.values()]
        return min((seq for seq in histories if seq is not None), default=self.log.last_seq + 1)

    def keys_from(self) -> int:
        """Return the lowest log_seq that the result of a key needs, as long as results are kept."""
        ended_after_ms = self.now_ms() - self.state.bounds.key_ms
        recent = [facts.accepted_seq for facts in self.state.keys.values() if facts.ended_at_ms > ended_after_ms]
        filed = self.keys.needed_from(ended_after_ms)
        return max(self.copied_seq, min(recent if filed is None else [*recent, filed], default=self.log.last_seq + 1))

    def stamped(self, command: Submit | Resume) -> Submit | Resume:
        """Return a command with what is known of its key beyond the state."""
        if under_key(self.state, command.key) is not None:
            return attrs.evolve(command, kept_from=self.log.oldest_seq)
        filed, ended = None, self.state.keys.get(command.key)
        try:
            filed = self.keys.find(command.key) if ended is None else None
            kept_from = self._kept_from(ended or filed)
        except LogUnusable as error:  # Nobody can say whether it is free, or what it stands for.
            return attrs.evolve(command, known=filed, kept_from=self.log.last_seq + 1, refused=error.failure())
        refused = command.refused
        is_new = isinstance(command, Submit) and ended is None and filed is None  # A resume binds no key.
        if is_new and self.log.claims.keys_are_full():
            refused = _keys_are_full()
        return attrs.evolve(command, known=filed, kept_from=kept_from, refused=refused)

    def _kept_from(self, facts: KeyFacts | None) -> int:
        """Return the first log_seq of which answers are there, as far as that of some key is concerned."""
        oldest = self.log.oldest_seq
        if facts is not None and facts.ended_seq > self.log.last_seq:
            return facts.accepted_seq + 1  # The log was cut by a repair: others may come to stand in its place.
        if facts is not None and facts.accepted_seq < oldest:
            return facts.accepted_seq if self.log.answers.find(facts.request, facts.accepted_seq) else oldest
        return oldest

    def snapshot(self) -> JsonObject:
        """Return the state as a segment's header holds it."""
        return encode_state(self.state)


def recover(log: Log) -> State:
    """Return the state that a log's last segment leads to; the log is only read.

    Records that are whole and make no sense all the same (our error, or somebody edited them) are the end of this log:
    a sidecar that starts says so, and goes on without it, instead of dying at each start.

    Raises:
        LogUnusable: damaged in its middle, written by a newer version, or inconsistent.
    """
    last_seq = log.base_seq
    try:
        state = decode_state(log.base_state())
        for request in state.requests:
            log.cut_index(request)
        folding = Folding(state)
        for group in log.replay():
            _fold(log, folding, group)
            last_seq = group.last_seq
        state = folding.state
    except LogUnusable as error:
        error.data.setdefault("path", str(log.path))  # A record that is too new does not know where it lies.
        raise
    except OSError as error:
        raise unwritable(log.path, error) from error
    except Exception as error:
        raise _inconsistent(log.path, last_seq + 1, error) from error
    return state


def _fold(log: Log, folding: Folding, group: Group) -> None:
    if isinstance(group.command, Start) and group.command.core_version > CORE_VERSION:
        version = group.command.core_version
        raise newer(f"log_seq {group.first_seq} and what follows come from core_version {version}, not {CORE_VERSION}")
    folding.add(group)
    for event in group.events:
        if is_terminal(event):
            log.forget_index(request_of(event) or "")  # It has no reader in this life.


def _keys_are_full() -> Failure:
    return StorageFailed(
        "What is kept for keys fills half of the log's budget: wait until results expire (limits.key_days), raise "
        "log.budget_bytes, or send this without a key.",
        reason="keys_full",
        retryable=True,
    ).failure()


def _inconsistent(path: Path, seq: int, error: Exception) -> LogUnusable:
    why = f"{type(error).__name__}: {error}"
    return LogUnusable(
        f"the log {path} is whole, but cannot be folded from log_seq {seq} on ({why}); it is left as it is",
        reason="inconsistent",
        path=str(path),
        log_seq=seq,
        remedy="choose another log with --log, keep this one, and report it",
    )
