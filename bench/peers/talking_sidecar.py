"""The sidecar as it is, with workers that talk as fast as they are heard: for ``unread.py``.

``talking_sidecar.py LOG [OVERRIDE...]`` is the sidecar; it starts itself as its worker. A worker answers each request
with so many pieces of so many bytes as its prompt says, a step at a time, and computes nothing.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from functools import partial
from pathlib import Path


def sidecar(log: str, overrides: list[str]) -> int:
    from mlzoo.transport.stdio import claim

    claimed = claim()

    import attrs
    import trio

    from mlzoo.actors.process import SocketWorker, Spawner
    from mlzoo.app import Sidecar
    from mlzoo.config import load
    from mlzoo.world import real_world

    @attrs.frozen
    class SpawnTalker:
        spawner: Spawner

        async def __call__(self, device: str) -> SocketWorker:
            ours, theirs = socket.socketpair()
            with theirs:
                process = await self.spawner.popen([sys.executable, __file__, "--worker", device], theirs)
            ours.setblocking(False)
            return SocketWorker(process.pid, process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    app = Sidecar(load(overrides), real_world(), spawn=SpawnTalker(Spawner()))
    return trio.run(partial(app.run, claimed, log=Path(log), parent_pid=None, socket=None))


def worker(device: str, fd: int) -> None:
    from mlzoo import frames
    from mlzoo.frames_codec import decode, encode

    sock = socket.socket(fileno=fd)
    up = frames.Up(pid=os.getpid(), device=device, versions={}, threads=1, wait_policy="passive")
    sock.sendall(encode(up))
    rows: dict[str, tuple[int, int, int]] = {}  # request -> pieces said, pieces in all, bytes of each
    unread = b""
    while True:
        sock.setblocking(not rows)
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            data = None
        sock.setblocking(True)
        if data == b"":
            return
        *lines, unread = (unread + (data or b"")).split(b"\n")
        for frame in map(decode, lines):
            match frame:
                case frames.Load():
                    loaded = frames.Loaded(
                        model=frame.model,
                        memory_bytes=1,
                        context=1 << 30,
                        slots=frame.slots,
                        dtype="float32",
                        architecture="talker",
                        batching="slots",
                    )
                    sock.sendall(encode(loaded))
                case frames.Beat():
                    sock.sendall(encode(frames.Beating(turn=0, doing="idle")))
                case frames.Generate():
                    pieces, size_bytes = map(int, (frame.prompt or "").split())
                    rows[frame.request] = (0, pieces, size_bytes)
                case frames.Abandon():
                    rows.pop(frame.request, None)
                case frames.Leave():
                    return
        if rows:
            said = []
            for request, (number, pieces, size_bytes) in list(rows.items()):
                last = number == pieces - 1
                row = frames.Row(
                    request=request,
                    content=piece(number, size_bytes),
                    tokens=(7,),
                    prompt_tokens=1 if number == 0 else None,
                    finish_reason="length" if last else None,
                )
                said.append(row)
                rows[request] = (number + 1, pieces, size_bytes)
                if last:
                    del rows[request]
            sock.sendall(encode(frames.Stepped(rows=tuple(said))))


def piece(number: int, size_bytes: int) -> str:
    """Return a text of this size that its number can be told from."""
    word = f"{number:07} "
    return (word * (size_bytes // len(word) + 1))[:size_bytes]


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        parser = argparse.ArgumentParser()
        parser.add_argument("--worker")
        parser.add_argument("--fd", type=int)
        given = parser.parse_args()
        worker(given.worker, given.fd)
    else:
        sys.exit(sidecar(sys.argv[1], sys.argv[2:]))
