"""The worker actor of a device: keeps its process, gives it frames, and passes on what it says (``reports``).

The process is started when there is something to load and leaves when nothing is loaded. If it dies by itself, or
hangs (``watchdog`` tells) and is killed, the actor reports the loss and crashes, so that its supervisor brings it back
with a backoff; models are loaded again on demand. When the sidecar leaves, a process that still starts or loads is
ended at once: it has nothing to save, and would hear of the end only once it has loaded. Knows no model and no request
beyond their names.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

import trio

from mlzoo import errors, frames
from mlzoo.actors.messages import GoOn
from mlzoo.actors.watchdog import Watchdog
from mlzoo.actors.work import frame_from
from mlzoo.frames_codec import decode, encode
from mlzoo.transport.ndjson import LineReader, TooLong

if TYPE_CHECKING:
    from mlzoo.actors.messages import WorkerMessage
    from mlzoo.actors.process import Spawn, WorkerProcess
    from mlzoo.actors.reports import Reports
    from mlzoo.actors.runtime import Inbox
    from mlzoo.actors.watchdog import Patience
    from mlzoo.events.log import Log

LEAVE_S = 5.0  # that a worker has to leave by itself before it is killed
FRAME_BYTES = 1 << 30  # an embedding of many texts is one long line; the socket bounds what is in memory


class WorkerDied(Exception):
    """The worker process's fault, or its device library's: it ended without being told to."""


class Incarnation:
    """Which of its processes a device's worker has; it outlives the instances of the actor."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.epoch = 0  # how many processes have crashed; what is sent to an earlier one is dropped


class Worker:
    """One instance of the actor.

    Args:
        incarnation: the device, and which of its processes is the present one.
        spawn: starts the process.
        patience: how long the process may be silent.
        log: has what is needed of requests that go on.
        reports: hears what the process says, and of its end.
    """

    def __init__(
        self,
        incarnation: Incarnation,
        *,
        spawn: Spawn,
        patience: Patience,
        log: Log,
        reports: Reports,
    ) -> None:
        self._incarnation = incarnation
        self._device = incarnation.device
        self._spawn = spawn
        self._patience = patience
        self._watchdog = Watchdog(patience)
        self._something_due = trio.Event()
        self._sending = trio.Lock()  # Beats are sent beside the frames.
        self._log = log
        self._reports = reports
        self._held: deque[WorkerMessage] = deque()  # taken with a Leave, and meant for the process after that one

    async def run(self, inbox: Inbox[WorkerMessage]) -> None:
        """Keep a process for as long as there is something for it to do, again and again, until told to stop."""
        while (message := await self._next(inbox)) is not None:
            load = None if isinstance(message, GoOn) else message.frame
            if message.epoch != self._incarnation.epoch or not isinstance(load, frames.Load):
                continue  # It was meant for a process that is gone.
            process = await self._start(load)
            if process is None:
                continue
            if not await self._serve(process, load, inbox):
                return

    async def _next(self, inbox: Inbox[WorkerMessage]) -> WorkerMessage | None:
        """Return the next message; None where the actor is to stop."""
        if not self._held:
            self._held.extend(await inbox.receive_batch())
        return self._held.popleft() if self._held else None

    async def _start(self, load: frames.Load) -> WorkerProcess | None:
        self._reports.starting(load.model)
        try:
            return await self._spawn(self._device)
        except OSError as error:
            await self._reports.not_started(error)
            return None

    async def _serve(self, process: WorkerProcess, first: frames.ToWorker, inbox: Inbox[WorkerMessage]) -> bool:
        """Talk to a process until it leaves as told (True) or the actor is to stop (False).

        Raises:
            WorkerDied: it ended by itself.
        """
        leaving = trio.Event()
        stopped = at_once = False
        hung: str | None = None
        self._watchdog = Watchdog(self._patience)
        self._something_due.set()
        try:
            async with trio.open_nursery() as nursery:

                async def listen() -> None:
                    await self._listen(process)
                    nursery.cancel_scope.cancel()

                async def watch() -> None:
                    nonlocal hung
                    hung = await self._watch(process, nursery)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(listen)
                nursery.start_soon(watch)
                stopped = not await self._speak(process, first, inbox)
                leaving.set()
                nursery.cancel_scope.deadline = trio.current_time() + LEAVE_S
                at_once = stopped and self._watchdog.loads
                if at_once:
                    nursery.cancel_scope.cancel()
                elif stopped:
                    await self._send(process, encode(frames.Leave()))
        except* trio.BrokenResourceError:
            pass  # It no longer reads: what it died of is told below.
        finally:
            with trio.CancelScope(shield=True) as shield:
                shield.deadline = trio.current_time() + LEAVE_S
                reason = await self._end(process, hung, leaving=leaving.is_set(), at_once=at_once)
                if reason is not None:
                    self._incarnation.epoch += 1
                self._reports.lost(reason)
        if reason is not None:
            raise WorkerDied(f"the worker of {self._device} {reason}")
        return not stopped

    async def _speak(self, process: WorkerProcess, first: frames.ToWorker, inbox: Inbox[WorkerMessage]) -> bool:
        """Pass frames on until one says Leave (True) or the actor is to stop (False)."""
        self._note(first)
        await self._send(process, encode(first))
        while (message := await self._next(inbox)) is not None:
            lines: list[bytes] = []
            leaves = False
            while message is not None and not leaves:
                frame = await self._frame(message) if message.epoch == self._incarnation.epoch else None
                if frame is not None:
                    self._note(frame)
                    lines.append(encode(frame))
                    leaves = isinstance(frame, frames.Leave)
                message = self._held.popleft() if self._held and not leaves else None
            await self._send(process, b"".join(lines))
            if leaves:
                return True
        return False

    async def _frame(self, message: WorkerMessage) -> frames.ToWorker | None:
        """Return what to send; None where the log cannot tell, which ends that request alone."""
        if not isinstance(message, GoOn):
            return message.frame
        try:
            return await frame_from(self._log, message)
        except errors.MlzooError as error:
            await self._reports.not_told(message.request, error)
            return None

    def _note(self, frame: frames.ToWorker) -> None:
        self._reports.told(frame)
        self._watchdog.told(frame)
        if self._watchdog.due:
            self._something_due.set()

    async def _send(self, process: WorkerProcess, data: bytes) -> None:
        async with self._sending:
            await process.send_all(data)

    async def _watch(self, process: WorkerProcess, nursery: trio.Nursery) -> str:
        """Return what is wrong with the process, once it hangs. While nothing is due it is not disturbed."""
        beat = encode(frames.Beat())
        while True:
            await self._something_due.wait()
            await trio.sleep(self._watchdog.interval_s)
            if not self._watchdog.due:
                self._something_due = trio.Event()
                continue
            hung = self._watchdog.tick()
            if hung is not None:
                return hung
            if not self._sending.locked():  # Else it does not read what it was sent before, and the count goes on.
                nursery.start_soon(self._send, process, beat)

    async def _end(self, process: WorkerProcess, hung: str | None, *, leaving: bool, at_once: bool) -> str | None:
        """See a process off; return what it died of, or None where that was to be."""
        if at_once or not leaving:
            process.kill()
        with trio.move_on_after(LEAVE_S / 2):
            status = await process.wait()
            process.kill()  # It has ended; this closes the socket.
            return None if leaving else hung or _cause(status)
        process.kill()
        return None if leaving else hung or "was killed because it hung"

    async def _listen(self, process: WorkerProcess) -> None:
        lines = LineReader(FRAME_BYTES)
        while chunk := await process.receive_some():
            self._watchdog.stirred()
            self._watchdog.listening = False  # What follows may wait for the disk.
            for line in lines.feed(chunk):
                if isinstance(line, TooLong):
                    raise WorkerDied(f"the worker of {self._device} said a frame of {line.size_bytes} bytes")
                frame = cast("frames.FromWorker", decode(line))
                self._watchdog.heard(frame)
                await self._reports.hear(frame)
            self._watchdog.listening = True


def _cause(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
