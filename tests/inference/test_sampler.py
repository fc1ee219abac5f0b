"""Sampling, row by row, against transformers' own logits processors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mlzoo.frames import Sampling
from mlzoo.inference import sampler, threads, transfer
from mlzoo.inference.philox import uniform
from mlzoo.inference.sampler import Choice, Draw, NotANumber, choose

pytestmark = pytest.mark.torch
SIZE = 1000


def logits_of(rows: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed)) * spread


def kept_by_transformers(row: torch.Tensor, sampling: Sampling, seen: list[int]) -> torch.Tensor:
    """The distribution that transformers draws from."""
    steps = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    steps.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(MinPLogitsWarper(sampling.min_p))
    return steps(torch.tensor([seen or [0]]), row[None].double())[0].softmax(-1)


def draw_slowly(probabilities: torch.Tensor, number: float, *, by_rank: bool) -> tuple[int, float]:
    """The token whose share of the cumulative distribution holds a number, and how far that is from a border."""
    order = range(SIZE)
    if by_rank:
        order = sorted(order, key=lambda token: (-float(probabilities[token]), token))
    total, last = 0.0, 0
    for token in order:
        share = float(probabilities[token])
        if share == 0:
            continue
        if number < total + share:
            return token, min(number - total, total + share - number)
        total, last = total + share, token
    return last, 0.0


samplings = st.builds(
    Sampling,
    temperature=st.floats(0.2, 3),
    top_k=st.sampled_from([0, 0, 1, 2, 40, 300, 5000]),
    top_p=st.sampled_from([1.0, 1.0, 0.01, 0.5, 0.95, 0.999]),
    min_p=st.sampled_from([0.0, 0.0, 0.001, 0.05, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    seed=st.integers(0, 2**53),
)


@given(st.lists(samplings, min_size=1, max_size=6), st.integers(0, 1000), st.sampled_from([0.1, 1.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_each_row_draws_what_the_slow_reference_draws(rows, seed, spread):
    logits = logits_of(len(rows), seed, spread)
    prompts = [[(seed + i * 7 + n) % SIZE for n in range(5)] for i in range(len(rows))]
    draws = []
    for sampling, prompt in zip(rows, prompts, strict=True):
        seen = torch.zeros(SIZE, dtype=torch.bool)
        seen[prompt] = True
        draws.append(Draw(sampling, seed, seen if sampling.repetition_penalty != 1 else None))
    for i, choice in enumerate(choose(logits, draws)):
        expected = kept_by_transformers(logits[i], rows[i], prompts[i])
        assert expected[choice.token] > 0
        by_rank = rows[i].top_k > 0 or rows[i].top_p < 1 or rows[i].min_p > 0
        token, distance = draw_slowly(expected, uniform(rows[i].seed, seed), by_rank=by_rank)
        if distance > 1e-6:  # nearer to a border, the order of additions decides
            assert choice.token == token


def test_a_row_gets_the_same_alone_and_in_company():
    rows = [
        Sampling(temperature=t, top_p=p, top_k=k, seed=s)
        for s, (t, p, k) in enumerate(
            [(1.0, 0.9, 0), (0.0, 1.0, 0), (0.7, 1.0, 0), (1.5, 0.999, 0), (1.0, 1.0, 40), (2.0, 0.95, 700)]
        )
    ]
    logits = logits_of(len(rows), spread=0.5)
    together = choose(logits, [Draw(sampling, 5) for sampling in rows])
    alone = [choose(logits[i : i + 1], [Draw(sampling, 5)])[0] for i, sampling in enumerate(rows)]
    assert together == alone


@pytest.mark.parametrize("sampling", [
    Sampling(temperature=1.0, top_p=0.95), Sampling(temperature=1.0, min_p=0.01), Sampling(temperature=1.0, top_k=400),
    Sampling(temperature=1.0, top_k=40, top_p=0.9), Sampling(temperature=0.5, top_k=3, min_p=0.1),
])  # fmt: skip
@pytest.mark.parametrize("spread", [0.01, 0.5, 5.0])
def test_the_best_few_give_what_the_whole_vocabulary_gives(sampling, spread, monkeypatch):
    logits = logits_of(40, spread=spread)
    draws = [Draw(sampling, position) for position in range(40)]
    fast = choose(logits, draws)
    monkeypatch.setattr(sampler, "NARROW", SIZE)
    assert choose(logits, draws) == fast


def test_greedy_takes_the_best_token_and_temperature_0_ignores_the_seed():
    logits = logits_of(3)
    best = logits.argmax(-1).tolist()
    for seed in (0, 1):
        chosen = choose(logits, [Draw(Sampling(seed=seed), 0)] * 3)
        assert [choice.token for choice in chosen] == best


def test_greedy_heeds_the_repetition_penalty():
    logits = torch.tensor([[1.0, 2.0, 1.9, -1.0]])
    seen = torch.tensor([False, True, False, True])
    assert choose(logits, [Draw(Sampling(repetition_penalty=1.5), 0, seen)])[0] == Choice(2)
    assert logits.tolist() == [[1.0, 2.0, pytest.approx(1.9), -1.0]]


def test_ties_with_the_k_th_best_stay():
    logits = torch.full((1, SIZE), -5.0)
    logits[0, :300] = 1.0
    tokens = {choose(logits, [Draw(Sampling(temperature=1.0, top_k=1, seed=s), 0)])[0].token for s in range(300)}
    assert max(tokens) < 300
    assert len(tokens) > 100


def test_draws_follow_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    count = 4000
    for sampling in (Sampling(temperature=1.0, seed=3), Sampling(temperature=1.0, top_k=4, seed=3)):
        drawn = [choose(logits, [Draw(sampling, position)])[0].token for position in range(count)]
        for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
            assert abs(drawn.count(token) / count - share) < 4 * math.sqrt(share / count)


def test_logprobs_are_those_of_the_unmodified_distribution():
    logits = logits_of(1)
    sampling = Sampling(temperature=0.3, top_k=2, logprobs=True, top_logprobs=3)
    choice = choose(logits, [Draw(sampling, 0)])[0]
    expected = logits[0].log_softmax(-1)
    assert choice.logprob == pytest.approx(float(expected[choice.token]))
    values, ids = expected.topk(3)
    assert [token for token, _ in choice.top] == ids.tolist()
    assert [value for _, value in choice.top] == pytest.approx(values.tolist())


def test_an_impossible_token_has_a_finite_logprob():
    logits = torch.tensor([[0.0, float("-inf")]])
    choice = choose(logits, [Draw(Sampling(logprobs=True, top_logprobs=2), 0)])[0]
    assert choice.top == ((0, 0.0), (1, sampler.LEAST_LOGPROB))


def test_a_row_that_is_not_a_number_fails_alone():
    logits = logits_of(3)
    logits[1, 17] = float("nan")
    for sampling in (Sampling(), Sampling(temperature=1.0, top_p=0.9), Sampling(temperature=1.0)):
        first, second, third = choose(logits, [Draw(sampling, 0)] * 3)
        assert isinstance(second, NotANumber)
        assert isinstance(first, Choice)
        assert isinstance(third, Choice)


def test_sixteen_bit_logits_are_compared_in_full_precision():
    logits = logits_of(4).bfloat16()
    chosen = choose(logits, [Draw(Sampling(temperature=1.0, top_p=0.9, seed=1), 2)] * 4)
    assert chosen == choose(logits.float(), [Draw(Sampling(temperature=1.0, top_p=0.9, seed=1), 2)] * 4)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.999},
        {"temperature": 3.0, "top_k": 20_000, "top_p": 0.9},
        {"temperature": 0.7, "min_p": 1e-6, "logprobs": True, "top_logprobs": 5},
    ],
)
def test_the_number_of_threads_changes_no_choice(how):
    # A vocabulary so large that torch splits sums over it between threads.
    logits = torch.randn(8, 100_000, generator=torch.Generator().manual_seed(0))
    draws = [Draw(Sampling(seed=row, **how), position=5) for row in range(8)]
    chosen = []
    for count in (1, 2, 4):
        with threads.using(count):
            chosen.append(choose(logits, draws))
    assert chosen[0] == chosen[1] == chosen[2]


# ------------------------------------------------------------------------------------ logits that are on another device


class Elsewhere(torch.Tensor):
    """A tensor that counts as one of another device, with all that is computed from it: only ``to`` brings it here."""

    READS = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        assert func.__name__ not in cls.READS, f"{func.__name__} waits for the device"
        out = super().__torch_function__(func, types, args, kwargs or {})
        return out.as_subclass(torch.Tensor) if func.__name__ == "to" else out


def reads_of(monkeypatch, logits, draws):
    """Return what is chosen where the logits are elsewhere, and how many tensors were read at a time."""
    counts = []

    def counting(*tensors):
        counts.extend([len(tensors)] if tensors else [])
        return transfer.read(*tensors)

    monkeypatch.setattr(sampler, "read", counting)
    monkeypatch.setattr(sampler, "is_here", lambda tensor: not isinstance(tensor, Elsewhere))
    return choose(logits.as_subclass(Elsewhere), draws), counts


@pytest.mark.parametrize(("how", "times"), [
    ({}, 1), ({"repetition_penalty": 1.2}, 1), ({"temperature": 1.0}, 1), ({"temperature": 1.0, "top_p": 0.9}, 1),
    ({"temperature": 0.7, "top_k": 40, "repetition_penalty": 1.1}, 1), ({"logprobs": True, "top_logprobs": 3}, 2),
    ({"temperature": 3.0, "top_k": 700}, 1 + 4),  # The whole row of each: it is kept beyond the best tokens.
])  # fmt: skip
def test_what_is_chosen_is_read_from_the_device_in_one_go(how, times, monkeypatch):
    logits = logits_of(4)
    seen = torch.zeros(SIZE, dtype=torch.bool)
    seen[logits[0].argmax()] = True
    draws = [Draw(Sampling(seed=i, **how), 3, seen if "repetition_penalty" in how else None) for i in range(4)]
    expected = choose(logits, draws)
    chosen, counts = reads_of(monkeypatch, logits, draws)
    assert (chosen, len(counts)) == (expected, times)


def test_the_device_of_these_tests_notices_who_waits_for_it():
    for wait in (bool, int, float, torch.Tensor.tolist, torch.Tensor.cpu):
        with pytest.raises(AssertionError, match="waits for the device"):
            wait(torch.ones(1).as_subclass(Elsewhere) + 1)


def test_rows_that_are_drawn_in_integers_get_what_the_slow_reference_draws_in_any_company():
    logits = torch.cat([logits_of(20, spread=spread) for spread in (0.1, 1.0, 4.0)])
    logits[3, :500] = float("-inf")
    draws = [Draw(Sampling(temperature=0.3 + row / 30, seed=row), position=row) for row in range(len(logits))]
    together = sampler.draw_in_integers(logits, range(len(draws)), draws).tolist()
    for row, (token, draw) in enumerate(zip(together, draws, strict=True)):
        expected = kept_by_transformers(logits[row], draw.sampling, [])
        slowly, distance = draw_slowly(expected, uniform(row, row), by_rank=False)
        assert token == slowly or distance < 1e-6
        assert sampler.draw_in_integers(logits, [row], draws).tolist() == [token]


def test_the_best_tokens_come_in_one_order_whatever_is_equal_among_them():
    logits = logits_of(3).bfloat16().float()  # 16 bits make many equal ones.
    logits[1, ::7] = float("-inf")
    logits[2] = torch.tensor([-0.5, 0.0, 2.0, -3.0]).repeat(SIZE // 4)
    values, ids = sampler.best_in_order(logits, 256)
    for row in range(len(logits)):
        expected = sorted(range(SIZE), key=lambda token: (-float(logits[row, token]), token))[:256]
        assert ids[row].tolist() == expected
    assert torch.equal(values, logits.gather(-1, ids))


def test_a_number_next_to_one_draws_a_token_that_is_possible(monkeypatch):
    monkeypatch.setattr(sampler, "uniform", lambda *_: 1 - 2**-53)
    logits = logits_of(1)
    logits[0, 700:] = float("-inf")
    (token,) = sampler.draw_in_integers(logits, [0], [Draw(Sampling(temperature=1.0), 0)]).tolist()
    assert token < 700
