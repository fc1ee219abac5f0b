"""The places that weights come from, and which of their files are taken."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, assert_never

import attrs

from mlzoo.errors import ConfigError, PullFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

TAKEN = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md", ".gguf")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_WHEEL = re.compile(r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^/]+)/(?P<path>.+)")
_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@attrs.frozen
class Wheel:
    """A file or directory inside a wheel of the package index that the user's pip is set up for."""

    package: str
    version: str
    path: str


@attrs.frozen
class Hub:
    """A repository of a model hub."""

    repository: str
    revision: str | None


@attrs.frozen
class Local:
    """A file or directory of the user's."""

    path: Path


Source = Wheel | Hub | Local


def parse(source: str) -> Source:
    """Return the place that a ``source`` setting names.

    Raises:
        ConfigError: It names none.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "wheel" and (found := _WHEEL.fullmatch(rest)) and ".." not in PurePosixPath(found["path"]).parts:
        return Wheel(found["package"], found["version"], found["path"].rstrip("/"))
    if scheme == "hub" and (found := _HUB.fullmatch(rest)):
        return Hub(found["repository"], found["revision"])
    if scheme == "path" and rest:
        return Local(Path(rest).expanduser().absolute())
    raise ConfigError(
        f"source {source!r} cannot be read; it is wheel:PACKAGE==VERSION/PATH, hub:OWNER/NAME[@REVISION] or path:PATH",
        path="source",
    )


def describe(source: Source) -> str:
    """Return a source in words, for messages."""
    match source:
        case Wheel():
            return f"{source.package} {source.version} on the package index"
        case Hub():
            return f"{source.repository} on the hub"
        case Local():
            return str(source.path)
        case _:
            assert_never(source)


def is_taken(name: str) -> bool:
    """Return whether a file is part of a model: weights, configuration, tokenizer, terms; hidden files are not."""
    return name.lower().endswith(TAKEN) and not name.startswith(".")


def check_weights(names: Iterable[str], where: str) -> None:
    """Refuse what holds no weights that can be read without running code.

    Raises:
        PullFailed: There are no safetensors and no GGUF (reason: source). Pickled weights can run any code when loaded.
    """
    suffixes = {PurePosixPath(name).suffix.lower() for name in names}
    if suffixes & {".safetensors", ".gguf"}:
        return
    pickled = sorted(suffixes.intersection(PICKLED))
    why = f"only pickled weights ({', '.join(pickled)}), which can run any code" if pickled else "no weights"
    raise PullFailed(f"{where} holds {why}; safetensors or GGUF are needed", reason="source")
