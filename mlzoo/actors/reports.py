"""What a worker process says, made into commands for the engine, and into progress for whoever waits.

Of an answer that comes in pieces the digest is kept here. Knows frames; nothing of processes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, assert_never

import attrs
import orjson

from mlzoo import errors, frames
from mlzoo.actors.messages import Order
from mlzoo.events import commands as cmd
from mlzoo.events.facts import SummaryFacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlzoo.actors.mailbox import Ref
    from mlzoo.actors.messages import EngineMessage
    from mlzoo.actors.progress import Progress
    from mlzoo.errors import Failure
    from mlzoo.events.log import Log

TEXT_BYTES = 64 * 1024  # of a prediction that is recorded as text: a file of its own is synced by itself


class Reports:
    """Of one device's processes.

    Args:
        device: whose they are.
        engine: hears what is reported.
        log: keeps the blobs that answers name.
        keeps: whether what is answered to a request may reach the disk.
        progress: hears how far loads and prompts are.
    """

    def __init__(
        self,
        device: str,
        *,
        engine: Ref[EngineMessage],
        log: Log,
        keeps: Callable[[str], bool],
        progress: Progress,
    ) -> None:
        self._device = device
        self._engine = engine
        self._log = log
        self._keeps = keeps
        self._progress = progress
        self._starting = ""  # the model that the process was started for
        self._digests: dict[str, hashlib._Hash] = {}

    def starting(self, model: str) -> None:
        """Tell who waits for a model that a process is started for it."""
        self._starting = model
        self._tell_of_start(0, f"starting the worker process of {self._device}")

    async def not_started(self, error: OSError) -> None:
        """Report that it could not be."""
        model = self._starting
        message = f"The worker process could not be started: {error}."
        failure = errors.ModelLoadFailed(message, model=model, reason=str(error)).failure()
        await self._tell(cmd.ReportLoadFailed(model=model, device=self._device, failure=failure))

    async def not_told(self, request: str, error: errors.MlzooError) -> None:
        """Report that a process could not be told what to do about a request."""
        await self._tell(cmd.ReportFailure(request=request, failure=error.failure()))

    def lost(self, reason: str | None) -> None:
        """Report the end of a process, and what it died of; None where it left as told. Never waits."""
        self._digests.clear()
        lost = cmd.ReportWorkerLost(device=self._device, reason=reason or "left as told", expected=reason is None)
        self._engine.signal(Order(lost))

    async def hear(self, frame: frames.FromWorker) -> None:
        """Report what the process said."""
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
                up = cmd.ReportWorkerUp(
                    device=device,
                    pid=frame.pid,
                    threads=frame.threads,
                    versions=frame.versions,
                    held_bytes=frame.held_bytes,
                )
                await self._tell(up)
            case frames.Loaded():
                await self._tell(self._loaded(frame))
            case frames.LoadFailed():
                await self._tell(cmd.ReportLoadFailed(model=frame.model, device=device, failure=self._why(frame)))
            case frames.Unloaded():
                await self._tell(cmd.ReportUnloaded(model=frame.model, device=device, held_bytes=frame.held_bytes))
            case frames.Embedded():
                blob = await self._log.put_blob(frame.vectors.encode(), kept=self._keeps(frame.request))
                answer = cmd.ReportAnswer(
                    request=frame.request,
                    prompt_tokens=frame.prompt_tokens,
                    count=frame.count,
                    dimensions=frame.dimensions,
                    blob=blob,
                    truncated=frame.truncated,
                )
                await self._tell(answer)
            case frames.Predicted():
                await self._hear_outputs(frame)
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

    def _loaded(self, frame: frames.Loaded) -> cmd.ReportLoaded:
        return cmd.ReportLoaded(
            model=frame.model,
            device=self._device,
            memory_bytes=frame.memory_bytes,
            context=frame.context,
            slots=frame.slots,
            dtype=frame.dtype,
            architecture=frame.architecture,
            batching=frame.batching,
            fingerprint=frame.fingerprint,
            peak_bytes=frame.peak_bytes,
            why=frame.why,
            labels=frame.labels,
            adapters=frame.adapters,
            fingerprints=frame.fingerprints,
        )

    async def _hear_outputs(self, frame: frames.Predicted) -> None:
        """Report a prediction: as the text of its record, or, where it is long, as a blob, a file of its own."""
        answer = cmd.ReportAnswer(request=frame.request, prompt_tokens=frame.prompt_tokens, count=frame.count)
        outputs = frame.outputs.encode()
        if len(outputs) <= TEXT_BYTES:
            await self._tell(answer, {"outputs": orjson.loads(outputs)})
            return
        blob = await self._log.put_blob(outputs, kept=self._keeps(frame.request))
        await self._tell(attrs.evolve(answer, blob=blob))

    async def _hear_step(self, frame: frames.Stepped) -> None:
        text = []
        rows = []
        for row in frame.rows:
            shown: cmd.JsonObject = {"content": row.content, "tokens": row.tokens}
            if row.logprobs:
                shown["logprobs"] = [_logprob(token) for token in row.logprobs]
            if row.reasoning:
                shown["reasoning"] = row.reasoning
            if row.tool_calls:
                shown["tool_calls"] = [_tool_call(piece) for piece in row.tool_calls]
            if row.summary is not None:
                shown["summary"] = row.summary.text
            text.append(shown)
            content = row.content.encode()
            rows.append(
                cmd.RowFacts(
                    request=row.request,
                    tokens=len(row.tokens),
                    size_bytes=len(content) if row.summary is None else len(row.summary.text.encode()),
                    logprobs=len(row.logprobs),
                    prompt_tokens=row.prompt_tokens,
                    cached_tokens=row.cached_tokens,
                    truncated=row.truncated,
                    finish_reason=row.finish_reason,
                    digest=self._digest(row, content),
                    tool_calls=len(row.tool_calls),
                    reasoning_bytes=len(row.reasoning.encode()),
                    completion_tokens=row.completion_tokens,
                    summary=_summary(row.summary),
                )
            )
        await self._tell(cmd.ReportStep(device=self._device, rows=tuple(rows)), text)

    def told(self, frame: frames.ToWorker) -> None:
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


def _logprob(token: frames.TokenLogprob) -> cmd.JsonObject:
    shown: cmd.JsonObject = {"token": token.token, "logprob": token.logprob}
    if token.top:
        shown["top"] = [{"token": name, "logprob": value} for name, value in token.top]
    return shown


def _summary(made: frames.Summary | None) -> SummaryFacts | None:
    return None if made is None else SummaryFacts(turns=made.turns, left_out=made.left_out, of=made.of)


def _tool_call(piece: frames.ToolCallDelta) -> cmd.JsonObject:
    named = {"id": piece.id, "name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, **{name: value for name, value in named.items() if value}}


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
        errors.ProviderError,
    )
}


def _failure(frame: frames.WorkFailed) -> Failure:
    """Return a worker's failure as the wire has it."""
    return error_of_frame(frame).failure()


def error_of_frame(frame: frames.WorkFailed) -> errors.MlzooError:
    """Return the error that a worker reports; a code that it may not use is our fault."""
    make = _BY_CODE.get(frame.code, errors.InternalError)
    return make(frame.message, **frame.data)
