"""Routes: which model answers a request, where several may; and when the next one is asked instead.

The shell stamps into a request the models of its route, in their order, with the reason why one of them cannot answer
where that can be told without asking: weights that are not here, a missing key, what it is not able to do. Only the
rest is decided here. A request moves on along its chain, never back, and only as long as nothing of its answer is
recorded, so that no host hears the beginning of one answer and the end of another. Without a chain nothing moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo import errors
from mlzoo.core import breaker
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import RequestState
    from mlzoo.errors import Failure

FALLS_BACK = frozenset(
    {
        error.code
        for error in (
            errors.ModelLoadFailed,
            errors.OutOfMemory,
            errors.ProviderError,
            errors.Interrupted,
            errors.ModelNotFound,
            errors.ModelNotInstalled,
            errors.Unsupported,
        )
    }
)
"""What another model may do better at: nothing that the request itself is at fault for, nor a fault of ours."""


def may_move_on(request: RequestState, failure: Failure) -> bool:
    """Whether another model is to be asked after a failure."""
    return bool(request.chain) and request.first_token_at_ms is None and failure.code in FALLS_BACK


def move_on(draft: Draft, request: RequestState, failure: Failure) -> Failure | None:
    """Have the next model that can be asked answer a request; return why the last one cannot, where none is left."""
    reason: Failure | None = failure
    while reason is not None and may_move_on(request, reason):
        following = request.chain[0]
        draft.say(ev.RequestRerouted(request=request.id, model=following.model, failure=reason))
        request = draft.state.requests[request.id]
        reason = following.refused or breaker.refusal(draft.state, following.model, draft.at_ms)
    return reason
