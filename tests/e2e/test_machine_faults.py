"""What a machine does to a process: kill -9 at any moment, a full disk, a host that is gone, a clock that is set."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from random import Random

import psutil
import pytest
from real_process import (
    PATIENCE_S,
    RawSidecar,
    call,
    hosting,
    is_whole,
    mlzoo,
    serve_command,
    story,
    user,
    wait_until_gone,
)

from mlzoo.client import RemoteError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, limits and symbols of Linux")

KILLS = 12
IN_FLIGHT = 40
GREEDY = {"messages": user("Count from one to forty in words."), "temperature": 0, "max_tokens": 48}
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

/* The wall clock is off by as many seconds as a file says, from one reading to the next. */
static volatile long *offset_s;

__attribute__((constructor)) static void look(void) {
    int fd = open(getenv("CLOCK_OFFSET"), O_RDONLY);
    if (fd >= 0) offset_s = mmap(0, sizeof *offset_s, PROT_READ, MAP_SHARED, fd, 0);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (!status && clock == CLOCK_REALTIME && offset_s && offset_s != MAP_FAILED) now->tv_sec += *offset_s;
    return status;
}
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_answered(log):
    """Pings are recorded before they are answered, what the engine decides is on the disk before: again and again."""
    random = Random(1)
    answered = []
    for life in range(KILLS):
        with RawSidecar("--log", log) as sidecar:
            calls = [f"{life}.{number}" for number in range(IN_FLIGHT)]
            asked = [
                call("ping", name) if number % 2 else {**call("cancel", name), "params": {"request": "unknown"}}
                for number, name in enumerate(calls)
            ]
            sidecar.send(*asked)
            answered += [sidecar.receive()["id"] for _ in range(random.randrange(1, IN_FLIGHT))]
            sidecar.process.kill()
            assert sidecar.process.wait() == -signal.SIGKILL
    assert is_whole(log)
    records = story(log)
    said = [record["rpc"] for record in records if record.get("method") == "ping"]
    said += [record["data"]["caller"]["rpc"] for record in records if record.get("type") == "Cancel"]
    assert set(answered) <= set(said)
    assert len(answered) == len(set(answered))
    assert len(said) == len(set(said))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB; give it more room by its ``more``."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, place], capture_output=True, text=True, check=False)

    made = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs") if shutil.which("mount") else None
    if made is None or made.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made and made.stderr.strip()}")
    try:
        yield place, lambda: mount("-o", "remount,size=64m").check_returncode()
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_ends_the_sidecar_with_status_3_and_with_room_again_the_next_one_goes_on(small_disk):
    place, more = small_disk
    log = place / "log"
    answered = []
    last = None
    with RawSidecar("--log", log, "limits.disk_reserve_bytes=0") as sidecar:
        with contextlib.suppress(BrokenPipeError, AssertionError):
            while "error" not in (last := sidecar.ask(call("models.list", len(answered)))):
                answered.append(last["id"])
        assert sidecar.process.wait(PATIENCE_S) == 3
    assert (last["error"]["code"], last["error"]["data"]["type"]) == (1014, "storage_failed")
    assert answered

    with RawSidecar("--log", log, "limits.disk_reserve_bytes=0") as sidecar:
        refused = sidecar.ask(call("models.list"))
        assert refused["error"]["code"] in (1014, 1015), "there is still no room"
    doctor = mlzoo("doctor", "--log", log)
    assert doctor.returncode == 1
    assert b"space" in doctor.stdout, doctor.stdout

    more()
    with RawSidecar("--log", log, "limits.disk_reserve_bytes=0") as sidecar:
        assert "result" in sidecar.ask(call("models.list", "again"))
        assert sidecar.leave()[0] == 0
    assert is_whole(log)
    recorded = [record["rpc"] for record in story(log) if record.get("method") == "models.list"]
    assert recorded[: len(answered)] == answered
    assert recorded[-1] == "again"


def test_a_disk_that_is_nearly_full_takes_no_new_work_and_says_how_much_is_needed(small_disk):
    place, _ = small_disk
    with RawSidecar("--log", place / "log") as sidecar:
        refused = sidecar.ask(call("tokenize", text="a"))
        assert refused["error"]["code"] == 1014
        assert "disk" in refused["error"]["message"] or "space" in refused["error"]["message"]
        assert sidecar.ping()
        assert sidecar.leave()[0] == 0


def test_a_host_that_dies_while_another_process_holds_its_pipe_takes_the_sidecar_along(log):
    """The pipe does not end; the parent does."""
    host = (
        "import os, subprocess, sys\n"
        "reading, writing = os.pipe()\n"
        "holder = subprocess.Popen(['sleep', '600'], pass_fds=[writing])\n"
        "command = [*sys.argv[1:], '--parent-pid', str(os.getpid())]\n"
        "sidecar = subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE)\n"
        """os.write(writing, b'{"jsonrpc":"2.0","id":1,"method":"ping"}\\n')\n"""
        "sidecar.stdout.readline()\n"
        "print(sidecar.pid, holder.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", host, *serve_command("--log", log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        sidecar, holder = map(int, process.stdout.readline().split())
        try:
            process.kill()
            process.wait()
            wait_until_gone([sidecar])
            assert psutil.pid_exists(holder), "the pipe is held to the end"
        finally:
            os.kill(holder, signal.SIGKILL)
    assert is_whole(log)


@pytest.mark.weights
@pytest.mark.usefixtures("weights")
def test_a_worker_without_memory_fails_what_needs_it_and_the_next_chat_works(log):
    async def main(client):
        before = await client.call("chat", GREEDY)
        events = await client.call("events.read", {"types": ["WorkerWentUp"]})
        worker = psutil.Process(events["events"][0]["data"]["pid"])
        limits = worker.rlimit(resource.RLIMIT_AS)
        worker.rlimit(resource.RLIMIT_AS, (worker.memory_info().vms, limits[1]))
        long = {**GREEDY, "messages": user("sea " * 4000)}
        with pytest.raises(RemoteError) as caught:
            await client.call("chat", long)
        assert await client.call("ping") == {}
        if worker.is_running():
            worker.rlimit(resource.RLIMIT_AS, limits)
        return before, caught.value, await client.call("chat", GREEDY)

    with hosting(log) as host:
        before, error, after = host.run(main)
    assert (error.code, error.type) in {(1005, "out_of_memory"), (1008, "interrupted")}
    assert after["message"] == before["message"]
    assert is_whole(log)


@pytest.fixture
def clock(tmp_path):
    """Environment of a process whose wall clock can be set, and what sets it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the wall clock of one process alone cannot be set")
    source, library, offset = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "offset"
    source.write_text(SHIM)
    offset.write_bytes(bytes(8))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    def set_by(seconds):
        with offset.open("r+b") as file:  # In place, since the process has it mapped.
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}, set_by


@pytest.mark.weights
@pytest.mark.usefixtures("weights")
def test_a_wall_clock_that_jumps_ends_no_deadline_and_upsets_no_order(log, clock):
    environment, set_by = clock
    day_s = 86_400
    with RawSidecar("--log", log, env=environment) as sidecar:
        sidecar.send(call("chat", "chat", **GREEDY, stream=True, deadline_ms=PATIENCE_S * 1000))
        said = [sidecar.receive()]
        for seconds in (400 * day_s, -400 * day_s, 0):
            while said[-1].get("method") != "stream":
                said.append(sidecar.receive())
            set_by(seconds)
            assert sidecar_answers_ping(sidecar, said, f"{seconds}")
            said.append(sidecar.receive())
        while said[-1].get("id") != "chat":
            said.append(sidecar.receive())
        assert said[-1]["result"]["usage"]["completion_tokens"] > 8
        pieces = [line["params"] for line in said if line.get("method") == "stream"]
        assert [piece["seq"] for piece in pieces] == list(range(len(pieces)))
        assert sidecar.leave()[0] == 0
    assert is_whole(log)
    numbered = [record for record in story(log) if "log_seq" in record]
    assert [record["log_seq"] for record in numbered] == list(range(1, len(numbered) + 1))
    times = [record["time_ms"] for record in story(log) if "time_ms" in record]
    assert max(times) - min(times) > 700 * day_s * 1000, "the clock was set, and records say so"


def sidecar_answers_ping(sidecar, said, name):
    """Ping, and note what comes before the answer."""
    sidecar.send(call("ping", name))
    while (line := sidecar.receive()).get("id") != name:
        said.append(line)
    return line["result"] == {}
