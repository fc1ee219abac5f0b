"""The replicas of a model: one on each of several devices, and which of them takes a request.

A replica is a model of the state with a name of its own: the first has the model's name, the others that and a number,
``smollm2#1``. Workers know the model's name only, as no device has two. Nothing here knows how models are placed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mlzoo.core.state import name_of_replica, running_on

if TYPE_CHECKING:
    from mlzoo.core.state import ModelState, RequestState, State

BYTES_A_TOKEN = 4  # of a prompt that has not been counted yet
ANSWER_TOKENS = 256  # of an answer for which nobody set a bound
MOST_PREFIXES = 64  # that are remembered of a replica
AFFINITY_TOKENS = 1024  # that a replica may be busier by, and still take a request whose beginning it had last


def replicas_of(state: State, name: str) -> list[ModelState]:
    """Return what there is of a model, in the order of the replicas' numbers."""
    return sorted((m for m in state.models.values() if m.facts.name == name), key=lambda m: m.replica)


def key_of(model: ModelState) -> str:
    """Return the name under which a replica stands in the state and in events."""
    return name_of_replica(model.facts.name, model.replica)


def siblings(state: State, model: ModelState) -> list[ModelState]:
    """Return the other replicas that hold memory, or are about to."""
    return [m for m in replicas_of(state, model.facts.name) if m.replica != model.replica and m.phase in ALIVE]


ALIVE = frozenset({"placing", "loading", "ready", "unloading"})
ON_THE_WAY = frozenset({"placing", "loading"})


def replica_at(state: State, name: str, device: str | None) -> ModelState | None:
    """Return the replica on a device; where none is there, the first one, if there is one."""
    first = state.models.get(name)
    if device is None or (first is not None and first.device == device):
        return first
    return next((m for m in replicas_of(state, name) if m.device == device), first)


def free_slots(state: State, ready: list[ModelState]) -> dict[int, int]:
    """Return how many more requests each replica can take."""
    return {m.replica: m.slots - len(running_on(state, m.facts.name, m.device)) for m in ready}


def pick(state: State, request: RequestState, free: list[ModelState]) -> ModelState:
    """Return which of some replicas takes a request: the one with the least to do.

    One that would compute the same bits goes before others where a request goes on exactly. One that had the beginning
    of the conversation last, or its persona, is taken as long as it is not much busier.
    """
    if len(free) == 1:
        return free[0]
    if request.determinism == "exact" and request.fingerprint:
        free = [m for m in free if goes_on(m, request)] or free
    load = {m.replica: outstanding_tokens(state, m) for m in free}
    least = min(load.values())
    near = [m for m in free if load[m.replica] <= least + AFFINITY_TOKENS and _shared(request, m)]
    return min(near or free, key=lambda m: (-_shared(request, m) if near else 0, load[m.replica], m.replica))


def fingerprint_of(model: ModelState, adapter: str) -> str:
    """Return what the bits of an answer depend on: of a model as it is, or with an adapter; empty: on its company."""
    if not adapter:
        return model.fingerprint
    return next((facts.fingerprint for facts in model.adapters if facts.name == adapter), "")


def goes_on(model: ModelState, request: RequestState) -> bool:
    """Whether a model computes the same bits as the one on which a request has begun."""
    own = fingerprint_of(model, request.adapter)
    return request.fingerprint == own or (not request.adapter and request.fingerprint in model.fingerprints)


def outstanding_tokens(state: State, model: ModelState) -> int:
    """Return how many tokens a replica has still to read and to say, at most."""
    return sum(_left(request) for request in running_on(state, model.facts.name, model.device))


def _left(request: RequestState) -> int:
    """Return what is left of one request; a prompt that has been counted has been read."""
    prompt = 0 if request.prompt_tokens else -(-request.size_bytes // BYTES_A_TOKEN)
    return prompt + max(1, (request.max_tokens or ANSWER_TOKENS) - request.completion_tokens)


def _shared(request: RequestState, model: ModelState) -> int:
    """Return how many of the beginnings of a request a replica was the last to have."""
    return sum(prefix in model.prefixes for prefix in request.prefixes)


def with_prefixes(state: State, request: RequestState) -> State:
    """Note which replica was the last to have how a request begins; what was noted first is forgotten first."""
    assert request.model is not None
    models = state.models.copy()
    for model in replicas_of(state, request.model.name):
        others = tuple(prefix for prefix in model.prefixes if prefix not in request.prefixes)
        mine = request.prefixes if model.device == request.device else ()
        models[key_of(model)] = attrs.evolve(model, prefixes=(*others, *mine)[-MOST_PREFIXES:])
    return attrs.evolve(state, models=models)
