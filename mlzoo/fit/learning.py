"""A model in training: what is made of settings and data, which of its weights are trained, and its batches.

``make`` builds the class that serving uses. Where the backbone stays as it is, each row goes through it once: what it
made of the row is kept, and an epoch costs a head. Knows no checkpoint, log or terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch

from mlzoo.errors import ConfigError, InvalidParams
from mlzoo.fit.settings import FitSettings
from mlzoo.models.features import Features
from mlzoo.models.zoo import ZooModel, build, tensors
from mlzoo.parts import ZooSpec
from mlzoo.pipelines import Example
from mlzoo.pipelines import make as make_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mlzoo.fit.columns import Samples
    from mlzoo.fit.splitting import Split

MOST_KEPT_BYTES = 2 << 30  # of features; over that, those of tokens are computed each time
_LORA = "lora_"


@attrs.frozen
class Kept:
    """What a backbone made of all rows: pooled ``[rows, width]``, and of each row its tokens ``[tokens, width]``."""

    pooled: torch.Tensor
    tokens: tuple[torch.Tensor, ...] = ()


@attrs.define
class Learner:
    """A model with the rows that it learns from."""

    model: ZooModel
    spec: ZooSpec
    settings: FitSettings
    device: torch.device
    examples: list[Example]
    targets: list[Any]
    adapters: Any = None  # what peft put into the backbone
    kept: Kept | None = None

    def outputs(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the head's raw outputs for some rows: ``[rows, ...]``."""
        if self.kept is None:
            batch = self.model.pipeline.collate([self.examples[row] for row in rows])
            found: torch.Tensor = self.model(tensors(batch, self.device))
            return found
        pooled = self.kept.pooled[list(rows)].to(self.device)
        if not self.kept.tokens:
            return self.model.head(Features(pooled))  # type: ignore[no-any-return] # a module's call is untyped
        tokens = torch.nn.utils.rnn.pad_sequence([self.kept.tokens[row] for row in rows], batch_first=True)
        lengths = torch.tensor([len(self.kept.tokens[row]) for row in rows])
        mask = torch.arange(tokens.shape[1])[None] < lengths[:, None]
        features = Features(pooled, tokens.to(self.device), mask.to(self.device))
        return self.model.head(features)  # type: ignore[no-any-return]

    def wanted(self, rows: Sequence[int]) -> torch.Tensor:
        """Return what the head should have said of some rows, as its loss takes it."""
        values, examples = [self.targets[row] for row in rows], [self.examples[row] for row in rows]
        return self.model.head.targets(values, examples).to(self.device)

    def trained(self) -> dict[str, torch.Tensor]:
        """Return all tensors that training changes, by name; what they hold is theirs, not a copy."""
        match self.settings.trained:
            case "head":
                return {name: value for name, value in self.model.state_dict().items() if name.startswith("head.")}
            case "lora":
                every = self.model.state_dict()
                return {name: value for name, value in every.items() if name.startswith("head.") or _LORA in name}
            case _:
                return dict(self.model.state_dict())

    def put(self, weights: dict[str, torch.Tensor]) -> None:
        """Put back what ``trained`` gave."""
        with torch.no_grad():
            for name, value in self.trained().items():
                value.copy_(weights[name])

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what the optimiser changes."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def in_training(self) -> None:
        """Turn on what works in training alone: dropout, and the means of batches."""
        self.model.train(self.settings.trained != "head")
        self.model.head.train()

    def merged(self) -> ZooModel:
        """Return the model as it is served; adapters become a part of the weights they were for."""
        if self.adapters is not None:
            self.model.backbone = self.adapters.merge_and_unload()
            self.adapters = None
        return self.model.eval()


def make(settings: FitSettings, samples: Samples, split: Split, directory: Path | None) -> Learner:
    """Return a model that has learned nothing yet but what its pipeline learns of the rows for training.

    Raises:
        ConfigError: The parts do not fit together or to the data, or an input cannot be read.
        ModelLoadFailed: The directory holds no such model.
    """
    if settings.trained != "all" and directory is None:
        told = f"{settings.trained} leaves the backbone as it is, and without a base it has learned nothing"
        raise ConfigError(f"trained: {told}: say trained=all, or base=NAME", path="trained")
    torch.manual_seed(settings.seed)
    device = _device(settings.device)
    train = {name: [cells[row] for row in split.train] for name, cells in samples.columns.items()}
    try:
        pipeline = make_pipeline(samples.spec.pipeline, directory=directory).fit(train)
        examples = pipeline.read(samples.inputs)
    except InvalidParams as error:
        raise ConfigError(f"data: {error.message} (rows are counted from 0)", **error.data) from error
    model = build(samples.spec, directory=directory, pipeline=pipeline).to(device)
    _refuse_to_keep_what_has_learned_nothing(model, settings, samples.spec)
    learner = Learner(model, samples.spec, settings, device, examples, samples.targets)
    _choose_what_is_trained(learner)
    try:
        model.head.learn(learner.wanted(split.train))
    except InvalidParams as error:
        raise ConfigError(f"data: {error.message} (rows are counted from 0)", **error.data) from error
    return learner


def _refuse_to_keep_what_has_learned_nothing(model: ZooModel, settings: FitSettings, spec: ZooSpec) -> None:
    if settings.trained == "all" or model.backbone.has_read_weights:
        return
    told = f"{settings.trained} leaves the backbone as it is, and {spec.backbone.kind} has read no weights of a base"
    hint = "say trained=all (a class of your own that reads them sets has_read_weights)"
    raise ConfigError(f"trained: {told}, so that it has learned nothing: {hint}", path="trained")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: {name!r} cannot be used: {reason}", path="device") from error
    return device


def _choose_what_is_trained(learner: Learner) -> None:
    model, settings = learner.model, learner.settings
    if settings.trained != "all":
        model.backbone.requires_grad_(False)
    if settings.trained == "lora":
        learner.adapters = _with_adapters(model, settings)
        learner.model.to(learner.device)
    if not learner.parameters():
        told = f"{settings.trained}: this model has nothing that could be trained so: say trained=all"
        raise ConfigError(f"trained: {told}", path="trained")


def _with_adapters(model: ZooModel, settings: FitSettings) -> Any:
    try:
        from peft import LoraConfig, LoraModel  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("trained=lora needs the extra `fit`: pip install 'mlzoo[fit]'", path="trained") from error
    linear = {name.rpartition(".")[2] for name, of in model.backbone.named_modules() if isinstance(of, torch.nn.Linear)}
    targets = settings.lora.targets or tuple(sorted(linear))
    missing = sorted(set(targets) - linear)
    if missing or not targets:
        there = ", ".join(sorted(linear)) or "none"
        what = f"no linear layer is called {missing[0]!r}" if missing else "there is no linear layer"
        raise ConfigError(f"lora.targets: in the backbone {what} (there are {there})", path="lora.targets")
    wanted = LoraConfig(
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules=list(targets),
    )
    return LoraModel(model.backbone, {"default": wanted}, "default")


@torch.no_grad()
def keep_features(learner: Learner, on_batch: Callable[[int, int], None]) -> None:
    """Compute what the backbone makes of each row, once, where it stays as it is and there is room for that.

    Args:
        learner: Whose.
        on_batch: Told how many rows of how many are done; may raise, to end it.
    """
    if learner.settings.trained != "head" or any(len(example.rows) != 1 for example in learner.examples):
        return
    model, examples = learner.model.eval(), learner.examples
    takes_tokens = model.head.takes_tokens
    tokens_bytes = sum(example.rows[0].length for example in examples) * model.backbone.width * 4
    if takes_tokens and tokens_bytes > MOST_KEPT_BYTES:
        return
    order = sorted(range(len(examples)), key=lambda row: -examples[row].rows[0].length)
    pooled = torch.empty(len(examples), model.backbone.width)
    tokens: list[torch.Tensor] = [torch.empty(0)] * len(examples) if takes_tokens else []
    done = 0
    for rows in batches(order, learner.settings.batch_size):
        features = model.backbone(tensors(model.pipeline.collate([examples[row] for row in rows]), learner.device))
        pooled[rows] = features.pooled.float().cpu()
        if takes_tokens:
            for row, vectors in zip(rows, features.tokens.float().cpu(), strict=True):
                tokens[row] = vectors[: examples[row].rows[0].length].clone()
        done += len(rows)
        on_batch(done, len(examples))
    learner.kept = Kept(pooled, tuple(tokens))


def batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield rows in batches; no batch but a single one has one row, of which no mean could be taken."""
    starts = list(range(0, len(rows), size))
    if len(rows) > 1 and size > 1 and len(rows) % size == 1:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        yield list(rows[start:end])
