"""Configuration files as they lie on the disk: their text, or why it cannot be read. Knows nothing of what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@attrs.frozen
class ConfigFile:
    """A YAML file: where it lies, and its text, or why that cannot be read."""

    path: str
    text: str
    fault: str = ""


def read_files(directories: Sequence[Path]) -> dict[str, ConfigFile]:
    """Return each YAML file by its path in its directory, such as ``model/smollm2``: the first directory's wins.

    They are in order: what is built in comes first. The group ``fit`` is not for the sidecar (``mlzoo.fit``).
    """
    found: dict[str, ConfigFile] = {}
    for directory in reversed(directories):
        for path in sorted((*directory.glob("*.yaml"), *directory.glob("*/*.yaml"))):
            if path.parent == directory / "fit":
                continue
            found[path.relative_to(directory).with_suffix("").as_posix()] = _file(path)
    return found


def _file(path: Path) -> ConfigFile:
    try:
        return ConfigFile(str(path), path.read_text(encoding="utf-8"))
    except OSError as error:
        return ConfigFile(str(path), "", f"cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        return ConfigFile(str(path), "", "cannot be read: it is no UTF-8")
