"""How commands show sizes and lists to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def size(size_bytes: int) -> str:
    """Return a size as people read it, in powers of ten: 91.6 MB."""
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def size_or_dash(size_bytes: int) -> str:
    """Return the same of a size where 0 says that there is nothing, or nothing known."""
    return size(size_bytes) if size_bytes else "-"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows with their columns aligned; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
