"""A finished artifact, to where it is served by its name: a directory, a manifest in the store, an entry.

Each is whole or not there: files are synced before anything names them, and each name is a rename. A kill in between
leaves what was served before, or a model of which ``mlzoo models pull NAME`` only computes digests. Knows no training.
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
from mlzoo.fit.order import entry_path
from mlzoo.store import digest, open_store
from mlzoo.store.layout import MANIFEST_FORMAT
from mlzoo.store.lock import exclusively

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.fit.order import Order
    from mlzoo.fit.settings import FitSettings

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
            replace(store.manifest(order.name), orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
            head = f"# Made by `mlzoo fit` of {settings.data.path}; {place / 'README.md'} says how good it is.\n"
            replace(entry_path(order), (head + yaml.safe_dump(entry, sort_keys=False)).encode())
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
