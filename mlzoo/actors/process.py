"""Starting a worker process, and the socket to it.

All children are started from one thread that lives as long as this process: on Linux a child is told of the death of
the *thread* that started it. Knows nothing of frames.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHUNK_BYTES = 256 * 1024


class WorkerProcess(Protocol):
    """A worker as its actor sees it."""

    pid: int

    async def receive_some(self) -> bytes:
        """Return what has come, b"" once the process has closed its end or died."""

    async def send_all(self, data: bytes) -> None:
        """Hand over data.

        Raises:
            trio.BrokenResourceError: the process no longer reads.
        """

    async def wait(self) -> int:
        """Wait for its end and return its status; negative is the number of a signal."""

    def kill(self) -> None:
        """End it at once; it may have ended already."""


class Spawn(Protocol):
    """Starts a worker process for a device."""

    async def __call__(self, device: str) -> WorkerProcess:
        """Start it.

        Raises:
            OSError: it could not be started.
        """


class Spawner:
    """The thread that all children come from."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="spawner", daemon=True).start()

    async def popen(self, command: Sequence[str], pass_socket: socket.socket) -> subprocess.Popen[bytes]:
        """Start a child that inherits a socket; its stdin is empty and its stdout goes to stderr.

        Raises:
            OSError: it could not be started.
        """
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        outcome: list[subprocess.Popen[bytes] | Exception] = []

        def job() -> None:
            try:
                outcome.append(_popen(command, pass_socket))
            except Exception as error:  # noqa: BLE001 (raised below, where it is waited for; this thread has to live on)
                outcome.append(error)
            token.run_sync_soon(done.set)

        self._jobs.put(job)
        with trio.CancelScope(shield=True):  # A child that nobody knows of would be an orphan.
            await done.wait()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _work(self) -> None:
        while True:
            self._jobs.get()()


def _popen(command: Sequence[str], pass_socket: socket.socket) -> subprocess.Popen[bytes]:
    if sys.platform == "win32":
        handle = pass_socket.fileno()
        os.set_handle_inheritable(handle, True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
        return subprocess.Popen(
            [*command, "--fd", str(handle)],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            startupinfo=startup,
            creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
            close_fds=False,
        )
    else:  # noqa: RET505 (without it mypy calls the rest unreachable on Windows)
        return subprocess.Popen(
            [*command, "--fd", str(pass_socket.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=[pass_socket.fileno()],
            start_new_session=True,  # Ctrl-C in a terminal is for the sidecar, which then tells its workers.
        )


@attrs.define(eq=False)
class SocketWorker:
    """A real worker process at the other end of a socketpair."""

    pid: int
    _process: subprocess.Popen[bytes]
    _stream: trio.SocketStream

    async def receive_some(self) -> bytes:
        """See ``WorkerProcess``."""
        try:
            return await self._stream.receive_some(CHUNK_BYTES)
        except trio.BrokenResourceError:
            return b""

    async def send_all(self, data: bytes) -> None:
        """See ``WorkerProcess``."""
        await self._stream.send_all(data)

    async def wait(self) -> int:
        """See ``WorkerProcess``."""
        return await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)

    def kill(self) -> None:
        """See ``WorkerProcess``."""
        self._process.kill()
        self._stream.socket.close()


@attrs.frozen
class SpawnWorker:
    """Starts ``python -m mlzoo.inference`` for a device."""

    spawner: Spawner
    threads: int | None
    wait_policy: str
    cpu_workers: int = 1

    async def __call__(self, device: str) -> SocketWorker:
        """See ``Spawn``."""
        place = await trio.to_thread.run_sync(self._place, device)
        ours, theirs = socket.socketpair()
        with theirs:
            command = [
                *(sys.executable, "-m", "mlzoo.inference", "--parent-pid", str(os.getpid())),
                *("--wait-policy", self.wait_policy, *place),
            ]
            try:
                process = await self.spawner.popen(command, theirs)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return SocketWorker(process.pid, process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    def _place(self, device: str) -> tuple[str, ...]:
        """Return what the process is told of where it runs: a share of the CPU is the CPU, on its own processors."""
        from mlzoo.devices import core_shares  # noqa: PLC0415 (not on the way to the first ping)

        kind, _, number = device.partition(":")
        if kind != "cpu" or not number:
            return "--device", device, *(() if self.threads is None else ("--threads", str(self.threads)))
        threads, processors = core_shares(self.cpu_workers)[int(number)]
        bound = ",".join(str(processor) for processor in processors)
        return "--device", kind, "--threads", str(self.threads or threads), *(("--processors", bound) if bound else ())
