"""Events of the log for consumers of any speed."""

import anyio
import pytest

from mlzoo.client import SidecarDied

LAST = 4999  # The last event that the fake sidecar has.


async def read_all(subscription):
    seqs = []
    while LAST not in seqs[-1:]:
        seqs.append((await anext(subscription))["log_seq"])
    return seqs


def test_events_come_in_order_from_where_one_wants_them(run, spawn_fake):
    async def main():
        async with spawn_fake() as client, client.subscribe(after=4500) as subscription:
            return await read_all(subscription)

    assert run(main) == list(range(4501, LAST + 1))


def test_a_consumer_that_falls_behind_reads_on_from_the_log_without_a_gap(run, spawn_fake):
    async def main():
        async with spawn_fake() as client, client.subscribe(after=-1) as subscription:
            await client.call("echo")  # By now every event has been sent, and most of them found no room.
            seqs = await read_all(subscription)
            methods = [line["method"] for line in await client.call("received")]
            return seqs, methods.count("events.subscribe")

    seqs, subscribed = run(main)
    assert seqs == list(range(LAST + 1))
    assert subscribed > 1


def test_leaving_the_block_unsubscribes(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            async with client.subscribe(after=LAST - 1, types=["Noted"]) as subscription:
                await anext(subscription)
            return await client.call("received")

    subscribed, unsubscribed = run(main)
    assert subscribed["params"] == {"after": LAST - 1, "types": ["Noted"]}
    assert (unsubscribed["method"], unsubscribed["params"]) == ("events.unsubscribe", {"subscription": "s1"})


def test_a_subscription_whose_asker_was_cancelled_is_ended_when_it_opens(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            with anyio.CancelScope() as scope:
                scope.cancel()
                async with client.subscribe(after=LAST):
                    pytest.fail("it opened")
            await client.call("echo")
            return [line["method"] for line in await client.call("received")]

    methods = run(main)
    # Cancelled before it was sent there is nothing to end; after that, the subscription is.
    assert methods == ["echo"] or "events.unsubscribe" in methods


def test_a_subscription_ends_with_the_sidecar(run, spawn_fake):
    async def main():
        async with spawn_fake() as client, client.subscribe(after=LAST) as subscription:
            with pytest.raises(SidecarDied):
                await client.call("die", {"status": 1})
            with pytest.raises(SidecarDied):
                await anext(subscription)

    run(main)
