"""What the default kernels lose: divergence from fp32 on a fixed text, by the number of rows that decode together.

``python bench/quality.py [--rounds N] [--json FILE]``. The text is quality.txt, an early state of a page of this
project, in 16 segments: of each the first half is read as a prompt and the second decoded token by token as it is
written (teacher forcing), so that what the default kernels read and what they decode is in the figures. Segments
decode 1, 4 or 16 together, which is what the choice of kernels depends on. Nothing here is a matter of time:
one round says all.
"""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from measure import Row, compare, main
from rivals import BENCH, MODEL

from mlzoo.config import load
from mlzoo.config.loading import cache_directory
from mlzoo.inference import process
from mlzoo.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from mlzoo.inference.decoder import Decoder

SEGMENTS = 16
READ, DECODED = 64, 72  # tokens of each segment: 1,152 are decoded
TOGETHER = (1, 4, 16)
DIVERGENCE = 0.003  # allowed, in nats a token
AGREEMENT = 0.965  # wanted


def load_model(dtype: str) -> Any:
    """Load the model as a worker does; its default dtype, or another one."""
    import torch

    from mlzoo.frames import Load
    from mlzoo.inference.loader import load_chat

    config = load(())
    entry = config.model(MODEL)
    installed = open_store(config).find(entry)
    if installed is None:
        sys.exit(f"The weights of {MODEL} are not in the store: mlzoo models pull {MODEL}")
    order = Load(
        model=entry.name, path=str(installed.path), kind="chat", dtype=dtype, slots=SEGMENTS, digest=installed.digest
    )
    return load_chat(order, torch.device("cpu"), cache=cache_directory(None, os.environ))


def logits(decoder: Decoder, segments: Sequence[Sequence[int]], **how: bool) -> Iterator[Tensor]:
    """Read the first half of some segments, then decode the rest of them together; yield ``[rows, vocabulary]``."""
    slots = range(len(segments))
    for slot, segment in enumerate(segments):
        decoder.prefill(slot, segment[:READ], 0, **how)
    for position in range(READ, READ + DECODED):
        tokens = [segment[position] for segment in segments]
        yield decoder.decode(slots, tokens, [position] * len(segments), **how)
    for slot in slots:
        decoder.release(slot, READ + DECODED, dirty=False)


def losses(decoder: Decoder, segments: Sequence[Sequence[int]], reference: Tensor, **how: bool) -> tuple[float, float]:
    """Return the sum of divergences from the reference ``[segments, decoded, vocabulary]``, and of agreements."""
    from torch.nn import functional

    divergence, agreed = 0.0, 0.0
    for step, found in enumerate(logits(decoder, segments, **how)):
        wanted = reference[:, step].float()
        ours, theirs = functional.log_softmax(found.float(), -1), functional.log_softmax(wanted, -1)
        divergence += float(functional.kl_div(ours, theirs, reduction="sum", log_target=True))
        agreed += float((found.argmax(-1) == wanted.argmax(-1)).sum())
    return divergence, agreed


def measure(_rounds: int) -> list[Row]:
    process.prepare(os.getppid(), 0, "passive")
    import torch
    import transformers

    torch.set_num_threads(process.usable_processors())
    transformers.logging.disable_progress_bar()
    exact = load_model("float32")
    tokens = exact.text.encode((BENCH / "quality.txt").read_text(encoding="utf-8"))
    length = READ + DECODED
    assert len(tokens) >= SEGMENTS * length, "the text is too short"
    segments = [list(tokens[number * length : (number + 1) * length]) for number in range(SEGMENTS)]
    reference = torch.stack(list(logits(exact.decoder, segments)), dim=1)
    del exact
    gc.collect()
    model = load_model("auto")
    print("\n".join(model.why))
    count = SEGMENTS * DECODED
    rows = []
    for together in TOGETHER:
        ask = partial(losses, model.decoder)
        parts = [
            ask(segments[at : at + together], reference[at : at + together]) for at in range(0, SEGMENTS, together)
        ]
        divergence, agreement = (sum(part[place] for part in parts) / count for place in (0, 1))
        what = "one row" if together == 1 else f"{together} rows"
        rows += [
            compare(f"{what}: KL from fp32", "nats", [divergence], "what is allowed", [DIVERGENCE], "<= 1"),
            compare(f"{what}: likeliest token is that of fp32", "", [agreement], "what is wanted", [AGREEMENT], ">= 1"),
        ]
    return rows


if __name__ == "__main__":
    main("Quality", measure, rounds=1)
