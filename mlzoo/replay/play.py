"""``mlzoo replay play``: the sidecar's part, from a recording, on stdio. No model, no torch, no log.

The shell around ``matching``: it reads the host's lines, sends what is due when it is due, and at the end says on
stderr what was used. A host that gets nothing because it has not sent what is recorded next is told so there, too.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import trio

from mlzoo.errors import ConfigError
from mlzoo.replay.matching import Awaits, Due, Playback
from mlzoo.transport import jsonrpc
from mlzoo.transport.blocking import BlockingStream
from mlzoo.transport.ndjson import LineReader, TooLong

if TYPE_CHECKING:
    from mlzoo.events.recording import Recording
    from mlzoo.replay.matching import Report
    from mlzoo.transport.stdio import ClaimedStdio
    from mlzoo.transport.stream import ByteStream

STALL_S = 5.0  # of silence on both sides, after which it is said what is waited for


def play(claimed: ClaimedStdio, recording: Recording, connection: str, speed: float) -> Report:
    """Play one connection of a recording on claimed stdio; return what was used of it.

    Args:
        claimed: the protocol's stdio.
        recording: what is played.
        connection: which of its connections.
        speed: how many times as fast as it was recorded; infinity: without waiting.
    """
    playback = Playback(recording.wire(connection))

    async def main() -> None:
        stream = BlockingStream(claimed.stdin_fd, claimed.stdout_fd)
        try:
            await Player(playback, stream, speed).run()
        finally:
            await stream.aclose()

    trio.run(main)
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
    held = f"it holds {', '.join(names)}" if names else "it holds no connection"
    what = "say which one to play with --connection" if wanted is None else f"there is no connection {wanted}"
    raise ConfigError(f"{what}: {held}")


class Player:
    """One connection of a recording, played to a byte stream."""

    def __init__(self, playback: Playback, stream: ByteStream, speed: float) -> None:
        self._playback = playback
        self._stream = stream
        self._speed = speed
        self._news = trio.Event()
        self._ended = False

    async def run(self) -> None:
        """Play until the host has closed its end and everything has been said, or it no longer reads."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                await self._speak()
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:
            self._playback.lose()  # The host no longer reads: what was due to it is unsaid.

    async def _listen(self) -> None:
        lines = LineReader(jsonrpc.LINE_BYTES)
        while chunk := await self._stream.receive_some():
            await self._hear(lines.feed(chunk))
        await self._hear(lines.end())
        self._playback.end()
        self._ended = True
        self._news.set()

    async def _hear(self, lines: list[bytes | TooLong]) -> None:
        for line in lines:
            message = jsonrpc.too_long(line) if isinstance(line, TooLong) else jsonrpc.parse(line)
            for refused in self._playback.hear(message):
                await self._stream.send_all(refused)
        self._news.set()

    async def _speak(self) -> None:
        due_s = trio.current_time()
        while True:
            match self._playback.next():
                case Due(after_ms, line):
                    due_s += after_ms / 1000 / self._speed
                    await trio.sleep_until(due_s)
                    if line:
                        await self._stream.send_all(line)
                case Awaits(what):
                    await self._wait(what)
                    due_s = trio.current_time()
                case _:
                    if self._ended:
                        await self._stream.flush()
                        return
                    await self._wait(None)

    async def _wait(self, what: str | None) -> None:
        """Wait for the host. One that waits itself, for what does not come, is told what it was to send."""
        self._news = trio.Event()
        with trio.move_on_after(math.inf if what is None else STALL_S):
            await self._news.wait()
        if not self._news.is_set():
            line = f"mlzoo replay: waiting for the host to send what is recorded next: {what}"
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - stderr is where it is said
            await self._news.wait()


def told(report: Report) -> list[str]:
    """Return a report in sentences."""
    lines = [*report.mismatched, *(f"{unused}, was not sent" for unused in report.unused)]
    if report.unsaid:
        lines.append(f"{report.unsaid} lines were due to the host and not said")
    if report.unproven:
        lines.append(f"{report.unproven} calls were matched by their method alone: what they said is redacted")
    figures = f"used {report.used}, unused {len(report.unused)}, mismatched {len(report.mismatched)}"
    return [*lines, f"{figures}: {'all as recorded' if report.holds else 'NOT as recorded'}"]
