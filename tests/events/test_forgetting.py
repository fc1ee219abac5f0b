"""Forgetting: no byte of a text is left, every record keeps its place, and a crash leaves the old or the new."""

from random import Random

import orjson
import pytest
import trio
from log_driver import DIRECTORY, append_end, bind, open_log, read_all, wait_synced

from mlzoo.errors import Failure, LogUnusable, NotFound
from mlzoo.events.commands import Caller, ModelFacts, ReportAnswer, ReportFailure, ReportStep, Resume, RowFacts, Submit
from mlzoo.events.forgetting import Target, of_request, padded, without
from mlzoo.events.records import is_gone
from mlzoo.events.story import verify
from mlzoo.events.types import (
    RequestAccepted,
    RequestAttached,
    RequestCompleted,
    RequestFailed,
    RequestRefused,
    RequestStreamed,
    Timing,
)
from mlzoo.simulation.disk import OUTCOMES, SimulatedDisk
from mlzoo.simulation.world import simulated_world

SECRET = "xyzzy"  # in every text of the request that is forgotten, and nowhere else
CALLER = Caller(connection="con-1", rpc=1)
MODEL = ModelFacts(name="m", kind="chat")
KEY = "f" * 64
TIMING = Timing(queue_ms=0, ttft_ms=0, total_ms=0)


def submit(log, request, words, key=""):
    command = Submit(request=request, caller=CALLER, method="chat", model=MODEL, key=key)
    text = {"messages": [{"role": "user", "content": words}], "params": {"key": words} if key else {}}
    log.append(command, [RequestAccepted(request=request, caller=CALLER, kind="chat", key=key)], text, at_ms=1)


def step(log, number, *rows):
    facts = tuple(RowFacts(request=request, tokens=1, size_bytes=3) for request, _ in rows)
    events = [RequestStreamed(request=request, row=row, tokens=1, seq=number) for row, (request, _) in enumerate(rows)]
    log.append(ReportStep(device="cpu", rows=facts), events, [{"content": w, "tokens": [1]} for _, w in rows], at_ms=1)


async def tell(log, *, segments=True):
    """Append the whole story of a request that is to be forgotten, and of another beside it."""
    submit(log, "req-a", f"{SECRET} question", KEY)
    submit(log, "req-b", "a question")
    for number in range(8):
        step(log, number, ("req-b", f" b{number}"), ("req-a", f" {SECRET}{number}"))
        step(log, number, ("req-a", SECRET))
        if segments:
            append_end(log, number, "req-other")
        log.commit()
    again = Submit(request="req-c", caller=CALLER, method="chat", model=MODEL, key=KEY)
    attached = RequestAttached(request="req-c", caller=CALLER, target="req-a", from_seq=2)
    log.append(again, [attached], {"messages": [{"content": SECRET}], "params": {}}, at_ms=2)
    other = Submit(request="req-d", caller=CALLER, method="chat", model=MODEL, key=KEY)
    refused = RequestRefused(request="req-d", caller=CALLER, failure=Failure(-32602, "other params", {}))
    log.append(other, [refused], {"messages": [{"content": f"other {SECRET}"}], "params": {}}, at_ms=2)
    resume = Resume(request="req-e", caller=CALLER, key=KEY)
    log.append(resume, [refused], {"params": {"key": SECRET}}, at_ms=2)
    why = Failure(1005, "out of memory", {})
    failed = RequestFailed(request="req-a", caller=CALLER, failure=why)
    log.append(ReportFailure(request="req-a", failure=why), [failed], {"detail": SECRET}, at_ms=2)
    log.commit()


def bytes_of(disk):
    return b"".join(bytes(file.data) for names in disk.files.values() for file in names.values())


async def test_no_byte_of_a_forgotten_text_is_left_and_every_record_keeps_its_place(world, disk, nursery):
    log = await open_log(world, segment_bytes=2000)
    bind(log)
    await nursery.start(log.run_flusher)
    await tell(log)
    before, sizes = read_all(log), dict(disk.sizes(DIRECTORY / "segments"))
    assert bytes_of(disk).count(SECRET.encode()) > 20
    assert await log.forgetter.forget(await log.forgetter.target_of("req-a")) == 21
    assert SECRET.encode() not in bytes_of(disk)
    assert SECRET not in repr(read_all(log))
    assert [(g.first_seq, g.command, g.events) for g in read_all(log)] == [
        (g.first_seq, g.command, g.events) for g in before
    ]
    assert sizes.items() <= dict(disk.sizes(DIRECTORY / "segments")).items()
    [b_texts] = [
        [row["content"] for g in read_all(log) if isinstance(g.text, list) for row in g.text if not is_gone(row)]
    ]
    assert b_texts == [f" b{number}" for number in range(8)]
    await log.close()
    assert verify(world, DIRECTORY).faults == ()
    again = await open_log(world, segment_bytes=2000)
    assert SECRET not in repr(read_all(again))
    assert again.repaired == ()


@pytest.mark.parametrize("name", ["req-c", "req-e2"])
async def test_a_call_that_was_attached_stands_for_the_request_that_it_heard(world, disk, nursery, name):
    log = await open_log(world, segment_bytes=2000)
    bind(log)
    await nursery.start(log.run_flusher)
    await tell(log)
    attached = RequestAttached(request="req-e2", caller=CALLER, target="req-a", from_seq=2)
    log.append(Resume(request="req-e2", caller=CALLER, key=KEY), [attached], {"params": {"key": SECRET}}, at_ms=2)
    log.commit()
    assert await log.forgetter.target_of(name) == Target("req-a", KEY)
    await log.forgetter.forget(Target("req-a", KEY))
    assert SECRET.encode() not in bytes_of(disk)


async def test_a_call_that_was_refused_stands_for_itself_and_what_its_key_stands_for_stays(world, disk, nursery):
    log = await open_log(world, segment_bytes=2000)
    bind(log)
    await nursery.start(log.run_flusher)
    await tell(log)
    assert await log.forgetter.target_of("req-d") == Target("req-d")
    assert await log.forgetter.forget(Target("req-d")) == 1
    assert f"other {SECRET}".encode() not in bytes_of(disk)
    assert f"{SECRET} question".encode() in bytes_of(disk)


async def test_what_is_looked_for_is_not_looked_for_after_it_was_found(world, disk, nursery, monkeypatch):
    log = await open_log(world, segment_bytes=2000)
    bind(log)
    await nursery.start(log.run_flusher)
    await tell(log)
    read = []
    really = disk.read
    monkeypatch.setattr(disk, "read", lambda path, *place: read.append(path) or really(path, *place))
    assert await log.forgetter.target_of("req-a") == Target("req-a", KEY)
    assert len(set(read)) == 1


async def test_the_segment_that_is_written_goes_on_beside_what_is_forgotten(world, disk, nursery):
    log = await open_log(world)
    bind(log)
    await nursery.start(log.run_flusher)
    await tell(log)
    await log.forgetter.forget(await log.forgetter.target_of("req-a"))
    assert len(disk.sizes(DIRECTORY / "segments")) == 2
    submit(log, "req-f", "something new")
    log.commit()
    await wait_synced(log, log.last_seq)
    assert read_all(log)[-1].text["messages"][0]["content"] == "something new"
    assert await log.forgetter.forget(await log.forgetter.target_of("req-a")) == 21  # Again: nothing changes.
    assert verify(world, DIRECTORY).faults == ()


async def test_what_repairs_and_crashes_left_beside_the_segments_goes_too(world, disk, nursery):
    log = await open_log(world)
    bind(log)
    await nursery.start(log.run_flusher)
    await tell(log)
    await disk.replace(DIRECTORY / "segments" / "00000000000000000001.ndjson.cut-7", SECRET.encode())
    await log.forgetter.forget(await log.forgetter.target_of("req-a"))
    assert SECRET.encode() not in bytes_of(disk)


async def test_the_blob_of_a_forgotten_answer_goes_and_verification_holds(world, disk, nursery):
    log = await open_log(world)
    bind(log)
    await nursery.start(log.run_flusher)
    names = [await answer_with_blob(log, request) for request in ("req-a", "req-b")]
    await log.forgetter.forget(await log.forgetter.target_of("req-a"))
    with pytest.raises(NotFound):
        log.get_blob(names[0])
    assert log.get_blob(names[1]) == b"vectors of req-b"
    assert b"vectors of req-a" not in bytes_of(disk)
    assert verify(world, DIRECTORY).faults == ()


async def answer_with_blob(log, request):
    """Append a request that is answered with a large value; return the name of that."""
    submit(log, request, request)
    name = await log.put_blob(f"vectors of {request}".encode())
    completed = RequestCompleted(
        request=request,
        device="cpu",
        finish_reason=None,
        prompt_tokens=1,
        completion_tokens=0,
        cached_tokens=0,
        timing=TIMING,
        blob=name,
    )
    log.append(ReportAnswer(request=request, blob=name), [completed], None, at_ms=1)
    log.commit()
    return name


@pytest.mark.parametrize("removed", [False, True], ids=["dropped", "dropped and removed"])
async def test_a_segment_that_retention_drops_while_it_is_rewritten_is_gone_with_all_its_blobs(
    world, disk, nursery, autojump_clock, removed
):
    log = await open_log(world, segment_bytes=2000, budget_bytes=10_000)
    needed = [1]
    log.bind_state(lambda: {"last_seq": log.last_seq}, lambda: needed[0])
    await nursery.start(log.run_flusher)
    blob = await answer_with_blob(log, "req-b")
    await tell(log)
    for request in ("req-a", "req-b", "req-c", "req-d", "req-e", "req-other", "b"):
        log.forget_index(request)
    first = log.oldest_seq

    def drop(step):
        if step == "write":
            disk.on_step, needed[0] = None, log.last_seq
            for number in range(20):
                append_end(log, number, "req-later")
                log.forget_index("req-later")
                log.forget_index("b")
                log.commit()
            assert log.oldest_seq > first
            if removed:
                disk.remove(DIRECTORY / "segments" / f"{first:020}.ndjson")

    disk.on_step = drop
    await log.forgetter.forget(await log.forgetter.target_of("req-a"))
    await wait_synced(log, log.last_seq)
    await log.close()
    assert log.failed is None
    assert SECRET.encode() not in bytes_of(disk)
    assert f"{first:020}.ndjson" not in disk.sizes(DIRECTORY / "segments")
    with pytest.raises(NotFound):
        log.get_blob(blob)
    assert verify(world, DIRECTORY).faults == ()


@pytest.mark.parametrize("outcome", [*OUTCOMES, None], ids=str)
async def test_a_crash_at_any_step_leaves_each_segment_old_or_new(outcome, autojump_clock, nursery):
    disk = SimulatedDisk()
    log = await open_log(simulated_world(1, disk), segment_bytes=2000)
    bind(log)
    await nursery.start(log.run_flusher)
    await tell(log)
    await wait_synced(log, log.last_seq)
    kept, moments = read_all(log), []
    disk.on_step = lambda step: moments.append((step, disk.copy()))
    await log.forgetter.forget(await log.forgetter.target_of("req-a"))
    disk.on_step = None
    assert {step for step, _ in moments} >= {"write", "replace", "sync_dir"}
    assert len(moments) > 20
    for number, (_, moment) in enumerate(moments):
        crashed = moment.crashed(Random(number), outcome)
        again = await open_log(simulated_world(2, crashed), segment_bytes=2000)
        bind(again)
        found = read_all(again)
        assert [(g.first_seq, g.command, g.events) for g in found] == [(g.first_seq, g.command, g.events) for g in kept]
        assert verify(simulated_world(3, crashed), DIRECTORY).faults == ()
        assert not [name for name in crashed.names(DIRECTORY / "segments") if name.endswith(".new")]
        await again.forgetter.forget(await again.forgetter.target_of("req-a"))  # As a host does that was not answered.
        assert SECRET.encode() not in bytes_of(crashed)
        await again.close()


async def test_what_the_disk_has_changed_is_said_and_never_sealed_anew(world, disk, nursery):
    log = await open_log(world, segment_bytes=2000)
    bind(log)
    await tell(log)
    changed = next(file for names in disk.files.values() for file in names.values() if SECRET.encode() in file.data)
    changed.settle(bytes(changed.data).replace(SECRET.encode(), b"Xyzzy", 1))
    before = bytes_of(disk)
    with pytest.raises(LogUnusable, match="not whole") as refused:
        await log.forgetter.forget(Target("req-a", KEY))
    assert refused.value.data["reason"] == "damaged"
    after = bytes_of(disk)
    assert (before.count(b"Xyzzy"), after.count(b"Xyzzy")) == (1, 1)
    assert after.count(SECRET.encode()) < before.count(SECRET.encode())  # What other files had is gone.
    with pytest.raises(LogUnusable, match="not whole"):
        await log.forgetter.target_of("req-unknown" if b"req-unknown" in after else "req-a")


async def test_that_the_disk_has_changed_something_is_said_whatever_is_looked_for_meanwhile(
    world, disk, nursery, autojump_clock
):
    log = await open_log(world, segment_bytes=2000)
    bind(log)
    await tell(log)
    changed = next(file for names in disk.files.values() for file in names.values() if SECRET.encode() in file.data)
    changed.settle(bytes(changed.data).replace(SECRET.encode(), b"Xyzzy", 1))
    disk.faults.replace_s = 5.0

    async def look():
        await trio.sleep(1.0)
        assert await log.forgetter.target_of("req-unknown") is None

    nursery.start_soon(look)
    with pytest.raises(LogUnusable, match="not whole"):
        await log.forgetter.forget(Target("req-a", KEY))


def test_a_tombstone_is_as_long_as_what_it_stands_for():
    for size_bytes in range(2, 60):
        made = padded(size_bytes)
        assert len(made) == size_bytes
        assert is_gone(orjson.loads(made))


async def test_a_text_with_every_kind_of_value_keeps_the_size_of_its_line(world, disk):
    log = await open_log(world, durability="process")
    text = {
        "messages": [{"content": 'a "b" \\ \n \u2028 ü 🦊'}],
        "params": {"n": 1.0e-7, "big": 2**53, "x": [None, {}]},
    }
    command = Submit(request="req-a", caller=CALLER, method="chat", model=MODEL)
    log.append(command, [RequestAccepted(request="req-a", caller=CALLER, kind="chat")], text, at_ms=1)
    log.commit()
    [name] = disk.sizes(DIRECTORY / "segments")
    data = disk.read(DIRECTORY / "segments" / name)
    found = without(data, of_request(Target("req-a")))
    assert len(found.data) == len(data)
    assert "🦊".encode() not in found.data
    assert without(found.data, of_request(Target("req-a"))).data == found.data
