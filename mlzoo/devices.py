"""What hardware this machine has for models, and why what cannot be used cannot. Facts only: placing is the core's.

NVIDIA's library (through nvidia-ml-py), psutil and the files of the installed torch are asked; torch itself is never
imported. Knows nothing of models or workers. ``probe`` blocks for some tens of milliseconds: call it in a thread.

A GPU's number is the one that torch gives it in a process with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, which a worker must
set: NVIDIA's library counts by bus, CUDA by speed unless told otherwise.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from mlzoo import cgroups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlzoo.config import DevicesConfig

Kind = Literal["cuda", "mps", "cpu"]

_CPUS = Path("/sys/devices/system/cpu")
_LOCAL_EXTRA = "pip install 'mlzoo[local]'"
_DRIVER_REMEDY = "see what nvidia-smi says; the driver, or the machine, may want a restart"
# The share of unified memory that Metal lets one process use by default (Apple, recommendedMaxWorkingSetSize).
_MPS_SHARE = 0.75


@attrs.frozen(kw_only=True)
class Device:
    """A piece of hardware that could run models."""

    name: str
    """As torch names it: cuda:0, mps, cpu; cpu:0 and on are shares of the CPU, each with a worker of its own."""
    kind: Kind
    description: str
    memory_total_bytes: int
    memory_free_bytes: int
    dtypes: tuple[str, ...] = ()
    """What it computes in at full speed."""
    usable: bool = True
    reason: str = ""
    """Why it cannot be used."""
    remedy: str = ""
    """What would change that."""


@attrs.frozen(kw_only=True)
class TorchBuild:
    """The torch that is installed, as its files tell."""

    version: str
    cuda: str | None = None
    """Version of CUDA that it was built with."""


def probe(environ: Mapping[str, str] = os.environ, cpu_workers: int = 1) -> tuple[Device, ...]:
    """Return every device of this machine, the unusable ones too; the CPU, or its shares, are always there and last."""
    torch = torch_build()
    return (*cuda_devices(_nvml(), torch, environ), *_mps_devices(torch), *cpu_shares(cpu_device(torch), cpu_workers))


def without_drivers(reason: str, cpu_workers: int = 1) -> tuple[Device, ...]:
    """Return what there is where a GPU's driver cannot be asked, and why."""
    return _silent_gpu("cuda", reason), *cpu_shares(cpu_device(torch_build()), cpu_workers)


def _silent_gpu(name: str, reason: str) -> Device:
    return Device(
        name=name,
        kind="cuda",
        description="NVIDIA GPU",
        memory_total_bytes=0,
        memory_free_bytes=0,
        usable=False,
        reason=reason,
        remedy=_DRIVER_REMEDY,
    )


def room_bytes(device: Device, config: DevicesConfig) -> int:
    """Return what models may take of a device now: what is free, less the share that is kept for everything else."""
    fractions = {"cuda": config.cuda_memory_fraction, "cpu": config.cpu_memory_fraction}
    kept_bytes = round((1.0 - fractions.get(device.kind, 1.0)) * device.memory_total_bytes)
    return max(0, device.memory_free_bytes - kept_bytes)


def torch_build() -> TorchBuild | None:
    """Return what torch is installed, without importing it; None where it is not."""
    try:
        distribution = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    try:
        text = Path(str(distribution.locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return TorchBuild(version=distribution.version, cuda=found[1] if found else None)


# --------------------------------------------------------------------------------------------- NVIDIA


def _nvml() -> Any:
    """Return NVIDIA's library, ready, or None: most machines have no such GPU, and that is no error."""
    import pynvml  # noqa: PLC0415 - only asked for when devices are

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def cuda_devices(nvml: Any, torch: TorchBuild | None, environ: Mapping[str, str]) -> tuple[Device, ...]:
    """Return the GPUs that NVIDIA's library sees.

    Args:
        nvml: The module pynvml, initialised; None where there is no driver.
        torch: The installed torch.
        environ: ``CUDA_VISIBLE_DEVICES`` hides and renumbers GPUs.
    """
    if nvml is None:
        return ()
    try:
        driver_cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    except nvml.NVMLError as error:  # One that fell off its bus, say: then none can be told from the others.
        return (_silent_gpu("cuda", f"NVIDIA's library says: {error}"),)
    numbers = visible_gpus(uuids, environ.get("CUDA_VISIBLE_DEVICES"))
    found = []
    for index, handle in enumerate(handles):
        name = f"cuda:{numbers.get(index, index)}"
        try:
            found.append(_gpu(nvml, handle, name, _obstacle(torch, driver_cuda, hidden=index not in numbers)))
        except nvml.NVMLError as error:
            found.append(_silent_gpu(name, f"NVIDIA's library says: {error}"))
    return tuple(found)


def _gpu(nvml: Any, handle: Any, name: str, obstacle: tuple[str, str]) -> Device:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    reason, remedy = obstacle
    return Device(
        name=name,
        kind="cuda",
        description=f"{_text(nvml.nvmlDeviceGetName(handle))}, compute capability {major}.{minor}",
        memory_total_bytes=memory.total,
        memory_free_bytes=memory.free,
        dtypes=("bfloat16", "float16", "float32") if major >= 8 else ("float16", "float32"),
        usable=not reason,
        reason=reason,
        remedy=remedy,
    )


def visible_gpus(uuids: list[str], visible: str | None) -> dict[int, int]:
    """Return the bus order of each GPU that a process sees -> its number there (CUDA programming guide, environment).

    Args:
        uuids: Of all GPUs, in bus order.
        visible: ``CUDA_VISIBLE_DEVICES``: indices or beginnings of UUIDs; what follows an unknown one is hidden.
    """
    if visible is None:
        return {index: index for index in range(len(uuids))}
    numbers: dict[int, int] = {}
    for item in visible.split(","):
        wanted = item.strip()
        if wanted.isdigit():
            matches = [int(wanted)] if int(wanted) < len(uuids) else []
        else:
            matches = [index for index, uuid in enumerate(uuids) if wanted and uuid.startswith(wanted)]
        if len(matches) != 1:
            break
        numbers.setdefault(matches[0], len(numbers))
    return numbers


def _obstacle(torch: TorchBuild | None, driver_cuda: int, *, hidden: bool) -> tuple[str, str]:
    """Return why a GPU cannot be used and what to do; twice nothing where it can.

    driver_cuda is the newest CUDA of the driver, 12040 for 12.4. A driver runs every minor version of its major one
    (CUDA minor version compatibility), so only majors are compared.
    """
    if hidden:
        return "CUDA_VISIBLE_DEVICES hides it", "unset CUDA_VISIBLE_DEVICES, or name this GPU in it"
    if torch is None:
        return "torch is not installed", _LOCAL_EXTRA
    if torch.cuda is None:
        return (
            f"the installed torch {torch.version} was built without CUDA",
            "install a torch with CUDA into this environment, as its own start page says for this system",
        )
    if driver_cuda // 1000 < int(torch.cuda.partition(".")[0]):
        return (
            f"its driver knows CUDA up to {driver_cuda // 1000}.{driver_cuda % 1000 // 10}, torch needs {torch.cuda}",
            "update the NVIDIA driver, or install a torch that was built with an older CUDA",
        )
    return "", ""


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# ---------------------------------------------------------------------------------------------- Apple


def _mps_devices(torch: TorchBuild | None) -> tuple[Device, ...]:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return ()
    import psutil  # noqa: PLC0415 - 30 ms, only asked for when devices are

    memory = psutil.virtual_memory()
    total = int(memory.total * _MPS_SHARE)
    return (
        Device(
            name="mps",
            kind="mps",
            description=f"Apple {platform.machine()}, unified memory",
            memory_total_bytes=total,
            memory_free_bytes=min(total, memory.available),
            dtypes=("bfloat16", "float16", "float32"),
            usable=torch is not None,
            reason="" if torch else "torch is not installed",
            remedy="" if torch else _LOCAL_EXTRA,
        ),
    )


# ------------------------------------------------------------------------------------------------ CPU


def cpu_device(torch: TorchBuild | None) -> Device:
    """Return the CPU, with the memory that this process may still use."""
    import psutil  # noqa: PLC0415 - 30 ms, only asked for when devices are

    memory = psutil.virtual_memory()
    total, free = cgroups.bound_memory(memory.total, memory.available)
    cores = usable_cores()
    return Device(
        name="cpu",
        kind="cpu",
        description=f"{platform.processor() or platform.machine()}, {cores} cores usable",
        memory_total_bytes=total,
        memory_free_bytes=free,
        dtypes=("bfloat16", "float32"),
        usable=torch is not None,
        reason="" if torch else "torch is not installed",
        remedy="" if torch else _LOCAL_EXTRA,
    )


def cpu_shares(cpu: Device, workers: int) -> tuple[Device, ...]:
    """Return the CPU as the devices of so many workers: alone as it is, else an equal share for each."""
    if workers == 1:
        return (cpu,)
    return tuple(
        attrs.evolve(
            cpu,
            name=f"cpu:{share}",
            description=f"{cpu.description}; share {share + 1} of {workers}",
            memory_total_bytes=cpu.memory_total_bytes // workers,
            memory_free_bytes=cpu.memory_free_bytes // workers,
        )
        for share in range(workers)
    )


def usable_cores() -> int:
    """Return the physical cores that this process may use, by affinity and quota; a core's second thread is none."""
    return len(_within_quota(_physical_cores()))


def core_shares(workers: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return for each worker how many threads it may have, and on which processors; none where it cannot be bound."""
    cores = _physical_cores()
    threads = len(_within_quota(cores))
    return [(max(1, threads // workers), share) for share in shares_of(cores, workers)]


def shares_of(cores: list[tuple[int, ...]], workers: int) -> list[tuple[int, ...]]:
    """Return each worker's processors: whole cores, where there are enough; what has to be shared is shared evenly."""
    if len(cores) < workers:
        cores = [(processor,) for core in cores for processor in core] or [()]
    if len(cores) < workers:
        return [cores[worker % len(cores)] for worker in range(workers)]
    borders = [len(cores) * worker // workers for worker in range(workers + 1)]
    return [tuple(itertools.chain(*cores[first:last])) for first, last in itertools.pairwise(borders)]


def _within_quota(cores: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    quota = cgroups.cpus()
    return cores if quota is None else cores[: max(1, int(quota))]


if sys.platform == "linux":

    def _physical_cores() -> list[tuple[int, ...]]:
        """Return the processors of each core that this process may use."""
        cores: dict[str, tuple[int, ...]] = {}
        for processor in sorted(os.sched_getaffinity(0)):
            core = str(processor)
            with suppress(OSError):
                core = (_CPUS / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text().strip() or core
            cores[core] = (*cores.get(core, ()), processor)
        return list(cores.values())

else:

    def _physical_cores() -> list[tuple[int, ...]]:
        """Return as many cores as there are, without processors: nothing can be bound to them here."""
        import psutil  # noqa: PLC0415

        return [()] * (psutil.cpu_count(logical=False) or psutil.cpu_count() or 1)
