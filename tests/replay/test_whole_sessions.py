"""Sessions with a whole sidecar, recorded and played: the host hears the same again, and each decision is the same."""

from random import Random

import attrs
import orjson
import pytest
import trio
from playing_host import ReplayedHost, sent
from sidecar_life import LOG
from test_export import steady, taken
from test_random_lives import Chance

from mlzoo.errors import LogUnusable
from mlzoo.events import recording
from mlzoo.events.framing import seal
from mlzoo.replay.check import check
from mlzoo.replay.matching import Awaits, Due, Playback
from mlzoo.replay.redaction import BUILT_IN
from mlzoo.simulation.world import simulated_world
from mlzoo.transport.jsonrpc import parse
from mlzoo.world import real_world


class Echo:
    """What a host took, in the form of a host."""

    def __init__(self):
        self.messages = []


def flat(host):
    found = Echo()
    found.messages = [m for message in host.messages for m in (message if isinstance(message, list) else [message])]
    return taken(found)


def replayed(script, lines):
    """Send the lines of a host again, each when the recording waits for it."""
    playback, host = Playback(script), Echo()
    waiting = list(lines)
    while True:
        match playback.next():
            case Due(_, line):
                host.messages += [orjson.loads(line)] if line else []
            case Awaits() if waiting:
                host.messages += map(orjson.loads, playback.hear(parse(waiting.pop(0))))
            case Awaits():
                playback.end()
            case _:
                for line in waiting:
                    host.messages += map(orjson.loads, playback.hear(parse(line)))
                return host, playback.report()


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_happened_is_heard_again(lives, recorded, autojump_clock, seed):
    lives.disk.faults.sync_s = Random(seed).choice((0, 0, 0.2, 2))
    fed = []
    async with lives.begin() as sidecar:
        feed = sidecar.host.feed
        sidecar.host.feed = lambda data: (fed.append(data), feed(data))
        chance = Chance(sidecar, seed)
        sidecar.workshop.answer = None
        for _ in range(60):
            await chance.act()
        sidecar.host.read_on()
        await sidecar.leave()
        sidecar.host.read_on()
    host, report = replayed(recorded().wire("con-1"), fed)
    assert report.holds, report
    heard, again = flat(sidecar.host), flat(host)
    for said in (heard, again):
        [said.pop(id_) for id_, method in sidecar.host.methods.items() if method == "events.read" and id_ in said]
    assert steady(dict(sorted(again.items(), key=str))) == steady(dict(sorted(heard.items(), key=str)))


@pytest.mark.parametrize("seed", range(10))
async def test_every_decision_of_a_random_life_comes_out_alike(lives, recorded, autojump_clock, tmp_path, seed):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024)
    for life in range(2):
        async with lives.begin() as sidecar:
            chance = Chance(sidecar, seed * 2 + life)
            sidecar.workshop.answer = None
            for _ in range(60):
                await chance.act()
            sidecar.host.read_on()
    for rules in ((), BUILT_IN):
        recorded(rules=rules)
        found = check(simulated_world(1, lives.disk), tmp_path / "recording.ndjson")
        assert (found.difference, found.folded) == (None, 0)
        assert found.compared > 50


async def test_a_recording_keeps_its_timing_or_goes_as_fast_as_possible(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("x", stream=True)
        worker = await sidecar.worker()
        [request] = await worker.given()
        worker.generate(request, "a", finish=None)
        await sidecar.host.streamed(chat, 1)
        await trio.sleep(10)
        worker.generate(request, "b")
        await sidecar.host.response(chat)
    found = recorded()
    lines = [line for line in found.wire("con-1") if "method" in line]
    again = {"jsonrpc": "2.0", "id": 1, "method": "chat", "params": lines[0]["params"]}
    for speed, wanted_s in ((1.0, 10), (2.0, 5), (float("inf"), 0)):
        host = ReplayedHost(found.wire("con-1"), *sent(again), speed=speed)
        _, report = host.play()
        assert report.holds
        assert host.time_s == pytest.approx(wanted_s, abs=0.2)


async def test_a_host_is_heard_while_something_is_due_to_it(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        for _ in range(2):
            await sidecar.host.call("ping")
            await trio.sleep(10)
    ping, other = ({"jsonrpc": "2.0", "id": id_, "method": method} for id_, method in ((1, "ping"), (2, "models.list")))
    script = [line for line in recorded().wire("con-1") if "eof" not in line]
    slow = [*sent(ping)[:1], *sent(other, at_s=1)]
    script[1]["ms"] += 5_000
    host = ReplayedHost(script, *slow, speed=1.0)
    (refused, answered), report = host.play()
    assert (refused["id"], answered["id"]) == (2, 1)
    assert not report.holds


async def test_a_host_that_waits_for_what_does_not_come_is_told_what_it_was_to_send(lives, recorded, capsys):
    async with lives.begin() as sidecar:
        await sidecar.host.call("ping")
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    late = ReplayedHost(recorded().wire("con-1"), *sent(ping, at_s=30))
    [answer], report = late.play()
    assert (answer["result"], report.holds) == ({}, True)
    assert capsys.readouterr().err == "mlzoo replay: waiting for the host to send what is recorded next: ping\n"
    in_time = ReplayedHost(recorded().wire("con-1"), *sent(ping, at_s=4))
    assert in_time.play()[1].holds
    assert capsys.readouterr().err == ""


async def test_a_host_that_no_longer_reads_ends_the_play(lives, recorded):
    async with lives.begin() as sidecar:
        await sidecar.host.call("ping")
    host = ReplayedHost(recorded().wire("con-1"), *sent({"jsonrpc": "2.0", "id": 1, "method": "ping"}), reads=False)
    _, report = host.play()
    assert not report.holds


# ------------------------------------------------------------------------------------------------ check


@pytest.fixture
def session(lives, recorded):
    async def make():
        async with lives.begin() as sidecar:
            await sidecar.host.response(sidecar.chat("hello", stream=True, seed=1))
        return recorded()

    return make


def checked(tmp_path, found, change):
    """Check a recording of which something was changed, and its digest with it."""
    header, lines = orjson.loads(orjson.dumps(found.header)), orjson.loads(orjson.dumps(found.lines))
    change(header, [line for line in lines if "group" in line])
    recording.write(tmp_path / "changed.ndjson", header, lines)
    return check(simulated_world(1, None), tmp_path / "changed.ndjson")


def events(groups, kind):
    return [event[2] for group in groups for event in group["events"] if event[0] == kind]


async def test_a_planted_change_of_an_event_is_found_and_shown_field_by_field(session, tmp_path):
    def change(_, groups):
        events(groups, "RequestStreamed")[1]["seq"] = 7

    found = checked(tmp_path, await session(), change)
    assert found.difference.what.endswith("ReportStep, is decided otherwise now:")
    assert list(map(str, found.difference.fields)) == ["events[0].seq: recorded 7, got 1"]
    assert found.told()[-1].endswith("NOT as recorded")


async def test_an_event_too_few_and_one_too_many_are_found(session, tmp_path):
    def fewer(_, groups):
        groups[1]["events"].pop()

    def more(_, groups):
        groups[1]["events"].append(["StorageChanged", 1, {"low": True}])

    whole = await session()
    assert str(checked(tmp_path, whole, fewer).difference.fields[0]).startswith("events[")
    assert "StorageChanged" in str(checked(tmp_path, whole, more).difference.fields[0])


async def test_a_group_too_few_is_said(session, tmp_path):
    whole = await session()
    groups = [line for line in whole.lines if "group" in line]
    recording.write(tmp_path / "gap.ndjson", whole.header, [line for line in whole.lines if line != groups[2]])
    with pytest.raises(LogUnusable, match="is missing"):
        check(simulated_world(1, None), tmp_path / "gap.ndjson")


async def test_a_changed_command_is_found_by_what_follows_from_it(session, tmp_path):
    def change(_, groups):
        [submit] = [group["command"][2] for group in groups if group["command"][0] == "Submit"]
        submit["priority"] = "batch"

    assert checked(tmp_path, await session(), change).difference is not None


async def test_what_a_core_of_another_version_decided_is_folded_and_said_to_be(session, tmp_path):
    def change(header, groups):
        header["core_version"] = 0
        groups[0]["command"][2]["core_version"] = 0
        events(groups, "RequestStreamed")[0]["tokens"] = 2

    found = checked(tmp_path, await session(), change)
    assert (found.compared, found.difference) == (0, None)
    assert found.folded > 5
    assert "core_version 0 decided" in found.told()[0]


async def test_a_log_is_checked_where_it_lies(session, lives):
    await session()
    found = check(simulated_world(1, lives.disk), Directory(LOG))
    assert found.difference is None
    assert found.compared > 5


class Directory(type(LOG)):
    """A path of the simulated disk, which pathlib cannot ask."""

    def is_dir(self):
        return True


@pytest.fixture
def segmented(lives, tmp_path, autojump_clock):
    """Return a function that gives a log of several segments, on the real disk."""

    async def make():
        lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024)
        for _ in range(3):
            async with lives.begin() as sidecar:
                sidecar.workshop.answer = None
                chat = sidecar.chat("x", stream=True)
                worker = await sidecar.worker()
                [request] = await worker.given()
                worker.generate(request, *(f"{number:0200}" for number in range(150)))
                await sidecar.host.response(chat)
        for directory, files in lives.disk.files.items():
            real = tmp_path / "real" / directory.lstrip("/")
            real.mkdir(parents=True, exist_ok=True)
            for name, file in files.items():
                (real / name).write_bytes(bytes(file.data))
        return tmp_path / "real" / "log"

    return make


@pytest.mark.parametrize("processes", [1, 2])
async def test_segments_are_checked_side_by_side_and_where_they_meet(segmented, processes, monkeypatch):
    monkeypatch.setattr("mlzoo.replay.check.SIDE_BY_SIDE_BYTES", 0)
    log = await segmented()
    segments = sorted((log / "segments").glob("*.ndjson"))
    assert len(segments) >= 3
    whole = check(real_world(), log, processes)
    last_seq = orjson.loads(segments[-1].read_bytes().splitlines()[-1])["log_seq"]
    assert (whole.difference, whole.compared, whole.folded) == (None, last_seq, 0)
    header, *records = segments[1].read_bytes().splitlines()
    state = orjson.loads(header)
    state["state"]["mean_run_ms"] = 12345.0
    del state["crc"], state["size"]
    segments[1].write_bytes(b"".join([seal(orjson.dumps(state)[1:]), *(line + b"\n" for line in records)]))
    found = check(real_world(), log, processes)
    assert [field.path for field in found.difference.fields] == ["state.mean_run_ms"]
    assert found.compared < last_seq


async def test_a_segment_that_is_missing_is_said(segmented):
    log = await segmented()
    sorted((log / "segments").glob("*.ndjson"))[1].unlink()
    with pytest.raises(LogUnusable, match="is missing"):
        check(real_world(), log)
