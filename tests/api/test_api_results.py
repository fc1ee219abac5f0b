"""Results as plain data."""

import orjson

from mlzoo.api import devices, embed, inference, models, notifications
from mlzoo.api.wire import unstructure

USAGE = inference.Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5, cached_tokens=0)
TIMING = inference.Timing(queue_ms=0, ttft_ms=1, total_ms=2)


def chat_result(**changes):
    fields = {
        "id": "req-1",
        "model": "smollm2",
        "provider": "local",
        "device": "cpu",
        "message": inference.AnswerMessage(content="Paris"),
        "finish_reason": "stop",
        "usage": USAGE,
        "seed": 7,
        "determinism": "fast",
        "timing": TIMING,
    }
    return inference.ChatResult(**fields | changes)


def test_a_chat_result_has_what_is_always_there_and_nothing_that_is_absent():
    assert unstructure(chat_result()) == {
        "id": "req-1",
        "model": "smollm2",
        "provider": "local",
        "device": "cpu",
        "message": {"role": "assistant", "content": "Paris"},
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cached_tokens": 0},
        "seed": 7,
        "determinism": "fast",
        "timing": {"queue_ms": 0, "ttft_ms": 1, "total_ms": 2},
    }


def test_a_chat_result_has_what_is_sometimes_there():
    top = (inference.TopLogprob(token="Rome", logprob=-3.0),)
    plain = unstructure(
        chat_result(
            degraded="cuda:0 is full",
            truncated=inference.Truncated(turns=2),
            logprobs=(
                inference.TokenLogprob(token="Par", logprob=-0.5, top=top),
                inference.TokenLogprob(token="is", logprob=-0.1),
            ),
        )
    )
    assert plain["degraded"] == "cuda:0 is full"
    assert plain["truncated"] == {"turns": 2}
    assert orjson.loads(orjson.dumps(plain["logprobs"])) == [
        {"token": "Par", "logprob": -0.5, "top": [{"token": "Rome", "logprob": -3.0}]},
        {"token": "is", "logprob": -0.1},
    ]


def test_what_the_protocol_always_has_is_null_where_it_is_unknown():
    summary = models.ModelSummary(
        name="smollm2",
        kind="chat",
        provider="local",
        state="absent",
        device=None,
        bytes=None,
        loaded_at=None,
        last_used_at=None,
    )
    (plain,) = unstructure(models.ModelsListResult(models=(summary,)))["models"]
    assert plain == {
        "name": "smollm2",
        "kind": "chat",
        "provider": "local",
        "state": "absent",
        "device": None,
        "bytes": None,
        "loaded_at": None,
        "last_used_at": None,
    }


def test_embeddings_go_out_as_they_are():
    vectors = ((0.5, -0.5), (1.0, 0.0))
    usage = embed.EmbedUsage(prompt_tokens=4, total_tokens=4)
    plain = unstructure(embed.EmbedResult(model="minilm", embeddings=vectors, usage=usage))
    assert plain["embeddings"] is vectors
    assert orjson.loads(orjson.dumps(plain)) == {
        "model": "minilm",
        "embeddings": [[0.5, -0.5], [1.0, 0.0]],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }


def test_a_stream_notification_is_the_protocols():
    piece = notifications.Stream(request=7, seq=0, delta=notifications.Delta(content="Hel"))
    assert unstructure(piece) == {"request": 7, "seq": 0, "delta": {"content": "Hel"}}


def test_an_unusable_device_says_why():
    device = devices.DeviceInfo(
        name="cuda:0",
        kind="cuda",
        description="a GPU",
        memory_total_bytes=1,
        memory_free_bytes=0,
        dtypes=("float16",),
        worker="absent",
        models=(),
        usable=False,
        reason="the driver is too old",
        remedy="update it",
    )
    (plain,) = unstructure(devices.DevicesListResult(devices=(device,)))["devices"]
    assert (plain["usable"], plain["reason"], plain["remedy"]) == (False, "the driver is too old", "update it")
