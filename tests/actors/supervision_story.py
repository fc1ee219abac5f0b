"""What the tests of supervision share: a supervisor over actors that write down what happens to them."""

import random

import pytest
from attrs import frozen

from mlzoo.actors import (
    ActorCrashed,
    Backoff,
    Backpressure,
    ChildSpec,
    Inbox,
    Mailbox,
    Reply,
    Supervisor,
    SupervisorSpec,
)

NOW = Backoff(first_s=0)


@frozen
class Boom:
    reply: Reply[None] | None = None


@frozen
class Leave:
    pass


@frozen
class Count:
    """Answered with how many messages this instance has had."""

    reply: Reply[int]


Message = Boom | Leave | Count


class Story:
    """What happened, in order: actors write into it, and so does the supervisor."""

    def __init__(self):
        self.lines: list[str] = []
        self.events = []

    async def actor(self, inbox: Inbox[Message]) -> None:
        name = inbox.ref.name
        self.lines.append(f"start {name}")
        had = 0
        async for message in inbox:
            had += 1
            match message:
                case Boom():
                    raise ValueError(name)
                case Leave():
                    return
                case Count(reply):
                    reply.send(had)
        self.lines.append(f"stop {name}")

    def child(self, name, actor=None, **options) -> ChildSpec[Message]:
        return ChildSpec(Mailbox[Message](name, Backpressure(8)), actor or self.actor, **options)

    def supervisor(self, *children, **options) -> Supervisor:
        spec = SupervisorSpec("top", children, **{"backoff": NOW, **options})
        return Supervisor(spec, random=random.Random(0), observe=self.events.append)

    def states(self, supervisor):
        return {status.name: status.state for status in supervisor.snapshot()}


async def crash(child):
    """Crash a child, and wait until its next instance has answered."""
    with pytest.raises(ActorCrashed):
        await child.mailbox.ask(Boom)
    await child.mailbox.ask(Count)
