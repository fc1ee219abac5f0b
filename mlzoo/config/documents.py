"""One configuration file, or one override: its text -> settings, with refusals that say where and in one line.

Knows the syntax of both and no setting. Slow to import, as all of composing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped] # OmegaConf lets its errors through; it has no types.
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from mlzoo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hydra.core.override_parser.types import Override

    from mlzoo.config.files import ConfigFile


def settings_of(file: ConfigFile) -> dict[str, Any]:
    """Return what a file says, before anything is interpolated.

    Raises:
        ConfigError: It cannot be read, is not YAML, or says something else than settings.
    """
    if file.fault:
        raise ConfigError(f"{file.path}: {file.fault}", path=file.path)
    try:
        node = yaml.compose(file.text, Loader=yaml.SafeLoader)
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{file.path}: expected settings, a line KEY: VALUE each", path=file.path)
        plain = OmegaConf.to_container(OmegaConf.create(file.text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file.path}{line}: not YAML: {error.problem or error.context}", path=file.path) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file.path}: not YAML: {str(error).splitlines()[0]}", path=file.path) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def parse_overrides(lines: Sequence[str], known: Iterable[str]) -> list[Override]:
    """Return overrides as Hydra reads them.

    Args:
        lines: ``key=value`` each.
        known: Groups and sections there are, for whoever mistyped one.

    Raises:
        ConfigError: One of them is none.
    """
    parser = OverridesParser.create()
    parsed = []
    for line in lines:
        try:
            override = parser.parse_override(line)
        except HydraException as error:
            raise _no_override(line, known) from error
        if not override.key_or_group:
            raise _no_override(line, known)
        parsed.append(override)
    return parsed


def _no_override(line: str, known: Iterable[str]) -> ConfigError:
    key, equals, value = line.partition("=")
    if not equals or not key:
        meant = nearest(key.partition(".")[0], known)
        wanted = "expected KEY=VALUE, such as limits.max_running=8 or model=NAME"
        return ConfigError(f"{line!r} sets nothing: {wanted}{meant}", path=line, expected=wanted)
    quoted = f"\"{key}='{value}'\""
    return ConfigError(f"{key}: the value {value!r} cannot be read; quote what is text: {quoted}", path=key)
