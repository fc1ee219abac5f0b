"""Sessions with the real sidecar and real weights, played: in seconds, without torch, and strict.

``pytest --mlzoo-record tests/replay/test_recordings.py`` makes them anew.
"""

import pytest

from mlzoo.client import RemoteError

RECORDINGS = "../../replay"
SMALL = ("limits.max_running=4",)
HAIKU = {
    "messages": [{"role": "user", "content": "Name three colours."}],
    "max_tokens": 12,
    "temperature": 0,
    "seed": 1,
}


@pytest.mark.mlzoo_recording(f"{RECORDINGS}/chat.ndjson", overrides=SMALL)
def test_a_chat(replayed_sidecar):
    with replayed_sidecar.connect() as sidecar:
        hello = sidecar.call("initialize", {"protocol_version": "1", "client": {"name": "tests", "version": "1"}})
        assert hello["protocol_version"] == "1"
        whole = sidecar.call("chat", HAIKU)
        pieces, streamed = sidecar.stream("chat", HAIKU)
        assert "".join(piece["content"] for piece in pieces) == streamed["message"]["content"]
        assert whole["message"] == streamed["message"]
        assert len(pieces) == 12
        assert whole["usage"]["completion_tokens"] == 12


@pytest.mark.mlzoo_recording(f"{RECORDINGS}/cancel.ndjson", overrides=SMALL)
async def test_a_stream_that_is_cancelled(replayed_sidecar):
    async with replayed_sidecar.spawn() as client:
        said = ""
        async with client.stream("chat", {**HAIKU, "max_tokens": 400}) as answer:
            async for delta in answer:
                said += delta["content"]
                if len(said) > 20:
                    break
            assert await client.cancel(answer.id)
            with pytest.raises(RemoteError) as caught:
                await answer.result()
        assert caught.value.code == -32800
        assert caught.value.data["partial"].startswith(said)


@pytest.mark.mlzoo_recording(f"{RECORDINGS}/conversation.ndjson", overrides=SMALL)
def test_a_conversation_with_a_persona(replayed_sidecar):
    turn = {"conversation": "garden", "max_tokens": 12, "temperature": 0, "seed": 1}
    with replayed_sidecar.connect() as sidecar:
        sidecar.call("personas.put", {"name": "gardener", "system": "You are a gardener.", "greeting": "Good day."})
        asked = {"messages": [{"role": "user", "content": "What grows in the shade?"}], "persona": "gardener"}
        first = sidecar.call("chat", {**turn, **asked})
        pieces, second = sidecar.stream("chat", {**turn, "messages": [{"role": "user", "content": "And in the sun?"}]})
        assert "".join(piece["content"] for piece in pieces) == second["message"]["content"]
        assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
        shown = sidecar.call("conversations.get", {"conversation": "garden"})["messages"]
        assert [message["role"] for message in shown] == ["assistant", *["user", "assistant"] * 2]
        fork = {"conversation": "garden", "at": shown[2]["log_seq"], "into": "other"}
        assert sidecar.call("conversations.fork", fork) == {"conversation": "other", "turns": 1}
        left = sidecar.call("conversations.get", {"conversation": "other"})["messages"]
        assert [message["content"] for message in left] == [message["content"] for message in shown[:3]]


@pytest.mark.mlzoo_recording(f"{RECORDINGS}/embed.ndjson", overrides=SMALL)
def test_an_embedding(replayed_sidecar):
    with replayed_sidecar.connect() as sidecar:
        found = sidecar.call("embed", {"input": ["a cat", "a kitten", "tax law"]})
        cat, kitten, law = found["embeddings"]
        assert dot(cat, kitten) > 0.6 > dot(cat, law)
        tokens = sidecar.call("tokenize", {"text": "a cat"})
        assert sidecar.call("detokenize", {"tokens": tokens["tokens"]}) == {"text": "a cat"}


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


@pytest.mark.mlzoo_recording(f"{RECORDINGS}/errors.ndjson", overrides=SMALL)
def test_what_is_refused(replayed_sidecar):
    user = [{"role": "user", "content": "x"}]
    with replayed_sidecar.connect() as sidecar:
        for code, method, params in (
            (1003, "chat", {"model": "nobody", "messages": user}),
            (-32602, "chat", {"messages": user, "temperature": "hot"}),
            (-32601, "chant", {}),
            (1010, "embed", {"model": "smollm2", "input": "x"}),
        ):
            with pytest.raises(RemoteError) as caught:
                sidecar.call(method, params)
            assert caught.value.code == code
        assert sidecar.call("ping") == {}
