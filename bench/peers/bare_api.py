"""The HTTP client that the sidecar has, called bare: streams of chat completions, read and parsed, and nothing else.

``bare_api.py URL``; each line on stdin, ``MODEL STREAMS``, is answered by one of JSON: first_ms, of one stream alone
that is asked first, and rate, of the tokens of all streams after the first piece.
"""

import json
import sys
import time

import httpx2
import orjson
import trio


async def stream(client, url, model, seen):
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
        async for event in httpx2.EventSource(response):
            if event.data != "[DONE]":
                for choice in orjson.loads(event.data)["choices"]:
                    if choice["delta"].get("content"):
                        seen.append(time.perf_counter())


async def measure(client, url, model, streams):
    seen = []
    began = time.perf_counter()
    await stream(client, url, "0/1", seen)
    first_ms = (seen[0] - began) * 1e3
    seen = []
    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(stream, client, url, model, seen)
    ended = time.perf_counter()
    return {"first_ms": first_ms, "rate": (len(seen) - 1) / (ended - seen[0])}


async def main(url):
    async with httpx2.AsyncClient(timeout=None) as client:
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            model, streams = line.split()
            print(json.dumps(await measure(client, url, model, int(streams))), flush=True)


trio.run(main, sys.argv[1])
