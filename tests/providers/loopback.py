"""Servers on loopback, inside the test: they read real HTTP and say what a test tells them to, well or badly."""

import json
import math
from contextlib import asynccontextmanager

import h11
import trio

from mlzoo.providers.protocol import Failed

CHUNK = 65536


class Exchange:
    """One request as the server has it, and the means to answer it."""

    def __init__(self, stream, request, body):
        self._stream = stream
        self.path = request.target.decode()
        self.headers = {name.decode(): value.decode() for name, value in request.headers}
        self.body = json.loads(body) if body else None
        self.left = trio.Event()  # once the client has closed its end

    async def raw(self, data):
        await self._stream.send_all(data)

    async def head(self, status=200, content_type="text/event-stream", **headers):
        lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def event(self, data, name=None):
        text = data if isinstance(data, str) else json.dumps(data)
        await self.raw(((f"event: {name}\n" if name else "") + f"data: {text}\n\n").encode())

    async def json(self, body, status=200, **headers):
        await self.head(status, "application/json", **headers)
        await self.raw(json.dumps(body).encode())

    async def chat(self, *deltas, finish="stop", usage=None, done=True, key="delta"):
        """Stream a whole answer as OpenAI's chat completions do."""
        await self.head()
        for delta in deltas:
            piece = {"content": delta} if isinstance(delta, str) else delta
            await self.event({"choices": [{"index": 0, key: piece, "finish_reason": None}]})
        if finish is not None:
            await self.event({"choices": [{"index": 0, key: {}, "finish_reason": finish}]})
        if usage is not None:
            await self.event({"choices": [], "usage": usage})
        if done:
            await self.event("[DONE]")

    async def until_left(self):
        await self.left.wait()


class Server:
    """Answers each request by ``answer``, an async function of an ``Exchange``; remembers all of them."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.url = ""
        self._came = trio.Event()

    async def serve(self, stream):
        connection = h11.Connection(h11.SERVER)
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(CHUNK))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return  # The client has left without a request.
        exchange = Exchange(stream, request, body)
        self.asked.append(exchange)
        self._came.set()
        self._came = trio.Event()
        async with trio.open_nursery() as nursery:

            async def watch():
                try:
                    while await stream.receive_some(CHUNK):
                        pass
                except trio.BrokenResourceError:
                    pass
                exchange.left.set()

            nursery.start_soon(watch)
            try:
                await self.answer(exchange)
            except trio.BrokenResourceError:
                exchange.left.set()  # The client wanted no more.
            nursery.cancel_scope.cancel()
        await stream.aclose()

    async def came(self, count=1):
        while len(self.asked) < count:
            await self._came.wait()
        return self.asked[count - 1]


@asynccontextmanager
async def serving(answer):
    """Run a server for as long as the context lasts."""
    server = Server(answer)
    failed = None
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        server.url = f"http://127.0.0.1:{port}/v1"
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        try:
            yield server
        except Failed as error:
            failed = error  # It goes to whoever asked, as it is.
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


def silent_for(seconds=math.inf):
    """An answer that is none: nothing is said for so long."""

    async def answer(exchange):
        with trio.move_on_after(seconds):
            await exchange.until_left()

    return answer
