"""Whether a model's weights, as they lie on disk, come in 4 bits: before anything is loaded.

Knows the safetensors format and the grid of our own kernels; nothing of models, nor of what follows from it. Whoever
loads the weights asks each of them (``plan.mark_int4``): here a few stand for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from mlzoo.inference import linears, weights

if TYPE_CHECKING:
    from pathlib import Path

FREE = 0.005  # of a layer's norm: the error of 4 bits that is none, since the weights lay on such a grid


def lies_on_one(directory: Path) -> bool:
    """Return whether a model's weights lie on a 4-bit grid: the first and the last one of the most usual shape.

    False as well where a file is not whole: whoever loads it says what it lacks.
    """
    try:
        usual = _of_the_most_usual_shape(directory)
        return bool(usual) and all(_is_free(*one) for one in (usual[0], usual[-1]))
    except (SafetensorError, OSError):
        return False


def _of_the_most_usual_shape(directory: Path) -> list[tuple[Path, str]]:
    found: dict[tuple[int, ...], list[tuple[Path, str]]] = {}
    for path in weights.files(directory):
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                shape = tuple(file.get_slice(name).get_shape())
                if len(shape) == 2 and linears.is_blocked(*shape):
                    found.setdefault(shape, []).append((path, name))
    return max(found.values(), key=len, default=[])


def _is_free(path: Path, name: str) -> bool:
    with safe_open(path, "pt") as file:
        return linears.int4_error(file.get_tensor(name)) < FREE
