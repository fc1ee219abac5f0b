"""What of a segment belongs to a conversation, and which summaries to a turn: what it said may be in them.

A summary is known by the turn for which it was made. One that extends another one was made of all that this was. Where
records have gone, the copies of a conversation still tell for how many of its turns its summary stands. Knows bytes of
segments; nothing of who forgets.
"""

from __future__ import annotations

import orjson

from mlzoo.events import framing
from mlzoo.events.codec import lines_of_groups

COPIES = frozenset({"CarryConversation", "ForkConversation"})  # commands that hold turns of a conversation
_MADE = b'"type":"ConversationSummarised"'
_COPIED = b'"summary":{"request":'  # of a command that holds turns


def requests_in(segment: bytes, conversation: str, upto_seq: int) -> tuple[set[str], set[str]]:
    """Return the requests that a segment tells of, of a conversation dropped by then, and the digests of their keys."""
    requests, keys = set[str](), set[str]()
    named = orjson.dumps(conversation)
    for lines in lines_of_groups(segment[framing.line_end(segment, 0) :].split(b"\n")[:-1]):
        command = orjson.loads(lines[0]) if named in lines[0] else None
        if command is None or command["log_seq"] > upto_seq:
            continue
        data = command["data"]
        if data.get("conversation") != conversation:
            continue
        if command["type"] in COPIES:
            requests |= {row["request"] for row in data["rows"] if not row.get("forked")}
        elif command["type"] == "Submit":
            requests.add(data["request"])
            keys |= {data["key"]} if data.get("key") else set()
    return requests, keys


def has_summaries(segment: bytes) -> bool:
    """Whether a segment tells of summaries."""
    return _MADE in segment or _COPIED in segment


def summaries_in(segment: bytes, request: str, known: frozenset[str]) -> frozenset[str]:
    """Return the summaries that were made of a turn, here or in an earlier segment, or of such a summary. Pure."""
    for lines in lines_of_groups(segment[framing.line_end(segment, 0) :].split(b"\n")[:-1]):
        for record in map(orjson.loads, (line for line in lines if _MADE in line or _COPIED in line)):
            data = record["data"]
            if record["type"] == "ConversationSummarised":
                is_its = request in data.get("of", ()) or data.get("after") in known
                known |= {data["request"]} if is_its else set()
            elif record["type"] in COPIES and "summary" in data:
                told_of = {row["request"] for row in data["rows"][: data["summary"]["turns"]]}
                known |= {data["summary"]["request"]} if request in told_of else set()
    return known
