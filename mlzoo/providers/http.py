"""HTTP as providers need it: one request, and its answer as JSON or as server-sent events, within bounds.

Everything that a server may do is bounded: the time to a connection, to the first word, between two and in all; the
bytes of an event, of an error and of the whole. Its errors become ``Failed`` in our own words, with what it said itself
apart. Redirects are not followed, as they would take the key along. Knows no API. Source of the format of events:
WHATWG HTML, 9.2, as httpx2 reads it.
"""

from __future__ import annotations

import codecs
import email.utils
import math
import time
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import httpx2
import orjson
import trio

from mlzoo.providers.protocol import TOO_LONG, Failed, how_to_authenticate, refused, too_long

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping

    from mlzoo.config.schema import ProviderEntry
    from mlzoo.providers.protocol import Piece
    from mlzoo.providers.secrets import Secrets

    Read = Callable[[AsyncIterator[httpx2.ServerSentEvent]], AsyncGenerator[Piece, None]]

EVENT_BYTES = 1024 * 1024
ERROR_BYTES = 64 * 1024
ANSWER_BYTES = 256 * 1024 * 1024
EVERY_S = 0.002  # what comes in that time is told together: nobody sees it, and a flood costs a tenth
LINGER_S = 0.25  # for the end of a response whose last word has come
AGENT = "mlzoo"


class _Bytes:
    """The bytes of a response, as long as they are not too many and come in time.

    httpx2 itself has no bound for comments between events, and one time for the first byte and all others. No
    generator, and ``unwind`` ends those beneath it: one that is left in its midst is closed by the garbage collector,
    at a time of its own.
    """

    def __init__(self, response: httpx2.Response, most_bytes: int, between_s: float) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._chunks = aiter(response.stream)
        self._most_bytes = self._left_bytes = most_bytes
        self._between_s = between_s
        self._patience_s = math.inf  # Whoever waits for the first one has a time for that.

    def __aiter__(self) -> _Bytes:
        return self

    async def __anext__(self) -> bytes:
        chunk: bytes | None = b""
        with trio.move_on_after(self._patience_s) as waiting:
            chunk = await anext(self._chunks, None)
        if waiting.cancelled_caught:
            raise Failed(f"was silent for {self._between_s:g} s")
        if chunk is None:
            raise StopAsyncIteration
        self._left_bytes, self._patience_s = self._left_bytes - len(chunk), self._between_s
        if self._left_bytes < 0:
            raise Failed(f"said more than {self._most_bytes} bytes", is_worth_trying=False)
        return chunk

    async def unwind(self) -> None:
        """Read on for a moment, as a connection that is read to its end can be used again; then no more."""
        with suppress(httpx2.HTTPError), trio.move_on_after(LINGER_S) as lingering:
            async for chunk in self._chunks:
                self._left_bytes -= len(chunk)
                if self._left_bytes < 0:
                    lingering.cancel()


class _Text:
    """A response as httpx2's reader of events sees it."""

    def __init__(self, response: httpx2.Response, chunks: _Bytes) -> None:
        self.headers = response.headers
        self.request = response.request
        self._chunks = chunks
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def aiter_text(self) -> _Text:
        return self

    def __aiter__(self) -> _Text:
        return self

    async def __anext__(self) -> str:
        return self._decoder.decode(await anext(self._chunks))


class Http:
    """The connections to one provider.

    Args:
        entry: how it is spoken to.
        secrets: have its key.
        headers: returns the headers that carry a key.
        always: other headers that its API wants.
    """

    def __init__(
        self,
        entry: ProviderEntry,
        secrets: Secrets,
        headers: Callable[[str], Mapping[str, str]],
        always: Mapping[str, str] | None = None,
    ) -> None:
        self._entry = entry
        self._secrets = secrets
        self._headers = headers
        most = httpx2.Limits(max_connections=None, max_keepalive_connections=entry.max_concurrency)
        timeout = httpx2.Timeout(None, connect=entry.connect_s)
        self._client = httpx2.AsyncClient(limits=most, timeout=timeout, headers={"user-agent": AGENT, **(always or {})})

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, Any], read: Read, remote: str) -> AsyncIterator[Any]:
        """Post a request and give what ``read`` makes of the events of its answer, once the first of that is there.

        Raises:
            Failed: before the first piece on entering, later from the iterator.
        """
        entry = self._entry
        with trio.CancelScope(deadline=trio.current_time() + entry.total_s) as whole:
            async with aclosing(self._pieces(path, body, read, remote)) as pieces:
                first = None
                with trio.move_on_after(entry.first_s) as waiting:
                    first = await anext(pieces, None)
                if waiting.cancelled_caught:
                    raise Failed(f"did not begin to answer within {entry.first_s:g} s")
                async with aclosing(_from(first, pieces)) as all_pieces:
                    yield all_pieces
        if whole.cancelled_caught:
            raise Failed(f"did not finish its answer within {entry.total_s:g} s")

    async def _pieces(self, path: str, body: Mapping[str, Any], read: Read, remote: str) -> AsyncGenerator[Piece, None]:
        with _in_our_words(self._entry):
            async with self._posted(path, body, remote, accept="text/event-stream") as (response, chunks):
                text = cast("httpx2.Response", _Text(response, chunks))
                events = cast("AsyncGenerator[httpx2.ServerSentEvent]", aiter(httpx2.EventSource(text, EVENT_BYTES)))
                async with aclosing(events), aclosing(read(events)) as pieces:
                    async for piece in pieces:
                        if not piece.is_empty:
                            yield piece

    async def json(self, path: str, body: Mapping[str, Any], remote: str) -> Any:
        """Post a request and return its answer.

        Raises:
            Failed: There is none, or it is not JSON.
        """
        entry = self._entry
        with trio.move_on_after(min(entry.first_s, entry.total_s)), _in_our_words(entry):
            async with self._posted(path, body, remote, accept="application/json") as (_, chunks):
                return orjson.loads(b"".join([chunk async for chunk in chunks]))
        raise Failed(f"did not answer within {min(entry.first_s, entry.total_s):g} s")

    @asynccontextmanager
    async def _posted(
        self, path: str, body: Mapping[str, Any], remote: str, *, accept: str
    ) -> AsyncIterator[tuple[httpx2.Response, _Bytes]]:
        entry = self._entry
        key = self._secrets.find(entry.name)
        headers = {"content-type": "application/json", "accept": accept, "accept-encoding": "identity"}
        if key is not None:
            if not (key.isascii() and key.isprintable()):
                remedy = how_to_authenticate(entry.name, entry.key_env)
                raise Failed("has a key that HTTP cannot carry", remedy=remedy, is_worth_trying=False)
            headers |= self._headers(key)
        url = entry.base_url.rstrip("/") + path
        async with self._client.stream("POST", url, content=orjson.dumps(body), headers=headers) as response:
            is_good = response.is_success
            chunks = _Bytes(response, ANSWER_BYTES if is_good else ERROR_BYTES, entry.between_s)
            try:
                if not is_good:
                    raise await self._refused(response, chunks, remote)
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise Failed("compressed its answer, which it was not to do", is_worth_trying=False)
                yield response, chunks
            finally:
                await chunks.unwind()

    async def _refused(self, response: httpx2.Response, chunks: _Bytes, remote: str) -> Failed:
        detail = b""
        with suppress(Failed, httpx2.HTTPError), trio.move_on_after(self._entry.connect_s):
            async for chunk in chunks:  # What has come of it when it ends badly is enough.
                detail += chunk
        message, code = _said_in(detail)
        if code == TOO_LONG:
            return too_long(self._secrets.hide(message), response.status_code)
        return refused(
            response.status_code,
            retry_after_ms=_retry_after_ms(response.headers),
            detail=self._secrets.hide(message),
            remote=remote,
            key_env=self._entry.key_env,
            name=self._entry.name,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


async def _from(first: Piece | None, rest: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    if first is not None:
        yield first
        async for piece in rest:
            yield piece


@contextmanager
def _in_our_words(entry: ProviderEntry) -> Iterator[None]:
    """Have what goes wrong say what that means, and nothing that the server said."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise Failed(f"accepted no connection within {entry.connect_s:g} s") from error
    except httpx2.ConnectError as error:
        raise Failed("cannot be reached") from error
    except httpx2.SSEError as error:
        raise Failed("said what is no stream of events", is_worth_trying=False) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Failed("broke off its answer") from error
    except (orjson.JSONDecodeError, UnicodeDecodeError) as error:
        raise Failed("said what is no JSON", is_worth_trying=False) from error


def _said_in(body: bytes) -> tuple[str, str]:
    """Return the message of an error as most APIs have it, else the whole of it; and its code, or nothing."""
    try:
        error = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        error = None
    told = error if isinstance(error, dict) else {"message": error}
    said, code = told.get("message"), told.get("code")
    return said if isinstance(said, str) else body.decode(errors="replace"), code if isinstance(code, str) else ""


def _retry_after_ms(headers: httpx2.Headers) -> int | None:
    """Return when a server asks to be tried again: ``retry-after-ms``, or RFC 9110, 10.2.3, in seconds or as a date."""
    for name, unit_ms in (("retry-after-ms", 1), ("retry-after", 1000)):
        said = headers.get(name, "")
        try:
            number = float(said)
        except ValueError:
            continue
        if 0 <= number < 1e9:
            return round(number * unit_ms)
    try:
        at = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(0, round((at.timestamp() - time.time()) * 1000))
