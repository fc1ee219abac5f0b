"""Clock, ids, seeds and disk, from a seed: the same seed gives the same world, to the last bit."""

from __future__ import annotations

from functools import cached_property
from random import Random

import trio

from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.world import World

EPOCH_MS = 1_700_000_000_000


class SimulatedClock:
    """Awake time is trio's (so that a virtual clock drives it); the wall clock follows, and can be made to jump."""

    def __init__(self) -> None:
        self.wall_offset_ms = EPOCH_MS

    def awake_ms(self) -> int:
        """Return trio's current time."""
        return int(trio.current_time() * 1000)

    def wall_ms(self) -> int:
        """Return a wall clock's time, wherever that has jumped to."""
        return self.awake_ms() + self.wall_offset_ms

    def jump_wall(self, by_ms: int) -> None:
        """Set the wall clock forward or back, as people and time servers do."""
        self.wall_offset_ms += by_ms


class SimulatedIds:
    """Ids from a seed. Its generator is made for the first one, as half of what a life costs to set up is such."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    @cached_property
    def _random(self) -> Random:
        return Random(self._seed)

    def new(self, prefix: str) -> str:
        """Return prefix and 80 bits of the seed's."""
        return f"{prefix}-{self._random.getrandbits(80):020x}"


class SimulatedSeeds:
    """Sampling seeds from a seed; see above."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    @cached_property
    def _random(self) -> Random:
        return Random(self._seed)

    def new(self) -> int:
        """Return 53 bits of the seed's."""
        return self._random.getrandbits(53)


def simulated_world(seed: int, disk: SimulatedDisk | None = None) -> World:
    """Return a world that a seed decides; the disk may be one that an earlier life left behind."""
    return World(
        clock=SimulatedClock(),
        ids=SimulatedIds(f"{seed} ids"),
        seeds=SimulatedSeeds(f"{seed} seeds"),
        disk=disk if disk is not None else SimulatedDisk(),
        pid=1,
    )
