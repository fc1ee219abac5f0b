"""The sidecar's process: how it is started and how it is ended, with all that it started itself.

Knows nothing of what is said over its pipes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from mlzoo.transport.ndjson import LineReader, TooLong

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anyio.abc import Process

STDERR_LINES = 50  # What is kept of stderr,
STDERR_LINE_BYTES = 4096  # without lines that are longer than this.
TERMINATE_S = 8.0  # From SIGTERM, which drains as the end of stdin does, to SIGKILL.
KILL_S = 5.0  # From SIGKILL to giving up: a process in an uninterruptible system call does not die at once.


def serve_command(
    overrides: Sequence[str] = (), *, log: Path | None = None, config_dir: Path | None = None
) -> list[str]:
    """Return the command line of a sidecar that runs on this Python and leaves when this process dies.

    Args:
        overrides: Settings as on the command line, such as ``limits.max_running=8``.
        log: Directory of the event log; None: a log of its own in the user's state directory.
        config_dir: A directory of configuration of your own.
    """
    command = [sys.executable, "-m", "mlzoo", "serve", "--parent-pid", str(os.getpid())]
    if log is not None:
        command += ["--log", str(log)]
    if config_dir is not None:
        command += ["--config-dir", str(config_dir)]
    return [*command, *overrides]


class SidecarProcess:
    """A process with three pipes, in a group of its own: a Ctrl-C on the host's terminal does not reach it."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdin = process.stdin
        self.stdout = process.stdout
        self._stderr = process.stderr
        self._process = process
        self._last_lines: deque[str] = deque(maxlen=STDERR_LINES)
        self._stderr_ended = anyio.Event()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines of stderr."""
        return tuple(self._last_lines)

    async def drain_stderr(self) -> None:
        """Read stderr to its end, so that the sidecar never waits to write to it."""
        lines = LineReader(STDERR_LINE_BYTES)
        try:
            while True:
                self._keep(lines.feed(await self._stderr.receive()))
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            self._keep(lines.end())
        finally:
            self._stderr_ended.set()

    async def ended(self, within_s: float) -> int | None:
        """Wait for the exit and the last of stderr, and return the status; None where it still runs after within_s."""
        with anyio.move_on_after(within_s):
            await self._process.wait()
            # A process that outlived the sidecar may hold stderr open: its end is a bonus.
            await self._stderr_ended.wait()
        return self.status

    async def leave(self, grace_s: float) -> int | None:
        """Wait for the process to leave by itself, then make it; None where not even SIGKILL did."""
        with anyio.move_on_after(grace_s):
            return await self._process.wait()
        self._terminate()
        with anyio.move_on_after(TERMINATE_S):
            return await self._process.wait()
        self.kill()
        with anyio.move_on_after(KILL_S):
            return await self._process.wait()
        return None

    async def close(self) -> None:
        """Close the pipes, also those that a descendant still holds open."""
        if self.status is not None:
            await self._process.aclose()
            return
        for stream in (self.stdin, self.stdout, self._stderr):  # aclose() would wait for the process, for ever.
            await stream.aclose()

    def kill(self) -> None:
        """Kill the process and every process of its group, at once."""
        if self.status is not None:
            return  # Once the process is reaped, its number may be another's.
        if sys.platform == "win32":
            self._kill_tree()
        else:
            with suppress(ProcessLookupError):  # The event loop has reaped it, and has yet to say so.
                os.killpg(self.pid, signal.SIGKILL)

    def _terminate(self) -> None:
        """Ask the sidecar alone to leave: what it started it needs for that, and ends itself."""
        if self.status is None and sys.platform != "win32":
            with suppress(ProcessLookupError):  # As in kill.
                self._process.terminate()
        # Windows knows no such request for a process without a console. The end of stdin was the request.

    if sys.platform == "win32":

        def _kill_tree(self) -> None:
            """Kill the sidecar's descendants, found while it still lives, after the sidecar."""
            import psutil  # noqa: PLC0415 (30 ms, for the last resort alone)

            try:
                descendants = psutil.Process(self.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                descendants = []
            self._process.kill()
            for descendant in descendants:
                try:
                    descendant.kill()
                except psutil.NoSuchProcess:
                    continue

    def _keep(self, lines: list[bytes | TooLong]) -> None:
        for line in lines:
            text = f"({line.size_bytes} bytes)" if isinstance(line, TooLong) else line.decode(errors="replace")
            self._last_lines.append(text)


async def start(command: Sequence[str], *, env: Mapping[str, str] | None, cwd: Path | None) -> SidecarProcess:
    """Start a process.

    Raises:
        OSError: There is no such program, or it may not be started.
    """
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
        process = await anyio.open_process(command, env=env, cwd=cwd, creationflags=flags)
    else:
        process = await anyio.open_process(command, env=env, cwd=cwd, start_new_session=True)
    return SidecarProcess(process)
