"""Personas from files: each ``persona/NAME.yaml`` is one, and may extend another; what it says goes before.

A file that does not hold costs that persona alone, and those that extend it. Slow to import, as all of composing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlzoo.config.documents import settings_of
from mlzoo.config.schema import PersonaEntry
from mlzoo.config.validate import structure
from mlzoo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mlzoo.config.files import ConfigFile

GROUP = "persona/"


def personas_of(
    files: Mapping[str, ConfigFile], models: Collection[str]
) -> tuple[dict[str, PersonaEntry], dict[str, str]]:
    """Return the personas that files describe, and what is wrong with those that do not hold.

    Args:
        files: Each YAML file by group and option; those of other groups are passed over.
        models: Names by which a model may be called.
    """
    own = {name.removeprefix(GROUP): file for name, file in files.items() if name.startswith(GROUP)}
    entries: dict[str, PersonaEntry] = {}
    broken: dict[str, str] = {}
    for stem in own:
        try:
            entry = _entry(stem, own, models, entries)
        except ConfigError as error:
            broken[stem] = error.message
        else:
            entries[entry.name] = entry
    return entries, broken


def _entry(
    stem: str, files: Mapping[str, ConfigFile], models: Collection[str], others: Collection[str]
) -> PersonaEntry:
    """Return the persona that a file describes.

    Raises:
        ConfigError: It does not hold, names a model that is not there, or has the name of another one.
    """
    file = files[stem]
    plain = _extended(stem, files, ())
    plain.setdefault("name", stem)
    entry = structure(plain, PersonaEntry, at=stem, label=lambda path: _label(path, file))
    if entry.model is not None and entry.model not in models:
        told = f"no model is called {entry.model!r}{nearest(entry.model, models)}"
        raise ConfigError(f"{file.path}: model: {told}", path=f"{stem}.model")
    if entry.name in others:
        told = f"two configuration files describe a persona called {entry.name!r}"
        raise ConfigError(f"{file.path}: name: {told}", path=f"{stem}.name")
    return entry


def _label(path: str, file: ConfigFile) -> str:
    _, _, key = path.partition(".")
    return f"{file.path}: {key}" if key else file.path


def _extended(stem: str, files: Mapping[str, ConfigFile], below: tuple[str, ...]) -> dict[str, Any]:
    """Return what a persona's file says, over what that says which it extends; a name is not inherited.

    Raises:
        ConfigError: One of the files does not hold, is not there, or extends itself.
    """
    file = files[stem]
    said = settings_of(file)
    other = said.pop("extends", None)
    if other is None:
        return said
    if other not in files:
        there = ", ".join(files)
        raise ConfigError(
            f"{file.path}: extends: there is no persona {other!r}{nearest(str(other), files)} (there are {there})",
            path=f"{stem}.extends",
        )
    if other in (*below, stem):
        circle = " extends ".join((*below, stem, str(other)))
        raise ConfigError(f"{file.path}: extends: {circle}: that is a circle", path=f"{stem}.extends")
    before = _extended(str(other), files, (*below, stem))
    before.pop("name", None)
    for part in ("sampling", "truncation"):
        if isinstance(before.get(part), dict) and isinstance(said.get(part), dict):
            said[part] = {**before[part], **said[part]}
    return {**before, **said}
