"""Backbones: any encoder or decoder that transformers can load, an MLP for tables, a small CNN for pictures.

Knows nothing of heads, files of artifacts or requests. Never downloads, never unpickles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel

from mlzoo.errors import ConfigError, ModelLoadFailed
from mlzoo.models.features import Backbone, Batch, Features
from mlzoo.models.pooling import POOLINGS, pool, pooling_of

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.pipelines import Shapes

WIDEST = 50  # of the vector of a category
_share = [attrs.validators.ge(0.0), attrs.validators.lt(1.0)]


@attrs.frozen
class TransformerOptions:
    """How the vectors of tokens become one: auto is what the model's files say, else the mean.

    cls, mean, max, last and mean_sqrt_len are those of sentence-transformers.
    """

    pooling: str = attrs.field(default="auto", validator=attrs.validators.in_(["auto", *POOLINGS]))


class Transformer(Backbone):
    """Any model of transformers' ``AutoModel`` that gives hidden states; also a directory of sentence-transformers.

    ``input_ids`` and ``attention_mask`` [rows, tokens] -> pooled [rows, width], tokens [rows, tokens, width].

    Source: Vaswani et al., "Attention Is All You Need", 2017; pooling: Reimers and Gurevych, "Sentence-BERT", 2019.
    """

    Options = TransformerOptions
    reads = frozenset({"input_ids", "attention_mask"})
    has_tokens = True

    def __init__(self, options: TransformerOptions, encoder: Any) -> None:
        super().__init__()
        self.options = options
        self.encoder = encoder
        self.width = int(encoder.config.get_text_config().hidden_size)
        self._takes_types = "token_type_ids" in encoder.forward.__code__.co_varnames

    @classmethod
    def make(
        cls, options: TransformerOptions, _shapes: Shapes, directory: Path | None, *, pretrained: bool
    ) -> Backbone:
        """Return one from a directory with ``config.json``, and with ``*.safetensors`` where it is pretrained."""
        if directory is None or not (directory / "config.json").is_file():
            told = f"expected config.json, as transformers writes it, in {directory or 'a directory; none was named'}"
            raise ConfigError(f"backbone: {told}", path="backbone", expected=told)
        if options.pooling == "auto":
            options = attrs.evolve(options, pooling=pooling_of(directory))
        try:
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            if not pretrained:
                return cls(options, AutoModel.from_config(config, trust_remote_code=False))
            encoder, report = AutoModel.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
            raise ModelLoadFailed(f"the backbone in {directory} could not be loaded: {error}") from error
        missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
        if missing:
            raise ModelLoadFailed(f"the weights in {directory} lack {len(missing)} tensors, {missing[0]} for one")
        made = cls(options, encoder)
        made.has_read_weights = True
        return made

    def forward(self, batch: Batch) -> Features:
        """Return a vector of each token and, pooled, of each row."""
        given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if self._takes_types and "token_type_ids" in batch:
            given["token_type_ids"] = batch["token_type_ids"]
        tokens = self.encoder(**given).last_hidden_state
        mask = batch["attention_mask"].bool()
        return Features(pool(tokens, mask, POOLINGS[self.options.pooling]), tokens, mask)

    def files(self) -> dict[str, bytes]:
        """Return the configuration that the encoder is made from."""
        return {"config.json": self.encoder.config.to_json_string(use_diff=False).encode()}

    def why(self) -> tuple[str, ...]:
        """Return the architecture and its pooling."""
        return (f"backbone {type(self.encoder).__name__}, pooling {self.options.pooling}",)


@attrs.frozen
class MlpOptions:
    """Widths of the hidden layers, and the share of their values that is dropped while it is trained."""

    hidden: tuple[int, ...] = (128, 128)
    dropout: float = attrs.field(default=0.0, validator=_share)


class Mlp(Backbone):
    """Layers of ReLU over numbers, and over a learned vector of each category.

    ``numbers`` [rows, n] float32, ``categories`` [rows, m] int64 -> pooled [rows, hidden[-1]].

    Source: Guo and Berkhahn, "Entity Embeddings of Categorical Variables", 2016.
    """

    Options = MlpOptions
    reads = frozenset({"numbers", "categories"})

    def __init__(self, options: MlpOptions, numbers: int, categories: tuple[int, ...]) -> None:
        super().__init__()
        self.options = options
        widths = [min(WIDEST, (size + 1) // 2) for size in categories]
        self.categories = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(categories, widths, strict=True)
        )
        self.width = options.hidden[-1]
        layers: list[nn.Module] = []
        last = numbers + sum(widths)
        for width in options.hidden:
            layers += [nn.Linear(last, width), nn.ReLU(), nn.Dropout(options.dropout)]
            last = width
        self.layers = nn.Sequential(*layers)

    @classmethod
    def make(cls, options: MlpOptions, shapes: Shapes, _directory: Path | None, *, pretrained: bool) -> Backbone:
        """Return one for a table's columns."""
        del pretrained  # Nothing of it comes from elsewhere.
        if not shapes.numbers and not shapes.categories:
            raise _unfit("mlp", "numbers or categories (the pipeline tabular)")
        if not options.hidden or min(options.hidden) < 1:
            raise ConfigError("backbone.hidden: expected at least one width", path="backbone.hidden")
        return cls(options, shapes.numbers, shapes.categories)

    def forward(self, batch: Batch) -> Features:
        """Return a vector of each row."""
        columns = batch["categories"].unbind(dim=1)
        vectors = [embedding(column) for embedding, column in zip(self.categories, columns, strict=True)]
        return Features(self.layers(torch.cat([batch["numbers"], *vectors], dim=1)))

    def why(self) -> tuple[str, ...]:
        """Return its widths."""
        return (f"backbone mlp of {' x '.join(map(str, self.options.hidden))}",)


@attrs.frozen
class CnnOptions:
    """Channels of each block; each block but the last halves height and width."""

    channels: tuple[int, ...] = (32, 64, 128)
    dropout: float = attrs.field(default=0.0, validator=_share)


class Cnn(Backbone):
    """Blocks of convolution 3 x 3, batch normalisation and ReLU, then the mean over all places.

    ``pixels`` [rows, c, h, w] float32 -> pooled [rows, channels[-1]].

    Source: Simonyan and Zisserman, 2014 (blocks); Ioffe and Szegedy, 2015 (normalisation); Lin et al., "Network In
    Network", 2013 (the mean over all places).
    """

    Options = CnnOptions
    reads = frozenset({"pixels"})

    def __init__(self, options: CnnOptions, pixels: tuple[int, int, int]) -> None:
        super().__init__()
        self.options = options
        self.width = options.channels[-1]
        blocks: list[nn.Module] = []
        last = pixels[0]
        for place, width in enumerate(options.channels):
            blocks += [nn.Conv2d(last, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            if place < len(options.channels) - 1:
                blocks.append(nn.MaxPool2d(2))
            last = width
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(options.dropout)

    @classmethod
    def make(cls, options: CnnOptions, shapes: Shapes, _directory: Path | None, *, pretrained: bool) -> Backbone:
        """Return one for pictures of one size."""
        del pretrained  # Nothing of it comes from elsewhere.
        if shapes.pixels is None:
            raise _unfit("cnn", "pixels (the pipeline image)")
        if not options.channels or min(options.channels) < 1:
            raise ConfigError("backbone.channels: expected at least one width", path="backbone.channels")
        halvings = len(options.channels) - 1
        if min(shapes.pixels[1:]) >> halvings < 1:
            told = f"{len(options.channels)} blocks halve a picture {halvings} times: it is too small for that"
            raise ConfigError(f"backbone.channels: {told}", path="backbone.channels", expected=told)
        return cls(options, shapes.pixels)

    def forward(self, batch: Batch) -> Features:
        """Return a vector of each picture."""
        return Features(self.dropout(self.blocks(batch["pixels"]).mean(dim=(2, 3))))

    def why(self) -> tuple[str, ...]:
        """Return its channels."""
        return (f"backbone cnn of {' x '.join(map(str, self.options.channels))} channels",)


def _unfit(kind: str, expected: str) -> ConfigError:
    told = f"{kind} reads {expected}, which this pipeline does not give"
    return ConfigError(f"backbone: {told}", path="backbone.kind", expected=told)
