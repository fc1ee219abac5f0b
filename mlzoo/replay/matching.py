"""What a host sends against what a recording says that it sent: the pure core of ``mlzoo replay play``.

A recording of one connection is a script: lines that the host sent, lines that it heard, in one order. Each line of the
host's is used once, for the call that it stands for: same method, same params, nothing but what ``volatile`` names left
out. What is due to the host goes out in the order of the script, each line once all that stands before it has happened;
only for the host's end nobody waits unless an error follows it.
Nothing is guessed: a call that is not the recorded one is answered with where it differs, and none of the recorded
answers.

Knows no clock and no bytes: it says after how long a line is due, and somebody else waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, assert_never

import attrs

from mlzoo.api.wire import digest
from mlzoo.errors import Failure
from mlzoo.events.recording import Line
from mlzoo.replay.differences import SHOWN_DIFFERENCES, Difference, differences
from mlzoo.replay.volatile import NAMES_A_CALL, canonical
from mlzoo.transport import jsonrpc
from mlzoo.transport.jsonrpc import Bad, Batch, Call, Id, Notification

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MISMATCH_CODE = 1018
Fate = Literal["unheard", "matched", "mismatched"]


@attrs.frozen
class Due:
    """The next line that goes to the host, so long after what stood before it; no line, where its batch is open."""

    after_ms: int
    line: bytes


@attrs.frozen
class Awaits:
    """Nothing goes out before the host has sent this."""

    what: str


@attrs.frozen
class Over:
    """Everything has been said."""


@attrs.frozen(kw_only=True)
class Report:
    """What became of the recorded calls.

    Attributes:
        used: how many were sent again, each the same.
        unused: those that were not sent.
        mismatched: what was sent instead, one sentence each, the differences among them.
        unsaid: how many lines were due and not said.
        unproven: how many calls were matched by their method alone, since their params were redacted.
    """

    used: int
    unused: tuple[str, ...]
    mismatched: tuple[str, ...]
    unsaid: int
    unproven: int

    @property
    def holds(self) -> bool:
        """Whether the session was the recorded one."""
        return not self.unused and not self.mismatched and not self.unsaid


@attrs.define(eq=False)
class _Batch:
    open: int
    answers: list[tuple[Id | None, bytes]] = attrs.field(factory=list)


@attrs.define(eq=False)
class _Step:
    """One line of the host's in the script, and what became of it."""

    number: int
    line: Line
    fate: Fate = "unheard"
    id: Id | None = None  # what the host calls it this time
    batch: _Batch | None = None
    is_answered: bool = False

    @property
    def is_end(self) -> bool:
        return "eof" in self.line


class Playback:
    """One connection, played.

    Args:
        script: its lines, as ``Recording.wire`` gives them.
    """

    def __init__(self, script: Sequence[Line]) -> None:
        self._script = script
        self._steps = {line["n"]: _Step(line["n"], line) for line in script if "host" in line}
        self._end_matters = _end_matters(script)
        self._at = 0  # the line of the script that comes next
        self._ms = script[0]["ms"] if script else 0  # when the line before it was sent
        self._calls: dict[Id, _Step] = {}  # the host's id -> the latest call with it
        self._mismatched: list[str] = []
        self._unproven = 0
        self._ended = False
        self._lost = 0  # lines that were to go out when the host no longer read

    # ------------------------------------------------------------------------------------------ what the host sends

    def hear(self, message: jsonrpc.Message) -> list[bytes]:
        """Take a line of the host's; return what is answered at once: that it is not what was recorded."""
        if not isinstance(message, Batch):
            refused = self._hear(message, None)
            return [] if refused is None else [refused]
        batch = _Batch(open=1)  # Held open until each member has been looked at.
        for member in message.members:
            refused = self._hear(member, batch)
            if refused is not None:
                batch.answers.append((_id_of(member), refused))
        batch.open -= 1
        line = _closed(batch)
        return [line] if line else []

    def end(self) -> None:
        """Take the end of the host's lines."""
        self._ended = True
        for step in self._unheard():
            if step.is_end:
                step.fate = "matched"

    @property
    def mismatches(self) -> int:
        """How many lines were not the recorded ones so far."""
        return len(self._mismatched)

    def lose(self) -> None:
        """Take it that the line which came out last has not reached the host, which no longer reads."""
        self._lost += 1

    def _hear(self, message: Call | Notification | Bad, batch: _Batch | None) -> bytes | None:
        if isinstance(message, Notification) and message.method != "cancel":
            return None  # No other notification means anything to a sidecar, and none is recorded.
        unheard = [step for step in self._unheard() if not step.is_end]
        # The next one, or one of which it is not recorded when it came.
        candidates = [step for step in unheard if step is unheard[0] or step.line.get("early")]
        for step in candidates:
            if not self._differences(step, message):
                self._match(step, message, batch)
                return None
        if isinstance(message, Notification) and self._is_over(message):
            return None  # Such a cancel changes nothing, so that it is not recorded either.
        return self._mismatch(unheard[0] if unheard else None, message)

    def _is_over(self, cancel: Notification) -> bool:
        """Whether what a cancel names has been answered, or was never asked."""
        named = cancel.params.get("request") if isinstance(cancel.params, dict) else None
        call = self._calls.get(named) if isinstance(named, str | int) else None
        return call is None or call.is_answered

    def _match(self, step: _Step, message: Call | Notification | Bad, batch: _Batch | None) -> None:
        step.fate = "matched"
        step.id = _id_of(message)
        self._unproven += bool(step.line.get("withheld"))
        if isinstance(message, Call):
            self._calls[message.id] = step
        if batch is not None and not isinstance(message, Notification):
            step.batch = batch
            batch.open += 1

    def _mismatch(self, step: _Step | None, message: Call | Notification | Bad) -> bytes | None:
        """Say what was expected. A changed call takes the place of the recorded one; one too many takes none."""
        expected = "nothing more" if step is None else _named(step.line)
        shown = [] if step is None else self._differences(step, message)[:SHOWN_DIFFERENCES]
        sent = _sent(message)
        if step is not None and _method_of(message) == step.line.get("method"):
            step.fate = "mismatched"
            what = f"line {step.number}, {sent}, is not the recorded one: {'; '.join(map(str, shown))}"
        else:
            what = f"{sent} was sent where {expected} is recorded"
        self._mismatched.append(what)
        if isinstance(message, Notification):
            return None
        data = {
            "type": "replay_mismatch",
            "retryable": False,
            "expected": None if step is None else {"line": step.number, "method": step.line.get("method")},
            "differences": [attrs.asdict(difference) for difference in shown],
        }
        return jsonrpc.error_line(_id_of(message), Failure(MISMATCH_CODE, f"The recording differs: {what}.", data))

    def _differences(self, step: _Step, message: Call | Notification | Bad) -> list[Difference]:
        """Return where a message is not the line that was recorded; empty: it is that line."""
        line = step.line
        match message:
            case Bad():
                got: Any = {"code": message.failure.code, "message": message.failure.message}
                return differences(line.get("refused"), got, "refused")
            case Call() | Notification():
                found = differences(line.get("method"), message.method, "method")
                found += differences("id" in line, isinstance(message, Call), "has an id")
                return found or self._of_params(line, message)
            case _:
                assert_never(message)

    def _of_params(self, line: Line, message: Call | Notification) -> list[Difference]:
        if line.get("withheld"):
            return []
        if "digest" in line:  # Of a call that was refused no params are kept.
            return differences(line["digest"], digest(message.params or {}), "params (their SHA-256)")
        recorded = canonical(message.method, line.get("params"))
        got = canonical(message.method, message.params)
        name = NAMES_A_CALL.get(message.method)
        if name is not None and isinstance(recorded, dict) and isinstance(got, dict) and name in (message.params or {}):
            return self._of_named_call(line, got, recorded, name)
        return differences(recorded, got, "params")

    def _of_named_call(self, line: Line, got: Line, recorded: Line, name: str) -> list[Difference]:
        """Compare params that name another call: by the call, since its id is the host's own."""
        recorded_id = line["params"].get(name)
        named = self._calls.get(got[name]) if isinstance(got.get(name), str | int) else None
        rest = differences(_but(recorded, name), _but(got, name), "params")
        if recorded_id is None:
            return rest  # It had ended, and the log does not keep which one it was.
        named_id = None if named is None else named.line.get("id")
        if named_id in line.get("names", ()):
            return rest  # One of those that heard of what was cancelled; which one, the log does not keep.
        return rest + differences(recorded_id, named_id, f"params.{name}")

    # ------------------------------------------------------------------------------------------ what the host hears

    def next(self) -> Due | Awaits | Over:
        """Return what comes next. Each line is returned once."""
        while self._at < len(self._script):
            line = self._script[self._at]
            step = self._steps.get(line["n"] if "host" in line else line.get("for", 0))
            is_awaited = step is not None and step.fate == "unheard" and (self._end_matters or not step.is_end)
            if "host" in line and is_awaited and not self._ended:
                return Awaits(_named(line))
            after_ms = max(0, line["ms"] - self._ms)
            self._at += 1
            self._ms = line["ms"]
            if "host" in line or (step is not None and step.fate != "matched"):
                continue
            return Due(after_ms, self._line(line, step))
        return Over()

    def _line(self, line: Line, step: _Step | None) -> bytes:
        called = None if step is None else step.id
        if "result" in line and called is not None:
            return self._answer(step, jsonrpc.result_line(called, line["result"]))
        if "error" in line:
            error = line["error"]
            failure = Failure(error["code"], error["message"], error.get("data", {}))
            return self._answer(step, jsonrpc.error_line(called, failure))
        known = ("sidecar", "for", "ms")
        [(method, params)] = [(name, value) for name, value in line.items() if name not in known]
        if method in ("stream", "progress"):
            params = {"request": called, **params}
        return jsonrpc.notification_line(method, params)

    def _answer(self, step: _Step | None, line: bytes) -> bytes:
        if step is None:
            return line
        step.is_answered = True
        if step.batch is None:
            return line
        step.batch.open -= 1
        step.batch.answers.append((step.id, line))
        return _closed(step.batch)

    # ------------------------------------------------------------------------------------------ what became of it

    def report(self) -> Report:
        """Say what was used, and what was not."""
        steps = [step for step in self._steps.values() if not step.is_end]
        unsaid = [
            line
            for line in self._script[self._at :]
            if "sidecar" in line and (step := self._steps.get(line.get("for", 0))) and step.fate == "matched"
        ]
        return Report(
            used=sum(step.fate == "matched" for step in steps),
            unused=tuple([f"line {step.number}, {_named(step.line)}" for step in steps if step.fate == "unheard"]),
            mismatched=tuple(self._mismatched),
            unsaid=len(unsaid) + self._lost,
            unproven=self._unproven,
        )

    def _unheard(self) -> Iterator[_Step]:
        return (step for step in self._steps.values() if step.fate == "unheard")


def _end_matters(script: Sequence[Line]) -> bool:
    """Whether what was heard after the end of the host's lines may follow from it: it is a shutdown, which ends calls.

    Where all came to a good end it would have been the same without, so that a host need not have closed its end by
    then.
    """
    places = [place for place, line in enumerate(script) if "eof" in line]
    return bool(places) and any("error" in line for line in script[places[0] :])


def _closed(batch: _Batch) -> bytes:
    if batch.open or not batch.answers:
        return b""
    answers, batch.answers = batch.answers, []
    return jsonrpc.batch_line(answers)


def _id_of(message: Call | Notification | Bad) -> Id | None:
    return None if isinstance(message, Notification) else message.id


def _method_of(message: Call | Notification | Bad) -> str | None:
    return None if isinstance(message, Bad) else message.method


def _sent(message: Call | Notification | Bad) -> str:
    match message:
        case Call():
            return f"{message.method} (id {message.id!r})"
        case Notification():
            return f"{message.method} (a notification)"
        case Bad():
            return "a line that is no request"
        case _:
            assert_never(message)


def _named(line: Line) -> str:
    if "eof" in line:
        return "the end of the host's lines"
    return str(line.get("method", "a line that is no request"))


def _but(params: Line, name: str) -> Line:
    return {key: value for key, value in params.items() if key != name}
