"""Providers that are other people's programs: `transformers serve`, and litellm's proxy, for the messages API.

What the first needs beside the project's own packages (fastapi, uvicorn, openai) is looked for where the benchmarks put
it, bench/.peers/serving, or where PEER_SERVING says; the proxy's program is where PEER_LITELLM says. Without them
there is nothing to test against.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from real_process import RawSidecar, call

from mlzoo.config import load
from mlzoo.store import open_store

ROOT = Path(__file__).parent.parent.parent
SERVING = Path(os.environ.get("PEER_SERVING", ROOT / "bench" / ".peers" / "serving"))
LITELLM = os.environ.get("PEER_LITELLM")
PROXY_KEY = "sk-" + "0123456789abcdef" * 4  # of a proxy on loopback, for the length of a test
START_S = 300  # Only ever waited for by a test that fails.
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(not (SERVING / "fastapi").is_dir(), reason="transformers serve needs bench/.peers/serving"),
]


def weights():
    config = load(())
    installed = open_store(config).find(config.model("smollm2"))
    assert installed is not None, "the store is filled by make test"
    return str(installed.path)


def is_up(port, path):
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status == 200
    except OSError:
        return False


class Served:
    """`transformers serve`, and what it answers to whoever asks it itself."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.model = weights()
        serve = "from transformers.cli.transformers import main; main()"
        options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(self.port)]
        env = {**os.environ, "PYTHONPATH": str(SERVING), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", serve, "serve", self.model, *options], env=env, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_S
        while not is_up(self.port, "/health"):
            assert self.process.poll() is None, "transformers serve has ended"
            assert time.monotonic() < deadline, "transformers serve does not start"
            time.sleep(0.2)

    def chat(self, **body):
        """Return text and usage as the server itself streams them."""
        asked = {"model": self.model, "stream": True, **body}
        text, usage = "", None
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
            for line in connection.getresponse():
                if line.startswith(b"data: {"):
                    chunk = json.loads(line[6:])
                    usage = chunk.get("usage") or usage
                    text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        return text, usage


@pytest.fixture(scope="module")
def served():
    server = Served()
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def sidecar_of(served, tmp_path):
    """A sidecar that has that server for a provider."""

    def start():
        settings = {
            "provider/hf": f"kind: openai\nbase_url: http://127.0.0.1:{served.port}/v1\nsends_usage: false\n",
            "model/theirs": f"kind: chat\nprovider: hf\nremote: {served.model}\n",
            "route/either": "chain: [theirs, smollm2]\n",
        }
        for name, text in settings.items():
            path = tmp_path / "config" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return RawSidecar("--log", tmp_path / "log", env={"MLZOO_CONFIG_DIR": str(tmp_path / "config")})

    return start


def test_an_answer_of_transformers_serve_is_told_as_it_is(served, sidecar_of):
    text, usage = served.chat(messages=QUESTION, max_tokens=24, temperature=0.0, seed=1)
    assert text
    with sidecar_of() as sidecar:
        params = {"model": "theirs", "messages": QUESTION, "max_tokens": 24, "temperature": 0, "seed": 1}
        sidecar.send(call("chat", stream=True, **params))
        told = []
        while "id" not in (message := sidecar.receive()):
            told.append(message["params"]["delta"]["content"])
        result = message["result"]
        assert result["message"]["content"] == "".join(told) == text
        assert (result["provider"], result["device"]) == ("hf", "api:hf")
        if usage is not None:
            assert result["usage"]["completion_tokens"] == usage["completion_tokens"]
            assert result["usage"]["prompt_tokens"] == usage["prompt_tokens"]


@pytest.fixture
def messages_api(served, tmp_path):
    """The port of litellm's proxy, which asks that server."""
    if not LITELLM:
        pytest.skip("litellm's proxy is where PEER_LITELLM says")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "model_list": [
            {
                "model_name": "claude-like",
                "litellm_params": {
                    "model": f"openai/{served.model}",
                    "api_base": f"http://127.0.0.1:{served.port}/v1",
                    "api_key": "none",
                },
            }
        ]
    }
    config = tmp_path / "litellm.yaml"
    config.write_text(json.dumps(settings), encoding="utf-8")
    command = [LITELLM, "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "LITELLM_MASTER_KEY": PROXY_KEY}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + START_S
        while not is_up(port, "/health/liveliness"):
            assert process.poll() is None, "litellm has ended"
            assert time.monotonic() < deadline, "litellm does not start"
            time.sleep(0.2)
        yield port
        process.kill()


def test_an_answer_by_the_messages_api_of_litellm_is_told(messages_api, tmp_path):
    settings = {
        "provider/proxy": f"kind: anthropic\nbase_url: http://127.0.0.1:{messages_api}/v1\nkey_env: PROXY_KEY\n",
        "model/theirs": "kind: chat\nprovider: proxy\nremote: claude-like\n",
    }
    for name, text in settings.items():
        path = tmp_path / "config" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    env = {"MLZOO_CONFIG_DIR": str(tmp_path / "config"), "PROXY_KEY": PROXY_KEY}
    with RawSidecar("--log", tmp_path / "log", env=env) as sidecar:
        sidecar.send(call("chat", model="theirs", messages=QUESTION, max_tokens=16, temperature=0, stream=True))
        told = []
        while "id" not in (message := sidecar.receive()):
            told.append(message["params"]["delta"].get("content", ""))
        result = message["result"]
        assert result["message"]["content"] == "".join(told)
        assert result["message"]["content"].strip()
        assert (result["provider"], result["finish_reason"] in {"stop", "length"}) == ("proxy", True)


def test_a_route_goes_on_with_the_local_model_when_the_server_is_gone(served, sidecar_of):
    with sidecar_of() as sidecar:
        served.process.kill()
        served.process.wait()
        sidecar.send(call("chat", model="either", messages=QUESTION, max_tokens=4))
        while "id" not in (message := sidecar.receive()):
            pass
        result = message["result"]
        assert (result["model"], result["provider"]) == ("smollm2", "local")
        assert [passed["model"] for passed in result["rerouted"]] == ["theirs"]
