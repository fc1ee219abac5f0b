"""Slots of keys and values: what memory they take."""

from __future__ import annotations

import sys

import psutil
import pytest
import torch

from mlzoo.inference.cache import Forward, SlotLayer

pytestmark = pytest.mark.torch
SLOTS, TOKENS, HEADS, DIM = 64, 8192, 2, 64


def a_layer():
    layer = SlotLayer(Forward(), SLOTS, TOKENS, torch.bfloat16)
    states = torch.zeros(1, HEADS, 1, DIM, dtype=torch.bfloat16)
    layer.lazy_initialization(states, states)
    return layer


def test_what_was_never_written_is_zero():
    layer = a_layer()
    keys, values = layer.put(torch.tensor([5]), *torch.ones(2, 1, HEADS, DIM))
    assert keys.shape == values.shape == (SLOTS, HEADS, TOKENS, DIM)
    assert keys.count_nonzero() == values.count_nonzero() == HEADS * DIM


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what memory is resident")
def test_the_first_token_of_a_slot_takes_a_page_of_memory_and_not_the_slot():
    layer = a_layer()
    slot_bytes = layer.size_bytes() // SLOTS
    before = psutil.Process().memory_info().rss
    layer.put(torch.arange(SLOTS) * TOKENS, *torch.ones(2, SLOTS, HEADS, DIM))
    assert psutil.Process().memory_info().rss - before < SLOTS * slot_bytes / 16


def test_more_slots_than_there_are_addresses_for_are_out_of_memory():
    layer = SlotLayer(Forward(), 1 << 30, 1 << 20, torch.bfloat16)
    states = torch.zeros(1, HEADS, 1, DIM, dtype=torch.bfloat16)
    with pytest.raises(MemoryError, match="addresses for keys and values"):
        layer.lazy_initialization(states, states)


def test_memory_that_is_given_back_is_so_also_where_somebody_holds_the_buffers():
    layer = a_layer()
    layer.put(torch.arange(1000), *torch.ones(2, 1000, HEADS, DIM))
    held = layer.keys
    layer.free()
    if sys.platform == "linux":
        assert held.count_nonzero() == 0
