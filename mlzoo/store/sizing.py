"""What a token takes in the memory of a model, by its configuration alone. Knows no torch, and reads no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from pathlib import Path

WIDE_BYTES, NARROW_BYTES = 4, 2  # of a number in float32, and in what is chosen where nothing is asked for
ROOMS = 2  # for each token: a key and a value


def token_bytes(directory: Path, dtype: str) -> int:
    """Return how many bytes a token's keys and values take in all layers; 0 where its configuration does not say.

    Args:
        directory: Of the model; one small file in it is read.
        dtype: That is asked for.
    """
    try:
        config = orjson.loads((directory / "config.json").read_bytes())
        text: dict[str, Any] = config.get("text_config") or config
        heads: int = text["num_attention_heads"]
        width: int = text.get("head_dim") or text["hidden_size"] // heads
        pairs = text["num_hidden_layers"] * (text.get("num_key_value_heads") or heads) * width
        return int(pairs) * ROOMS * (WIDE_BYTES if dtype == "float32" else NARROW_BYTES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return 0
