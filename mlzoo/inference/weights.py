"""Weights on disk: are they whole, and are they of a kind that cannot run code?

Knows the safetensors format; nothing of models or devices, and imports no torch. Pickled weights (.bin, .pt, .ckpt)
are programs, and are refused always.

Source: https://github.com/huggingface/safetensors (format: 8 bytes of header length, JSON header, tensors).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from mlzoo.errors import ModelLoadFailed

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HEADER_LIMIT_BYTES = 100_000_000


def verify(directory: Path) -> int:
    """Check a directory's weights; return their size in bytes.

    Raises:
        ModelLoadFailed: There are none, they are pickled, or a file is missing, truncated or no safetensors file.
    """
    if not directory.is_dir():
        raise ModelLoadFailed(f"{directory} is no directory", reason="missing")
    shards = files(directory)
    if not shards:
        pickled = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLED)
        if pickled:
            raise ModelLoadFailed(
                f"{', '.join(pickled)} in {directory}: pickled weights can run code and are refused; "
                "convert them to safetensors",
                reason="pickled",
            )
        raise ModelLoadFailed(f"{directory} holds no *.safetensors weights", reason="missing")
    for path in shards:
        _verify_file(path)
    return sum(path.stat().st_size for path in shards)


def files(directory: Path) -> list[Path]:
    """Return the files that hold a directory's weights, whether or not they are there.

    Raises:
        ModelLoadFailed: The index of them is none.
    """
    index = directory / INDEX
    if not index.exists():
        return sorted(directory.glob("*.safetensors"))
    try:
        shards = set(orjson.loads(index.read_bytes())["weight_map"].values())
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ModelLoadFailed(f"{index} is no index of weights: {error!r}", reason="corrupt") from error
    return [directory / shard for shard in sorted(shards)]


def _verify_file(path: Path) -> None:
    if not path.exists():
        raise ModelLoadFailed(f"{path} is missing", reason="missing")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(HEADER_LIMIT_BYTES, size - 8):
            raise ModelLoadFailed(f"{path} is corrupt or truncated: its header does not fit", reason="corrupt")
        try:
            header: dict[str, Any] = orjson.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (orjson.JSONDecodeError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise ModelLoadFailed(f"{path} is corrupt: its header cannot be read", reason="corrupt") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ModelLoadFailed(
            f"{path} is truncated or corrupt: {size} bytes where its header says {expected}", reason="corrupt"
        )
