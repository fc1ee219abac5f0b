"""How many threads a step of few rows has: the fewest that are fast."""

from __future__ import annotations

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


class Timed(SlotDecoder):
    """A decoder whose steps take as long as a test says, by the number of threads: the first so many, then the rest."""

    now_s = 0.0

    def decode(self, slots, tokens, positions, *, exact=False):
        first_s, later_s = self.steps_s[self.few_threads]
        self.now_s += first_s if self.left.pop(self.few_threads, None) else later_s
        return super().decode(slots, tokens, positions, exact=exact)


def choose(decoder, steps_s):
    timed = Timed(decoder.module, 8, 64)
    timed.steps_s = {threads: s if isinstance(s, tuple) else (s, s) for threads, s in steps_s.items()}
    timed.left = dict.fromkeys(steps_s, True)
    return threads.fewest(timed, lambda: timed.now_s)


@pytest.mark.parametrize(
    ("steps_s", "chosen"),
    [
        ({4: 1.0, 2: 0.8, 1: 0.5}, 1),
        ({4: 1.0, 2: 0.6, 1: 0.7}, 2),
        ({4: 1.0, 2: 1.05, 1: 1.08}, 1),
        ({4: 1.0, 2: 1.2, 1: 1.4}, 4),
        ({4: 1.0, 2: 1.2, 1: 0.5}, 1),
        ({4: 1.0, 2: 1.6}, 4),
        ({4: (9.0, 1.0), 2: (9.0, 0.5), 1: (9.0, 0.7)}, 2),
    ],
)
def test_the_fewest_that_are_about_as_fast_as_the_fastest_are_taken(decoder, steps_s, chosen):
    assert choose(decoder, steps_s) == chosen
    assert torch.get_num_threads() == ALL


def test_nothing_is_left_behind(decoder):
    assert threads.fewest(decoder) in {1, 2, 4}
    assert decoder.few_threads is None, "that is for the loader to say"
    assert torch.get_num_threads() == ALL


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
