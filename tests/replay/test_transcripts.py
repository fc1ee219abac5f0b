"""The recordings in replay/ and what they must give: line for line, and a change of any kind is found.

Beside each recording lies a transcript: what a host sends (``>``) and hears (``<``). ``pytest --mlzoo-record`` writes
them anew, after the recordings.
"""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from playing_host import asked

from mlzoo.events import recording
from mlzoo.replay.check import check
from mlzoo.world import real_world

REPLAY = Path(__file__).parent.parent.parent / "replay"
SESSIONS = ("cancel", "chat", "conversation", "embed")  # What was sent to be refused is not kept.


def play(path, *options, lines=None):
    """Play a recording to a host that sends what was recorded; return the process, ended."""
    sent = asked(recording.read(path), first_id=1) if lines is None else lines
    data = b"".join(orjson.dumps(line) + b"\n" for line in sent)
    command = [sys.executable, "-m", "mlzoo", "replay", "play", str(path), *options]
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)


def transcript(path):
    sent = asked(recording.read(path), first_id=1)
    return "".join(
        [f"> {orjson.dumps(line).decode()}\n" for line in sent]
        + [f"< {line}\n" for line in play(path).stdout.decode().splitlines()]
    )


@pytest.mark.parametrize("name", SESSIONS)
def test_a_host_hears_what_the_transcript_says(name, request):
    path, expected = REPLAY / f"{name}.ndjson", REPLAY / f"{name}.txt"
    if request.config.getoption("--mlzoo-record"):
        expected.write_text(transcript(path))
    assert transcript(path) == expected.read_text()


@pytest.mark.parametrize("path", sorted(REPLAY.glob("*.ndjson")), ids=lambda path: path.stem)
def test_what_was_decided_is_decided_again(path):
    found = check(real_world(), path)
    assert found.difference is None, "\n".join(found.told())
    assert found.compared + found.folded > 0


def changed(tmp_path, name, change):
    """Return a copy of a recording of which something was changed, and its digest with it."""
    found = recording.read(REPLAY / f"{name}.ndjson")
    lines = [orjson.loads(orjson.dumps(line)) for line in found.lines]
    change(lines, [index for index, line in enumerate(lines) if "stream" in line])
    recording.write(tmp_path / "changed.ndjson", found.header, lines)
    return tmp_path / "changed.ndjson"


def another_answer(lines, streamed):
    lines[streamed[3]]["stream"]["delta"]["content"] += "!"


def another_order(lines, streamed):
    first, second = streamed[1:3]
    lines[first], lines[second] = lines[second], lines[first]


def another_border(lines, streamed):
    left, right = (lines[index]["stream"]["delta"] for index in streamed[2:4])
    left["content"], right["content"] = left["content"] + right["content"][:1], right["content"][1:]


def another_result(lines, _):
    [*_, last] = [line for line in lines if line.keys() & {"result", "error"}]
    last |= {"result": {"cancelled": False}}


def an_answer_too_few(lines, streamed):
    del lines[streamed[-1]]


@pytest.mark.parametrize("change", [another_answer, another_order, another_border, another_result, an_answer_too_few])
@pytest.mark.parametrize("name", ["chat", "cancel"])
def test_a_planted_change_of_what_is_heard_is_found(name, change, tmp_path):
    path = changed(tmp_path, name, change)
    assert transcript(path) != (REPLAY / f"{name}.txt").read_text()


def test_a_change_without_its_digest_is_refused_before_anything_is_said(tmp_path):
    data = (REPLAY / "chat.ndjson").read_bytes()
    (tmp_path / "edited.ndjson").write_bytes(data.replace(b'"seq":1,', b'"seq":2,', 1))
    done = play(tmp_path / "edited.ndjson", lines=[])
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"it was edited" in done.stderr


# ------------------------------------------------------------------------------------------------ the command


def test_a_session_that_was_used_whole_ends_with_0():
    done = play(REPLAY / "embed.ndjson")
    assert done.returncode == 0
    assert done.stderr == b"mlzoo replay: used 3, unused 0, mismatched 0: all as recorded\n"


def test_a_session_of_which_something_is_left_ends_with_1_and_says_what():
    lines = asked(recording.read(REPLAY / "embed.ndjson"))
    done = play(REPLAY / "embed.ndjson", lines=lines[:-1])
    assert done.returncode == 1
    assert b"line 3, detokenize, was not sent" in done.stderr
    assert b"used 2, unused 1, mismatched 0: NOT as recorded" in done.stderr


def test_a_mismatch_is_an_error_on_the_wire_and_in_the_report(tmp_path):
    lines = asked(recording.read(REPLAY / "embed.ndjson"))
    lines[1]["params"]["text"] = "a dog"
    done = play(REPLAY / "embed.ndjson", "--report", str(tmp_path / "report"), lines=lines)
    [error] = [orjson.loads(line)["error"] for line in done.stdout.splitlines() if b"error" in line]
    assert error["code"] == 1018
    assert error["data"]["differences"] == [{"path": "params.text", "recorded": '"a cat"', "got": '"a dog"'}]
    assert done.returncode == 1
    assert 'params.text: recorded "a cat", got "a dog"' in (tmp_path / "report").read_text()


def test_play_imports_neither_torch_nor_what_it_does_without():
    code = (
        "import sys; from mlzoo.cli import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'trio', 'cattrs', 'argparse', 'omegaconf', 'psutil', 'mlzoo.events.types'};"
        "sys.exit(status or sorted(heavy & set(sys.modules)) or 0)"
    )
    path = REPLAY / "embed.ndjson"
    data = b"".join(orjson.dumps(line) + b"\n" for line in asked(recording.read(path)))
    command = [sys.executable, "-c", code, "replay", "play", str(path)]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_several_connections_need_a_name(tmp_path):
    found = recording.read(REPLAY / "embed.ndjson")
    other = [
        {**line, **{side: "con-2" for side in ("host", "sidecar") if side in line}}
        for line in found.lines
        if "group" not in line
    ]
    recording.write(tmp_path / "two.ndjson", found.header, [*found.lines, *other])
    done = play(tmp_path / "two.ndjson", lines=[])
    assert done.returncode == 2
    assert b"say which one to play with --connection:\n  con-1: 3 lines" in done.stderr
    assert b"\n  con-2: 3 lines (1 embed, 1 tokenize, 1 detokenize); first: embed" in done.stderr
    assert play(tmp_path / "two.ndjson", "--connection", "con-2", lines=asked(found)).returncode == 0


@pytest.mark.parametrize("words", [["--speed", "0"], ["--speed", "fast"], [], ["a", "b"]])
def test_wrong_usage_is_status_2(words):
    command = [sys.executable, "-m", "mlzoo", "replay", "play", *words]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 2


def test_a_recording_that_is_not_there_is_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "mlzoo", "replay", "play", "nowhere.ndjson"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert b"nowhere.ndjson cannot be read" in done.stderr


def test_check_as_a_command(tmp_path):
    def run(path):
        command = [sys.executable, "-m", "mlzoo", "replay", "check", str(path)]
        return subprocess.run(command, capture_output=True, check=False, timeout=60, text=True)

    done = run(REPLAY / "chat.ndjson")
    assert (done.returncode, done.stdout.endswith("all as recorded\n")) == (0, True)

    def change(lines, _):
        group = next(line for line in lines if "group" in line and line["command"][0] == "ReportStep")
        group["events"][0][2]["tokens"] = 5

    done = run(changed(tmp_path, "chat", change))
    assert done.returncode == 1
    assert "events[0].tokens: recorded 5, got 1" in done.stdout
