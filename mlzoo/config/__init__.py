"""Settings: what there are (``schema.py``), where they come from (``loading.py``), how they compose (``compose.py``).

``load()`` is all that a command needs. Settings come from YAML files in groups, then from ``MLZOO_*`` variables, then
from ``key=value`` overrides on the command line, as in Hydra.
"""

from __future__ import annotations

from mlzoo.config.loading import load
from mlzoo.config.schema import (
    Config,
    Defaults,
    DevicesConfig,
    Licence,
    Limits,
    LogConfig,
    ModelEntry,
    SamplingDefaults,
)

__all__ = [
    "Config",
    "Defaults",
    "DevicesConfig",
    "Licence",
    "Limits",
    "LogConfig",
    "ModelEntry",
    "SamplingDefaults",
    "load",
]
