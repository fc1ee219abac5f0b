"""Embeddings from sentence-transformers-style models: encode, pool, normalise.

Knows a model's directory (its pooling and length are in small files beside the weights) and frames; nothing of
sockets. Texts of many requests share forwards (``joined``); one step is one forward, so that other work of the process
goes on in between.

Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; the file formats are those of sentence-transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import orjson
import torch
from transformers import AutoModel

from mlzoo.errors import TooLarge
from mlzoo.frames import Embed, Embedded, FromWorker
from mlzoo.inference import memory
from mlzoo.inference.arranging import refuse_int4
from mlzoo.inference.brief import attend_briefly
from mlzoo.inference.failing import broken, failed
from mlzoo.inference.joined import Job, Joined
from mlzoo.inference.loader import read, silent
from mlzoo.inference.packing import pack
from mlzoo.inference.text import Text
from mlzoo.models.pooling import POOLINGS, pool, pooling_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.frames import Load
    from mlzoo.inference.loader import OnProgress

NUMBER_BYTES = 17  # of a float32 as JSON at most, with its comma
ENVELOPE_BYTES = 4096  # of the line around the numbers
SHORTEST = 1e-12  # length of a vector that can be brought to length 1
Vector = np.ndarray[Any, np.dtype[np.float32]]


@attrs.frozen(eq=False)
class EmbedModel:
    """An encoder with its pooling, ready to serve."""

    name: str
    module: Any
    tokenizer: Any
    text: Text
    pooling: str  # one of those of POOLINGS
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
    refuse_int4(load, "embeddings are computed with whole ones")
    before = memory.used_bytes(device)
    if load.dtype == "auto":
        # Embeddings are kept, and compared with those of other programs: full precision is what those compute in.
        load = attrs.evolve(load, dtype="float32")
    found = read(load, device, AutoModel, progress, attention="sdpa")
    directory = Path(load.path)
    pooling = POOLINGS[pooling_of(directory)]
    layers, attention = pack(found.module), attend_briefly(found.module)
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
        why=(found.why, layers, attention, f"pooling {pooling}", f"texts are cut after {longest} tokens"),
    )


class Embedder(Joined[Embed, list[int]]):
    """Runs the requests of one model; a row is the tokens of a text."""

    def __init__(self, model: EmbedModel) -> None:
        super().__init__(model.device)
        self._model = model

    def submit(self, frame: Embed) -> list[FromWorker]:
        """Take in a request; return what is to be said of it at once: its failure, or the answer to no texts."""
        if not frame.texts:
            return [Embedded(request=frame.request, vectors="[]", count=0, dimensions=0, prompt_tokens=0)]
        if len(frame.texts) > self._model.texts:
            return [failed(frame.request, _too_many(len(frame.texts), self._model))]
        try:
            encoded = self._model.tokenizer(
                list(frame.texts), truncation=True, max_length=self._model.max_tokens, verbose=False
            )
        except Exception as error:  # noqa: BLE001 - a text that breaks a tokenizer is one request's misfortune
            return [broken(frame.request, error)]
        tokens: list[list[int]] = encoded["input_ids"]
        cut = sum(bool(text.overflowing) for text in encoded.encodings or ())
        self._begin(frame.request, frame, tokens, [max(len(row), 1) for row in tokens], batch=frame.batch, more=cut)
        return []

    @torch.inference_mode()
    def _compute(self, rows: Sequence[list[int]]) -> Sequence[Any]:
        model = self._model
        pad = model.tokenizer.pad_token_id or 0
        longest = max(map(len, rows))
        ids = torch.tensor([text + [pad] * (longest - len(text)) for text in rows], device=model.device)
        lengths = torch.tensor([len(text) for text in rows], device=model.device)
        mask = torch.arange(longest, device=model.device)[None] < lengths[:, None]
        hidden = model.module(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        vectors = pool(hidden, mask, model.pooling).cpu()
        is_whole = torch.isfinite(vectors).all(dim=1).tolist()
        array: Vector = vectors.numpy()
        return [vector if whole else None for vector, whole in zip(array, is_whole, strict=True)]

    def _answer(self, job: Job[Embed, list[int]]) -> FromWorker:
        vectors: Vector = np.stack(job.outputs)
        if job.frame.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SHORTEST)
        return Embedded(
            request=job.request,
            vectors=as_json(vectors),
            count=len(vectors),
            dimensions=vectors.shape[1],
            prompt_tokens=sum(map(len, job.rows)),
            truncated=job.more,
        )


def _too_many(texts: int, model: EmbedModel) -> TooLarge:
    return TooLarge(
        f"the vectors of {texts} texts may not fit into one line of an answer: "
        f"send at most {model.texts} texts at once to {model.name}",
        limit=model.texts,
        got=texts,
    )


def as_json(vectors: Vector | Sequence[Vector]) -> str:
    """Return rows as JSON, with the fewest digits that tell each float32 from its neighbours: half of a double's."""
    return orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _max_tokens(directory: Path, config: Any, tokenizer: Any) -> int:
    """Return how many tokens of a text count: the least of what the model's files say."""
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    path = directory / "sentence_bert_config.json"
    if path.exists():
        limits.append(orjson.loads(path.read_bytes()).get("max_seq_length"))
    return min(int(limit) for limit in limits if limit)
