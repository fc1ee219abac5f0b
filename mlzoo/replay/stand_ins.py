"""Who stands around a sidecar that runs a recorded session again: its hosts, its draws, and the ears for its stderr.

Knows lines and ids; nothing of what should have been said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.events.recording import Line
from mlzoo.simulation.pipe import Pipe
from mlzoo.transport.stderr import StderrLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlzoo.world import Ids, Seeds

ROOM_BYTES = 1 << 40  # on the way to a host: it reads at once


@attrs.define
class Heard:
    """What a host heard of one of its lines."""

    pieces: list[Line] = attrs.field(factory=list)
    answer: Line | None = None  # with result or error


class Drawn:
    """Ids and seeds: for a line of a host's those that were drawn for it then, else new ones."""

    def __init__(self, ids: Ids, seeds: Seeds) -> None:
        self.names: dict[str, str] = {}  # prefix -> the next id
        self.seed: int | None = None
        self._ids = ids
        self._seeds = seeds

    def new(self, prefix: str) -> str:
        """See ``Ids``."""
        return self.names.pop(prefix, None) or self._ids.new(prefix)

    def new_seed(self) -> int:
        """See ``Seeds``."""
        seed, self.seed = self.seed, None
        return self._seeds.new() if seed is None else seed


@attrs.frozen
class DrawnSeeds:
    """The seeds among them, see ``Seeds``."""

    drawn: Drawn

    def new(self) -> int:
        """See ``Seeds``."""
        return self.drawn.new_seed()


class Silent(StderrLog):
    """Keeps what a sidecar tells of itself, so that what went wrong inside can be told."""

    def __init__(self) -> None:
        self.incidents: list[str] = []

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Keep what is a fault of ours."""
        if level == "error" and event in ("incident", "actor crashed"):
            self.incidents.append(str(fields.get("traceback", fields)))

    def close(self, timeout_s: float = 1.0) -> bool:  # noqa: ARG002 - nothing is on its way
        """Nothing is on its way."""
        return True


class Host:
    """One connection: says its lines, and files what it hears under the line that it is about."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self.pipe = Pipe(ROOM_BYTES, self._on_emit)
        self.heard: dict[int, Heard] = {}
        self._calls: dict[str | int, int] = {}
        self._notify = notify

    def say(self, line: Line) -> None:
        """Send a line again."""
        message: Line = {"jsonrpc": "2.0", "method": line["method"]}
        if "id" in line:
            message["id"] = line["id"]
            self._calls[line["id"]] = line["n"]
        if "params" in line:
            message["params"] = line["params"]
        self.heard[line["n"]] = Heard()
        self.pipe.feed(orjson.dumps(message) + b"\n")

    def _on_emit(self, data: bytes) -> None:
        for line in data.splitlines():
            message = orjson.loads(line)
            for told in message if isinstance(message, list) else [message]:
                self._file(told)
        self._notify()

    def _file(self, told: Line) -> None:
        if told.get("method") == "stream":
            about = self._calls.get(told["params"]["request"])
            piece = {name: value for name, value in told["params"].items() if name != "request"}
            if about is not None:
                self.heard[about].pieces.append(piece)
        elif "method" not in told:
            about = self._calls.get(told["id"])
            if about is not None:
                self.heard[about].answer = {name: told[name] for name in ("result", "error") if name in told}
