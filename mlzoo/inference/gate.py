"""The gate before slots: may this model run as rows of one batch, and does it compute the same there?

Knows decoders and what disqualifies an architecture; nothing of loading or requests. A model must take an attention
function, have attention layers only, and give the same logits through slots, in chunks and in company, as through its
own code on its own cache. What does not pass runs serially and says why.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from mlzoo.inference.decoder import SlotDecoder
from mlzoo.inference.serial_decoder import SerialDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.inference.lean import LeanStep

PROMPT_TOKENS = 24
CHUNK = 16
STEPS = 4
WORST = 1e9  # what a difference is where logits hold NaN or infinity
SERIAL_LAYERS = ("linear", "conv", "mamba", "recurrent", "hybrid", "moe_mamba", "ssm")


def objection(module: Any) -> str | None:
    """Return why an architecture cannot use slots, or None: what can be seen without computing."""
    if not getattr(module, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if getattr(module, "_is_stateful", False):
        return "it keeps a recurrent state"
    config = module.config.get_text_config(decoder=True)
    if getattr(module.config, "is_encoder_decoder", False):
        return "it has an encoder"
    if not getattr(config, "is_causal", True):
        return "its attention is not causal"
    for layer in getattr(config, "layer_types", None) or ():
        if any(word in layer for word in SERIAL_LAYERS):
            return f"it has layers of the type {layer}"
    return None


def tolerance(dtype: torch.dtype) -> float:
    """Return how far logits may differ, relative to their spread, before it is no longer rounding.

    In 16 bits a model's own two ways of computing attention differ by 0.03 to 0.06; one token lost, by 0.15 and more.
    """
    return 1e-3 if dtype == torch.float32 else 0.12


def disagreement(module: Any, vocabulary: int) -> float:
    """Return the mean relative difference between slots and the model's own code, a finite number.

    The model must still have its own attention; afterwards it has that of slots. A prompt is read at once and in
    chunks, in a slot that is not the first, beside another row, and both rows then decode some tokens.
    """
    prompt = _tokens(vocabulary, PROMPT_TOKENS, seed=1)
    other = _tokens(vocabulary, PROMPT_TOKENS - 7, seed=2)
    reference = SerialDecoder(module, PROMPT_TOKENS + STEPS)
    expected = _run_alone(reference, prompt, chunk=None)
    decoder = SlotDecoder(module, 3, 64, chunk=CHUNK)
    seen = [_prefill(decoder, 2, prompt, CHUNK)]
    _prefill(decoder, 0, other, CHUNK)
    for step, token in enumerate(_continuation(prompt)):
        rows = decoder.decode([0, 2], [other[step], token], [len(other) + step, len(prompt) + step])
        seen.append(rows[1])
    whole = _prefill(decoder, 1, prompt, None)
    return mean_difference([*expected, expected[0]], [*seen, whole])


def sample_logits(module: Any, vocabulary: int, lean: LeanStep | None = None) -> list[torch.Tensor]:
    """Return the logits after a prompt and some tokens, in a slot."""
    decoder = SlotDecoder(module, 1, 64, chunk=CHUNK)
    decoder.lean = lean
    prompt = _tokens(vocabulary, PROMPT_TOKENS, seed=1)
    logits = [_prefill(decoder, 0, prompt, CHUNK)]
    for step, token in enumerate(_continuation(prompt)):
        logits.append(decoder.decode([0], [token], [len(prompt) + step])[0])
    return logits


def mean_difference(expected: Sequence[torch.Tensor], seen: Sequence[torch.Tensor]) -> float:
    """Return how far logits are from others, relative to their spread, a finite number."""
    return fmean(_difference(a, b) for a, b in zip(expected, seen, strict=True))


def reads_in_chunks(module: Any, vocabulary: int) -> bool:
    """Return whether the model's own cache gives the same logits when a prompt is read in chunks."""
    prompt = _tokens(vocabulary, PROMPT_TOKENS, seed=1)
    decoder = SerialDecoder(module, PROMPT_TOKENS + STEPS)
    try:
        whole = _run_alone(decoder, prompt, chunk=None)
        parts = _run_alone(decoder, prompt, chunk=CHUNK)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False  # Architectures refuse a second chunk in ways of their own.
    return max(map(_difference, whole, parts)) <= tolerance(module.dtype)


def _run_alone(decoder: SerialDecoder, prompt: Sequence[int], chunk: int | None) -> list[torch.Tensor]:
    logits = [_prefill(decoder, 0, prompt, chunk)]
    for step, token in enumerate(_continuation(prompt)):
        logits.append(decoder.decode([0], [token], [len(prompt) + step])[0])
    decoder.release(0, len(prompt) + STEPS, dirty=False)
    return logits


def _prefill(decoder: SlotDecoder | SerialDecoder, slot: int, prompt: Sequence[int], chunk: int | None) -> torch.Tensor:
    step = chunk or len(prompt)
    logits = [decoder.prefill(slot, prompt[at : at + step], at) for at in range(0, len(prompt), step)]
    return logits[-1]


def _continuation(prompt: Sequence[int]) -> Sequence[int]:
    return prompt[STEPS - 1 :: -1]


def _tokens(vocabulary: int, count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = torch.randint(vocabulary, (count,), generator=generator).tolist()
    return tokens


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.float(), b.float()
    spread = float((a - a.mean()).norm())
    difference = float((a - b).norm()) / max(spread, 1e-9)
    return min(difference, WORST) if difference == difference else WORST  # noqa: PLR0124 - NaN is none
