"""A host in memory: the other end of a sidecar's stdio, which can stop reading, break, or close its end."""

import itertools
import math

import orjson
import trio

from mlzoo.transport.stream import SEND_BYTES


class Moves:
    """Wakes whoever waits for something to have happened."""

    def __init__(self):
        self._moved = trio.Event()

    def notify(self):
        self._moved.set()
        self._moved = trio.Event()

    async def until(self, predicate):
        while not (found := predicate()):
            await self._moved.wait()
        return found


class Host:
    """Both the ``ByteStream`` that a sidecar has, and the program behind it."""

    def __init__(self, first_id=1):
        self._feed, self._fed = trio.open_memory_channel(math.inf)
        self._ids = itertools.count(first_id)
        self._waiting = bytearray()  # sent by the sidecar, not taken by the host
        self._open_line = b""
        self._reads = True
        self._broken = False
        self._moves = Moves()
        self.methods = {}  # id -> method
        self.messages = []  # every line taken, in order
        self.on_line = None  # called with each line in the moment in which the sidecar lets go of it
        self._unseen = b""
        self.most_waiting_bytes = 0

    # ------------------------------------------------------------------------------------------ as a ByteStream

    async def receive_some(self):
        try:
            return await self._fed.receive()
        except trio.EndOfChannel:
            await trio.lowlevel.checkpoint()
            return b""

    def send_nowait(self, data):
        if self._broken:
            raise trio.BrokenResourceError("the host no longer reads")
        if len(self._waiting) >= SEND_BYTES:
            return False
        self._see(data)
        self._waiting += data
        self.most_waiting_bytes = max(self.most_waiting_bytes, len(self._waiting))
        self._take()
        return True

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()
        while not self.send_nowait(data):
            await self._moves.until(lambda: self._broken or len(self._waiting) < SEND_BYTES)

    async def flush(self):
        await trio.lowlevel.checkpoint()
        await self._moves.until(lambda: self._broken or not self._waiting)
        if self._broken:
            raise trio.BrokenResourceError("the host no longer reads")

    async def aclose(self):
        await trio.lowlevel.checkpoint()

    def _see(self, data):
        *lines, self._unseen = (self._unseen + data).split(b"\n")
        for line in lines:
            if self.on_line is not None:
                self.on_line(orjson.loads(line))

    def _take(self):
        if self._reads and self._waiting:
            *lines, self._open_line = (self._open_line + bytes(self._waiting)).split(b"\n")
            self._waiting.clear()
            self.messages += map(orjson.loads, lines)
        self._moves.notify()

    # ------------------------------------------------------------------------------------------ as a program

    def feed(self, data):
        self._feed.send_nowait(data)

    def send(self, method, params=None, id=None):  # noqa: A002 - the protocol's word
        """Send a call and return its id."""
        id = next(self._ids) if id is None else id  # noqa: A001
        self.methods[id] = method
        self.feed(orjson.dumps(self.request(method, params, id)) + b"\n")
        return id

    def request(self, method, params=None, id=None):  # noqa: A002
        message = {"jsonrpc": "2.0", "method": method}
        if id is not None:
            message["id"] = id
            self.methods[id] = method
        return message if params is None else {**message, "params": params}

    def notify(self, method, params=None):
        self.feed(orjson.dumps(self.request(method, params)) + b"\n")

    def batch(self, *members):
        """Send a batch and return the ids in it."""
        self.feed(orjson.dumps(list(members)) + b"\n")
        return [member["id"] for member in members if "id" in member]

    def stop_reading(self):
        self._reads = False

    def read_on(self):
        self._reads = True
        self._take()

    def break_off(self):
        """Close stdout's reading end."""
        self._broken = True
        self._waiting.clear()
        self._moves.notify()

    def close(self):
        """Close stdin."""
        self._feed.close()

    def responses(self, id):  # noqa: A002
        single = [m for m in self.messages if isinstance(m, dict)]
        inside = [m for batch in self.messages if isinstance(batch, list) for m in batch]
        return [m for m in single + inside if "method" not in m and m.get("id") == id]

    async def until(self, predicate):
        return await self._moves.until(predicate)

    async def response(self, id):  # noqa: A002
        [found] = await self.until(lambda: self.responses(id))
        return found

    async def result(self, id):  # noqa: A002
        found = await self.response(id)
        assert "result" in found, found
        return found["result"]

    async def error(self, id):  # noqa: A002
        found = await self.response(id)
        assert "error" in found, found
        return found["error"]

    async def call(self, method, params=None):
        return await self.result(self.send(method, params))

    async def refused(self, method, params=None):
        return await self.error(self.send(method, params))

    def notifications(self, method):
        return [m["params"] for m in self.messages if isinstance(m, dict) and m.get("method") == method]

    def stream(self, id):  # noqa: A002
        """The deltas of a request, after a look at their numbers."""
        pieces = [p for p in self.notifications("stream") if p["request"] == id]
        assert [p["seq"] for p in pieces] == list(range(len(pieces)))
        return [p["delta"] for p in pieces]

    async def streamed(self, id, count):  # noqa: A002
        return await self.until(lambda: self.stream(id) if len(self.stream(id)) >= count else None)
