"""Choosing tokens: logits of all rows of a batch in, one token (and its log-probabilities) for each row out.

Knows rows and numbers; nothing of requests, text or caches. What a row gets depends on that row alone, never on its
company: each operation works along the vocabulary, and the random number belongs to (seed, position).

A draw takes the inverse of the cumulative distribution: over the vocabulary's order where nothing is cut off, else
over the tokens from the most to the least likely. For the latter the best ``NARROW`` tokens do, unless a cut reaches
beyond them: then, and only for that row, the whole vocabulary is sorted.

All that can be, is computed where the logits are, and read in one go; more is read only for log-probabilities, and for
a cut that reaches beyond the best tokens.

Sources: repetition penalty, Keskar et al. 2019; top-k, Fan et al. 2018; top-p, Holtzman et al. 2020; min-p, Nguyen et
al. 2024. Their order, and what happens to ties, are those of transformers' logits processors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import attrs
import numpy as np
import torch

from mlzoo.errors import InternalError
from mlzoo.frames import Sampling
from mlzoo.inference import threads
from mlzoo.inference.philox import uniform
from mlzoo.inference.transfer import given, is_here, read, rows_of, sent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


NARROW = 256
HEAVIEST = 2.0**44  # what the likeliest token weighs where masses are integers: 2^18 of them fit into 63 bits
LEAST_LOGPROB = -9999.0  # what a probability of 0 becomes: JSON has no infinity


class Allowed(Protocol):
    """Which tokens may stand at one place."""

    def permits(self, token: int) -> bool:
        """Whether one may: the cheaper question."""

    def mask(self) -> torch.Tensor:
        """Return all that may, ``[vocabulary]`` bool."""


@attrs.frozen
class Draw:
    """What a row needs to choose: how, at which position, and what it must not repeat."""

    sampling: Sampling
    position: int  # index of the token to be chosen in the whole sequence
    seen: torch.Tensor | None = None  # [vocabulary] bool: tokens of prompt and answer; only with a repetition penalty
    allowed: Allowed | None = None  # which tokens may stand there; None: all


@attrs.frozen
class Choice:
    """The token of one row. ``logprob`` and ``top`` are of the unmodified distribution, where they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class NotANumber(InternalError):
    """The model's fault: its logits hold NaN or infinity, so that no token can be chosen."""


class NothingAllowed(InternalError):
    """The fault of a grammar, or of the library that follows it: no token may stand here, not even the end."""


def choose(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Choice | NotANumber | NothingAllowed]:
    """Choose a token for each row.

    Args:
        logits: [rows, vocabulary], any float type; not modified.
        draws: One for each row.

    Returns:
        In the order of the rows: the choice, or the failure of that row alone.
    """
    scores = raw = logits.float()
    best, greedy = _best_of_each(scores)
    asked = {"finite": torch.isfinite(best), "greedy": greedy}
    held = [i for i, draw in enumerate(draws) if _is_lazy(draw, scores)]
    others = [(i, draw) for i, draw in enumerate(draws) if i not in held]
    changed = [i for i, draw in others if draw.seen is not None or draw.allowed is not None]
    if changed:
        scores = _changed(scores, changed, draws)
        asked["best"], asked["changed"] = _best_of_each(rows_of(scores, changed))
    drawn = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    cut = [i for i in drawn if _is_cut(draws[i].sampling)]
    uncut = [i for i in drawn if not _is_cut(draws[i].sampling)]
    if cut:
        asked |= _best(scores, cut, draws)
    if uncut:
        asked["uncut"] = draw_in_integers(scores, uncut, draws) if scores.device.type == "cuda" else scores
    here = dict(zip(asked, read(*asked.values()), strict=True))  # This is where the processor waits for the device.
    finite, tokens = here["finite"].tolist(), here["greedy"].tolist()
    able = list(finite)
    if changed:
        _put(tokens, changed, here["changed"].tolist())
        for i, score in zip(changed, here["best"].tolist(), strict=True):
            able[i] = able[i] and score > -math.inf
    for i in held:
        if able[i]:
            tokens[i], able[i] = _best_allowed(raw[i], tokens[i], draws[i])
    if cut:
        _put(tokens, cut, _draw_from_best(scores, cut, draws, able, here))
    if uncut:
        chosen = here["uncut"]
        _put(tokens, uncut, chosen.tolist() if chosen.ndim == 1 else _draw_from_all(chosen, uncut, draws, able))
    logprobs = _logprobs(raw, tokens, draws, able)
    return [
        NotANumber("the model computed NaN or infinite logits")
        if not finite[i]
        else NothingAllowed("the form of this answer allows no token here, not even the end")
        if not able[i]
        else logprobs.get(i, Choice(token))
        for i, token in enumerate(tokens)
    ]


def _put(tokens: list[int], rows: Sequence[int], chosen: Sequence[int]) -> None:
    for i, token in zip(rows, chosen, strict=True):
        tokens[i] = token


def is_only_held(sampling: Sampling, seen: torch.Tensor | None) -> bool:
    """Whether a row's token, if it is held to a form, is the best one that is allowed, of scores as they are."""
    return seen is None and sampling.temperature <= 0


def _best_of_each(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's best score, and whose it is: the first of equal ones; NaN, where there is one, is the best."""
    if not is_here(scores):
        return scores.max(dim=-1)
    # On a processor, torch takes ten times as long as numpy, which compares many at once.
    tokens = torch.from_numpy(scores.numpy().argmax(axis=-1))
    return scores.gather(-1, tokens[:, None])[:, 0], tokens


def _is_lazy(draw: Draw, scores: torch.Tensor) -> bool:
    """Whether a row is asked about its best token first: elsewhere than on a processor, asking again costs more."""
    return is_here(scores) and draw.allowed is not None and is_only_held(draw.sampling, draw.seen)


def _best_allowed(row: torch.Tensor, best: int, draw: Draw) -> tuple[int, bool]:
    """Return the best token that may stand there, and whether there is one; mostly it is the best one of all."""
    assert draw.allowed is not None
    if draw.allowed.permits(best):
        return best, True
    scores, tokens = row.numpy(), np.flatnonzero(draw.allowed.mask().numpy())  # Mostly there are few of them.
    if not len(tokens):
        return best, False
    token = int(tokens[scores[tokens].argmax()])
    return token, bool(scores[token] > -math.inf)


def _changed(scores: torch.Tensor, rows: Sequence[int], draws: Sequence[Draw]) -> torch.Tensor:
    """Divide positive and multiply negative scores of seen tokens by the row's penalty, then drop what is not allowed.

    The tensor is a new one.
    """
    changed = scores.clone()
    for i in rows:
        seen, row, penalty = draws[i].seen, changed[i], draws[i].sampling.repetition_penalty
        if seen is not None:
            changed[i] = torch.where(seen, torch.where(row < 0, row * penalty, row / penalty), row)
    held = {i: allowed.mask() for i in rows if (allowed := draws[i].allowed) is not None}
    if held:
        masks = sent(torch.stack([*held.values()]), scores.device)
        if len(held) == len(changed):
            return torch.where(masks, changed, -math.inf)
        places = given([*held], scores.device, torch.long)
        changed[places] = torch.where(masks, changed[places], -math.inf)
    return changed


def _is_cut(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _draw_from_all(
    scores: torch.Tensor, rows: Sequence[int], draws: Sequence[Draw], finite: Sequence[bool]
) -> list[int]:
    """Draw for some rows from all of the vocabulary, in its order, in double precision on the processor."""
    return [_draw_from_row(scores[i], draws[i]) if finite[i] else 0 for i in rows]


def _draw_from_row(row: torch.Tensor, draw: Draw) -> int:
    scaled = row.double()
    scaled = (scaled - scaled.max()) / draw.sampling.temperature
    cumulative = scaled.exp().cumsum(dim=-1)
    target = uniform(draw.sampling.seed, draw.position) * cumulative[-1]
    return _place(cumulative, target)


def draw_in_integers(scores: torch.Tensor, rows: Sequence[int], draws: Sequence[Draw]) -> torch.Tensor:
    """Draw for some rows from all of the vocabulary, in its order, all at once where the scores are, ``[rows]``.

    Probabilities become integers, the likeliest ``HEAVIEST``: a GPU adds up in an order of its own, and only sums of
    integers do not depend on it. Tokens that are less likely than that by so much are never drawn.
    """
    some = rows_of(scores, rows).double()
    temperatures = [[draws[i].sampling.temperature] for i in rows]
    numbers = [[uniform(draws[i].sampling.seed, draws[i].position)] for i in rows]
    temperature, number = given([temperatures, numbers], scores.device, torch.float64)
    mass = ((some - some.amax(dim=-1, keepdim=True)) / temperature).exp()
    cumulative = (mass * HEAVIEST).long().cumsum(dim=-1)
    target = (number * cumulative[:, -1:]).long().minimum(cumulative[:, -1:] - 1)
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def _best(scores: torch.Tensor, rows: Sequence[int], draws: Sequence[Draw]) -> dict[str, torch.Tensor]:
    """Return values and ids of the best tokens of some rows, and the probability of the very best."""
    some = rows_of(scores, rows)
    count = min(NARROW, scores.shape[-1])
    values, ids = best_in_order(some, count) if some.device.type == "cuda" else some.topk(count, dim=-1)
    temperature = given([[draws[i].sampling.temperature] for i in rows], scores.device, torch.float32)
    # A softmax works row by row; a plain sum of exponentials is split over threads where there is one row only, so that
    # its last bit would depend on the company.
    share = (some / temperature).softmax(dim=-1).gather(1, ids[:, :1])[:, 0]
    return {"values": values, "ids": ids, "share": share}


def best_in_order(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values and ids of the best tokens of each row, equal ones in the order of their ids.

    A GPU takes equal ones in an order that may depend on the number of rows. So what it compares here are integers, no
    two of which are equal: a float's bits in an order that is that of floats, and below them the id.
    """
    bits, last = scores.view(torch.int32), scores.shape[-1] - 1
    ranks = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    keys = (ranks << 32) + (last - torch.arange(last + 1, device=scores.device))
    ids = last - (keys.topk(count, dim=-1).values & 0xFFFFFFFF)
    return scores.gather(-1, ids), ids


def _draw_from_best(
    scores: torch.Tensor,
    rows: Sequence[int],
    draws: Sequence[Draw],
    finite: Sequence[bool],
    best: Mapping[str, torch.Tensor],
) -> list[int]:
    """Draw for rows with top-k, top-p or min-p: from the best tokens where they hold all that is kept."""
    # The mass of everything where the best token's is 1. What is left is small, and done in double.
    total, values, ids = best["share"].double().reciprocal(), best["values"].double(), best["ids"]
    chosen = [0] * len(rows)
    for n, i in enumerate(rows):
        if not finite[i]:
            continue
        kept, order = _kept(values[n], float(total[n]), draws[i].sampling, scores.shape[-1]), ids[n]
        if kept is None:
            whole, order = read(scores[i])[0].double().sort(descending=True, stable=True)
            kept = _kept(whole, None, draws[i].sampling, scores.shape[-1])
            assert kept is not None
        cumulative = kept.cumsum(dim=-1)
        target = uniform(draws[i].sampling.seed, draws[i].position) * cumulative[-1]
        chosen[n] = int(order[_place(cumulative, target)])
    return chosen


def _place(cumulative: torch.Tensor, target: float | torch.Tensor) -> int:
    """Return the first place whose sum is above the target; where rounding left none, the last that has any mass."""
    last = int(torch.searchsorted(cumulative, cumulative[-1]))
    return min(int(torch.searchsorted(cumulative, target, right=True)), last)


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
    whole = len(values) == size or float(values[-1]) == -math.inf
    values = values[values > -math.inf]  # What follows has no mass: what is left is all that there is.
    mass = ((values - values[0]) / sampling.temperature).exp()
    bounded = whole
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
    wanted = [i for i, draw in enumerate(draws) if draw.sampling.logprobs and finite[i]]
    asked: list[torch.Tensor] = []
    for i in wanted:
        row = raw[i].log_softmax(dim=-1)
        asked += [row[tokens[i]], *row.topk(min(draws[i].sampling.top_logprobs, len(row)))]
    here = read(*asked)
    choices: dict[int, Choice] = {}
    for i, logprob, values, ids in zip(wanted, here[0::3], here[1::3], here[2::3], strict=True):
        top = tuple(
            (token, max(value, LEAST_LOGPROB)) for token, value in zip(ids.tolist(), values.tolist(), strict=True)
        )
        choices[i] = Choice(tokens[i], max(float(logprob), LEAST_LOGPROB), top)
    return choices


def choose_each(logits: torch.Tensor, draws: Sequence[Draw]) -> Sequence[Choice | Exception]:
    """Choose for all rows at once; where that fails, for each alone, so that the one at fault fails alone."""
    try:
        # For few rows there is not work enough to wake other threads; their number changes no choice.
        with threads.using(1 if len(draws) <= threads.FEW_ROWS else torch.get_num_threads()):
            return choose(logits, draws)
    except (RuntimeError, ValueError, IndexError, OverflowError):
        return [_choose_one(logits[i : i + 1], draw) for i, draw in enumerate(draws)]


def _choose_one(logits: torch.Tensor, draw: Draw) -> Choice | Exception:
    try:
        return choose(logits, [draw])[0]
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:
        return error
