"""What is found out about this machine's rounding, and that probes see what rounding to 16 bits hides."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from mlzoo.inference import kernels
from mlzoo.inference.kernels import Heads

pytestmark = pytest.mark.torch
ROWS = 8


@pytest.fixture
def linear(monkeypatch):
    """Return a layer whose product is computed backwards in matrices of some heights, or by some number of threads."""
    plain = functional.linear

    def layer(otherwise):
        def product(x, weight):
            # In single precision, as kernels for 16 bits add up; only the result is rounded to 16.
            x32, weight32 = x.float(), weight.float()
            if otherwise(len(x), torch.get_num_threads()):
                x32, weight32 = x32.flip(-1), weight32.flip(-1)
            total = torch.zeros(len(x), len(weight))
            for place in range(x.shape[-1]):
                total += x32[:, place, None] * weight32[None, :, place]
            return total.to(x.dtype)

        monkeypatch.setattr(kernels.functional, "linear", product)
        return nn.Linear(64, 48, bias=False, dtype=torch.bfloat16)

    yield layer
    monkeypatch.setattr(kernels.functional, "linear", plain)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_layers_that_compute_each_row_alike_need_no_padding(linear):
    assert kernels.row_grain(linear(lambda _rows, _threads: False), ROWS) == 1


@pytest.mark.parametrize(("others", "grain"), [({1}, 2), ({1, 2, 3}, 4), ({3, 4, 6}, 8)])
def test_another_order_of_additions_in_matrices_of_some_heights_is_seen(linear, others, grain):
    assert kernels.row_grain(linear(lambda rows, _threads: rows in others), ROWS) == grain


def test_where_each_height_adds_up_in_its_own_way_there_is_no_grain(linear):
    assert kernels.row_grain(linear(lambda rows, _threads: rows != 2 * ROWS), 2 * ROWS) == 2 * ROWS
    assert kernels.row_grain(linear(lambda rows, _threads: rows <= 2 * ROWS), 3 * ROWS) is None


@pytest.mark.parametrize("otherwise", [True, False])
def test_a_number_of_threads_that_adds_up_in_another_order_is_seen(linear, two_threads, otherwise):
    layer = linear(lambda _rows, threads: otherwise and threads == 1)
    assert kernels.layers_take_any_threads(layer, ROWS) is not otherwise


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("extra", [{}, {"softcap": 30.0}, {"sinks": True}])
def test_queries_that_were_padded_attend_the_same_in_every_company(two_threads, dtype, extra):
    heads, like = Heads(6, 2, 16, **extra), torch.zeros(1, dtype=dtype)
    grain = kernels.query_grain(heads, ROWS, like)
    assert grain is not None
    # Another seed's numbers, of the usual size: what the probes promise holds for those as well.
    generator = torch.Generator().manual_seed(7)
    query = torch.randn(ROWS, 6, 1, 16, generator=generator).to(dtype)
    key, value = (torch.randn(ROWS, 2, 192, 16, generator=generator).to(dtype) for _ in range(2))
    scene = kernels.Scene(heads, query, key, value, 0.25)
    whole = scene.attend(grain)
    for row in range(ROWS):
        part = slice(row, row + 1)
        assert torch.equal(scene.rows(part).attend(grain), whole[part])


def test_a_scratch_that_begins_at_another_place_for_each_thread_is_seen(monkeypatch, two_threads):
    """Attention that adds up backwards for every other row where the queries of a key head are odd in number."""

    def attend(query, key, value, _mask, scale, grain=1):
        rows, heads, tokens, dim = query.shape
        groups = heads // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        weights = (query.float() @ key.float().transpose(2, 3) * scale).softmax(-1)
        out = torch.zeros(rows, heads, tokens, dim)
        for place in range(key.shape[2]):
            for row in range(rows):
                backwards = row % 2 and -(-groups // grain) * grain % 2
                at = key.shape[2] - 1 - place if backwards else place
                out[row] += weights[row, :, :, at, None] * value[row, :, None, at].float()
        return out.to(query.dtype).transpose(1, 2)

    monkeypatch.setattr(kernels, "attend", attend)
    monkeypatch.setattr(kernels, "EXTENTS", (16,))
    assert kernels.query_grain(Heads(3, 1, 16), 4, torch.zeros(1, dtype=torch.bfloat16)) == 2
    assert kernels.query_grain(Heads(4, 2, 16), 4, torch.zeros(1, dtype=torch.bfloat16)) == 1
