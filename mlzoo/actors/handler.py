"""The handler: finds out what a call means, and who answers it. What answers is imported when it is first asked for.

Knows the table of methods; what they do is in ``calls`` (hosts ask for something) and ``observation`` (they look).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlzoo import errors
from mlzoo.actors.outcomes import Answer
from mlzoo.api.methods import find
from mlzoo.api.wire import structure

if TYPE_CHECKING:
    from mlzoo.actors.calls import Calls
    from mlzoo.actors.messages import Order
    from mlzoo.actors.outcomes import Outcome
    from mlzoo.actors.services import Peer, Services
    from mlzoo.events.records import Aside
    from mlzoo.transport.jsonrpc import Call, Notification

PONG = Answer({})
KEPT_IN_LOG = frozenset({"conversations", "personas"})  # what is looked at here is text that hosts and models said


class Handler:
    """The methods of the protocol, over what the sidecar has."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._imported: Calls | None = None

    @property
    def _calls(self) -> Calls:
        if self._imported is None:
            from mlzoo.actors.calls import Calls  # noqa: PLC0415 (not on the way to the first ping)

            self._imported = Calls(self._services)
        return self._imported

    def call(self, connection: Peer, call: Call) -> Outcome:
        """Return what becomes of a call.

        Raises:
            MlzooError: it is refused; nothing was started.
        """
        if call.method == "ping" and not call.params:
            return PONG
        spec = find(call.method)
        params = structure(call.method, call.params)
        if self._services.unusable is not None and not spec.without_log:
            raise self._services.unusable
        if call.method == "ping":
            return PONG
        if spec.wait or spec.private or spec.secret or spec.group in KEPT_IN_LOG:
            return self._calls.methods[call.method](connection, call, params)
        from mlzoo.actors import observation  # noqa: PLC0415 (as above)

        return observation.answer(self._services, connection, call.method, params)

    def notified(self, connection: Peer, message: Notification) -> Order | None:
        """Take a notification; only ``cancel`` means anything as one."""
        if message.method != "cancel" or self._services.unusable is not None:
            return None
        try:
            params = structure("cancel", message.params)
        except errors.InvalidParams:
            return None  # A notification is never answered, not even with an error.
        return self._calls.cancelled(connection, params)

    def again(self, connection: Peer, aside: Aside) -> Any:
        """Return once more what a view of the log showed."""
        from mlzoo.actors import observation  # noqa: PLC0415 (as above)

        if aside.method in {"conversations.get", "personas.get"}:
            return self._calls.again(aside.method, structure(aside.method, aside.params))
        return observation.view(self._services, connection, aside.method, structure(aside.method, aside.params))
