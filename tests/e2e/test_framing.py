"""PROTOCOL.md, "Framing": every malformed line gets one error, and the next request works."""

import json

import pytest
from real_process import RawSidecar, call

NOT_JSON = {
    "empty braces of another kind": b"[}\n",
    "a word": b"hello\n",
    "half an object": b'{"jsonrpc":"2.0","id":1,"method"\n',
    "two objects": b'{"jsonrpc":"2.0","id":1,"method":"ping"}{}\n',
    "a trailing comma": b'{"jsonrpc":"2.0","id":1,"method":"ping",}\n',
    "NUL": b'{"jsonrpc":"2.0","id":1,"method":"pi\x00ng"}\n',
    "a NUL alone": b"\x00\n",
    "invalid UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe"}\n',
    "UTF-16": '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16le") + b"\n",
    "a BOM": b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
    "NaN": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}\n',
    "Infinity": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":-Infinity}}\n',
    "a lone surrogate": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\\ud800"}}\n',
    "a number that is too large": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1e999}}\n',
    "129 deep": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 128 + b"]" * 128 + b"}\n",
    "1025 deep": b"[" * 1025 + b"]" * 1025 + b"\n",
    "a million deep and open": b"[" * 1_000_000 + b"\n",
}

NO_REQUEST = {
    "a number": (b"1\n", None),
    "a string": (b'"ping"\n', None),
    "null": (b"null\n", None),
    "an empty object": (b"{}\n", None),
    "an empty batch": (b"[]\n", None),
    "no version": (b'{"id":7,"method":"ping"}\n', 7),
    "another version": (b'{"jsonrpc":"1.0","id":7,"method":"ping"}\n', 7),
    "no method": (b'{"jsonrpc":"2.0","id":7}\n', 7),
    "a method that is a number": (b'{"jsonrpc":"2.0","id":"seven","method":1}\n', "seven"),
    "params that are a string": (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":"x"}\n', 7),
    "an id of 2^53 + 1": (b'{"jsonrpc":"2.0","id":9007199254740993,"method":"ping"}\n', None),
    "an id of 2^64": (b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping"}\n', None),
    "a fraction as id": (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}\n', None),
    "a whole number as a float": (b'{"jsonrpc":"2.0","id":1.0,"method":"ping"}\n', None),
    "true as id": (b'{"jsonrpc":"2.0","id":true,"method":"ping"}\n', None),
    "an object as id": (b'{"jsonrpc":"2.0","id":{},"method":"ping"}\n', None),
}


def test_what_is_not_json_is_a_parse_error_and_the_next_request_works(sidecar):
    for what, line in NOT_JSON.items():
        answer = sidecar.ask(line)
        assert (answer["id"], answer["error"]["code"]) == (None, -32700), what
        assert sidecar.ping(what), what
    assert sidecar.leave() == (0, [])


def test_what_is_no_request_is_an_invalid_request_with_its_id_where_it_has_a_usable_one(sidecar):
    for what, (line, request) in NO_REQUEST.items():
        answer = sidecar.ask(line)
        assert (answer["id"], answer["error"]["code"]) == (request, -32600), what
        assert sidecar.ping(what), what
    assert sidecar.leave() == (0, [])


@pytest.mark.parametrize("request_id", [0, -1, 2**53, -(2**53), "", "x" * 1000, "é\n\u0000"])
def test_an_id_comes_back_as_it_was(sidecar, request_id):
    assert sidecar.ping(request_id)


def test_carriage_returns_and_blank_lines_do_not_matter(sidecar):
    answer = sidecar.ask(b'\n\r\n   \n{"jsonrpc":"2.0","id":1,"method":"ping"}\r\n\n')
    assert answer["result"] == {}
    assert sidecar.leave() == (0, [])


def test_a_request_may_come_byte_by_byte(sidecar):
    for byte in b'{"jsonrpc":"2.0","id":"\xc3\xa9","method":"ping"}\n':
        sidecar.send(bytes([byte]))
    assert sidecar.receive() == {"jsonrpc": "2.0", "id": "é", "result": {}}


def test_128_deep_is_not_too_deep(sidecar):
    line = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 127 + b"]" * 127 + b"}\n"
    assert sidecar.ask(line)["error"]["code"] == -32602
    assert sidecar.ping()


def test_a_line_over_the_limit_is_refused_without_being_held(log):
    with RawSidecar("--log", log, "limits.line_bytes=65536") as sidecar:
        for size_bytes in (65537, 1_000_000):
            answer = sidecar.ask(b"x" * size_bytes + b"\n")
            assert (answer["id"], answer["error"]["code"]) == (None, 1011)
            assert answer["error"]["data"] == {
                "type": "too_large", "retryable": False, "limit": 65536, "got": size_bytes,
            }  # fmt: skip
            assert sidecar.ping()


def test_a_line_of_64_mib_costs_no_memory(sidecar):
    import psutil

    assert sidecar.ping()
    process = psutil.Process(sidecar.process.pid)
    before = process.memory_info().rss
    for _ in range(1024):
        sidecar.send(b"x" * 65536)
    answer = sidecar.ask(b"\n")
    assert (answer["error"]["code"], answer["error"]["data"]["got"]) == (1011, 64 * 1024 * 1024)
    assert process.memory_info().rss - before < 48 * 1024 * 1024
    assert sidecar.ping()


def test_a_batch_is_answered_by_one_array(sidecar):
    batch = [
        call("ping", 1),
        {"jsonrpc": "2.0", "method": "ping"},
        call("no.such.method", 2),
        1,
        call("ping", "three"),
    ]
    answers = sidecar.ask(batch)
    assert {json.dumps(answer["id"]): answer.get("error", {}).get("code") for answer in answers} == {
        "1": None, "2": -32601, "null": -32600, '"three"': None,
    }  # fmt: skip
    assert sidecar.ping()


def test_a_batch_of_notifications_is_not_answered(sidecar):
    sidecar.send([{"jsonrpc": "2.0", "method": "ping"}] * 2)
    assert sidecar.ping()
    assert sidecar.leave() == (0, [])


def test_a_notification_is_never_answered_not_even_a_wrong_one(sidecar):
    sidecar.send({"jsonrpc": "2.0", "method": "ping"}, {"jsonrpc": "2.0", "method": "no.such.method"})
    assert sidecar.ping()
    assert sidecar.leave() == (0, [])
