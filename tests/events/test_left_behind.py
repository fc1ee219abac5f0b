"""Large values of which no record came to be written: a later start removes them, and only them."""

from log_driver import DIRECTORY, append_end, bind, open_log, wait_synced

from mlzoo.events.commands import ReportAnswer
from mlzoo.events.types import RequestCompleted, Timing
from mlzoo.simulation.world import simulated_world


def blobs_of(disk):
    return {name.removesuffix(".bin") for made in disk.names(DIRECTORY / "blobs") for name in _files(disk, made)}


def _files(disk, name):
    return disk.names(DIRECTORY / "blobs" / name)


async def answer(log, request):
    """Append an answer that names a large value; return the name of that."""
    name = await log.put_blob(request.encode())
    completed = RequestCompleted(
        request=request,
        device="cpu",
        finish_reason=None,
        prompt_tokens=1,
        completion_tokens=0,
        cached_tokens=0,
        timing=Timing(queue_ms=0, ttft_ms=0, total_ms=0),
        blob=name,
    )
    group = log.append(ReportAnswer(request=request, blob=name), [completed], None, at_ms=1)
    log.commit()
    await wait_synced(log, group.last_seq)
    return name


async def test_a_large_value_that_no_record_names_is_removed_by_the_next_start_and_no_other_is(
    disk, world, nursery, autojump_clock
):
    log = await open_log(world, segment_bytes=1500)
    bind(log)
    await nursery.start(log.run_flusher)
    named = []
    for number in range(12):
        named.append(await answer(log, f"req-{number}"))
        for filler in range(3):
            append_end(log, filler)
        log.commit()
    left = await log.put_blob(b"no record came to name this")
    crashed = disk.copy()
    assert blobs_of(crashed) == {*named, left}
    again = await open_log(simulated_world(2, crashed), segment_bytes=1500)
    bind(again)
    made = await again.put_blob(b"its record comes later")
    read = []
    really = crashed.read
    crashed.read = lambda path, *place: read.append(path) or really(path, *place)
    await nursery.start(again.run_flusher)
    named.append(await answer(again, "req-last"))
    assert blobs_of(crashed) == {*named, made}
    assert len({path for path in read if path.parent.name == "segments"}) <= 3, "not the whole log"
