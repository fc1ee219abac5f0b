"""Sources of weights in words, and which of their files are taken."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, assert_never

import orjson

from mlzoo.config.sources import Hub, Local, Source, Wheel
from mlzoo.errors import PullFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

TAKEN = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md", ".gguf")
_WRITE_NO_TEXT = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def describe(source: Source) -> str:
    """Return a source in words, for messages."""
    match source:
        case Wheel():
            return f"{source.package} {source.version} on the package index"
        case Hub():
            return f"{source.repository} on the hub"
        case Local():
            return str(source.path)
        case _:
            assert_never(source)


def is_taken(name: str) -> bool:
    """Return whether a file is part of a model: weights, configuration, tokenizer, terms; hidden files are not."""
    return name.lower().endswith(TAKEN) and not name.startswith(".")


def check_kind(config: bytes, kind: str, where: str) -> None:
    """Refuse to chat with what cannot, before it is brought or installed: it would fail only when it is loaded.

    Args:
        config: The model's ``config.json``.
        kind: What the configuration says that the model is for.
        where: What it is a part of, for the message.

    Raises:
        PullFailed: Its architecture writes no text (reason: source).
    """
    try:
        said = orjson.loads(config)
    except orjson.JSONDecodeError:
        return  # The loader will say so.
    architectures = said.get("architectures") if isinstance(said, dict) else None
    if kind != "chat" or not isinstance(architectures, list) or not architectures:
        return
    if all(str(name).endswith(_WRITE_NO_TEXT) and "LMHead" not in str(name) for name in architectures):
        told = f"{where} is a {architectures[0]}, which cannot chat: write kind: embed, or choose other weights"
        raise PullFailed(told, reason="source")


def check_weights(names: Iterable[str], where: str) -> None:
    """Refuse what holds no weights that can be read without running code.

    Raises:
        PullFailed: There are no safetensors and no GGUF (reason: source). Pickled weights can run any code when loaded.
    """
    suffixes = {PurePosixPath(name).suffix.lower() for name in names}
    if suffixes & {".safetensors", ".gguf"}:
        return
    pickled = sorted(suffixes.intersection(PICKLED))
    why = f"only pickled weights ({', '.join(pickled)}), which can run any code" if pickled else "no weights"
    raise PullFailed(f"{where} holds {why}; safetensors or GGUF are needed", reason="source")
