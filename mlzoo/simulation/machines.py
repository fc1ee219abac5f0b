"""The machines that a sidecar may live on, and what it is configured as: their devices, and how much memory is free.

Knows nothing of lives and their plans.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs

from mlzoo.config import Config
from mlzoo.config.schema import Defaults, DevicesConfig, Licence, Limits, LogConfig, ModelEntry, ProviderEntry
from mlzoo.devices import Device
from mlzoo.simulation.workers import NEEDS_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlzoo.simulation.workers import SimulatedWorker

DAY_S = 86_400
Machine = Literal["gpu", "two workers", "small"]
ROOM_BYTES: dict[Machine, dict[str, int]] = {
    # One model fits onto the second device, which is preferred, the other only onto the first.
    "gpu": {"cpu": 2 * NEEDS_BYTES["vec"], "cuda:0": 4096},
    # One model has a replica on each.
    "two workers": {"cpu:0": 2 * NEEDS_BYTES["vec"], "cpu:1": NEEDS_BYTES["vec"] // 2},
    # Each model makes room for the other one.
    "small": {"cpu": NEEDS_BYTES["vec"] + NEEDS_BYTES["toy"] // 2},
}


def devices_of(machine: Machine, workers: Iterable[SimulatedWorker]) -> tuple[Device, ...]:
    """Return the devices as they are while these workers live."""
    taken = dict.fromkeys(ROOM_BYTES[machine], 0)
    for worker in workers:
        if worker.device in taken:
            taken[worker.device] += worker.taken_bytes
    return tuple(
        Device(
            name=name,
            kind="cuda" if name.startswith("cuda") else "cpu",
            description="toy",
            memory_total_bytes=size_bytes,
            memory_free_bytes=max(0, size_bytes - taken[name]),
        )
        for name, size_bytes in ROOM_BYTES[machine].items()
    )


def _entry(name: str, kind: str, replicas: int) -> ModelEntry:
    return ModelEntry(
        name=name,
        kind=cast("Any", kind),
        source=f"path:/{name}",
        licence=Licence(spdx="MIT", url="u"),
        slots=3,
        memory_bytes=NEEDS_BYTES[name],
        keep_alive_s=60.0,
        replicas=replicas,
    )


@cache
def config_of(durability: str, *, small: bool = False, keep_s: float | None = None, machine: Machine = "gpu") -> Config:
    """Return what a sidecar is configured as; made once, since every start digests it."""
    with attrs.validators.disabled():
        sizes = {"segment_bytes": 6000, "asides_segment_bytes": 3000, "tail_bytes": 3000} if small else {}
        keep_days = None if keep_s is None else keep_s / DAY_S
        log = LogConfig(durability=cast("Any", durability), keep_days=keep_days, **sizes)
    models = {
        "toy": _entry("toy", "chat", 2 if machine == "two workers" else 1),
        "vec": _entry("vec", "embed", 1),
        "far": ModelEntry(name="far", kind="chat", provider="cloud"),
        "guess": _entry("guess", "predict", 1),
    }
    cloud = ProviderEntry(name="cloud", kind="scripted", max_concurrency=2, retries=1)
    limits = Limits(disk_reserve_bytes=0, line_bytes=64 * 1024, max_queued=6, max_running=4)
    return Config(
        limits=limits,
        log=log,
        devices=DevicesConfig(cpu_memory_fraction=1.0, cuda_memory_fraction=1.0),
        defaults=Defaults(chat="toy", embed="vec"),
        models=models,
        store="/store",
        providers={"cloud": cloud},
        routes={"any": ("far", "toy"), "near": ("toy", "far")},
    )
