"""Where the settings of a run come from: a file, what it is based on, and overrides; all as Hydra has it.

A configuration is a file, or the name of one in the group ``fit`` of the user's or the built-in settings. It may be
based on others: ``defaults: [text, _self_]``. Several values for one setting (``optimiser.lr=1e-3,1e-4``) with
``--multirun`` are as many runs, as Hydra's own sweeper makes them: each value with each. Knows no meaning of a setting.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import yaml  # type: ignore[import-untyped] # OmegaConf lets its errors through; it has no types.
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlzoo.config.documents import parse_overrides, settings_of
from mlzoo.config.files import ConfigFile
from mlzoo.config.origins import Origins
from mlzoo.config.validate import structure
from mlzoo.errors import ConfigError, nearest
from mlzoo.fit.settings import FitSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

MOST_RUNS = 1000
_GROUP = "fit"


@attrs.frozen
class Run:
    """One run of a command: its settings, and what was chosen for it where there are several."""

    settings: FitSettings
    chosen: tuple[str, ...] = ()


def compose(config: str, overrides: Sequence[str], directories: Sequence[Path], *, multirun: bool) -> tuple[Run, ...]:
    """Return the runs that a configuration and overrides make, in the order in which they are to be made.

    Args:
        config: A file, or the name of one in a directory ``fit``.
        overrides: ``key=value`` as in Hydra; the last one wins.
        directories: Where ``fit/NAME.yaml`` is looked for, the first one first.
        multirun: Whether a setting may have several values.

    Raises:
        ConfigError: It does not hold; ``data.path`` names the place.
    """
    files = _files(directories)
    chosen = _chosen(config, files)
    said = settings_of(files[chosen])
    known = [field.name for field in attrs.fields(FitSettings)]
    parsed = parse_overrides(overrides, known)
    fixed = [override for override in parsed if not override.is_sweep_override()]
    swept = [override for override in parsed if override.is_sweep_override()]
    if swept and not multirun:
        line = swept[0].input_line
        raise ConfigError(f"{line}: several values are as many runs: say so with --multirun", path=_key(swept[0]))
    choices = [[f"{_key(override)}={value}" for value in override.sweep_string_iterator()] for override in swept]
    combined = list(itertools.islice(itertools.product(*choices), MOST_RUNS + 1))
    if len(combined) > MOST_RUNS:
        raise ConfigError(f"these are more than {MOST_RUNS} runs: give fewer values", path=_key(swept[0]))
    origins = Origins(
        files={f"{_GROUP}/{name}": file for name, file in files.items()} | {"config": files[chosen]},
        written={"config": said},
        choices={},
        overrides=[_key(override) for override in parsed],
        picks=set(),
        variables={},
    )
    lines = [_line(override) for override in fixed]
    return tuple(Run(_settings(files, chosen, [*lines, *_lines(values)], origins), values) for values in combined)


def _files(directories: Sequence[Path]) -> dict[str, ConfigFile]:
    """Return each file of the group by its name; a user's own stands before the built-in one."""
    found: dict[str, ConfigFile] = {}
    for directory in reversed(directories):
        for path in sorted((directory / _GROUP).glob("*.yaml")):
            found[path.stem] = _file(path)
    return found


def _file(path: Path) -> ConfigFile:
    try:
        return ConfigFile(str(path), path.read_text(encoding="utf-8"))
    except OSError as error:
        return ConfigFile(str(path), "", f"cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        return ConfigFile(str(path), "", "cannot be read: it is no UTF-8")


def _chosen(config: str, files: dict[str, ConfigFile]) -> str:
    """Return the name of the configuration that is meant; one of a file of its own is added to the others."""
    path = Path(config)
    is_path = path.suffix in {".yaml", ".yml"} or len(path.parts) > 1
    if not is_path and config in files:
        return config
    if not path.is_file():
        meant = nearest(path.stem, files)
        there = ", ".join(sorted(files)) or "none"
        what = f"there is no file {config}" if is_path else f"no configuration of a run is called {config!r}"
        raise ConfigError(f"{what}{meant} (there are {there}; or name a file of your own)", path=config)
    name = f"own-{path.stem.replace('.', '-')}"  # So that it may be based on one that is called as it is.
    files[name] = _file(path)
    return name


def _key(override: Override) -> str:
    return str(override.key_or_group)


def _line(override: Override) -> str:
    """Return an override so that Hydra adds what is unknown, for that is refused with a better message later."""
    line = override.input_line or ""
    if override.is_hydra_override():
        raise ConfigError(f"{line}: hydra.* settings have no meaning here", path=_key(override))
    return line if override.is_delete() or override.is_add() or override.is_force_add() else f"++{line}"


def _lines(values: Sequence[str]) -> list[str]:
    return [f"++{value}" for value in values]


def _settings(files: Mapping[str, ConfigFile], chosen: str, lines: Sequence[str], origins: Origins) -> FitSettings:
    composed = _composed(files, chosen, lines)
    plain: dict[str, Any] = {}
    for key in map(str, composed):
        plain[key] = _resolved(composed, key, origins)
    return structure(plain, FitSettings, label=origins.label)


def _composed(files: Mapping[str, ConfigFile], chosen: str, lines: Sequence[str]) -> DictConfig:
    """Compose what was read, in a directory of its own, which is how Hydra wants it."""
    with tempfile.TemporaryDirectory(prefix="mlzoo-fit-") as directory:
        for name, file in files.items():
            Path(directory, f"{name}.yaml").write_text(file.text, encoding="utf-8")
        try:
            with initialize_config_dir(config_dir=directory, version_base="1.3", job_name="mlzoo"):
                composed: DictConfig = hydra_compose(config_name=chosen, overrides=list(lines))
                return composed
        except MissingConfigException as error:
            option = Path(error.missing_cfg_file or "").name
            others = sorted(name for name in files if name != chosen)
            told = f"there is no configuration {option!r}{nearest(option, others)} (there are {', '.join(others)})"
            raise ConfigError(f"{files[chosen].path}: defaults: {told}", path="defaults") from error
        except yaml.YAMLError:
            for file in files.values():
                settings_of(file)  # which says where
            raise
        except (HydraException, OmegaConfBaseException) as error:
            reason = "; ".join(" ".join(str(told).split()) for told in (error, error.__cause__) if told)
            for name, file in files.items():
                reason = reason.replace(str(Path(directory, f"{name}.yaml")), file.path)
            raise ConfigError(f"the configuration cannot be composed: {reason}") from error


def _resolved(composed: DictConfig, key: str, origins: Origins) -> Any:
    """Return a setting as plain data, with what it refers to put in."""
    try:
        value = OmegaConf.select(composed, key, throw_on_missing=True)
        if OmegaConf.is_config(value):
            return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        path = str(error.full_key or key)
        told = str(error).splitlines()[0]
        if "mandatory value" in told.lower():
            told = f"this setting is missing: write it there, or give {path}=... on the command line"
        raise ConfigError(f"{origins.label(path)}: {told}", path=path) from error
    return value
