"""Providers and routes, validated: every file of ``provider`` and ``route`` is known, as every file of ``model`` is.

What does not hold is refused with the file and the place in it. Only composing uses this.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlzoo.config.schema import LOCAL, ModelEntry, ProviderEntry, RouteEntry
from mlzoo.config.sources import parse
from mlzoo.config.validate import structure
from mlzoo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlzoo.config.origins import Origins


def providers_of(plain: Any, origins: Origins) -> dict[str, ProviderEntry]:
    """Return the providers by their names.

    Raises:
        ConfigError: One does not hold.
    """
    found: dict[str, ProviderEntry] = {}
    for stem, settings in (plain or {}).items():
        label = _label(origins, "provider", stem)
        entry = structure(_named(settings, stem), ProviderEntry, at=f"providers.{stem}", label=label)
        if entry.name == LOCAL:
            at, expected = f"providers.{stem}.name", f"expected another name: {LOCAL} is this machine"
            raise ConfigError(f"{label(at)}: {expected}", path=at, expected=expected)
        url = urlsplit(entry.base_url)
        if entry.kind != "scripted" and (url.scheme not in {"http", "https"} or not url.hostname):
            at, expected = f"providers.{stem}.base_url", f"expected an http or https URL, got {entry.base_url!r}"
            raise ConfigError(f"{label(at)}: {expected}", path=at, expected=expected)
        if url.username or url.password or url.query or url.fragment:
            at, expected = f"providers.{stem}.base_url", "expected a URL without credentials, query or fragment"
            raise ConfigError(f"{label(at)}: {expected}", path=at, expected=expected)
        _is_new(entry.name, found, label, f"providers.{stem}.name")
        found[entry.name] = entry
    return found


def routes_of(plain: Any, origins: Origins, models: Mapping[str, ModelEntry]) -> dict[str, tuple[str, ...]]:
    """Return each route -> the names of the models that it leads to, each once.

    Raises:
        ConfigError: One does not hold, names what does not exist, or leads back to itself.
    """
    entries: dict[str, RouteEntry] = {}
    labels: dict[str, Callable[[str], str]] = {}
    for stem, settings in (plain or {}).items():
        label = _label(origins, "route", stem)
        entry = structure(_named(settings, stem), RouteEntry, at=f"routes.{stem}", label=label)
        _is_new(entry.name, entries, label, f"routes.{stem}.name")
        entries[entry.name] = entry
        labels[entry.name] = partial(_beneath, label, f"routes.{stem}")
    by_alias = {alias: entry.name for entry in models.values() for alias in entry.aliases}
    names = {**by_alias, **{entry.name: entry.name for entry in models.values()}}
    found = {}
    for name, entry in entries.items():
        chain = tuple(dict.fromkeys(_models_of(entry, entries, names, labels, (name,))))
        kinds = {models_by_name.kind for models_by_name in models.values() if models_by_name.name in chain}
        if len(kinds) > 1:
            expected = "expected models of one kind, which chat or embed"
            raise ConfigError(f"{labels[name]('chain')}: {expected}", path=f"routes.{name}.chain", expected=expected)
        found[name] = chain
    return found


def _models_of(
    entry: RouteEntry,
    entries: Mapping[str, RouteEntry],
    names: Mapping[str, str],
    labels: Mapping[str, Callable[[str], str]],
    way: tuple[str, ...],
) -> list[str]:
    found: list[str] = []
    for index, step in enumerate(entry.chain):
        at = f"chain[{index}]"
        if step in names:
            found.append(names[step])
        elif step in way:
            circle = " -> ".join((*way[way.index(step) :], step))
            raise ConfigError(f"{labels[entry.name](at)}: the route leads back to itself: {circle}", path=at)
        elif step in entries:
            found += _models_of(entries[step], entries, names, labels, (*way, step))
        else:
            known = nearest(step, (*names, *entries))
            raise ConfigError(f"{labels[entry.name](at)}: no model and no route is called {step!r}{known}", path=at)
    return found


def fault_of(entry: ModelEntry, providers: Mapping[str, ProviderEntry]) -> tuple[str, str] | None:
    """Return what is wrong with who answers for a model: the setting, and what was expected; None: nothing."""
    if entry.provider != LOCAL:
        if entry.provider not in providers:
            there = ", ".join((LOCAL, *providers))
            return "provider", f"no provider is called {entry.provider!r} (there are {there})"
        if entry.kind == "predict":
            return "kind", "expected chat or embed: no provider predicts"
        if entry.source:
            return "source", f"expected none: provider {entry.provider} answers, and nothing is brought here"
        return None
    if not entry.source:
        return "source", "this setting is missing"
    try:
        parse(entry.source)
    except ConfigError as error:
        return "source", str(error.data["expected"])
    return None


def _named(settings: Any, stem: str) -> Any:
    return {"name": stem, **settings} if isinstance(settings, dict) else settings


def _label(origins: Origins, group: str, stem: str) -> Callable[[str], str]:
    """Return what says where a setting of one file was said."""

    def label(path: str) -> str:
        file = origins.files.get(f"{group}/{stem}")
        if file is None or origins.is_override(path):
            return origins.label(path)
        return f"{file.path}: {path.removeprefix(f'{group}s.{stem}.')}"

    return label


def _beneath(label: Callable[[str], str], outer: str, path: str) -> str:
    return label(f"{outer}.{path}")


def _is_new(name: str, found: Mapping[str, object], label: Callable[[str], str], path: str) -> None:
    if name in found:
        raise ConfigError(f"{label(path)}: two configuration files have the name {name!r}", path=path)
