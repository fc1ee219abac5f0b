"""Servers that misbehave: each ends the one request that it was asked, in bounded time and bytes, in our own words."""

import pytest
import trio
from asking_servers import KEY
from loopback import serving, silent_for

import mlzoo.providers.http
from mlzoo.errors import ContextLengthExceeded
from mlzoo.providers.protocol import Failed

CHOICE = '{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


async def failure_of(asking, answer, **settings):
    with pytest.raises(Failed) as caught:
        await asking.pieces(answer, **settings)
    return caught.value


async def test_a_server_that_is_not_there_cannot_be_reached(asking, autojump_clock):
    async with serving(silent_for()) as server:
        pass
    with pytest.raises(Failed, match="cannot be reached") as caught:
        await asking.of(server)
    assert caught.value.is_worth_trying


async def test_silence_before_the_first_word_has_an_end(asking, autojump_clock):
    began = trio.current_time()
    failed = await failure_of(asking, silent_for(), first_s=20.0)
    assert "did not begin to answer within 20 s" in failed.what
    assert 20 <= trio.current_time() - began < 25


async def test_a_head_and_then_silence_is_no_beginning(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head()
        await exchange.raw(b": still here\n\n")
        await exchange.until_left()

    assert "did not begin" in (await failure_of(asking, answer, first_s=20.0, between_s=500.0)).what


async def test_silence_between_two_words_has_an_end(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head()
        await exchange.event(CHOICE)
        await exchange.until_left()

    assert "was silent for 30 s" in (await failure_of(asking, answer, between_s=30.0)).what


async def test_a_byte_now_and_then_does_not_go_on_for_ever(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head()
        await exchange.event(CHOICE)
        while True:
            await exchange.raw(b":")
            await trio.sleep(5)

    assert "did not finish its answer within 100 s" in (await failure_of(asking, answer, total_s=100.0)).what


async def test_a_stream_that_breaks_off_is_no_answer(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head()
        await exchange.event(CHOICE)

    assert "broke off" in (await failure_of(asking, answer)).what


async def test_a_response_that_breaks_off_in_a_chunk_is_no_answer(asking, autojump_clock):
    async def answer(exchange):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        await exchange.raw(head + b"ffff\r\ndata: {")

    assert "broke off" in (await failure_of(asking, answer)).what


@pytest.mark.parametrize(
    "line",
    [
        "data: {no json",
        "data: []",
        'data: {"choices": 7}',
        'data: {"choices": ["x"]}',
        'data: {"choices": [{"index": 0, "delta": {"content": 7}}]}',
        'data: {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 100000}]}}]}',
        'data: {"choices": [{"index": 0, "delta": {"content": "\\ud800"}}]}',
    ],
)
async def test_events_that_make_no_sense_are_said_to_make_none(asking, autojump_clock, line):
    async def answer(exchange):
        await exchange.raw(HEAD + line.encode() + b"\n\n")

    failed = await failure_of(asking, answer)
    assert "cannot be understood" in failed.what
    assert not failed.is_worth_trying


async def test_what_is_no_stream_of_events_is_not_read(asking, autojump_clock):
    failed = await failure_of(asking, lambda x: x.json({"choices": []}))
    assert "no stream of events" in failed.what


async def test_an_endless_line_is_not_held(asking, autojump_clock, monkeypatch):
    monkeypatch.setattr(mlzoo.providers.http, "EVENT_BYTES", 100_000)

    async def answer(exchange):
        await exchange.raw(HEAD + b"data: ")
        while True:
            await exchange.raw(b"x" * 10_000)

    assert "no stream of events" in (await failure_of(asking, answer)).what


async def test_endless_comments_end(asking, autojump_clock, monkeypatch):
    monkeypatch.setattr(mlzoo.providers.http, "ANSWER_BYTES", 100_000)

    async def answer(exchange):
        await exchange.raw(HEAD)
        while True:
            await exchange.raw(b": comment\n" * 1000)

    assert "said more than 100000 bytes" in (await failure_of(asking, answer)).what


async def test_an_error_amid_the_stream_is_an_error(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head()
        await exchange.event({"error": {"message": "the GPU is on fire"}})

    failed = await failure_of(asking, answer)
    assert ("error" in failed.what, failed.detail) == (True, "the GPU is on fire")


@pytest.mark.parametrize(
    ("status", "worth", "says"),
    [(401, False, "set CLOUD_KEY"), (403, False, "set CLOUD_KEY"), (404, False, "big-1"), (400, False, "see detail"),
     (413, False, "send less"), (429, True, ""), (500, True, ""), (503, True, ""), (302, False, "see detail")],
)  # fmt: skip
async def test_a_status_says_what_to_do_and_whether_trying_again_helps(asking, autojump_clock, status, worth, says):
    failed = await failure_of(asking, lambda x: x.json({"error": {"message": "because"}}, status=status))
    assert (failed.status, failed.is_worth_trying) == (status, worth)
    assert says in failed.remedy
    assert failed.detail == "because"
    assert "because" not in failed.what + failed.remedy, "what a server says is text, and these are not"


@pytest.mark.parametrize(
    ("header", "ms"),
    [({"retry_after": "3"}, 3000), ({"retry_after_ms": "250"}, 250), ({"retry_after": "soon"}, None),
     ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0), ({"retry_after": "1e99"}, None), ({}, None)],
)  # fmt: skip
async def test_when_to_try_again_is_understood(asking, autojump_clock, header, ms):
    assert (await failure_of(asking, lambda x: x.json({}, status=429, **header))).retry_after_ms == ms


async def test_a_body_of_an_error_is_held_in_part_and_without_the_key(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head(401, "text/plain")
        await exchange.raw(f"wrong key {KEY}! ".encode())
        while True:
            await exchange.raw(b"x" * 10_000)

    failed = await failure_of(asking, answer)
    assert failed.detail.startswith("wrong key [secret]!")
    assert len(failed.detail) <= 2000


async def test_a_context_that_is_too_long_has_its_own_code(asking, autojump_clock):
    error = {"error": {"message": "8192 and no more", "code": "context_length_exceeded"}}
    failed = await failure_of(asking, lambda x: x.json(error, status=400))
    assert failed.code == ContextLengthExceeded.code


async def test_a_redirect_does_not_get_the_key(asking, autojump_clock):
    async with serving(lambda x: x.chat("stolen")) as elsewhere:
        failed = await failure_of(asking, lambda x: x.json({}, status=307, location=elsewhere.url))
        assert failed.status == 307
        assert not elsewhere.asked


async def test_a_compressed_answer_is_not_unpacked(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head(content_encoding="gzip")
        await exchange.raw(b"\x1f\x8b")

    assert "compressed" in (await failure_of(asking, answer)).what


async def test_who_is_cancelled_closes_the_connection_at_once(asking, autojump_clock):
    async def answer(exchange):
        await exchange.head()
        await exchange.event(CHOICE)
        await exchange.until_left()

    async with serving(answer) as server, trio.open_nursery() as nursery:
        nursery.start_soon(asking.of, server)
        exchange = await server.came()
        nursery.cancel_scope.cancel()
    assert exchange is server.asked[0]


async def test_a_key_that_is_none_is_told_to_be_set_anew_and_not_shown(asking, autojump_clock):
    asking.key = "sk-\n-é"
    failed = await failure_of(asking, lambda x: x.chat("Hi"))
    assert "HTTP cannot carry" in failed.what
    assert "set CLOUD_KEY" in failed.remedy
    assert "sk-" not in failed.what + failed.remedy
