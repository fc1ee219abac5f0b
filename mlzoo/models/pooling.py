"""One vector of a text's tokens: the poolings of sentence-transformers, and what a model's files say of theirs.

Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; the file formats are those of sentence-transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import torch

from mlzoo.errors import ModelLoadFailed

if TYPE_CHECKING:
    from pathlib import Path

POOLINGS = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len": "mean_sqrt_len_tokens",
    "last": "lasttoken",
}
"""What we call a pooling -> what the files do."""


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Make one vector of each text's tokens.

    Args:
        hidden: ``[texts, tokens, dimensions]``.
        mask: ``[texts, tokens]``, true where there is a token; padding is on the right.
        pooling: One of the values of ``POOLINGS``.

    Returns:
        ``[texts, dimensions]``.
    """
    if pooling == "cls_token":
        return hidden[:, 0]
    lengths = mask.sum(dim=1)
    if pooling == "lasttoken":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    if pooling == "max_tokens":
        return hidden.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
    total = (hidden * mask[..., None]).sum(dim=1)
    count = lengths[:, None].float()
    return total / (count if pooling == "mean_tokens" else count.sqrt())


def pooling_of(directory: Path) -> str:
    """Return the pooling that a model's directory names, as we call it; the mean where it names none.

    Raises:
        ModelLoadFailed: It names one that is not known here, or several.
    """
    path = directory / "1_Pooling" / "config.json"
    if not path.exists():
        return "mean"
    settings: dict[str, Any] = orjson.loads(path.read_bytes())
    chosen = [
        key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
    ]
    ours = {theirs: name for name, theirs in POOLINGS.items()}
    if len(chosen) != 1 or chosen[0] not in ours:
        raise ModelLoadFailed(
            f"{path} asks for the pooling {' and '.join(chosen) or 'none'}; "
            f"one of {', '.join(POOLINGS.values())} is known here",
            reason="pooling",
        )
    return ours[chosen[0]]
