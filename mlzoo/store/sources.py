"""Sources of weights in words, and which of their files are taken."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, assert_never

from mlzoo.config.sources import Hub, Local, Source, Wheel
from mlzoo.errors import PullFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

TAKEN = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md", ".gguf")
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
