"""Every method, asked of a whole sidecar. The watch on its host looks at each answer's schema and its record."""

import orjson
import pytest

from mlzoo.api.methods import METHODS


async def test_a_ping_is_answered(lives, autojump_clock):
    async with lives.begin() as sidecar:
        assert await sidecar.host.call("ping") == {}
    assert sidecar.status == 0


async def test_initialize_names_the_methods_the_devices_and_the_log(lives, autojump_clock):
    async with lives.begin() as sidecar:
        client = {"name": "test", "version": "1"}
        agreed = await sidecar.host.call("initialize", {"protocol_version": "1", "client": client})
        assert agreed["capabilities"]["methods"] == list(METHODS)
        assert agreed["log"]["id"] == sidecar.services.log.id


async def test_another_protocol_version_is_refused_with_the_versions_served(lives, autojump_clock):
    async with lives.begin() as sidecar:
        client = {"name": "test", "version": "1"}
        error = await sidecar.host.refused("initialize", {"protocol_version": "2", "client": client})
        assert error["code"] == -32602
        assert "1" in str(error["data"]["expected"])


async def test_a_worker_is_told_what_may_stand_back(lives, autojump_clock):
    async with lives.begin() as sidecar:
        for priority in ("batch", "interactive"):
            await sidecar.host.call("complete", {"model": "toy", "prompt": "x", "priority": priority})
        told = [frame for frame in (await sidecar.worker()).told if type(frame).__name__ == "Generate"]
        assert [frame.batch for frame in told] == [True, False]


async def test_a_chat_streams_its_answer_and_then_gives_the_whole(lives, autojump_clock):
    async with lives.begin() as sidecar:
        chat = sidecar.chat("hello", stream=True, seed=5)
        result = await sidecar.host.result(chat)
        assert "".join(delta["content"] for delta in sidecar.host.stream(chat)) == "hello"
        assert result["message"] == {"role": "assistant", "content": "hello"}
        assert (result["finish_reason"], result["seed"], result["device"]) == ("stop", 5, "cpu")
        assert result["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cached_tokens": 0}


async def test_without_stream_a_chat_gives_its_answer_alone(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("hello"))
        assert sidecar.host.notifications("stream") == []


async def test_a_completion_continues_its_prompt(lives, autojump_clock):
    async with lives.begin() as sidecar:
        assert (await sidecar.host.call("complete", {"model": "toy", "prompt": "abc"}))["text"] == "abc"


async def test_embeddings_are_those_that_the_worker_gave(lives, autojump_clock):
    async with lives.begin() as sidecar:
        result = await sidecar.host.call("embed", {"input": ["abc", "d"]})
        assert result["embeddings"] == [[3.0, 0.5], [1.0, 0.5]]


async def test_text_becomes_tokens_and_tokens_become_text(lives, autojump_clock):
    async with lives.begin() as sidecar:
        assert await sidecar.host.call("tokenize", {"text": "ab"}) == {"tokens": [97, 98], "count": 2}
        assert await sidecar.host.call("detokenize", {"tokens": [104, 105]}) == {"text": "hi"}


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("status", None),
        ("metrics", None),
        ("models.list", None),
        ("models.info", {"model": "toy"}),
        ("models.estimate", {"model": "toy"}),
        ("devices.list", None),
        ("providers.list", None),
        ("events.read", None),
        ("rpc.discover", None),
    ],
)
async def test_what_one_may_look_at_keeps_to_its_schema(lives, autojump_clock, method, params, loaded):
    async with lives.begin() as sidecar:
        if loaded:
            await sidecar.host.result(sidecar.chat("hello"))
        await sidecar.host.call(method, params)


async def test_an_estimate_is_of_the_context_that_is_asked_about_and_of_what_was_measured(lives, autojump_clock):
    config = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 4}
    (lives.store / "toy" / "weights" / "config.json").write_bytes(orjson.dumps(config))
    async with lives.begin() as sidecar:
        sidecar.workshop.peak_bytes = 150

        async def estimated(**params):
            return await sidecar.host.call("models.estimate", {"model": "toy", **params})

        short, long = await estimated(context=1024), await estimated(context=1 << 30)
        assert short["memory_bytes"] == 10 + 8 * 1024 * 16  # the weights, and eight rows
        assert (short["fits"], long["fits"]) == (True, False)
        await sidecar.host.call("models.load", {"model": "toy"})
        assert (await estimated())["memory_bytes"] == 150


async def test_a_model_is_loaded_told_of_and_unloaded(lives, autojump_clock):
    async with lives.begin() as sidecar:
        loaded = await sidecar.host.call("models.load", {"model": "toy", "pin": True})
        assert loaded == {"model": "toy", "state": "ready", "device": "cpu", "bytes": 100}
        info = await sidecar.host.call("models.info", {"model": "toy"})
        assert (info["state"], info["pinned"], info["why"]) == ("ready", True, ["it is a toy"])
        assert await sidecar.host.call("models.unload", {"model": "toy"}) == {"model": "toy", "state": "available"}
        await (await sidecar.worker()).ended()


async def test_a_model_whose_file_does_not_hold_is_listed_with_what_is_wrong(lives, autojump_clock):
    lives.broken = {"mine": "model/mine.yaml: kind: this setting is missing"}
    async with lives.begin() as sidecar:
        listed = await sidecar.host.call("models.list")
        assert listed["broken"] == [{"name": "mine", "error": "model/mine.yaml: kind: this setting is missing"}]
        assert [model["name"] for model in listed["models"]] == ["toy", "vec"], "what can be used"
        error = await sidecar.host.refused("models.info", {"model": "mine"})
        assert error["code"] == 1003
        assert "kind: this setting is missing" in error["message"]


async def test_a_provider_whose_file_does_not_hold_is_listed_with_what_is_wrong_and_what_to_do(lives, autojump_clock):
    lives.broken_providers = {"mine": "provider/mine.yaml: base_url: expected an http or https URL, got ''"}
    async with lives.begin() as sidecar:
        [local, mine] = (await sidecar.host.call("providers.list"))["providers"]
        assert (local["usable"], mine["name"], mine["usable"], mine["models"]) == (True, "mine", False, [])
        assert "provider/mine.yaml: base_url: expected" in mine["reason"]
        assert "correct that file" in mine["remedy"]


async def test_a_removed_model_is_absent_and_says_what_brings_it_back(lives, autojump_clock):
    async with lives.begin() as sidecar:
        assert await sidecar.host.call("models.remove", {"model": "toy"}) == {"model": "toy"}
        [toy] = [m for m in (await sidecar.host.call("models.list"))["models"] if m["name"] == "toy"]
        assert toy["state"] == "absent"
        error = await sidecar.host.error(sidecar.chat("hello"))
        assert (error["code"], error["data"]["model"]) == (1016, "toy")


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("chatt", None, -32601),
        ("chat", {"model": "toy"}, -32602),
        ("ping", {"loud": True}, -32602),
        ("chat", {"model": "gpt", "messages": [{"role": "user", "content": "x"}]}, 1003),
        ("chat", {"model": "vec", "messages": [{"role": "user", "content": "x"}]}, 1010),
        ("embed", {"model": "toy", "input": "x"}, 1010),
        ("models.load", {"model": "gpt"}, 1003),
        ("events.read", {"after": 10_000}, 1013),
        ("events.subscribe", {"after": 10_000}, 1013),
        ("events.unsubscribe", {"subscription": "sub-0"}, 1012),
    ],
)
async def test_what_cannot_be_done_is_refused_and_the_next_call_works(lives, autojump_clock, method, params, code):
    async with lives.begin() as sidecar:
        assert (await sidecar.host.refused(method, params))["code"] == code
        assert await sidecar.host.call("ping") == {}


async def test_an_unlucky_line_gets_one_error_and_the_next_works(lives, autojump_clock):
    async with lives.begin() as sidecar:
        for line in (b"{", b"\xff\xfe", b"[" * 200, b"{}", b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}'):
            sidecar.host.feed(line + b"\n")
        await sidecar.host.call("ping")
        assert [m["error"]["code"] for m in sidecar.host.messages[:-1]] == [-32700, -32700, -32700, -32600, -32600]


async def test_the_shutdown_method_is_answered_after_what_runs_has_ended(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("hello")
        worker = await sidecar.worker()
        [request] = await worker.given()
        shutdown = sidecar.host.send("shutdown")
        late = sidecar.chat("late")
        assert (await sidecar.host.error(late))["code"] == 1009
        assert sidecar.host.responses(shutdown) == []
        worker.generate(request, "good", "bye")
        assert (await sidecar.host.result(chat))["message"]["content"] == "goodbye"
        assert await sidecar.host.result(shutdown) == {}
        await sidecar.ended.wait()
    assert sidecar.status == 0
