"""``mlzoo serve`` as a shell starts it: signals of a terminal, and a stdout that cannot be written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 120
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
PONG = b'{"jsonrpc":"2.0","id":1,"result":{}}\n'

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and shells of POSIX")


def start(tmp_path, *wrapper, **options):
    command = [*wrapper, sys.executable, "-m", "mlzoo", "serve", "--log", str(tmp_path / "log")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def ping(process):
    process.stdin.write(PING)
    process.stdin.flush()
    return process.stdout.readline()


@pytest.fixture
def heard_hangups():
    """Have children hear SIGHUP, also where these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard_hangups")
def test_a_closed_terminal_ends_the_sidecar_in_order(tmp_path):
    with start(tmp_path, stdout=subprocess.PIPE) as process:
        assert ping(process) == PONG
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE_S) == 0
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")
    told = subprocess.run(
        [sys.executable, "-m", "mlzoo", "log", "cat", tmp_path / "log"], capture_output=True, check=True
    ).stdout
    assert b'"reason":"signal"' in told
    assert b'"type":"SidecarStopped"' in told


def test_under_nohup_a_closed_terminal_is_no_end(tmp_path):
    with start(tmp_path, "sh", "-c", 'trap "" HUP; exec "$@"', "sh", stdout=subprocess.PIPE) as process:
        assert ping(process) == PONG
        process.send_signal(signal.SIGHUP)
        assert ping(process) == PONG
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_answers_that_a_full_disk_did_not_take_are_status_3(tmp_path):
    with Path("/dev/full").open("wb") as full, start(tmp_path, stdout=full) as process:
        _, told = process.communicate(PING, PATIENCE_S)
    assert process.returncode == 3
    assert b"stdout cannot be written" in told
    assert b"No space left on device" in told


def test_answers_that_were_due_to_a_host_that_has_left_are_no_success(tmp_path):
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with os.fdopen(write_fd, "wb") as broken, start(tmp_path, stdout=broken) as process:
        process.communicate(PING, PATIENCE_S)
    assert process.returncode == 141


def test_a_closed_stdout_is_refused_where_no_socket_is_served(tmp_path):
    with start(tmp_path, "sh", "-c", 'exec "$@" >&-', "sh") as process:
        _, told = process.communicate(PING, PATIENCE_S)
    assert (process.returncode, told.count(b"\n")) == (3, 1)
    assert b"there is nobody to serve" in told
