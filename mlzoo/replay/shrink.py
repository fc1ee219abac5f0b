"""``mlzoo replay shrink``: the smallest recording that still fails.

First the groups at both ends are left out that the failure does not need, those before it folded into a state, then
calls, with all that they led to (``ddmin``). What is left is well-formed: a call keeps its answers, and what it names
(a call that it cancels, the request that its key stands for) stays with it. Knows no files and no clock: what failing
means, and when there has been enough of it, is said by whoever asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mlzoo.core.apply import apply_group
from mlzoo.events.recording import Line, Recording
from mlzoo.replay.inputs import placed
from mlzoo.replay.telling import group_in
from mlzoo.simulation.ddmin import ddmin
from mlzoo.state_codec import decode_state, encode_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Call = tuple[str, int]
"""A connection, and the number of one of its host's lines."""


def shrunk(found: Recording, fails: Callable[[Recording], bool]) -> Iterator[Recording]:
    """Yield ever smaller recordings that fail. The one that is given is taken to do so."""
    for smaller in _cut(found, fails):
        found = smaller
        yield found
    session = Session(found)
    tried: dict[frozenset[Call], bool] = {}

    def still_fails(calls: tuple[Call, ...]) -> bool:
        kept = session.closed(calls)
        if kept not in tried:
            tried[kept] = fails(session.only(kept))
        return tried[kept]

    before = frozenset(session.calls)
    for calls in ddmin(session.calls, still_fails):
        kept = session.closed(calls)
        if kept != before:
            before = kept
            yield session.only(kept)


# ------------------------------------------------------------------------------------------------ ends


def _cut(found: Recording, fails: Callable[[Recording], bool]) -> Iterator[Recording]:
    """Yield shorter spans of the groups, found by halving: first without what follows, then without what precedes."""
    if not found.header.get("folds", True):
        return
    count = len(list(found.groups()))
    low, high = 0, count  # With so many groups it is not known to fail, with so many it does.
    while high - low > 1:
        middle = (low + high) // 2
        shorter = span(found, 0, middle)
        if fails(shorter):
            high = middle
            yield shorter
        else:
            low = middle
    whole = span(found, 0, high) if high < count else found
    low, last = 0, high
    high = last
    while high - low > 1:
        middle = (low + high) // 2
        shorter = span(whole, middle, last)
        if fails(shorter):
            low = middle
            yield shorter
        else:
            high = middle


def span(found: Recording, first: int, last: int) -> Recording:
    """Return a recording of some of the groups, by their indices, and of the calls that they decided."""
    groups = list(found.groups())
    header = {**found.header, "part": f"span {groups[first]['group']}:{groups[last - 1]['group']}"}
    if first:
        state = decode_state(found.header.get("state"))
        for line in groups[:first]:
            state = apply_group(state, group_in(line))
        header["state"] = encode_state(state)
    session = Session(found)
    kept = {call for call, place in session.places.items() if first <= place < last}
    return Recording(header=header, lines=(*session.wire(session.closed(kept)), *groups[first:last]))


# ------------------------------------------------------------------------------------------------ calls


class Session:
    """A recording as calls, and what belongs to each.

    Attributes:
        calls: those that can be left out; the ends of connections go with the last call of theirs.
        places: call -> the index of the group that decided it; of one that was answered at once, of the next.
        requests: call -> what the sidecar called it, where it became a request.
        needs: call -> those that it means nothing without.
    """

    def __init__(self, found: Recording) -> None:
        self._found = found
        self._groups = list(found.groups())
        hosts = [line for line in found.lines if "host" in line]
        self.calls: tuple[Call, ...] = tuple([_call(line) for line in hosts if "eof" not in line])
        self.places: dict[Call, int] = {}
        self.requests: dict[Call, str] = {}
        for place, line, own in placed(hosts, self._groups):
            self.places[_call(line)] = min(place, max(0, len(self._groups) - 1))
            if own is not None and "eof" not in line and isinstance(own.get("request"), str):
                self.requests[_call(line)] = own["request"]
        self.needs = self._causes(hosts)

    def closed(self, calls: Iterable[Call]) -> frozenset[Call]:
        """Return calls and all that they name, and what that names."""
        kept: set[Call] = set()
        waiting = list(calls)
        while waiting:
            call = waiting.pop()
            if call not in kept:
                kept.add(call)
                waiting += self.needs.get(call, ())
        return frozenset(kept)

    def only(self, kept: frozenset[Call], *, renumber: bool = True) -> Recording:
        """Return a recording of some calls. Where groups had to be left out it can be folded no more, and says so."""
        dropped = {request for call, request in self.requests.items() if call not in kept}
        groups = [group for line in self._groups if (group := _without(line, dropped)) is not None]
        header = dict(self._found.header)
        if groups != self._groups:
            header |= {"folds": False, "part": "shrunk"}
            header.pop("state", None)
        seeds = header.get("seeds", {})
        header["seeds"] = {request: seed for request, seed in seeds.items() if request not in dropped}
        return Recording(header=header, lines=(*self.wire(kept, renumber=renumber), *groups))

    def wire(self, kept: frozenset[Call], *, renumber: bool = True) -> Iterator[Line]:
        """Yield the lines of some calls and of their answers, the host's numbered anew."""
        connections = {connection for connection, _ in kept}
        counts: dict[str, int] = {}
        numbers: dict[Call, int] = {}
        for line in self._found.lines:
            if "host" in line and (_call(line) in kept or ("eof" in line and line["host"] in connections)):
                counts[line["host"]] = counts.get(line["host"], 0) + 1
                number = numbers[_call(line)] = counts[line["host"]] if renumber else line["n"]
                yield {**line, "n": number}
            elif "sidecar" in line and line.get("for", 0) == 0 and line["sidecar"] in connections:
                yield line
            elif "sidecar" in line and (line["sidecar"], line.get("for", 0)) in numbers:
                yield {**line, "for": numbers[line["sidecar"], line["for"]]}

    def _causes(self, hosts: list[Line]) -> dict[Call, set[Call]]:
        """Return for each call those that it means nothing without."""
        needs: dict[Call, set[Call]] = {}
        by_id: dict[tuple[str, str | int], Call] = {}
        by_request = {request: call for call, request in self.requests.items()}
        subscriptions = {
            line["result"].get("subscription"): (line["sidecar"], line["for"])
            for line in self._found.lines
            if isinstance(line.get("result"), dict) and "for" in line
        }
        for line in hosts:
            call = _call(line)
            params = line.get("params")
            named = [*line.get("names", ())]
            if line.get("method") == "cancel" and isinstance(params, dict):
                named.append(params.get("request"))
            needs[call] = {by_id[line["host"], name] for name in named if (line["host"], name) in by_id}
            if line.get("method") == "events.unsubscribe" and isinstance(params, dict):
                needs[call] |= {subscriptions[name] for name in [params.get("subscription")] if name in subscriptions}
            if "id" in line:
                by_id[line["host"], line["id"]] = call
        for group in self._groups:
            command, _, data = group["command"]
            pairs = [(event["request"], event["target"]) for kind, _, event in group["events"] if kind == _ATTACHED]
            if command == "Cancel" and data.get("target"):
                pairs.append((data["request"], data["target"]))
            for request, target in pairs:
                if request in by_request and target in by_request:
                    needs[by_request[request]].add(by_request[target])
        return needs


_ATTACHED = "RequestAttached"
_OF_A_LIFE = frozenset({"SidecarStarted", "SidecarStopped"})


def _call(line: Line) -> Call:
    return (line["host"], line["n"])


def _without(line: Line, dropped: set[str]) -> Line | None:
    """Return a group without the text of requests that are left out; None where it is about nothing else."""
    _, _, data = line["command"]
    own = {row["request"] for row in data.get("rows", ())} | {data.get("request")}
    own |= {event.get("request") for _, _, event in line["events"]}
    own.discard(None)
    if not own & dropped:
        return line
    if any(kind in _OF_A_LIFE for kind, _, _ in line["events"]):  # It says where a life begins or ends.
        return {**line, "events": [event for event in line["events"] if event[2].get("request") not in dropped]}
    if own <= dropped or data.get("request") in dropped:
        return None
    if line["command"][0] != "ReportStep" or line.get("text") is None:
        return line
    pairs = zip(data["rows"], line["text"], strict=True)
    return {**line, "text": [None if row["request"] in dropped else text for row, text in pairs]}


@attrs.frozen(kw_only=True)
class Size:
    """How large a recording is."""

    calls: int
    groups: int

    def __str__(self) -> str:
        return f"{self.calls} calls, {self.groups} groups"


def size_of(found: Recording) -> Size:
    """Return how large a recording is."""
    calls = sum("host" in line and "eof" not in line for line in found.lines)
    return Size(calls=calls, groups=sum("group" in line for line in found.lines))
