"""What went into a sidecar, read out of a recording: its hosts' lines and its models' answers, in one order, by lives.

A call that was decided about stands right before the group that decided it; one that was answered at once, where its
time puts it, and never behind what its connection said later. Knows nothing of how any of it is done again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any

import attrs

from mlzoo.events.recording import Line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mlzoo.events.recording import Recording

FROM_WORKERS = frozenset(
    {
        "ReportWorkerUp",
        "ReportWorkerLost",
        "ReportLoaded",
        "ReportLoadFailed",
        "ReportStep",
        "ReportAnswer",
        "ReportFailure",
    }
)
CLOCK = "Strike"
"""What the sidecar's own clock has it decide."""
_METHODS = {
    "Resume": "resume",
    "Cancel": "cancel",
    "LoadModel": "models.load",
    "UnloadModel": "models.unload",
    "PullModel": "models.pull",
    "RemoveModel": "models.remove",
    "Shutdown": "shutdown",
    "PutPersona": "personas.put",
}


@attrs.frozen(kw_only=True)
class Said:
    """A line of a host's.

    Attributes:
        request: what the sidecar called it, where it became a request.
        seed: what was drawn for it.
        conversation: what the sidecar called its conversation, where it is the turn of one.
        after_clock: whether, within its millisecond, the clock had had something decided before it came.
    """

    at_ms: int
    connection: str
    line: Line
    request: str | None = None
    seed: int | None = None
    conversation: str | None = None
    after_clock: bool = False


@attrs.frozen(kw_only=True)
class Reported:
    """A command that came from outside and from no host: a worker's report, or a signal."""

    at_ms: int
    seq: int
    command: str
    data: Line
    text: Any = None
    after_clock: bool = False
    events: tuple[str, ...] = ()  # that were decided by it


@attrs.frozen(kw_only=True)
class Life:
    """One life of the sidecar. Times are milliseconds since it began.

    Attributes:
        stdio: the connection to the host that spawned it, where it said anything.
        bounds: the limits that were in force, where the recording has its start.
        probes: what each look at the devices found.
        took_ms: how long it lived, by its last decision.
        ends_by_clock: whether the clock had something decided in the last of those milliseconds.
        crashed: whether the next life began before this one had ended.
    """

    inputs: tuple[Said | Reported, ...]
    stdio: str | None
    bounds: Line | None
    probes: tuple[Line, ...]
    took_ms: int
    ends_by_clock: bool
    crashed: bool


def lives_of(found: Recording) -> tuple[Life, ...]:
    """Return the lives that a recording tells of."""
    groups = list(found.groups())
    numbers = _lives(groups)
    said = placed([line for line in found.lines if "host" in line], groups)
    homes = _homes(said, groups, numbers)
    count = max([*numbers, *homes.values()], default=0) + 1
    begins = [next((g["at_ms"] for g, n in zip(groups, numbers, strict=True) if n == life), 0) for life in range(count)]
    inputs: list[list[Said | Reported]] = [[] for _ in range(count)]
    waiting = deque(said)
    for index, group in enumerate([*groups, None]):
        while waiting and waiting[0][0] <= index:
            place, line, own = waiting.popleft()
            life = homes[line["host"]]
            said_at_ms = max(0, _at_ms(groups, place) - begins[life])
            inputs[life].append(_said(line, own, said_at_ms, _is_after_clock(groups, place)))
        if group is None:
            break
        command, _, data = group["command"]
        is_signal = command == "Shutdown" and data.get("reason") in ("signal", "parent")
        if command in FROM_WORKERS or is_signal:
            report = Reported(
                at_ms=max(0, group["at_ms"] - begins[numbers[index]]),
                seq=group["group"],
                command=command,
                data=data,
                text=group.get("text"),
                after_clock=_is_after_clock(groups, index),
                events=tuple([kind for kind, _, _ in group["events"]]),
            )
            inputs[numbers[index]].append(report)
    return tuple([_life(number, inputs[number], groups, numbers) for number in range(count)])


def _life(number: int, inputs: list[Said | Reported], groups: list[Line], numbers: list[int]) -> Life:
    own = [group for group, life in zip(groups, numbers, strict=True) if life == number]
    commands = [group["command"] for group in own]
    sockets = {data["connection"] for kind, _, data in commands if kind == "HostGone"}
    connections = [item.connection for item in inputs if isinstance(item, Said) and item.connection not in sockets]
    return Life(
        inputs=tuple(inputs),
        stdio=next(iter(connections), None),
        bounds=next((data["bounds"] for kind, _, data in commands if kind == "Start"), None),
        probes=tuple([data for kind, _, data in commands if kind == "ReportDevices"]),
        took_ms=own[-1]["at_ms"] - own[0]["at_ms"] if own else 0,
        ends_by_clock=_is_after_clock([*own, *own[-1:]], len(own)),
        crashed=number < max(numbers, default=0) and not _has_stopped(own),
    )


def _lives(groups: list[Line]) -> list[int]:
    """Return of each group in which life it was decided."""
    starts = [group["command"][0] == "Start" for group in groups]
    first = 1 if starts[:1] == [True] else 0
    return [count - first for count in accumulate(starts, lambda count, is_start: count + is_start)]


def _has_stopped(groups: list[Line]) -> bool:
    return any(event[0] == "SidecarStopped" for group in groups[-1:] for event in group["events"])


def taken_up(groups: Iterable[Line], requests: Collection[str | None]) -> list[dict[str, Line]]:
    """Return what became of requests when a life took up what the one before had left: one mapping for each start."""
    return [
        {
            event["request"]: {"event": kind, **{name: value for name, value in event.items() if name != "caller"}}
            for kind, _, event in group["events"]
            if "request" in event and event["request"] in requests
        }
        for group in groups
        if group["command"][0] == "Start"
    ]


def unheard(found: Recording, lives: Iterable[Life]) -> dict[tuple[str, int], int]:
    """Return the calls, as connection and line, under which their sidecar crashed, and when the next life began.

    The recording has the answer that the next life gave them in its log; their host was gone by then.
    """
    groups = list(found.groups())
    numbers = _lives(groups)
    begins = {life: group["ms"] for group, life in zip(reversed(groups), reversed(numbers), strict=True)}
    calls: dict[tuple[str, int], int] = {}
    for number, life in enumerate(lives):
        if not life.crashed:
            continue
        own = [group for group, at in zip(groups, numbers, strict=True) if at == number]
        events = [(kind, event) for group in own for kind, _, event in group["events"]]
        ended = {event["request"] for kind, event in events if kind in _ENDS}
        ended |= {event["request"] for kind, event in events if kind == _ATTACHED and event["target"] in ended}
        for item in life.inputs:
            if isinstance(item, Said) and item.request is not None and item.request not in ended:
                calls[item.connection, item.line["n"]] = begins[number + 1]
    return calls


_ENDS = frozenset({"RequestCompleted", "RequestFailed", "RequestCancelled", "RequestReplied", "RequestRefused"})
_ATTACHED = "RequestAttached"


def placed(lines: list[Line], groups: list[Line]) -> list[tuple[int, Line, Line | None]]:
    """Return each line with the number of groups that stand before it, and the command that it became, if any.

    A connection ends once; recordings of several lives may tell of it again with the end of each later life.
    """
    ends: dict[str, Line] = {}
    for line in lines:
        if "eof" in line:
            ends.setdefault(line["host"], line)
    lines = [line for line in lines if "eof" not in line or ends[line["host"]] is line]
    anchors = _anchors(groups)
    times_ms = list(accumulate((group["ms"] for group in groups), max))
    found = []
    for line in lines:
        own = anchors.get(_name(line))
        if own:
            index = own.popleft() if len(own) > 1 or "eof" not in line else own[0]
            found.append([index, line, groups[index]["command"][2]])
        else:
            found.append([bisect_right(times_ms, line["ms"]), line, None])
    for earlier, later in zip(reversed(found[:-1]), reversed(found[1:]), strict=True):
        earlier[0] = min(earlier[0], later[0])
    return [(place, line, own) for place, line, own in found]


def _name(line: Line) -> tuple[Any, ...]:
    if "eof" in line:
        return ("eof", line["host"])
    return (line.get("method"), line["host"], line["id"]) if "id" in line else (line.get("method"),)


def _anchors(groups: list[Line]) -> dict[tuple[Any, ...], deque[int]]:
    """Return where the commands are that lines became, by what the line says."""
    anchors: dict[tuple[Any, ...], deque[int]] = {}
    connections: dict[str, None] = {}
    for index, group in enumerate(groups):
        command, _, data = group["command"]
        caller = data.get("caller")
        method = data["method"] if command == "Submit" else _METHODS.get(command)
        if caller:
            connections[caller["connection"]] = None
            anchors.setdefault((method, caller["connection"], caller["rpc"]), deque()).append(index)
        elif command == "Cancel":
            anchors.setdefault(("cancel",), deque()).append(index)
        elif command == "HostGone":
            anchors.setdefault(("eof", data["connection"]), deque([index]))
        elif command == "Shutdown" and data.get("reason") == "eof":
            for connection in connections:
                anchors.setdefault(("eof", connection), deque([index]))
            connections = {}
    return anchors


def _homes(placed: list[tuple[int, Line, Line | None]], groups: list[Line], numbers: list[int]) -> dict[str, int]:
    """Return the life of each connection: that of its first decision, else the one that its first line falls into."""
    homes: dict[str, int] = {}
    for index, line, own in placed:
        if own is not None and "eof" not in line:
            homes.setdefault(line["host"], numbers[index])
    for index, line, _ in placed:
        before = max(0, index - 1)
        life = numbers[before] if numbers else 0
        if index and _has_stopped(groups[before:index]) and index < len(groups):
            life = numbers[index]
        homes.setdefault(line["host"], life)
    return homes


def _at_ms(groups: list[Line], place: int) -> int:
    return int(groups[min(place, len(groups) - 1)]["at_ms"]) if groups else 0


def _is_after_clock(groups: list[Line], place: int) -> bool:
    """Whether the clock had something decided in the millisecond of a place, and before it."""
    at_ms = _at_ms(groups, place)
    before = takewhile(lambda group: group["at_ms"] == at_ms, reversed(groups[:place]))
    return any(group["command"][0] == CLOCK for group in before)


def _said(line: Line, own: Line | None, at_ms: int, after_clock: bool) -> Said:
    return Said(
        at_ms=at_ms,
        connection=line["host"],
        line=line,
        request=(own or {}).get("request"),
        seed=((own or {}).get("sampling") or {}).get("seed"),
        conversation=(own or {}).get("conversation"),
        after_clock=after_clock,
    )
