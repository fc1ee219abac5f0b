"""What a library that was compiled has read."""

from __future__ import annotations

import pytest
import torch

from mlzoo.inference import graph_steps

pytestmark = pytest.mark.torch


def test_of_a_library_that_torch_calls_what_it_read_is_given_back_though_torch_holds_it():
    held = torch.ones(1000)
    graph_steps.Library(compiled=TorchCalls(), constants={"weights": held}).free()
    assert held.untyped_storage().nbytes() == 0


class TorchCalls:
    """A library that only torch can call, and nobody does."""

    keeps_what_it_reads = True
