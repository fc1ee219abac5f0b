"""A finished artifact, to where it is served by its name: a directory, a manifest in the store, an entry.

Each is whole or not there: files are synced before anything names them, and each name is a rename. What is served
changes in one moment, when the entry is renamed: a kill before it leaves what was served before, a kill after it what
is new. Where ``--output`` is the directory that is served already, its manifest goes first: a kill then leaves no model
of that name until the same command has ended, or ``mlzoo models pull NAME`` has computed digests. Knows no training.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import yaml  # type: ignore[import-untyped] # It has no types.

from mlzoo.errors import ConfigError, StorageFailed
from mlzoo.fit.checkpoints import replace, sync
from mlzoo.fit.entries import MADE_BY
from mlzoo.fit.order import entry_path
from mlzoo.store import digest, open_store
from mlzoo.store.layout import MANIFEST_FORMAT, manifest_at
from mlzoo.store.lock import exclusively

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.fit.order import Order
    from mlzoo.fit.settings import FitSettings
    from mlzoo.store.layout import Store

MEMORY_SLACK = 1.25  # of the weights, for what a forward takes
LEAST_MEMORY_BYTES = 64 << 20


def install(order: Order, settings: FitSettings, artifact: Path) -> tuple[Path, Path]:
    """Move an artifact into place, and have it known by its name; return where it and its entry are.

    Raises:
        ConfigError: Somebody has made a model of that name meanwhile, or the output is not empty.
        StorageFailed: The disk would not.
    """
    store = open_store(order.config)
    try:
        with exclusively(store.lock_path(order.name), wait=True):
            if entry_path(order).exists() and not order.replace:
                raise ConfigError(f"name: {order.name!r} has been made meanwhile: say --replace", path="name")
            files = digest.of_files(artifact)
            listing = digest.of_listing(files)
            place = order.output or store.root / order.name / listing[:16]
            if order.output is None and place.exists() and digest.of_files(place) == files:
                shutil.rmtree(artifact)  # The same is there already.
            else:
                _take_away_what_is_served_from(place, store, order.name)
                _move(artifact, place, may_replace=order.output is None or order.replace)
            size_bytes = sum(file.size_bytes for file in files)
            entry = _entry(settings, place, size_bytes)
            manifest = {
                "format": MANIFEST_FORMAT,
                "name": order.name,
                "source": entry["source"],
                "source_sha256": listing,
                "archive_sha256": None,
                "licence": entry["licence"],
                "path": str(place),
                "digest": listing,
                "size_bytes": size_bytes,
                "converted_by": None,
                "files": [attrs.asdict(file) for file in files],
            }
            following = store.next_manifest(order.name)
            replace(following, orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
            head = f"{MADE_BY}{settings.data.path}; {place / 'README.md'} says how good it is.\n"
            replace(entry_path(order), (head + yaml.safe_dump(entry, sort_keys=False)).encode())
            following.replace(store.manifest(order.name))
            sync(following.parent)
            for old in store.manifest(order.name).parent.iterdir():
                if old.is_dir() and old != place:
                    shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise StorageFailed(f"the model cannot be installed: {error}", reason="failed") from error
    return place, entry_path(order)


def _entry(settings: FitSettings, place: Path, size_bytes: int) -> dict[str, Any]:
    licence = {"spdx": settings.licence.spdx}
    if settings.licence.url:
        licence["url"] = settings.licence.url
    return {
        "name": settings.name,
        "kind": "predict",
        "source": f"path:{place}",
        "licence": licence,
        "memory_bytes": int(size_bytes * MEMORY_SLACK) + LEAST_MEMORY_BYTES,
    }


def _take_away_what_is_served_from(place: Path, store: Store, name: str) -> None:
    """Have a manifest say nothing any more of a directory whose files are about to become others."""
    for manifest in (store.next_manifest(name), store.manifest(name)):
        kept = manifest_at(manifest)
        if kept is not None and manifest.parent / kept["path"] == place:
            manifest.unlink()
            sync(manifest.parent)


def _move(artifact: Path, place: Path, *, may_replace: bool) -> None:
    """Move a directory, which may lie on another file system; its files are durable before its name is."""
    if place.exists() and any(place.iterdir()) and not may_replace:
        raise ConfigError(f"--output: {place} is not empty: choose another directory, or say --replace", path="output")
    place.parent.mkdir(parents=True, exist_ok=True)
    arriving = place.with_name(f".{place.name}.arriving")
    shutil.rmtree(arriving, ignore_errors=True)
    shutil.move(artifact, arriving)
    for path in arriving.rglob("*"):
        if path.is_file():
            _sync_file(path)
    sync(arriving)
    leaving = place.with_name(f".{place.name}.leaving")
    shutil.rmtree(leaving, ignore_errors=True)
    if place.exists():
        place.rename(leaving)
    arriving.rename(place)
    sync(place.parent)
    shutil.rmtree(leaving, ignore_errors=True)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
