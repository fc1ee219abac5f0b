import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from mlzoo.cli import main
from mlzoo.config.schema import LogConfig
from mlzoo.events.commands import ReportAnswer, ReportStep, Strike
from mlzoo.events.framing import seal
from mlzoo.events.log import Log
from mlzoo.events.segments import Segments, encode_header
from mlzoo.events.types import RequestCancelled, RequestStreamed
from mlzoo.world import real_world


@pytest.fixture
def path(tmp_path):
    """Return a log with three groups, four asides and a blob."""
    trio.run(write, tmp_path / "log")
    return tmp_path / "log"


async def write(path):
    log = await Log.open(path, real_world(), LogConfig(durability="process"), version="0.0.0")
    log.aside("con-1", "ping", 1, None, {})
    event = RequestStreamed(request="req-a", row=0, tokens=1, seq=0)
    log.append(ReportStep(device="cpu", rows=()), [event], [{"content": "Paris", "tokens": [7]}], at_ms=1)
    log.commit()
    log.aside("con-1", "ping", 2, None, {})
    log.aside("con-1", "models.list", "x", {"all": True}, {"models": []})
    name = await log.put_blob(b"vectors")
    log.append(ReportAnswer(request="req-a", blob=name), [RequestCancelled(request="req-a")], None, at_ms=2)
    log.append(Strike(), [], None, at_ms=3)
    log.commit()
    log.aside("con-1", "ping", 3, None, {})
    await log.close()


async def reopen(path):
    log = await Log.open(path, real_world(), LogConfig(), version="0.0.0")
    await log.close()
    return log.last_seq, log.repaired


def segment(path):
    return path / "segments" / f"{1:020d}.ndjson"


def flip(file, offset):
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def test_verify_holds_for_a_whole_log(path, capsys):
    assert main(["log", "verify", str(path)]) == 0
    assert "5 records (1 to 5) in 1 segments, 4 asides, 1 blobs: all whole" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [1, 50])
def test_verify_does_not_hold_where_the_end_is_torn_and_nobody_writes(path, capsys, cut):
    data = segment(path).read_bytes()
    segment(path).write_bytes(data[:-cut])
    assert main(["log", "verify", str(path)]) == 1
    out = capsys.readouterr().out
    assert f"segments/{1:020d}.ndjson: torn at byte " in out
    assert "the next start cuts them" in out
    assert out.endswith("whole but for its end\n")


def test_whole_records_of_a_group_that_is_not_whole_are_torn_too(path, capsys):
    data = segment(path).read_bytes()
    event = data.index(b'{"crc":', data.index(b'"log_seq":3'))
    segment(path).write_bytes(data[:event])
    assert main(["log", "verify", str(path)]) == 1
    assert "torn at byte " in capsys.readouterr().out


def test_verify_takes_one_segment_too(path, capsys):
    assert main(["log", "verify", str(segment(path))]) == 0
    assert capsys.readouterr().out == f"{1:020d}.ndjson: 5 whole records: all whole\n"
    assert main(["log", "verify", str(path / "asides" / segment(path).name)]) == 0
    data = segment(path).read_bytes()
    segment(path).write_bytes(data[:-1])
    assert main(["log", "verify", str(segment(path))]) == 1
    assert "torn at byte " in capsys.readouterr().out
    lock = real_world().disk.lock(path / "lock")
    assert main(["log", "verify", str(segment(path))]) == 0
    lock.release()


def test_verify_of_a_segment_that_lies_alone_makes_no_lock(path, tmp_path, capsys):
    alone = tmp_path / "a" / "b" / segment(path).name
    alone.parent.mkdir(parents=True)
    alone.write_bytes(segment(path).read_bytes()[:-1])
    assert main(["log", "verify", str(alone)]) == 1
    assert list((tmp_path / "a").iterdir()) == [alone.parent]


def test_a_file_that_is_no_segment_is_a_wrong_use(path, capsys):
    assert main(["log", "verify", str(path / "log.json")]) == 2
    assert "is no segment of a log" in capsys.readouterr().err
    for command in ("stat", "cat", "tail", "repair"):
        assert main(["log", command, str(segment(path))]) == 2
        assert "is a file; a log is a directory" in capsys.readouterr().err


def test_verify_forgives_a_write_in_progress(path):
    segment(path).write_bytes(segment(path).read_bytes()[:-1])
    lock = real_world().disk.lock(path / "lock")
    assert main(["log", "verify", str(path)]) == 0
    lock.release()


def test_verify_names_the_segment_and_the_place_of_a_damage(path, capsys):
    flip(segment(path), 300)
    assert main(["log", "verify", str(path)]) == 1
    out = capsys.readouterr().out
    assert f"segments/{1:020d}.ndjson: damaged at byte " in out
    assert out.endswith("NOT whole\n")


def test_verify_looks_at_asides_and_blobs_too(path, capsys):
    (blob,) = path.glob("blobs/*/*.bin")
    blob.write_bytes(b"other")
    assert main(["log", "verify", str(path)]) == 1
    assert "not what its name says" in capsys.readouterr().out
    blob.unlink()
    assert main(["log", "verify", str(path)]) == 1
    assert "missing" in capsys.readouterr().out


def test_cat_tells_the_story_in_order_for_jq(path, capsys):
    assert main(["log", "cat", str(path)]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record.get("log_seq") or f"a{record['aside_seq']}" for record in records] == [
        "a1", 1, 2, "a2", "a3", 3, 4, 5, "a4",
    ]  # fmt: skip


def test_cat_tells_it_for_people_where_they_look(path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["log", "cat", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 > ReportStep" in out
    assert "Paris" in out
    assert "2   RequestStreamed req-a row=0 tokens=1 seq=0" in out
    assert 'con-1 models.list #x params={"all":true}' in out


def test_cat_shows_what_is_whole_and_says_where_it_stops(path, capsys):
    shutil.copy(segment(path), segment(path).with_name(f"{6:020d}.ndjson"))
    flip(segment(path), len(segment(path).read_bytes()) - 20)
    assert main(["log", "cat", str(path)]) == 1
    caught = capsys.readouterr()
    assert "is not whole" in caught.err
    assert len(caught.out.splitlines()) >= 8


def middle(path):
    """Return a place in the first group of two, behind which whole records follow."""
    return segment(path).read_bytes().index(b'"log_seq":2') + 60


@pytest.mark.parametrize("command", ["stat", "cat"])
def test_damage_in_the_last_segment_is_told_and_fails(path, capsys, command):
    flip(segment(path), middle(path))
    assert main(["log", command, str(path)]) == 1
    caught = capsys.readouterr()
    assert f"mlzoo log: segments/{1:020d}.ndjson: damaged at byte " in caught.err
    assert caught.out


def test_cat_leaves_out_the_asides_from_behind_the_damage(path, capsys):
    flip(segment(path), segment(path).read_bytes().index(b'"log_seq":4') + 60)
    assert main(["log", "cat", str(path)]) == 1
    caught = capsys.readouterr()
    records = [json.loads(line) for line in caught.out.splitlines()]
    assert [record.get("log_seq") or f"a{record['aside_seq']}" for record in records] == ["a1", 1, 2, "a2", "a3", 3]
    assert "1 asides are left out" in caught.err


def test_cat_tells_of_a_segment_that_is_missing_between_others(path, capsys):
    other = segment(path).with_name(f"{8:020d}.ndjson")
    whole = segment(path).read_bytes().splitlines(keepends=True)
    header = attrs.evolve(Segments(real_world().disk, path / "segments").header(1), segment=8)
    records = [re.sub(rb'"log_seq":5,"group":\[5,', b'"log_seq":8,"group":[8,', whole[-1][36:-1])]
    other.write_bytes(encode_header(header) + b"".join(map(seal, records)))
    assert main(["log", "cat", str(path)]) == 1
    assert "after 5 comes 8: what was between is missing" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["stat", "cat", "verify"])
def test_a_log_whose_segments_are_gone_is_not_called_whole(path, capsys, command):
    segment(path).unlink()
    assert main(["log", command, str(path)]) == 1
    caught = capsys.readouterr()
    assert "the log has lost records: it has asides" in caught.err + caught.out


@pytest.mark.parametrize("command", ["stat", "cat"])
def test_a_torn_end_is_told_and_is_no_failure(path, capsys, command):
    segment(path).write_bytes(segment(path).read_bytes()[:-1])
    assert main(["log", command, str(path)]) == 0
    assert "the next start cuts them" in capsys.readouterr().err


def test_nothing_is_exported_of_a_damaged_log(path, tmp_path, capsys):
    flip(segment(path), middle(path))
    output = tmp_path / "x.ndjson"
    assert main(["log", "export", str(path), "-o", str(output)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("mlzoo log: nothing was exported of a damaged log: segments/")
    assert not output.exists()


def test_an_empty_log_has_no_asides_from_1_to_0(tmp_path, capsys):
    trio.run(reopen, tmp_path / "log")
    assert main(["log", "stat", str(tmp_path / "log")]) == 0
    out = capsys.readouterr().out
    assert "log_seq    none\nasides     none\n" in out


def test_tail_shows_the_last_records(path, capsys):
    assert main(["log", "tail", "-n", "2", str(path)]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["log_seq"], second["aside_seq"]) == (5, 4)


@pytest.mark.parametrize("count", ["-3", "x", "1.5"])
def test_a_number_of_records_that_is_none_is_a_wrong_use(path, capsys, count):
    with pytest.raises(SystemExit) as left:
        main(["log", "tail", "-n", count, str(path)])
    assert left.value.code == 2
    assert f"argument -n/--lines: a number of records is 0 or more, not '{count}'" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ["stat", "verify", "cat", "tail"])
def test_what_cannot_be_printed_is_not_blamed_on_the_log(path, command):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mlzoo", "log", command, str(path)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "mlzoo: stdout cannot be written: No space left on device\n")


def test_a_reader_who_has_had_enough_ends_cat_quietly(path):
    command = [sys.executable, "-m", "mlzoo", "log", "cat", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_tail_follows_what_is_written(path):
    command = [sys.executable, "-c", "from mlzoo.cli import main; main()", "log", "tail", "-n", "1", "-f", str(path)]
    line = segment(path).read_bytes().splitlines(keepends=True)[-1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert json.loads(process.stdout.readline())["aside_seq"] == 4
        with segment(path).open("ab") as file:
            file.write(line[:50])
            file.flush()
            file.write(line[50:])
        assert json.loads(process.stdout.readline())["log_seq"] == 5
        process.kill()
        process.stdout.read()


def test_repair_cuts_at_the_damage_keeps_what_it_cut_and_changes_the_id(path, capsys):
    before = json.loads((path / "log.json").read_text())["id"]
    data = segment(path).read_bytes()
    second = data.index(b'{"crc":', data.index(b'"log_seq":2'))
    flip(segment(path), second + 100)
    damaged = segment(path).read_bytes()
    assert main(["log", "repair", str(path)]) == 0
    assert "now in" in capsys.readouterr().out
    assert segment(path).read_bytes() == data[:second]
    assert segment(path).with_name(f"{1:020d}.ndjson.cut-{second}").read_bytes() == damaged[second:]
    assert json.loads((path / "log.json").read_text())["id"] != before
    assert main(["log", "verify", str(path)]) == 0
    assert trio.run(reopen, path) == (2, ())


def test_repair_says_plainly_that_nothing_is_left_and_where_it_lies(path, capsys):
    whole = segment(path).read_bytes()
    flip(segment(path), 30)
    damaged = segment(path).read_bytes()
    assert main(["log", "repair", str(path)]) == 0
    said = capsys.readouterr().out
    assert "the log is EMPTY now: no record is left in it" in said
    assert said.endswith(f"lies in {path / 'segments' / '*.cut-*'}\n")
    (kept,) = (path / "segments").glob("*.cut-*")
    assert kept.read_bytes() == damaged != whole
    assert main(["log", "verify", str(path)]) == 0
    assert "no records in 0 segments, 4 asides, 0 blobs: all whole" in capsys.readouterr().out
    assert trio.run(reopen, path)[0] == 0


def test_repair_does_not_call_a_log_empty_that_still_holds_records(path, capsys):
    flip(segment(path), len(segment(path).read_bytes()) - 20)
    assert main(["log", "repair", str(path)]) == 0
    assert "EMPTY" not in capsys.readouterr().out


def test_a_recording_that_cannot_be_written_is_not_blamed_on_the_log(path, tmp_path, capsys):
    output = tmp_path / "none" / "x.ndjson"
    assert main(["log", "export", str(path), "-o", str(output)]) == 3
    told = capsys.readouterr().err
    assert told == f"mlzoo: the recording {output} cannot be written: No such file or directory\n"


def test_a_log_that_cannot_be_written_is_said_to_be_that_by_repair(path, capsys):
    (path / "lock").unlink(missing_ok=True)
    (path / "lock").mkdir()
    assert main(["log", "repair", str(path)]) == 3
    assert f"mlzoo: the log {path} cannot be repaired: " in capsys.readouterr().err


def test_a_log_that_cannot_be_read_is_said_to_be_that_by_export(path, tmp_path, capsys):
    (path / "log.json").unlink()
    (path / "log.json").mkdir()
    assert main(["log", "export", str(path), "-o", str(tmp_path / "x.ndjson")]) == 3
    assert f"mlzoo: the log {path} cannot be read: " in capsys.readouterr().err


def test_repair_leaves_a_whole_log_as_it_is(path, capsys):
    before = (path / "log.json").read_bytes()
    assert main(["log", "repair", str(path)]) == 0
    assert capsys.readouterr().out == "nothing to repair\n"
    assert (path / "log.json").read_bytes() == before


def test_repair_needs_the_lock_and_nothing_else_does(path):
    lock = real_world().disk.lock(path / "lock")
    assert main(["log", "repair", str(path)]) == 4
    for command in ("verify", "cat", "tail", "stat"):
        assert main(["log", command, str(path)]) == 0
    lock.release()


def test_stat_says_what_there_is(path, capsys):
    assert main(["log", "stat", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 to 5" in out
    assert "1 to 4" in out


def test_a_directory_without_a_log_is_a_wrong_use(tmp_path, capsys):
    assert main(["log", "verify", str(tmp_path)]) == 2
    assert "there is no log in" in capsys.readouterr().err


async def write_segments(path):
    """Write a log of some segments, one group in each."""
    log = await Log.open(path, real_world(), LogConfig(durability="process", segment_bytes=65536), version="0.0.0")
    log.bind_state(dict, lambda: 0)
    for number in range(5):
        log.append(Strike(), [RequestCancelled(request=f"req-{number}")], {"said": "x" * 70_000}, number)
        log.commit()
    await log.close()


def test_each_command_that_reads_all_tells_of_a_segment_that_is_missing_in_the_middle(tmp_path, capsys):
    trio.run(write_segments, tmp_path / "log")
    segments = sorted((tmp_path / "log" / "segments").iterdir())
    assert len(segments) > 3
    segments[1].unlink()
    for command in (["stat"], ["cat"], ["verify"], ["export", "-o", str(tmp_path / "recording")]):
        assert main(["log", *command, str(tmp_path / "log")]) == 1, command
        said = capsys.readouterr()
        assert "what was between is missing" in said.out + said.err, command
    assert not (tmp_path / "recording").exists()


def test_a_log_whose_name_is_lost_is_still_one_and_gets_it_back(path, capsys):
    name = json.loads((path / "log.json").read_bytes())["id"]
    (path / "log.json").unlink()
    assert main(["log", "verify", str(path)]) == 1
    assert (
        f"log.json is missing, which names the log; the next start writes it again\n{name}" in capsys.readouterr().out
    )
    trio.run(reopen, path)
    assert json.loads((path / "log.json").read_bytes())["id"] == name
