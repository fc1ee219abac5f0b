"""Actors against what they stand on (trio's raw memory channels) and against pykka, in one run.

``python bench/actors.py [--rounds N] [--json FILE]``. Rates: higher is better. Times: lower is better.
"""

from __future__ import annotations

import random
import time
from functools import partial
from typing import assert_never

import attrs
import trio
from measure import PeerMissing, Row, compare, interleave, main

from mlzoo.actors import (
    ActorCrashed,
    Backoff,
    Backpressure,
    ChildSpec,
    Inbox,
    Intensity,
    Mailbox,
    Reply,
    Supervisor,
    SupervisorSpec,
    run,
)

ASKS = 20_000
TELLS = 100_000
CAPACITY = 1024
ACTORS = 10_000
PYKKA_ACTORS = 1_000  # Each is a thread; the figure is per actor.
CRASHES = 200


@attrs.frozen
class Add:
    amount: int


@attrs.frozen
class Total:
    reply: Reply[int]


@attrs.frozen
class Boom:
    reply: Reply[int]


Message = Add | Total | Boom


async def counter(inbox: Inbox[Message]) -> None:
    total = 0
    async for message in inbox:
        match message:
            case Add(amount):
                total += amount
            case Total(reply):
                reply.send(total)
            case Boom():
                raise ValueError
            case _:
                assert_never(message)


async def batch_counter(inbox: Inbox[Message]) -> None:
    total = 0
    while batch := await inbox.receive_batch():
        for message in batch:
            match message:
                case Add(amount):
                    total += amount
                case Total(reply):
                    reply.send(total)
                case Boom():
                    raise ValueError
                case _:
                    assert_never(message)


async def raw_ping_pong() -> float:
    """A request channel and a reply channel, each message awaited: what ask stands on."""
    send_request, requests = trio.open_memory_channel[int](1)
    send_reply, replies = trio.open_memory_channel[int](1)

    async def server() -> None:
        async for request in requests:
            await send_reply.send(request)

    async with trio.open_nursery() as nursery, send_request:
        nursery.start_soon(server)
        start = time.perf_counter()
        for number in range(ASKS):
            await send_request.send(number)
            await replies.receive()
        return ASKS / (time.perf_counter() - start)


async def raw_send() -> float:
    """One channel, ``await send``; measured until the last one was received."""
    send, receive = trio.open_memory_channel[Add](CAPACITY)
    total = 0

    async def server() -> None:
        nonlocal total
        async for message in receive:
            total += message.amount

    message = Add(1)
    start = time.perf_counter()
    async with trio.open_nursery() as nursery, send:
        nursery.start_soon(server)
        for _ in range(TELLS):
            await send.send(message)
    assert total == TELLS
    return TELLS / (time.perf_counter() - start)


async def ask(deadlines: str) -> float:
    mailbox: Mailbox[Message] = Mailbox("counter", Backpressure(CAPACITY))
    async with trio.open_nursery() as nursery:
        await nursery.start(run, mailbox, counter)
        start = time.perf_counter()
        match deadlines:
            case "none":
                for _ in range(ASKS):
                    await mailbox.ask(Total)
            case "ask_by":
                for _ in range(ASKS):
                    await mailbox.ask_by(trio.current_time() + 5, Total)
            case "scope":
                for _ in range(ASKS):
                    with trio.fail_after(5):
                        await mailbox.ask(Total)
        rate = ASKS / (time.perf_counter() - start)
        nursery.cancel_scope.cancel()
    return rate


async def tell(actor) -> float:
    mailbox: Mailbox[Message] = Mailbox("counter", Backpressure(CAPACITY))
    async with trio.open_nursery() as nursery:
        await nursery.start(run, mailbox, actor)
        message = Add(1)
        start = time.perf_counter()
        for _ in range(TELLS):
            await mailbox.tell(message)
        assert await mailbox.ask(Total) == TELLS
        rate = TELLS / (time.perf_counter() - start)
        nursery.cancel_scope.cancel()
    return rate


async def spawn() -> float:
    """Microseconds for each actor until it has answered once."""
    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        mailboxes: list[Mailbox[Message]] = [Mailbox("counter", Backpressure(1)) for _ in range(ACTORS)]
        for mailbox in mailboxes:
            nursery.start_soon(run, mailbox, counter)
        for mailbox in mailboxes:
            await mailbox.ask(Total)
        duration_s = time.perf_counter() - start
        nursery.cancel_scope.cancel()
    return duration_s / ACTORS * 1e6


async def raw_spawn() -> float:
    """The same with a task and two channels each."""

    async def server(requests, send_reply) -> None:
        async for request in requests:
            await send_reply.send(request)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        ends = []
        for _ in range(ACTORS):
            send_request, requests = trio.open_memory_channel[int](1)
            send_reply, replies = trio.open_memory_channel[int](1)
            ends.append((send_request, replies))
            nursery.start_soon(server, requests, send_reply)
        for send_request, replies in ends:
            await send_request.send(1)
            await replies.receive()
        duration_s = time.perf_counter() - start
        nursery.cancel_scope.cancel()
    return duration_s / ACTORS * 1e6


async def recover() -> float:
    """Microseconds from the message that crashes an actor to the next instance's first answer, under a supervisor."""
    mailbox: Mailbox[Message] = Mailbox("counter", Backpressure(8))
    spec = SupervisorSpec("bench", (ChildSpec(mailbox, counter),), backoff=Backoff(0), intensity=Intensity(CRASHES))
    supervisor = Supervisor(spec, random=random.Random(0))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        start = time.perf_counter()
        for _ in range(CRASHES):
            try:
                await mailbox.ask(Boom)
            except ActorCrashed:
                await mailbox.ask(Total)
        duration_s = time.perf_counter() - start
        supervisor.stop()
    return duration_s / CRASHES * 1e6


def _pykka_counter():
    try:
        import pykka
    except ImportError:
        raise PeerMissing("pykka") from None

    class Counter(pykka.ThreadingActor):
        total = 0

        def on_receive(self, message):
            match message:
                case Add(amount):
                    self.total += amount
                case "boom":
                    raise ValueError
            return self.total

        def on_failure(self, *_crash):
            pass

    return Counter


def pykka_ask() -> float:
    ref = _pykka_counter().start()
    start = time.perf_counter()
    for _ in range(ASKS):
        ref.ask("total")
    rate = ASKS / (time.perf_counter() - start)
    ref.stop()
    return rate


def pykka_tell() -> float:
    ref = _pykka_counter().start()
    message = Add(1)
    start = time.perf_counter()
    for _ in range(TELLS):
        ref.tell(message)
    assert ref.ask("total") == TELLS
    rate = TELLS / (time.perf_counter() - start)
    ref.stop()
    return rate


def pykka_spawn() -> float:
    counter_class = _pykka_counter()
    start = time.perf_counter()
    refs = [counter_class.start() for _ in range(PYKKA_ACTORS)]
    for ref in refs:
        ref.ask("total")
    duration_s = time.perf_counter() - start
    for ref in refs:
        ref.stop()
    return duration_s / PYKKA_ACTORS * 1e6


def pykka_recover() -> float:
    """Pykka supervises nothing: by hand, a tell that crashes, a wait for the end, a new actor, an answer."""
    import logging

    counter_class = _pykka_counter()
    logging.disable(logging.CRITICAL)
    ref = counter_class.start()
    start = time.perf_counter()
    for _ in range(CRASHES):
        ref.tell("boom")
        ref.actor_stopped.wait()
        ref = counter_class.start()
        ref.ask("total")
    duration_s = time.perf_counter() - start
    ref.stop()
    logging.disable(logging.NOTSET)
    return duration_s / CRASHES * 1e6


def measure(rounds: int) -> list[Row]:
    values = interleave(
        rounds,
        {
            "raw ping-pong": partial(trio.run, raw_ping_pong),
            "ask": partial(trio.run, ask, "none"),
            "ask_by": partial(trio.run, ask, "ask_by"),
            "ask in a scope": partial(trio.run, ask, "scope"),
            "raw send": partial(trio.run, raw_send),
            "tell": partial(trio.run, tell, counter),
            "tell, batches": partial(trio.run, tell, batch_counter),
            "spawn": partial(trio.run, spawn),
            "raw spawn": partial(trio.run, raw_spawn),
            "recover": partial(trio.run, recover),
            "pykka ask": pykka_ask,
            "pykka tell": pykka_tell,
            "pykka spawn": pykka_spawn,
            "pykka recover": pykka_recover,
        },
    )
    ping_pong = values["raw ping-pong"]
    raw = values["raw send"]
    return [
        compare("ask", "/s", values["ask"], "raw channel ping-pong", ping_pong, ">= 1.0"),
        compare("ask, with a deadline", "/s", values["ask_by"], "raw channel ping-pong", ping_pong, ">= 0.65"),
        compare("ask, in fail_after", "/s", values["ask in a scope"], "raw channel ping-pong", ping_pong),
        compare("tell", "/s", values["tell"], "raw await send", raw, ">= 4"),
        compare("tell, read in batches", "/s", values["tell, batches"], "raw await send", raw),
        compare("ask", "/s", values["ask"], "pykka", values["pykka ask"]),
        compare("tell", "/s", values["tell"], "pykka", values["pykka tell"]),
        compare("spawn and first answer", "us", values["spawn"], "raw task and channels", values["raw spawn"]),
        compare("spawn and first answer", "us", values["spawn"], "pykka", values["pykka spawn"]),
        compare("crash to next answer", "us", values["recover"], "pykka, by hand", values["pykka recover"]),
    ]


if __name__ == "__main__":
    main("Actors", measure)
