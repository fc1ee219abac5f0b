"""Forgetting, as hosts ask for it: find the request, end it if it runs, and have the log forget its text.

Knows nothing of how the log does that (``mlzoo.events.forgetting``).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import trio

from mlzoo import errors
from mlzoo.actors.messages import Order
from mlzoo.core.state import under_key
from mlzoo.events import commands as cmd

if TYPE_CHECKING:
    from mlzoo.actors.ledger import Ledger
    from mlzoo.actors.services import Services
    from mlzoo.api.forgetting import ForgetParams
    from mlzoo.events.commands import JsonObject
    from mlzoo.events.log import Log


async def forget(services: Services, params: ForgetParams) -> JsonObject:
    """Forget a request, and return the answer once nothing is left of it.

    Raises:
        InvalidParams: not one thing was named.
        NotFound: nothing is known of it.
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
        await _progress(services.log)  # The log is being folded, and then the start is recorded.
    request, key = _named(ledger, params)
    await _end(services, ledger, request)
    groups = await services.log.forget(request, key)
    if groups == 0:
        message = f"No request {request} is in the log; nothing of it is kept."
        raise errors.NotFound(message, what="request", id=request)
    return {"request": request, "groups": groups}


def _named(ledger: Ledger, params: ForgetParams) -> tuple[str, str]:
    """Return the request that is meant and the digest of the key that named it, if one did."""
    if params.key is None:
        return params.request or "", ""
    key = hashlib.sha256(params.key.encode()).hexdigest()
    live = under_key(ledger.state, key)
    known = ledger.state.keys.get(key) or (ledger.keys.find(key) if live is None else None)
    if live is None and known is None:
        # Its digest, as the log has it: this answer is recorded, and the host's own words are text.
        raise errors.NotFound("No request was accepted under this key.", what="key", id=key)
    return (live.id if live is not None else known.request if known is not None else ""), key


async def _end(services: Services, ledger: Ledger, request: str) -> None:
    """Cancel a request that runs, and wait until that is so."""
    if request not in ledger.state.requests:
        return
    name = services.world.ids.new("req")
    await services.engine.tell(Order(cmd.Cancel(request=name, caller=None, target=request)))
    while request in ledger.state.requests:
        await _progress(services.log)


async def _progress(log: Log) -> None:
    """Wait until something more is written or synced."""
    moved = trio.Event()
    log.on_progress.append(moved.set)
    try:
        await moved.wait()
    finally:
        log.on_progress.remove(moved.set)
