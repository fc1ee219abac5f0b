"""The life and the end of the sidecar's process."""

import os
import signal
import sys

import anyio
import psutil
import pytest

from mlzoo.client import SidecarDied, process, serve_command, spawn

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups")


async def gone(pid):
    """Wait until a process that is not our child is gone."""
    await anyio.to_thread.run_sync(lambda: psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else []))


def test_the_end_of_stdin_ends_the_sidecar(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            await client.call("echo")
            return await client.close(), await client.close()

    assert run(main) == (0, 0)


def test_nothing_outlives_the_block_that_is_left_by_an_error(run, spawn_fake):
    pids = []

    async def main():
        async with spawn_fake() as client:
            pids.append(client.pid)
            raise LookupError

    with pytest.raises(LookupError):
        run(main)
    assert not psutil.pid_exists(pids[0])


def test_nothing_outlives_the_block_that_is_cancelled(run, spawn_fake):
    async def main():
        with anyio.CancelScope() as scope:
            async with spawn_fake() as client:
                scope.cancel()
                await client.call("endless")
        return scope.cancelled_caught, client.pid

    cancelled, pid = run(main)
    assert cancelled
    assert not psutil.pid_exists(pid)


@posix
def test_a_sidecar_that_stays_after_the_end_of_stdin_is_terminated(run, spawn_fake):
    async def main():
        async with spawn_fake("--stay", grace_s=0.01) as client:
            await client.call("echo")
            return await client.close()

    assert run(main) == -signal.SIGTERM


@posix
def test_a_sidecar_that_ignores_sigterm_is_killed(run, spawn_fake, monkeypatch):
    monkeypatch.setattr(process, "TERMINATE_S", 0.01)

    async def main():
        async with spawn_fake("--deaf", grace_s=0.01) as client:
            await client.call("echo")
            return await client.close()

    assert run(main) == -signal.SIGKILL


@posix
def test_killing_takes_the_whole_group(run, spawn_fake, monkeypatch):
    monkeypatch.setattr(process, "TERMINATE_S", 0.01)

    async def main():
        async with spawn_fake("--deaf", grace_s=0.01) as client:
            child = (await client.call("child"))["pid"]
            assert psutil.pid_exists(child)
            await client.close()
            await gone(child)

    run(main)


@posix
def test_a_sidecar_that_does_not_read_is_ended_all_the_same(run, spawn_fake, in_background, monkeypatch):
    monkeypatch.setattr(process, "TERMINATE_S", 0.01)

    async def main():
        async with (
            spawn_fake(grace_s=0.01) as client,
            anyio.create_task_group() as tasks,
            client.stream("stop_reading") as deaf,
        ):
            await anext(deaf)
            calls = [in_background(tasks, client.call, "echo", {"x": "x" * 100_000}) for _ in range(200)]
            await anyio.wait_all_tasks_blocked()
            assert await client.close() == -signal.SIGTERM
            return {type(await call.receive()) for call in calls}

    assert run(main) <= {SidecarDied, anyio.ClosedResourceError}


@posix
def test_a_call_that_waits_for_room_can_be_cancelled(run, spawn_fake):
    async def main():
        async with spawn_fake(grace_s=0.01) as client, client.stream("stop_reading") as deaf:
            await anext(deaf)
            async with anyio.create_task_group() as tasks:
                for _ in range(200):
                    tasks.start_soon(client.call, "echo", {"x": "x" * 100_000})
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            return "cancelled"

    assert run(main) == "cancelled"


def test_a_death_ends_every_call_with_the_status_and_the_last_of_stderr(run, spawn_fake, in_background):
    async def main():
        async with spawn_fake() as client, anyio.create_task_group() as tasks:
            others = [in_background(tasks, client.call, "endless") for _ in range(3)]
            with pytest.raises(SidecarDied) as caught:
                await client.call("die", {"status": 3, "lines": 100})
            assert {type(await other.receive()) for other in others} == {SidecarDied}
            with pytest.raises(SidecarDied):
                await client.call("echo")
        return caught.value

    error = run(main)
    assert error.status == 3
    assert "exit status 3" in str(error)
    assert error.stderr[-1].strip() == "last words 99"
    assert len(error.stderr) == 50


@posix
def test_a_death_by_signal_names_the_signal(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            with pytest.raises(SidecarDied, match="killed by signal 9") as caught:
                await client.call("die", {"signal": 9})
        return caught.value.status

    assert run(main) == -9


def test_a_sidecar_that_shouts_on_stderr_never_waits(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            await client.call("shout")
            return len(client.stderr_tail)

    assert run(main) == 50


def test_a_program_that_does_not_exist_is_an_oserror(run):
    async def main():
        async with spawn(["no-such-program-anywhere"]):
            pytest.fail("it started")

    with pytest.raises(OSError):  # noqa: PT011 (which one is the platform's)
        run(main)


def test_a_closed_client_takes_no_calls(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            await client.close()
            with pytest.raises(anyio.ClosedResourceError):
                await client.call("echo")

    run(main)


def test_the_command_of_a_sidecar_names_its_parent(tmp_path):
    command = serve_command(["limits.max_running=8"], log=tmp_path)
    assert command[1:] == [
        "-m", "mlzoo", "serve", "--parent-pid", str(os.getpid()), "--log", str(tmp_path), "limits.max_running=8",
    ]  # fmt: skip
