"""How far an exploration is, as a file: so that a long one can be broken off and goes on, and its figures be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import orjson

if TYPE_CHECKING:
    from pathlib import Path


@attrs.define
class Progress:
    """What was explored so far.

    Attributes:
        first_seed: Of stories and of histories; the others follow it.
        commits: Of the code that explored, with a plus where it was not that of the commit.
        failures: The options that tell each failure again.
        in_stories_s: CPU time that stories took.
        in_states_s: The same of crash states.
    """

    first_seed: int
    commits: list[str] = attrs.field(factory=list)
    stories: int = 0
    lives: int = 0
    steps: int = 0
    histories: int = 0
    states: int = 0
    failures: list[str] = attrs.field(factory=list)
    in_stories_s: float = 0.0
    in_states_s: float = 0.0

    @classmethod
    def read(cls, file: Path) -> Progress | None:
        """Return what a file holds; None where there is none."""
        return cls(**orjson.loads(file.read_bytes())) if file.exists() else None

    def write(self, file: Path) -> None:
        """Put it into a file, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{file.name}.new")
        beside.write_bytes(orjson.dumps(attrs.asdict(self), option=orjson.OPT_INDENT_2))
        beside.replace(file)

    def lives_per_s(self) -> float:
        """Return lives per second of one core."""
        return self.lives / self.in_stories_s if self.in_stories_s else 0.0

    def states_per_s(self) -> float:
        """Return crash states per second of one core."""
        return self.states / self.in_states_s if self.in_states_s else 0.0
