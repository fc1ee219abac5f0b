"""What the sidecar asks of a provider, and how a provider says that it could not.

A provider keeps nothing between requests but connections. It is given frames, as a worker process is, and the name
that it has for the model. Whoever calls it is cancelled when nobody wants the answer any more, and the provider then
closes what it had open. Knows neither HTTP nor any API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from mlzoo.errors import ContextLengthExceeded, MlzooError, ProviderError, TooLarge, Unsupported
from mlzoo.frames import FinishReason, TokenLogprob, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from mlzoo.frames import Embed, Generate

DETAIL_CHARS = 2000  # of what a provider says itself of a fault
TOO_LONG = "context_length_exceeded"
TRY_AGAIN = frozenset({408, 409, 429})  # and all from 500 on


@attrs.frozen(kw_only=True)
class Piece:
    """What came next of an answer. The last piece, and no other, has a finish reason; it has the usage where told."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.content or self.reasoning or self.tool_calls or self.logprobs or self.finish_reason)


@attrs.frozen(kw_only=True)
class Vectors:
    """Embeddings, in the order of the texts."""

    rows: list[list[float]]
    prompt_tokens: int = 0


class Provider(Protocol):
    """One server.

    Attributes:
        every_s: how often what has come is looked at, at most; 0: each piece by itself.
    """

    every_s: float

    def generate(self, work: Generate, remote: str) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """Ask for an answer and give its pieces as they come; the answer is let go when the context ends.

        Raises:
            Failed: Entering does so before anything has come, the iterator after that.
        """

    async def embed(self, work: Embed, remote: str) -> Vectors:
        """Return embeddings.

        Raises:
            Failed: The provider could not.
        """

    async def aclose(self) -> None:
        """Close what is open."""


class Failed(Exception):
    """The provider's fault, the network's or the request's: it gave no answer, or not to its end.

    Args:
        what: what went wrong, in our own words: nothing that the provider said.
        status: of the HTTP response, where one came.
        remedy: what to do about it, where trying again is no help.
        retry_after_ms: when the provider asks to be tried again.
        is_worth_trying: whether the same request may do better in a moment.
        detail: what the provider said of it itself; it may repeat the request's own words, or anything.
        code: of the wire, where it is a more telling one than 1007.
        data: that belong to such a code.
        known: what it is on the wire, where that is settled: of a recording.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        remedy: str = "",
        retry_after_ms: int | None = None,
        is_worth_trying: bool = True,
        detail: str = "",
        code: int = ProviderError.code,
        data: dict[str, Any] | None = None,
        known: MlzooError | None = None,
    ) -> None:
        super().__init__(what)
        self.known = known
        self.what = what
        self.status = status
        self.remedy = remedy
        self.retry_after_ms = retry_after_ms
        self.is_worth_trying = is_worth_trying
        self.detail = detail[:DETAIL_CHARS]
        self.code = code
        self.data = data or {}


def refused(status: int, *, retry_after_ms: int | None, detail: str, remote: str, key_env: str, name: str) -> Failed:
    """Return what an HTTP status means that is no success."""
    remedy, is_worth_trying = "", status in TRY_AGAIN or status >= 500
    if status in {401, 403}:
        remedy = how_to_authenticate(name, key_env)
    elif status == 404:
        remedy = f"look whether it has the model {remote!r} (remote), and whether base_url is right"
    elif status == 413:
        remedy = "send less at once"
    elif not is_worth_trying:
        remedy = "see detail: it does not take such a request"
    return Failed(
        f"answered {status}",
        status=status,
        remedy=remedy,
        retry_after_ms=retry_after_ms,
        is_worth_trying=is_worth_trying,
        detail=detail,
    )


def too_long(detail: str, status: int | None = None) -> Failed:
    """Return what ``TOO_LONG`` means, the code of an error as OpenAI has it."""
    return Failed(
        "says that this is longer than the model's context",
        status=status,
        remedy="send less",
        is_worth_trying=False,
        detail=detail,
        code=ContextLengthExceeded.code,
    )


def how_to_authenticate(name: str, key_env: str) -> str:
    """Return what to do where a provider has no key, or refuses it."""
    variable = f"set {key_env} in the sidecar's environment, or " if key_env else ""
    return f"{variable}call providers.authenticate for {name}"


def error_of(failed: Failed, provider: str, model: str) -> MlzooError:
    """Return a failure as the wire has it, without what the provider said."""
    message = f"Provider {provider} {failed.what}" + (f": {failed.remedy}." if failed.remedy else "; try again later.")
    if failed.code == ContextLengthExceeded.code:
        return ContextLengthExceeded(message, provider=provider, **failed.data)
    if failed.code == Unsupported.code:
        return Unsupported(message, model=model, **failed.data)
    if failed.code == TooLarge.code:
        return TooLarge(message, **failed.data)
    data: dict[str, Any] = {"provider": provider}
    if failed.status is not None:
        data["status"] = failed.status
    if failed.retry_after_ms is not None:
        data["retry_after_ms"] = failed.retry_after_ms
    return ProviderError(message, **data, retryable=failed.is_worth_trying)
