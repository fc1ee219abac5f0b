"""Real weights through the whole house."""

import anyio
import pytest
from real_process import RawSidecar, call, hosting, story, user

from mlzoo.client import RemoteError
from mlzoo.config import load
from mlzoo.store import open_store

pytestmark = pytest.mark.weights

CAPITAL = "What is the capital of France?"
GREEDY = {"temperature": 0}
TOPICS = ["the sea", "copper", "Vienna", "bread", "the moon", "a horse", "mathematics", "rain"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Here are as many threads as a user has."""


def about(topic):
    # Exact: what one says alone is what it says in company.
    return {"messages": user(f"Tell me about {topic}."), "max_tokens": 40, "determinism": "exact", **GREEDY}


def test_a_chat_gives_a_sensible_answer_and_accounts_for_it(host):
    result = host.call("chat", messages=user(CAPITAL), **GREEDY)
    assert "Paris" in result["message"]["content"]
    assert (result["model"], result["message"]["role"], result["finish_reason"]) == ("smollm2", "assistant", "stop")
    usage = result["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] > 10
    again = host.call("chat", messages=user(CAPITAL), **GREEDY)["usage"]
    assert again["cached_tokens"] == (usage["prompt_tokens"] - 1) // 32 * 32 > 0, "it was read before"
    timing = result["timing"]
    assert timing["queue_ms"] <= timing["ttft_ms"] <= timing["total_ms"]


def test_the_deltas_of_a_stream_are_the_message(host):
    async def main(client):
        async with client.stream("chat", about("Zürich, with an emoji for each sight 🎡")) as answer:
            deltas = [delta["content"] async for delta in answer]
            return deltas, answer.seq, await answer.result()

    deltas, seq, result = host.run(main)
    assert "".join(deltas) == result["message"]["content"]
    assert seq == len(deltas) - 1
    assert len(deltas) > 5
    assert result["finish_reason"] == "length"


def test_the_same_seed_gives_the_same_text_and_another_seed_another(host):
    texts = [
        host.call("chat", messages=user("Invent a name for a boat."), max_tokens=12, temperature=1.5, seed=seed)
        for seed in (7, 7, 8)
    ]
    assert [text["seed"] for text in texts] == [7, 7, 8]
    first, again, other = (text["message"]["content"] for text in texts)
    assert first == again
    assert first != other


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(host):
    whole = host.call("chat", **about("copper"))["message"]["content"]
    word = whole.split()[3]
    result = host.call("chat", **about("copper"), stop=[word])
    assert result["message"]["content"] == whole[: whole.index(word)]
    assert result["finish_reason"] == "stop"


def test_logprobs_name_each_token_and_its_rivals(host):
    result = host.call("chat", messages=user(CAPITAL), max_tokens=3, logprobs=True, top_logprobs=2, **GREEDY)
    assert len(result["logprobs"]) == 3
    for chosen in result["logprobs"]:
        assert chosen["logprob"] <= 0
        assert chosen["top"][0]["token"] == chosen["token"]
        assert len(chosen["top"]) == 2


def test_complete_continues_a_text_without_a_template(host):
    result = host.call("complete", prompt="One, two, three, four, five, six, seven,", max_tokens=4, **GREEDY)
    assert "eight" in result["text"]


def test_tokens_become_the_text_again(host):
    text = "Grüße, 世界! 🎡"
    tokens = host.call("tokenize", text=text)
    assert tokens["count"] == len(tokens["tokens"]) > 3
    assert host.call("detokenize", tokens=tokens["tokens"])["text"] == text


def test_embeddings_of_like_texts_are_close(host):
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Shares fell on Tuesday."]
    result = host.call("embed", input=texts)
    cat, kitten, shares = result["embeddings"]
    assert {len(vector) for vector in result["embeddings"]} == {384}
    assert sum(x * x for x in cat) == pytest.approx(1, abs=1e-3)
    assert dot(cat, kitten) > 0.5
    assert dot(cat, shares) < 0.2


def dot(first, second):
    return sum(a * b for a, b in zip(first, second, strict=True))


def test_a_prompt_longer_than_the_context_is_1006_with_limit_and_length(host):
    error = host.refused("chat", messages=user("word " * 20_000))
    assert (error.code, error.type) == (1006, "context_length_exceeded")
    assert error.data["got"] > error.data["limit"] > 0


def test_a_deadline_ends_a_request_with_its_partial_text(host):
    # How long a first piece takes is the machine's affair: a deadline that passes before it is doubled.
    for deadline_ms in (300 * 2**n for n in range(8)):
        error = host.refused("chat", messages=user("Tell me about the sea."), deadline_ms=deadline_ms, **GREEDY)
        assert (error.code, error.type) == (1002, "deadline_exceeded")
        if "partial" in error.data:
            break
    assert "partial" in error.data


def test_an_id_that_is_in_flight_is_refused(host):
    with RawSidecar("--log", host.log.with_name("raw")) as sidecar:
        sidecar.send(call("chat", 1, messages=user("Tell me about the sea."), stream=True))
        sidecar.receive()  # Progress of loading, or the first piece.
        sidecar.send(call("ping", 1))
        answers = iter(sidecar.receive, None)
        error = next(answer["error"] for answer in answers if "error" in answer)
        assert error["code"] == -32600
        sidecar.send({"jsonrpc": "2.0", "method": "cancel", "params": {"request": 1}})
        error = next(answer["error"] for answer in answers if "error" in answer)
        assert error["code"] == -32800
        assert sidecar.ping()


def test_eight_chats_stream_at_once_and_cancelling_one_leaves_the_others_alone(host):
    undisturbed = {topic: host.call("chat", **about(topic))["message"]["content"] for topic in TOPICS}
    victim = TOPICS[3]
    texts, errors = {}, {}

    async def stream(client, topic, streaming):
        pieces = []
        try:
            async with client.stream(
                "chat", {**about(topic), **({"max_tokens": 2000} if topic == victim else {})}
            ) as answer:
                async for delta in answer:
                    pieces.append(delta["content"])
                    streaming.setdefault(topic, answer.id)
                    if len(streaming) == len(TOPICS) and victim not in errors:
                        errors[victim] = None  # All eight run: now.
                        assert await client.cancel(streaming[victim])
        except RemoteError as error:
            errors[topic] = error
        texts[topic] = "".join(pieces)

    async def main(client):
        streaming = {}
        async with anyio.create_task_group() as tasks:
            for topic in TOPICS:
                tasks.start_soon(stream, client, topic, streaming)

    host.run(main)
    assert list(errors) == [victim]
    assert (errors[victim].code, errors[victim].type) == (-32800, "cancelled")
    assert errors[victim].data["partial"] == texts[victim]
    assert texts[victim]
    del texts[victim]
    assert texts == {topic: text for topic, text in undisturbed.items() if topic != victim}


def test_a_cancelled_request_has_one_end_in_the_log_and_no_later_token(host):
    async def main(client):
        async with client.stream("chat", {**about("the wind"), "max_tokens": 2000}) as answer:
            await anext(answer)
            assert await client.cancel(answer.id)
            with pytest.raises(RemoteError):
                await answer.result()
            assert not await client.cancel(answer.id)

    host.run(main)
    records = [record for record in story(host.log) if "log_seq" in record]
    cancelled = [record["data"]["request"] for record in records if record["type"] == "RequestCancelled"]
    of_request = [record["type"] for record in records if record["data"].get("request") == cancelled[-1]]
    assert of_request[-1] == "RequestCancelled"
    assert of_request.count("RequestCancelled") == 1
    assert "RequestStreamed" in of_request


def test_a_host_that_gives_up_frees_the_place_of_its_request(host):
    async def main(client):
        with anyio.CancelScope() as scope:
            async with client.stream("chat", {**about("the wind"), "max_tokens": 2000}) as answer:
                await anext(answer)
                scope.cancel()
                await anext(answer)
        while (await client.call("status"))["requests"]["running"]:
            await anyio.lowlevel.checkpoint()

    host.run(main)


def test_what_does_not_fit_is_refused_at_the_door_and_the_rest_is_served(host):
    outcomes = []

    async def ask(client):
        try:
            outcomes.append((await client.call("chat", {**about("rain"), "max_tokens": 4}))["finish_reason"])
        except RemoteError as error:
            outcomes.append(error)

    async def main(client):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(ask, client)

    with hosting(host.log.with_name("narrow"), "limits.max_queued=2", "limits.max_running=1") as narrow:
        narrow.run(main)
        assert narrow.call("ping") == {}
    refusals = [outcome for outcome in outcomes if isinstance(outcome, RemoteError)]
    assert {refusal.code for refusal in refusals} == {1001}
    assert {"retry_after_ms", "queued", "limit"} <= refusals[0].data.keys()
    assert 0 < len(refusals) < 8


def test_weights_that_are_truncated_fail_to_load_with_a_clear_message_and_the_next_request_works(weights, tmp_path):
    config = load(())
    installed = open_store(config).find(config.model("smollm2")).path
    broken = tmp_path / "weights"
    broken.mkdir()
    for file in installed.iterdir():
        data = file.read_bytes()
        (broken / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "broken.yaml").write_text(
        f"name: broken\nkind: chat\nsource: path:{broken}\nlicence: {{spdx: Apache-2.0, url: https://example.org}}\n"
    )
    overrides = [f"store={tmp_path / 'store'}", "model=broken"]
    with hosting(tmp_path / "log", *overrides, config_dir=tmp_path) as other:
        other.call("models.pull", model="broken")
        error = other.refused("chat", messages=user("hi"))
        assert (error.code, error.type) == (1004, "model_load_failed")
        assert "truncated" in error.message
