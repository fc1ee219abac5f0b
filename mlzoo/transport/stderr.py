"""Log lines on stderr that never make anybody wait: a bounded queue that drops and counts, and one writing thread.

Knows nothing of what is logged. A line is one JSON object; where stderr is a terminal it is made for people instead.
What the sidecar did stands in the event log; these lines are for whoever runs it.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import orjson

from mlzoo.transport.fd import write_some

if TYPE_CHECKING:
    from collections.abc import Callable

Level = Literal["debug", "info", "warning", "error"]

LEVELS: tuple[Level, ...] = get_args(Level)
QUEUE_BYTES = 256 * 1024  # What may wait for a host that does not drain stderr.


class StderrLog:
    """The log on one file descriptor. Any thread may log; the descriptor's flags are never touched."""

    def __init__(
        self,
        fd: int = 2,
        *,
        threshold: Level = "info",
        queue_bytes: int = QUEUE_BYTES,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._fd = fd
        self._threshold = LEVELS.index(threshold)
        self._queue_bytes = queue_bytes
        self._wall_ms = wall_ms
        self._render = _for_people if os.isatty(fd) else _for_programs
        self._lines: collections.deque[bytes] = collections.deque()
        self._waiting_bytes = 0
        self._dropped = 0  # Lines since the last report of them.
        self._closed = False
        self._moved = threading.Condition()  # Guards all of the above; held for moments only, never over a write.
        self._thread = threading.Thread(target=self._write_to_the_end, name="stderr", daemon=True)
        self._thread.start()

    def log(self, level: Level, event: str, **fields: Any) -> None:
        """Queue one line, or drop and count it where too much waits. Never blocks, and never raises for a field.

        Args:
            level: how much it matters.
            event: what happened, in a few words that do not vary.
            **fields: what varies. What has no JSON form is shown as repr does; text of the user's does not belong here.
        """
        if LEVELS.index(level) < self._threshold:
            return
        line = self._render(self._wall_ms(), level, event, fields)
        with self._moved:
            if self._closed or self._waiting_bytes + len(line) > self._queue_bytes:
                self._dropped += 1
                return
            self._lines.append(line)
            self._waiting_bytes += len(line)
            self._moved.notify()

    def close(self, timeout_s: float = 1.0) -> bool:
        """Take no more lines, and wait for those that are queued; False where they were not written in time."""
        with self._moved:
            self._closed = True
            self._moved.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _write_to_the_end(self) -> None:
        """Run the thread."""
        while (data := self._next()) is not None:
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[write_some(self._fd, rest) :]
            except OSError:  # Nobody reads it any more, which is no reason to stop: logs are not the product.
                continue

    def _next(self) -> bytes | None:
        """Wait for lines and take them all, with a report of those that were dropped; None at the end."""
        with self._moved:
            self._moved.wait_for(lambda: self._lines or self._closed)
            if not self._lines and not self._dropped:
                return None
            if self._dropped:
                self._lines.append(
                    self._render(self._wall_ms(), "warning", "log lines dropped", {"count": self._dropped})
                )
                self._dropped = 0
            data = b"".join(self._lines)
            self._lines.clear()
            self._waiting_bytes = 0
            return data


class StderrHandler(logging.Handler):
    """Brings the records of the standard library's logging into a StderrLog."""

    def __init__(self, log: StderrLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record; a traceback becomes a field of its line."""
        level: Level = "debug"
        if record.levelno >= logging.ERROR:
            level = "error"
        elif record.levelno >= logging.WARNING:
            level = "warning"
        elif record.levelno >= logging.INFO:
            level = "info"
        fields = {"logger": record.name}
        if record.exc_info:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._log.log(level, record.getMessage(), **fields)


def _for_programs(wall_ms: int, level: str, event: str, fields: dict[str, Any]) -> bytes:
    line = {"time_ms": wall_ms, "level": level, "event": event, **fields}
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(line, default=repr, option=options)
    except TypeError:  # An integer beyond 64 bits, a lone surrogate, a loop.
        return orjson.dumps({key: ascii(value) for key, value in line.items()}, option=options)


def _for_people(wall_ms: int, level: str, event: str, fields: dict[str, Any]) -> bytes:
    clock = time.strftime("%H:%M:%S", time.localtime(wall_ms / 1000))
    # repr keeps control characters from the terminal, to which they could be commands.
    shown = "".join(f" {key}={value!r}" for key, value in fields.items())
    return f"{clock}.{wall_ms % 1000:03} {level:7} {event}{shown}\n".encode(errors="backslashreplace")
