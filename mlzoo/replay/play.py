"""``mlzoo replay play``: the sidecar's part, from a recording, on stdio. No model, no torch, no log.

The shell around ``matching``: it reads the host's lines, sends what is due when it is due, and at the end says on
stderr what was used. A host that gets nothing because it has not sent what is recorded next is told so there, too.

One loop and blocking calls, without an event loop: there is one host and one thing to wait for at a time, and importing
trio takes longer than all of the rest until the first answer.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from mlzoo.errors import ConfigError
from mlzoo.replay.matching import Awaits, Due, Playback
from mlzoo.transport import jsonrpc
from mlzoo.transport.fd import read_some, write_some
from mlzoo.transport.ndjson import LineReader, TooLong
from mlzoo.transport.stream import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlzoo.events.recording import Line, Recording
    from mlzoo.replay.matching import Report
    from mlzoo.transport.stdio import ClaimedStdio

SUMMARY_CHARACTERS = 80  # of the first call of a connection
STALL_S = 5.0  # of silence on both sides, after which it is said what is waited for
SLICE_S = 1.0  # of waiting for the host
CHUNKS_AHEAD = 256  # that a host may send while it reads nothing; then it waits, as the sidecar lets it wait


def play(
    claimed: ClaimedStdio, recording: Recording, connection: str, speed: float, on_mismatch: Callable[[Report], None]
) -> Report:
    """Play one connection of a recording on claimed stdio; return what was used of it.

    Args:
        claimed: the protocol's stdio.
        recording: what is played.
        connection: which of its connections.
        speed: how many times as fast as it was recorded; infinity: without waiting.
        on_mismatch: called with what is known so far, once the host has sent something else.
    """
    playback = Playback(recording.wire(connection))
    try:
        Player(playback, StdioHost(claimed), speed, on_mismatch).run()
    finally:
        os.close(claimed.stdout_fd)
    return playback.report()


def connection_of(recording: Recording, wanted: str | None) -> str:
    """Return the connection that is played: the one that is wanted, else the only one.

    Raises:
        ConfigError: There is none of that name, or nothing says which one of several.
    """
    names = recording.connections()
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names and wanted is not None:
        return wanted
    held = "\n".join(_summary(recording, name) for name in names) if names else "it holds no connection"
    what = "say which one to play with --connection" if wanted is None else f"there is no connection {wanted}"
    raise ConfigError(f"{what}:\n{held}" if names else f"{what}: {held}")


def next_connection(recording: Recording, directory: Path) -> tuple[str, Path]:
    """Return the connection whose turn it is, and the file for its report: each start of a host's takes the next one.

    Args:
        recording: what is played.
        directory: one for all starts of one run; who has had its turn is noted there.

    Raises:
        ConfigError: All have had their turn, or there is none.
        OSError: The directory cannot be written.
    """
    names = recording.connections()
    for number, name in enumerate(names, 1):
        with suppress(FileExistsError), (directory / f"{number}.taken").open("x"):
            return name, directory / f"{number}.report"
    (directory / "more").touch()
    raise ConfigError(f"the recording holds {len(names)} connections, and this is one start more than that")


def _summary(recording: Recording, connection: str) -> str:
    """Return what a connection did, in a line: how many calls, of which methods, and the first of them."""
    calls = [line for line in recording.wire(connection) if "host" in line and "eof" not in line]
    counts: dict[str, int] = {}
    for line in calls:
        counts[line.get("method") or "no request"] = counts.get(line.get("method") or "no request", 0) + 1
    methods = ", ".join(f"{count} {method}" for method, count in counts.items())
    first = "" if not calls else f"; first: {_shown(calls[0])}"
    return f"  {connection}: {len(calls)} line{'' if len(calls) == 1 else 's'} ({methods or 'none'}){first}"


def _shown(line: Line) -> str:
    text = f"{line.get('method') or 'no request'} {line.get('params', '')}".strip()
    return text if len(text) <= SUMMARY_CHARACTERS else f"{text[:SUMMARY_CHARACTERS]}…"


class PlayedHost(Protocol):
    """The host as the player sees it, and the clock on which it waits for it."""

    def now_s(self) -> float:
        """Return the time of a clock that only goes forward."""

    def receive(self, timeout_s: float) -> bytes | None:
        """Wait for what the host sends, so long at most: b"" at the end, once; None where nothing came."""

    def send(self, data: bytes) -> None:
        """Send all of data.

        Raises:
            OSError: The host no longer reads.
        """


class StdioHost:
    """The host at the other end of claimed stdio. A thread reads, so that waiting for it can have a bound.

    The thread is a daemon, and the descriptor it reads from its own: a read that is blocked for good keeps nothing.
    """

    def __init__(self, claimed: ClaimedStdio) -> None:
        self._claimed = claimed
        self._chunks: queue.Queue[bytes] = queue.Queue(CHUNKS_AHEAD)
        threading.Thread(target=self._read_to_the_end, name="read", daemon=True).start()

    def now_s(self) -> float:
        """See ``PlayedHost``."""
        return time.monotonic()

    def receive(self, timeout_s: float) -> bytes | None:
        """See ``PlayedHost``."""
        until_s = self.now_s() + timeout_s
        while True:
            # In slices: on Windows a wait hears no Ctrl-C, and no system waits for years.
            left_s = min(until_s - self.now_s(), SLICE_S)
            try:
                return self._chunks.get(left_s > 0, max(left_s, 0.0))
            except queue.Empty:
                if self.now_s() >= until_s:
                    return None

    def send(self, data: bytes) -> None:
        """See ``PlayedHost``."""
        rest = memoryview(data)
        while rest:
            rest = rest[write_some(self._claimed.stdout_fd, rest) :]

    def _read_to_the_end(self) -> None:
        """Run the thread."""
        chunk = None
        while chunk != b"":
            chunk = read_some(self._claimed.stdin_fd, CHUNK_BYTES)
            self._chunks.put(chunk)


class Player:
    """One connection of a recording, played to a host."""

    def __init__(
        self,
        playback: Playback,
        host: PlayedHost,
        speed: float,
        on_mismatch: Callable[[Report], None] = lambda _report: None,
    ) -> None:
        self._playback = playback
        self._on_mismatch = on_mismatch
        self._mismatched = 0
        self._host = host
        self._speed = speed
        self._lines = LineReader(jsonrpc.LINE_BYTES)
        self._ended = False

    def run(self) -> None:
        """Play until the host has closed its end and everything has been said, or it no longer reads."""
        try:
            self._play()
        except OSError:
            self._playback.lose()  # What was due to the host is unsaid.

    def _play(self) -> None:
        due_s = self._host.now_s()
        while True:
            match self._playback.next():
                case Due(after_ms, line):
                    due_s += after_ms / 1000 / self._speed
                    self._listen_until(due_s)
                    if line:
                        self._host.send(line)
                case Awaits(what):
                    self._await(what)
                    due_s = self._host.now_s()
                case _:
                    if self._ended:
                        return
                    self._listen(STALL_S)

    def _listen_until(self, due_s: float) -> None:
        """Hear the host until something is due to it; even where that is at once, it is heard in between."""
        self._listen(0.0)
        while (left_s := due_s - self._host.now_s()) > 0:
            self._listen(left_s)

    def _await(self, what: str) -> None:
        """Wait for the host. One that waits itself, for what does not come, is told once what it was to send."""
        if self._listen(STALL_S):
            return
        line = f"mlzoo replay: waiting for the host to send what is recorded next: {what}"
        with suppress(OSError):  # Nobody may read stderr, and the host still be there.
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - stderr is where it is said
        while not self._listen(STALL_S):
            pass

    def _listen(self, timeout_s: float) -> bool:
        """Take in what the host sends next, if it comes in time; return whether it did."""
        chunk = self._host.receive(timeout_s)
        if chunk is None:
            return False
        for line in self._lines.feed(chunk) if chunk else self._lines.end():
            message = jsonrpc.too_long(line) if isinstance(line, TooLong) else jsonrpc.parse(line)
            refusals = self._playback.hear(message)
            if self._playback.mismatches > self._mismatched:  # Told at once: a host may end us as soon as it knows.
                self._mismatched = self._playback.mismatches
                self._on_mismatch(self._playback.report())
            for refused in refusals:
                self._host.send(refused)
        if not chunk:
            self._playback.end()
            self._ended = True
        return True


def told(report: Report) -> list[str]:
    """Return a report in sentences."""
    lines = [*report.mismatched, *(f"{unused}, was not sent" for unused in report.unused)]
    if report.unsaid:
        lines.append(f"{report.unsaid} lines were due to the host and not said")
    if report.unproven:
        lines.append(f"{report.unproven} calls were matched by their method alone: what they said is redacted")
    figures = f"used {report.used}, unused {len(report.unused)}, mismatched {len(report.mismatched)}"
    return [*lines, f"{figures}: {'all as recorded' if report.holds else 'NOT as recorded'}"]
