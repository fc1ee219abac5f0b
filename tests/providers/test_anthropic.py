"""Anthropic's messages API: what it is asked, and what is understood of its answers."""

import attrs
import pytest
from asking_servers import KEY

from mlzoo.frames import Sampling, ToolCallDelta
from mlzoo.providers.protocol import Failed

START = {
    "type": "message_start",
    "message": {"usage": {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 1}},
}


def block(index, **block_):
    return {"type": "content_block_start", "index": index, "content_block": block_}


def delta(index, **delta_):
    return {"type": "content_block_delta", "index": index, "delta": delta_}


def ends(reason, tokens=3):
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": tokens}}


STOP = {"type": "message_stop"}
TEXT = (block(0, type="text", text=""), delta(0, type="text_delta", text="Hel"), delta(0, type="text_delta", text="lo"))


def says(*events):
    async def answer(exchange):
        await exchange.head()
        for event in events:
            await exchange.event(event, name=event["type"])

    return answer


async def test_an_answer_is_streamed_with_its_end_and_its_usage(asking, autojump_clock):
    events = (START, {"type": "ping"}, *TEXT, ends("end_turn"), STOP)
    pieces, server = await asking.pieces(says(*events), kind="anthropic")
    assert [piece.content for piece in pieces] == ["Hel", "lo", ""]
    last = pieces[-1]
    assert (last.finish_reason, last.prompt_tokens, last.cached_tokens, last.completion_tokens) == ("stop", 9, 2, 3)
    [asked] = server.asked
    assert (asked.path, asked.headers["x-api-key"]) == ("/v1/messages", KEY)
    assert asked.headers["anthropic-version"] == "2023-06-01"
    assert asked.body == {
        "model": "big-1",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "max_tokens": 4096,
        "stream": True,
    }


async def test_a_conversation_is_told_in_their_words(asking, autojump_clock):
    turns = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "auto"}},
        ]},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "name": "look", "arguments": '{"at": 1}'}]},
        {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
        {"role": "tool", "content": "a dog", "tool_call_id": "c2"},
        {"role": "user", "content": "Well?"},
    )  # fmt: skip
    tool = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}
    work = attrs.evolve(
        asking.work,
        messages=turns,
        sampling=Sampling(temperature=0.5, top_p=0.9, top_k=3),
        stop=("x",),
        max_tokens=9,
        tools=(tool,),
        tool_choice={"type": "function", "function": {"name": "look"}},
    )
    _, server = await asking.pieces(says(START, *TEXT, ends("end_turn"), STOP), work, kind="anthropic")
    body = server.asked[0].body
    assert (body["system"], body["max_tokens"], body["stop_sequences"]) == ("Be brief.", 9, ["x"])
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.5, 0.9, 3)
    assert body["tools"] == [{"name": "look", "description": "Look.", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "tool", "name": "look"}
    user, assistant, results = body["messages"]
    assert [part["type"] for part in user["content"]] == ["text", "image", "image"]
    assert user["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert assistant["content"] == [{"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}}]
    assert [part["type"] for part in results["content"]] == ["tool_result", "tool_result", "text"]


async def test_calls_of_tools_and_thoughts_come_in_pieces(asking, autojump_clock):
    events = (
        START,
        block(0, type="thinking", thinking=""),
        delta(0, type="thinking_delta", thinking="Hm."),
        delta(0, type="signature_delta", signature="abc"),
        block(1, type="tool_use", id="c1", name="weather", input={}),
        delta(1, type="input_json_delta", partial_json=""),
        delta(1, type="input_json_delta", partial_json='{"city":'),
        delta(1, type="input_json_delta", partial_json='"Rome"}'),
        {"type": "content_block_stop", "index": 1},
        ends("tool_use"),
        STOP,
    )
    pieces, _ = await asking.pieces(says(*events), kind="anthropic")
    assert pieces[0].reasoning == "Hm."
    assert [piece.tool_calls for piece in pieces[1:-1]] == [
        (ToolCallDelta(index=0, id="c1", name="weather"),),
        (ToolCallDelta(index=0, arguments='{"city":'),),
        (ToolCallDelta(index=0, arguments='"Rome"}'),),
    ]
    assert pieces[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("end_turn", "stop"), ("max_tokens", "length"), ("refusal", "content_filter"), ("something new", "stop")],
)
async def test_the_reasons_of_an_end_have_our_names(asking, autojump_clock, reason, finish):
    pieces, _ = await asking.pieces(says(START, *TEXT, ends(reason), STOP), kind="anthropic")
    assert pieces[-1].finish_reason == finish


async def test_an_overload_amid_the_stream_is_worth_another_try(asking, autojump_clock):
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    with pytest.raises(Failed) as caught:
        await asking.pieces(says(START, error), kind="anthropic")
    assert (caught.value.status, caught.value.is_worth_trying, caught.value.detail) == (529, True, "Overloaded")


@pytest.mark.parametrize(
    "event", [{"type": "content_block_delta"}, {"type": 7, "x": 1}, delta(0, type="text_delta", text=1)]
)
async def test_events_that_make_no_sense_are_said_to_make_none(asking, autojump_clock, event):
    async def answer(exchange):
        await exchange.head()
        await exchange.event(event)

    with pytest.raises(Failed, match=r"cannot be understood|broke off"):
        await asking.pieces(answer, kind="anthropic")


async def test_a_stream_that_breaks_off_is_no_answer(asking, autojump_clock):
    with pytest.raises(Failed, match="broke off"):
        await asking.pieces(says(START, *TEXT), kind="anthropic")


async def test_it_has_no_embeddings(asking, autojump_clock):
    with pytest.raises(Failed, match="no embeddings") as caught:
        await asking.vectors(says(), kind="anthropic")
    assert caught.value.code == 1010
