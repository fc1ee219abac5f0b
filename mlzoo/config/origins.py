"""Where a setting was said: an override, a variable or a file. So a refusal can name what the user has to change.

Knows which files were chosen and what stands in them, and no setting's meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import attrs

from mlzoo.config.files import ConfigFile


@attrs.frozen
class Origins:
    """What a composition was made of.

    Attributes:
        files: Each file by group and option, such as ``limits/default``.
        written: What each of them says.
        choices: Group -> the option that was chosen.
        overrides: The key of each override that sets a value, the later ones winning.
        picks: Where overrides chose an option.
        variables: Key -> the environment variable that said it.
    """

    files: Mapping[str, ConfigFile]
    written: Mapping[str, Mapping[str, Any]]
    choices: Mapping[str, str]
    overrides: Sequence[str]
    picks: AbstractSet[str]
    variables: Mapping[str, str]

    def is_override(self, path: str) -> bool:
        """Return whether an override says something at, below or above a path."""
        return any(_is_within(path, key) or _is_within(key, path) for key in self.overrides)

    def label(self, path: str) -> str:
        """Return a path as a refusal begins: with the place where it was said, where that is not the command line."""
        for key in reversed(self.overrides):
            if _is_within(path, key) or _is_within(key, path):
                variable = self.variables.get(key)
                return path if variable is None else f"{variable}: {path}"
        if _stands_in(self.written.get("config", {}), path.split(".")):
            return f"{self.files['config'].path}: {path}"
        section, _, rest = path.partition(".")
        option = self.choices.get(section)
        file = self.files.get(f"{section}/{option}")
        return path if file is None else f"{file.path}: {rest or path}"


def _is_within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")


def _stands_in(written: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if not isinstance(written, dict) or part not in written:
            return False
        written = written[part]
    return True
