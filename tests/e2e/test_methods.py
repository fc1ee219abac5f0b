"""The protocol without any model: what a sidecar says of itself, and how it refuses."""

import os
import subprocess
import sys

import anyio
import attrs
import psutil
import pytest
from real_process import RawSidecar, call, hosting, is_whole, mlzoo, user, wait_until_gone

from mlzoo.client import serve_command as client_command
from mlzoo.client import spawn
from mlzoo.events.segments import decode_header, encode_header


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A sidecar whose store is empty."""
    place = tmp_path_factory.mktemp("host")
    with hosting(place / "log", f"store={place / 'models'}") as host:
        yield host


def test_initialize_tells_versions_limits_and_where_the_log_is(host):
    result = host.run(lambda client: client.initialize("test", "1.0"))
    assert result["protocol_version"] == "1"
    assert result["server"]["name"] == "mlzoo"
    assert result["limits"]["line_bytes"] == 16 * 1024 * 1024
    assert {"chat", "embed", "cancel", "models.pull", "events.subscribe"} <= set(result["capabilities"]["methods"])
    assert result["log"]["id"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_client_speaks_to_it_under_either_event_loop(log, backend):
    async def main():
        async with spawn(client_command(log=log)) as client:
            await client.initialize("test", "1.0")
            async with client.subscribe(after=0) as events:
                first = await anext(events)
            return first["type"], await client.close()

    assert anyio.run(main, backend=backend) == ("Start", 0)


def test_another_version_is_refused_with_the_versions_served(host):
    error = host.refused("initialize", protocol_version="2", client={"name": "test", "version": "1.0"})
    assert error.code == -32602
    assert "1" in str(error.data)


def test_status_answers_what_a_person_would_ask_first(host):
    async def main(client):
        states = set()
        while states != {"running"}:  # It is answered from the first moment on, while the actors are still starting.
            status = await client.call("status")
            states = {actor["state"] for actor in status["actors"]}
        return status

    status = host.run(main)
    assert status["pid"] == host.client.pid
    assert {"engine", "registry"} <= {actor["name"] for actor in status["actors"]}
    assert status["requests"] == {"queued": 0, "running": 0, "suspended": 0}
    assert status["log"]["bytes"] > 0


def test_an_unknown_method_is_refused(host):
    error = host.refused("chatt", messages=user("hi"))
    assert error.code == -32601
    assert "chat" in str(error)


def test_params_that_are_missing_unknown_or_wrong_are_refused_with_path_and_what_was_expected(host):
    wrong = [
        ("chat", {}),
        ("chat", {"messages": []}),
        ("chat", {"messages": [{"role": "user"}]}),
        ("chat", {"messages": [{"role": "emperor", "content": "hi"}]}),
        ("chat", {"messages": user("hi"), "temperature": "hot"}),
        ("chat", {"messages": user("hi"), "temperature": -1}),
        ("chat", {"messages": user("hi"), "max_tokens": 0}),
        ("chat", {"messages": user("hi"), "max_tokens": True}),
        ("chat", {"messages": user("hi"), "seed": 2**60}),
        ("chat", {"messages": user("hi"), "tempurature": 1}),
        ("ping", {"x": 1}),
        ("cancel", {}),
        ("events.read", {"limit": 0}),
        ("models.pull", {"model": 7}),
    ]
    for method, params in wrong:
        error = host.refused(method, **params)
        assert error.code == -32602, params
        assert {"path", "expected"} <= error.data.keys(), params


def test_the_hosts_own_meta_is_never_unknown(host):
    assert host.call("ping", _meta={"trace": "abc"}) == {}


def test_params_by_position_are_refused(sidecar):
    assert sidecar.ask({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]})["error"]["code"] == -32602
    assert sidecar.ping()


def test_a_model_that_does_not_exist_is_1003_and_names_those_there_are(host):
    error = host.refused("chat", model="smollm3", messages=user("hi"))
    assert (error.code, error.type) == (1003, "model_not_found")
    assert "smollm2" in error.data["available"]


def test_a_model_that_is_not_installed_is_1016_and_is_not_downloaded(host):
    error = host.refused("chat", messages=user("hi"))
    assert (error.code, error.type, error.data["model"]) == (1016, "model_not_installed", "smollm2")
    assert {model["name"]: model["state"] for model in host.call("models.list")["models"]}["smollm2"] == "absent"


def test_what_this_version_does_not_serve_is_1010(host):
    error = host.refused("chat", messages=user("hi"), provider="elsewhere")
    assert (error.code, error.type) == (1010, "unsupported")


def test_cancelling_what_is_unknown_is_no_error(host):
    assert host.call("cancel", request=4711) == {"cancelled": False}


def test_the_cpu_is_always_a_device(host):
    cpu = host.call("devices.list")["devices"][-1]
    assert (cpu["name"], cpu["kind"]) == ("cpu", "cpu")


def test_rpc_discover_is_what_mlzoo_schema_prints(host):
    import json

    assert host.call("rpc.discover") == json.loads(mlzoo("schema").stdout)


def test_metrics_count(host):
    assert host.call("metrics")["counters"]


def test_what_was_refused_stands_in_the_log(host):
    host.refused("chat", model="nobody", messages=user("hi"))
    events = host.call("events.read")["events"]
    assert [event["log_seq"] for event in events] == sorted(event["log_seq"] for event in events)
    assert events[0]["type"] == "Start"


def test_shutdown_is_answered_and_then_the_process_leaves(sidecar):
    sidecar.send(call("shutdown"))
    assert sidecar.receive() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert sidecar.process.wait() == 0


def test_a_second_sidecar_on_the_same_log_still_answers_and_says_1015_with_reason_and_remedy(sidecar, log):
    assert sidecar.ping()
    with RawSidecar("--log", log) as second:
        assert second.ping()
        assert "result" in second.ask(call("initialize", protocol_version="1", client={"name": "t", "version": "1"}))
        assert second.ask(call("status"))["result"]["log"]["unusable"]["reason"] == "locked"
        for method, params in (("chat", {"messages": user("hi")}), ("models.list", {}), ("events.read", {})):
            error = second.ask(call(method, **params))["error"]
            assert (error["code"], error["data"]["type"]) == (1015, "log_unusable"), method
            assert error["data"]["reason"] == "locked"
            assert error["data"]["remedy"]
        assert second.ping()
        assert second.leave() == (0, [])
    assert sidecar.ping()
    assert sidecar.leave() == (0, [])
    assert is_whole(log)


def test_a_log_that_is_damaged_in_its_middle_is_1015_until_it_is_repaired(log):
    with RawSidecar("--log", log) as first:
        assert first.ping()
        assert first.ask(call("chat", messages=user("hi"), model="nobody"))["error"]["code"] == 1003
        first.leave()
    with RawSidecar("--log", log) as second:
        second.leave()
    segment = min((log / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 1
    segment.write_bytes(data)
    assert not is_whole(log)
    with RawSidecar("--log", log) as third:
        assert third.ping()
        error = third.ask(call("models.list"))["error"]
        assert (error["code"], error["data"]["reason"]) == (1015, "damaged")
        assert "repair" in error["data"]["remedy"]
        third.leave()
    assert mlzoo("log", "repair", log).returncode == 0
    assert is_whole(log)
    with RawSidecar("--log", log) as fourth:
        assert "result" in fourth.ask(call("models.list"))


def test_a_log_that_a_newer_version_wrote_is_1015_and_no_command_touches_it(log):
    with RawSidecar("--log", log) as first:
        assert "result" in first.ask(call("models.list"))
        first.leave()
    segment = min((log / "segments").iterdir())
    header, rest = segment.read_bytes().split(b"\n", 1)
    read = decode_header(header)
    segment.write_bytes(encode_header(attrs.evolve(read, core_version=read.core_version + 1)) + rest)
    before = segment.read_bytes()
    with RawSidecar("--log", log) as second:
        assert second.ping()
        error = second.ask(call("models.list"))["error"]
        assert (error["code"], error["data"]["reason"]) == (1015, "newer")
        second.leave()
    doctor = mlzoo("doctor", "--log", log)
    assert doctor.returncode == 1
    assert error["data"]["remedy"].encode() in doctor.stdout
    assert mlzoo("log", "repair", log).returncode != 0
    assert segment.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_log_that_cannot_be_written_is_1015(log):
    log.mkdir(mode=0o500)
    with RawSidecar("--log", log) as sidecar:
        assert sidecar.ping()
        assert sidecar.ask(call("models.list"))["error"]["data"]["reason"] == "unwritable"


def test_a_process_that_holds_stdin_open_does_not_keep_the_sidecar_of_a_dead_parent(log, tmp_path):
    """The parent spawns a sidecar and a bystander that inherits the write end of its stdin, then dies."""
    script = f"""
import os, subprocess, sys
read_fd, write_fd = os.pipe()
command = [sys.executable, "-m", "mlzoo", "serve", "--log", {str(log)!r}, "--parent-pid", str(os.getpid())]
sidecar = subprocess.Popen(command, stdin=read_fd, stdout=subprocess.PIPE)
os.write(write_fd, b'{{"jsonrpc":"2.0","id":1,"method":"ping"}}\\n')
sidecar.stdout.readline()
bystander = subprocess.Popen(
    [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[write_fd],
    stdout=subprocess.DEVNULL,
)
print(sidecar.pid, bystander.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        sidecar, bystander = map(int, parent.stdout.readline().split())
        # The bystander's own stdin ends with the parent; a copy held here keeps it alive.
        parent.kill()
        parent.wait()
        wait_until_gone([sidecar])
    if psutil.pid_exists(bystander):
        wait_until_gone([bystander])
    assert is_whole(log)
