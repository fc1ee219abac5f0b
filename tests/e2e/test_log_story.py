"""``mlzoo log cat`` tells what happened, in order; stdout tells nothing else, whatever is printed."""

import itertools
import json
import os

import pytest
from real_process import RawSidecar, call, hosting, is_whole, mlzoo, story, user


def test_asides_are_told_between_the_events_among_which_they_happened(sidecar, log):
    assert sidecar.ping()
    assert sidecar.ask(call("chat", messages=user("hi"), model="nobody"))["error"]["code"] == 1003
    assert sidecar.ping()
    sidecar.leave()
    records = story(log)
    assert [record["method"] for record in records if "aside_seq" in record].count("ping") == 2
    places = [record.get("log_seq") or record["after_seq"] for record in records]
    assert places == sorted(places)


def test_the_story_is_readable_by_a_person(sidecar, log):
    assert sidecar.ping()
    sidecar.leave()
    told = mlzoo("log", "cat", log, env={**os.environ, "COLUMNS": "200"})
    assert told.returncode == 0
    assert b"SidecarStarted" in told.stdout


def test_a_reader_that_has_seen_enough_is_no_error(sidecar, log):
    import subprocess
    import sys

    for request in range(3000):
        sidecar.send(call("ping", request))
    assert sidecar.receive()["id"] == 0
    sidecar.leave()
    command = [sys.executable, "-m", "mlzoo", "log", "cat", log]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as cat:
        assert json.loads(cat.stdout.readline())["crc"]
        cat.stdout.close()
        assert cat.stderr.read() == b""
        assert cat.wait() == 141


@pytest.mark.weights
@pytest.mark.usefixtures("weights")
def test_the_story_of_a_chat_has_each_step_in_order(log):
    with hosting(log) as host:
        result = host.call("chat", messages=user("What is the capital of France?"), temperature=0)
    records = [record for record in story(log) if "log_seq" in record]
    assert [record["log_seq"] for record in records] == list(range(1, len(records) + 1))
    (request,) = {record["data"]["request"] for record in records if record["type"] == "RequestAccepted"}
    of_request = [record["type"] for record in records if record["data"].get("request") == request]
    assert [kind for kind, _ in itertools.groupby(of_request)] == [
        "Submit", "RequestAccepted", "RequestDispatched", "RequestStreamed", "RequestCompleted",
    ]  # fmt: skip
    story_of_models = [record["type"] for record in records if record["type"] in {"WorkerWentUp", "ModelReady"}]
    assert story_of_models == ["WorkerWentUp", "ModelReady"]
    completed = next(record for record in records if record["type"] == "RequestCompleted")
    assert completed["data"]["completion_tokens"] == result["usage"]["completion_tokens"]
    assert records[-1]["type"] == "SidecarStopped"
    assert is_whole(log)


NOISE = """
import os, sys

class Noisy:
    '''Prints in every way there is, each time the sidecar imports something of its own.'''

    def find_spec(self, name, path=None, target=None):
        if name in {"mlzoo.app", "mlzoo.wiring"}:
            print("noise of print", flush=True)
            os.write(1, b"noise of write\\n")
            os.system("echo noise of a child; head -c 10")
            sys.__stdout__.write("noise of the old stdout\\n")
            sys.__stdout__.flush()

sys.meta_path.insert(0, Noisy())
"""


@pytest.mark.skipif(os.name == "nt", reason="a shell with echo and head")
def test_stdout_holds_only_protocol_lines_and_stdin_loses_none_whatever_a_library_does(log, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NOISE)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    with RawSidecar("--log", log, env={"PYTHONPATH": path}) as sidecar:
        sidecar.send(*(call("ping", request) for request in range(50)))
        assert [sidecar.receive()["id"] for _ in range(50)] == list(range(50))
        assert "result" in sidecar.ask(call("models.list"))
        assert sidecar.leave() == (0, [])
        sidecar._drain.join()
    for noise in (b"of print", b"of write", b"of a child", b"of the old stdout"):
        assert b"noise " + noise in sidecar.stderr
