"""The smallest recording that still fails."""

import hashlib
import os
import re
import shlex
import shutil
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


WORDS = "import sys; sys.exit(7 if b'\"host\"' in open(sys.argv[1], 'rb').read() else 0)"
FAILS_WITH_7 = shlex.join([sys.executable, "-c", WORDS, "{}"])
"""Where a host says anything."""


def test_a_command_says_what_fails_and_runs_are_bounded(tmp_path, capsys):
    words = ["replay", "shrink", str(RECORDINGS / "errors.ndjson"), "-o", str(tmp_path / "small.ndjson")]
    assert main([*words, "--check", FAILS_WITH_7, "--runs", "2"]) == 0
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
    whole, small = RECORDINGS / "errors.ndjson", tmp_path / "small.ndjson"
    assert main(["replay", "shrink", str(whole), "-o", str(small), "--check", FAILS_WITH_7]) == 130
    told = capsys.readouterr()
    left = size_of(recording.read(small))
    assert left.groups < size_of(recording.read(whole)).groups
    assert f"run 3: fails as well: {left}" in told.err
    assert told.out.endswith(f"{left}, of {size_of(recording.read(whole))}, after 3 runs; interrupted\n")


# ------------------------------------------------------------------------------------------------ tests as checks

ROOT = Path(__file__).parent.parent.parent
TEST = """
import pytest

@pytest.mark.mlzoo_recording("../embed.ndjson")
def test_greets(replayed_sidecar):
    with replayed_sidecar.connect() as client:
        found = client.call("embed", {"input": ["a cat", "a kitten", "tax law"]})
        assert len(found["embeddings"]) == 4
        client.call("tokenize", {"text": "a cat"})
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    """A directory with an application's failing test, and the recording under the name that the README gives it."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_app.py").write_text(TEST)
    shutil.copy(RECORDINGS / "embed.ndjson", tmp_path / "greeting.ndjson")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider")
    return tmp_path


def test_the_command_of_the_readme_shrinks_to_what_the_failing_test_needs(app, capsys):
    [line] = re.findall(r"^mlzoo (replay shrink [^#\n]*)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert main(shlex.split(line)) == 0
    assert "1 calls, " in capsys.readouterr().out
    small = recording.read(app / "greeting.small.ndjson")
    assert [line.get("method") for line in small.lines if "host" in line] == ["embed", None]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("pytest tests/test_app.py {}", "status 4 of pytest is no failed test"),
        ("pytest tests/test_app.py --mlzoo-recording {} -k nothing", "it found no tests"),
        ("pytest tests/test_app.py", "status 4 of pytest is no failed test"),
        ("false", "for a recording that holds nothing as well"),
    ],
)
def test_a_command_whose_status_says_nothing_of_the_recording_is_refused(app, capsys, check, said):
    assert main(["replay", "shrink", "greeting.ndjson", "--check", check]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert ("--mlzoo-recording {}" in told) == check.startswith("pytest")
    assert not (app / "greeting.small.ndjson").exists()


def test_a_test_that_sends_what_the_recording_has_not_is_no_failure_to_shrink(app, capsys):
    words = ["replay", "shrink", "greeting.ndjson", "--check", "pytest tests/test_app.py --mlzoo-recording {}"]
    (app / "tests" / "test_app.py").write_text(TEST.replace("a kitten", "a dog"))
    assert main(words) == 2
    assert "the test's session is not the recorded one" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ bad input


def cut(data):
    return data[: data.rfind(b'{"end"')]


def edited(data):
    return data.replace(b"Red", b"Rad", 1)


def newer(data):
    return data.replace(b'{"recording":1', b'{"recording":2', 1)


def wrong_digest(data):
    return data.replace(b'"sha256":"', b'"sha256":"0', 1)


def blank(data):
    return data + b"\n"


def zero(data):
    return data.replace(b'{"recording":1', b'{"recording":0', 1)


def sealed(change):
    """Return damage that changes a line and has the end of the recording agree with it."""

    def damage(data):
        body = data[: data.rfind(b'{"end"')]
        lines = body.splitlines(keepends=True)
        body = b"".join([lines[0], change(lines[1]), *lines[2:]])
        end = {"end": {"lines": len(lines), "sha256": hashlib.sha256(body).hexdigest()}}
        return body + orjson.dumps(end) + b"\n"

    return damage


@pytest.mark.parametrize("command", ["check", "play", "rerun", "shrink"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "is cut"),
        (edited, "was edited"),
        (newer, "use a newer mlzoo"),
        (wrong_digest, "record it again"),
        (blank, "blank lines follow its end"),
        (zero, "it is no recording"),
        (sealed(lambda _line: b"no JSON\n"), "its line 2 is none of a recording: it is no JSON object"),
        (sealed(lambda _line: b"[1]\n"), "it is no JSON object"),
        (sealed(lambda line: line.replace(b'"method"', b'"m"')), "it has no method"),
        (sealed(lambda line: line.replace(b'"n":1', b'"n":true')), "its n is missing or of another kind"),
        (sealed(lambda line: line.replace(b'"host"', b'"who"')), "it has none of the keys host, sidecar, group"),
    ],
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


def test_one_wrong_character_of_the_digest_can_be_seen(tmp_path, capsys):
    data = (RECORDINGS / "embed.ndjson").read_bytes()
    place = data.rindex(b'"sha256":"') + 40
    wrong = data[:place] + (b"0" if data[place : place + 1] != b"0" else b"1") + data[place + 1 :]
    (tmp_path / "bad.ndjson").write_bytes(wrong)
    assert main(["replay", "check", str(tmp_path / "bad.ndjson")]) == 1
    was, now = re.search(r"its digest is (\w+) and its end says (\w+);", capsys.readouterr().err).groups()
    assert was != now


def test_a_recording_with_an_event_of_a_newer_version_is_said_to_be_one(tmp_path, capsys):
    found = recording.read(RECORDINGS / "embed.ndjson")
    lines = orjson.loads(orjson.dumps(found.lines))
    group = next(line for line in lines if "group" in line)
    group["events"][0][0] = "Wonder"
    recording.write(tmp_path / "new.ndjson", found.header, lines)
    assert main(["replay", "check", str(tmp_path / "new.ndjson")]) == 1
    assert "the recording holds 'Wonder'" in capsys.readouterr().err


def test_a_check_of_what_cannot_be_folded_does_not_say_that_all_is_as_recorded(tmp_path, capsys):
    found = recording.read(RECORDINGS / "embed.ndjson")
    header = {**found.header, "folds": False, "part": "request"}
    recording.write(tmp_path / "one.ndjson", header, found.lines)
    assert main(["replay", "check", str(tmp_path / "one.ndjson")]) == 0
    assert capsys.readouterr().out.endswith("0 records compared: nothing could be decided again\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["play", "x", "--speed", "-1"], "'-1' is no speed: give a number above 0, or max"),
        (["rerun", "x", "--timeout", "0"], "'0' is no number above 0"),
        (["shrink", "x", "--check", "check", "--runs", "-3"], "'-3' is no whole number above 0"),
        (["play", "x", "--in-turn", "d", "--report", "f"], "--report: not allowed with argument --in-turn"),
    ],
)
def test_a_wrong_number_is_told_with_what_is_right(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["replay", *words])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
