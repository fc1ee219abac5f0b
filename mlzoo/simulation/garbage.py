"""What hosts send that is no request, by name; each is one line, and earns one error."""

from __future__ import annotations

MENU: dict[str, bytes] = {
    "no JSON": b"\x7fELF",
    "a broken object": b'{"jsonrpc":"2.0","id":1',
    "invalid UTF-8": b'{"jsonrpc":"2.0","method":"\xff\xfe"}',
    "a NUL": b'{"jsonrpc":"2.0","id":\x00}',
    "a byte order mark": b'\xef\xbb\xbf{"jsonrpc":"2.0"',
    "a number": b"7",
    "an empty batch": b"[]",
    "nested 129 deep": b'{"jsonrpc":"2.0","id":null,"method":"ping","params":' + b"[" * 129 + b"]" * 129 + b"}",
    "nested 255 deep": b"[" * 255 + b"]" * 255,
    "nested 1025 deep": b"[" * 1025 + b"]" * 1025,
    "an id of 2^64": b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping"}',
    "an id that is an object": b'{"jsonrpc":"2.0","id":{},"method":"ping"}',
    "no version": b'{"id":null,"method":"ping"}',
    "a huge line": b'"' + b"x" * (70 * 1024) + b'"',
    "a carriage return": b"{\r\r",
}
