"""What ``mlzoo doctor`` says of a log that serve could not write to."""

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
import trio

from mlzoo.cli.doctor import logs
from mlzoo.config.schema import LogConfig
from mlzoo.events.log import Log
from mlzoo.world import real_world

BINDING = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]  # so that permissions bind root as well
LOOK = """
import json, sys
from pathlib import Path
import attrs
from mlzoo.cli.doctor import logs
print(json.dumps([attrs.asdict(finding) for finding in logs(Path(sys.argv[1]), 1000, 0)]))
"""
LET_WRITE = "let this user write there, or have the log elsewhere: --log DIR"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the permissions of POSIX")


def look(path):
    """Return what doctor finds of a log, as a user whom permissions bind."""
    is_root = os.geteuid() == 0
    if is_root and shutil.which("setpriv") is None:
        pytest.skip("permissions do not bind root")
    command = [*(BINDING if is_root else ()), sys.executable, "-c", LOOK, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if is_root and done.stderr.startswith("setpriv:"):
        pytest.skip("this root may not give up its rights")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[0]


async def write(path):
    log = await Log.open(path, real_world(), LogConfig(), version="0.0.0")
    await log.close()


@pytest.fixture
def log(tmp_path):
    trio.run(write, tmp_path / "log")
    yield tmp_path / "log"
    for one in (tmp_path, *tmp_path.rglob("*")):
        one.chmod(0o700)


def forbid(*parts):
    for part in parts:
        part.chmod(stat.S_IMODE(part.stat().st_mode) & ~0o222)


def test_a_log_that_cannot_be_written_is_a_fault_with_what_to_do(log):
    assert look(log)["state"] == "ok"
    forbid(log, *log.rglob("*"))
    found = look(log)
    assert (found["state"], found["remedy"]) == ("fault", LET_WRITE)
    assert found["text"].endswith(f"this user cannot write to {log}, so no sidecar can use it")


@pytest.mark.parametrize("part", ["lock", "segments", "asides", f"segments/{1:020d}.ndjson"])
def test_so_is_one_of_which_a_part_cannot_be_written(log, part):
    forbid(log / part)
    found = look(log)
    assert found["state"] == "fault"
    assert f"this user cannot write to {log / part}," in found["text"]


def test_a_place_where_no_log_can_be_made_is_a_fault_with_what_to_do(log):
    forbid(log.parent)
    found = look(log.parent / "other" / "log")
    assert (found["state"], found["remedy"]) == ("fault", LET_WRITE)
    assert found["text"].endswith(f"none can be made: this user cannot write to {log.parent}")


def test_a_file_is_no_log(tmp_path):
    (tmp_path / "file").touch()
    (found,) = logs(tmp_path / "file", 1000, 0)
    assert (found.state, found.remedy) == ("fault", "choose another: --log DIR")
    assert found.text == f"{tmp_path / 'file'} is a file, and a log is a directory"


def test_a_log_whose_segments_are_gone_is_a_fault(log):
    for segment in (log / "segments").iterdir():
        segment.unlink()
    (log / "closed.json").write_bytes(b"not what was written")
    (found, *_) = logs(log, 1000, 0)
    assert (found.state, found.remedy) == ("fault", f"mlzoo log repair {log}")


def test_a_place_below_a_file_is_a_fault(tmp_path):
    (tmp_path / "file").touch()
    (found, *_) = logs(tmp_path / "file" / "log", 1000, 0)
    assert found.state == "fault"
