"""Calls, streams, cancellation: what a host relies on, whatever the sidecar does."""

import anyio
import pytest

from mlzoo.client import ProtocolViolation, RemoteError


def test_a_call_returns_the_result(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            return await client.call("echo", {"text": "Zürich\n"})

    assert run(main) == {"text": "Zürich\n"}


def test_a_result_may_be_null(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            return await client.call("nothing")

    assert run(main) is None


def test_initialize_says_who_the_host_is_and_learns_the_line_limit(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            result = await client.initialize("app", "1.2")
            assert result["got"] == {"protocol_version": "1", "client": {"name": "app", "version": "1.2"}}
            with pytest.raises(ValueError, match="at most 65536"):
                await client.call("echo", {"text": "x" * 65536})
            return await client.call("echo", {"text": "y"})

    assert run(main) == {"text": "y"}


def test_many_calls_at_once_each_get_their_own_answer(run, spawn_fake):
    async def main():
        answers = {}

        async def ask(number):
            answers[number] = await client.call("echo", {"number": number})

        async with spawn_fake() as client, anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(ask, number)
        return answers

    assert run(main) == {number: {"number": number} for number in range(300)}


def test_an_error_carries_code_type_message_and_data(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            data = {"type": "model_not_found", "retryable": False, "available": ["smollm2"]}
            with pytest.raises(RemoteError) as caught:
                await client.call("fail", {"code": 1003, "data": data})
            assert await client.call("echo", {"after": True}) == {"after": True}
        return caught.value

    error = run(main)
    assert (error.code, error.type, error.message) == (1003, "model_not_found", "no")
    assert error.data["available"] == ["smollm2"]


def test_an_error_of_json_rpc_itself_has_a_type_too(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            with pytest.raises(RemoteError) as caught:
                await client.call("fail", {"code": -32601})
        return caught.value

    assert run(main).type == "method_not_found"


def test_a_stream_gives_its_pieces_in_order_and_then_the_result(run, spawn_fake):
    async def main():
        async with spawn_fake() as client, client.stream("chat", {"pieces": ["a", "b", "c"]}) as answer:
            pieces = [delta["content"] async for delta in answer]
            return pieces, answer.seq, await answer.result(), await answer.result()

    whole = {"message": {"content": "abc"}}
    assert run(main) == (["a", "b", "c"], 2, whole, whole)


def test_a_stream_is_asked_for_unless_it_is_resumed(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            async with client.stream("echo", {}) as answer:
                asked = await answer.result()
            async with client.stream("resume", {"key": "k"}), client.resume("k"), client.resume("k", after=3):
                pass
            resumed = [line["params"] for line in await client.call("received") if line["method"] == "resume"]
            return asked, resumed

    assert run(main) == ({"stream": True}, [{"key": "k"}, {"key": "k", "after": -1}, {"key": "k", "after": 3}])


def test_a_consumer_that_does_not_read_holds_up_nobody_and_loses_nothing(run, spawn_fake):
    pieces = [f"{number} " for number in range(3000)]

    async def main():
        async with spawn_fake() as client, client.stream("chat", {"pieces": pieces}) as slow:
            assert await client.call("echo", {"other": 1}) == {"other": 1}  # Answered after all of the stream.
            received = [delta["content"] async for delta in slow]
            return received, slow.seq

    received, seq = run(main)
    assert "".join(received) == "".join(pieces)
    assert seq == len(pieces) - 1
    assert len(received) < 300


def test_a_hole_in_a_stream_is_an_error_and_not_a_shorter_text(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            async with client.stream("gap") as answer:
                assert (await anext(answer))["content"] == "a"
                with pytest.raises(ProtocolViolation, match="piece 2 of a stream came after piece 0"):
                    await anext(answer)
            return await client.call("echo", {"still": "here"})

    assert run(main) == {"still": "here"}


def test_progress_goes_to_the_call_that_waits_and_the_latest_is_never_lost(run, spawn_fake):
    seen = []

    async def main():
        async with spawn_fake() as client:
            await client.call("pull", {"steps": 50}, on_progress=seen.append)

    run(main)
    done = [progress["done"] for progress in seen]
    assert done == sorted(set(done))
    assert done[-1] == 49


def test_an_error_in_on_progress_reaches_the_caller_alone(run, spawn_fake):
    async def main():
        def refuse(progress):
            raise LookupError(progress["stage"])

        async with spawn_fake() as client:
            with pytest.raises(LookupError, match="download"):
                await client.call("pull", {"steps": 1}, on_progress=refuse)
            return await client.call("echo", {})

    assert run(main) == {}


def test_a_call_that_is_cancelled_here_is_cancelled_there(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            async with client.stream("endless") as answer:
                await anext(answer)
                request = answer.id
            return request, (await client.call("received"))[-1]

    request, last = run(main)
    assert last == {"jsonrpc": "2.0", "method": "cancel", "params": {"request": request}}


def test_a_deadline_of_the_host_cancels_the_call(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            with anyio.move_on_after(0.01) as scope:
                await client.call("endless")
            return scope.cancelled_caught, [line["method"] for line in await client.call("received")]

    assert run(main) == (True, ["endless", "cancel"])


def test_a_call_with_a_key_outlives_whoever_stops_listening(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            async with client.stream("endless", {"key": "k"}) as answer:
                await anext(answer)
            with anyio.move_on_after(0.01):
                await client.call("endless", {"key": "k"})
            return [line["method"] for line in await client.call("received")]

    assert run(main) == ["endless", "endless"]


def test_to_stop_hearing_of_a_resumed_request_does_not_end_it(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            with anyio.move_on_after(0.01):
                async with client.resume("k") as answer:
                    await anext(answer)
            return [line["method"] for line in await client.call("received")]

    assert run(main) == ["resume"]


def test_what_runs_under_a_key_is_cancelled_by_the_key(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            await client.cancel(key="k")
            return (await client.call("received"))[-1]["params"]

    assert run(main) == {"key": "k"}


def test_a_call_that_has_ended_is_not_cancelled(run, spawn_fake):
    async def main():
        async with spawn_fake() as client:
            async with client.stream("chat", {"pieces": ["a"]}) as answer:
                await answer.result()
            return [line["method"] for line in await client.call("received")]

    assert run(main) == ["chat"]


def test_cancelling_by_id_ends_the_stream_with_its_partial_text(run, spawn_fake):
    async def main():
        async with spawn_fake() as client, client.stream("endless") as answer:
            await anext(answer)
            assert await client.cancel(answer.id)
            with pytest.raises(RemoteError) as caught:
                await answer.result()
        return caught.value

    error = run(main)
    assert (error.code, error.type, error.data["partial"]) == (-32800, "cancelled", "a")


def test_what_a_block_raises_leaves_it_as_it_is(run, spawn_fake):
    cause = ValueError("why")

    async def main():
        async with spawn_fake():
            raise KeyError("mine") from cause

    with pytest.raises(KeyError, match="mine") as caught:
        run(main)
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize(
    "line",
    ["this is a library that prints", '"text"', "[1]", '{"jsonrpc":"2.0"}', '{"method":"stream","params":{}}', "\x00"],
)
def test_a_line_that_is_no_message_ends_every_call(run, spawn_fake, in_background, line):
    async def main():
        async with spawn_fake() as client, anyio.create_task_group() as tasks:
            other = in_background(tasks, client.call, "endless")
            with pytest.raises(ProtocolViolation, match="no message of the protocol"):
                await client.call("garbage", {"line": line})
            assert isinstance(await other.receive(), ProtocolViolation)
            with pytest.raises(ProtocolViolation):
                await client.call("echo")
            return await client.close()

    assert run(main) == 0


def test_an_answer_without_an_id_ends_every_call_since_it_could_be_that_of_any(run, spawn_fake):
    line = '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"not JSON"}}'

    async def main():
        async with spawn_fake() as client:
            with pytest.raises(ProtocolViolation, match="could not read a line"):
                await client.call("garbage", {"line": line})

    run(main)


@pytest.mark.parametrize(
    "line",
    [
        '{"jsonrpc":"2.0","method":"of a later version","params":{"x":1}}',
        '{"jsonrpc":"2.0","id":4711,"result":{}}',
        '{"jsonrpc":"2.0","method":"stream","params":{"request":4711,"seq":9,"delta":{}}}',
        '{"jsonrpc":"2.0","method":"event","params":{"subscription":"old","log_seq":1}}',
        "",
    ],
)
def test_what_is_unknown_or_late_is_passed_over(run, spawn_fake, line):
    async def main():
        async with spawn_fake() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.call, "garbage", {"line": line})
            answer = await client.call("echo", {"and": "on"})
            tasks.cancel_scope.cancel()
            return answer

    assert run(main) == {"and": "on"}


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"x": nested(127)}, "nest deeper than 128"),
        ({"x": {1, 2}}, "no JSON form"),
        ({"x": "\ud800"}, "no JSON form"),
        ({"x": 2**64}, "no JSON form"),
    ],
)
def test_params_that_the_protocol_does_not_take_are_refused_before_they_are_sent(run, spawn_fake, params, reason):
    async def main():
        async with spawn_fake() as client:
            with pytest.raises(ValueError, match=reason):
                await client.call("echo", params)
            deepest = {"x": nested(126), "messages": [{}] * 200}
            assert await client.call("echo", deepest) == deepest

    run(main)
