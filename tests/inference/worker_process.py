"""A worker process over a real socketpair, spawned and spoken to as the sidecar does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mlzoo.frames import Leave, Up
from mlzoo.frames_codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
ENDS_WITHIN_S = 60  # A bound that only a hang reaches.


class WorkerProcess:
    """Spawn, send, receive; every wait has a bound."""

    def __init__(self, *extra: str, parent: int | None = None) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(ENDS_WITHIN_S)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlzoo.inference", "--fd", str(theirs.fileno()),
             "--parent-pid", str(parent or os.getpid()), "--threads", "1", *extra],
            pass_fds=[theirs.fileno()], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        theirs.close()
        self.lines = self.sock.makefile("rb")
        self.up: Any = None

    def __enter__(self) -> Self:
        return self

    def start(self) -> Self:
        """Wait until it is up."""
        self.up = self.receive()
        assert isinstance(self.up, Up)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=ENDS_WITHIN_S)
        self.lines.close()
        self.sock.close()

    def send(self, *frames: Any) -> None:
        self.sock.sendall(b"".join(map(encode, frames)))

    def receive(self) -> Any:
        line = self.lines.readline()
        assert line, "the worker has ended"
        return decode(line)

    def until(self, wanted: Callable[[Any], bool]) -> list[Any]:
        """Receive until a frame that is wanted; return all, that one last."""
        frames = [self.receive()]
        while not wanted(frames[-1]):
            frames.append(self.receive())
        return frames

    def leave(self) -> tuple[int, bytes, bytes]:
        """Let it leave; return exit status, stdout and stderr."""
        self.send(Leave())
        out, err = self.process.communicate(timeout=ENDS_WITHIN_S)
        return self.process.returncode, out, err
