"""Copied answers: what was kept is found, whatever a crash does to the disk, and a look-up reads little."""

from pathlib import Path
from random import Random

import attrs
import pytest

from mlzoo.errors import LogUnusable
from mlzoo.events.answers import KNOWN_PARTS, KeptAnswer, KeptAnswers, sealed
from mlzoo.simulation.disk import OUTCOMES, SimulatedDisk

DIRECTORY = Path("/state/log/keys")


def answer(number):
    return KeptAnswer(
        request=f"req-{number}", accepted_seq=10 * number, ended_at_ms=number, pieces=["x"], result={"n": number}
    )


@pytest.mark.parametrize("outcome", [*OUTCOMES, None], ids=str)
async def test_no_crash_loses_an_answer_that_was_kept(outcome):
    disk = SimulatedDisk()
    moments, done = [], []
    disk.on_step = lambda _step: moments.append((disk.copy(), len(done)))
    answers = KeptAnswers(disk, DIRECTORY)
    answers.open()
    for number in range(0, 8, 2):
        await answers.put([sealed(answer(number)), sealed(answer(number + 1))])
        done += [number, number + 1]
    random = Random(3)
    for moment, count in moments:
        crashed = moment.crashed(random, outcome)
        found = KeptAnswers(crashed, DIRECTORY)
        found.open()
        assert found.verify() == []
        assert [found.find(f"req-{n}", 10 * n) for n in range(count)] == [answer(n) for n in range(count)]
        await found.put([sealed(answer(9))])
        was_there = found.find("req-0", 0) is not None
        assert await found.forget({"req-0"}) == was_there
        assert was_there or not count
        again = KeptAnswers(crashed, DIRECTORY)
        again.open()
        assert again.find("req-9", 90) == answer(9)
        assert again.find("req-0", 0) is None
        assert len(crashed.names(DIRECTORY)) == 1


async def put(disk, *numbers):
    """Keep answers; return them, and the file that they are in."""
    answers = KeptAnswers(disk, DIRECTORY)
    answers.open()
    await answers.put([sealed(answer(number)) for number in numbers])
    [name] = disk.names(DIRECTORY)
    return answers, DIRECTORY / name


@pytest.mark.parametrize("place", [b'{"crc"', b'"size"', b"req-1", b"accepted_seq", b"pieces"], ids=bytes.decode)
async def test_an_answer_that_is_damaged_anywhere_is_said_to_be_damaged_and_the_others_are_told(place):
    disk = SimulatedDisk()
    answers, path = await put(disk, 1, 2)
    disk.corrupt(path, disk.read(path).index(place) + len(place) - 1)
    with pytest.raises(LogUnusable, match="damaged") as refused:
        answers.find("req-1", 10)
    assert refused.value.data["reason"] == "damaged"
    assert answers.find("req-2", 20) == answer(2)
    assert answers.verify() != []


async def test_an_answer_whose_end_is_missing_is_said_to_be_damaged_and_takes_none_with_it():
    disk = SimulatedDisk()
    _, path = await put(disk, 1, 2)
    await disk.replace(path, disk.read(path)[:-9])
    answers = KeptAnswers(disk, DIRECTORY)
    answers.open()
    with pytest.raises(LogUnusable, match="damaged"):
        answers.find("req-2", 20)
    await answers.put([sealed(answer(3))])
    assert (answers.find("req-1", 10), answers.find("req-3", 30)) == (answer(1), answer(3))


async def test_a_damaged_answer_is_mended_by_another_copy_of_it():
    disk = SimulatedDisk()
    answers, path = await put(disk, 1, 2)
    disk.corrupt(path, disk.read(path).index(b"pieces"))
    await answers.put([sealed(answer(1))])
    assert answers.find("req-1", 10) == answer(1)


@pytest.mark.parametrize("grown", [False, True], ids=["opened", "grown"])
async def test_a_look_up_reads_one_line_of_a_part_that_was_asked_before(monkeypatch, grown):
    disk = SimulatedDisk()
    answers, path = await put(disk, *range(1000))
    if not grown:
        answers = KeptAnswers(disk, DIRECTORY)
        answers.open()
        assert answers.find("req-999", 9990) == answer(999)
    read = []
    really = disk.read
    monkeypatch.setattr(disk, "read", lambda *place: read.append(really(*place)) or read[-1])
    for number in (0, 500, 999):
        assert answers.find(f"req-{number}", 10 * number) == answer(number)
    assert answers.find("req-x", 5) is None
    assert sum(map(len, read)) < 1000 < len(really(path)) / 50


async def test_it_is_remembered_of_a_few_parts_where_their_answers_stand(monkeypatch):
    monkeypatch.setattr("mlzoo.events.answers.PART_BYTES", 1)
    answers = KeptAnswers(SimulatedDisk(), DIRECTORY)
    for number in range(2 * KNOWN_PARTS):
        await answers.put([sealed(answer(number))])
    assert len(answers._parts) == 2 * KNOWN_PARTS
    for _ in range(2):
        assert [answers.find(f"req-{n}", 10 * n) for n in range(9)] == [answer(n) for n in range(9)]
    assert len(answers._known) == KNOWN_PARTS


async def test_what_is_large_is_kept_in_parts_of_bounded_size_each_of_them_written_once(monkeypatch):
    monkeypatch.setattr("mlzoo.events.answers.PART_BYTES", 1000)
    disk, steps = SimulatedDisk(), []
    disk.on_step = steps.append
    answers = KeptAnswers(disk, DIRECTORY)
    large = [attrs.evolve(answer(number), result={"vectors": [number] * 100}) for number in range(30)]
    await answers.put([sealed(each) for each in large])
    sizes = disk.sizes(DIRECTORY).values()
    assert len(sizes) > 5
    assert max(sizes) < 1000 + len(sealed(large[-1]).line)
    assert steps.count("replace") == len(sizes)
    assert [answers.find(each.request, each.accepted_seq) for each in large] == large


async def test_who_looks_up_while_a_part_is_written_anew_finds_what_is_there():
    disk = SimulatedDisk()
    answers, _ = await put(disk, 1, 2, 3)
    found = []

    def look(_step):
        found.append([answers.find(f"req-{number}", 10 * number) for number in (2, 3)])

    assert answers.find("req-3", 30) == answer(3)
    disk.on_step = look
    assert await answers.forget({"req-1"})
    await answers.put([sealed(answer(4))])
    disk.on_step = None
    assert len(found) > 6
    assert all(each == [answer(2), answer(3)] for each in found)
    assert [answers.find(f"req-{n}", 10 * n) for n in (1, 2, 3, 4)] == [None, answer(2), answer(3), answer(4)]


@pytest.mark.parametrize("damaged", [(1,), (1, 8)], ids=["the first", "the first and the last"])
async def test_a_copy_that_was_made_anew_takes_no_other_with_it_whatever_it_spans(monkeypatch, damaged):
    disk = SimulatedDisk()
    answers, path = await put(disk, *range(1, 9))
    data = disk.read(path)
    for number in damaged:
        disk.corrupt(path, data.index(b'"req-%d"' % number) + 40)
    if len(damaged) == 2:  # The part is full, and another one spans just what it does.
        monkeypatch.setattr("mlzoo.events.answers.PART_BYTES", len(data))
    await answers.put([sealed(answer(number)) for number in damaged])
    monkeypatch.setattr("mlzoo.events.answers.PART_BYTES", max(disk.sizes(DIRECTORY).values()))
    await answers.put([sealed(answer(number)) for number in (9, *damaged, *range(10, 30))])
    for found in (answers, KeptAnswers(disk, DIRECTORY)):
        found.open()
        assert [found.find(f"req-{n}", 10 * n) for n in range(1, 30)] == [answer(n) for n in range(1, 30)]
