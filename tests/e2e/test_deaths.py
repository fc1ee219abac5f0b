"""What dies takes nothing with it that did not run there."""

import os
import signal
import sys

import psutil
import pytest
from real_process import RawSidecar, call, hosting, is_whole, story, user, wait_until_gone

from mlzoo.client import RemoteError, SidecarDied

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.usefixtures("weights"),
]

LONG = {"messages": user("Tell me about the sea."), "temperature": 0}
SHORT = {"messages": user("What is the capital of France?"), "temperature": 0, "max_tokens": 12}


async def read_on(answer, pieces):
    async for delta in answer:
        pieces.append(delta["content"])


async def worker_pids(client):
    events = await client.call("events.read", {"types": ["WorkerWentUp"]})
    return [event["data"]["pid"] for event in events["events"]]


def test_killing_the_worker_fails_only_what_ran_there_and_the_next_chat_works(log):
    async def main(client):
        async with client.stream("chat", LONG) as answer:
            pieces = [(await anext(answer))["content"] for _ in range(3)]
            (first,) = await worker_pids(client)
            os.kill(first, signal.SIGKILL)
            assert await client.call("ping") == {}
            with pytest.raises(RemoteError) as caught:
                await read_on(answer, pieces)
        result = await client.call("chat", SHORT)
        return caught.value, "".join(pieces), result, await worker_pids(client)

    with hosting(log) as host:
        error, shown, result, pids = host.run(main)
    assert (error.code, error.type) == (1008, "interrupted")
    assert error.data["partial"] == shown
    assert not error.data.get("resumable")
    assert "Paris" in result["message"]["content"]
    assert len(set(pids)) == 2
    assert is_whole(log)
    types = [record["type"] for record in story(log) if "log_seq" in record]
    assert types.index("WorkerWentDown") < types.index("RequestFailed") < types.index("RequestCompleted")


def test_a_worker_that_is_stopped_is_killed_without_a_deadline_and_the_next_chat_works(log):
    async def main(client):
        async with client.stream("chat", LONG) as answer:
            pieces = [(await anext(answer))["content"] for _ in range(3)]
            (first,) = await worker_pids(client)
            os.kill(first, signal.SIGSTOP)
            with pytest.raises(RemoteError) as caught:
                await read_on(answer, pieces)
        result = await client.call("chat", SHORT)
        return caught.value, "".join(pieces), first, result

    with hosting(log, "limits.beat_timeout_s=4") as host:
        error, shown, stopped, result = host.run(main)
    assert (error.code, error.data["partial"]) == (1008, shown)
    assert "Paris" in result["message"]["content"]
    wait_until_gone([stopped])
    assert is_whole(log)
    (down,) = [r["data"] for r in story(log) if r.get("type") == "WorkerWentDown" and not r["data"].get("expected")]
    assert "had not answered for 4 s" in down["reason"]


def test_killing_the_sidecar_leaves_no_process_and_a_whole_log_that_the_next_one_goes_on_with(log):
    async def main(client):
        async with client.stream("chat", LONG) as answer:
            pieces = [(await anext(answer))["content"] for _ in range(3)]
            descendants = [child.pid for child in psutil.Process(client.pid).children(recursive=True)]
            os.kill(client.pid, signal.SIGKILL)
            with pytest.raises(SidecarDied) as caught:
                await read_on(answer, pieces)
        return caught.value, descendants, pieces

    with hosting(log) as host:
        error, descendants, pieces = host.run(main)
    assert error.status == -signal.SIGKILL
    assert descendants
    wait_until_gone(descendants)
    assert is_whole(log)
    said = "".join(text for record in story(log) for text in texts_of(record))
    assert "".join(pieces) in said  # Nothing was said that was not recorded.
    with hosting(log) as host:
        assert "Paris" in host.call("chat", **SHORT)["message"]["content"]
    assert is_whole(log)
    ends = [record for record in story(log) if record.get("type") == "RequestFailed"]
    assert [end["data"]["failure"]["code"] for end in ends] == [1008]


def texts_of(record):
    """Return the pieces of answers in a record of a step."""
    if record.get("type") != "ReportStep" or not record.get("text"):
        return []
    return [row if isinstance(row, str) else row.get("content", "") for row in record["text"]]


def first_piece(sidecar):
    while "delta" not in (line := sidecar.receive()).get("params", {}):
        assert "error" not in line
    return line


@pytest.mark.parametrize("how", ["end of stdin", "SIGTERM", "SIGINT", "shutdown"])
def test_leaving_lets_what_runs_finish(log, how):
    with RawSidecar("--log", log, "limits.drain_s=60") as sidecar:
        sidecar.send(call("chat", 1, **LONG, max_tokens=30, stream=True))
        first_piece(sidecar)
        leave(sidecar, how)
        status, lines = sidecar.leave()
    assert status == 0
    answers = {line["id"]: line for line in lines if "id" in line}
    assert answers[1]["result"]["usage"]["completion_tokens"] == 30
    if how == "shutdown":
        assert answers["bye"]["result"] == {}
        assert answers["late"]["error"]["code"] == 1009
    assert is_whole(log)


@pytest.mark.parametrize("how", ["end of stdin", "SIGTERM"])
def test_leaving_ends_with_1008_what_does_not_finish_in_time(log, how):
    with RawSidecar("--log", log, "limits.drain_s=0.2") as sidecar:
        sidecar.send(call("chat", 1, **LONG, stream=True))
        pieces = [first_piece(sidecar)]
        leave(sidecar, how)
        status, lines = sidecar.leave()
    assert status == 0
    (answer,) = [line for line in lines if "id" in line]
    assert answer["error"]["code"] == 1008
    pieces += [line for line in lines if line.get("method") == "stream"]
    assert answer["error"]["data"]["partial"] == "".join(piece["params"]["delta"]["content"] for piece in pieces)
    assert [piece["params"]["seq"] for piece in pieces] == list(range(len(pieces)))
    assert is_whole(log)


def leave(sidecar, how):
    match how:
        case "SIGTERM" | "SIGINT":
            sidecar.process.send_signal(signal.Signals[how])
        case "shutdown":
            sidecar.send(call("shutdown", "bye"), call("chat", "late", **SHORT))
        case "end of stdin":
            sidecar.process.stdin.close()
