# ruff: noqa: TC004 - the types are for readers and mypy; importing them would cost every start.
"""What becomes of a call: the answer at once, the answer after a while, or a question to the engine.

Values that handlers make and connections carry out. Knows neither methods nor bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import trio

    from mlzoo.actors.messages import Order


@attrs.frozen
class Answer:
    """The handler has it at once. A view of what is recorded elsewhere is not copied into the log."""

    result: Any
    recorded: bool = True
    then: Callable[[], None] | None = None  # called once the answer has been sent


@attrs.frozen
class Later:
    """The handler has it after a while. Of one that changes what a name means, ``holds`` is set once that holds."""

    find: Callable[[], Awaitable[Any]]
    recorded: bool = True
    holds: trio.Event | None = None


@attrs.frozen
class Claim:
    """What a call came with that may lead it to another request than its own: the digests of key and params.

    A ``resume`` has no params that the request must have.
    """

    key: str
    params_digest: str = ""


@attrs.frozen
class Ask:
    """The engine decides; the answer comes by the log."""

    request: str
    order: Order
    stream: bool = False
    claim: Claim | None = None


Outcome = Answer | Later | Ask
