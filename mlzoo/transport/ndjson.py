r"""Framing: bytes in chunks of any size become lines.

Knows nothing of JSON. A line ends with ``\n``; the ``\r`` of ``\r\n`` is not part of it; a blank line is none. What
stands unterminated before the end of input is a line, so that ``printf '{...}' | mlzoo serve`` is answered: that is
safe, since no JSON object that was cut anywhere is still JSON.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class TooLong:
    """A line that was over the limit and has been skipped; its size is without the line's end."""

    size_bytes: int


class LineReader:
    """Splits what is fed to it into lines. A line over the limit is skipped to its end and never held in memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        # The open line. A bytearray grows in place: adding up bytes objects took 17 s for a line of 64 MiB, and a list
        # of chunks takes twenty times their size where a host sends two bytes at a time.
        self._open = bytearray()
        self._skipped_bytes = 0  # Of an open line that is over the limit.

    def feed(self, chunk: bytes) -> list[bytes | TooLong]:
        """Return the lines that chunk completes, in order."""
        parts = chunk.split(b"\n")
        last = parts.pop()
        lines: list[bytes | TooLong] = [*parts]
        if lines and (self._open or self._skipped_bytes):
            lines[0] = self._complete(parts[0])
        if last:
            self._hold(last)
        return [line for raw in lines if (line := self._admit(raw)) is not None]

    def end(self) -> list[bytes | TooLong]:
        """Return the line that stands unterminated at the end of input, if any."""
        return self.feed(b"\n")

    def _hold(self, part: bytes) -> None:
        """Add to the open line, or to its size alone."""
        if self._skipped_bytes:
            self._skipped_bytes += len(part)
        elif len(self._open) + len(part) > self._limit_bytes:
            self._skipped_bytes = len(self._open) + len(part)
            self._open = bytearray()
        else:
            self._open += part

    def _complete(self, part: bytes) -> bytes | TooLong:
        """Return the open line with part as its end, and open the next one."""
        self._hold(part)
        line, skipped_bytes = self._open, self._skipped_bytes
        self._open, self._skipped_bytes = bytearray(), 0
        return TooLong(skipped_bytes) if skipped_bytes else bytes(line)

    def _admit(self, line: bytes | TooLong) -> bytes | TooLong | None:
        """Return the line without its carriage return, TooLong in its place, or None for a blank one."""
        if isinstance(line, TooLong):
            return line
        if len(line) > self._limit_bytes:
            return TooLong(len(line))
        line = line.removesuffix(b"\r")
        return None if not line or line.isspace() else line
