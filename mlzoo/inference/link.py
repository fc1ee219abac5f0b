"""The worker's end of the socket. One thread reads it, from before torch is imported to the end of the process.

So the end of the socket is noticed within any forward and any load, and a beat is answered at once, with what the
main thread is doing and in which turn: whoever hears the same turn again and again knows that it is stuck. Turns are
counted, not timed, so that no clock can be wrong about them. Knows neither torch nor models.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback
from typing import TYPE_CHECKING

from mlzoo.frames import Beat, Beating
from mlzoo.frames_codec import encode

if TYPE_CHECKING:
    import socket

    from mlzoo.frames import Doing, FromWorker

READ_BYTES = 65536
UNREAD_FRAMES = 65536  # The sidecar counts what is in flight; more than this is a fault of ours, and ends the process.


class Link:
    """What both threads share. All but ``listen``'s thread is the main thread's."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines: queue.Queue[bytes] = queue.Queue(UNREAD_FRAMES)
        self._sending = threading.Lock()
        self._now = Beating(turn=0, doing="start")
        self._beat = encode(Beat()).rstrip(b"\n")  # Made here, as what encodes is built when it is first used.

    def listen(self) -> None:
        """Read and answer beats in a thread from now on."""
        threading.Thread(target=self._read, daemon=True, name="socket").start()

    def begin(self, doing: Doing) -> None:
        """Begin another turn."""
        self._now = Beating(turn=self._now.turn + 1, doing=doing)

    def send(self, said: list[FromWorker]) -> None:
        """Send frames; end the process where nobody is left to read them."""
        if not said:
            return
        data = b"".join(map(encode, said))
        try:
            with self._sending:
                self._sock.sendall(data)
        except OSError:
            os._exit(0)

    def take(self, *, wait: bool, most_s: float | None = None) -> bytes | None:
        """Return the next line that has come; None where there is none, and nobody should wait for it, or longer."""
        try:
            return self._lines.get_nowait()
        except queue.Empty:
            if not wait:
                return None
        self.begin("idle")
        try:
            return self._lines.get(timeout=most_s)
        except queue.Empty:
            return None

    def _read(self) -> None:
        """Read lines; end the process at once when the socket ends, whatever it is doing."""
        parts: list[bytes] = []
        while True:
            try:
                data = self._sock.recv(READ_BYTES)
            except OSError:
                os._exit(0)
            if not data:
                os._exit(0)
            first, newline, rest = data.partition(b"\n")
            parts.append(first)
            while newline:
                self._hear(b"".join(parts))
                first, newline, rest = rest.partition(b"\n")
                parts = [first]

    def _hear(self, line: bytes) -> None:
        if line == self._beat:
            self.send([self._now])
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            traceback.print_exc()
            os._exit(1)
