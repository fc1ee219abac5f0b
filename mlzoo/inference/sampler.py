"""Choosing tokens: logits of all rows of a batch in, one token (and its log-probabilities) for each row out.

Knows rows and numbers; nothing of requests, text or caches. What a row gets depends on that row alone, never on its
company: each operation works along the vocabulary, and the random number belongs to (seed, position).

A draw takes the inverse of the cumulative distribution: over the vocabulary's order where nothing is cut off, else
over the tokens from the most to the least likely. For the latter the best ``NARROW`` tokens do, unless a cut reaches
beyond them: then, and only for that row, the whole vocabulary is sorted.

Sources: repetition penalty, Keskar et al. 2019; top-k, Fan et al. 2018; top-p, Holtzman et al. 2020; min-p, Nguyen et
al. 2024. Their order, and what happens to ties, are those of transformers' logits processors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch

from mlzoo.errors import InternalError
from mlzoo.frames import Sampling
from mlzoo.inference.philox import uniform

if TYPE_CHECKING:
    from collections.abc import Sequence


NARROW = 256
LEAST_LOGPROB = -9999.0  # what a probability of 0 becomes: JSON has no infinity


@attrs.frozen
class Draw:
    """What a row needs to choose: how, at which position, and what it must not repeat."""

    sampling: Sampling
    position: int  # index of the token to be chosen in the whole sequence
    seen: torch.Tensor | None = None  # [vocabulary] bool: tokens of prompt and answer; only with a repetition penalty


@attrs.frozen
class Choice:
    """The token of one row. ``logprob`` and ``top`` are of the unmodified distribution, where they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class NotANumber(InternalError):
    """The model's fault: its logits hold NaN or infinity, so that no token can be chosen."""


def choose(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Choice | NotANumber]:
    """Choose a token for each row.

    Args:
        logits: [rows, vocabulary], any float type; not modified.
        draws: One for each row.

    Returns:
        In the order of the rows: the choice, or the failure of that row alone.
    """
    scores = logits.float()
    best, greedy = scores.max(dim=-1)  # NaN, where there is one, counts as the largest.
    finite = torch.isfinite(best).tolist()
    tokens: list[int] = greedy.tolist()
    penalised = [i for i, draw in enumerate(draws) if draw.seen is not None and finite[i]]
    raw = scores
    if penalised:
        scores = _penalise(scores, penalised, draws)
        for i, token in zip(penalised, scores[penalised].argmax(dim=-1).tolist(), strict=True):
            tokens[i] = token
    drawn = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0 and finite[i]]
    for i, token in zip(drawn, _draw(scores, drawn, draws), strict=True):
        tokens[i] = token
    logprobs = _logprobs(raw, tokens, draws, finite)
    return [
        logprobs.get(i, Choice(token)) if finite[i] else NotANumber("the model computed NaN or infinite logits")
        for i, token in enumerate(tokens)
    ]


def _penalise(scores: torch.Tensor, rows: list[int], draws: Sequence[Draw]) -> torch.Tensor:
    """Divide positive and multiply negative scores of seen tokens by the row's penalty; a new tensor."""
    penalised = scores.clone()
    for i in rows:
        seen = draws[i].seen
        assert seen is not None
        row, penalty = scores[i], draws[i].sampling.repetition_penalty
        penalised[i] = torch.where(seen, torch.where(row < 0, row * penalty, row / penalty), row)
    return penalised


def _draw(scores: torch.Tensor, rows: list[int], draws: Sequence[Draw]) -> list[int]:
    """Draw a token for each of some rows, all of which have a temperature."""
    if not rows:
        return []
    chosen: dict[int, int] = {}
    cut = [i for i in rows if _is_cut(draws[i].sampling)]
    for i in rows:
        if i not in cut:
            chosen[i] = _draw_from_all(scores[i], draws[i])
    if cut:
        chosen.update(_draw_from_best(scores, cut, draws))
    return [chosen[i] for i in rows]


def _is_cut(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _draw_from_all(row: torch.Tensor, draw: Draw) -> int:
    """Draw from one whole row in the order of the vocabulary, in double precision on the CPU."""
    scaled = row.cpu().double()
    scaled = (scaled - scaled.max()) / draw.sampling.temperature
    cumulative = scaled.exp().cumsum(dim=-1)
    target = uniform(draw.sampling.seed, draw.position) * cumulative[-1]
    return int(torch.searchsorted(cumulative, target, right=True).clamp_max(row.shape[-1] - 1))


def _draw_from_best(scores: torch.Tensor, rows: list[int], draws: Sequence[Draw]) -> dict[int, int]:
    """Draw for rows with top-k, top-p or min-p: from the best tokens where they hold all that is kept."""
    size = scores.shape[-1]
    some = scores if len(rows) == scores.shape[0] else scores[rows]
    values, ids = some.topk(min(NARROW, size), dim=-1)
    column = [[draws[i].sampling.temperature] for i in rows]
    temperature = torch.tensor(column, dtype=torch.float32, device=scores.device)
    # The mass of everything where the best token's is 1. A softmax works row by row; a plain sum of exponentials is
    # split over threads where there is one row only, so that its last bit would depend on the company.
    total = (some / temperature).softmax(dim=-1).gather(1, ids[:, :1])[:, 0].cpu().double().reciprocal()
    values, ids = values.cpu().double(), ids.cpu()  # What is left is small, and done in double.
    chosen: dict[int, int] = {}
    for n, i in enumerate(rows):
        kept, order = _kept(values[n], float(total[n]), draws[i].sampling, size), ids[n]
        if kept is None:
            whole, order = scores[i].cpu().double().sort(descending=True, stable=True)
            kept = _kept(whole, None, draws[i].sampling, size)
            assert kept is not None
        cumulative = kept.cumsum(dim=-1)
        target = uniform(draws[i].sampling.seed, draws[i].position) * cumulative[-1]
        place = int(torch.searchsorted(cumulative, target, right=True).clamp_max(len(kept) - 1))
        chosen[i] = int(order[place])
    return chosen


def _kept(values: torch.Tensor, total: float | None, sampling: Sampling, size: int) -> torch.Tensor | None:
    """Return the unnormalised probabilities of what top-k, top-p and min-p keep, from the most likely on.

    Args:
        values: Scores in falling order: of the whole vocabulary, or of its best tokens.
        total: Mass of the whole vocabulary where the best token's is 1; None where values are the whole.
        sampling: What to keep.
        size: Of the vocabulary.

    Returns:
        The kept mass; None where more may have to be kept than values hold.
    """
    mass = ((values - values[0]) / sampling.temperature).exp()
    bounded = whole = len(values) == size
    if 0 < sampling.top_k < size:
        # As in transformers, ties with the k-th best stay.
        k = min(sampling.top_k, len(values))
        count = int((values >= values[k - 1]).sum())
        if not whole and (sampling.top_k > len(values) or count == len(values)):
            return None
        mass, bounded, total = mass[:count], True, None
    if sampling.top_p < 1:
        # The last of the running sums, not a sum of its own: that is split over threads, as many as there are.
        limit = sampling.top_p * (float(mass.cumsum(dim=-1)[-1]) if total is None else total)
        count = max(int((mass.cumsum(dim=-1) - mass < limit).sum()), 1)
        if not bounded and count == len(mass):
            return None
        mass, bounded = mass[:count], True
    if sampling.min_p > 0:
        count = max(int((mass >= sampling.min_p).sum()), 1)  # The best token's mass is 1.
        bounded = bounded or count < len(mass)
        mass = mass[:count]
    return mass if bounded else None


def _logprobs(raw: torch.Tensor, tokens: list[int], draws: Sequence[Draw], finite: list[bool]) -> dict[int, Choice]:
    """Return choices with log-probabilities, for the rows that ask for them."""
    choices: dict[int, Choice] = {}
    for i, draw in enumerate(draws):
        if not draw.sampling.logprobs or not finite[i]:
            continue
        row = raw[i].log_softmax(dim=-1)
        values, ids = row.topk(min(draw.sampling.top_logprobs, len(row)))
        top = tuple(
            (token, max(value, LEAST_LOGPROB)) for token, value in zip(ids.tolist(), values.tolist(), strict=True)
        )
        choices[i] = Choice(tokens[i], max(float(row[tokens[i]]), LEAST_LOGPROB), top)
    return choices
