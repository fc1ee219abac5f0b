"""The least that a Python process can do for a ping: blocking calls and orjson.

With the argument ``batched``, what one read brought is answered by one write; without it, each reply by its own.
"""

import os
import sys

import orjson


def main():
    batched = sys.argv[1:] == ["batched"]
    rest = b""
    while chunk := os.read(0, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        replies = []
        for line in lines:
            reply = orjson.dumps({"jsonrpc": "2.0", "id": orjson.loads(line)["id"], "result": {}}) + b"\n"
            if batched:
                replies.append(reply)
            else:
                write(reply)
        write(b"".join(replies))


def write(data):
    while data:
        data = data[os.write(1, data) :]


main()
