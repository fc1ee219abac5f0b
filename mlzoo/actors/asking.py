"""Asking the engine from outside of a connection: order a command, and wait for what became of its request.

For calls that have something to do before or after the decision, such as reading or forgetting. Knows no method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from mlzoo import errors
from mlzoo.actors.messages import Order
from mlzoo.events import types as ev
from mlzoo.events.commands import ReportIncident

if TYPE_CHECKING:
    from mlzoo.actors.ledger import Ledger
    from mlzoo.actors.services import Services
    from mlzoo.errors import Failure
    from mlzoo.events.commands import JsonObject
    from mlzoo.events.conversations import ConversationCommand


async def folded(services: Services) -> Ledger:
    """Return the ledger, once the log has been folded and the start recorded.

    Raises:
        LogUnusable: the log cannot be folded.
        StorageFailed: the log has failed.
    """
    while (ledger := services.ledger) is None:
        await progress(services)
    return ledger


async def decided(services: Services, command: ConversationCommand, text: Any = None) -> tuple[JsonObject, int]:
    """Have the engine decide a command that has a request and no caller.

    Returns:
        What it was replied, once that is durable, and the log_seq of that.

    Raises:
        MlzooError: It was refused.
        ShuttingDown: The sidecar leaves, and decides nothing more.
        StorageFailed: The log has failed.
    """
    log = services.log
    after_seq = log.last_seq
    if services.engine.closed:
        raise _leaves()
    await services.engine.tell(Order(command, text))
    try:
        return await _reply(services, command, after_seq)
    finally:
        log.forget_index(command.request)


async def _reply(services: Services, command: ConversationCommand, after_seq: int) -> tuple[JsonObject, int]:
    """Wait for the reply in the groups after a log_seq; see ``decided``."""
    log = services.log
    while True:
        for group in log.groups_of(command.request, after_seq):
            if not log.is_shown(group):
                break
            after_seq = group.last_seq
            if isinstance(group.command, ReportIncident) and group.command.request == command.request:
                message = "mlzoo made an error; the incident stands in the log under this number."
                raise errors.InternalError(message, incident=group.first_seq)
            for event in group.events:
                if isinstance(event, ev.RequestReplied) and event.request == command.request:
                    return event.result, after_seq
                if isinstance(event, ev.RequestFailed) and event.request == command.request:
                    raise Refused(event.failure)
        if services.state.stopped:
            raise _leaves()
        await progress(services)


class Refused(errors.MlzooError):
    """Whose fault it is, the failure says: a decision was against it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, **failure.data)
        self._failure = failure

    def failure(self) -> Failure:
        """Return what was decided."""
        return self._failure


def _leaves() -> errors.ShuttingDown:
    return errors.ShuttingDown("The sidecar leaves and decides nothing more: ask the next one.")


async def progress(services: Services) -> None:
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
