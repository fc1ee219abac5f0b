"""The actor of a provider: to the core what a device's worker is, with a server elsewhere in the place of a process.

It takes the messages that workers take and reports what they report, so that whoever asks and hears knows no
difference. Everything is streamed, also where nobody asked for that, so that what has come is recorded. A request is
tried again only as long as nothing of its answer has come; one that nobody wants any more is broken off at once. Knows
no API (``mlzoo.providers``) and no route (``mlzoo.core.routing``).
"""

from __future__ import annotations

import traceback
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import orjson
import trio

from mlzoo import errors, frames
from mlzoo.actors.gathering import Gathering
from mlzoo.actors.messages import GoOn
from mlzoo.actors.work import frame_from
from mlzoo.providers.protocol import Failed, error_of, how_to_authenticate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from mlzoo.actors.messages import WorkerMessage
    from mlzoo.actors.reports import Reports
    from mlzoo.actors.runtime import Inbox
    from mlzoo.actors.worker import Incarnation
    from mlzoo.config import Config
    from mlzoo.config.schema import ProviderEntry
    from mlzoo.events.log import Log
    from mlzoo.providers.protocol import Piece, Provider
    from mlzoo.providers.secrets import Secrets

    Work = frames.Generate | frames.Embed | frames.Tokenize | frames.Detokenize

T = TypeVar("T")
CLOSE_S = 2.0  # that closing connections may take


class ProviderActor:
    """One instance of the actor.

    Args:
        incarnation: what stands for the provider where devices stand, and how often its actor has crashed.
        entry: the provider.
        config: says how it calls the models.
        secrets: have its key.
        connect: makes the provider; it may take a while, and runs in a thread.
        log: has what is needed of requests of an earlier life.
        reports: hears what comes of it.
        random: draws how long it is waited before another try.
    """

    def __init__(
        self,
        incarnation: Incarnation,
        *,
        entry: ProviderEntry,
        config: Config,
        secrets: Secrets,
        connect: Callable[[], Provider],
        log: Log,
        reports: Reports,
        random: Random,
    ) -> None:
        self._incarnation = incarnation
        self._entry = entry
        self._config = config
        self._secrets = secrets
        self._connect = connect
        self._log = log
        self._reports = reports
        self._gathering = Gathering(reports)
        self._random = random
        self._provider: Provider | None = None
        self._connecting = trio.Lock()
        self._scopes: dict[str, trio.CancelScope] = {}  # of the requests that it works on

    async def run(self, inbox: Inbox[WorkerMessage]) -> None:
        """Work on as many requests as come, side by side, until told to stop."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._gathering.run)
                async for message in inbox:
                    await self._take(message, nursery)
                nursery.cancel_scope.cancel()
        except Exception as error:
            self._incarnation.epoch += 1
            self._reports.lost(f"its actor crashed: {type(error).__name__}")
            raise
        finally:
            if self._provider is not None:
                with trio.move_on_after(CLOSE_S, shield=True):
                    await self._provider.aclose()

    async def _take(self, message: WorkerMessage, nursery: trio.Nursery) -> None:
        if message.epoch != self._incarnation.epoch:
            return  # It was meant for an instance that is gone, and whose requests have ended.
        frame: frames.ToWorker
        if isinstance(message, GoOn):
            try:
                frame = await frame_from(self._log, message)
            except errors.MlzooError as error:
                await self._reports.not_told(message.request, error)
                return
        else:
            frame = message.frame
        self._reports.told(frame)
        match frame:
            case frames.Abandon():
                scope = self._scopes.pop(frame.request, None)
                if scope is not None:
                    scope.cancel()
            case frames.Generate() | frames.Embed() | frames.Tokenize() | frames.Detokenize():
                scope = self._scopes[frame.request] = trio.CancelScope()
                nursery.start_soon(self._work, frame, scope)
            case _:
                return  # Nothing is loaded, and nothing is kept that could be forgotten.

    async def _work(self, frame: Work, scope: trio.CancelScope) -> None:
        begun = trio.Event()  # once anything has been said
        failure: frames.WorkFailed | None = None
        with scope:
            try:
                await self._answer(frame, begun)
            except Failed as failed:
                failure = self._failure(frame, failed, begun=begun.is_set())
            except errors.MlzooError as error:
                failure = frames.WorkFailed(
                    request=frame.request, code=error.code, message=error.message, data=error.data
                )
            except Exception as error:  # noqa: BLE001 (contained: this request ends, the others go on)
                failure = self._incident(frame, error)
            if self._scopes.get(frame.request) is scope:
                del self._scopes[frame.request]
            if failure is not None:
                self._gathering.end(failure)

    async def _answer(self, frame: Work, begun: trio.Event) -> None:
        entry = self._config.model(frame.model)
        remote = entry.remote or entry.name
        provider = await self._connected()
        match frame:
            case frames.Generate():
                await self._generate(provider, frame, remote, begun)
            case frames.Embed():
                vectors = await self._tried(partial(provider.embed, frame, remote))
                text = await trio.to_thread.run_sync(orjson.dumps, vectors.rows)
                embedded = frames.Embedded(
                    request=frame.request,
                    vectors=text.decode(),
                    count=len(vectors.rows),
                    dimensions=len(vectors.rows[0]),
                    prompt_tokens=vectors.prompt_tokens,
                )
                await self._reports.hear(embedded)
            case _:
                raise errors.Unsupported(
                    f"Provider {self._entry.name} shows no tokens: ask a local model.",
                    feature="tokenize",
                    model=frame.model,
                )

    async def _generate(self, provider: Provider, frame: frames.Generate, remote: str, begun: trio.Event) -> None:
        async with AsyncExitStack() as stack:
            pieces = await self._tried(lambda: stack.enter_async_context(provider.generate(frame, remote)))
            async for piece in pieces:
                begun.set()
                await self._gathering.say(_row(frame.request, piece))

    async def _tried(self, do: Callable[[], Awaitable[T]]) -> T:
        from mlzoo.providers.trying import tried  # noqa: PLC0415 (as for HTTP: only who is asked needs it)

        return await tried(do, self._entry, self._random)

    async def _connected(self) -> Provider:
        if self._secrets.is_missing(self._entry.name):
            remedy = how_to_authenticate(self._entry.name, self._entry.key_env)
            raise Failed("has no key", remedy=remedy, is_worth_trying=False)
        async with self._connecting:
            if self._provider is None:
                self._provider = await trio.to_thread.run_sync(self._connect)
                self._gathering.every_s = self._provider.every_s
        return self._provider

    def _failure(self, frame: Work, failed: Failed, *, begun: bool) -> frames.WorkFailed:
        """Return what the request ends with: after something of its answer has come, nobody can go on with it."""
        error = failed.known or error_of(failed, self._entry.name, frame.model)
        if begun and failed.known is None:
            error = errors.Interrupted(
                f"Provider {self._entry.name} {failed.what}, amid its answer; send this again.",
                provider=self._entry.name,
                resumable=False,
            )
        return frames.WorkFailed(
            request=frame.request, code=error.code, message=error.message, data=error.data, detail=failed.detail
        )

    def _incident(self, frame: Work, error: Exception) -> frames.WorkFailed:
        story = self._secrets.hide("".join(traceback.format_exception(error)))
        message = f"mlzoo made an error while it asked provider {self._entry.name}: {type(error).__name__}."
        return frames.WorkFailed(request=frame.request, code=errors.InternalError.code, message=message, story=story)


def _row(request: str, piece: Piece) -> frames.Row:
    return frames.Row(
        request=request,
        content=piece.content,
        tokens=(),
        logprobs=piece.logprobs,
        prompt_tokens=piece.prompt_tokens,
        cached_tokens=piece.cached_tokens,
        finish_reason=piece.finish_reason,
        tool_calls=piece.tool_calls,
        reasoning=piece.reasoning,
        completion_tokens=piece.completion_tokens,
    )
