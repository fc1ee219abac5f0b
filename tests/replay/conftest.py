"""Sessions with a whole sidecar in memory, recorded, and hosts that play them again."""

import sys
from pathlib import Path

import orjson
import pytest
import trio

sys.path += [str(Path(__file__).parent.parent / name) for name in ("shell", "api")]

from memory_host import Host
from sidecar_life import LOG, Lives

from mlzoo.events import recording
from mlzoo.replay.export import export
from mlzoo.replay.matching import Playback
from mlzoo.replay.play import Player
from mlzoo.simulation.world import simulated_world


@pytest.fixture
def lives(tmp_path, monkeypatch, autojump_clock):
    """Sidecars under a virtual clock. What else runs in threads runs inline: the clock would not wait for a thread."""

    async def inline(function, *args, **_options):
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", inline)
    return Lives(tmp_path)


@pytest.fixture
def recorded(lives, tmp_path):
    """Return a function that records what the log holds by now."""

    def make(name="recording.ndjson", **wishes):
        output = tmp_path / name
        export(simulated_world(7, lives.disk.copy()), LOG, output, **wishes)
        return recording.read(output)

    return make


class ReplayedHost(Host):
    """A host whose sidecar is a recording."""

    def __init__(self, script, speed=float("inf")):
        super().__init__()
        self.playback = Playback(script)
        self.player = Player(self.playback, self, speed)

    async def play(self, *lines):
        """Send lines, close, and return what was heard and the report."""
        for line in lines:
            self.feed(line if isinstance(line, bytes) else orjson.dumps(line) + b"\n")
        self.close()
        await self.player.run()
        return self.messages, self.playback.report()


def asked(found, connection="con-1", first_id=500):
    """Return the lines of a recording's host as a host would send them again, under other ids."""
    ids = {}
    lines = []
    for number, line in enumerate(line for line in found.wire(connection) if "method" in line):
        params = line.get("params", {})
        if line["method"] == "cancel":
            params = {"request": ids.get(params["request"], 999_999)}
        message = {"jsonrpc": "2.0", "method": line["method"], "params": params}
        if "id" in line:
            ids[line["id"]] = message["id"] = first_id + number
        lines.append(message)
    return lines
