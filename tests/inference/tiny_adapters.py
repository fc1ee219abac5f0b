"""Adapters of random numbers for tiny models, made and saved by peft itself."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EVERY = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


@contextlib.contextmanager
def _library_at_its_own_word() -> Iterator[None]:
    """Let peft use what transformers has deprecated, and tell what it likes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def save_adapter(
    base: Path, directory: Path, *, targets: Sequence[str] | str = EVERY, seed: int = 1, **settings: Any
) -> Path:
    """Save an adapter of a base, strong enough to change what it says."""
    module = AutoModelForCausalLM.from_pretrained(base)
    names = targets if isinstance(targets, str) else list(targets)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": names, **settings})
    with _library_at_its_own_word():
        adapted = get_peft_model(module, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    with _library_at_its_own_word():
        adapted.save_pretrained(directory)
    return directory


def by_peft(
    base: Path, adapter: Path, prompt: Sequence[int], count: int, dtype: torch.dtype = torch.float32
) -> list[int]:
    """Return what peft's own ``generate`` gives, greedily."""
    module = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    with _library_at_its_own_word():
        adapted = PeftModel.from_pretrained(module, adapter).eval()
    ids = torch.tensor([list(prompt)])
    out = adapted.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, num_beams=1
    )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens
