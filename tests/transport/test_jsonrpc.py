"""JSON-RPC 2.0: the specification's own examples as a table, and what it leaves to us."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlzoo.errors import Failure, MethodNotFound, TooLarge
from mlzoo.transport import jsonrpc
from mlzoo.transport.jsonrpc import Bad, Batch, Call, Message, Notification
from mlzoo.transport.ndjson import TooLong

INVALID_REQUEST = -32600
PARSE_ERROR = -32700


def answer(line: bytes) -> object:
    """Serve one line with the methods of the specification's examples; None where nothing is sent."""
    message = jsonrpc.parse(line)
    if isinstance(message, Batch):
        lines = [(getattr(member, "id", None), reply) for member in message.members if (reply := serve(member))]
        sent = jsonrpc.batch_line(lines)
    else:
        sent = serve(message)
    if not sent:
        return None
    assert sent.endswith(b"\n")
    return without_texts(orjson.loads(sent))


def serve(message: Message) -> bytes:
    match message:
        case Call(id=request_id, method="subtract", params=[minuend, subtrahend]):
            return jsonrpc.result_line(request_id, minuend - subtrahend)
        case Call(id=request_id, method="subtract", params={"minuend": minuend, "subtrahend": subtrahend}):
            return jsonrpc.result_line(request_id, minuend - subtrahend)
        case Call(id=request_id, method="sum", params=[*numbers]):
            return jsonrpc.result_line(request_id, sum(numbers))
        case Call(id=request_id, method="get_data", params=None):
            return jsonrpc.result_line(request_id, ["hello", 5])
        case Call(id=request_id):
            return jsonrpc.error_line(request_id, MethodNotFound("no such method").failure())
        case Bad(id=request_id, failure=failure):
            return jsonrpc.error_line(request_id, failure)
        case _:
            return b""


def without_texts(value):
    """Drop what the specification leaves free: the texts and data of errors."""
    if isinstance(value, list):
        return [without_texts(member) for member in value]
    if "error" in value:
        assert value["error"]["message"]
        return {**value, "error": value["error"]["code"]}
    return value


def failed(code, request_id=None):
    return {"jsonrpc": "2.0", "id": request_id, "error": code}


def result(value, request_id):
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


# https://www.jsonrpc.org/specification, section 7.
EXAMPLES = {
    "positional": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
        result(19, 1),
    ),
    "positional, other order": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
        result(-19, 2),
    ),
    "named": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
        result(19, 3),
    ),
    "named, other order": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
        result(19, 4),
    ),
    "notification": ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
    "notification of no method": ('{"jsonrpc": "2.0", "method": "foobar"}', None),
    "no such method": ('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', failed(-32601, "1")),
    "invalid JSON": ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', failed(PARSE_ERROR)),
    "invalid request": ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', failed(INVALID_REQUEST)),
    "batch of invalid JSON": (
        '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},{"jsonrpc": "2.0", "method"]',
        failed(PARSE_ERROR),
    ),
    "empty batch": ("[]", failed(INVALID_REQUEST)),
    "invalid batch, not empty": ("[1]", [failed(INVALID_REQUEST)]),
    "invalid batch": ("[1,2,3]", [failed(INVALID_REQUEST)] * 3),
    "batch": (
        """[
        {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
        {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
        {"foo": "boo"},
        {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
        {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
        ]""".replace("\n", ""),
        [result(7, "1"), result(19, "2"), failed(INVALID_REQUEST), failed(-32601, "5"), result(["hello", 5], "9")],
    ),
    "batch of notifications": (
        (
            '[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},'
            '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]'
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_specification_hold(name):
    line, expected = EXAMPLES[name]
    assert answer(line.encode()) == expected


def test_a_batch_within_a_batch_is_an_invalid_member():
    assert answer(b'[[{"jsonrpc":"2.0","method":"get_data","id":1}]]') == [failed(INVALID_REQUEST)]


def test_a_batch_with_too_many_members_is_one_error():
    line = b"[" + b",".join([b"1"] * (jsonrpc.BATCH_MEMBERS + 1)) + b"]"
    assert jsonrpc.parse(line) == Bad(
        None, TooLarge("the batch has 1001 members: send at most 1000 at once", limit=1000, got=1001).failure()
    )


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"ping",
        b'{"jsonrpc":"2.0","id":1,"method":"ping"} x',
        b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
        b'{"jsonrpc":"2.0","id":1,"method":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":-Infinity}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1e400}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\\ud800"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"\\udc00":1}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\x00"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping",}',
        b"\x00",
        b"'",
    ],
)
def test_what_is_not_json_is_a_parse_error_with_id_null(line):
    assert answer(line) == failed(PARSE_ERROR)


@pytest.mark.parametrize(
    "request_id",
    ["null", "true", "1.0", "1.5", "1e2", "{}", "[1]", str(2**53 + 1), str(-(2**53) - 1), str(2**64), str(10**30)],
)
def test_an_id_that_could_not_come_back_unchanged_is_refused_with_id_null(request_id):
    line = f'{{"jsonrpc":"2.0","id":{request_id},"method":"get_data"}}'.encode()
    assert answer(line) == failed(INVALID_REQUEST)


@pytest.mark.parametrize("request_id", [0, -1, 2**53, -(2**53), "", "1", "ä\u0000\U0001f600"])
def test_a_usable_id_comes_back_as_it_was(request_id):
    line = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "get_data"}).encode()
    assert answer(line) == result(["hello", 5], request_id)


@pytest.mark.parametrize(
    "rest",
    [
        {"method": "get_data"},
        {"jsonrpc": "1.0", "method": "get_data"},
        {"jsonrpc": 2.0, "method": "get_data"},
        {"jsonrpc": "2.0"},
        {"jsonrpc": "2.0", "method": None},
        {"jsonrpc": "2.0", "method": "get_data", "params": None},
        {"jsonrpc": "2.0", "method": "get_data", "params": "text"},
        {"jsonrpc": "2.0", "result": {}},
        {"jsonrpc": "2.0", "error": {"code": 1, "message": "no"}},
    ],
)
def test_an_invalid_request_is_answered_under_its_own_id(rest):
    assert answer(orjson.dumps({"id": 7, **rest})) == failed(INVALID_REQUEST, 7)


def test_of_duplicate_keys_the_last_one_counts():
    assert jsonrpc.parse(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"a","method":"b"}') == Call(2, "b", None)


def test_unknown_members_beside_the_known_ones_are_ignored():
    assert jsonrpc.parse(b'{"jsonrpc":"2.0","method":"a","trace":"x"}') == Notification("a", None)


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    value = opening * (depth - 1) + ("1" if opening == "[" else '{"k":1}') + closing * (depth - 1)
    return f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{value}}}'.encode()


def test_nesting_up_to_the_limit_is_taken_and_can_be_written_again():
    message = jsonrpc.parse(nested(jsonrpc.DEPTH))
    assert isinstance(message, Call)
    assert jsonrpc.result_line(1, message.params)


@pytest.mark.parametrize("depth", [129, 130, 254, 255, 1024, 1025, 100_000])
def test_nesting_beyond_the_limit_is_a_parse_error(depth):
    assert answer(nested(depth)) == failed(PARSE_ERROR)


def test_nested_objects_count_as_arrays_do():
    deep = b'{"a":' * 129 + b"1" + b"}" * 129
    assert answer(b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + deep + b"}") == failed(PARSE_ERROR)


@pytest.mark.parametrize("text", ["[" * 1000, '"' + "[" * 1000, "\\" * 3 + '"' + "{" * 1000 + "\\", "]" * 1000])
def test_brackets_within_strings_do_not_count(text):
    line = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "m", "params": [text, text]})
    assert jsonrpc.parse(line) == Call(1, "m", [text, text])


def test_many_brackets_side_by_side_are_no_depth():
    params = [[{}]] * 10_000
    line = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "m", "params": params})
    assert jsonrpc.parse(line) == Call(1, "m", params)


def test_an_unterminated_string_full_of_brackets_and_escapes_is_looked_through_once():
    # Where each quote is a new beginning, this takes hours.
    line = b"[" * 200 + b'"' + b'\\"' * 1_000_000
    assert answer(line) == failed(PARSE_ERROR)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=30,
)
ENVELOPE = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": st.integers() | st.text() | JSON,
        "method": st.text() | JSON,
        "params": JSON,
        "result": JSON,
    },
)


def check_one_answer_or_none(line: bytes) -> None:
    message = jsonrpc.parse(line)
    members = message.members if isinstance(message, Batch) else (message,)
    for member in members:
        assert isinstance(member, (Call, Notification, Bad))
        if isinstance(member, Bad):
            assert member.failure.code in {PARSE_ERROR, INVALID_REQUEST, 1011}
            assert orjson.loads(jsonrpc.error_line(member.id, member.failure))["id"] == member.id
        if isinstance(member, Call):
            back = orjson.loads(jsonrpc.result_line(member.id, member.params))
            assert (back["id"], type(back["id"]), back["result"]) == (member.id, type(member.id), member.params)


@given(st.binary(max_size=100))
def test_any_bytes_give_one_message_and_never_an_exception(line):
    check_one_answer_or_none(line)


@given(st.one_of(ENVELOPE, st.lists(ENVELOPE, max_size=4), JSON))
def test_any_json_gives_one_message_whose_parts_can_be_sent_back(value):
    check_one_answer_or_none(json.dumps(value).encode("utf-8", "surrogatepass"))


@given(st.integers(1, 300), st.sampled_from([b"[", b'{"a":', b'"[', b'\\"', b'"', b"]", b"}"]), st.binary(max_size=50))
def test_any_repeated_piece_gives_one_message(count, piece, rest):
    check_one_answer_or_none(piece * count + rest)


# ------------------------------------------------------------------------------------------------- what we send


def test_lines_are_json_objects_with_a_newline_at_their_end_only():
    failure = Failure(1001, "busy\nnow", {"type": "overloaded", "retryable": True})
    assert jsonrpc.result_line("a\nb", {}) == b'{"jsonrpc":"2.0","id":"a\\nb","result":{}}\n'
    assert jsonrpc.notification_line("m", {"x": "\n"}) == b'{"jsonrpc":"2.0","method":"m","params":{"x":"\\n"}}\n'
    assert jsonrpc.error_line(None, failure) == (
        b'{"jsonrpc":"2.0","id":null,"error":{"code":1001,"message":"busy\\nnow",'
        b'"data":{"type":"overloaded","retryable":true}}}\n'
    )


def test_an_error_without_data_has_none_on_the_wire():
    assert jsonrpc.error_line(1, Failure(-32601, "no")) == (
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}\n'
    )


@pytest.mark.parametrize(
    "line",
    [
        jsonrpc.result_line(5, "x" * 1000, limit_bytes=500),
        jsonrpc.error_line(5, Failure(1008, "m", {"partial": "x" * 1000}), limit_bytes=500),
    ],
)
def test_an_answer_over_the_limit_becomes_error_1011_under_its_id(line):
    assert len(line) <= 500
    sent = orjson.loads(line)
    assert (sent["id"], sent["error"]["code"]) == (5, 1011)
    assert sent["error"]["data"].items() >= {"type": "too_large", "retryable": False, "limit": 500}.items()
    assert sent["error"]["data"]["got"] > 1000


def test_a_notification_over_the_limit_is_the_callers_to_decide():
    with pytest.raises(TooLarge) as caught:
        jsonrpc.notification_line("event", {"x": "x" * 1000}, limit_bytes=500)
    assert caught.value.data["got"] > 1000


def test_the_longest_members_of_a_batch_over_the_limit_become_error_1011():
    answers = [(n, jsonrpc.result_line(n, "x" * size)) for n, size in enumerate([10, 900, 10, 2000])]
    line = jsonrpc.batch_line(answers, limit_bytes=1500)
    assert len(line) <= 1500
    sent = orjson.loads(line)
    assert [(member["id"], member.get("error", {}).get("code")) for member in sent] == [
        (0, None),
        (1, None),
        (2, None),
        (3, 1011),
    ]


def test_a_batch_in_which_nothing_is_due_has_no_line():
    assert jsonrpc.batch_line([]) == b""


def test_a_skipped_line_is_error_1011_with_limit_and_size():
    bad = jsonrpc.too_long(TooLong(20_000_000))
    assert bad.id is None
    assert bad.failure.code == 1011
    assert bad.failure.data == {"type": "too_large", "retryable": False, "limit": 16 * 1024 * 1024, "got": 20_000_000}


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", float])
def test_a_result_without_a_json_form_is_a_bug_that_raises(value):
    with pytest.raises(TypeError):
        jsonrpc.result_line(1, value)
