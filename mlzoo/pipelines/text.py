"""Text: strings, pairs of them and lists to be ranked, as tokens of a model's own tokenizer.

Reads ``tokenizer.json``, the file that the tokenizers library writes; knows no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np
import orjson
from tokenizers import Tokenizer

from mlzoo.errors import ConfigError, TooLarge
from mlzoo.pipelines.pipeline import Array, Example, Pipeline, Row, Shapes, wrong

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlzoo.pipelines.pipeline import JsonObject

NO_LIMIT = 10**6  # What tokenizers write where they have no limit is far above this.
USUAL_TOKENS = 512  # of a model that does not say how many it takes: what encoders are trained with as a rule
DOCUMENTS_MAX = 1000  # of one input that ranks them
TOKENIZER = "tokenizer.json"
LENGTHS = {  # file of a model's directory -> the key that says how many tokens it takes
    "sentence_bert_config.json": "max_seq_length",
    "tokenizer_config.json": "model_max_length",
    "config.json": "max_position_embeddings",
}


@attrs.frozen
class TextOptions:
    """How texts are read.

    takes: text is ``"..."`` or ``{"text": "..."}``; pair is ``{"a": "...", "b": "..."}``; ranking is
    ``{"query": "...", "documents": ["...", ...]}``. joined: pairs and rankings go into one row each, query and text
    together (a cross-encoder), and not into a row for each text (a bi-encoder).
    """

    takes: Literal["text", "pair", "ranking"] = "text"
    joined: bool = False
    max_tokens: int = attrs.field(default=0, validator=attrs.validators.ge(0))  # 0: what the model's files say
    column: str = "text"  # in training data


class TextPipeline(Pipeline):
    """Texts as ``input_ids`` and ``attention_mask``, ``[rows, tokens]`` int64, padded on the right.

    Joined pairs have ``token_type_ids`` as well. What is longer than ``max_tokens`` is cut, as the model was trained.
    """

    Options = TextOptions

    def __init__(self, options: TextOptions, directory: Path | None, state: JsonObject | None) -> None:
        super().__init__(options, directory, state)
        if directory is None or not (directory / TOKENIZER).is_file():
            told = f"expected {TOKENIZER} in {directory or 'a directory, and none was named'}"
            remedy = "save it with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
            raise ConfigError(f"pipeline: {told}; {remedy}", path="pipeline", expected=told)
        self._file = (directory / TOKENIZER).read_bytes()
        self._tokenizer = Tokenizer.from_buffer(self._file)
        learned = state or {}
        self.max_tokens = options.max_tokens or int(learned.get("max_tokens") or _longest(directory))
        self._pad = int(learned.get("pad", _pad_of(directory, self._tokenizer)))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens)

    def read(self, inputs: Sequence[Any], *, path: str = "inputs") -> list[Example]:
        """Read inputs; all their texts go through the tokenizer together."""
        texts: list[Any] = []
        counts = []
        for place, value in enumerate(inputs):
            found = self._texts_of(value, f"{path}[{place}]")
            counts.append(len(found))
            texts += found
        encodings = iter(self._tokenizer.encode_batch(texts))
        shared = zip(counts, inputs, strict=True)
        return [self._example([next(encodings) for _ in range(count)], value) for count, value in shared]

    def read_one(self, value: Any, path: str) -> Example:
        """Read one input."""
        return self._example(self._tokenizer.encode_batch(self._texts_of(value, path)), value)

    def join(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Return rows padded to the longest of them."""
        longest = max(row.length for row in rows)
        joined = {}
        for name in rows[0].values:
            array = np.full((len(rows), longest), self._pad if name == "input_ids" else 0, np.int64)
            for place, row in enumerate(rows):
                array[place, : row.length] = row.values[name]
            joined[name] = array
        lengths = np.array([row.length for row in rows])
        joined["attention_mask"] = (np.arange(longest)[None] < lengths[:, None]).astype(np.int64)
        return joined

    def state(self) -> JsonObject:
        """Return what is no file of its own: how long texts may be, and what pads them."""
        return {"max_tokens": self.max_tokens, "pad": self._pad}

    def files(self) -> dict[str, bytes]:
        """Return the tokenizer."""
        return {TOKENIZER: self._file}

    def shapes(self) -> Shapes:
        """Return how long a row is at most."""
        return Shapes(tokens=self.max_tokens)

    def why(self) -> tuple[str, ...]:
        """Return that texts are cut."""
        return (f"texts are cut after {self.max_tokens} tokens",)

    def _texts_of(self, value: Any, path: str) -> list[Any]:
        """Return what goes through the tokenizer for one input: a text, or a pair of them, for each row."""
        match self.options.takes:
            case "text":
                return [value if isinstance(value, str) else _text(value, "text", path)]
            case "pair":
                a, b = _text(value, "a", path), _text(value, "b", path)
                return [(a, b)] if self.options.joined else [a, b]
            case _:
                query = _text(value, "query", path, others=("documents",))
                documents = value.get("documents")
                if not isinstance(documents, list) or not documents:
                    raise wrong(f"{path}.documents", "a list of at least one text")
                if len(documents) > DOCUMENTS_MAX:
                    told = (
                        f"{path}.documents has {len(documents)} texts, {DOCUMENTS_MAX} are allowed: send less at once"
                    )
                    raise TooLarge(told, limit=DOCUMENTS_MAX, got=len(documents))
                for place, document in enumerate(documents):
                    if not isinstance(document, str):
                        raise wrong(f"{path}.documents[{place}]", "a text")
                return [(query, text) for text in documents] if self.options.joined else [query, *documents]

    def _example(self, encodings: Sequence[Any], value: Any) -> Example:
        rows = tuple(self._row(encoding) for encoding in encodings)
        ranks = self.options.takes == "ranking"
        tokens = sum(row.length for row in rows)
        if self.options.takes != "text":
            return Example(rows, tokens, ranks=ranks)
        text = value if isinstance(value, str) else value["text"]
        return Example(rows, tokens, text, tuple(encodings[0].offsets))

    def _row(self, encoding: Any) -> Row:
        values = {"input_ids": np.array(encoding.ids, np.int64)}
        if self.options.joined:
            values["token_type_ids"] = np.array(encoding.type_ids, np.int64)
        return Row(values, len(encoding.ids))


def _text(value: Any, name: str, path: str, *, others: tuple[str, ...] = ()) -> str:
    names = {"text": ("text",), "a": ("a", "b"), "b": ("a", "b"), "query": ("query", *others)}[name]
    if not isinstance(value, dict):
        shape = "{" + ", ".join(f'"{key}": ...' for key in names) + "}"
        raise wrong(path, f"a text or {shape}" if name == "text" else shape)
    for key in value:
        if key not in names:
            raise wrong(path, f"nothing but {' and '.join(names)}")
    if not isinstance(value.get(name), str):
        raise wrong(f"{path}.{name}", "a text")
    text: str = value[name]
    return text


def _longest(directory: Path) -> int:
    """Return how many tokens of a text count: the least of what the model's files say."""
    said = [_setting(directory / file, key) for file, key in LENGTHS.items()]
    limits = [int(limit) for limit in said if isinstance(limit, int | float) and 0 < limit < NO_LIMIT]
    return min(limits, default=USUAL_TOKENS)


def _pad_of(directory: Path, tokenizer: Tokenizer) -> int:
    """Return the token that fills rows up; what it is does not matter where the model heeds its mask."""
    named = _setting(directory / "tokenizer_config.json", "pad_token")
    token = named.get("content") if isinstance(named, dict) else named
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if found is None and tokenizer.padding is not None:
        found = tokenizer.padding["pad_id"]
    return found or 0


def _setting(path: Path, key: str) -> Any:
    try:
        said = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return said.get(key) if isinstance(said, dict) else None
