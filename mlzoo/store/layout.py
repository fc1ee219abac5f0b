"""How the store lies on the disk, and what can be told from that alone.

::

    <root>/<name>/manifest.json        a model is installed where this file is, and only there
    <root>/<name>/manifest.next.json   the same for weights that the model's entry is about to name, or names already
    <root>/<name>/<digest>/...         its files, as a worker reads them
    <root>/.partial/<name>/...         what a pull is at, or left behind; never read by anything but the next pull
    <root>/.adapters/<name>/...        the adapters of a model, as in a store of their own

The manifest is renamed into place last and removed first; where another source takes over, its manifest is there before
the entry names it, and takes the place of the other one after that: so one of the two fits the entry at all times.
Weights of a ``path:`` source stay where they are; their manifest points there.
"""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.errors import PullFailed
from mlzoo.store.lock import exclusively

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlzoo.config import Config, ModelEntry

MANIFEST, NEXT_MANIFEST = "manifest.json", "manifest.next.json"
MANIFEST_FORMAT = 1
MANIFEST_KEYS = {"source", "source_sha256", "path", "digest", "size_bytes", "converted_by", "files"}


@attrs.frozen(kw_only=True)
class Installed:
    """A model whose weights are here."""

    name: str
    path: Path
    """The directory that a worker loads."""
    digest: str
    """sha256 over the listing of its files: two equal digests are the same weights."""
    source: str
    source_sha256: str
    """Digest of what the source holds, before any conversion."""
    size_bytes: int
    converted_by: str | None
    """Version of mlzoo that converted the weights; None where they are as the source has them."""
    adapters: tuple[Installed, ...] = ()
    """All that the configuration names."""


@attrs.frozen(kw_only=True)
class Estimate:
    """What a model asks of the machine; 0 where nobody knows."""

    download_bytes: int
    disk_bytes: int
    memory_bytes: int


@attrs.frozen
class Progress:
    """How far a pull is. stage: wait | download | extract | convert | verify | install; total 0: unknown."""

    stage: str
    done: int = 0
    total: int = 0
    unit: str = "bytes"
    message: str = ""


def open_store(config: Config) -> Store:
    """Return the store that the configuration names: ``store``, or ``models`` in the user's data directory."""
    if config.store:
        return Store(Path(config.store).expanduser().absolute())
    import platformdirs  # noqa: PLC0415 - not needed where the configuration says it

    return Store(Path(platformdirs.user_data_dir("mlzoo")) / "models")


@attrs.frozen
class Store:
    """The weights below one directory, which need not exist yet."""

    root: Path

    def manifest(self, name: str) -> Path:
        """Return where a model's manifest is, if it is."""
        return self.root / name / MANIFEST

    def next_manifest(self, name: str) -> Path:
        """Return where the manifest is of what the entry of a model is about to name, if there is such a thing."""
        return self.root / name / NEXT_MANIFEST

    def partial(self, name: str) -> Path:
        """Return where a model's pull works."""
        return self.root / ".partial" / name

    def adapters_of(self, model: str) -> Store:
        """Return where the adapters of a model are."""
        return Store(self.root / ".adapters" / model)

    def find(self, entry: ModelEntry) -> Installed | None:
        """Return what is installed for an entry, or None. One small file is read, once; callable on the event loop.

        A manifest for another source or other weights than the entry's counts as none: the configuration changed since.
        Where it names adapters, a small file is read for each of them as well, and all must be there.
        """
        kept = next((kept for kept in self._manifests(entry.name) if kept["source"] == entry.source), None)
        if kept is None:
            return None
        if entry.sha256 is not None and kept["source_sha256"] != entry.sha256:
            return None
        path = self.root / entry.name / kept["path"]
        if not path.exists():
            return None
        found = [self.adapters_of(entry.name).find(entry.adapter(name)) for name in entry.adapters]
        adapters = tuple(adapter for adapter in found if adapter is not None)
        if len(adapters) < len(found):
            return None
        return Installed(
            name=entry.name,
            path=path,
            digest=kept["digest"],
            source=kept["source"],
            source_sha256=kept["source_sha256"],
            size_bytes=kept["size_bytes"],
            converted_by=kept["converted_by"],
            adapters=adapters,
        )

    def read_manifest(self, name: str) -> Mapping[str, Any] | None:
        """Return a model's manifest; None where there is none, or none that this version can read."""
        return manifest_at(self.manifest(name))

    def _manifests(self, name: str) -> Iterator[Mapping[str, Any]]:
        for file in (MANIFEST, NEXT_MANIFEST):
            kept = manifest_at(f"{self.root}/{name}/{file}")  # Each request looks: paths take longer to make than this.
            if kept is not None:
                yield kept

    def verify(self, installed: Installed) -> tuple[str, ...]:
        """Return what is wrong with the files of a model, a line each; reads all of them, which takes seconds."""
        from mlzoo.store import digest  # noqa: PLC0415 - hashing is no part of finding

        kept = next((kept for kept in self._manifests(installed.name) if kept["digest"] == installed.digest), None)
        if kept is None:
            return (f"{self.manifest(installed.name)} is gone or damaged",)
        own = digest.differences(installed.path, [digest.FileDigest(**file) for file in kept["files"]])
        adapters = self.adapters_of(installed.name)
        return (*own, *(wrong for adapter in installed.adapters for wrong in adapters.verify(adapter)))

    def estimate(self, entry: ModelEntry) -> Estimate:
        """Return what an entry costs: what the configuration estimates, and what is known where it is installed."""
        return estimate_of(entry, self.find(entry))

    def remove(self, entry: ModelEntry) -> int:
        """Remove a model and what its pulls left behind; return the bytes that this freed. Blocks while it deletes.

        Files of a ``path:`` source stay: they are the user's own.

        Raises:
            PullFailed: The model is being pulled by some process just now (reason: busy).
            OSError: A file cannot be removed. The model is no longer installed even so.
        """
        adapters = self.adapters_of(entry.name).root
        places = (self.root / entry.name, self.partial(entry.name), adapters)
        if not any(place.exists() for place in places):
            return 0
        with exclusively(self.lock_path(entry.name), wait=False) as held:
            if not held:
                raise PullFailed(
                    f"{entry.name} is being pulled just now; try again when that has ended",
                    reason="busy",
                    model=entry.name,
                )
            freed_bytes = sum(map(_size_bytes, places))
            self.manifest(entry.name).unlink(missing_ok=True)
            self.next_manifest(entry.name).unlink(missing_ok=True)
            for directory in places:
                if directory.exists():
                    shutil.rmtree(directory)
            return freed_bytes

    def lock_path(self, name: str) -> Path:
        """Return the lock of whoever changes a model's files. It is never deleted, or two could hold it."""
        return self.root / ".locks" / f"{name}.lock"


def estimate_of(entry: ModelEntry, installed: Installed | None) -> Estimate:
    """Return what an entry costs, of which this is installed: what is known, and what the configuration estimates."""
    disk_bytes = installed.size_bytes if installed else entry.disk_bytes
    adapter_bytes = sum(adapter.size_bytes for adapter in installed.adapters) if installed else 0
    return Estimate(
        download_bytes=0 if installed else entry.download_bytes,
        disk_bytes=disk_bytes + adapter_bytes,
        memory_bytes=(entry.memory_bytes or disk_bytes) + adapter_bytes,
    )


def manifest_at(path: Path | str) -> Mapping[str, Any] | None:
    """Return what a manifest says; None where there is none, or none that this version can read."""
    try:
        seen = os.stat(path)  # noqa: PTH116 - see where it is asked for
        return _manifest(path, seen.st_ino, seen.st_mtime_ns, seen.st_size)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _manifest(path: Path | str, *_seen: int) -> Mapping[str, Any] | None:
    """Return what a file says, read once while it is the same, as each request asks; nobody writes into it."""
    try:
        kept = orjson.loads(Path(path).read_bytes())
    except ValueError:
        return None
    if not isinstance(kept, dict) or kept.get("format") != MANIFEST_FORMAT or not kept.keys() >= MANIFEST_KEYS:
        return None
    return kept


def _size_bytes(directory: Path) -> int:
    """Return the size of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
