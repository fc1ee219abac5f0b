"""Claiming stdin and stdout, in real child processes with each kind of thing that a host may put there."""

import os
import pathlib
import pty
import signal
import socket
import subprocess
import sys
import tty

import pytest

ROOT = pathlib.Path(__file__).parents[2]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

ECHO = """
import trio
from mlzoo.transport.blocking import BlockingStream

async def main():
    stream = BlockingStream(*claimed)
    while chunk := await stream.receive_some():
        await stream.send_all(chunk)
    await stream.aclose()

trio.run(main)
"""
CLAIM = """
from mlzoo.transport.stdio import claim
claimed = claim()
"""
NOISE = """
import ctypes, os, subprocess, sys
print("print")
os.write(1, b"write\\n")
libc = ctypes.CDLL(None)
libc.puts(b"puts")
libc.fflush(None)
subprocess.run(["echo", "grandchild"], check=True)
subprocess.run([sys.executable, "-c", "print('grandchild python')"], check=True)
"""
THIEVES = """
import subprocess, sys
assert subprocess.run(["cat"], capture_output=True, check=True).stdout == b""
assert sys.stdin.read() == ""
try:
    input()
except EOFError:
    pass
"""


def child(script, **options):
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, **{"stdin": None, "stdout": None, **options}
    )


def run(script, data=b""):
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=BUFFERED, input=data, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done


def test_whatever_is_printed_goes_to_stderr_and_the_wire_stays_clean():
    done = run('print("before the claim")' + CLAIM + NOISE + ECHO, b"one\ntwo\n")
    assert done.stdout == b"one\ntwo\n"
    for noise in (b"before the claim", b"print", b"write", b"puts", b"grandchild", b"grandchild python"):
        assert noise in done.stderr.splitlines()


def test_nobody_else_can_read_the_requests():
    assert run(CLAIM + THIEVES + ECHO, b"one\ntwo\n").stdout == b"one\ntwo\n"


def test_without_the_claim_the_noise_would_reach_the_wire():
    assert b"puts" in run(NOISE).stdout


def test_children_inherit_neither_copy():
    script = (
        CLAIM
        + """
import os, subprocess, sys
assert min(claimed) > 2
assert [os.get_inheritable(fd) for fd in (0, 1, 2, *claimed)] == [True, True, True, False, False]
grandchild = "import os, sys; [os.fstat(int(fd)) for fd in sys.argv[1:]]"
look = [sys.executable, "-c", grandchild]
assert subprocess.run([*look, "0", "1", "2"], close_fds=False).returncode == 0
for fd in claimed:
    assert subprocess.run([*look, str(fd)], close_fds=False).returncode == 1
"""
    )
    run(script)


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1], [0, 1, 2]])
def test_a_standard_descriptor_that_is_closed_counts_as_the_null_device(closed):
    redirections = " ".join(f"{fd}>&-" for fd in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, CLAIM + ECHO],
        cwd=ROOT,
        input=b"one\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (b"" if {0, 1} & set(closed) else b"one\n")


def test_stdin_and_stdout_may_be_files(tmp_path):
    (tmp_path / "in").write_bytes(b"line\n" * 100_000)
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        process = child(CLAIM + ECHO, stdin=stdin, stdout=stdout)
        assert process.communicate(timeout=60) == (None, b"")
    assert (tmp_path / "out").read_bytes() == b"line\n" * 100_000


def test_stdin_and_stdout_may_be_one_socket():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = child(CLAIM + NOISE + ECHO, stdin=theirs, stdout=theirs)
        ours.sendall(b"ping\n")
        ours.shutdown(socket.SHUT_WR)
        theirs.close()
        received = b""
        while some := ours.recv(1000):
            received += some
        process.communicate(timeout=60)
    assert (process.returncode, received) == (0, b"ping\n")


def test_a_terminal_keeps_its_flags_even_where_the_process_is_killed():
    controller, terminal = pty.openpty()
    tty.setraw(terminal)
    try:
        process = child(CLAIM + ECHO, stdin=terminal, stdout=terminal)
        os.write(controller, b"ping\n")
        assert os.read(controller, 100) == b"ping\n"
        process.kill()
        process.communicate(timeout=60)
        assert os.get_blocking(terminal)
    finally:
        os.close(controller)
        os.close(terminal)


def test_a_process_may_leave_while_its_threads_are_blocked_for_good():
    script = CLAIM + (
        "import trio\n"
        "from mlzoo.transport.blocking import BlockingStream\n"
        "async def main():\n"
        "    stream = BlockingStream(*claimed)\n"
        "    stream.send_nowait(b'x' * 10_000_000)\n"
        "    with trio.CancelScope() as scope:\n"
        "        scope.cancel()\n"
        "        await stream.aclose()\n"
        "trio.run(main)\n"
    )
    with child(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        # Nothing is written to it, and nothing read, before it has left.
        assert process.wait(timeout=60) == 0


def test_a_host_that_leaves_before_reading_the_answer_is_no_traceback():
    process = child(CLAIM + ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_every_reply_that_is_due_is_written_before_the_process_leaves():
    lines = b"".join(b"%d\n" % number for number in range(100_000))
    assert run(CLAIM + ECHO, lines).stdout == lines


def test_a_stopped_reader_gets_everything_once_it_reads_on():
    data = os.urandom(2_000_000)
    with child(CLAIM + ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        assert process.communicate(data, timeout=60) == (data, b"")


def test_the_claim_imports_nothing_heavy():
    script = (
        CLAIM + "import sys\nassert not {'trio', 'attrs', 'orjson', 'mlzoo.transport.blocking'} & set(sys.modules)\n"
    )
    run(script)
