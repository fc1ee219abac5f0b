"""A server that speaks as OpenAI's chat completions do, on loopback: tokens at a pace, or as fast as they are taken.

Says its port on stdout. The model's name says the pace and how many: ``RATE/TOKENS``; a rate of 0 is no pace.
"""

import json

import h11
import trio

CHUNK = 65536
HEADERS = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]


def event(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return (
        b"data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
    )


async def answer(connection, stream, body):
    rate, tokens = map(int, json.loads(body)["model"].split("/"))
    await stream.send_all(connection.send(h11.Response(status_code=200, headers=HEADERS)))
    piece = connection.send(h11.Data(data=event({"content": " word"})))
    began = trio.current_time()
    for number in range(tokens):
        if rate:
            await trio.sleep_until(began + number / rate)
        await stream.send_all(piece)
    usage = {"prompt_tokens": 1, "completion_tokens": tokens}
    last = (
        event({}, "stop") + b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"
    )
    await stream.send_all(connection.send(h11.Data(data=last)) + connection.send(h11.EndOfMessage()))


async def serve(stream):
    connection, body = h11.Connection(h11.SERVER), b""
    try:
        while True:
            found = connection.next_event()
            if found is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(CHUNK))
            elif isinstance(found, h11.Data):
                body += found.data
            elif isinstance(found, h11.EndOfMessage):
                await answer(connection, stream, body)
                body = b""
                connection.start_next_cycle()
            elif isinstance(found, h11.ConnectionClosed):
                return
    except (trio.BrokenResourceError, h11.ProtocolError):
        return


async def main():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(serve, listeners)


trio.run(main)
