"""``mlzoo doctor``: checks the installation, devices, store, logs and a sidecar's start, and says what to do.

It reads, it does not mend; the sidecar that it starts keeps its log in a temporary directory.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlzoo.config import Config, ModelEntry
    from mlzoo.store import Store

LOCAL_EXTRA = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "huggingface-hub", "jinja2")
_START_S = 30.0  # From spawn to the first reply; a healthy one takes a fraction of a second.
_FAULTS = 3  # of a log that are told, of many
_PUT_BACK = "put them back from a copy, if there is one"
_LET_WRITE = "let this user write there, or have the log elsewhere: --log DIR"
_MARKS = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}


@attrs.frozen
class Finding:
    """What one check found. A warning can be lived with; a fault makes the exit status 1."""

    topic: str
    state: Literal["ok", "warning", "fault"]
    text: str
    remedy: str = ""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``doctor`` to the commands of ``mlzoo``."""
    from pathlib import Path

    parser = subparsers.add_parser(
        "doctor",
        help="check the installation, devices, store and log, and say what to do",
        description="Check installation, devices, store, logs and a sidecar's start. Exits 1 if something is wrong.",
        epilog="example: mlzoo doctor --log ./log",
    )
    parser.add_argument("--log", metavar="DIR", type=Path, help="check this log; without it, the user's own ones")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="searched before the built-in configuration")
    parser.add_argument("--json", action="store_true", help="for programs: JSON, a finding a line")
    parser.add_argument("overrides", nargs="*", default=[], metavar="OVERRIDE", help="key=value, such as store=/models")


def run(args: argparse.Namespace) -> int:
    """Check everything; return the exit status."""
    faulty = False
    for finding in _findings(args.overrides, args.config_dir, args.log):
        faulty = faulty or finding.state == "fault"
        _show(finding, as_json=args.json)
    return 1 if faulty else 0


def _show(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        import orjson

        sys.stdout.write(orjson.dumps(attrs.asdict(finding)).decode() + "\n")
    else:
        print(f"{_MARKS[finding.state]}  {finding.topic}: {finding.text}")
        if finding.remedy:
            print(f"{'':9}-> {finding.remedy}")
    sys.stdout.flush()  # Some checks take seconds.


def _findings(overrides: Sequence[str], config_dir: Path | None, log: Path | None) -> Iterator[Finding]:
    import os

    from mlzoo import config
    from mlzoo.config.loading import cache_directory, own_directory
    from mlzoo.errors import ConfigError

    yield from installation()
    try:
        settings = config.load(overrides, config_dir=config_dir)
    except ConfigError as error:
        yield Finding("configuration", "fault", error.message, "correct it; without it nothing else can be checked")
        return
    own = own_directory(config_dir, os.environ)
    yield Finding(
        "configuration", "ok", f"{len(settings.models)} models are configured; your own: {own / 'model' / 'NAME.yaml'}"
    )
    if stray := sorted(path.name for path in own.glob("*.yaml") if path.name != "config.yaml"):
        yield Finding(
            "configuration", "warning", f"not read: {', '.join(stray)}", f"models belong into {own / 'model'}"
        )
    providers_broken = {f"provider {name}": why for name, why in settings.broken_providers.items()}
    personas_broken = {f"persona {name}": why for name, why in settings.broken_personas.items()}
    for name, why in sorted({**settings.broken, **providers_broken, **personas_broken}.items()):
        yield Finding(name, "fault", f"its configuration does not hold: {why}", "correct that file, or remove it")
    yield from devices(settings.devices.cpu_workers)
    yield from store(settings)
    yield from compiled_steps(cache_directory(None, os.environ))
    yield from providers(settings)
    yield from logs(log, settings.log.budget_bytes, settings.limits.disk_reserve_bytes)
    yield sidecar(overrides, config_dir)


# ------------------------------------------------------------------------------------------------- installation


def installation() -> Iterator[Finding]:
    """Look at Python and at what is installed beside mlzoo; nothing is imported for it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from mlzoo import __version__

    yield Finding("mlzoo", "ok", f"{__version__}, Python {platform.python_version()} at {sys.executable}")
    found, missing = [], []
    for package in LOCAL_EXTRA:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        text = f"local models cannot run without {', '.join(missing)}"
        yield Finding("local models", "fault", text, "pip install 'mlzoo[local]'")
    else:
        yield Finding("local models", "ok", ", ".join(found))


def devices(cpu_workers: int) -> Iterator[Finding]:
    """Look for hardware, and say why what cannot be used cannot."""
    from mlzoo.cli.columns import size
    from mlzoo.devices import probe

    found = probe(cpu_workers=cpu_workers)
    for device in found:
        if device.usable:
            memory = f"{size(device.memory_free_bytes)} of {size(device.memory_total_bytes)} free"
            yield Finding(device.name, "ok", f"{device.description}, {memory}")
        else:
            yield Finding(device.name, "warning", f"{device.description}: {device.reason}", device.remedy)
    if not any(device.usable for device in found):
        yield Finding("devices", "fault", "there is none that can be used", "see above")


# -------------------------------------------------------------------------------------------------------- store


def store(settings: Config) -> Iterator[Finding]:
    """Look at the store's disk and at every model that is installed; reads all weights."""
    import shutil

    from mlzoo.cli.columns import size
    from mlzoo.config.schema import LOCAL
    from mlzoo.store import open_store

    kept = open_store(settings)
    existing = next(path for path in (kept.root, *kept.root.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < settings.limits.disk_reserve_bytes:
        text = f"{kept.root} has only {size(free_bytes)} left, and no new work is accepted"
        yield Finding("store", "fault", text, "make room, or choose another directory with store=DIR")
    else:
        yield Finding("store", "ok", f"{kept.root}, {size(free_bytes)} free")
    for name, entry in sorted(settings.models.items()):
        is_default = name in {settings.defaults.chat, settings.defaults.embed}
        if entry.provider == LOCAL:
            yield from _model(kept, entry, is_default=is_default, free_bytes=free_bytes)


def providers(settings: Config) -> Iterator[Finding]:
    """Look whether each provider has its key; nobody is asked."""
    import os

    from mlzoo.providers.protocol import how_to_authenticate
    from mlzoo.providers.secrets import Secrets

    secrets = Secrets(os.environ, settings.providers)
    for name, entry in sorted(settings.providers.items()):
        models = [model.name for model in settings.models.values() if model.provider == name]
        of = f"of {', '.join(models)}" if models else "of no model"
        if not secrets.is_missing(name):
            yield Finding(f"provider {name}", "ok", f"{of}: has its key" if entry.key_env else f"{of}: needs no key")
        elif {settings.defaults.chat, settings.defaults.embed}.isdisjoint(models):
            yield Finding(f"provider {name}", "ok", f"{of}: not in use, as {entry.key_env} is not set")
        else:
            yield Finding(f"provider {name}", "warning", f"{of}: has no key", how_to_authenticate(name, entry.key_env))


def _model(kept: Store, entry: ModelEntry, *, is_default: bool, free_bytes: int) -> Iterator[Finding]:
    from mlzoo.cli.columns import size

    installed = kept.find(entry)
    if installed is None:
        needed_bytes = kept.estimate(entry).disk_bytes
        if needed_bytes > free_bytes:
            text = f"is not installed, and its {size(needed_bytes)} would not fit on the disk"
            yield Finding(entry.name, "warning", text, "make room, then `mlzoo models pull` it")
        elif is_default:
            yield Finding(entry.name, "warning", "is not installed", f"mlzoo models pull {entry.name}")
        return
    wrong = kept.verify(installed)
    if wrong:
        remedy = f"mlzoo models remove {entry.name} && mlzoo models pull {entry.name}"
        yield Finding(entry.name, "fault", "; ".join(wrong), remedy)
    else:
        yield Finding(entry.name, "ok", f"{size(installed.size_bytes)}, every file is as it was installed")


def compiled_steps(cache: Path) -> Iterator[Finding]:
    """Say which models do without a compiled step though it is wanted, and how to have it tried again."""
    from mlzoo import graph_notes

    for one in graph_notes.refused(cache):
        text = f"no compiled step in {one.family}, its answers take longer: {one.why}"
        yield Finding(one.model, "warning", text, f"to have it tried again, remove {one.path}")


# --------------------------------------------------------------------------------------------------------- logs


def logs(path: Path | None, budget_bytes: int, reserve_bytes: int) -> Iterator[Finding]:
    """Verify one log, or all of sidecars that were started without ``--log``, and look at the disk under them."""
    from pathlib import Path

    import platformdirs

    from mlzoo.events.story import is_log
    from mlzoo.world import RealDisk

    state = Path(platformdirs.user_state_dir("mlzoo"))
    paths = sorted(state.glob("log-*")) if path is None else [path]
    if path is not None and path.is_file():
        yield Finding("log", "fault", f"{path} is a file, and a log is a directory", "choose another: --log DIR")
        return
    try:
        found = [path for path in paths if is_log(RealDisk(), path)]
    except OSError as error:
        yield Finding("log", "fault", f"cannot be read: {error}", "give this user access to it")
        return
    for one in found:
        yield _log(one, budget_bytes)
    if not found:
        yield _no_log(state if path is None else path)
    yield from _disk(state if path is None else path, reserve_bytes)


def _no_log(path: Path) -> Finding:
    """Look at whether a sidecar could make a log there."""
    import os

    place = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if not place.is_dir():
        return Finding("log", "fault", f"none can be made in {path}: {place} is a file", "choose another: --log DIR")
    if not os.access(place, os.W_OK | os.X_OK):
        text = f"there is none yet in {path}, and none can be made: this user cannot write to {place}"
        return Finding("log", "fault", text, _LET_WRITE)
    return Finding("log", "ok", f"there is none yet in {path}")


def _unwritable(path: Path) -> Path | None:
    """Return the part of a log that a sidecar writes to and this user cannot, if there is one."""
    import os

    for one in (path, path / "lock", *(path / name for name in ("segments", "asides", "blobs", "keys"))):
        if one.exists() and not os.access(one, os.W_OK | (os.X_OK if one.is_dir() else 0)):
            return one
    segments = [*path.glob("segments/*.ndjson"), *path.glob("asides/*.ndjson")]
    return next((one for one in segments if not os.access(one, os.W_OK)), None)


def _disk(path: Path, reserve_bytes: int) -> Iterator[Finding]:
    import shutil

    from mlzoo.cli.columns import size

    free_bytes = shutil.disk_usage(
        next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    ).free
    if free_bytes < reserve_bytes:
        text = f"{path} has {size(free_bytes)} of free space; below {size(reserve_bytes)} no new work is accepted"
        yield Finding("log's disk", "fault", text, "make room, or have the log elsewhere: --log DIR")


def _log(path: Path, budget_bytes: int) -> Finding:
    from mlzoo.cli.columns import size
    from mlzoo.errors import LogUnusable
    from mlzoo.events.story import verify
    from mlzoo.world import real_world

    topic = f"log {path}"
    try:
        found = verify(real_world(), path)
    except LogUnusable as error:
        return Finding(topic, "fault", error.message, str(error.data.get("remedy", "")))
    except OSError as error:
        return Finding(topic, "fault", f"cannot be read: {error}", "give this user access to it")
    used = f"{found.records} records, {size(found.size_bytes)} of {size(budget_bytes)}"
    if damage := [fault for fault in found.faults if fault not in found.torn]:
        text = "; ".join(damage[:_FAULTS]) + (f"; and {len(damage) - _FAULTS} more" if len(damage) > _FAULTS else "")
        if all(fault.startswith("blobs/") for fault in damage):
            text = f"{text}: whoever asks for what they held is told so, all else is whole"
            return Finding(topic, "fault", text, _PUT_BACK)
        return Finding(topic, "fault", text, f"mlzoo log repair {path}")
    if (part := _unwritable(path)) is not None:
        return Finding(
            topic, "fault", f"{used}; this user cannot write to {part}, so no sidecar can use it", _LET_WRITE
        )
    if found.torn:
        return Finding(topic, "warning", f"{used}; {'; '.join(found.torn)}", "the next start cuts that off by itself")
    return Finding(topic, "ok", f"{used}, all whole")


# ------------------------------------------------------------------------------------------------------ sidecar


def sidecar(overrides: Sequence[str], config_dir: Path | None) -> Finding:
    """Start a sidecar, talk to it, and end it."""
    import time
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import anyio

    from mlzoo import __version__
    from mlzoo.client import ProtocolViolation, RemoteError, SidecarDied, serve_command, spawn

    async def start(directory: Path) -> Finding:
        begin = time.perf_counter()
        async with spawn(serve_command(overrides, log=directory / "log", config_dir=config_dir)) as client:
            with anyio.fail_after(_START_S):
                await client.call("ping")
                first_ms = (time.perf_counter() - begin) * 1000
                result = await client.initialize("mlzoo doctor", __version__)
            status = await client.close()
        if status != 0:
            return Finding("sidecar", "fault", f"it answers, but left with exit status {status}", "see its stderr")
        methods = len(result["capabilities"]["methods"])
        return Finding("sidecar", "ok", f"first reply after {first_ms:.0f} ms, {methods} methods, left in order")

    with TemporaryDirectory(prefix="mlzoo-doctor-") as directory:
        try:
            return anyio.run(start, Path(directory), backend="trio")
        except TimeoutError:
            return Finding(
                "sidecar", "fault", f"no reply within {_START_S:.0f} s", "run `mlzoo serve` and see its stderr"
            )
        except (RemoteError, SidecarDied, ProtocolViolation, OSError) as error:
            return Finding("sidecar", "fault", str(error), "run `mlzoo serve` and see its stderr")
