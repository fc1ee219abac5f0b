"""What the errors of a log that cannot be used say to do."""

import errno
from pathlib import Path

import pytest
from log_driver import open_log

from mlzoo.errors import LogUnusable
from mlzoo.events.identity import unwritable


async def test_on_a_full_disk_a_start_says_to_make_room(world, disk):
    disk.faults.capacity_bytes = 0
    with pytest.raises(LogUnusable) as caught:
        await open_log(world)
    assert caught.value.data["reason"] == "unwritable"
    assert caught.value.data["remedy"].startswith("make room on that disk")


def test_without_the_right_to_write_it_says_to_choose_a_directory_with_it():
    error = unwritable(Path("/state/log"), PermissionError(errno.EACCES, "denied"))
    assert error.data["remedy"] == "choose a directory that this user can write to, with --log"
