"""Looking into the log from outside: pages, subscriptions, and several connections."""

import pytest
import trio
import trio.testing


async def read_all(host, **params):
    """Read page after page, and return all events."""
    events, after = [], -1
    while True:
        page = await host.call("events.read", {"after": after, **params})
        events += page["events"]
        if page["last"] <= after:
            return events
        after = page["last"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10_000])
async def test_pages_of_any_size_give_every_event_once_and_in_order(lives, autojump_clock, limit):
    async with lives.begin() as sidecar:
        for _ in range(3):
            await sidecar.host.result(sidecar.chat("hello"))
        events = await read_all(sidecar.host, limit=limit)
        assert [event["log_seq"] for event in events] == list(range(1, sidecar.services.log.last_seq + 1))


async def test_events_are_chosen_by_type_and_by_request(lives, autojump_clock):
    async with lives.begin() as sidecar:
        first = await sidecar.host.result(sidecar.chat("one"))
        await sidecar.host.result(sidecar.chat("two"))
        page = await sidecar.host.call("events.read", {"types": ["RequestCompleted"], "request": first["id"]})
        [event] = page["events"]
        assert (event["type"], event["request"]) == ("RequestCompleted", first["id"])
        assert page["last"] == sidecar.services.log.last_seq


async def test_a_page_ends_before_what_is_not_durable_yet(lives, autojump_clock):
    """A step that is written stands behind an acceptance that is not synced: neither may be shown, none be skipped."""
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        await sidecar.host.call("models.load", {"model": "toy"})
        lives.disk.faults.sync_s = 5.0
        chat = sidecar.chat("x", stream=True)
        worker = await sidecar.worker()
        [request] = await worker.given()
        worker.generate(request, "a", "b", finish=None)
        await trio.testing.wait_all_tasks_blocked()
        log = sidecar.services.log
        assert log.synced < log.written
        page = await sidecar.host.call("events.read")
        assert page["last"] <= log.synced
        worker.generate(request, "!")
        await sidecar.host.result(chat)
        await sidecar.synced()
        rest = await sidecar.host.call("events.read", {"after": page["last"]})
        assert [event["log_seq"] for event in rest["events"]] == list(range(page["last"] + 1, log.last_seq + 1))


async def test_a_page_of_long_texts_ends_before_it_is_too_long_for_a_line(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        for _ in range(40):
            await sidecar.host.result(sidecar.chat("x" * 500_000))
        page = await sidecar.host.call("events.read", {"limit": 10_000})
        assert 0 < page["last"] < sidecar.services.log.last_seq
        events = await read_all(sidecar.host, limit=10_000)
        assert [event["log_seq"] for event in events] == list(range(1, sidecar.services.log.last_seq + 1))


async def test_a_subscription_tells_what_happens_from_now_on(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("before"))
        seen = sidecar.services.log.last_seq
        name = (await sidecar.host.call("events.subscribe"))["subscription"]
        await sidecar.host.result(sidecar.chat("after"))
        last = sidecar.services.log.last_seq
        await sidecar.host.until(lambda: any(e["log_seq"] == last for e in sidecar.host.notifications("event")))
        events = sidecar.host.notifications("event")
        assert [event["log_seq"] for event in events] == list(range(seen + 1, last + 1))
        assert {event["subscription"] for event in events} == {name}


async def test_a_subscription_from_a_place_tells_what_was_and_then_what_comes(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("before"))
        await sidecar.host.call("events.subscribe", {"after": 3, "types": ["RequestAccepted", "RequestCompleted"]})
        await sidecar.host.result(sidecar.chat("after"))
        await sidecar.host.until(lambda: len(sidecar.host.notifications("event")) == 4)
        types = [event["type"] for event in sidecar.host.notifications("event")]
        assert types == ["RequestAccepted", "RequestCompleted"] * 2


async def test_nothing_comes_after_an_unsubscribe(lives, autojump_clock):
    async with lives.begin() as sidecar:
        name = (await sidecar.host.call("events.subscribe"))["subscription"]
        assert await sidecar.host.call("events.unsubscribe", {"subscription": name}) == {}
        told = len(sidecar.host.notifications("event"))
        await sidecar.host.result(sidecar.chat("x"))
        await trio.testing.wait_all_tasks_blocked()
        assert len(sidecar.host.notifications("event")) == told


async def test_a_subscriber_that_lags_is_told_everything_once_it_reads(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        await sidecar.host.call("events.subscribe", {"after": -1})
        sidecar.host.stop_reading()
        for _ in range(3):
            sidecar.chat("word " * 20_000)
            await trio.testing.wait_all_tasks_blocked()
        sidecar.host.read_on()
        last = sidecar.services.log.last_seq
        await sidecar.host.until(lambda: any(e["log_seq"] == last for e in sidecar.host.notifications("event")))
        assert [e["log_seq"] for e in sidecar.host.notifications("event")] == list(range(1, last + 1))


async def test_subscriptions_of_one_connection_are_bounded(lives, autojump_clock):
    async with lives.begin() as sidecar:
        names = [(await sidecar.host.call("events.subscribe"))["subscription"] for _ in range(64)]
        assert (await sidecar.host.refused("events.subscribe"))["code"] == 1001
        await sidecar.host.call("events.unsubscribe", {"subscription": names[0]})
        await sidecar.host.call("events.subscribe")


async def test_a_long_log_of_which_nothing_is_wanted_does_not_hold_anybody_up(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("x")
        worker = await sidecar.worker()
        [request] = await worker.given()
        sidecar.host.on_line = None
        worker.generate(request, *("word" for _ in range(3000)))
        await sidecar.host.result(chat)
        turns = []

        async def others():
            while True:
                turns.append(len(turns))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            await sidecar.host.call("ping")
            nursery.start_soon(others)
            await sidecar.host.call("events.subscribe", {"after": 0, "types": ["NoSuchType"]})
            connection = next(iter(sidecar.services.connections.values()))
            while connection.outbox.cursors.ready:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert len(turns) > 3000 / 64


async def test_two_connections_with_the_same_ids_hear_their_own_answers(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.call("ping")
        client = sidecar.connect()
        client.on_line = sidecar.host.on_line = None
        mine = {"model": "toy", "messages": [{"role": "user", "content": "mine"}], "stream": True}
        other = {"model": "toy", "messages": [{"role": "user", "content": "other"}], "stream": True}
        sidecar.host.send("chat", mine, id=7)
        client.send("chat", other, id=7)
        assert (await sidecar.host.result(7))["message"]["content"] == "mine"
        assert (await client.result(7))["message"]["content"] == "other"
        assert "".join(d["content"] for d in client.stream(7)) == "other"


async def test_one_connection_cannot_cancel_what_another_asked(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("x")
        worker = await sidecar.worker()
        [request] = await worker.given()
        client = sidecar.connect()
        assert await client.call("cancel", {"request": chat}) == {"cancelled": False}
        worker.generate(request, "mine")
        await sidecar.host.result(chat)


@pytest.mark.parametrize("how", ["it closes", "it breaks"])
async def test_what_a_client_asked_ends_with_it_and_the_others_go_on(lives, autojump_clock, how):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("stays")
        worker = await sidecar.worker()
        stays = await worker.asked("stays")
        client = sidecar.connect()
        message = {"role": "user", "content": "goes"}
        call = client.send("chat", {"model": "toy", "messages": [message], "stream": True})
        goes = await worker.asked("goes")
        if how == "it closes":
            client.close()
            assert (await client.error(call))["code"] == 1008
        else:
            client.break_off()
            worker.generate(goes, "to nobody", " at all", finish=None)
        await worker.until(lambda: goes not in worker.running)
        assert list(sidecar.state.requests) == [stays]
        worker.generate(stays, "here")
        await sidecar.host.result(chat)
