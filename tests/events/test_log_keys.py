"""The index of keys: what was filed is found for ever, across merges and whatever a crash does to the disk."""

import hashlib
from pathlib import Path
from random import Random

import pytest
from log_driver import open_log

from mlzoo.errors import LogUnusable
from mlzoo.events import story
from mlzoo.events.commands import KeyFacts
from mlzoo.events.keys import FAN_IN, WIDTH_BYTES, KeyIndex
from mlzoo.simulation.disk import OUTCOMES, SimulatedDisk
from mlzoo.simulation.world import simulated_world

DIRECTORY = Path("/state/log/keys")


def digest(words):
    return hashlib.sha256(words.encode()).hexdigest()


def entry(number, **more):
    facts = KeyFacts(
        request=f"req-{number}",
        params_digest=digest(f"params {number}"),
        accepted_seq=10 * number + 1,
        ended_seq=10 * number + 5,
        next_seq=number % 7,
        ended_at_ms=1000 * number,
    )
    return {digest(f"key {number}"): facts if not more else KeyFacts(**{**_fields(facts), **more})}


def _fields(facts):
    return {name: getattr(facts, name) for name in KeyFacts.__slots__ if not name.startswith("__")}


def entries(numbers):
    return {key: facts for number in numbers for key, facts in entry(number).items()}


def opened(disk):
    index = KeyIndex(disk, DIRECTORY)
    index.open()
    return index


async def filed(disk, filings, each=3):
    index = opened(disk)
    for filing in range(filings):
        await index.file(entries(range(each * filing, each * (filing + 1))))
    return index


async def test_the_key_of_a_request_is_found_by_its_name_while_runs_are_merged(nursery):
    disk = SimulatedDisk()
    index = await filed(disk, FAN_IN - 1, each=600)
    nursery.start_soon(index.file, entries(range(600 * (FAN_IN - 1), 600 * FAN_IN)))
    for number in (0, 2999, 600 * (FAN_IN - 1) - 1):
        assert await index.key_of(f"req-{number}") == digest(f"key {number}")
    for name in ("req-", "req-5000", "req-1 ", ""):
        assert await index.key_of(name) is None
    assert len(disk.names(DIRECTORY)) == 1, "it was merged meanwhile"


async def test_the_name_of_a_request_is_not_called_free_of_a_key_where_the_index_is_damaged():
    disk = SimulatedDisk()
    index = await filed(disk, 1)
    disk.corrupt(DIRECTORY / disk.names(DIRECTORY)[0], 9)
    with pytest.raises(LogUnusable, match="damaged"):
        await index.key_of("req-2")


async def test_a_key_that_was_filed_is_found_and_one_that_was_not_is_not():
    disk = SimulatedDisk()
    index = await filed(disk, 1, each=200)
    for found in (index, opened(disk)):
        assert {key: found.find(key) for key in entries(range(200))} == entries(range(200))
        assert [found.find(digest(f"key {number}")) for number in range(200, 300)] == [None] * 100


async def test_runs_are_merged_so_that_their_number_grows_with_the_logarithm_of_the_keys():
    disk = SimulatedDisk()
    index = await filed(disk, FAN_IN**2 + FAN_IN + 1, each=2)
    assert list(disk.sizes(DIRECTORY)) == [
        "0000000001-0000000064.keys",
        "0000000065-0000000072.keys",
        "0000000073-0000000073.keys",
    ]
    for found in (index, opened(disk)):
        everything = entries(range(2 * (FAN_IN**2 + FAN_IN + 1)))
        assert {key: found.find(key) for key in everything} == everything
        assert found.verify() == []


async def test_a_lookup_reads_few_lines_of_many(monkeypatch):
    disk = SimulatedDisk()
    index = await filed(disk, 1, each=5000)
    read = []
    really = disk.read
    monkeypatch.setattr(disk, "read", lambda path, at=0, size=-1: read.append(size) or really(path, at, size))
    assert index.find(digest("key 1234")) is not None
    assert sum(read) < 200 * WIDTH_BYTES


async def test_of_one_key_that_was_filed_twice_the_later_filing_holds_also_after_a_merge():
    index = opened(SimulatedDisk())
    [key] = entry(1)
    for filing in range(FAN_IN):
        await index.file(entry(1, ended_seq=100 + filing))
        assert index.find(key).ended_seq == 100 + filing


async def test_what_is_needed_is_told_by_the_runs_that_hold_an_answer_young_enough():
    index = await filed(SimulatedDisk(), 3, each=10)
    assert index.needed_from(ended_after_ms=-1) == 1
    assert index.needed_from(ended_after_ms=9_000) == 101
    assert index.needed_from(ended_after_ms=28_999) == 201
    assert index.needed_from(ended_after_ms=29_000) is None


async def test_a_damaged_run_makes_the_index_say_so_instead_of_calling_a_key_free():
    for at in (0, WIDTH_BYTES + 70, -40):
        disk = SimulatedDisk()
        await filed(disk, 2, each=3)
        inode = disk.files[str(DIRECTORY)]["0000000001-0000000001.keys"]
        inode.data[at] ^= 1
        index = opened(disk)
        assert index.verify() != []
        with pytest.raises(LogUnusable, match="keys") as caught:
            index.find(digest("never filed"))
        assert caught.value.data["reason"] == "damaged"
        await index.file(entries(range(50, 60)))
        assert "0000000001-0000000001.keys" in disk.sizes(DIRECTORY), "what is damaged may be mended"


@pytest.mark.parametrize("outcome", [*OUTCOMES, None], ids=str)
async def test_no_crash_loses_a_key_that_was_filed(outcome):
    disk = SimulatedDisk()
    moments, done = [], []
    disk.on_step = lambda _step: moments.append((disk.copy(), len(done)))
    index = opened(disk)
    for filing in range(FAN_IN * 2 + 2):
        await index.file(entries(range(2 * filing, 2 * filing + 2)))
        done.append(filing)
    random = Random(4)
    for moment, filings in moments:
        found = opened(moment.crashed(random, outcome))
        assert found.verify() == []
        everything = entries(range(2 * filings))
        assert {key: found.find(key) for key in everything} == everything
        before = entries(range(2 * filings, 2 * FAN_IN * 2 + 4))
        assert all(found.find(key) in (None, facts) for key, facts in before.items())
        await found.file(entries(range(900, 903)))
        assert opened(moment.crashed(random, outcome)) is not None
        assert found.find(digest("key 901")) == entry(901)[digest("key 901")]


async def test_a_verification_sees_a_damaged_run_and_changes_nothing():
    disk = SimulatedDisk()
    log = await open_log(simulated_world(1, disk), DIRECTORY.parent)
    await log.close()
    await filed(disk, FAN_IN + 1)
    assert story.verify(simulated_world(2, disk), DIRECTORY.parent).faults == ()
    disk.files[str(DIRECTORY)]["0000000001-0000000008.keys"].data[WIDTH_BYTES + 9] ^= 1
    names = disk.names(DIRECTORY)
    [fault] = story.verify(simulated_world(2, disk), DIRECTORY.parent).faults
    assert "keys/0000000001-0000000008.keys" in fault
    assert disk.names(DIRECTORY) == names
