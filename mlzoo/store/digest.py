"""Digests of files and of directories."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import attrs

from mlzoo.store.sources import is_taken

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@attrs.frozen
class FileDigest:
    """One file of a model: its path below the model's directory, with forward slashes."""

    name: str
    size_bytes: int
    sha256: str


def of_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_git_blob(path: Path) -> str:
    """Return the sha1 that git gives a file's content, by which hubs name small files. Guards against damage only."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def of_files(directory: Path) -> tuple[FileDigest, ...]:
    """Return the digest of each file of a model below a directory, sorted by name. Symbolic links are read through."""
    paths = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return tuple(
        FileDigest(name, path.stat().st_size, of_file(path)) for name, path in sorted(paths.items()) if is_taken(name)
    )


def differences(directory: Path, files: Iterable[FileDigest]) -> tuple[str, ...]:
    """Return a line for each file that is not what it was."""
    found = []
    for file in files:
        path = directory / file.name
        if not path.is_file():
            found.append(f"{path} is missing")
        elif path.stat().st_size != file.size_bytes:
            found.append(f"{path} has {path.stat().st_size} bytes, not {file.size_bytes}")
        elif of_file(path) != file.sha256:
            found.append(f"{path} has changed")
    return tuple(found)


def of_listing(files: Iterable[FileDigest]) -> str:
    """Return the sha256 over a directory's listing: a line ``<sha256>  <name>`` for each file, as of sha256sum."""
    listing = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()
