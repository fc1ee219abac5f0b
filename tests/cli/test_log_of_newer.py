"""``mlzoo log`` and ``mlzoo doctor`` on a log that a newer version wrote: both say so, and neither touches it."""

import json

import orjson
import pytest
import trio

from mlzoo.cli import main
from mlzoo.cli.doctor import logs
from mlzoo.config.schema import LogConfig
from mlzoo.events.commands import Strike
from mlzoo.events.framing import PREFIX_BYTES, seal
from mlzoo.events.log import Log
from mlzoo.world import real_world

COMMANDS = ("repair", "verify", "stat", "cat", "tail")


@pytest.fixture
def path(tmp_path):
    trio.run(write, tmp_path / "log")
    return tmp_path / "log"


async def write(path):
    log = await Log.open(path, real_world(), LogConfig(durability="process"), version="0.0.0")
    log.aside("con-1", "ping", 1, None, {})
    log.append(Strike(), [], None, at_ms=1)
    log.append(Strike(), [], None, at_ms=2)
    log.commit()
    log.commit_asides()
    await log.close()


async def reopen(path):
    log = await Log.open(path, real_world(), LogConfig(), version="0.0.0")
    await log.close()


def rewrite(file, line, **changed):
    """Change fields of one line of a segment, and have it whole."""
    lines = file.read_bytes().splitlines(keepends=True)
    data = orjson.loads(b"{" + lines[line][PREFIX_BYTES:]) | changed
    lines[line] = seal(orjson.dumps(data)[1:])
    file.write_bytes(b"".join(lines))


def segment(path, directory="segments"):
    return path / directory / f"{1:020d}.ndjson"


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def check(path, capsys, words, commands):
    before = contents(path)
    for command in commands:
        status = main(["log", command, str(path)])
        said = capsys.readouterr()
        assert (command, status, said.out) == (command, 3, "")
        assert words in said.err
    (finding, *_) = logs(path, 1, 0)
    assert finding.state == "fault"
    assert words in finding.text
    assert finding.remedy == "use the version of mlzoo that wrote it, or another log"
    assert contents(path) == before


def test_a_log_of_a_newer_format_is_refused_and_left_alone(path, capsys):
    named = json.loads((path / "log.json").read_text())
    (path / "log.json").write_text(json.dumps(named | {"format": 9}))
    check(path, capsys, f"the log {path} is in format 9; this version reads up to 1", COMMANDS)


@pytest.mark.parametrize("directory", ["segments", "asides"])
@pytest.mark.parametrize("field", ["format", "core_version"])
def test_a_segment_of_a_newer_version_is_refused_and_left_alone(path, capsys, directory, field):
    rewrite(segment(path, directory), 0, **{field: 999})
    check(path, capsys, f"a segment was written with {field} 999; this version knows it up to ", COMMANDS)
    assert main(["log", "verify", str(segment(path, directory))]) == 3
    assert "a segment was written with" in capsys.readouterr().err


def test_no_recording_is_made_of_a_log_with_a_newer_segment(path, tmp_path, capsys):
    rewrite(segment(path, "asides"), 0, format=9)
    assert main(["log", "export", str(path), "-o", str(tmp_path / "x.ndjson")]) == 3
    assert "a segment was written with format 9" in capsys.readouterr().err
    assert not (tmp_path / "x.ndjson").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"version": 99}, "the log holds 'Strike' in version 99; this version knows it up to 1"),
        ({"type": "Sing"}, "the log holds 'Sing', a kind of record that this version does not know"),
    ],
)
def test_a_record_of_a_newer_version_is_neither_repaired_nor_called_whole(path, capsys, changed, words):
    rewrite(segment(path), 1, **changed)
    check(path, capsys, words, ("repair", "verify"))


def test_a_newer_segment_is_left_alone_also_where_something_else_is_damaged(path, capsys):
    rewrite(segment(path), 0, format=9)
    aside = segment(path, "asides")
    aside.write_bytes(aside.read_bytes().replace(b'"ping"', b'"pong"'))
    check(path, capsys, "a segment was written with format 9", ["repair"])


def test_a_header_that_does_not_say_what_headers_say_is_cut_with_its_segment(path, capsys):
    lines = segment(path).read_bytes().splitlines(keepends=True)
    lines[0] = seal(b'"segment":1,"format":1,"core_version":1}')
    segment(path).write_bytes(b"".join(lines))
    assert main(["log", "repair", str(path)]) == 0
    assert "records or parts of them, now in" in capsys.readouterr().out
    assert main(["log", "verify", str(path)]) == 0
    trio.run(reopen, path)
