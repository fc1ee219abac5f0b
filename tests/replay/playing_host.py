"""Hosts that play recorded sessions again."""

import orjson
from memory_host import Host

from mlzoo.replay.matching import Playback
from mlzoo.replay.play import Player


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
