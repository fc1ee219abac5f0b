"""Memory that is given back although somebody holds it."""

from __future__ import annotations

import mmap
import sys

import psutil
import pytest
import torch

from mlzoo.inference import memory

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what memory is resident"),
]
PAGES = 4096


def resident():
    return psutil.Process().memory_info().rss


def test_the_pages_of_a_file_are_given_back_and_read_anew(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"\x01" * PAGES * mmap.PAGESIZE)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        held = torch.frombuffer(mapped, dtype=torch.uint8)
        assert held.sum() == held.numel()
        before = resident()
        memory.drop_file_at(held[held.numel() // 2 :].data_ptr())
        assert before - resident() > held.numel() // 2
        assert held.sum() == held.numel()
        del held


def test_what_is_of_no_file_is_left_as_it_is():
    held = torch.ones(PAGES * mmap.PAGESIZE, dtype=torch.uint8)
    memory.drop_file_at(held.data_ptr())
    assert held.sum() == held.numel()


def test_of_some_memory_whole_pages_are_given_back_and_what_else_is_in_a_page_is_left():
    held = torch.ones(8 * mmap.PAGESIZE, dtype=torch.uint8)
    address = held.data_ptr()
    within = -address % mmap.PAGESIZE + 100  # not at the beginning of a page
    memory.drop_pages(address + within, 3 * mmap.PAGESIZE)
    zeros = (held == 0).nonzero()[:, 0]
    assert len(zeros) == 2 * mmap.PAGESIZE
    assert int(zeros[0]) == within - 100 + mmap.PAGESIZE


def test_less_than_a_page_is_left():
    held = torch.ones(mmap.PAGESIZE // 2, dtype=torch.uint8)
    memory.drop_pages(held.data_ptr(), held.numel())
    assert held.sum() == held.numel()
