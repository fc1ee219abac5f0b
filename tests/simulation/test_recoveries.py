"""The log's recovery alone: ten thousand crash states, and bugs that it must not survive."""

from pathlib import PurePath
from random import Random

import pytest
import trio
from planted_bugs import RECOVERY_BUGS

from mlzoo.events import recovery
from mlzoo.simulation.byte_disk import ByteDisk, at_once
from mlzoo.simulation.crash_states import crash_states, files_of
from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.recoveries import explore

STATES = 10_000
SEEDS = 12  # within which each planted bug must be found


def test_recovery_keeps_its_promises_in_every_crash_state(explored):
    states, seed = 0, 0
    while states < STATES:
        count = explore(seed)
        assert count.violations == []
        states, seed = states + count.states, seed + 1
    explored(f"{states} crash states of the log, seeds 0 to {seed - 1}")


@pytest.mark.parametrize("plant", RECOVERY_BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant, monkeypatch):
    plant(monkeypatch)
    for seed in range(SEEDS):
        found = {violation.invariant for violation in explore(seed, enough=50).violations}
        if found & RECOVERY_BUGS[plant]:
            return
    pytest.fail(f"{plant.__name__} lived through {SEEDS} seeds")


def test_records_of_before_a_cut_never_come_back_behind_new_ones(monkeypatch):
    """Found by a soak: a file that was cut and grows again may get back blocks that hold records of the same size."""
    seed = 1095631515666088018
    assert explore(seed).violations == []

    async def cut_in_place(segments, path, size_bytes):
        await segments.disk.truncate(path, size_bytes)

    monkeypatch.setattr(recovery, "_rewrite", cut_in_place)
    assert {violation.invariant for violation in explore(seed).violations} == {"I7"}


def test_the_same_seed_explores_the_same():
    assert explore(3) == explore(3)


def test_what_was_synced_is_in_every_crash_state_and_what_was_not_in_some():
    disk, home = SimulatedDisk(), PurePath("/d")
    disk.files[str(home)], disk.durable_files[str(home)] = {}, {}
    file = disk.open_append(home / "a")
    file.write(b"sure")
    file.file.settle(b"sure")
    disk.durable_files[str(home)] = dict(disk.files[str(home)])
    file.write(b"1234")
    file.write(b"5678")
    images = {dict(image)["/d/a"] for image in crash_states(files_of(disk, str(home)), Random(1))}
    assert all(data.startswith(b"sure") for data in images)
    assert {b"sure", b"sure12345678", b"sure1234", b"sure\0\0\0\x005678", b"sure1"} <= images


def test_a_name_that_was_not_synced_may_be_missing_and_a_removed_one_come_back():
    disk, home = SimulatedDisk(), PurePath("/d")
    disk.files[str(home)], disk.durable_files[str(home)] = {}, {}
    disk.open_append(home / "gone")
    disk.durable_files[str(home)] = dict(disk.files[str(home)])
    disk.remove(home / "gone")
    disk.open_append(home / "new")
    names = {tuple(path for path, _ in image) for image in crash_states(files_of(disk, str(home)), Random(1))}
    assert names == {(), ("/d/gone",), ("/d/new",), ("/d/gone", "/d/new")}


async def test_what_waits_cannot_be_run_at_once():
    async def waits():
        await trio.sleep(1)

    with pytest.raises(AssertionError, match="waited"):
        at_once(waits())


def test_a_byte_disk_replaces_through_a_file_beside():
    disk, seen = ByteDisk(), []
    disk.on_step = lambda files: seen.append(dict(files))
    at_once(disk.replace(PurePath("/a/x"), b"data"))
    assert seen == [{"/a/x.new": b"data"}, {"/a/x": b"data"}]
    assert disk.names(PurePath("/a")) == ["x"]
