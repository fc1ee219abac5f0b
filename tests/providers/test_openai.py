"""Servers that speak as OpenAI's does: what they are asked, and what is understood of their answers."""

import array
import base64

import attrs
import pytest
from asking_servers import KEY

from mlzoo.frames import Sampling, ToolCallDelta
from mlzoo.providers.protocol import Failed

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


def text_of(pieces):
    return "".join(piece.content for piece in pieces)


async def test_a_chat_is_streamed_with_its_end_and_its_usage_in_the_last_piece(asking, autojump_clock):
    pieces, server = await asking.pieces(lambda x: x.chat("Hel", "lo", "", usage=USAGE))
    assert [piece.content for piece in pieces] == ["Hel", "lo", ""]
    last = pieces[-1]
    assert (last.finish_reason, last.prompt_tokens, last.completion_tokens, last.cached_tokens) == ("stop", 9, 3, 4)
    [asked] = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "big-1",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 7,
    }


async def test_all_that_a_request_says_reaches_the_server(asking, autojump_clock):
    work = attrs.evolve(
        asking.work,
        sampling=Sampling(temperature=0.5, top_p=0.9, top_k=3, seed=1, logprobs=True, top_logprobs=2),
        stop=("x",),
        max_tokens=5,
        tools=(TOOL,),
        tool_choice="required",
        response_format={"type": "json_object"},
    )
    _, server = await asking.pieces(lambda x: x.chat("ok"), work, max_tokens_field="max_completion_tokens")
    body = server.asked[0].body
    assert {name: body[name] for name in ("temperature", "top_p", "top_k", "stop", "max_completion_tokens")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "stop": ["x"],
        "max_completion_tokens": 5,
    }
    assert (body["tools"], body["tool_choice"]) == ([TOOL], "required")
    assert (body["response_format"], body["logprobs"], body["top_logprobs"]) == ({"type": "json_object"}, True, 2)


async def test_calls_of_tools_come_in_pieces_and_calls_that_we_told_go_back(asking, autojump_clock):
    calls = [
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Rome"}'}}]},
    ]
    told = {"id": "c0", "name": "weather", "arguments": "{}"}
    turns = (
        {"role": "assistant", "content": "", "tool_calls": [told]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c0"},
    )
    work = attrs.evolve(asking.work, messages=turns, tools=(TOOL,))
    pieces, server = await asking.pieces(lambda x: x.chat(*calls, finish="tool_calls"), work)
    assert [piece.tool_calls for piece in pieces[:-1]] == [
        (ToolCallDelta(index=0, id="c1", name="weather"),),
        (ToolCallDelta(index=0, arguments='{"city":'),),
        (ToolCallDelta(index=0, arguments='"Rome"}'),),
    ]
    assert pieces[-1].finish_reason == "tool_calls"
    assistant, tool = server.asked[0].body["messages"]
    assert assistant["tool_calls"] == [
        {"id": "c0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    ]
    assert tool == {"role": "tool", "content": "sunny", "tool_call_id": "c0"}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_is_understood_under_both_its_names(asking, autojump_clock, name):
    pieces, _ = await asking.pieces(lambda x: x.chat({name: "Hm."}, "Yes."))
    assert (pieces[0].reasoning, pieces[1].content) == ("Hm.", "Yes.")


async def test_logprobs_are_understood(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head()
        rivals = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]
        token = {"token": "a", "logprob": -0.5, "top_logprobs": rivals}
        choice = {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [token]}, "finish_reason": "length"}
        await exchange.event({"choices": [choice]})

    pieces, _ = await asking.pieces(answer)
    assert pieces[0].logprobs[0].top == (("a", -0.5), ("b", -1.5))
    assert pieces[-1].finish_reason == "length"


async def test_a_completion_has_its_own_path_and_its_own_words(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head()
        await exchange.event({"choices": [{"index": 0, "text": " time", "finish_reason": "stop"}]})
        await exchange.event("[DONE]")

    work = attrs.evolve(asking.work, messages=None, prompt="Once upon a")
    pieces, server = await asking.pieces(answer, work)
    assert text_of(pieces) == " time"
    assert (server.asked[0].path, server.asked[0].body["prompt"]) == ("/v1/completions", "Once upon a")


@pytest.mark.parametrize("ending", [{"done": False}, {"finish": None}])
async def test_an_end_is_an_end_with_its_mark_or_its_reason(asking, autojump_clock, ending):
    pieces, _ = await asking.pieces(lambda x: x.chat("Hi", **ending))
    assert (text_of(pieces), pieces[-1].finish_reason) == ("Hi", "stop")


async def test_what_is_neutral_or_not_known_there_is_left_out(asking, autojump_clock):
    _, server = await asking.pieces(lambda x: x.chat("ok"), sends_usage=False, sends_seed=False)
    assert server.asked[0].body.keys() == {"model", "messages", "stream"}


# ------------------------------------------------------------------------------------------------ embeddings


def embeddings(*vectors):
    data = [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    return {"data": data, "usage": {"prompt_tokens": 5}}


def in_base64(*numbers):
    return base64.b64encode(array.array("f", numbers).tobytes()).decode()


async def test_embeddings_come_as_numbers_or_in_base64(asking, autojump_clock):
    for answer in (embeddings([0.5, 0.25], [1, 0]), embeddings(in_base64(0.5, 0.25), in_base64(1, 0))):
        vectors, server = await asking.vectors(lambda x, answer=answer: x.json(answer))
        assert (vectors.rows, vectors.prompt_tokens) == ([[0.5, 0.25], [1.0, 0.0]], 5)
        assert server.asked[0].body == {"model": "vec-1", "input": ["a", "b"], "encoding_format": "base64"}


async def test_embeddings_stand_in_the_order_of_the_texts_and_have_the_length_one_where_that_is_asked_for(
    asking, autojump_clock
):
    answer = embeddings([3.0, 4.0], [0.0, 2.0])
    answer["data"].reverse()
    vectors, _ = await asking.vectors(lambda x: x.json(answer), normalize=True)
    assert vectors.rows == [[0.6, 0.8], [0.0, 1.0]]


async def test_the_digits_of_a_float32_give_it_back(asking, autojump_clock):
    numbers = [0.1, 1 / 3, 1e-20, -7.25]
    vectors, _ = await asking.vectors(lambda x: x.json(embeddings(in_base64(*numbers))), texts=("a",))
    assert array.array("f", vectors.rows[0]) == array.array("f", numbers)
    assert repr(vectors.rows[0][0]) == "0.100000001"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": []},
        embeddings([1.0]),
        embeddings([1.0], [1.0, 2.0]),
        embeddings([], []),
        embeddings([1.0], ["one"]),
        embeddings("not base64!", "AAAA"),
        embeddings([1.0], [float("nan")]),
        [1],
    ],
)
async def test_embeddings_that_are_none_are_refused(asking, autojump_clock, answer):
    with pytest.raises(Failed, match=r"embeddings|no JSON"):
        await asking.vectors(lambda x: x.json(answer))
