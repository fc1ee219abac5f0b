"""Where two JSON values differ, field by field."""

from __future__ import annotations

import re
from typing import Any

import attrs
import orjson

SHOWN_CHARACTERS = 200
SHOWN_DIFFERENCES = 20
_HIDDEN = re.compile(r"\[redacted:[^\]]*\]")  # what stands in a recording for text that was taken out
_MISSING = object()


@attrs.frozen
class Difference:
    """One place: what was recorded there, what came. Each is JSON, shortened, or None where there is nothing."""

    path: str
    recorded: str | None
    got: str | None

    def __str__(self) -> str:
        recorded = "nothing" if self.recorded is None else self.recorded
        got = "nothing" if self.got is None else self.got
        return f"{self.path or 'the whole'}: recorded {recorded}, got {got}"


def differences(recorded: Any, got: Any, path: str = "") -> list[Difference]:
    """Return where got is not what was recorded, in the order of the fields; empty: it is the same.

    ``true`` is not 1. A text of which a part was taken out of the recording is the same as one that has anything
    there.
    """
    if isinstance(recorded, dict) and isinstance(got, dict):
        names = [*recorded, *(name for name in got if name not in recorded)]
        return [
            found
            for name in names
            for found in differences(
                recorded.get(name, _MISSING), got.get(name, _MISSING), f"{path}.{name}" if path else str(name)
            )
        ]
    if isinstance(recorded, list) and isinstance(got, list):
        return [
            found
            for index in range(max(len(recorded), len(got)))
            for found in differences(_at(recorded, index), _at(got, index), f"{path}[{index}]")
        ]
    if _is_same(recorded, got):
        return []
    return [Difference(path, _shown(recorded, got), _shown(got, recorded))]


def _at(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else _MISSING


def _is_same(recorded: Any, got: Any) -> bool:
    if isinstance(recorded, str) and isinstance(got, str) and "[redacted:" in recorded:
        pattern = ".*".join(map(re.escape, _HIDDEN.split(recorded)))
        return re.fullmatch(pattern, got, re.DOTALL) is not None
    return isinstance(recorded, bool) == isinstance(got, bool) and bool(recorded == got)


def _shown(value: Any, other: Any) -> str | None:
    """Return a value as JSON; of a long text the part where it differs from the other one."""
    if value is _MISSING:
        return None
    start = 0
    if isinstance(value, str) and isinstance(other, str) and len(value) > SHOWN_CHARACTERS:
        same = next((index for index, (a, b) in enumerate(zip(value, other, strict=False)) if a != b), len(other))
        start = max(0, min(same, len(value)) - SHOWN_CHARACTERS // 4)
    if start:
        return f"… from character {start}: {_cut(orjson.dumps(value[start:]).decode())}"
    return _cut(orjson.dumps(value, default=repr).decode())


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
