"""What a person wrote, or a model said, lies in the text of records and nowhere else, however a request ends."""

import orjson
import pytest
from sidecar_life import entry, install

from mlzoo import frames

MARKER = "xyzzy-4711"
USER = {"role": "user", "content": f"say {MARKER} now"}
IMAGE = {"type": "image_url", "image_url": {"url": f"data:{MARKER}"}}
CHAT = {"model": "toy", "messages": [USER], "stop": [f"stop {MARKER}"]}
FUNCTION = {"name": MARKER, "description": MARKER, "parameters": {"properties": {MARKER: {"const": MARKER}}}}
SAID = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": MARKER, "name": MARKER, "arguments": f'{{"a":"{MARKER}"}}'}],
}
WORK = [
    ("chat", CHAT),
    ("chat", {**CHAT, "messages": [{"role": "user", "content": [IMAGE]}]}),
    ("chat", {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": {"const": MARKER}}}}),
    ("chat", {**CHAT, "messages": [SAID, {"role": "tool", "content": MARKER, "tool_call_id": MARKER}]}),
    ("chat", {**CHAT, "tools": [{"type": "function", "function": FUNCTION}]}),
    ("chat", {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": MARKER}]}]}),
    ("complete", {"model": "toy", "prompt": MARKER, "stop": MARKER}),
    ("embed", {"input": ["a", MARKER]}),
    ("predict", {"model": "guess", "inputs": [MARKER, {MARKER: MARKER}]}),
    ("tokenize", {"text": MARKER}),
    ("tokenize", {"messages": [USER]}),
]
REFUSED = [
    ("chat", {**CHAT, "messages": [{"role": MARKER, "content": MARKER}]}),
    ("chat", {**CHAT, "messages": [{"role": "user", "content": [{"type": MARKER, "text": MARKER}]}]}),
    ("chat", {**CHAT, "messages": [{**USER, "tool_calls": [{"name": MARKER, "arguments": MARKER}]}]}),
    ("chat", {**CHAT, "messages": [{**USER, f"{MARKER} as a key": MARKER}]}),
    ("chat", {**CHAT, "messages": MARKER}),
    ("chat", {**CHAT, "messages": [MARKER]}),
    ("chat", {**CHAT, "stop": [MARKER, 1]}),
    ("chat", {**CHAT, "priority": MARKER}),
    ("chat", {**CHAT, "temperature": MARKER}),
    ("chat", {**CHAT, "tools": [{"function": {"description": MARKER}}]}),
    ("chat", {**CHAT, "response_format": {"type": "json_schema", "json_schema": {f"{MARKER} as a key": MARKER}}}),
    ("chat", {**CHAT, "tool_choice": {"type": "function", "function": {"name": MARKER}}}),
    ("chat", {**CHAT, f"{MARKER} as a key": 1}),
    ("chat", [MARKER]),
    ("complete", {"model": "toy", "prompt": [MARKER]}),
    ("embed", {"input": [MARKER, 5]}),
    ("embed", {"input": [MARKER] * 3000}),
    ("predict", {"model": "guess", "inputs": [MARKER] * 3000}),
    ("predict", {"model": "guess", "inputs": MARKER}),
    ("tokenize", {"text": MARKER, "messages": [USER]}),
    ("detokenize", {"tokens": [MARKER]}),
]


@pytest.fixture(autouse=True)
def guess(lives):
    """A custom model beside the others."""
    lives.models["guess"] = entry("guess", "predict")
    install(lives.store, lives.models["guess"])


def structure_of(sidecar):
    """Return all that the log holds but text, as one string."""
    records = [*sidecar.watch.groups(durable=False), *sidecar.watch.asides()]
    return orjson.dumps([{name: value for name, value in r.items() if name != "text"} for r in records]).decode()


def all_of(sidecar):
    return orjson.dumps([*sidecar.watch.groups(durable=False), *sidecar.watch.asides()]).decode()


def failing(code, **data):
    def answer(worker, frame):
        message = "this failed"
        failed = frames.WorkFailed(request=frame.request, code=code, message=message, data=data, detail=MARKER)
        worker.say(failed)

    return answer


@pytest.mark.parametrize(("method", "params"), REFUSED)
async def test_the_words_of_a_call_that_is_refused_are_not_recorded(lives, autojump_clock, method, params):
    async with lives.begin() as sidecar:
        await sidecar.host.refused(method, params)
        assert MARKER not in all_of(sidecar)


@pytest.mark.parametrize(("method", "params"), WORK)
@pytest.mark.parametrize("code", [-32602, 1006, 1010, 1011, -32603])
async def test_what_a_worker_says_of_a_failure_is_text_and_the_host_hears_it(
    lives, autojump_clock, method, params, code
):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = failing(code)
        error = await sidecar.host.refused(method, params)
        assert (error["code"], error["message"], error["data"]["detail"]) == (code, "this failed", MARKER)
        assert MARKER not in structure_of(sidecar)
        assert MARKER in all_of(sidecar)


@pytest.mark.parametrize("end", ["deadline", "cancel", "death", "leaving"])
async def test_the_partial_text_of_a_request_that_is_ended_is_text_alone(lives, autojump_clock, end):
    async with lives.begin(leave=end != "leaving") as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.host.send("chat", CHAT | {"stream": True} | ({"deadline_ms": 1000} if end == "deadline" else {}))
        worker = await sidecar.worker()
        [request] = await worker.given()
        worker.generate(request, f"I say {MARKER}", finish=None)
        await sidecar.host.until(lambda: sidecar.host.stream(chat))
        if end == "cancel":
            sidecar.host.notify("cancel", {"request": chat})
        elif end == "death":
            worker.end(-9)
        elif end == "leaving":
            sidecar.host.close()
        error = await sidecar.host.error(chat)
        assert MARKER in error["data"]["partial"]
        assert MARKER not in structure_of(sidecar)


async def test_a_failure_tells_its_detail_to_the_host_of_that_request_alone(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        first, second = sidecar.chat("a"), sidecar.chat("b")
        worker = await sidecar.worker()
        requests = await worker.given(2)
        for request, words in zip(requests, ("mine", "yours"), strict=True):
            worker.say(frames.WorkFailed(request=request, code=-32602, message="no", detail=words))
        errors = [await sidecar.host.error(chat) for chat in (first, second)]
        assert [error["data"]["detail"] for error in errors] == ["mine", "yours"]
