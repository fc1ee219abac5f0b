"""GGUF to safetensors, once: ``python -m mlzoo.inference.convert SOURCE.gguf TARGET_DIR [--dtype bfloat16]``.

Writes weights, config, generation config, tokenizer and chat template into TARGET_DIR, which its caller renames into
place. Progress goes to stdout as JSON lines ``{"stage", "done", "total", "unit"}``; an error is one line
``{"error": ...}`` and exit status 1. Knows formats; nothing of stores or of where files come from.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from mlzoo.errors import MlzooError, ModelLoadFailed
from mlzoo.inference import weights

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"GGUF"


def main(arguments: list[str]) -> int:
    """Convert as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mlzoo.inference.convert", description=__doc__)
    parser.add_argument("source", type=Path, help="a .gguf file")
    parser.add_argument("target", type=Path, help="a directory; made where there is none")
    parser.add_argument("--dtype", choices=["bfloat16", "float32", "float16"], default="bfloat16")
    given = parser.parse_args(arguments)
    # Lines are for the caller; what libraries print goes to stderr.
    lines = os.dup(1)
    os.dup2(2, 1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

    def say(**fields: str | int) -> None:
        os.write(lines, orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))

    try:
        for stage, done, total, unit in stages(given.source, given.target, given.dtype):
            say(stage=stage, done=done, total=total, unit=unit)
    except MlzooError as error:
        say(error=error.message)
        return 1
    except Exception as error:  # noqa: BLE001 - files of strangers, through libraries: they raise what they like
        say(error=f"{given.source.name} could not be converted: {error!r}")
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def stages(source: Path, target: Path, dtype: str) -> Iterator[tuple[str, int, int, str]]:
    """Convert; yield ``stage, done, total, unit`` on the way.

    Raises:
        ModelLoadFailed: The source is no GGUF file, or holds what cannot be converted.
    """
    size = _check(source)
    yield "tokenizer", 0, 1, "files"
    import torch  # noqa: PLC0415 - what can be refused without torch, is
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    target.mkdir(parents=True, exist_ok=True)
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name, "local_files_only": True}
    AutoTokenizer.from_pretrained(**where).save_pretrained(target)
    yield "tokenizer", 1, 1, "files"
    yield "weights", 0, size, "bytes"
    # Without dequantize the weights stay packed in GGUF's blocks, and such a model cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=getattr(torch, dtype), quantization_config=GgufConfig(dequantize=True)
    )
    model.config.name_or_path = source.stem
    yield "weights", size, size, "bytes"
    yield "save", 0, 1, "files"
    model.save_pretrained(target)
    saved = weights.verify(target)
    yield "save", saved, saved, "bytes"


def _check(source: Path) -> int:
    """Return the size of a GGUF file."""
    if not source.is_file():
        raise ModelLoadFailed(f"{source} does not exist", reason="missing")
    with source.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise ModelLoadFailed(f"{source} is no GGUF file", reason="corrupt")
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ModelLoadFailed(
                f"converting GGUF needs the package {package}; install mlzoo[local]", reason="missing"
            )
    return source.stat().st_size


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
