"""The fault menu: what may go wrong in a life, each a function under its name. A plan says which, and when.

A fault is given the life that it strikes and a random generator of its own. What hosts do wrong is in their plans
(``plans``, ``garbage``); what a crash leaves of the disk is the disk's affair (``disk``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio
from trio.testing import MockClock

from mlzoo.simulation.histories import ASIDES, GROUPS
from mlzoo.simulation.memory_worker import SIGKILL

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from mlzoo.simulation.cloud import Cloud
    from mlzoo.simulation.disk import SimulatedDisk
    from mlzoo.simulation.evidence import Evidence
    from mlzoo.simulation.workers import WorkerShop
    from mlzoo.simulation.world import SimulatedClock

    Fault = Callable[["Life", Random], None]

MENU: dict[str, Fault] = {}
LEAK_BYTES = 300 << 20


class Life(Protocol):
    """What a fault may touch. ``afterwards`` is done to the disk once the life has ended."""

    disk: SimulatedDisk
    clock: SimulatedClock
    shop: WorkerShop
    cloud: Cloud
    evidence: Evidence
    afterwards: list[Callable[[], None]]

    def start_another(self) -> None:
        """Start a second sidecar on the same log."""


def fault(function: Fault) -> Fault:
    """Put a fault on the menu."""
    MENU[function.__name__] = function
    return function


# ------------------------------------------------------------------------------------------------ the disk


@fault
def disk_full(life: Life, random: Random) -> None:
    """ENOSPC, after a part of a write."""
    life.disk.faults.capacity_bytes = life.disk.used_bytes() + random.randrange(600)


@fault
def file_too_large(life: Life, random: Random) -> None:
    """EFBIG, after a part of a write."""
    life.disk.faults.file_limit_bytes = life.disk.used_bytes() + random.randrange(600)


@fault
def write_fails(life: Life, random: Random) -> None:
    """EIO, after a part of a write."""
    life.disk.faults.fail_write = life.disk.writes + random.randrange(4)


@fault
def sync_fails(life: Life, random: Random) -> None:
    """EIO: what was not durable never will be."""
    life.disk.faults.fail_sync = life.disk.syncs + random.randrange(3)


@fault
def sync_takes_seconds(life: Life, random: Random) -> None:
    """A slow disk, or one that others keep busy."""
    life.disk.faults.sync_s = random.choice((1.0, 10.0, 40.0))


@fault
def bit_flips(life: Life, random: Random) -> None:
    """The disk changes what was durable, after the end of this life."""
    _damage(life, random, lambda data, place: data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :])


@fault
def segment_missing(life: Life, random: Random) -> None:
    """Somebody removes a file of the log, after the end of this life."""

    def remove() -> None:
        names = life.disk.files.get(random.choice((GROUPS, ASIDES)), {})
        if names:
            del names[random.choice(sorted(names))]

    life.afterwards.append(remove)


def _damage(life: Life, random: Random, change: Callable[[bytes, int], bytes]) -> None:
    def damage() -> None:
        names = life.disk.files.get(random.choice((GROUPS, ASIDES)), {})
        if names:
            inode = names[random.choice(sorted(names))]
            if inode.data:
                inode.settle(change(bytes(inode.data), random.randrange(len(inode.data))))

    life.afterwards.append(damage)


@fault
def two_sidecars_on_one_log(life: Life, _random: Random) -> None:
    """A second sidecar is started on the log while the first one writes it."""
    life.start_another()


# ------------------------------------------------------------------------------------------------ the clock


@fault
def wall_clock_goes_back(life: Life, _random: Random) -> None:
    """A time server, or a person, sets it back by a day."""
    life.clock.jump_wall(-86_400_000)


@fault
def wall_clock_goes_forward(life: Life, _random: Random) -> None:
    """The same, forward by a day."""
    life.clock.jump_wall(86_400_000)


@fault
def machine_sleeps(life: Life, _random: Random) -> None:
    """All clocks are an hour on from one moment to the next."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(3600)
    life.evidence.slept_ms += 3_600_000


# ------------------------------------------------------------------------------------------------ workers


@fault
def worker_killed(life: Life, random: Random) -> None:
    """By a person, or for its memory."""
    for worker in random.sample(life.shop.living(), min(1, len(life.shop.living()))):
        worker.end(SIGKILL)


@fault
def worker_talks_garbage(life: Life, random: Random) -> None:
    """A line that is no frame, or one with the wrong fields."""
    for worker in life.shop.living()[-1:]:
        worker.babble(random.choice((b"!\n", b'{"type":"Stepped"}\n', b"[]\n", b"\xff\n")))


@fault
def worker_hangs(life: Life, _random: Random) -> None:
    """It lives, reads, and says nothing any more."""
    life.shop.mood.hangs = True


@fault
def worker_reads_nothing(life: Life, _random: Random) -> None:
    """Its socket is full."""
    life.shop.mood.deaf = True


@fault
def worker_slow(life: Life, random: Random) -> None:
    """Each step takes long."""
    life.shop.mood.step_s = random.choice((1.0, 20.0))


@fault
def worker_raises(life: Life, _random: Random) -> None:
    """Its work fails by an exception, and it lives on."""
    life.shop.mood.fails_work = True


@fault
def worker_out_of_memory(life: Life, _random: Random) -> None:
    """There is no room for a model."""
    life.shop.mood.out_of_memory = True


@fault
def worker_dies_loading(life: Life, _random: Random) -> None:
    """The weights are poison to its libraries."""
    life.shop.mood.dies_loading = True


@fault
def worker_leaks(life: Life, _random: Random) -> None:
    """It keeps the memory of what it unloads."""
    life.shop.mood.leaks_bytes = LEAK_BYTES


@fault
def worker_is_another_build(life: Life, random: Random) -> None:
    """A library is replaced by another version, and a worker dies: the next one computes other bits."""
    life.evidence.build += 1
    worker_killed(life, random)


@fault
def worker_goes_on_after_cancel(life: Life, _random: Random) -> None:
    """Late results of what nobody wants any more."""
    life.shop.mood.heedless = True


@fault
def worker_does_not_leave(life: Life, _random: Random) -> None:
    """It has to be killed."""
    life.shop.mood.stays = True


@fault
def worker_cannot_be_started(life: Life, _random: Random) -> None:
    """The system has no process left."""
    life.shop.mood.refuses = True


# ------------------------------------------------------------------------------------------------ providers


@fault
def provider_unreachable(life: Life, _random: Random) -> None:
    """Its connections are refused."""
    life.cloud.weather.unreachable = True


@fault
def provider_busy(life: Life, random: Random) -> None:
    """429, and perhaps it says when to come again."""
    life.cloud.weather.busy_ms = random.choice((0, 700, 3_600_000))


@fault
def provider_fails(life: Life, _random: Random) -> None:
    """500."""
    life.cloud.weather.fails = True


@fault
def provider_refuses_the_key(life: Life, _random: Random) -> None:
    """401."""
    life.cloud.weather.refuses_key = True


@fault
def provider_breaks_off(life: Life, _random: Random) -> None:
    """Its streams end amid an answer."""
    life.cloud.weather.breaks_off = True


@fault
def provider_stalls(life: Life, _random: Random) -> None:
    """It says nothing any more, before the first word or between two."""
    life.cloud.weather.stalls = True


@fault
def provider_slow(life: Life, random: Random) -> None:
    """Each word takes long."""
    life.cloud.weather.piece_s = random.choice((1.0, 20.0))


@fault
def provider_talks_garbage(life: Life, _random: Random) -> None:
    """What it says cannot be understood."""
    life.cloud.weather.says_garbage = True
