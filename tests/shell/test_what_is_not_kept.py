"""A host that reads so slowly that the log has gone on without it: it hears so, and nobody else is touched."""

import attrs
import pytest
import trio.testing

from mlzoo.config.schema import LogConfig

KIB = 1024
SMALL = LogConfig(segment_bytes=64 * KIB, asides_segment_bytes=64 * KIB, budget_bytes=1024 * KIB, tail_bytes=0)


@pytest.fixture
def small(lives):
    """Lives whose log keeps little, and nothing of it in memory."""
    lives.log = attrs.evolve(SMALL)
    return lives


async def outrun(sidecar):
    """Answer a chat whose host does not read, until its beginning is kept no longer; return its id."""
    sidecar.workshop.answer = None
    chat = sidecar.chat("x", stream=True)
    worker = await sidecar.worker()
    [request] = await worker.given()
    sidecar.host.on_line = None
    sidecar.host.stop_reading()
    worker.generate(request, *(f"{number:01000}" for number in range(2000)))
    await trio.testing.wait_all_tasks_blocked()
    later = sidecar.chat("y")
    [request] = await worker.given()
    worker.generate(request, *(f"{number:01000}" for number in range(2000)))
    await trio.testing.wait_all_tasks_blocked()
    assert sidecar.services.log.oldest_seq > 1
    return chat, later


async def test_an_answer_that_is_not_kept_any_more_is_an_error_of_that_call_alone(small):
    async with small.begin(leave=False) as sidecar:
        chat, _ = await outrun(sidecar)
        sidecar.host.read_on()
        assert (await sidecar.host.error(chat))["code"] == 1013
        assert await sidecar.host.call("ping") == {}


async def test_a_subscription_to_what_is_not_kept_any_more_ends_and_says_so(small):
    async with small.begin(leave=False) as sidecar:
        subscribed = (await sidecar.host.call("events.subscribe", {"after": 0}))["subscription"]
        await outrun(sidecar)
        sidecar.host.read_on()
        await sidecar.host.until(lambda: sidecar.host.notifications("subscription_ended"))
        [ended] = sidecar.host.notifications("subscription_ended")
        assert (ended["subscription"], ended["error"]["code"]) == (subscribed, 1013)
        assert await sidecar.host.call("ping") == {}
