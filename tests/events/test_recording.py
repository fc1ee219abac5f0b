import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlzoo.events import recording
from mlzoo.events.recording import RecordingUnusable

HEADER = {"recording": 1, "minor": 0, "mlzoo": "0.1.0"}
LINES = [
    {"host": "con-1", "n": 1, "ms": 0, "id": 1, "method": "ping"},
    {"sidecar": "con-1", "for": 1, "ms": 0, "result": {}},
    {"host": "con-2", "n": 1, "ms": 1, "id": 1, "method": "ping"},
    {"group": 1, "at_ms": 0, "ms": 0, "command": ["Strike", 1, {}], "events": []},
]


@pytest.fixture
def path(tmp_path):
    recording.write(tmp_path / "r.ndjson", HEADER, LINES)
    return tmp_path / "r.ndjson"


def reason(data):
    with pytest.raises(RecordingUnusable) as caught:
        recording.parse(data, "it")
    return caught.value.data["reason"]


def test_what_is_written_is_read(path):
    found = recording.read(path)
    assert (found.header, list(found.lines)) == (HEADER, LINES)
    assert found.connections() == ["con-1", "con-2"]
    assert found.wire("con-1") == LINES[:2]
    assert list(found.groups()) == LINES[3:]


def test_the_same_session_is_written_as_the_same_bytes(path, tmp_path):
    recording.write(tmp_path / "again.ndjson", HEADER, LINES)
    assert (tmp_path / "again.ndjson").read_bytes() == path.read_bytes()


def test_a_recording_that_is_cut_anywhere_cannot_be_used(path):
    data = path.read_bytes()
    assert {reason(data[:size]) for size in range(len(data))} == {"none", "cut"}


def test_a_recording_of_which_a_line_is_missing_cannot_be_used(path):
    lines = path.read_bytes().splitlines(keepends=True)
    assert reason(b"".join(lines[:2] + lines[3:])) == "cut"


@given(st.data())
def test_a_recording_with_any_byte_changed_cannot_be_used(data):
    whole = orjson.dumps(HEADER) + b"\n" + b"".join(orjson.dumps(line) + b"\n" for line in LINES)
    end = recording._end(5, recording.hashlib.sha256(whole).hexdigest())
    assert recording.parse(whole + end, "it").header == HEADER
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole + end)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert reason(bytes(changed)) in {"edited", "cut", "none", "newer"}


def test_a_wrong_digest_is_said(path):
    data = path.read_bytes().replace(b'"id":1,"method":"ping"', b'"id":7,"method":"ping"')
    with pytest.raises(RecordingUnusable, match="it was edited: its digest is"):
        recording.parse(data, "it")


def test_line_ends_that_were_changed_are_said(path):
    with pytest.raises(RecordingUnusable, match="line ends were changed"):
        recording.parse(path.read_bytes().replace(b"\n", b"\r\n"), "it")


@pytest.mark.parametrize("data", [b"", b"\n", b"[]\n", b"text\n", b'{"crc":"0"}\n', b"\xff\n"])
def test_what_is_no_recording_is_said_to_be_none(data):
    assert reason(data) == "none"


def test_a_newer_format_is_refused(tmp_path):
    recording.write(tmp_path / "new.ndjson", {**HEADER, "recording": 2}, [{"what": "ever"}])
    assert reason((tmp_path / "new.ndjson").read_bytes()) == "newer"


def test_what_a_newer_minor_version_adds_is_kept(tmp_path):
    header, lines = {**HEADER, "minor": 9, "mood": "fair"}, [*LINES, {"weather": "rain"}]
    recording.write(tmp_path / "new.ndjson", header, lines)
    found = recording.read(tmp_path / "new.ndjson")
    recording.write(tmp_path / "again.ndjson", found.header, found.lines)
    assert (tmp_path / "again.ndjson").read_bytes() == (tmp_path / "new.ndjson").read_bytes()


def test_a_recording_is_written_whole_or_not_at_all(tmp_path):
    def breaking():
        yield LINES[0]
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        recording.write(tmp_path / "r.ndjson", HEADER, breaking())
    assert list(tmp_path.iterdir()) == []
