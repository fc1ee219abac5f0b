"""Forgetting, as hosts ask for it: find the request, end it if it runs, and have workers and log forget its text.

A request may be named by its own name, by that of a call that heard of it, or by its key. A conversation is dropped
first, with all that runs for it: what comes under its name after that is another one. Where a crash comes between,
asking again forgets the rest. Knows nothing of how the log forgets (``mlzoo.events.forgetting``).
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

import trio

from mlzoo import errors
from mlzoo.actors.asking import decided, folded, progress
from mlzoo.actors.messages import Order
from mlzoo.actors.outcomes import Later
from mlzoo.core.conversations import is_known
from mlzoo.core.state import under_key
from mlzoo.events import commands as cmd
from mlzoo.events.conversations import DropConversation
from mlzoo.events.forgetting import Target, TargetConversation

if TYPE_CHECKING:
    from mlzoo.actors.ledger import Ledger
    from mlzoo.actors.services import Services
    from mlzoo.api.forgetting import ForgetParams
    from mlzoo.events.commands import JsonObject


def forget(services: Services, params: ForgetParams) -> Later:
    """Return what becomes of ``forget``."""
    holds = trio.Event()
    return Later(partial(_forget, services, params, holds), holds=holds)


def delete(services: Services, conversation: str) -> Later:
    """Return what becomes of ``conversations.delete``."""
    holds = trio.Event()
    return Later(partial(_delete, services, conversation, conversation, holds), holds=holds)


async def _forget(services: Services, params: ForgetParams, holds: trio.Event) -> JsonObject:
    """Forget a request, or a conversation as ``_delete`` does, and return the answer once nothing is left of it.

    Raises:
        InvalidParams: not one thing was named.
        LogUnusable: the log cannot be folded, so that nobody can say what runs.
        NotFound: nothing is known of it.
        ShuttingDown: it was left suspended by a sidecar that leaves.
        StorageFailed: the log has failed.
    """
    if sum(name is not None for name in (params.request, params.key, params.conversation)) != 1:
        expected = "exactly one of request, key and conversation"
        raise errors.InvalidParams("Name a request, a key or a conversation.", path="request", expected=expected)
    if params.conversation is not None:
        return await _delete(services, params.conversation, _digest(params.conversation), holds)
    ledger = await folded(services)
    target = await _target(services, ledger, params)
    await _end(services, ledger, target.request)
    services.forget_in_workers()
    groups = await services.log.forgetter.forget(target)
    if groups == 0:
        raise _not_found("request", target.request)
    return {"request": target.request, "groups": groups}


async def _delete(services: Services, conversation: str, called: str, holds: trio.Event) -> JsonObject:
    """Forget a conversation, and return the answer once nothing is left of it; where it is unknown, it is so called.

    ``holds`` is set as soon as there is no such conversation any more.

    Raises:
        LogUnusable: the log cannot be folded.
        NotFound: nothing is known of it.
        ShuttingDown: the sidecar leaves.
        StorageFailed: the log has failed.
    """
    await folded(services)
    is_there, upto_seq = is_known(services.state, conversation), services.log.last_seq
    if is_there:
        drop = DropConversation(request=services.world.ids.new("req"), conversation=conversation)
        _, upto_seq = await decided(services, drop)
    holds.set()
    services.forget_in_workers()
    groups = await services.log.forgetter.forget(TargetConversation(conversation, upto_seq))
    if groups == 0 and not is_there:
        message = "There is no such conversation, and nothing of it is kept."
        raise errors.NotFound(message, what="conversation", id=called)
    return {"conversation": conversation, "groups": groups}


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
        await progress(services)
