"""The watchdog of a worker process: what is due from it, and what its silence means.

While something is due, the worker's actor sends a beat now and then. The thread that reads the worker's socket answers
it at once, whatever the process computes, and says what that is and in which turn. So a stopped process, or one that
holds the interpreter's lock for ever, is silent; a thread that is stuck in a driver stays in one turn; and a long load,
whose turns are long and which may hold that lock, is neither until a bound of its own.

Time is counted in beats, never read from a clock: a machine that slept for an hour has missed one beat. Knows no
process and no clock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import attrs

from mlzoo import frames

if TYPE_CHECKING:
    from mlzoo.config import Limits

BEATS = 8  # in the shortest of the bounds: one that comes late, or a sleep of the machine, proves nothing

DueKind = Literal["start", "load", "unload", "work"]
START: tuple[DueKind, str] = ("start", "")


@attrs.frozen(kw_only=True)
class Patience:
    """How long a worker may be silent, and how long one turn of its work may take."""

    beat_s: float
    step_s: float
    load_s: float


def patience_of(limits: Limits) -> Patience:
    """Return what the configuration says of it."""
    return Patience(beat_s=limits.beat_timeout_s, step_s=limits.step_timeout_s, load_s=limits.load_timeout_s)


class Watchdog:
    """Of one process, from its start to its end."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.interval_s = min(patience.beat_s, patience.step_s, patience.load_s) / BEATS
        self._due: set[tuple[DueKind, str]] = {START}
        self.listening = True  # whether the process would be heard if it said something
        self._silent = 0  # beats since anything was heard
        self._stuck = 0  # answers since the last one that told of another turn
        self._last = frames.Beating(turn=0, doing="start")

    @property
    def due(self) -> bool:
        """Whether anything is due; where nothing is, there is nothing to watch."""
        return bool(self._due)

    @property
    def loads(self) -> bool:
        """Whether the process still starts, or loads a model."""
        return any(kind in {"start", "load"} for kind, _ in self._due)

    def told(self, frame: frames.ToWorker) -> None:
        """Take note of what the process was asked for."""
        match frame:
            case frames.Load():
                self._due.add(("load", frame.model))
            case frames.Unload():
                self._due.add(("unload", frame.model))
            case frames.Generate() | frames.Embed() | frames.Predict() | frames.Tokenize() | frames.Detokenize():
                self._due.add(("work", frame.request))
            case frames.Abandon():
                self._done("work", frame.request)
            case frames.Forget() | frames.Beat() | frames.Leave():
                return

    def stirred(self) -> None:
        """Take note of a sign of life."""
        self._silent = 0

    def heard(self, frame: frames.FromWorker) -> None:
        """Take note of what the process said."""
        match frame:
            case frames.Beating():
                self._stuck = self._stuck + 1 if frame.turn == self._last.turn else 0
                self._last = frame
            case frames.Up():
                self._done(*START)
            case frames.Loaded() | frames.LoadFailed():
                self._done("load", frame.model)
            case frames.Unloaded():
                self._done("unload", frame.model)
            case frames.Stepped():
                for row in frame.rows:
                    if row.finish_reason is not None:
                        self._done("work", row.request)
            case (
                frames.Embedded() | frames.Predicted() | frames.Tokenized() | frames.Detokenized() | frames.WorkFailed()
            ):
                self._done("work", frame.request)
            case frames.LoadProgress() | frames.Prefilled() | frames.Replayed():
                return

    def _done(self, kind: DueKind, name: str) -> None:
        self._due.discard((kind, name))
        if not self._due:
            self._silent = self._stuck = 0

    def tick(self) -> str | None:
        """Count a beat that is about to be sent; return what is wrong with the process, or None."""
        if not self.listening:
            return None
        self._silent += 1
        bound_s = self._patience.load_s if self.loads else self._patience.beat_s
        if self._silent >= self._beats(bound_s):
            return f"was killed: it had not answered for {bound_s:g} s"
        bound_s = self._patience.load_s if self._last.doing in {"start", "load"} else self._patience.step_s
        if self._stuck >= self._beats(bound_s):
            return f"was killed: it had been stuck for {bound_s:g} s ({self._last.doing})"
        return None

    def _beats(self, bound_s: float) -> int:
        return math.ceil(bound_s / self.interval_s)
