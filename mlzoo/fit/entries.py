"""The entry by which a fitted model is known: a file in the user's configuration, whose first line says who made it.

Light: it knows nothing that trains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.store.lock import exclusively

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.config import ModelEntry
    from mlzoo.store import Store

MADE_BY = "# Made by `mlzoo fit` of "


def entry_file(own_config: Path, name: str) -> Path:
    """Return where the entry of a model is, if a user's own directory has it."""
    return own_config / "model" / f"{name}.yaml"


def take_away(own_config: Path, store: Store, entry: ModelEntry) -> Path | None:
    """Take away the entry of a model whose files are gone, if ``mlzoo fit`` made it; return where it was.

    An entry that a user wrote stays, and so does one whose model another process has just made anew.
    """
    file = entry_file(own_config, entry.name)
    if not file.is_file() or not file.read_text(encoding="utf-8").startswith(MADE_BY):
        return None
    with exclusively(store.lock_path(entry.name), wait=False) as held:
        if not held or store.find(entry) is not None:
            return None
        file.unlink(missing_ok=True)
        return file
