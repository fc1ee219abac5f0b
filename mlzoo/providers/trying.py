"""Trying again: how often, after how long, and what is worth it. Knows no API, and nothing of what has been said."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import tenacity
import trio

from mlzoo.providers.protocol import Failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from mlzoo.config.schema import ProviderEntry

T = TypeVar("T")
FIRST_S = 0.5
MOST_S = 8.0


async def tried(do: Callable[[], Awaitable[T]], entry: ProviderEntry, random: Random) -> T:
    """Return what ``do`` returns, in one of as many tries as the entry allows.

    The wait before a try is what the provider asked for, and a little more, so that not all who were refused come back
    at one moment; else it doubles from try to try.

    Raises:
        Failed: The last try failed, or one of which another is not worth it, or for which the wait is too long.
    """

    def wait_s(state: tenacity.RetryCallState) -> float:
        failed = state.outcome.exception() if state.outcome is not None else None
        if isinstance(failed, Failed) and failed.retry_after_ms is not None:
            return failed.retry_after_ms / 1000 * random.uniform(1.0, 1.1)
        doubled_s: float = FIRST_S * 2 ** (state.attempt_number - 1)
        return min(MOST_S, doubled_s) * random.uniform(0.5, 1.5)

    def is_worth_it(error: BaseException) -> bool:
        soon = isinstance(error, Failed) and (error.retry_after_ms or 0) <= entry.retry_after_most_s * 1000
        return soon and isinstance(error, Failed) and error.is_worth_trying

    async def once() -> T:
        return await do()  # Tenacity looks whether it is given a coroutine function.

    retrying = tenacity.AsyncRetrying(
        sleep=trio.sleep,
        stop=tenacity.stop_after_attempt(1 + entry.retries),
        wait=wait_s,
        retry=tenacity.retry_if_exception(is_worth_it),
        reraise=True,
    )
    return await retrying(once)
