"""One line in, one line out, over whatever stdin and stdout are."""

import json
import os
import socket
import stat
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest
from real_process import PATIENCE_S, RawSidecar, call, is_whole, mlzoo, serve_command, story

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
PONG = {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_a_ping_through_a_pipe_is_answered_and_the_exit_status_is_0(log):
    done = mlzoo("serve", "--log", log, stdin=None, input=PING)
    assert json.loads(done.stdout) == PONG
    assert done.returncode == 0


def test_a_ping_without_a_newline_is_answered(log):
    done = mlzoo("serve", "--log", log, stdin=None, input=PING.rstrip())
    assert json.loads(done.stdout) == PONG


def test_stdin_and_stdout_may_be_files(log, tmp_path):
    (tmp_path / "in").write_bytes(PING * 3)
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        done = subprocess.run(serve_command("--log", log), stdin=stdin, stdout=stdout, check=False)
    assert [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()] == [PONG] * 3
    assert done.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="sockets are no file descriptors there")
def test_stdin_and_stdout_may_be_one_socket(log):
    ours, theirs = socket.socketpair()
    with ours, subprocess.Popen(serve_command("--log", log), stdin=theirs, stdout=theirs) as process:
        theirs.close()
        ours.sendall(PING)
        with ours.makefile("rb") as lines:
            assert json.loads(lines.readline()) == PONG
            ours.shutdown(socket.SHUT_WR)
            assert lines.read() == b""
        assert process.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals")
def test_stdin_and_stdout_may_be_a_terminal_whose_flags_stay_as_they_are(log):
    import fcntl
    import pty
    import tty

    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    before = fcntl.fcntl(theirs, fcntl.F_GETFL)
    with subprocess.Popen(serve_command("--log", log), stdin=theirs, stdout=theirs) as process:
        os.write(ours, PING)
        with open(ours, "rb", buffering=0, closefd=False) as lines:
            assert json.loads(lines.readline()) == PONG
        process.kill()
    assert fcntl.fcntl(theirs, fcntl.F_GETFL) == before
    os.close(ours)
    os.close(theirs)


def test_what_was_asked_before_the_end_of_input_is_still_decided_also_where_that_takes_several_looks(log):
    lines = [
        call("personas.put", 1, name="kind", system="Be kind."),
        call("personas.list", 2),
        call("personas.delete", 3, name="kind"),
    ]
    done = mlzoo("serve", "--log", log, stdin=None, input="".join(json.dumps(line) + "\n" for line in lines).encode())
    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    assert [number for number, answer in sorted(answers.items()) if "result" in answer] == [1, 2, 3]


def test_no_input_at_all_is_no_error(log):
    done = mlzoo("serve", "--log", log)
    assert (done.returncode, done.stdout) == (0, b"")


def test_every_request_that_was_read_is_answered_before_the_process_leaves(log):
    count = 3000
    lines = b"".join(json.dumps(call("ping", request)).encode() + b"\n" for request in range(count))
    done = mlzoo("serve", "--log", log, stdin=None, input=lines)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == list(range(count))


def test_a_host_that_never_reads_stderr_is_served(log):
    process = subprocess.Popen(
        serve_command("--log", log), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        for request in range(2000):  # Errors too, of which the sidecar might write a line each.
            process.stdin.write(json.dumps(call("no.such.method", request)).encode() + b"\n" + PING)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == request
            assert json.loads(process.stdout.readline()) == PONG
        process.stdin.close()
        assert process.wait() == 0


def test_a_host_that_does_not_read_costs_no_memory_and_misses_nothing(sidecar):
    count = 50_000
    assert sidecar.ping()
    process = psutil.Process(sidecar.process.pid)
    before = process.memory_info().rss
    for start in range(0, count, 1000):  # Far more answers than the pipe holds.
        sidecar.send(*(call("ping", request) for request in range(start, start + 1000)))
    assert process.memory_info().rss - before < 48 * 1024 * 1024
    assert [sidecar.receive()["id"] for _ in range(count)] == list(range(count))
    assert sidecar.leave() == (0, [])


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
def test_a_socket_serves_several_clients_of_this_user_alone(log, tmp_path):
    path = tmp_path / "socket"
    with RawSidecar("--log", log, "--socket", path) as sidecar:
        assert "result" in sidecar.ask(call("models.list"))  # By then all of it runs.
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.connect(str(path))
        for client in clients:
            client.sendall(PING)
        for client in clients:
            with client, client.makefile("rb") as lines:
                assert json.loads(lines.readline()) == PONG
        assert sidecar.ping()
        assert sidecar.leave() == (0, [])
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the shell")
def test_a_disk_that_takes_no_more_ends_the_sidecar_with_status_3_and_nothing_was_said_that_is_not_recorded(log):
    """A limit on the size of files is what a full disk looks like: a short write, then an error."""
    command = ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *serve_command("--log", log)]
    answered = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with suppress(BrokenPipeError):
            while process.stdin.write(json.dumps(call("models.list", len(answered))).encode() + b"\n"):
                process.stdin.flush()
                line = process.stdout.readline()
                if not line or "result" not in json.loads(line):
                    break
                answered.append(json.loads(line)["id"])
        assert process.wait(PATIENCE_S) == 3
        assert b"storage failed" in process.stderr.read()
    assert mlzoo("serve", "--log", log).returncode == 0  # With room again the next start cuts off what was torn.
    assert is_whole(log)
    recorded = [record["rpc"] for record in story(log) if record.get("method") == "models.list"]
    assert answered
    assert recorded[: len(answered)] == answered == list(range(len(answered)))


def test_a_host_that_closes_stdout_early_ends_the_sidecar(log):
    with RawSidecar("--log", log) as sidecar:
        assert sidecar.ping()
        sidecar.process.stdout.close()
        sidecar.process.stdin.close()
        assert sidecar.process.wait() == 0


def test_wrong_usage_is_status_2_and_nothing_on_stdout():
    done = mlzoo("serve", "--no-such-option")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--no-such-option" in done.stderr


def test_a_configuration_that_does_not_hold_is_status_2_and_names_the_nearest(log):
    done = mlzoo("serve", "--log", log, "limits.max_runing=8")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"max_running" in done.stderr
    assert b"Traceback" not in done.stderr
