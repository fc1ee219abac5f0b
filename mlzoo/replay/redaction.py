"""Taking text out of a recording by rule, at export: what people wrote and models said, never structure.

A rule replaces what it finds by ``[redacted:NAME]``; a player takes that for any text. An answer is looked through as a
whole and each of its pieces keeps its place: what is found across a border leaves its mark in the piece where it
begins. Tokens and digests of what was changed would tell it all the same, so they are replaced as well, command and
event alike, and every decision still follows from its command.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import attrs

from mlzoo.errors import ConfigError
from mlzoo.events.records import is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlzoo.events.answers import KeptAnswer
    from mlzoo.replay.telling import Told

JsonObject = dict[str, Any]
Place = tuple[int, int]  # (group, row)
Text = tuple[str, int]  # the content or the reasoning of an answer, or the arguments of one of its calls

STRUCTURE = frozenset(
    {"role", "model", "method", "device", "require_device", "provider", "priority", "determinism", "retention", "type"}
)
"""Keys whose values are no text, wherever they stand."""


@attrs.frozen
class Rule:
    """What is taken out, and the name that stands for it."""

    name: str
    pattern: re.Pattern[str]

    def applied(self, text: str) -> str:
        """Return a text without what the rule finds."""
        return self.pattern.sub(f"[redacted:{self.name}]", text)


BUILT_IN = (
    Rule("email", re.compile(r"[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+")),  # 64: RFC 5321, 4.5.3.1; without it, quadratic
    Rule("secret", re.compile(r"\b(?:sk|pk|ghp|gho|hf|xox[abp]|AKIA|eyJ)[-_]?[A-Za-z0-9_\-.]{12,}|\bBearer\s+\S{8,}")),
    Rule("number", re.compile(r"(?<![\w.])\+?\d(?:[ -]?\d){8,18}(?![\w.])")),  # telephones, cards, accounts
    Rule("home", re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\Users\\)[^\s/\\\"']+|(?<![\w./-])/root(?!\.?[\w-])")),
)


def rule_of(words: str) -> Rule:
    """Return the rule that ``NAME=REGEX`` says.

    Raises:
        ConfigError: It is none.
    """
    name, separator, pattern = words.partition("=")
    if not separator or re.fullmatch(r"[\w-]+", name) is None:
        raise ConfigError(f"{words!r} is no rule: write NAME=REGEX")
    try:
        return Rule(name, re.compile(pattern))
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}") from error


class Redaction:
    """What a set of rules does to one log. It is shown the whole log once (``learn``) before it changes anything."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._pieces: dict[str, list[tuple[Place, JsonObject]]] = {}  # request -> place of each piece, and its row
        self._changed: dict[Place, JsonObject] = {}  # the new row
        self._touched: set[str] = set()  # requests of which something was taken out
        self._digests: dict[str, tuple[str, str]] = {}  # request -> its params' and its answer's digest
        self.digests: dict[str, str] = {}  # what stands for digests of text that was changed

    def learn(self, told: Told) -> None:
        """Look at a group of the log."""
        kind, _, data = told.command
        request = data.get("request")
        if kind == "ReportStep":
            for row, facts in enumerate(data["rows"]):
                self._pieces.setdefault(facts["request"], []).append(((told.first_seq, row), told.text[row]))
                if facts.get("digest"):
                    self._digests[facts["request"]] = (
                        self._digests.get(facts["request"], ("", ""))[0],
                        facts["digest"],
                    )
        elif isinstance(request, str) and told.text is not None:
            if kind == "Submit":
                self._digests[request] = (data.get("params_digest", ""), "")
            if self.text(told.text) != told.text:
                self._touched.add(request)

    def decide(self) -> None:
        """Say what is changed, now that all pieces are known."""
        for request, pieces in self._pieces.items():
            was = [row for _, row in pieces]
            now = self._across(was)
            if now != was:
                self._touched.add(request)
                self._changed |= {place: row for (place, _), row in zip(pieces, now, strict=True)}
            if request in self._touched:
                _, answer = self._digests.get(request, ("", ""))
                if answer:
                    said = "".join(row.get("content", "") for row in now)  # A tombstone has none.
                    self.digests[answer] = hashlib.sha256(said.encode()).hexdigest()
        for number, request in enumerate(self._digests, start=1):
            params, _ = self._digests[request]
            if request in self._touched and params:
                self.digests[params] = hashlib.sha256(f"redacted {number}".encode()).hexdigest()
        self._pieces.clear()

    def _across(self, rows: list[JsonObject]) -> list[JsonObject]:
        """Return rows, or deltas, without what the rules find in any of the texts that they are pieces of."""
        texts: dict[Text, list[tuple[int, str]]] = {}
        for index, row in enumerate(rows):
            for text, piece in _texts_of(row):
                texts.setdefault(text, []).append((index, piece))
        changed = list(rows)
        for text, pieces in texts.items():
            now = [piece for _, piece in pieces]
            for rule in self._rules:
                now = _replaced(now, rule)
            for (index, was), piece in zip(pieces, now, strict=True):
                if piece != was:
                    changed[index] = _with_text(changed[index], text, piece)
        return changed

    def group_text(self, told: Told) -> Any:
        """Return the text of a group without what the rules find."""
        kind, _, data = told.command
        if told.text is None:
            return None
        if kind == "ReportStep":
            return [
                self._row(row, (told.first_seq, index), data["rows"][index]["request"])
                for index, row in enumerate(told.text)
            ]
        text = self.text(told.text)
        return _without_tokens(text) if data.get("request") in self._touched else text

    def _row(self, row: dict[str, Any], place: tuple[int, int], request: str) -> dict[str, Any]:
        if request not in self._touched or is_gone(row):
            return row
        hidden: dict[str, Any] = _without_tokens(self._changed.get(place, row))
        return hidden

    def answer(self, kept: KeptAnswer) -> KeptAnswer:
        """Return the copy of an answer without what the rules find."""
        now, result, failure = self._across(kept.pieces), self.text(kept.result), kept.failure
        if failure is not None:
            failure = attrs.evolve(failure, data=self.text(dict(failure.data)))
        if now == kept.pieces and result == kept.result and failure == kept.failure:
            return kept
        pieces, result = _without_tokens(now), _without_tokens(result)
        return attrs.evolve(kept, pieces=pieces, result=result, failure=failure)

    def text(self, value: Any) -> Any:
        """Return JSON with each text in it redacted; keys that say that they are structure keep their values."""
        if isinstance(value, str):
            for rule in self._rules:
                value = rule.applied(value)
            return value
        if isinstance(value, dict):
            return {key: item if key in STRUCTURE else self.text(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.text(item) for item in value]
        return value


def _texts_of(row: JsonObject) -> Iterator[tuple[Text, str]]:
    """Yield the pieces of texts that a row or a delta has, with the text that each belongs to."""
    for name in ("content", "reasoning", "summary"):
        if name in row:
            yield (name, 0), row[name]
    for call in row.get("tool_calls", ()):
        if "arguments" in call:
            yield ("arguments", call["index"]), call["arguments"]


def _with_text(row: JsonObject, text: Text, piece: str) -> JsonObject:
    """Return a row with another piece of one of its texts."""
    name, index = text
    if name != "arguments":
        return {**row, name: piece}
    calls = [{**call, name: piece} if call["index"] == index else call for call in row["tool_calls"]]
    return {**row, "tool_calls": calls}


def _replaced(pieces: list[str], rule: Rule) -> list[str]:
    """Return the pieces without what a rule finds in the whole."""
    whole = "".join(pieces)
    found = [match.span() for match in rule.pattern.finditer(whole) if match.end() > match.start()]
    if not found:
        return pieces
    mark = f"[redacted:{rule.name}]"
    changed = []
    start = 0
    for piece in pieces:
        end = start + len(piece)
        kept, at = [], start
        for left, right in found:
            if right <= start or left >= end:
                continue
            kept.append(whole[at : max(at, left)])
            if left >= start:
                kept.append(mark)
            at = min(right, end)
        changed.append("".join(kept) + whole[at:end])
        start = end
    return changed


def _without_tokens(value: Any) -> Any:
    """Return text with its tokens hidden: as many, and none of them said."""
    if isinstance(value, list):
        return [_without_tokens(item) for item in value]
    if not isinstance(value, dict):
        return value
    hidden: dict[str, Any] = {}
    for key, item in value.items():
        if key == "tokens" and isinstance(item, list):
            hidden[key] = [0] * len(item)
        elif key == "token" and isinstance(item, str):
            hidden[key] = "[redacted:token]"
        else:
            hidden[key] = _without_tokens(item)
    return hidden
