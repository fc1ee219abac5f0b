"""How many threads a step of few rows has: the fastest number that changes no bit."""

from __future__ import annotations

from itertools import chain, repeat

import pytest
import torch
from tiny_models import VOCABULARY, causal

from mlzoo.inference import threads
from mlzoo.inference.decoder import SlotDecoder

pytestmark = pytest.mark.torch
ALL = 4


@pytest.fixture
def decoder():
    before = torch.get_num_threads()
    torch.set_num_threads(ALL)
    yield SlotDecoder(causal(), 8, 64)
    torch.set_num_threads(before)


def clock(*steps_s):
    """A clock by which each number of threads, the most first, takes so long for a step."""
    moments = chain.from_iterable(repeat((0.0, step_s), threads.STEPS) for step_s in steps_s)
    return chain.from_iterable(moments).__next__


@pytest.mark.parametrize(
    ("steps_s", "chosen"),
    [
        ((1.0, 0.8, 0.5), 1),
        ((1.0, 0.6, 0.7), 2),
        ((1.0, 0.99, 0.98), 4),
        ((1.0, 1.1, 0.5), 1),
        ((1.0, 1.5), 4),
        ((1.0, 0.5, 0.7), 2),
    ],
)
def test_the_fastest_number_is_taken_where_it_gains_enough(decoder, steps_s, chosen):
    assert threads.fastest(decoder, clock(*steps_s)) == chosen
    assert torch.get_num_threads() == ALL
    assert decoder.few_threads is None, "that is for the loader to say"


class Uneven(SlotDecoder):
    """A decoder whose last bits depend on the number of threads."""

    def decode(self, slots, tokens, positions):
        return super().decode(slots, tokens, positions) * (1 + 1e-6 * (self.few_threads or 0))


def test_a_number_that_changes_a_bit_is_not_taken(decoder):
    assert threads.fastest(Uneven(decoder.module, 8, 64), clock(1.0, 0.5, 0.3)) == ALL


def test_few_rows_decode_with_few_threads_and_many_with_all(decoder):
    seen = []
    decoder.module.model.layers[0].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    decoder.few_threads = 2
    decoder.prefill(0, [1, 2, 3], 0)
    for rows in (1, threads.FEW_ROWS, threads.FEW_ROWS + 1):
        logits = decoder.decode(range(rows), [5] * rows, [3] * rows)
        assert logits.shape == (rows, VOCABULARY)
    assert seen == [ALL, 2, 2, ALL]
    assert torch.get_num_threads() == ALL


def test_the_number_is_put_back_also_where_a_step_fails(decoder):
    def fail(*_):
        raise ValueError(torch.get_num_threads())

    decoder.module.model.layers[0].register_forward_hook(fail)
    decoder.few_threads = 1
    with pytest.raises(ValueError, match="1"):
        decoder.decode([0], [5], [0])
    assert torch.get_num_threads() == ALL
