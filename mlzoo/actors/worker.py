"""The worker actor of a device: keeps its process, gives it frames, and makes commands of what it says.

The process is started when there is something to load and leaves when nothing is loaded. If it dies by itself, or
hangs (``watchdog`` tells) and is killed, the actor reports the loss and crashes, so that its supervisor brings it back
with a backoff; models are loaded again on demand. Knows no model and no request beyond their names.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING, assert_never, cast

import trio

from mlzoo import errors, frames
from mlzoo.actors.messages import GoOn, Order
from mlzoo.actors.watchdog import Watchdog
from mlzoo.actors.work import frame_from
from mlzoo.events import commands as cmd
from mlzoo.frames_codec import decode, encode
from mlzoo.transport.ndjson import LineReader, TooLong

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlzoo.actors.mailbox import Ref
    from mlzoo.actors.messages import EngineMessage, WorkerMessage
    from mlzoo.actors.process import Spawn, WorkerProcess
    from mlzoo.actors.progress import Progress
    from mlzoo.actors.runtime import Inbox
    from mlzoo.actors.watchdog import Patience
    from mlzoo.errors import Failure
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
        engine: hears what the process reports.
        patience: how long the process may be silent.
        log: keeps the blobs that answers name.
        keeps: whether what is answered to a request may reach the disk.
        progress: hears how far loads and prompts are.
    """

    def __init__(
        self,
        incarnation: Incarnation,
        *,
        spawn: Spawn,
        patience: Patience,
        engine: Ref[EngineMessage],
        log: Log,
        keeps: Callable[[str], bool],
        progress: Progress,
    ) -> None:
        self._incarnation = incarnation
        self._device = incarnation.device
        self._spawn = spawn
        self._patience = patience
        self._watchdog = Watchdog(patience)
        self._something_due = trio.Event()
        self._sending = trio.Lock()  # Beats are sent beside the frames.
        self._engine = engine
        self._log = log
        self._keeps = keeps
        self._progress = progress
        self._starting = ""  # the model that the process was started for
        self._digests: dict[str, hashlib._Hash] = {}
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
        self._starting = load.model
        self._tell_of_start(0, f"starting the worker process of {self._device}")
        try:
            return await self._spawn(self._device)
        except OSError as error:
            message = f"The worker process could not be started: {error}."
            failure = errors.ModelLoadFailed(message, model=load.model, reason=str(error)).failure()
            await self._tell(cmd.ReportLoadFailed(model=load.model, device=self._device, failure=failure))
            return None

    async def _serve(self, process: WorkerProcess, first: frames.ToWorker, inbox: Inbox[WorkerMessage]) -> bool:
        """Talk to a process until it leaves as told (True) or the actor is to stop (False).

        Raises:
            WorkerDied: it ended by itself.
        """
        leaving = trio.Event()
        stopped = False
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
                if stopped:
                    await self._send(process, encode(frames.Leave()))
        except* trio.BrokenResourceError:
            pass  # It no longer reads: what it died of is told below.
        finally:
            with trio.CancelScope(shield=True) as shield:
                shield.deadline = trio.current_time() + LEAVE_S
                reason = await self._end(process, hung, leaving=leaving.is_set())
                if reason is not None:
                    self._incarnation.epoch += 1
                self._report_lost(reason)
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
            await self._tell(cmd.ReportFailure(request=message.request, failure=error.failure()))
            return None

    def _note(self, frame: frames.ToWorker) -> None:
        self._keep_digest(frame)
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

    async def _end(self, process: WorkerProcess, hung: str | None, *, leaving: bool) -> str | None:
        """See a process off; return what it died of, or None where it left as it was told."""
        if not leaving:
            process.kill()
        with trio.move_on_after(LEAVE_S / 2):
            status = await process.wait()
            process.kill()  # It has ended; this closes the socket.
            return None if leaving else hung or _cause(status)
        process.kill()
        return None if leaving else hung or "was killed because it hung"

    def _report_lost(self, reason: str | None) -> None:
        self._digests.clear()
        lost = cmd.ReportWorkerLost(device=self._device, reason=reason or "left as told", expected=reason is None)
        self._engine.signal(Order(lost))

    # ---------------------------------------------------------------------------------------- what it says

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
                await self._hear(frame)
            self._watchdog.listening = True

    async def _hear(self, frame: frames.FromWorker) -> None:
        device = self._device
        match frame:
            case frames.Stepped():
                await self._hear_step(frame)
            case frames.Prefilled():
                self._progress.of_request(frame.request, "prefill", frame.done, frame.total, "tokens")
            case frames.Replayed():
                self._progress.of_request(frame.request, "resume", frame.done, frame.total, "tokens")
            case frames.LoadProgress():
                self._progress.of_model(frame.model, frame.stage, frame.done, frame.total, frame.unit)
            case frames.Up():
                self._tell_of_start(1, f"the worker process of {device} has started")
                up = cmd.ReportWorkerUp(device=device, pid=frame.pid, threads=frame.threads, versions=frame.versions)
                await self._tell(up)
            case frames.Loaded():
                await self._tell(
                    cmd.ReportLoaded(
                        model=frame.model,
                        device=device,
                        memory_bytes=frame.memory_bytes,
                        context=frame.context,
                        slots=frame.slots,
                        dtype=frame.dtype,
                        architecture=frame.architecture,
                        batching=frame.batching,
                        fingerprint=frame.fingerprint,
                        why=frame.why,
                    )
                )
            case frames.LoadFailed():
                await self._tell(cmd.ReportLoadFailed(model=frame.model, device=device, failure=self._why(frame)))
            case frames.Unloaded():
                await self._tell(cmd.ReportUnloaded(model=frame.model, device=device))
            case frames.Embedded():
                blob = await self._log.put_blob(frame.vectors.encode(), kept=self._keeps(frame.request))
                answer = cmd.ReportAnswer(
                    request=frame.request,
                    prompt_tokens=frame.prompt_tokens,
                    count=frame.count,
                    dimensions=frame.dimensions,
                    blob=blob,
                )
                await self._tell(answer)
            case frames.Tokenized():
                answer = cmd.ReportAnswer(request=frame.request, count=len(frame.tokens))
                await self._tell(answer, {"tokens": list(frame.tokens)})
            case frames.Beating():
                return
            case frames.Detokenized():
                await self._tell(cmd.ReportAnswer(request=frame.request), {"text": frame.text})
            case frames.WorkFailed():
                self._digests.pop(frame.request, None)
                detail = {"detail": frame.detail} if frame.detail else None
                await self._tell(cmd.ReportFailure(request=frame.request, failure=_failure(frame)), detail, frame.story)
            case _:
                assert_never(frame)

    async def _hear_step(self, frame: frames.Stepped) -> None:
        text = []
        rows = []
        for row in frame.rows:
            shown: cmd.JsonObject = {"content": row.content, "tokens": row.tokens}
            if row.logprobs:
                shown["logprobs"] = [_logprob(token) for token in row.logprobs]
            text.append(shown)
            content = row.content.encode()
            rows.append(
                cmd.RowFacts(
                    request=row.request,
                    tokens=len(row.tokens),
                    size_bytes=len(content),
                    logprobs=len(row.logprobs),
                    prompt_tokens=row.prompt_tokens,
                    cached_tokens=row.cached_tokens,
                    finish_reason=row.finish_reason,
                    digest=self._digest(row, content),
                )
            )
        await self._tell(cmd.ReportStep(device=self._device, rows=tuple(rows)), text)

    def _keep_digest(self, frame: frames.ToWorker) -> None:
        """Begin the digest of an answer that is about to come; drop that of one which nobody wants any more."""
        match frame:
            case frames.Generate():
                self._digests[frame.request] = hashlib.sha256(frame.said.encode())
            case frames.Abandon():
                self._digests.pop(frame.request, None)
            case _:
                return  # Its answer comes whole.

    def _digest(self, row: frames.Row, content: bytes) -> str:
        """Add to the digest of an answer; return it where the answer is whole, and somebody still wants it."""
        digest = self._digests.get(row.request)
        if digest is None:
            return ""
        digest.update(content)
        if row.finish_reason is None:
            return ""
        del self._digests[row.request]
        return digest.hexdigest()

    def _why(self, frame: frames.LoadFailed) -> Failure:
        if frame.reason == "memory":
            return errors.OutOfMemory(
                frame.message, device=self._device, needed=frame.needed_bytes, free=frame.free_bytes
            ).failure()
        return errors.ModelLoadFailed(frame.message, model=frame.model, reason=frame.message).failure()

    def _tell_of_start(self, done: int, message: str) -> None:
        """Libraries take seconds to import, and nothing else tells a host of that."""
        self._progress.of_model(self._starting, "start", done, 1, "processes", message)

    async def _tell(self, command: cmd.Command, text: object = None, story: str = "") -> None:
        await self._engine.tell(Order(command, text, story))


def _cause(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _logprob(token: frames.TokenLogprob) -> cmd.JsonObject:
    shown: cmd.JsonObject = {"token": token.token, "logprob": token.logprob}
    if token.top:
        shown["top"] = [{"token": name, "logprob": value} for name, value in token.top]
    return shown


_BY_CODE: dict[int, Callable[..., errors.MlzooError]] = {
    error.code: error
    for error in (
        errors.ModelNotFound,
        errors.OutOfMemory,
        errors.ContextLengthExceeded,
        errors.Interrupted,
        errors.Unsupported,
        errors.InvalidParams,
        errors.TooLarge,
    )
}


def _failure(frame: frames.WorkFailed) -> Failure:
    """Return a worker's failure as the wire has it; a code that it may not use is our fault."""
    make = _BY_CODE.get(frame.code, errors.InternalError)
    return make(frame.message, **frame.data).failure()
