"""Checkpoints: tensors and what goes with them, in one safetensors file that is there whole or not at all.

What is no tensor is JSON in the file's own metadata, so that one rename makes both durable together; nothing is
pickled. Knows no model: who writes a checkpoint says what is in it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mlzoo.errors import ConfigError, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1
_KEY = "mlzoo.fit"
_MOST_SHOWN = 5  # of the differences in a message


@attrs.frozen
class Checkpoint:
    """What a file holds. identity: what must be the same for a run to go on from it."""

    tensors: dict[str, torch.Tensor]
    document: dict[str, Any]
    identity: dict[str, Any]


def write(path: Path, tensors: Mapping[str, torch.Tensor], document: Any, identity: Mapping[str, Any]) -> None:
    """Put a checkpoint at path: to a temporary name, synced, renamed.

    Raises:
        StorageFailed: The disk would not; what was there is there still.
    """
    said = {"format": FORMAT, "document": document, "identity": identity}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        replace(path, save(plain, metadata={_KEY: orjson.dumps(said).decode()}))
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror or error}", reason="failed") from error


def read(path: Path) -> Checkpoint | None:
    """Return a checkpoint, or None where there is none.

    Raises:
        ConfigError: It is none, is damaged or of a newer version.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            said = orjson.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        newer = said["format"] > FORMAT
        found = Checkpoint(tensors, said["document"], said["identity"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        told = f"{path} is no whole checkpoint ({error}): begin anew with --restart"
        raise ConfigError(told, path=str(path)) from error
    if newer:
        raise ConfigError(f"{path} was written by a newer version: begin anew with --restart", path=str(path))
    return found


def refuse_another(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another configuration, data or architecture.

    Raises:
        ConfigError: It is of another one; the message says what differs.
    """
    flat_there, flat_here = flat(there), flat(here)
    names = [name for name in {**flat_there, **flat_here} if flat_there.get(name) != flat_here.get(name)]
    if not names:
        return
    told = [f"{name} is {_said(flat_there, name)} there and {_said(flat_here, name)} here" for name in names]
    more = f", and {len(told) - _MOST_SHOWN} more" if len(told) > _MOST_SHOWN else ""
    raise ConfigError(
        f"an unfinished run is in {path.parent}, of another kind: {'; '.join(told[:_MOST_SHOWN])}{more}. "
        "Begin anew with --restart, or give this one another name",
        path=str(path),
        differences=names,
    )


def flat(plain: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Return nested settings as paths and values."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        path = f"{at}.{name}" if at else str(name)
        found |= flat(value, path) if isinstance(value, dict) and value else {path: value}
    return found


def _said(values: Mapping[str, Any], name: str) -> str:
    return orjson.dumps(values[name]).decode() if name in values else "not said"


def replace(path: Path, content: bytes) -> None:
    """Put content at path, whole or not at all, also where the power goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(directory: Path) -> None:
    """Make the names in a directory durable, where the system has a way."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
