"""Plots as SVG, written by hand: grouped bars, and lines over a few places. Knows numbers and shapes alone."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLOTS = Path(__file__).resolve().parent / "plots"
COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#999999", "#000000")  # Okabe and Ito's
WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 48, 40
LEGEND = 22  # of each line of the legend
TICKS = 5


def bars(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]], unit: str = "") -> str:
    """Return grouped bars; a value that is None leaves its place empty."""
    top = scale([value for values in series.values() for value in values if value is not None])
    inner = (WIDTH - LEFT - RIGHT) / len(groups)
    width = inner * 0.86 / max(len(series), 1)
    parts = _frame(title, top, unit, list(series))
    for number, values in enumerate(series.values()):
        for group, value in enumerate(values):
            if value is None:
                continue
            x, y = LEFT + group * inner + inner * 0.07 + number * width, _y(value, top)
            colour = COLOURS[number % len(COLOURS)]
            height = HEIGHT - BOTTOM - y
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{height:.1f}" fill="{colour}"/>'
            )
            parts.append(_text(x + width / 2 - 1, y - 4, _number(value), size=10, anchor="middle"))
    places = [LEFT + (group + 0.5) * inner for group in range(len(groups))]
    return _page(parts + _names(groups, places), len(series))


def lines(title: str, places: Sequence[str], series: Mapping[str, Sequence[float | None]], unit: str = "") -> str:
    """Return a line for each series over the same few places."""
    top = scale([value for values in series.values() for value in values if value is not None])
    step = (WIDTH - LEFT - RIGHT) / len(places)
    at = [LEFT + (place + 0.5) * step for place in range(len(places))]
    parts = _frame(title, top, unit, list(series))
    for number, values in enumerate(series.values()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x, _y(value, top), value) for x, value in zip(at, values, strict=True) if value is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, value in points:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
            parts.append(_text(x + 7, y - 6, _number(value), size=10))
    return _page(parts + _names(places, at), len(series))


def write(name: str, svg: str) -> Path:
    """Write a plot to where the results show it from."""
    PLOTS.mkdir(exist_ok=True)
    file = PLOTS / f"{name}.svg"
    file.write_text(svg, encoding="utf-8")
    return file


def scale(values: Sequence[float]) -> float:
    """Return the top of an axis: the least of 1, 2, 2.5, 5 times a power of ten that no value passes."""
    most = max(values, default=1.0)
    power = 1.0
    while power < most:
        power *= 10
    while power / 10 >= most > 0:
        power /= 10
    return next(power * part for part in (0.1, 0.2, 0.25, 0.5, 1.0) if power * part >= most)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)


def _frame(title: str, top: float, unit: str, names: Sequence[str]) -> list[str]:
    parts = [_text(LEFT, 26, title, size=16)]
    for tick in range(TICKS + 1):
        value = top * tick / TICKS
        y = _y(value, top)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{_number(value)} {unit}".strip(), size=11, anchor="end"))
    for number, name in enumerate(names):
        y = HEIGHT + number * LEGEND
        parts.append(f'<rect x="{LEFT}" y="{y}" width="14" height="14" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts.append(_text(LEFT + 22, y + 12, name, size=12))
    return parts


def _names(names: Sequence[str], places: Sequence[float]) -> list[str]:
    return [
        _text(x, HEIGHT - BOTTOM + 20, name, size=12, anchor="middle") for name, x in zip(names, places, strict=True)
    ]


def _text(x: float, y: float, text: str, *, size: int, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _page(parts: Sequence[str], series: int) -> str:
    height = HEIGHT + series * LEGEND + 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>"]) + "\n"
