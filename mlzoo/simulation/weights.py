"""A store of weights without files: every configured model is installed, and can be removed.

The store is the one part of the sidecar that finds its disk by itself; until it takes a world too, it is replaced for
as long as stories are told.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import mlzoo.store
from mlzoo.store import Installed, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.config import Config, ModelEntry


class SimulatedStore(Store):
    """Weights that are always there."""

    def find(self, entry: ModelEntry) -> Installed | None:
        """Return what is installed for an entry."""
        return _installed(self.root, entry.name, entry.source)


@cache
def _installed(root: Path, name: str, source: str) -> Installed:
    return Installed(
        name=name,
        path=root / name,
        digest="d" * 64,
        source=source,
        source_sha256="0" * 64,
        size_bytes=10,
        converted_by=None,
    )


@contextmanager
def weights_in_memory(store: Store | None = None) -> Iterator[None]:
    """Have every sidecar find its weights in memory, or in a store that somebody else made."""
    kept, found = mlzoo.store.open_store, SimulatedStore(Path("/store")) if store is None else store

    def open_store(config: Config) -> Store:  # noqa: ARG001 - all have the same
        return found

    mlzoo.store.open_store = open_store
    try:
        yield
    finally:
        mlzoo.store.open_store = kept
