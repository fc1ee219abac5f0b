"""What went over the wire, read back out of the log: for each connection the host's lines and the sidecar's, in order.

An answer that changes nothing is recorded at once, with its call; a call that the engine decides when its turn comes.
So the place of a call among those of its connection is the latest one that the records allow (``Caller.after_aside``).
Where they do not say it at all, since a call is recorded with its answer (it was looked up meanwhile) or not with its
connection (a notification), the line is ``early``: it may have come before its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import attrs
import orjson

from mlzoo.api.wire import DIGEST
from mlzoo.events import commands as cmd
from mlzoo.events import conversations as talk
from mlzoo.events.recording import Line
from mlzoo.events.records import request_of
from mlzoo.replay.copies import CopyView
from mlzoo.views import Attached, Delta, Refusal, RequestView, Result, Unheld, event_params

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlzoo.errors import Failure
    from mlzoo.events.answers import KeptAnswer
    from mlzoo.events.records import Group
    from mlzoo.views import Piece

LOOKED_UP = frozenset(
    {"models.estimate", "devices.list", "events.read", "rpc.discover"}
    | {f"conversations.{does}" for does in ("list", "get", "fork", "delete")}
)
"""Methods whose calls are recorded when they are answered, which may be some time after they came."""
BESIDE_PARAMS = frozenset({"params", "texts", "system", "greeting"})
"""What of a request's text is told otherwise, or is not the host's but its persona's."""


@attrs.define(kw_only=True)
class Entry:
    """One line of the wire, and where it belongs.

    place is where its record stands in the story, side tells those of one place apart, seq is the log_seq there.
    """

    place: int
    side: int
    seq: int
    connection: str
    request: str | None
    call: int  # of the host: which of its lines; of the sidecar: which one it answers, 0 where none
    line: Line


@attrs.frozen(kw_only=True)
class Listener:
    """A call that hears of a request: its own, or one that it was attached to."""

    connection: str
    rpc: str | int
    call: int
    stream: bool
    request: str
    view: RequestView | CopyView
    after: int = -1


class Wire:
    """Takes the story of a log and gives what was said.

    Args:
        blob: returns the bytes of a blob by the name that it has in the story.
        again: returns what a view of the log showed: called with a method, its params and the last log_seq.
        kept: returns the copy of an answer whose records have gone: called with its request and its accepted_seq.
    """

    def __init__(
        self,
        blob: Callable[[str], bytes],
        again: Callable[[str, Any, int], Any],
        kept: Callable[[str, int], KeptAnswer | None],
    ) -> None:
        self._blob = blob
        self._again = again
        self._kept = kept
        self._entries: list[Entry] = []
        self._place = 0
        self._seq = 0
        self._ms = 0
        self._count = 0  # of the host's lines, of all connections
        self._calls: dict[tuple[str, str | int], int] = {}  # (connection, the host's id) -> the latest line with it
        self._callers: dict[str, tuple[str, str | int]] = {}  # request -> whose it is
        self._listeners: dict[str, list[Listener]] = {}  # request -> who hears of it
        self._keyed: dict[str, list[Group]] = {}  # request under a key -> its groups, for whoever comes later
        self._asides: dict[str, list[tuple[int, int]]] = {}  # connection -> (aside_seq, place) of its calls
        self._subscribed: dict[tuple[str, str], tuple[int, frozenset[str] | None]] = {}
        self._open: dict[str, None] = {}  # connections of this life that have not ended

    def lines(self, wanted: Callable[[Entry], bool]) -> Iterator[Line]:
        """Yield the lines that are wanted, in order, the host's numbered anew."""
        numbers: dict[int, int] = {}
        counts: dict[str, int] = {}
        last_ms = 0
        for entry in sorted(self._entries, key=lambda entry: (entry.place, entry.side)):
            if not wanted(entry):
                continue
            is_host = "host" in entry.line
            if is_host:
                counts[entry.connection] = numbers[entry.call] = counts.get(entry.connection, 0) + 1
            elif entry.call and entry.call not in numbers:
                continue  # Its call is not part of this.
            last_ms = max(last_ms, entry.line["ms"])  # The wall clock may have gone back.
            known = {"n": numbers[entry.call]} if is_host else {"for": numbers[entry.call]} if entry.call else {}
            head = {("host" if is_host else "sidecar"): entry.connection, **known, "ms": last_ms}
            yield {**head, **{name: value for name, value in entry.line.items() if name not in head}}

    # ------------------------------------------------------------------------------------------ asides

    def aside(self, aside: Line) -> None:
        """Take an aside."""
        self._place += 1
        self._ms = aside["time_ms"]
        connection, method, rpc = aside["connection"], aside["method"], aside["rpc"]
        failure: Line | None = aside.get("failure")
        if method and rpc is None:
            call = self._calls.get((connection, aside["params"].get("request")), 0)
            shown = {name: value for name, value in aside["params"].items() if name != "request"}
            self._say(connection, None, call, {method: shown})
            return
        self._asides.setdefault(connection, []).append((aside["aside_seq"], self._place))
        said: Line = {"id": rpc, "method": method}
        if not method and failure is not None:
            said = {"id": rpc, "refused": {"code": failure["code"], "message": failure["message"]}}
        elif isinstance(params := aside.get("params"), dict) and params.keys() == {DIGEST}:
            said |= {"withheld": True} if params[DIGEST] is None else {"digest": params[DIGEST]}
        elif params is not None:
            said["params"] = params
        if method in LOOKED_UP:
            said["early"] = True
        call = self._hear(connection, None, said)
        self._calls[connection, rpc] = call
        if failure is not None:
            self._say(connection, None, call, {"error": _error(failure)})
            return
        result = aside.get("result")
        if result is None:
            result = self._again(method, aside.get("params"), aside["after_seq"])
        self._say(connection, None, call, {"result": result})
        if method == "events.subscribe":
            self._subscribe(connection, call, result["subscription"], aside)
        elif method == "events.unsubscribe":
            self._subscribed.pop((connection, aside["params"]["subscription"]), None)

    def _subscribe(self, connection: str, call: int, name: str, aside: Line) -> None:
        asked = aside.get("params") or {}
        types = asked.get("types")
        self._subscribed[connection, name] = (call, None if types is None else frozenset(types))
        if asked.get("after") is None:
            return
        missed = self._again("events.read", {"after": asked["after"], "types": types}, aside["after_seq"])
        for shown in missed["events"]:
            self._say(connection, None, call, {"event": {"subscription": name, **shown}})

    # ------------------------------------------------------------------------------------------ groups

    def group(self, group: Group) -> None:
        """Take a group."""
        self._place += 1
        self._seq = group.first_seq
        self._ms = group.time_ms
        self._command(group)
        spoken_of = dict.fromkeys(filter(None, map(request_of, group.events)))
        for request in spoken_of:
            if request in self._keyed:
                self._keyed[request].append(group)
        for request in spoken_of:
            self._tell(request, group)
        self._publish(group)

    def _command(self, group: Group) -> None:
        command = group.command
        match command:
            case cmd.Submit():
                self._ask(command.request, command.caller, command.method, _submitted(group.text), command.stream)
                if command.key:
                    self._keyed[command.request] = []
            case cmd.Resume():
                self._ask(command.request, command.caller, "resume", _submitted(group.text), stream=True)
            case cmd.Cancel():
                self._cancel(command, group.text)
            case cmd.LoadModel():
                params = {"model": command.model.name, "device": command.device or "auto", "pin": command.pin}
                self._ask(command.request, command.caller, "models.load", params)
            case cmd.PullModel():
                params = {"model": command.model.name, "accept_license": command.accept_license}
                self._ask(command.request, command.caller, "models.pull", params)
            case cmd.UnloadModel():
                self._ask(command.request, command.caller, "models.unload", {"model": command.model.name})
            case cmd.RemoveModel():
                self._ask(command.request, command.caller, "models.remove", {"model": command.model.name})
            case talk.PutPersona():
                persona = group.text.get("persona") if isinstance(group.text, dict) else None
                self._ask(command.request, command.caller, "personas.put", persona)
            case cmd.Start():
                self._open.clear()  # Those of a life that crashed came to no end of their own.
            case cmd.Shutdown(caller=None, reason="eof"):
                for connection in tuple(self._open):
                    self._hear(connection, command.request, {"eof": True})
                self._open.clear()
            case cmd.Shutdown(caller=cmd.Caller() as caller):
                self._ask(command.request, caller, "shutdown", {})
            case cmd.HostGone():
                self._hear(command.connection, None, {"eof": True})
                self._open.pop(command.connection, None)
            case _:
                pass  # What the shell reports is no line of a host's.

    def _ask(
        self, request: str, caller: cmd.Caller, method: str, params: Any, stream: bool = False, more: Line | None = None
    ) -> None:
        said: Line = {"id": caller.rpc, "method": method, **(more or {})}
        said |= {"withheld": True} if params is None else {"params": params}
        call = self._hear(caller.connection, request, said, after_aside=caller.after_aside)
        self._calls[caller.connection, caller.rpc] = call
        self._callers[request] = (caller.connection, caller.rpc)
        view = RequestView(request, self._blob)
        listener = Listener(
            connection=caller.connection, rpc=caller.rpc, call=call, stream=stream, request=request, view=view
        )
        self._listeners.setdefault(request, []).append(listener)

    def _cancel(self, command: cmd.Cancel, text: Any) -> None:
        """Take a cancel. Of several calls that hear of one request the log does not say which one was named."""
        named = self._hearing(command.target or "", command.caller)
        names_key = command.key and command.target is None
        params = _submitted(text) if names_key else {"request": named[0][1] if named else None}
        several: Line = {"names": [rpc for _, rpc in named]} if len(named) > 1 else {}
        if command.caller is not None:
            self._ask(command.request, command.caller, "cancel", params, more=several)
        elif named:
            line = {"method": "cancel", "params": params, "early": True, **several}
            self._hear(named[0][0], command.target, line)

    def _hearing(self, target: str, caller: cmd.Caller | None) -> list[tuple[str, str | int]]:
        """Return the calls that hear of a request, on the connection that speaks of it."""
        heard = [(listener.connection, listener.rpc) for listener in self._listeners.get(target, ())]
        connection = caller.connection if caller is not None else heard[0][0] if heard else ""
        own = [call for call in heard if call[0] == connection]
        return own or ([self._callers[target]] if target in self._callers else [])

    def _attach(self, own: Listener, piece: Attached) -> None:
        """Have a call hear of the request that its key names, what there is of it at once."""
        event = piece.event
        self._listeners[own.request].remove(own)
        groups = self._keyed.get(event.target)
        view: RequestView | CopyView = RequestView(event.target, self._blob, since=piece.since)
        if groups is None:  # It was accepted before this log begins.
            view = CopyView(event.target, self._kept(event.target, event.from_seq), since=piece.since)
        listener = attrs.evolve(own, view=view, stream=event.stream, after=event.after)
        self._listeners.setdefault(event.target, []).append(listener)
        if isinstance(view, CopyView) and event.upto_seq is not None:  # It had ended.
            self._hand(listener, event.target, view.rest())
        for group in groups or ():
            self._read(listener, event.target, group)

    def _tell(self, request: str, group: Group) -> None:
        for listener in tuple(self._listeners.get(request, ())):
            self._read(listener, request, group)

    def _read(self, listener: Listener, request: str, group: Group) -> None:
        if group.last_seq <= listener.view.after_seq:
            return  # It was read when the call was attached.
        self._hand(listener, request, listener.view.read(group))

    def _hand(self, listener: Listener, request: str, pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            match piece:
                case Delta():
                    if listener.stream and piece.seq > listener.after:
                        shown = {"seq": piece.seq, "delta": piece.delta}
                        self._say(listener.connection, listener.request, listener.call, {"stream": shown})
                case Result():
                    result = orjson.loads(orjson.dumps(piece.result))  # An embedding is a fragment of JSON.
                    self._end(listener, request, {"result": result})
                case Refusal():
                    self._end(listener, request, {"error": _error_of(piece.failure)})
                case Attached():
                    self._attach(listener, piece)
                case Unheld():
                    raise AssertionError("these views hold all that was said")
                case _:
                    assert_never(piece)

    def _end(self, listener: Listener, request: str, line: Line) -> None:
        self._say(listener.connection, listener.request, listener.call, line)
        if listener in self._listeners.get(request, ()):
            self._listeners[request].remove(listener)

    def _publish(self, group: Group) -> None:
        for (connection, name), (call, types) in self._subscribed.items():
            for index in range(len(group.events) + 1):
                shown = event_params(group, index)
                if types is None or shown["type"] in types:
                    self._say(connection, None, call, {"event": {"subscription": name, **shown}})

    # ------------------------------------------------------------------------------------------ lines

    def _hear(self, connection: str, request: str | None, said: Line, after_aside: int | None = None) -> int:
        self._count += 1
        self._open[connection] = None
        place, side = self._place, 0
        if after_aside is not None:
            later = [at for aside_seq, at in self._asides.get(connection, ()) if aside_seq > after_aside]
            if later:
                place, side = later[0], -1
        self._add(place, side, connection, request, self._count, {"host": connection, "ms": self._ms, **said})
        return self._count

    def _say(self, connection: str, request: str | None, call: int, said: Line) -> None:
        self._add(self._place, 0, connection, request, call, {"sidecar": connection, "ms": self._ms, **said})

    def _add(self, place: int, side: int, connection: str, request: str | None, call: int, line: Line) -> None:
        self._entries.append(
            Entry(
                place=place,
                side=side,
                seq=self._seq,
                connection=connection,
                request=request,
                call=call,
                line=line,
            )
        )


def _submitted(text: Any) -> Line | None:
    """Return the params of a request that were kept as its text; None where a version wrote it that did not do so."""
    if not isinstance(text, dict) or "params" not in text:
        return None
    texts: Line = {name: value for name, value in text.items() if name not in BESIDE_PARAMS}
    if "texts" in text:
        texts["input"] = text["texts"]
    return {**texts, **text["params"]}


def _error(failure: Line) -> Line:
    return {name: value for name, value in failure.items() if name != "data" or value}


def _error_of(failure: Failure) -> Line:
    return _error({"code": failure.code, "message": failure.message, "data": dict(failure.data)})
