"""Forgetting, as hosts ask for it: find the request, end it if it runs, and have workers and log forget its text.

A request may be named by its own name, by that of a call that heard of it, or by its key. Knows nothing of how the log
forgets (``mlzoo.events.forgetting``).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import trio

from mlzoo import errors
from mlzoo.actors.messages import Order
from mlzoo.core.state import under_key
from mlzoo.events import commands as cmd
from mlzoo.events.forgetting import Target

if TYPE_CHECKING:
    from mlzoo.actors.ledger import Ledger
    from mlzoo.actors.services import Services
    from mlzoo.api.forgetting import ForgetParams
    from mlzoo.events.commands import JsonObject


async def forget(services: Services, params: ForgetParams) -> JsonObject:
    """Forget a request, and return the answer once nothing is left of it.

    Raises:
        InvalidParams: not one thing was named.
        LogUnusable: the log cannot be folded, so that nobody can say what runs.
        NotFound: nothing is known of it.
        ShuttingDown: it was left suspended by a sidecar that leaves.
        StorageFailed: the log has failed.
        Unsupported: a conversation was named.
    """
    if params.conversation is not None:
        message = "This version keeps no conversations: forget their requests, by request or key."
        raise errors.Unsupported(message, feature="conversation")
    if (params.request is None) == (params.key is None):
        raise errors.InvalidParams(
            "Name a request or a key.", path="request", expected="exactly one of request and key"
        )
    while (ledger := services.ledger) is None:
        await _progress(services)  # The log is being folded, and then the start is recorded.
    target = await _target(services, ledger, params)
    await _end(services, ledger, target.request)
    services.forget_in_workers()
    groups = await services.log.forgetter.forget(target)
    if groups == 0:
        raise _not_found("request", target.request)
    return {"request": target.request, "groups": groups}


async def _target(services: Services, ledger: Ledger, params: ForgetParams) -> Target:
    """Return the request that is meant, and the digest of its key, if it has one."""
    if params.request is not None:
        live = ledger.state.requests.get(params.request)
        found = Target(live.id, live.key) if live is not None else None
        found = found or await services.log.forgetter.target_of(params.request)
        return found or Target(params.request, await _key_of(ledger, params.request))
    key = _digest(params.key or "")
    live = under_key(ledger.state, key)
    if live is not None:
        return Target(live.id, key)
    known = ledger.state.keys.get(key) or ledger.keys.find(key)
    if known is None:
        raise _not_found("key", params.key or "")
    return Target(known.request, key)


async def _key_of(ledger: Ledger, request: str) -> str:
    """Return the key of a request whose acceptance was dropped: calls that came with it may have left text since."""
    of_late = next((key for key, facts in ledger.state.keys.items() if facts.request == request), None)
    return of_late or await ledger.keys.key_of(request) or ""


def _not_found(what: str, name: str) -> errors.NotFound:
    """Return the error for what the log knows nothing of.

    It names that by its digest: the error is recorded, and what a host says of itself is text.
    """
    message = f"No request of this {'name' if what == 'request' else what} is in the log; nothing of it is kept."
    return errors.NotFound(message, what=what, id=_digest(name))


def _digest(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()


async def _end(services: Services, ledger: Ledger, request: str) -> None:
    """Cancel a request that runs, and wait until that is so."""
    if request not in ledger.state.requests:
        return
    name = services.world.ids.new("req")
    if not services.engine.closed:
        await services.engine.tell(Order(cmd.Cancel(request=name, caller=None, target=request)))
    while request in ledger.state.requests:
        if ledger.state.stopped:
            raise errors.ShuttingDown("The sidecar leaves, and what is to be forgotten waits for the next one.")
        await _progress(services)


async def _progress(services: Services) -> None:
    """Wait until something more is written or synced; raise what keeps that from happening."""
    if services.unusable is not None:
        raise services.unusable
    if services.log.failed is not None:
        raise services.log.failed
    moved = trio.Event()
    services.log.on_progress.append(moved.set)
    try:
        await moved.wait()
    finally:
        services.log.on_progress.remove(moved.set)
