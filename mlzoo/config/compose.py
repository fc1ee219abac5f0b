"""Composing settings with Hydra and OmegaConf, then validating them: slow, and only done when inputs changed.

Every file of the group ``model`` is a known model and stands at ``models.<file name>``. ``model=NAME`` chooses the one
that chats where a request names none and ``model@embed=NAME`` the one that embeds; what is said under ``model.`` or
``embed.`` is said about the chosen one. A model's file that does not hold costs that model alone, unless an override is
about it.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlzoo.config.documents import parse_overrides, settings_of
from mlzoo.config.origins import Origins
from mlzoo.config.personas import GROUP, personas_of
from mlzoo.config.remotes import called, fault_of, providers_of, routes_of
from mlzoo.config.schema import Config, Defaults, ModelEntry
from mlzoo.config.validate import FOUND, structure
from mlzoo.errors import ConfigError, nearest
from mlzoo.parts import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hydra.core.override_parser.types import Override

    from mlzoo.config.files import ConfigFile
    from mlzoo.config.schema import ProviderEntry

_EACH = ("model", "provider", "route")  # groups of which every file is known, at models.<file name> and so on
_CHOICES = {"model": ("model", "chat"), "embed": ("model@embed", "embed")}  # where it stands -> its group, its kind


def compose(files: Mapping[str, ConfigFile], overrides: Sequence[str], variables: Mapping[str, str]) -> Config:
    """Return the configuration that files and overrides make.

    Args:
        files: Each YAML file by group and option, such as ``model/smollm2``, and ``config``; what is built in is first.
        overrides: ``key=value`` as in Hydra; the last one wins.
        variables: The keys of those overrides that variables said -> the variable.

    Raises:
        ConfigError: It does not hold; ``data.path`` names the place.
    """
    everything, files = files, {name: file for name, file in files.items() if not name.startswith(GROUP)}
    models = _Models()
    written = _written(files, models)
    groups = _groups(written)
    known = [*groups, *(field.name for field in attrs.fields(Config) if field.name not in FOUND)]
    parsed = parse_overrides(overrides, known)
    lines = [_line(override, groups) for override in parsed]
    lines += [f"+{group}@{group}s.{stem}={stem}" for group in _EACH for stem in groups.get(group, ())]
    composed = _composed(files, written, lines, groups)
    choices = {str(group): str(option) for group, option in composed.hydra.runtime.choices.items()}
    origins = Origins(
        files=files,
        written=written,
        choices=choices,
        overrides=[override.key_or_group for override in parsed if override.key_or_group not in groups],
        picks={_place_of(override) for override in parsed if override.key_or_group in groups},
        variables=variables,
    )
    chosen = {place: choices[group] for place, (group, _) in _CHOICES.items()}
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    stems, said = map(str, composed.get("providers") or ()), partial(_resolved, composed)
    providers = providers_of(stems, said, origins, models.broken_providers)
    _add_models(composed, models, origins, chosen, providers)
    stems = map(str, composed.get("routes") or ())
    routes = routes_of(stems, said, origins, models.entries, models.broken, models.unreadable_routes)
    defaults = {kind: _default(place, chosen[place], models, origins) for place, (_, kind) in _CHOICES.items()}
    rest = {
        str(key): _resolved(composed, str(key), origins.label)
        for key in composed
        if key not in {*_CHOICES, *(f"{group}s" for group in _EACH)}
    }
    for key in sorted(FOUND.intersection(rest)):
        meant = "; write model=NAME or model@embed=NAME" if key == "defaults" else ""
        raise ConfigError(f"{origins.label(key)}: there is no such setting{meant}", path=key)
    settings = structure(rest, Config, label=origins.label)
    entries = {entry.name: entry for entry in models.entries.values()}
    names = {*entries, *(alias for entry in entries.values() for alias in entry.aliases), *models.broken, *routes}
    personas, broken = personas_of(everything, names)
    return attrs.evolve(
        settings,
        models=entries,
        defaults=Defaults(**defaults),
        broken=models.broken,
        providers=providers,
        broken_providers=models.broken_providers,
        routes=routes,
        personas=personas,
        broken_personas=broken,
    )


@attrs.define
class _Models:
    """What has become of each model's file: its entry, or what is wrong with it, or with a provider's or route's."""

    entries: dict[str, ModelEntry] = attrs.field(factory=dict)
    broken: dict[str, str] = attrs.field(factory=dict)
    broken_providers: dict[str, str] = attrs.field(factory=dict)
    unreadable_routes: dict[str, str] = attrs.field(factory=dict)


# ------------------------------------------------------------------------------------------------- before Hydra


def _written(files: Mapping[str, ConfigFile], models: _Models) -> dict[str, dict[str, Any]]:
    """Return what each file says; one of a model, provider or route that says nothing usable is as good as empty."""
    written: dict[str, dict[str, Any]] = {}
    alone = {"model": models.broken, "provider": models.broken_providers, "route": models.unreadable_routes}
    for name, file in files.items():
        group, _, option = name.rpartition("/")
        try:
            written[name] = _usable(name, file)
        except ConfigError as error:
            if group not in alone:
                raise
            written[name] = {}
            alone[group][option] = error.message
    return written


def _usable(name: str, file: ConfigFile) -> dict[str, Any]:
    said = settings_of(file)
    group, _, option = name.rpartition("/")
    if "." in option:
        told = "the name of a configuration file cannot hold a dot; rename it and write name: inside"
        raise ConfigError(f"{file.path}: {told}", path=name)
    if group == "model" and "defaults" in said:
        raise ConfigError(f"{file.path}: defaults: a model's file cannot choose others", path=name)
    return said


def _groups(written: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return each group -> its options."""
    groups: dict[str, list[str]] = {}
    for name in written:
        group, _, option = name.rpartition("/")
        if group and "." not in option:
            groups.setdefault(group, []).append(option)
    return groups


def _line(override: Override, groups: Mapping[str, Sequence[str]]) -> str:
    """Return an override so that Hydra adds what is unknown, for that is refused with a better message later.

    Raises:
        ConfigError: It chooses what does not exist, or asks Hydra for what only its own programs do.
    """
    key, line = override.key_or_group, override.input_line or ""
    if override.is_sweep_override() or override.is_hydra_override():
        raise ConfigError(f"{line}: sweeps and hydra.* settings have no meaning here", path=key)
    options = groups.get(key)
    if options is None:
        return line if override.is_delete() or override.is_add() or override.is_force_add() else f"++{line}"
    value = override.value()
    if not override.is_delete() and value not in options:
        raise _no_option(line, key, str(value), options)
    return line


def _place_of(override: Override) -> str:
    """Return where a choice stands: that of the group ``model@embed`` at ``embed``."""
    return str(override.package or override.key_or_group)


def _no_option(where: str, group: str, option: str, options: Sequence[str]) -> ConfigError:
    meant, known = nearest(option, options), ", ".join(options)
    if group == "model":
        expected = f"no model is called {option!r}{meant} (there are {known}; `mlzoo models list` tells of them)"
    else:
        expected = f"{group} has no option {option!r}{meant} (there are {known})"
    return ConfigError(f"{where}: {expected}", path=group, expected=list(options))


# ------------------------------------------------------------------------------------------------- Hydra


def _composed(
    files: Mapping[str, ConfigFile],
    written: Mapping[str, Any],
    lines: list[str],
    groups: Mapping[str, Sequence[str]],
) -> DictConfig:
    """Compose what was read, not what may stand on the disk by now; Hydra wants it in one directory."""
    with tempfile.TemporaryDirectory(prefix="mlzoo-config-") as directory:
        for name, file in files.items():
            place = Path(directory, f"{name}.yaml")
            place.parent.mkdir(exist_ok=True)
            place.write_text(file.text if written[name] else "", encoding="utf-8")
        try:
            with initialize_config_dir(config_dir=directory, version_base="1.3", job_name="mlzoo"):
                composed: DictConfig = hydra_compose(config_name="config", overrides=lines, return_hydra_config=True)
                return composed
        except MissingConfigException as error:
            group, _, option = (error.missing_cfg_file or "").rpartition("/")
            where = f"{files['config'].path}: defaults"
            if group in groups:
                raise _no_option(where, group, option, groups[group]) from error
            meant = f"there is no group {group!r}{nearest(group, groups)} (there are {', '.join(groups)})"
            raise ConfigError(f"{where}: {meant}", path=group) from error
        except (HydraException, OmegaConfBaseException) as error:
            reason = _reason(error)
            for name, file in files.items():
                reason = reason.replace(str(Path(directory, f"{name}.yaml")), file.path)
            raise ConfigError(f"the configuration cannot be composed: {reason}") from error


def _reason(error: Exception) -> str:
    """Return what a library says, on one line and with the cause where the outer text only points to it."""
    told = [str(error)]
    if error.__cause__ is not None:
        told.append(str(error.__cause__))
    return "; ".join(" ".join(text.split()) for text in told if text)


def _resolved(composed: DictConfig, key: str, label: Callable[[str], str]) -> Any:
    """Return a setting as plain data, with what it refers to put in.

    Raises:
        ConfigError: It refers to what does not exist.
    """
    try:
        value = OmegaConf.select(composed, key, throw_on_missing=True)
        return (
            OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value
        )
    except OmegaConfBaseException as error:
        path = str(error.full_key or key)
        raise ConfigError(f"{label(path)}: {str(error).splitlines()[0]}", path=path) from error


# ------------------------------------------------------------------------------------------------- models


def _add_models(
    composed: DictConfig,
    models: _Models,
    origins: Origins,
    chosen: Mapping[str, str],
    providers: Mapping[str, ProviderEntry],
) -> None:
    """Make an entry of each model; where its own file is what does not hold, note that instead."""
    by_file = composed.get("models")
    if not isinstance(by_file, DictConfig):
        raise ConfigError(f"{origins.label('models')}: expected models by their names", path="models")
    for stem in map(str, by_file):
        places = [place for place in chosen if chosen[place] == stem]
        try:
            entry = _entry(composed, stem, models, origins, places, providers)
        except ConfigError as error:
            if f"model/{stem}" not in origins.files or not origins.picks.isdisjoint(places):
                raise
            if any(origins.is_override(said) for said in (f"models.{stem}", *places)):
                raise
            models.broken[stem] = error.message
        else:
            models.entries[stem] = entry


def _entry(
    composed: DictConfig,
    stem: str,
    models: _Models,
    origins: Origins,
    places: Sequence[str],
    providers: Mapping[str, ProviderEntry],
) -> ModelEntry:
    """Return a model's entry: what its file says, and over it what is said about it where it is chosen.

    Raises:
        ConfigError: That does not hold, or another model has its name.
    """
    path = f"models.{stem}"
    if stem in models.broken:
        raise ConfigError(models.broken[stem], path=path)
    file = origins.files.get(f"model/{stem}")

    def label(path_: str) -> str:
        key = path_.removeprefix(f"{path}.")
        said = any(origins.is_override(f"{place}.{key}") for place in (path, *places))
        return origins.label(path_) if said or key == path_ or file is None else f"{file.path}: {key}"

    plain = _resolved(composed, path, label)
    if isinstance(plain, dict):
        in_file = origins.written.get(f"model/{stem}", {})
        for place in places:
            said, resolved = OmegaConf.to_container(composed[place]), _resolved(composed, place, label)
            assert isinstance(said, dict)
            plain |= {key: resolved[key] for key, value in said.items() if in_file.get(str(key)) != value}
        plain.setdefault("name", stem)
    entry = structure(plain, ModelEntry, at=path, label=label)
    _check_parts(entry, path, label)
    fault = fault_of(entry, providers, called(models.broken_providers, "provider", origins))
    if fault is not None:
        at = f"{path}.{fault[0]}"
        raise ConfigError(f"{label(at)}: {fault[1]}", path=at, expected=fault[1])
    if entry.name in {other.name for other in models.entries.values()}:
        told = f"two configuration files describe a model called {entry.name!r}"
        raise ConfigError(f"{label(f'{path}.name')}: {told}", path=f"{path}.name")
    return entry


def _check_parts(entry: ModelEntry, at: str, label: Callable[[str], str]) -> None:
    """Refuse parts of a custom model that do not exist, or are there in part, or where there is none.

    Raises:
        ConfigError: With the place, and the nearest name.
    """
    said = {name: getattr(entry, name) for name in ("backbone", "head", "pipeline")}
    given = [name for name, part in said.items() if part is not None]
    missing = [name for name in said if name not in given]
    if entry.kind != "predict" and (given or entry.labels):
        wrong = (given or ["labels"])[0]
        told = "this setting is for kind: predict alone"
        raise ConfigError(f"{label(f'{at}.{wrong}')}: {told}", path=f"{at}.{wrong}", expected=told)
    if given and missing:
        told = f"this setting is missing: {' and '.join(given)} need it"
        raise ConfigError(f"{label(f'{at}.{missing[0]}')}: {told}", path=f"{at}.{missing[0]}", expected=told)
    if not given:
        return
    try:
        spec_of({**said, "labels": list(entry.labels)}, at=at)
    except ConfigError as error:
        place = error.data["path"]
        raise ConfigError(f"{label(place)}: {error.data['expected']}", **error.data) from error


def _default(place: str, stem: str, models: _Models, origins: Origins) -> str:
    """Return the name of the model that was chosen for a place; one whose file does not hold keeps its place."""
    kind = _CHOICES[place][1]
    entry = models.entries.get(stem)
    if entry is None:
        return stem
    if entry.kind != kind:
        able = ", ".join(other.name for other in models.entries.values() if other.kind == kind)
        variable = origins.variables.get(place)
        told = f"{stem!r} is no model that can {kind} (there are {able or 'none'})"
        raise ConfigError(f"{variable or place}: {told}", path=f"{place}.kind", expected=kind)
    return entry.name
