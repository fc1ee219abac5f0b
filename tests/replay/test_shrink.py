"""The smallest recording that still fails."""

import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from mlzoo.cli import main
from mlzoo.events import recording
from mlzoo.replay import failing
from mlzoo.replay.check import check
from mlzoo.replay.shrink import shrunk, size_of
from mlzoo.world import real_world

RECORDINGS = Path(__file__).parent.parent.parent / "replay"


def test_calls_that_the_failure_does_not_need_go_and_a_cancel_keeps_what_it_names():
    found = recording.read(RECORDINGS / "cancel.ndjson")
    *_, smallest = [found, *shrunk(found, lambda tried: b'"method":"cancel"' in orjson.dumps(tried.lines))]
    assert [line.get("method") for line in smallest.lines if "host" in line] == ["chat", "cancel", None]
    assert sum("result" in line or "error" in line for line in smallest.lines) == 2
    found = recording.read(RECORDINGS / "errors.ndjson")
    *_, smallest = shrunk(found, lambda tried: b'"method":"ping"' in orjson.dumps(tried.lines))
    assert [(line["n"], line.get("method")) for line in smallest.lines if "host" in line] == [(1, "ping"), (2, None)]


def test_of_a_decision_that_comes_out_otherwise_that_group_alone_is_left(tmp_path, capsys):
    found = recording.read(RECORDINGS / "cancel.ndjson")
    lines = orjson.loads(orjson.dumps(found.lines))
    [group] = [line for line in lines if line.get("group") == 20]
    group["events"][0][2]["seq"] = 9
    recording.write(tmp_path / "failing.ndjson", found.header, lines)
    small = tmp_path / "small.ndjson"
    assert main(["replay", "shrink", str(tmp_path / "failing.ndjson"), "--check", "check", "-o", str(small)]) == 0
    assert "1 groups, of 2 calls" in capsys.readouterr().out
    assert check(real_world(), small).difference is not None


def test_a_command_says_what_fails_and_runs_are_bounded(tmp_path, capsys):
    command = f"{sys.executable} -c 'import sys; sys.exit(7)' {{}}"
    words = ["replay", "shrink", str(RECORDINGS / "errors.ndjson"), "-o", str(tmp_path / "small.ndjson")]
    assert main([*words, "--check", command, "--runs", "2"]) == 0
    assert "after 2 runs; its time or its runs are used up" in capsys.readouterr().out
    assert main([*words, "--check", "check"]) == 2
    assert "does not fail" in capsys.readouterr().err


def test_a_candidate_that_makes_the_command_hang_does_not_use_up_all_of_the_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(failing, "LEAST_S", 0.1)
    whole_bytes = (RECORDINGS / "errors.ndjson").stat().st_size
    waits = f"import os, sys, threading; os.path.getsize(sys.argv[1]) >= {whole_bytes} or threading.Event().wait(600)"
    command = f"{sys.executable} -c '{waits}; sys.exit(7)' {{}}"
    words = ["replay", "shrink", str(RECORDINGS / "errors.ndjson"), "-o", str(tmp_path / "small.ndjson")]
    assert main([*words, "--check", command, "--runs", "4"]) == 0
    assert "after 4 runs; its time or its runs are used up" in capsys.readouterr().out


def test_ctrl_c_leaves_the_smallest_so_far_and_says_so(tmp_path, capsys, monkeypatch):
    check_it = failing.Trial.status

    def pressed_at_the_fourth(trial, found):
        if trial.count == 3:
            signal.raise_signal(signal.SIGINT)
        return check_it(trial, found)

    monkeypatch.setattr(failing.Trial, "status", pressed_at_the_fourth)
    command = f"{sys.executable} -c 'import sys; sys.exit(7)' {{}}"
    whole, small = RECORDINGS / "errors.ndjson", tmp_path / "small.ndjson"
    assert main(["replay", "shrink", str(whole), "-o", str(small), "--check", command]) == 130
    told = capsys.readouterr()
    left = size_of(recording.read(small))
    assert left.groups < size_of(recording.read(whole)).groups
    assert f"run 3: fails as well: {left}" in told.err
    assert told.out.endswith(f"{left}, of {size_of(recording.read(whole))}, after 3 runs; interrupted\n")


# ------------------------------------------------------------------------------------------------ bad input


def cut(data):
    return data[: data.rfind(b'{"end"')]


def edited(data):
    return data.replace(b"Red", b"Rad", 1)


def newer(data):
    return data.replace(b'{"recording":1', b'{"recording":2', 1)


def wrong_digest(data):
    return data.replace(b'"sha256":"', b'"sha256":"0', 1)


@pytest.mark.parametrize("command", ["check", "play", "rerun", "shrink"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [(cut, "is cut"), (edited, "was edited"), (newer, "use a newer mlzoo"), (wrong_digest, "record it again")],
)
def test_a_recording_that_cannot_be_believed_is_refused_with_what_to_do(command, damage, said, tmp_path, capfd):
    path = tmp_path / "bad.ndjson"
    path.write_bytes(damage((RECORDINGS / "cancel.ndjson").read_bytes()))
    more = ["--check", "check"] if command == "shrink" else []
    if command == "play":  # It takes the process's own stdio.
        done = subprocess.run(
            [sys.executable, "-m", "mlzoo", "replay", "play", str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        status, err = done.returncode, done.stderr.decode()
    else:
        status, err = main(["replay", command, str(path), *more]), capfd.readouterr().err
    assert status == 1
    assert said in err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.ndjson"]
