"""Hosts that play recorded sessions again."""

from collections import deque

import orjson

from mlzoo.replay.matching import Playback
from mlzoo.replay.play import Player


class ReplayedHost:
    """A host whose sidecar is a recording, on a clock that stands while nobody waits.

    ``sends`` says what the host does and when: (time in s, bytes), b"" for closing its end.
    """

    def __init__(self, script, *sends, speed=float("inf"), reads=True):
        self.playback = Playback(script)
        self.messages = []
        self.time_s = 0.0
        self._sends = deque(sends)
        self._reads = reads
        self._speed = speed

    def play(self):
        """Play it to the end; return what was heard and the report."""
        Player(self.playback, self, self._speed).run()
        return self.messages, self.playback.report()

    def now_s(self):
        return self.time_s

    def receive(self, timeout_s):
        if self._sends and self._sends[0][0] <= self.time_s + timeout_s:
            at_s, data = self._sends.popleft()
            self.time_s = max(self.time_s, at_s)
            return data
        self.time_s += timeout_s
        return None

    def send(self, data):
        if not self._reads:
            raise BrokenPipeError
        self.messages += map(orjson.loads, data.splitlines())


def sent(*messages, at_s=0.0):
    """Return what a host does that sends messages, all at one time, and closes its end."""
    return [*((at_s, orjson.dumps(message) + b"\n") for message in messages), (at_s, b"")]


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
