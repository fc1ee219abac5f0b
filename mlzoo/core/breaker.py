"""The breaker of each provider: one that fails again and again is left alone for a while, then tried by one request.

Nygard, Release It! (2007). What counts are faults of the provider or of the way to it; what it refuses for a reason of
the request's own shows that it is there. Time is the log's clock. Knows nothing of what a request does instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.core.state import ProviderState, device_of
from mlzoo.errors import Interrupted, ProviderError
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import State
    from mlzoo.errors import Failure
    from mlzoo.events.commands import ModelFacts

FAULTS_TO_OPEN = 5  # one after the other
FIRST_OPEN_MS = 5_000  # and twice as long after each probe that fails
MOST_OPEN_MS = 300_000
PROBE_MS = 1_000  # after which it is worth to ask again while a probe is on its way
SERVER_FAULTS = 500
TOO_MANY = frozenset({408, 429})


def refusal(state: State, model: ModelFacts, at_ms: int) -> Failure | None:
    """Return why the provider of a model is asked nothing now, or None: also where the next request is to try it."""
    provider = state.providers.get(model.provider)
    if provider is None or provider.open_until_ms is None:
        return None
    probing = is_probing(state, model.provider)
    if at_ms >= provider.open_until_ms and not probing:
        return None
    wait_ms = max(PROBE_MS, provider.open_until_ms - at_ms)
    return ProviderError(
        f"Provider {model.provider} failed {provider.faults} times in a row and is left alone: "
        f"try again in {wait_ms} ms, or name another model.",
        provider=model.provider,
        reason="breaker",
        retry_after_ms=wait_ms,
    ).failure()


def is_probing(state: State, name: str) -> bool:
    """Whether a request is with a provider that is left alone otherwise."""
    probe = state.requests.get(state.providers[name].probe)
    return probe is not None and probe.phase == "running" and probe.device == device_of(name)


def note_fault(draft: Draft, model: ModelFacts, failure: Failure) -> None:
    """Take in how a provider failed a request, or that it is there all the same."""
    if model.provider == "local":
        return
    if not is_fault(failure):
        note_answer(draft, model)
        return
    was = draft.state.providers.get(model.provider, ProviderState())
    faults = was.faults + 1
    open_until_ms = was.open_until_ms
    is_new = open_until_ms is None and faults >= FAULTS_TO_OPEN
    has_failed_again = open_until_ms is not None and draft.at_ms >= open_until_ms
    if is_new or has_failed_again:
        doublings = max(0, faults - FAULTS_TO_OPEN)
        asked_ms = failure.data.get("retry_after_ms", 0)
        open_until_ms = draft.at_ms + min(MOST_OPEN_MS, max(asked_ms, FIRST_OPEN_MS * 2 ** min(doublings, 10)))
    draft.say(ev.ProviderFaulted(provider=model.provider, faults=faults, open_until_ms=open_until_ms))


def note_answer(draft: Draft, model: ModelFacts) -> None:
    """Take in that a provider has answered."""
    if model.provider in draft.state.providers:
        draft.say(ev.ProviderRecovered(provider=model.provider))


def is_fault(failure: Failure) -> bool:
    """Whether a failure says that a provider, or the way to it, does not work; a missing key does not."""
    if failure.code == Interrupted.code:
        return "provider" in failure.data
    if failure.code != ProviderError.code:
        return False
    status = failure.data.get("status")
    if status is None:
        return bool(failure.data.get("retryable", True))
    return status >= SERVER_FAULTS or status in TOO_MANY
