"""Whole sidecars whose models are answered elsewhere: by servers on loopback, over real HTTP."""

import orjson
import pytest
import trio
from loopback import serving, silent_for

from mlzoo.config.schema import ModelEntry, ProviderEntry

KEY = "sk-very-secret-0123456789"
OTHER_KEY = "sk-another-secret-98765"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3}


@pytest.fixture
def cloud(lives, autojump_clock, monkeypatch):
    """Lives with a provider, its models, and a key in the environment."""
    monkeypatch.setenv("CLOUD_KEY", KEY)
    autojump_clock.autojump_threshold = 0.05  # Bytes come through the kernel: the clock waits a moment for them.

    def configure(server, name="cloud", model="big", **settings):
        settings = {"key_env": f"{name.upper()}_KEY", "retries": 0, **settings}
        lives.providers[name] = ProviderEntry(name=name, kind="openai", base_url=server.url, **settings)
        for kind in ("chat", "embed"):
            entry = ModelEntry(
                name=f"{model}-{kind}", kind=kind, provider=name, remote=f"{model}-1", capabilities=("tools", "json")
            )
            lives.models[entry.name] = entry
        return lives

    return configure


async def hello(exchange):
    await exchange.chat("Hel", "lo", usage=USAGE)


def ask(sidecar, model="big-chat", prompt="Hi", **params):
    messages = [{"role": "user", "content": prompt}]
    return sidecar.host.send("chat", {"model": model, "messages": messages, **params})


async def stays_open(exchange):
    await exchange.head()
    await exchange.event({"choices": [{"index": 0, "delta": {"content": "so far"}}]})
    await exchange.until_left()


async def breaks_off(exchange):
    await exchange.head()
    await exchange.event({"choices": [{"index": 0, "delta": {"content": "so far"}}]})


# ------------------------------------------------------------------------------------------------ answers


async def hello_slowly(exchange):
    await exchange.head()
    for piece in ("Hel", "lo"):
        await exchange.event({"choices": [{"index": 0, "delta": {"content": piece}}]})
        await trio.sleep(1)
    await exchange.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE})


async def test_a_chat_is_answered_by_a_provider_and_streamed_as_any_other(cloud, autojump_clock):
    async with serving(hello_slowly) as server, cloud(server).begin() as sidecar:
        chat = ask(sidecar, stream=True)
        result = await sidecar.host.result(chat)
        assert result["message"] == {"role": "assistant", "content": "Hello"}
        assert (result["model"], result["provider"], result["device"]) == ("big-chat", "cloud", "api:cloud")
        assert result["usage"] == {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "total_tokens": 12,
            "cached_tokens": 0,
        }
        assert [delta["content"] for delta in sidecar.host.stream(chat)] == ["Hel", "lo"]
        assert "rerouted" not in result
        assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
        assert server.asked[0].body["model"] == "big-1"
        assert not sidecar.workshop.workers


async def test_tools_and_forms_of_answers_reach_the_provider_and_calls_come_back(cloud, autojump_clock):
    call = {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": "{}"}}]}
    tool = {"type": "function", "function": {"name": "weather"}}
    async with (
        serving(lambda x: x.chat(call, finish="tool_calls")) as server,
        cloud(server).begin() as sidecar,
    ):
        chat = ask(sidecar, tools=[tool], tool_choice="required", response_format={"type": "json_object"})
        result = await sidecar.host.result(chat)
        assert result["finish_reason"] == "tool_calls"
        assert result["message"]["tool_calls"] == [{"id": "c1", "name": "weather", "arguments": "{}"}]
        body = server.asked[0].body
        assert (body["tools"], body["tool_choice"]) == ([tool], "required")
        assert body["response_format"] == {"type": "json_object"}


async def test_embeddings_are_answered(cloud, autojump_clock):
    answer = {"data": [{"index": 0, "embedding": [3.0, 4.0]}], "usage": {"prompt_tokens": 5}}
    async with serving(lambda x: x.json(answer)) as server, cloud(server).begin() as sidecar:
        result = await sidecar.host.call("embed", {"model": "big-embed", "input": "a"})
        assert (result["embeddings"], result["usage"]["prompt_tokens"]) == ([[0.6, 0.8]], 5)
        assert result["provider"] == "cloud"


async def test_no_more_requests_are_with_a_provider_than_it_takes(cloud, autojump_clock):
    async with serving(stays_open) as server, cloud(server, max_concurrency=2).begin() as sidecar:
        chats = [ask(sidecar, prompt=f"{n}", stream=True) for n in range(3)]
        await sidecar.host.streamed(chats[1], 1)
        await server.came(2)
        status = await sidecar.host.call("status")
        assert status["requests"] == {"queued": 1, "running": 2, "suspended": 0}
        [provider] = status["providers"]
        assert (provider["running"], provider["breaker"]) == (2, "closed")
        for chat in chats:
            sidecar.host.notify("cancel", {"request": chat})
        for chat in chats:
            assert (await sidecar.host.error(chat))["code"] == -32800


async def test_a_cancel_closes_the_connection(cloud, autojump_clock):
    async with serving(stays_open) as server, cloud(server).begin() as sidecar:
        chat = ask(sidecar, stream=True)
        await sidecar.host.streamed(chat, 1)
        assert await sidecar.host.call("cancel", {"request": chat}) == {"cancelled": True}
        await server.asked[0].left.wait()
        assert (await sidecar.host.error(chat))["data"]["partial"] == "so far"


# ------------------------------------------------------------------------------------------------ failures


async def test_a_failure_says_who_failed_and_how_and_what_the_provider_said_is_text(cloud, autojump_clock):
    body = {"error": {"message": "the hamster is ill"}}
    async with (
        serving(lambda x: x.json(body, status=503, retry_after="40")) as server,
        cloud(server).begin() as sidecar,
    ):
        error = await sidecar.host.error(ask(sidecar))
        assert (error["code"], error["data"]["type"]) == (1007, "provider_error")
        assert (error["data"]["provider"], error["data"]["status"]) == ("cloud", 503)
        assert (error["data"]["retry_after_ms"], error["data"]["retryable"]) == (40_000, True)
        assert error["data"]["detail"] == "the hamster is ill"
        assert "hamster" not in error["message"]


async def test_a_request_is_tried_again_while_nothing_of_its_answer_has_come(cloud, autojump_clock):
    async def second_time(exchange):
        if len(server.asked) < 3:
            await exchange.json({}, status=429, retry_after="7")
        else:
            await hello(exchange)

    async with serving(second_time) as server, cloud(server, retries=2).begin() as sidecar:
        began = trio.current_time()
        result = await sidecar.host.result(ask(sidecar))
        assert (result["message"]["content"], len(server.asked)) == ("Hello", 3)
        assert 14 <= trio.current_time() - began < 20


async def test_a_wait_that_is_too_long_is_not_waited(cloud, autojump_clock):
    async with (
        serving(lambda x: x.json({}, status=429, retry_after="3600")) as server,
        cloud(server, retries=5).begin() as sidecar,
    ):
        assert (await sidecar.host.error(ask(sidecar)))["data"]["retry_after_ms"] == 3_600_000
        assert len(server.asked) == 1


async def test_what_breaks_off_after_a_word_is_not_tried_again_and_the_word_is_kept(cloud, autojump_clock):
    async with serving(breaks_off) as server, cloud(server, retries=5).begin() as sidecar:
        error = await sidecar.host.error(ask(sidecar, stream=True))
        assert (error["code"], error["data"]["partial"]) == (1008, "so far")
        assert (error["data"]["resumable"], error["data"]["seq"]) == (False, 0)
        assert len(server.asked) == 1


async def test_a_deadline_holds_for_a_provider_too(cloud, autojump_clock):
    async with serving(silent_for()) as server, cloud(server).begin() as sidecar:
        assert (await sidecar.host.error(ask(sidecar, deadline_ms=3000)))["code"] == 1002
        await server.asked[0].left.wait()


@pytest.mark.parametrize(
    ("method", "params", "feature"),
    [
        ("tokenize", {"model": "big-chat", "text": "a"}, "tokenize"),
        ("chat", {"model": "big-chat", "messages": [{"role": "user", "content": "a"}], "determinism": "exact"},
         "determinism: exact"),
        ("chat", {"model": "big-chat", "messages": [{"role": "user", "content": "a"}], "require_device": "cpu"},
         "require_device"),
        ("chat", {"model": "big-chat", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:,"}}]}]}, "vision"),
        ("models.pull", {"model": "big-chat"}, "models.pull"),
        ("models.remove", {"model": "big-chat"}, "models.remove"),
    ],
)  # fmt: skip
async def test_what_a_provider_cannot_do_is_refused_before_it_is_asked(cloud, autojump_clock, method, params, feature):
    async with serving(hello) as server, cloud(server).begin() as sidecar:
        error = await sidecar.host.refused(method, params)
        assert (error["code"], error["data"]["feature"]) == (1010, feature)
        assert not server.asked


# ------------------------------------------------------------------------------------------------ what is shown


async def test_models_of_a_provider_are_listed_loaded_and_unloaded_without_doing_anything(cloud, autojump_clock):
    async with serving(hello) as server, cloud(server).begin() as sidecar:
        listed = {m["name"]: m for m in (await sidecar.host.call("models.list"))["models"]}
        assert (listed["big-chat"]["provider"], listed["big-chat"]["state"]) == ("cloud", "ready")
        info = await sidecar.host.call("models.info", {"model": "big-chat"})
        assert (info["source"], info["digest"]) == ("cloud:big-1", None)
        assert (await sidecar.host.call("models.estimate", {"model": "big-chat"}))["fits"]
        assert (await sidecar.host.call("models.load", {"model": "big-chat"}))["state"] == "ready"
        assert (await sidecar.host.call("models.unload", {"model": "big-chat"}))["state"] == "available"
        found = {p["name"]: p for p in (await sidecar.host.call("providers.list"))["providers"]}
        assert (found["cloud"]["usable"], found["cloud"]["models"]) == (True, ["big-chat", "big-embed"])
        assert not server.asked


# ------------------------------------------------------------------------------------------------ keys and secrets


async def test_without_a_key_a_provider_says_what_to_do_and_with_one_it_answers(cloud, autojump_clock, monkeypatch):
    monkeypatch.delenv("CLOUD_KEY")
    async with serving(hello) as server, cloud(server).begin() as sidecar:
        [_, shown] = (await sidecar.host.call("providers.list"))["providers"]
        assert (shown["usable"], shown["reason"]) == (False, "it has no key")
        assert "CLOUD_KEY" in shown["remedy"]
        error = await sidecar.host.error(ask(sidecar))
        assert (error["code"], error["data"]["retryable"]) == (1007, False)
        assert "providers.authenticate" in error["message"]
        assert await sidecar.host.call("providers.authenticate", {"provider": "cloud", "secret": OTHER_KEY}) == {}
        assert (await sidecar.host.result(ask(sidecar)))["message"]["content"] == "Hello"
        assert server.asked[0].headers["authorization"] == f"Bearer {OTHER_KEY}"


async def test_no_secret_is_in_any_file_or_in_anything_that_is_said(cloud, lives, autojump_clock):
    async def tells_it(exchange):
        await exchange.json({"error": {"message": f"{exchange.headers['authorization']} is wrong"}}, status=401)

    async with serving(tells_it) as server, cloud(server).begin() as sidecar:
        await sidecar.host.error(ask(sidecar))
        for params in (
            {"provider": "cloud", "secret": OTHER_KEY},
            {"provider": "cloud", "secret": OTHER_KEY, OTHER_KEY: 1},
            {"provider": OTHER_KEY, "secret": "x"},
            {"provider": "cloud", "secret": [OTHER_KEY]},
            ["cloud", OTHER_KEY],
        ):
            await sidecar.host.response(sidecar.host.send("providers.authenticate", params))
        await sidecar.host.error(ask(sidecar))
        assert server.asked[-1].headers["authorization"] == f"Bearer {OTHER_KEY}"
        for method in ("status", "providers.list", "models.list", "metrics", "rpc.discover"):
            await sidecar.host.call(method)
        assert KEY not in repr(sidecar.services) + repr(sidecar.services.secrets) + repr(sidecar.config)
        said = orjson.dumps(sidecar.host.messages).decode() + sidecar.stderr_text()
    files = [bytes(file.data) for directory in lives.disk.files.values() for file in directory.values()]
    everything = said + b"".join(files).decode()
    assert "[secret]" in everything
    for key in (KEY, OTHER_KEY):
        assert key not in everything


async def test_a_keyed_request_is_asked_again_in_the_next_life_where_nothing_was_said(cloud, autojump_clock):
    async with serving(silent_for()) as server:
        lives = cloud(server)
        async with lives.begin(leave=False) as sidecar:
            ask(sidecar, key="k1")
            await server.came()
        lives.disk, server.answer = lives.disk.copy(), hello
        async with lives.begin() as sidecar:
            result = await sidecar.host.result(ask(sidecar, key="k1"))
            assert (result["message"]["content"], len(server.asked)) == ("Hello", 2)


async def test_a_keyed_request_of_which_something_was_said_ends_with_its_life(cloud, autojump_clock):
    async with serving(stays_open) as server:
        lives = cloud(server)
        async with lives.begin(leave=False) as sidecar:
            chat = ask(sidecar, key="k1", stream=True)
            await sidecar.host.streamed(chat, 1)
        lives.disk = lives.disk.copy()
        async with lives.begin() as sidecar:
            error = await sidecar.host.error(ask(sidecar, key="k1", stream=True))
            assert (error["code"], error["data"]["resumable"]) == (1008, False)
            assert error["data"]["partial"] == "so far"
            assert len(server.asked) == 1


# ------------------------------------------------------------------------------------------------ routes


async def test_a_route_goes_from_a_provider_that_fails_to_a_local_model(cloud, autojump_clock):
    async with serving(lambda x: x.json({}, status=500)) as server:
        lives = cloud(server)
        lives.routes["any"] = ("big-chat", "toy")
        async with lives.begin() as sidecar:
            result = await sidecar.host.result(ask(sidecar, model="any"))
            assert (result["model"], result["provider"], result["device"]) == ("toy", "local", "cpu")
            [passed] = result["rerouted"]
            assert (passed["model"], passed["provider"]) == ("big-chat", "cloud")
            assert passed["reason"] == "provider_error"


async def test_a_route_goes_from_absent_weights_to_a_provider_and_the_sampling_is_that_models(cloud, autojump_clock):
    async with serving(hello) as server:
        lives = cloud(server)
        lives.models["absent"] = ModelEntry(name="absent", kind="chat", source="path:/nowhere")
        lives.routes["any"] = ("absent", "big-chat")
        async with lives.begin() as sidecar:
            result = await sidecar.host.result(ask(sidecar, model="any", seed=5))
            assert (result["model"], result["seed"]) == ("big-chat", 5)
            assert result["rerouted"][0]["reason"] == "model_not_installed"
            assert server.asked[0].body["seed"] == 5


async def test_what_a_request_needs_chooses_the_model(cloud, autojump_clock):
    tool = {"type": "function", "function": {"name": "weather"}}
    async with serving(hello) as server:
        lives = cloud(server)
        plain = ModelEntry(name="plain", kind="chat", provider="cloud")
        lives.models["plain"] = plain
        lives.routes["any"] = ("plain", "big-chat")
        async with lives.begin() as sidecar:
            assert (await sidecar.host.result(ask(sidecar, model="any")))["model"] == "plain"
            assert (await sidecar.host.result(ask(sidecar, model="any", tools=[tool])))["model"] == "big-chat"


async def test_a_host_may_say_who_answers(cloud, autojump_clock):
    async with serving(hello) as server:
        lives = cloud(server)
        lives.routes["any"] = ("toy", "big-chat")
        async with lives.begin() as sidecar:
            assert (await sidecar.host.result(ask(sidecar, model="any", provider="cloud")))["model"] == "big-chat"
            error = await sidecar.host.error(ask(sidecar, model="toy", provider="cloud"))
            assert (error["code"], error["data"]["feature"]) == (1010, "provider")


async def test_a_provider_that_fails_again_and_again_is_left_alone_and_shown_so(cloud, autojump_clock):
    async with serving(lambda x: x.json({}, status=500)) as server, cloud(server).begin() as sidecar:
        for _ in range(6):
            error = await sidecar.host.error(ask(sidecar))
        assert (len(server.asked), error["data"]["reason"]) == (5, "breaker")
        [_, shown] = (await sidecar.host.call("providers.list"))["providers"]
        assert (shown["breaker"], shown["usable"], shown["faults"]) == ("open", False, 5)
        server.answer = hello
        await trio.sleep(error["data"]["retry_after_ms"] / 1000)
        assert (await sidecar.host.result(ask(sidecar)))["message"]["content"] == "Hello"
        [_, shown] = (await sidecar.host.call("providers.list"))["providers"]
        assert (shown["breaker"], shown["usable"]) == ("closed", True)


async def test_a_conversation_goes_on_with_whoever_answers_its_turns(cloud, autojump_clock):
    async with serving(hello) as server:
        lives = cloud(server)
        lives.routes["any"] = ("big-chat", "toy")
        async with lives.begin() as sidecar:
            first = await sidecar.host.result(ask(sidecar, model="any", prompt="One.", conversation="c"))
            assert first["provider"] == "cloud"
            await sidecar.host.result(ask(sidecar, model="any", prompt="Two.", conversation="c"))
            said = [(message["role"], message["content"]) for message in server.asked[1].body["messages"]]
            assert said == [("user", "One."), ("assistant", "Hello"), ("user", "Two.")]
            server.answer = lambda exchange: exchange.json({}, status=500)
            third = await sidecar.host.result(ask(sidecar, model="any", prompt="Three.", conversation="c"))
            assert (third["model"], third["rerouted"][0]["model"]) == ("toy", "big-chat")
            [frame] = [frame for frame in sidecar.workshop.workers[0].told if hasattr(frame, "messages")]
            assert [message["content"] for message in frame.messages] == ["One.", "Hello", "Two.", "Hello", "Three."]
