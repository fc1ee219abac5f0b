"""What every benchmark here shares: interleaved rounds, rows of ours against a peer, a table, JSON.

Figures of one machine mean little, ratios within one run mean much: so each round measures everybody once, a ratio is
taken within each round, and the median over the rounds is what is reported.
"""

from __future__ import annotations

import argparse
import json
import operator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class PeerMissing(Exception):
    """Nobody's fault: a peer is not installed here."""


@attrs.frozen(kw_only=True)
class Row:
    """One figure of ours, beside a peer's of the same run.

    Attributes:
        what: is measured.
        value: ours, the median.
        unit: of both values.
        peer: whom we compare with, or why there is nobody.
        peer_value: theirs, the median; None where the peer is missing.
        ratio: the median of ours divided by theirs, round by round.
        target: ``>= 1.0`` or ``<= 12``; what the ratio must reach, empty where there is none.
    """

    what: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    target: str = ""

    def verdict(self) -> str:
        """Return whether the target is met, in a word."""
        if not self.target or self.ratio is None:
            return ""
        comparison, bound = self.target.split()
        reached = {">=": operator.ge, "<=": operator.le}[comparison](self.ratio, float(bound))
        return "met" if reached else "MISSED"


def interleave(rounds: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure each once per round, each round beginning with another one; the first round warms up and is dropped.

    A measure that raises PeerMissing is left out; its list is empty.
    """
    names = list(measures)
    values: dict[str, list[float]] = {name: [] for name in names}
    missing: set[str] = set()
    for number in range(rounds + 1):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            if name in missing:
                continue
            try:
                value = measures[name]()
            except PeerMissing:
                missing.add(name)
                continue
            if number > 0:
                values[name].append(value)
    return values


def compare(what: str, unit: str, ours: Sequence[float], peer: str, theirs: Sequence[float], target: str = "") -> Row:
    """Make a row out of two lists of one run, round by round."""
    if not theirs:
        return Row(what=what, value=median(ours), unit=unit, peer=f"{peer}: not installed", target=target)
    ratio = median(one / other for one, other in zip(ours, theirs, strict=True))
    return Row(
        what=what,
        value=median(ours),
        unit=unit,
        peer=peer,
        peer_value=median(theirs),
        ratio=ratio,
        target=target,
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what | value | peer | its value | ratio | target | |", "| --- | ---: | --- | ---: | ---: | --- | --- |"]
    for row in rows:
        theirs = "-" if row.peer_value is None else _figure(row.peer_value, row.unit)
        ratio = "-" if row.ratio is None else f"{row.ratio:.3g}"
        ours = _figure(row.value, row.unit)
        lines.append(f"| {row.what} | {ours} | {row.peer} | {theirs} | {ratio} | {row.target} | {row.verdict()} |")
    return "\n".join(lines)


def _figure(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def main(title: str, measure: Callable[[int], list[Row]], rounds: int = 5) -> None:
    """Run a benchmark as a command: ``--rounds N`` and ``--json FILE``; prints the table."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="how often everybody is measured (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    arguments: Any = parser.parse_args()
    rows = measure(arguments.rounds)
    print(f"## {title}\n\n{table(rows)}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([attrs.asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
