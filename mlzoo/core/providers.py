"""What is known of providers, and of requests on their routes, as a fold.

How often a provider has failed, who tries one that is left alone, and which models a request may still come to.
The breaker and the routes (``mlzoo.core.breaker``, ``mlzoo.core.routing``) decide by it. Knows no other event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mlzoo.core.state import ProviderState

if TYPE_CHECKING:
    from mlzoo.core.state import RequestState, State
    from mlzoo.events.types import ProviderFaulted, RequestRerouted


def faulted(state: State, event: ProviderFaulted) -> State:
    """Return the state after a fault."""
    was = state.providers.get(event.provider, ProviderState())
    now = attrs.evolve(was, faults=event.faults, open_until_ms=event.open_until_ms)
    return attrs.evolve(state, providers={**state.providers, event.provider: now})


def recovered(state: State, provider: str) -> State:
    """Return the state after an answer."""
    return attrs.evolve(state, providers={name: was for name, was in state.providers.items() if name != provider})


def probed(state: State, request: RequestState) -> State:
    """Return the state after a request was dispatched: to a provider that is left alone otherwise, it tries that."""
    name = request.model.provider if request.model else ""
    was = state.providers.get(name)
    if was is None or was.open_until_ms is None:
        return state
    return attrs.evolve(state, providers={**state.providers, name: attrs.evolve(was, probe=request.id)})


def rerouted(was: RequestState, event: RequestRerouted) -> RequestState:
    """Return a request that waits for the next model of its chain."""
    return attrs.evolve(
        was,
        model=event.model,
        chain=was.chain[1:],
        is_rerouted=True,
        phase="queued",
        device=None,
        losses=0,
        fingerprint="",
    )
