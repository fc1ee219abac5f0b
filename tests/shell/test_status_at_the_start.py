"""What ``status`` says while the log is still being read."""

import trio
import trio.testing


async def test_status_is_ready_once_what_it_counts_is_known(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        sidecar.chat("hello", key="k")
        worker = await sidecar.worker()
        await worker.asked("hello")
        assert (await sidecar.host.call("status"))["ready"]
    async with lives.begin() as sidecar:
        sidecar.held_probe, sidecar.workshop.answer = trio.Event(), None
        asked = sidecar.host.send("status")
        early = await sidecar.host.result(asked)
        assert (early["ready"], early["actors"]) == (False, [])
        sidecar.held_probe.set()
        while not (shown := await sidecar.host.call("status"))["ready"]:
            await trio.testing.wait_all_tasks_blocked()
        requests = shown["requests"]
        assert requests["queued"] + requests["running"] + requests["suspended"] == 1
