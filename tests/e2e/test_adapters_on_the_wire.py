"""Adapters through the whole house: named in a model's entry, pulled, chosen by requests, kept to after kill -9."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import anyio
import pytest
from real_process import hosting, is_whole, mlzoo

from mlzoo.client import SidecarDied

sys.path.append(str(Path(__file__).parent.parent / "inference"))

pytestmark = pytest.mark.torch
PROMPT = "the quick brown fox"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A configuration with a model of random weights that has two adapters; the model and they lie beside it."""
    from tiny_adapters import save_adapter
    from tiny_models import save_causal

    place = tmp_path_factory.mktemp("place")
    base = save_causal(place / "base")
    save_adapter(base, place / "one")
    save_adapter(base, place / "two", seed=2, targets=["q_proj", "v_proj"])
    (place / "configs" / "model").mkdir(parents=True)
    (place / "configs" / "model" / "small.yaml").write_text(
        f"kind: chat\nsource: path:{base}\ndtype: float32\nslots: 4\ncompile: none\nadapters:\n"
        f"  one: path:{place / 'one'}\n  two: path:{place / 'two'}\n"
    )
    return place


@pytest.fixture
def place(made, tmp_path):
    """The same, for a test that changes it."""
    text = (made / "configs" / "model" / "small.yaml").read_text()
    shutil.copytree(made, tmp_path / "place")
    (tmp_path / "place" / "configs" / "model" / "small.yaml").write_text(
        text.replace(str(made), str(tmp_path / "place"))
    )
    return tmp_path / "place"


def living(place, log):
    return hosting(log, f"store={place / 'models'}", config_dir=place / "configs")


def greedy(adapter, **params):
    named = {} if adapter is None else {"adapter": adapter}
    return {"model": "small", "prompt": PROMPT, "temperature": 0, "max_tokens": 12, **named, **params}


def test_requests_side_by_side_say_what_peft_says_with_their_adapters(made, tmp_path):
    from tiny_adapters import by_peft
    from tiny_models import tokenizer

    async def ask(client):
        told = {}

        async def one(adapter):
            told[adapter] = await client.call("complete", greedy(adapter))

        async with anyio.create_task_group() as group:
            for adapter in (None, "one", "two"):
                group.start_soon(one, adapter)
        return told

    with living(made, tmp_path / "log") as host:
        host.call("models.pull", model="small")
        told = host.run(ask)
        for adapter in ("one", "two"):
            tokens = by_peft(made / "base", made / adapter, tokenizer()(PROMPT)["input_ids"], 12)
            assert told[adapter]["text"] == tokenizer().decode(tokens, skip_special_tokens=True)
            assert told[adapter]["adapter"] == adapter
        assert len({answer["text"] for answer in told.values()}) == 3
        assert "adapter" not in told[None]
        error = host.refused("complete", **greedy("three"))
        assert (error.code, error.data["expected"]) == (-32602, "one of one, two")
        info = host.call("models.info", model="small")
        assert [(each["name"], each["rank"], each["exact"]) for each in info["adapters"]] == [
            ("one", 4, True),
            ("two", 4, True),
        ]
        assert info["adapters"][1]["targets"] == ["q_proj", "v_proj"]
        assert all(0 < each["bytes"] < info["bytes"] for each in info["adapters"])
    assert is_whole(tmp_path / "log")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("changed", "resumed"), [(False, "exact"), (True, "prefill")])
def test_after_kill_9_an_answer_goes_on_with_its_adapter_exactly_if_that_is_what_it_was(
    place, tmp_path, changed, resumed
):
    from tiny_adapters import save_adapter

    asked = greedy("one", max_tokens=200, determinism="exact")

    async def rest(answer, pieces):
        async for delta in answer:
            pieces.append(delta["content"])

    async def begin(client, pieces):
        async with client.stream("complete", {**asked, "key": "k"}) as answer:
            pieces.append((await anext(answer))["content"])
            os.kill(client.pid, signal.SIGKILL)
            with pytest.raises(SidecarDied):
                await rest(answer, pieces)

    pieces = []
    with living(place, tmp_path / "log") as host:
        host.call("models.pull", model="small")
        whole = host.call("complete", **asked)
        host.run(begin, pieces)
    if changed:
        save_adapter(place / "base", place / "one", seed=3)
    with living(place, tmp_path / "log") as host:
        result = host.call("resume", key="k")
        assert (result["resumed"], result["adapter"]) == (resumed, "one")
        assert result["text"].startswith("".join(pieces))
        assert (result["text"] == whole["text"]) is not changed
    assert is_whole(tmp_path / "log")


def test_a_recording_names_the_adapters_and_real_weights_are_those_of_then_or_refused(place, tmp_path):
    from tiny_adapters import save_adapter

    recording, config = tmp_path / "session.ndjson", place / "configs"
    with living(place, tmp_path / "log") as host:
        host.call("models.pull", model="small")
        for adapter in (None, "one", "two"):
            host.call("complete", **greedy(adapter, determinism="exact"))
        host.refused("complete", **greedy("three"))
        digests = {each["name"]: each["digest"] for each in host.call("models.info", model="small")["adapters"]}
    assert mlzoo("log", "export", tmp_path / "log", "-o", recording).returncode == 0
    header = json.loads(recording.read_text().partition("\n")[0])
    assert header["models"]["small"]["adapters"] == digests
    for command in (("check",), ("rerun",)):
        done = mlzoo("replay", *command, recording)
        assert done.returncode == 0, done.stdout + done.stderr
    environment = {**os.environ, "MLZOO_CONFIG_DIR": str(config), "MLZOO_STORE": str(place / "models")}
    real = ("replay", "rerun", recording, "--model", "real")
    done = mlzoo(*real, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    save_adapter(place / "base", place / "two", seed=4, targets=["q_proj", "v_proj"])
    done = mlzoo(*real, env=environment)
    assert done.returncode == 1
    assert b"had the adapter two" in done.stdout + done.stderr
