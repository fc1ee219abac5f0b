"""Embeddings from sentence-transformers-style models: encode, pool, normalise.

Knows a model's directory (its pooling and length are in small files beside the weights) and frames; nothing of
sockets. Texts are sorted by length, so that a batch holds few padding tokens; one step is one batch, so that other
work of the process goes on in between.

Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; the file formats are those of sentence-transformers.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import orjson
import torch
from torch.nn import functional
from transformers import AutoModel

from mlzoo.errors import ModelLoadFailed, TooLarge
from mlzoo.frames import Embed, Embedded, FromWorker
from mlzoo.inference import memory
from mlzoo.inference.failing import broken, failed
from mlzoo.inference.loader import read, silent
from mlzoo.inference.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.frames import Load
    from mlzoo.inference.loader import OnProgress

BATCH_TOKENS = 8192  # in one forward, padding included
NUMBER_BYTES = 17  # of a float32 as JSON at most, with its comma
ENVELOPE_BYTES = 4096  # of the line around the numbers
POOLINGS = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "lasttoken")


@attrs.frozen(eq=False)
class EmbedModel:
    """An encoder with its pooling, ready to serve."""

    name: str
    module: Any
    tokenizer: Any
    text: Text
    pooling: str  # one of POOLINGS
    max_tokens: int
    texts: int  # of one request at most, so that its answer surely fits into a line
    device: torch.device
    dtype: torch.dtype
    architecture: str
    memory_bytes: int
    why: tuple[str, ...]


def load_embed(load: Load, device: torch.device, progress: OnProgress = silent) -> EmbedModel:
    """Load an encoder.

    Raises:
        ModelLoadFailed: What is in the directory is no encoder, or its pooling is not known here.
        OutOfMemory: It does not fit on the device.
    """
    before = memory.used_bytes(device)
    if load.dtype == "auto":
        # Embeddings are kept, and compared with those of other programs: full precision is what those compute in.
        load = attrs.evolve(load, dtype="float32")
    found = read(load, device, AutoModel, progress)
    directory = Path(load.path)
    pooling = _pooling(directory)
    width = found.module.config.get_text_config().hidden_size
    longest = _max_tokens(directory, found.module.config, found.tokenizer)
    return EmbedModel(
        name=load.model,
        module=found.module,
        tokenizer=found.tokenizer,
        text=Text(found.tokenizer, load.model),
        pooling=pooling,
        max_tokens=longest,
        texts=max((load.answer_bytes - ENVELOPE_BYTES) // (width * NUMBER_BYTES + len("[],")), 1),
        device=device,
        dtype=found.dtype,
        architecture=type(found.module).__name__,
        memory_bytes=max(memory.used_bytes(device) - before, 0),
        why=(found.why, f"pooling {pooling}", f"texts are cut after {longest} tokens"),
    )


@attrs.define
class Job:
    """One request: what is left to embed, and what came of the rest."""

    frame: Embed
    tokens: list[list[int]]
    order: deque[int]  # texts still to be embedded, the longest first
    vectors: list[np.ndarray[Any, np.dtype[np.float32]] | None]


class Embedder:
    """Runs the requests of one model, first come, first served. ``submit``, then ``step`` until ``idle``."""

    def __init__(self, model: EmbedModel) -> None:
        self._model = model
        self._jobs: dict[str, Job] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._jobs

    def submit(self, frame: Embed) -> list[FromWorker]:
        """Take in a request; return what is to be said of it at once: its failure, or the answer to no texts."""
        if not frame.texts:
            return [_embedded(Job(frame, [], deque(), []))]
        if len(frame.texts) > self._model.texts:
            return [failed(frame.request, _too_many(len(frame.texts), self._model))]
        try:
            encoded = self._model.tokenizer(
                list(frame.texts), truncation=True, max_length=self._model.max_tokens, verbose=False
            )
        except Exception as error:  # noqa: BLE001 - a text that breaks a tokenizer is one request's misfortune
            return [broken(frame.request, error)]
        tokens: list[list[int]] = encoded["input_ids"]
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        self._jobs[frame.request] = Job(frame, tokens, deque(order), [None] * len(tokens))
        return []

    def abandon(self, request: str) -> None:
        """Drop a request; an unknown one is no error."""
        self._jobs.pop(request, None)

    def forget(self) -> None:
        """Nothing is kept of what has ended."""

    def step(self) -> list[FromWorker]:
        """Embed one batch of the oldest request; return its answer once all its texts are embedded."""
        if not self._jobs:
            return []
        job = next(iter(self._jobs.values()))
        try:
            self._embed_batch(job)
        except torch.AcceleratorError:
            raise  # The device is in an unknown state: nothing that it computes can be trusted.
        except (MemoryError, RuntimeError, IndexError, ValueError) as error:
            del self._jobs[job.frame.request]
            return [broken(job.frame.request, error)]
        if job.order:
            return []
        del self._jobs[job.frame.request]
        return [_embedded(job)]

    def _embed_batch(self, job: Job) -> None:
        count = max(1, BATCH_TOKENS // max(len(job.tokens[job.order[0]]), 1))
        batch = [job.order.popleft() for _ in range(min(count, len(job.order)))]
        vectors = self._embed([job.tokens[i] for i in batch], normalize=job.frame.normalize)
        for i, vector in zip(batch, vectors, strict=True):
            job.vectors[i] = vector

    @torch.inference_mode()
    def _embed(self, texts: Sequence[list[int]], *, normalize: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
        model = self._model
        pad = model.tokenizer.pad_token_id or 0
        longest = max(map(len, texts))
        ids = torch.tensor([text + [pad] * (longest - len(text)) for text in texts], device=model.device)
        lengths = torch.tensor([len(text) for text in texts], device=model.device)
        mask = torch.arange(longest, device=model.device)[None] < lengths[:, None]
        hidden = model.module(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        vectors = pool(hidden, mask, model.pooling)
        if normalize:
            vectors = functional.normalize(vectors, dim=-1)
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError("the model computed NaN or infinite embeddings")
        array: np.ndarray[Any, np.dtype[np.float32]] = vectors.cpu().numpy()
        return array


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Make one vector of each text's tokens.

    Args:
        hidden: ``[texts, tokens, dimensions]``.
        mask: ``[texts, tokens]``, true where there is a token; padding is on the right.
        pooling: One of ``POOLINGS``.

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


def _too_many(texts: int, model: EmbedModel) -> TooLarge:
    return TooLarge(
        f"the vectors of {texts} texts may not fit into one line of an answer: "
        f"send at most {model.texts} texts at once to {model.name}",
        limit=model.texts,
        got=texts,
    )


def _embedded(job: Job) -> Embedded:
    vectors = [vector for vector in job.vectors if vector is not None]
    return Embedded(
        request=job.frame.request,
        vectors=as_json(vectors),
        count=len(vectors),
        dimensions=len(vectors[0]) if vectors else 0,
        prompt_tokens=sum(map(len, job.tokens)),
    )


def as_json(vectors: Sequence[np.ndarray[Any, np.dtype[np.float32]]]) -> str:
    """Return rows as JSON, with the fewest digits that tell each float32 from its neighbours: half of a double's."""
    return orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _pooling(directory: Path) -> str:
    """Return the pooling that the model's directory names; the mean where it names none."""
    path = directory / "1_Pooling" / "config.json"
    if not path.exists():
        return "mean_tokens"
    settings: dict[str, Any] = orjson.loads(path.read_bytes())
    chosen = [
        key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
    ]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise ModelLoadFailed(
            f"{path} asks for the pooling {' and '.join(chosen) or 'none'}; one of {', '.join(POOLINGS)} is known here",
            reason="pooling",
        )
    return chosen[0]


def _max_tokens(directory: Path, config: Any, tokenizer: Any) -> int:
    """Return how many tokens of a text count: the least of what the model's files say."""
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    path = directory / "sentence_bert_config.json"
    if path.exists():
        limits.append(orjson.loads(path.read_bytes()).get("max_seq_length"))
    return min(int(limit) for limit in limits if limit)
