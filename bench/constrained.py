"""Tokens per second of answers that must have a form against free ones, and whether what comes out has it.

``python bench/constrained.py [--rounds N] [--json FILE]``. One sidecar answers the same greedy question with and
without a schema, in turn; a rate is that of the tokens after the first piece. Nothing is read ahead there, so that both
do the same work; the default, which reads ahead what a form or a text suggests, is measured in a sidecar beside it.
Then five hundred schemas are answered once, sixteen at a time, and each whole answer is checked by another library.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import jsonschema
from measure import Row, compare, interleave, main
from rivals import MODEL
from stream import Host, result_of
from warming import warm

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "inference"))
from json_schemas import schemas

TOKENS = {1: 128, 16: 48}  # streams at once -> tokens of each
ASKED = [
    {"role": "user", "content": "List fifty towns as JSON, each with its name, its country and how many live there."}
]
TOWN = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "country": {"type": "string", "maxLength": 30},
        "kind": {"enum": ["village", "town", "city"]},
        "people": {"type": "integer", "minimum": 1},
        "on_the_sea": {"type": "boolean"},
    },
    "required": ["name", "country", "kind", "people", "on_the_sea"],
    "additionalProperties": False,
}
TOWNS = {
    "type": "object",
    "properties": {"towns": {"type": "array", "items": TOWN, "minItems": 50}},
    "required": ["towns"],
    "additionalProperties": False,
}
COUNT = 500
AT_ONCE = 16
LONGEST = 200  # tokens of an answer to one of the schemas


def form(schema: dict) -> dict:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


def rate(host: Host, streams: int, extra: dict) -> float:
    """Return the tokens per second of some chats at once, from the first piece to the last end."""
    greedy = {"temperature": 0, "repetition_penalty": 1}
    params = {"model": MODEL, "messages": ASKED, **greedy, "max_tokens": TOKENS[streams], "stream": True, **extra}
    open_ids = {host.send("chat", params) for _ in range(streams)}
    first, count = 0.0, 0
    while open_ids:
        message = host.receive()
        if message.get("method") == "stream":
            first = first or time.perf_counter()
        elif "id" in message:
            open_ids.discard(message["id"])
            count += result_of(message)["usage"]["completion_tokens"]
    return (count - 1) / (time.perf_counter() - first)


def answers(host: Host, wanted: list[dict]) -> list[tuple[dict, dict]]:
    """Return each schema with what was answered to it, so many at a time."""
    left, asked, got = list(wanted), {}, []
    while left or asked:
        while left and len(asked) < AT_ONCE:
            schema = left.pop()
            names = ", ".join(schema.get("properties", {"value": {}}))
            text = f"Give me an example of a thing as JSON: {names}."
            params = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": LONGEST, "seed": 1}
            asked[host.send("chat", params | form(schema))] = schema
        message = host.receive()
        if "id" in message:
            got.append((asked.pop(message["id"]), result_of(message)))
    return got


def is_valid(schema: dict, text: str) -> bool:
    checker = jsonschema.FormatChecker(formats=("ipv4", "uuid", "email"))
    try:
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def of_the_schemas(host: Host) -> list[Row]:
    got = answers(host, schemas(COUNT))
    whole = [(schema, one["message"]["content"]) for schema, one in got if one["finish_reason"] == "stop"]
    valid = sum(is_valid(schema, text) for schema, text in whole)
    return [
        compare(f"{COUNT} schemas: valid answers", "answers", [valid], "whole answers", [len(whole)], ">= 1"),
        compare(f"{COUNT} schemas: whole answers", "answers", [len(whole)], "asked for", [COUNT]),
    ]


def measure(rounds: int) -> list[Row]:
    serve = [sys.executable, "-m", "mlzoo", "serve"]
    with (
        tempfile.TemporaryDirectory() as log,
        Host([*serve, f"models.{MODEL}.speculation=false", "--log", f"{log}/plain"]) as plain,
        Host([*serve, "--log", f"{log}/ahead"]) as ahead,
    ):
        for host in (plain, ahead):
            warm(host, MODEL)
        hosts = {"nothing read ahead": plain, "the default": ahead}
        names = [(how, streams) for streams in TOKENS for how in hosts if how != "the default" or streams == 1]
        measures = {
            f"{way} {how} {streams}": partial(rate, hosts[how], streams, extra)
            for how, streams in names
            for way, extra in (("held", form(TOWNS)), ("free", {}))
        }
        values = interleave(rounds, measures)
        rows = [
            compare(
                f"an answer by a schema, {streams} at once, {how}",
                "tokens/s",
                values[f"held {how} {streams}"],
                "a free answer",
                values[f"free {how} {streams}"],
                ">= 0.9" if how != "the default" else "",
            )
            for how, streams in names
        ]
        rows += of_the_schemas(ahead)
        for host in (plain, ahead):
            host.leave()
    return rows


if __name__ == "__main__":
    main("Answers that must have a form", measure)
