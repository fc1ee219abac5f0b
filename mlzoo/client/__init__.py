"""A host in Python: spawn a sidecar and talk to it, under asyncio or trio.

    async with spawn() as client:
        await client.initialize("my-app", "1.0")
        async with client.stream("chat", {"messages": [{"role": "user", "content": "Hi"}]}) as answer:
            async for delta in answer:
                print(delta.get("content", ""), end="")
            print(await answer.result())

Knows the protocol's envelope (lines, ids, streams, errors) and no single method's parameters; those are in the
document that ``rpc.discover`` returns. It shares nothing with the sidecar but the wire, so it is also a pattern for
hosts in other languages. What it promises:

- No consumer can hold up another: one task reads every line and waits for nobody. What a slow consumer has not taken
  is bounded: the deltas of a stream are joined, of progress the latest is kept, a subscription reads on from the log.
- Every call ends: with a result, with ``RemoteError``, or, where the sidecar is gone, with ``SidecarDied``.
- A call that is cancelled here is cancelled there; a line is written whole or not at all.
- stderr is always drained; its end stands in ``SidecarDied``.
- A request with a ``key`` runs once; ``resume`` hears it on after the death of connection or sidecar.
- Nothing outlives ``async with``: end of stdin, then SIGTERM, then SIGKILL for the whole group, each with a deadline.
"""

from __future__ import annotations

from mlzoo.client.connection import Client
from mlzoo.client.errors import ProtocolViolation, RemoteError, SidecarDied
from mlzoo.client.process import serve_command
from mlzoo.client.spawning import spawn
from mlzoo.client.stream import Stream
from mlzoo.client.subscription import Subscription

__all__ = [
    "Client",
    "ProtocolViolation",
    "RemoteError",
    "SidecarDied",
    "Stream",
    "Subscription",
    "serve_command",
    "spawn",
]
