"""The worker's end of a socket, in the process that tests it: what arrives is put there, what is said can be read."""

from __future__ import annotations

from mlzoo.frames_codec import encode


class SocketEnds(Exception):
    """Nothing comes any more, and somebody waits for it."""


class Link:
    """What a ``ModelServer`` needs of one. The real one ends the process where this one raises."""

    def __init__(self, *first):
        self.said = []
        self._lines = [encode(frame) for frame in first]

    def arrive(self, *frames):
        self._lines += map(encode, frames)

    def take(self, *, wait, most_s=None):
        if wait and not self._lines and most_s is None:
            raise SocketEnds
        return self._lines.pop(0) if self._lines else None

    def begin(self, doing):
        pass

    def send(self, said):
        self.said += said
