"""Logs whose records are whole and that a sidecar cannot use all the same: refused, said, and left as they are."""

import attrs
import pytest
from sidecar_life import LOG

from mlzoo.actors.ledger import recover
from mlzoo.core.state import NO_BOUNDS
from mlzoo.errors import LogUnusable
from mlzoo.events.codec import encode_group
from mlzoo.events.commands import ReportStep, Start
from mlzoo.events.framing import seal
from mlzoo.events.log import Log
from mlzoo.events.records import CORE_VERSION, Group
from mlzoo.events.segments import Segments, encode_header
from mlzoo.events.types import RequestStreamed
from mlzoo.simulation.world import simulated_world


async def lived(lives):
    """Live a life, and return the last segment's path and the next log_seq."""
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
    segments = Segments(lives.disk, LOG / "segments")
    return segments.path(segments.firsts[-1]), sidecar.services.log.last_seq + 1


async def refused(lives, reason):
    """Begin a sidecar, which must refuse its log and leave it as it is; return the error that its host sees."""
    before = {name: lives.disk.read(LOG / "segments" / name) for name in lives.disk.names(LOG / "segments")}
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None  # Where there is no log, nothing that is said is recorded.
        error = await sidecar.host.error(sidecar.chat("x"))
        assert (error["code"], error["data"]["reason"], error["data"]["path"]) == (1015, reason, str(LOG))
        assert await sidecar.host.call("ping") == {}
        shown = await sidecar.host.call("status")
        assert shown["log"]["unusable"]["reason"] == reason
    assert sidecar.status == 0
    after = {name: lives.disk.read(LOG / "segments" / name) for name in lives.disk.names(LOG / "segments")}
    assert after == before
    return error


def group(seq, command, *events):
    return encode_group(Group(first_seq=seq, at_ms=1, time_ms=1, command=command, events=events), 0)


async def test_a_record_that_cannot_be_folded_makes_the_log_unusable(lives, autojump_clock):
    path, seq = await lived(lives)
    step = ReportStep(device="cpu", rows=())
    stray = group(seq, step, RequestStreamed(request="req-nobody", row=0, tokens=1, seq=0))
    await lives.disk.replace(path, lives.disk.read(path) + stray)
    error = await refused(lives, "inconsistent")
    assert error["data"]["log_seq"] == seq
    assert "KeyError" in error["message"]


async def test_one_bit_that_changed_after_an_orderly_end_makes_the_log_unusable_and_nothing_is_cut(
    lives, autojump_clock
):
    path, _ = await lived(lives)
    lives.disk.corrupt(path, len(lives.disk.read(path)) * 2 // 3)
    error = await refused(lives, "damaged")
    assert error["data"]["remedy"] == f"mlzoo log repair {LOG}"


async def test_so_does_a_segment_that_is_gone(lives, autojump_clock):
    path, _ = await lived(lives)
    lives.disk.remove(path)
    assert "when it was last closed" in (await refused(lives, "damaged"))["message"]


@pytest.mark.parametrize("data", [b"{}", b'{"request":7,"never":1}', b"[]"])
async def test_a_record_that_does_not_say_what_its_kind_says_makes_the_log_unusable(lives, autojump_clock, data):
    path, seq = await lived(lives)
    place = b'"group":[%d,2],' % seq
    command = seal(
        b'"log_seq":%d,%b"synced":0,"at_ms":1,"time_ms":1,"kind":"command","type":"Strike","version":1,"data":{}}'
        % (seq, place)
    )
    event = seal(
        b'"log_seq":%d,%b"at_ms":1,"time_ms":1,"kind":"event","type":"RequestStreamed","version":1,"data":%b}'
        % (seq + 1, place, data)
    )
    await lives.disk.replace(path, lives.disk.read(path) + command + event)
    assert (await refused(lives, "inconsistent"))["data"]["log_seq"] == seq


async def test_a_segment_that_a_newer_core_began_is_refused(lives, autojump_clock):
    path, _ = await lived(lives)
    header, rest = lives.disk.read(path).split(b"\n", 1)
    segments = Segments(lives.disk, LOG / "segments")
    newer = attrs.evolve(segments.header(segments.firsts[-1]), core_version=CORE_VERSION + 1)
    await lives.disk.replace(path, encode_header(newer) + rest)
    assert b"core_version" in header
    assert "core_version" in (await refused(lives, "newer"))["message"]


async def test_a_segment_in_which_a_newer_core_went_on_is_refused(lives, autojump_clock):
    path, seq = await lived(lives)
    start = Start(
        version="9", core_version=CORE_VERSION + 1, bounds=NO_BOUNDS, config_digest="", platform="", python=""
    )
    await lives.disk.replace(path, lives.disk.read(path) + group(seq, start))
    assert f"log_seq {seq}" in (await refused(lives, "newer"))["message"]


@pytest.mark.parametrize("header", [b'"segment":%d,"format":1,"core_version":1}', b'"segment":%d,"format":1}'])
async def test_a_header_that_says_too_little_is_damage(lives, autojump_clock, header):
    path, _ = await lived(lives)
    first, rest = int(path.stem), lives.disk.read(path).split(b"\n", 1)[1]
    await lives.disk.replace(path, seal(header % first) + rest)
    assert (await refused(lives, "damaged"))["data"]["segment"] == path.name


async def test_a_state_that_no_version_folded_is_refused(lives, autojump_clock):
    path, _ = await lived(lives)
    segments = Segments(lives.disk, LOG / "segments")
    header = segments.header(segments.firsts[-1])
    rest = lives.disk.read(path).split(b"\n", 1)[1]
    for state, reason in (({"version": 2}, "newer"), ({"requests": {"a": {}}}, "inconsistent")):
        await lives.disk.replace(path, encode_header(attrs.evolve(header, state=state)) + rest)
        log = await Log.open(LOG, simulated_world(5, lives.disk), lives.log, version="0")
        with pytest.raises(LogUnusable) as caught:
            recover(log)
        assert caught.value.data["reason"] == reason
        await log.close()


async def test_a_state_is_kept_with_its_version(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        assert sidecar.services.ledger.snapshot()["version"] == 1
