"""What the rows of an answer add up to: text, reasoning and calls of tools.

A row is an item of a ``ReportStep``'s text. What a host gets of it is a delta, and all deltas together are the message
of its answer. Knows neither requests nor hosts.
"""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]


class Said:
    """All that has been said of one answer so far."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, JsonObject] = {}  # by the index that their deltas name; arguments as a list of pieces
        self.logprobs: list[JsonObject] = []

    def add(self, row: JsonObject) -> None:
        """Add a row."""
        self._content.append(row["content"])
        self.logprobs += row.get("logprobs", ())
        if "reasoning" in row:
            self._reasoning.append(row["reasoning"])
        for delta in row.get("tool_calls", ()):
            call = self._calls.setdefault(delta["index"], {"id": "", "name": "", "arguments": []})
            call["id"] += delta.get("id", "")
            call["name"] += delta.get("name", "")
            call["arguments"].append(delta.get("arguments", ""))

    @property
    def text(self) -> str:
        """The text, without reasoning and calls."""
        if self._content:
            self._content = ["".join(self._content)]  # A long text is not held twice.
        return "".join(self._content)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing yet, not even an empty piece."""
        return not self._content

    def message(self) -> JsonObject:
        """Return the assistant's turn."""
        message: JsonObject = {"role": "assistant", "content": self.text}
        if self._reasoning:
            message["reasoning"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = [
                {**call, "arguments": "".join(call["arguments"])} for _, call in sorted(self._calls.items())
            ]
        return message


def delta_of(row: JsonObject) -> JsonObject:
    """Return what a host hears of a row; content is told where there is nothing else, also when it is empty."""
    delta = {name: row[name] for name in ("reasoning", "tool_calls", "logprobs") if row.get(name)}
    if row["content"] or not delta.keys() - {"logprobs"}:
        delta = {"content": row["content"], **delta}
    return delta


def size_of(row: JsonObject) -> int:
    """Return how many characters of text a row has."""
    calls = sum(len(part) for call in row.get("tool_calls", ()) for part in call.values() if isinstance(part, str))
    return len(row["content"]) + len(row.get("reasoning", "")) + calls
