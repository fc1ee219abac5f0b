"""Which calls of a recording cannot be run again, and which mean nothing without those: the rest is a recording too.

A call cannot be run where its text was forgotten or never kept, where what it goes on with happened before the
recording begins or on another connection, and, with real weights, where its sidecar was killed while it ran: how far
the weights had come by then is in no file. Who depends on such a call, by a key, a cancel or a conversation, is left
out with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import orjson

from mlzoo.errors import ConfigError
from mlzoo.events.recording import Recording
from mlzoo.events.records import GONE, is_gone
from mlzoo.replay.inputs import lives_of, unheard
from mlzoo.replay.shrink import Call, Session
from mlzoo.state_codec import decode_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.events.recording import Line

KILLED = "its sidecar was killed while it ran, and how far real weights had come cannot be had again"
EARLIER = "what it goes on with is not in the recording"
FORGOT = "what it made forgotten is not run again"
AFTER = "it goes on with what is not run again"
SHOWN = 20  # reasons in an error


@attrs.frozen(kw_only=True)
class Runnable:
    """What of a recording can be run again.

    Attributes:
        found: the recording without the others, whose lines keep their numbers.
        reasons: the others, and why each cannot be run.
    """

    found: Recording
    reasons: dict[Call, str]


def runnable(found: Recording, *, is_real: bool) -> Runnable:
    """Return what can be run again, with real weights or with the recorded output.

    Raises:
        ConfigError: Nothing can.
    """
    session = Session(found)
    reasons = dict(_reasons(found, session, is_real=is_real))
    if not reasons:
        return Runnable(found=found, reasons={})
    _add_dependents(found, session, reasons)
    reasons = {call: reasons[call] for call in session.calls if call in reasons}
    kept = frozenset(session.calls) - reasons.keys()
    if not kept:
        told = [f"{name} line {number}: {reason}" for (name, number), reason in reasons.items()]
        more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
        raise ConfigError("nothing of the recording can be run again:\n  " + "\n  ".join([*told[:SHOWN], *more]))
    return Runnable(found=session.only(kept, renumber=False), reasons=reasons)


def _reasons(found: Recording, session: Session, *, is_real: bool) -> Iterator[tuple[Call, str]]:
    """Yield the calls that cannot be run, whatever becomes of others."""
    groups = {group["command"][2].get("request"): group for group in found.groups() if _is_call(group)}
    known = set(session.requests.values())
    before = decode_state(found.header.get("state")).conversations
    killed = unheard(found, lives_of(found)) if is_real else {}
    forgets = {(line["sidecar"], line.get("for")) for line in found.lines if "sidecar" in line and "result" in line}
    held = sorted((group["group"], group["group"] + len(group["events"])) for group in found.groups())
    histories = {
        event["request"]: event["history"]["from_seq"]
        for group in found.groups()
        for name, _, event in group["events"]
        if name == "RequestDispatched" and (event.get("history") or {}).get("from_seq") is not None
    }
    for line in (line for line in found.lines if "host" in line and "eof" not in line):
        call = (line["host"], line["n"])
        request = session.requests.get(call)
        group = groups.get(request)
        if line.get("method") == "forget" and call in forgets:
            yield call, FORGOT
        if request is None or group is None:
            continue
        if line.get("withheld"):
            why = group["text"].get(GONE, "gone") if is_gone(group.get("text")) else "not kept"
            yield call, f"its text is {why}, and not in the recording"
            continue
        since_seq = histories.get(request)
        has_history = since_seq is None or any(first <= since_seq <= last for first, last in held)
        if _targets(group) - known or _conversations(line, group) & before.keys() or not has_history:
            yield call, EARLIER
        elif call in killed:
            yield call, KILLED
        elif is_real and b"[redacted:" in orjson.dumps(line.get("params")):
            yield call, "a part of its text was taken out of the recording"


def _is_call(group: Line) -> bool:
    return group["command"][2].get("caller") is not None


def _targets(group: Line) -> set[str]:
    """Return the requests that a call goes on with: those that its key or its cancel stands for."""
    kind, _, data = group["command"]
    found = {event["target"] for name, _, event in group["events"] if name == "RequestAttached"}
    if data.get("known"):
        found.add(data["known"]["request"])
    if kind == "Cancel" and data.get("target"):
        found.add(data["target"])
    return found


def _add_dependents(found: Recording, session: Session, reasons: dict[Call, str]) -> None:
    """Add the calls that depend on those which are left out, and those that depend on them."""
    groups = {group["command"][2].get("request"): group for group in found.groups() if _is_call(group)}
    lines = {(line["host"], line["n"]): line for line in found.lines if "host" in line and "eof" not in line}
    own = {request: call for call, request in session.requests.items()}
    count = -1
    while count != len(reasons):
        count = len(reasons)
        ended = [session.requests[call] for call in reasons if call in session.requests]
        gone_from = _first_gone([groups[request] for request in ended if request in groups])
        for call in session.calls:
            data = groups.get(session.requests.get(call, ""), {"command": ("", 1, {}), "events": ()})
            needs = {*session.needs.get(call, ()), *(own[name] for name in _targets(data) if name in own)}
            if call not in reasons and (needs & reasons.keys() or _is_of(lines[call], data, gone_from)):
                reasons[call] = AFTER


def _first_gone(gone: list[Line]) -> dict[str, int]:
    """Return each conversation of which a turn is left out -> the group of the first such turn."""
    found: dict[str, int] = {}
    for group in gone:
        name = group["command"][2].get("conversation")
        if name:
            found[name] = min(group["group"], found.get(name, group["group"]))
    return found


def _is_of(line: Line, group: Line, gone_from: dict[str, int]) -> bool:
    """Whether a call comes in a conversation after a turn of it that is left out, or is about all conversations.

    Of a call that nothing was decided about, nobody can say when it came.
    """
    if line.get("method") == "conversations.list":
        return bool(gone_from)
    seq = group.get("group", math.inf)
    return any(seq > gone_from[name] for name in _conversations(line, group) & gone_from.keys())


def _conversations(line: Line, group: Line) -> set[str]:
    """Return the conversations that a call names, or that became its own."""
    params = line.get("params")
    named = {params.get("conversation")} if isinstance(params, dict) else set()
    return {name for name in (*named, group["command"][2].get("conversation")) if isinstance(name, str) and name}
