"""What hardware is found, under drivers, builds and containers of every kind."""

import threading
from types import SimpleNamespace

import pytest

import mlzoo.devices
from mlzoo.app import probe_devices
from mlzoo.devices import (
    TorchBuild,
    cpu_device,
    cpu_shares,
    cuda_devices,
    probe,
    shares_of,
    torch_build,
    usable_cores,
    visible_gpus,
)

GIB = 1 << 30
CUDA_TORCH = TorchBuild(version="2.13.0+cu128", cuda="12.8")


class FakeNvml:
    """The part of pynvml that is used, for machines without a GPU."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, cuda=12080, capability=(9, 0), uuids=("GPU-aa", "GPU-bb"), broken=(), lost=()):
        self.cuda, self.capability, self.uuids = cuda, capability, uuids
        self.broken, self.lost = broken, lost

    def nvmlSystemGetCudaDriverVersion_v2(self):  # noqa: N802 - the library's name
        return self.cuda

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if index in self.lost:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return self.uuids[handle]

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        if handle in self.broken:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(total=80 * GIB, free=70 * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle):  # noqa: N802
        return self.capability

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return b"H100"


def test_the_cpu_is_always_there_and_last():
    devices = probe({})
    assert devices[-1].name == "cpu"
    assert 0 < devices[-1].memory_free_bytes <= devices[-1].memory_total_bytes
    assert "float32" in devices[-1].dtypes


def test_without_torch_even_the_cpu_cannot_run_models_and_says_why():
    device = cpu_device(None)
    assert not device.usable
    assert device.reason == "torch is not installed"
    assert "mlzoo[local]" in device.remedy


def test_the_installed_torch_is_known_without_importing_it():
    build = torch_build()
    assert build is not None
    assert (build.cuda is None) == build.version.endswith("+cpu")


def test_a_machine_without_a_driver_has_no_gpus():
    assert cuda_devices(None, CUDA_TORCH, {}) == ()


def test_a_gpu_that_its_library_knows_no_memory_of_is_unusable_and_the_others_are_not():
    first, second = cuda_devices(FakeNvml(broken=(0,)), CUDA_TORCH, {})
    assert (first.name, first.usable, second.usable) == ("cuda:0", False, True)
    assert "Not Supported" in first.reason
    assert first.remedy


def test_where_a_gpu_is_lost_none_is_used():
    [device] = cuda_devices(FakeNvml(lost=(1,)), CUDA_TORCH, {})
    assert not device.usable
    assert "GPU is lost" in device.reason


async def test_a_driver_that_hangs_leaves_the_cpu(monkeypatch, autojump_clock):
    released = threading.Event()
    monkeypatch.setattr(mlzoo.devices, "probe", lambda cpu_workers: released.wait())
    gpu, cpu = await probe_devices()
    released.set()
    assert (gpu.usable, cpu.name) == (False, "cpu")
    assert "did not answer" in gpu.reason


def test_gpus_are_usable_where_torch_and_driver_fit():
    devices = cuda_devices(FakeNvml(), CUDA_TORCH, {})
    assert [device.name for device in devices] == ["cuda:0", "cuda:1"]
    assert all(device.usable and not device.reason for device in devices)
    assert devices[0].description == "H100, compute capability 9.0"
    assert (devices[0].memory_total_bytes, devices[0].memory_free_bytes) == (80 * GIB, 70 * GIB)


def test_an_old_gpu_has_no_bfloat16():
    (device,) = cuda_devices(FakeNvml(capability=(7, 5), uuids=("GPU-aa",)), CUDA_TORCH, {})
    assert device.dtypes == ("float16", "float32")


@pytest.mark.parametrize(
    ("torch", "cuda", "reason", "remedy"),
    [
        (None, 12080, "torch is not installed", "mlzoo[local]"),
        (TorchBuild(version="2.13.0+cpu"), 12080, "2.13.0+cpu was built without CUDA", "install a torch with CUDA"),
        (CUDA_TORCH, 11040, "knows CUDA up to 11.4, torch needs 12.8", "update the NVIDIA driver"),
    ],
)
def test_a_gpu_that_cannot_be_used_says_why_and_what_to_do(torch, cuda, reason, remedy):
    for device in cuda_devices(FakeNvml(cuda=cuda), torch, {}):
        assert not device.usable
        assert reason in device.reason
        assert remedy in device.remedy


def test_an_older_minor_version_of_the_driver_is_no_obstacle():
    assert all(device.usable for device in cuda_devices(FakeNvml(cuda=12020), CUDA_TORCH, {}))


def test_a_hidden_gpu_is_listed_with_the_reason():
    first, second = cuda_devices(FakeNvml(), CUDA_TORCH, {"CUDA_VISIBLE_DEVICES": "1"})
    assert (first.usable, first.reason) == (False, "CUDA_VISIBLE_DEVICES hides it")
    assert (second.usable, second.name) == (True, "cuda:0")


@pytest.mark.parametrize(
    ("visible", "numbers"),
    [
        (None, {0: 0, 1: 1, 2: 2}),
        ("", {}),
        ("2,0", {2: 0, 0: 1}),
        ("GPU-b", {1: 0}),
        ("0,7,1", {0: 0}),
        ("-1", {}),
        ("GPU-", {}),
    ],
)
def test_cuda_visible_devices_hides_and_renumbers(visible, numbers):
    assert visible_gpus(["GPU-aa", "GPU-bb", "GPU-cc"], visible) == numbers


def test_there_is_always_a_core():
    assert usable_cores() >= 1


def test_one_worker_has_the_whole_cpu_under_its_name():
    cpu = cpu_device(CUDA_TORCH)
    assert cpu_shares(cpu, 1) == (cpu,)


def test_several_workers_have_equal_shares_of_the_memory():
    cpu = cpu_device(CUDA_TORCH)
    shares = cpu_shares(cpu, 3)
    assert [(share.name, share.kind) for share in shares] == [("cpu:0", "cpu"), ("cpu:1", "cpu"), ("cpu:2", "cpu")]
    assert {share.memory_total_bytes for share in shares} == {cpu.memory_total_bytes // 3}
    assert sum(share.memory_free_bytes for share in shares) <= cpu.memory_free_bytes


@pytest.mark.parametrize(
    ("cores", "workers", "shares"),
    [
        ([(0, 4), (1, 5), (2, 6), (3, 7)], 2, [(0, 4, 1, 5), (2, 6, 3, 7)]),
        ([(0,), (1,), (2,)], 2, [(0,), (1, 2)]),
        ([(0, 1)], 2, [(0,), (1,)]),
        ([(0,)], 2, [(0,), (0,)]),
        ([(), ()], 2, [(), ()]),
        ([()], 2, [(), ()]),
    ],
    ids=[
        "whole cores",
        "uneven",
        "threads of one core",
        "one for all",
        "nothing is bound",
        "one, and nothing is bound",
    ],
)
def test_workers_share_the_cores(cores, workers, shares):
    assert shares_of(cores, workers) == shares
