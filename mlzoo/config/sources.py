"""The places that weights may come from, as a ``source`` setting names them. Knows nothing of how they are brought."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import attrs

from mlzoo.errors import ConfigError

EXPECTED = "wheel:PACKAGE==VERSION/PATH, hub:OWNER/NAME[@REVISION] or path:PATH"
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
    expected = f"expected {EXPECTED}, got {source!r}"
    raise ConfigError(f"source: {expected}", path="source", expected=expected)
