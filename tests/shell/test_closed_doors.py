"""What a connection itself turns away, before the engine hears of it."""

import orjson
import trio
import trio.testing

from mlzoo.actors.connection import OPEN_CALLS


async def test_calls_whose_answers_nobody_takes_are_bounded(lives):
    async with lives.begin() as sidecar:
        await sidecar.host.call("ping")
        await trio.testing.wait_all_tasks_blocked()
        sidecar.host.stop_reading()
        sidecar.host.on_line = None
        sidecar.host._waiting += b"\n" * (1 << 20)  # the pipe is full
        ids = [sidecar.host.send("cancel", {"request": "none"}) for _ in range(OPEN_CALLS + 10)]
        await trio.testing.wait_all_tasks_blocked()
        [connection] = sidecar.services.connections.values()
        assert len(connection.outbox.in_flight) == OPEN_CALLS
        sidecar.host._waiting.clear()
        sidecar.host.read_on()
        assert (await sidecar.host.error(ids[-1]))["data"]["type"] == "overloaded"
        for id_ in ids[:OPEN_CALLS]:
            assert await sidecar.host.result(id_) == {"cancelled": False}


async def test_a_call_after_the_engine_has_gone_is_refused(lives):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))  # by then the engine is there
        sidecar.held_probe = trio.Event()
        last = sidecar.host.send("devices.list")
        await sidecar.host.call("shutdown")
        await trio.testing.wait_all_tasks_blocked()
        assert (await sidecar.host.refused("cancel", {"request": 1}))["code"] == 1009
        sidecar.held_probe.set()
        assert await sidecar.host.result(last)


async def test_what_a_refused_call_said_is_recorded_nowhere(lives):
    async with lives.begin() as sidecar:
        message = {"role": "user", "content": "do not keep me"}
        await sidecar.host.refused("chat", {"model": "none such", "messages": [message]})
        await sidecar.host.refused("providers.authenticate", {"secret": "do not keep me"})
        await sidecar.host.refused("x" * 1000)
        asides = sidecar.watch.asides()
        assert [a["method"] for a in asides[-3:]] == ["chat", "providers.authenticate", "x" * 64]
        assert b"do not keep me" not in orjson.dumps(asides)
