"""``mlzoo models list | pull | info | remove``: the model store on the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.config.schema import LOCAL
from mlzoo.errors import MlzooError, StorageFailed, Unsupported

if TYPE_CHECKING:
    import argparse

    from mlzoo.config import Config, ModelEntry
    from mlzoo.store import Progress, Store


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``models`` and its own commands to those of ``mlzoo``."""
    models = subparsers.add_parser(
        "models", help="the model store: list, pull, info, remove", epilog="example: mlzoo models list"
    )
    commands = models.add_subparsers(dest="models_command", required=True, metavar="COMMAND")
    listing = commands.add_parser(
        "list", help="the models that the configuration knows", epilog="example: mlzoo models list store=/models"
    )
    pull = commands.add_parser(
        "pull",
        help="download a model, check its digest and install it",
        epilog="example: mlzoo models pull smollm2",
    )
    pull.add_argument("--accept-license", action="store_true", help="accept the terms of a model that asks for it")
    info = commands.add_parser(
        "info", help="all that is known of a model", epilog="example: mlzoo models info smollm2 --verify"
    )
    info.add_argument("--verify", action="store_true", help="read every file again and compare its digest")
    remove = commands.add_parser(
        "remove",
        help="delete a model's files, and the entry of a model that mlzoo fit made",
        epilog="example: mlzoo models remove smollm2",
    )
    for command in (pull, info, remove):
        command.add_argument("name", metavar="NAME")
    for command in (listing, pull, info, remove):
        command.add_argument(
            "overrides", nargs="*", default=[], metavar="OVERRIDE", help="key=value, such as store=/models"
        )
        command.add_argument(
            "--config-dir", type=Path, metavar="DIR", help="searched before the built-in configuration"
        )
        command.add_argument("--json", action="store_true", help="for programs: JSON, one value a line")


def run(args: argparse.Namespace) -> int:
    """Run one of the commands; return the exit status."""
    from mlzoo.cli import exit_status

    try:
        return _run(args)
    except OSError as error:
        raise StorageFailed(f"the store cannot be used: {error}", reason="failed") from error
    except MlzooError as error:
        if not args.json:
            raise
        _say({"error": attrs.asdict(error.failure())})
        print(f"mlzoo: {error.message}", file=sys.stderr)
        return exit_status(error)


def _run(args: argparse.Namespace) -> int:
    from mlzoo import config
    from mlzoo.config.loading import own_directory
    from mlzoo.store import open_store

    settings = config.load(args.overrides, config_dir=args.config_dir)
    store = open_store(settings)
    if args.models_command == "list":
        return _list(settings, store, as_json=args.json)
    entry = settings.model(args.name)
    if entry.provider != LOCAL and args.models_command in {"pull", "remove"}:
        told = f"provider {entry.provider} answers for {entry.name}: there are no weights to {args.models_command}"
        raise Unsupported(told, feature=f"models.{args.models_command}", model=entry.name)
    if args.models_command == "pull":
        return _pull(store, entry, accept_license=args.accept_license, as_json=args.json)
    if args.models_command == "info":
        return _info(store, entry, verify=args.verify, as_json=args.json)
    return _remove(store, entry, own_directory(args.config_dir, os.environ), as_json=args.json)


def _list(settings: Config, store: Store, *, as_json: bool) -> int:
    from mlzoo.cli.columns import columns, size_or_dash

    described = [_describe(store, entry) for _, entry in sorted(settings.models.items())]
    broken = [{"name": name, "state": "broken", "error": why} for name, why in sorted(settings.broken.items())]
    if as_json:
        for model in (*described, *broken):
            _say(model)
        return 0
    rows = [("NAME", "KIND", "STATE", "SIZE", "TO PULL", "LICENCE", "DEFAULT FOR")]
    for model in described:
        default = [kind for kind, name in attrs.asdict(settings.defaults).items() if name == model["name"]]
        rows.append((
            model["name"], model["kind"], model["state"], size_or_dash(model["disk_bytes"]),
            size_or_dash(model["download_bytes"]), model["licence"]["spdx"], ", ".join(default),
        ))  # fmt: skip
    rows += [(model["name"], "-", model["state"], "-", "-", "-", "") for model in broken]
    print(columns(rows))
    for model in broken:
        print(f"mlzoo: {model['name']} is broken: {model['error']}", file=sys.stderr)
    return 0


def _describe(store: Store, entry: ModelEntry) -> dict[str, Any]:
    if entry.provider != LOCAL:
        return _describe_remote(entry)
    installed = store.find(entry)
    return {
        "name": entry.name,
        "kind": entry.kind,
        "state": "available" if installed else "absent",
        "source": entry.source,
        "licence": {"spdx": entry.licence.spdx, "url": entry.licence.url},
        "aliases": list(entry.aliases),
        **attrs.asdict(store.estimate(entry)),
        "path": str(installed.path) if installed else None,
        "digest": installed.digest if installed else None,
        "converted_by": installed.converted_by if installed else None,
    }


def _describe_remote(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "state": "remote",
        "source": f"{entry.provider}:{entry.remote or entry.name}",
        "licence": {"spdx": "-", "url": "-"},
        "aliases": list(entry.aliases),
        **dict.fromkeys(("download_bytes", "disk_bytes", "memory_bytes"), 0),
        **dict.fromkeys(("path", "digest", "converted_by")),
    }


def _info(store: Store, entry: ModelEntry, *, verify: bool, as_json: bool) -> int:
    from mlzoo.cli.columns import columns, size_or_dash

    described = _describe(store, entry)
    installed = store.find(entry) if entry.provider == LOCAL else None
    wrong = store.verify(installed) if installed and verify else ()
    if as_json:
        _say({**described, **({"wrong": list(wrong)} if verify else {})})
    else:
        shown = {
            **{key: value for key, value in described.items() if value not in (None, [])},
            "licence": f"{entry.licence.spdx}, {entry.licence.url}",
            "aliases": ", ".join(entry.aliases) or "-",
            **{key: size_or_dash(described[key]) for key in ("download_bytes", "disk_bytes", "memory_bytes")},
        }
        print(columns([(key.removesuffix("_bytes"), str(value)) for key, value in shown.items()]))
        if installed is None and entry.provider == LOCAL:
            print(f"\n`mlzoo models pull {entry.name}` installs it")
        elif verify:
            print("\n" + ("\n".join(wrong) or "every file is what it was when it was installed"))
    return 1 if wrong else 0


def _remove(store: Store, entry: ModelEntry, own_config: Path, *, as_json: bool) -> int:
    from mlzoo.cli.columns import size
    from mlzoo.fit.entries import take_away

    freed_bytes = store.remove(entry)
    taken = take_away(own_config, store, entry)
    if as_json:
        _say({"removed": entry.name, "freed_bytes": freed_bytes, "entry": None if taken is None else str(taken)})
        return 0
    print(f"{entry.name}: {size(freed_bytes)} freed" if freed_bytes else f"{entry.name}: nothing was here")
    if taken is not None:
        print(f"{taken}, which mlzoo fit had made, is gone too: the name is free again")
        kept = Path(entry.source.removeprefix("path:"))
        if kept.exists():
            print(f"{kept} stays, as --output had it there")
    return 0


def _pull(store: Store, entry: ModelEntry, *, accept_license: bool, as_json: bool) -> int:
    import trio

    from mlzoo.cli.progress import ProgressDisplay
    from mlzoo.store.pulling import pull

    display = ProgressDisplay(entry.name)

    def show(progress: Progress) -> None:
        if as_json:
            _say({"progress": attrs.asdict(progress)})
        else:
            display.show({**attrs.asdict(progress), "stage": f"{progress.stage} {progress.message}".rstrip()})

    async def main() -> None:
        try:
            await pull(store, entry, show, accept_license=accept_license)
        finally:
            display.clear()

    if not as_json and store.find(entry) is None:
        where = f" ({entry.licence.url})" if entry.licence.url else ""
        print(f"{entry.name}: from {entry.source}, under {entry.licence.spdx}{where}", file=sys.stderr)
    interrupted = False
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        interrupted = True
    if interrupted:
        print("mlzoo: interrupted; the next pull goes on from what has arrived", file=sys.stderr)
        raise KeyboardInterrupt
    described = _describe(store, entry)
    if as_json:
        _say({"installed": described})
    else:
        print(f"{entry.name} is installed: {described['path']}")
    return 0


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    sys.stdout.flush()
