"""``mlzoo devices``: what hardware was found, what fits on it, and why what cannot be used cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import orjson

if TYPE_CHECKING:
    import argparse

    from mlzoo.config import Config
    from mlzoo.devices import Device
    from mlzoo.store import Store


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``devices`` to the commands of ``mlzoo``."""
    parser = subparsers.add_parser(
        "devices", help="what hardware was found, and what fits on it", epilog="example: mlzoo devices --json"
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="OVERRIDE", help="key=value, such as devices=cpu")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="searched before the built-in configuration")
    parser.add_argument("--json", action="store_true", help="for programs: JSON, a device a line")


def run(args: argparse.Namespace) -> int:
    """Show the devices; return the exit status."""
    from mlzoo import config
    from mlzoo.devices import probe
    from mlzoo.store import open_store

    settings = config.load(args.overrides, config_dir=args.config_dir)
    store = open_store(settings)
    for device in probe(cpu_workers=settings.devices.cpu_workers):
        fits = models_that_fit(device, settings, store)
        if args.json:
            sys.stdout.write(orjson.dumps({**attrs.asdict(device), "fits": fits}).decode() + "\n")
        else:
            print(_shown(device, fits))
    return 0


def models_that_fit(device: Device, settings: Config, store: Store) -> dict[str, bool]:
    """Return for each known model whether it fits into what is free on a device; nothing for an unusable one."""
    if not device.usable:
        return {}
    from mlzoo.devices import room_bytes

    ours = room_bytes(device, settings.devices)
    return {
        name: store.estimate(entry).memory_bytes <= ours
        for name, entry in sorted(settings.models.items())
        if store.estimate(entry).memory_bytes
    }


def _shown(device: Device, fits: dict[str, bool]) -> str:
    from mlzoo.cli.columns import size_or_dash

    lines = [f"{device.name}: {device.description}"]
    lines.append(
        f"  memory  {size_or_dash(device.memory_free_bytes)} free of {size_or_dash(device.memory_total_bytes)}"
    )
    lines.append(f"  dtypes  {', '.join(device.dtypes)}")
    answers: list[tuple[str, Any]] = [
        ("fits", ", ".join(name for name, does in fits.items() if does)),
        ("too large", ", ".join(name for name, does in fits.items() if not does)),
        ("cannot be used:", device.reason),
        ("remedy:", device.remedy),
    ]
    lines += [f"  {title}  {text}" for title, text in answers if text]
    return "\n".join(lines)
