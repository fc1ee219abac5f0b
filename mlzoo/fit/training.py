"""The training loop: epochs of steps, each a function of what a checkpoint holds.

The order of rows follows from the seed and the epoch, the learning rate from the number of the step, dropout from the
generator that checkpoints keep; so a run that was killed ends with the weights of one that was not. Knows no log, no
terminal and no file: what it reports is a value, and whoever called it decides.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch

from mlzoo.errors import MlzooError
from mlzoo.fit.learning import batches
from mlzoo.fit.metrics import Figures, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlzoo.fit.columns import Task
    from mlzoo.fit.learning import Learner
    from mlzoo.fit.settings import ScheduleSettings
    from mlzoo.fit.splitting import Split


class NotFinite(MlzooError):
    """The settings' fault: the loss has become infinite or no number, and no step would mend that."""

    type = "not_finite"


@attrs.frozen(kw_only=True)
class Epoch:
    """What came of an epoch: mean losses, and the figures on the rows for validation."""

    epoch: int
    train_loss: float
    validation_loss: float
    values: dict[str, float]
    is_best: bool = False


@attrs.define(kw_only=True)
class Place:
    """Where a run is: in which epoch, after which of its steps, and what was lost in them so far."""

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    history: list[Epoch] = attrs.field(factory=list)
    best_epoch: int = 0
    best: float | None = None


class Trainer:
    """Takes the steps of one run.

    Args:
        learner: What is trained.
        split: On which rows.
        task: What is learned.
    """

    def __init__(self, learner: Learner, split: Split, task: Task) -> None:
        self.learner = learner
        self.place = Place()
        self._split = split
        self._task = task
        self._settings = learner.settings
        self._optimiser = _optimiser(learner)
        self._steps = len(list(batches(split.train, self._settings.batch_size)))
        torch.manual_seed(self._settings.seed)

    def run_epoch(self, after_step: Callable[[], None]) -> Epoch:
        """Take the steps of the epoch that is left, and measure what came of it.

        Args:
            after_step: Called between steps, where a checkpoint may be taken; may raise, to end it.

        Raises:
            NotFinite: The loss is none any more.
        """
        place, rows = self.place, self._split.train
        generator = np.random.default_rng([self._settings.seed, place.epoch])
        order = [rows[at] for at in generator.permutation(len(rows))]
        for chosen in list(batches(order, self._settings.batch_size))[place.step :]:
            place.loss_sum += self._step(chosen) * len(chosen)
            place.step += 1
            after_step()
        train_loss = place.loss_sum / len(rows)
        validation_loss, figures = self.evaluate(self._split.validation)
        values = {**figures.values, "loss": validation_loss}
        return Epoch(epoch=place.epoch, train_loss=train_loss, validation_loss=validation_loss, values=values)

    def next_epoch(self, ended: Epoch) -> None:
        """Take in an epoch that has ended, and go on to the next one."""
        place = self.place
        place.history.append(ended)
        if ended.is_best:
            place.best_epoch = ended.epoch
        place.epoch, place.step, place.loss_sum = ended.epoch + 1, 0, 0.0

    def _step(self, rows: Sequence[int]) -> float:
        learner, number = self.learner, (self.place.epoch - 1) * self._steps + self.place.step
        learner.in_training()
        rate = rate_at(self._settings.schedule, number, self._steps * self._settings.epochs)
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.optimiser.lr * rate
        self._optimiser.zero_grad(set_to_none=True)
        loss = learner.model.loss(learner.outputs(rows), learner.wanted(rows))
        told = float(loss.detach())
        if not math.isfinite(told):
            where = f"epoch {self.place.epoch}, step {self.place.step + 1}"
            raise NotFinite(f"the loss is {told} in {where}: lower optimiser.lr, or look for wild values in the data")
        loss.backward()  # type: ignore[no-untyped-call]
        if self._settings.optimiser.clip:
            torch.nn.utils.clip_grad_norm_(learner.parameters(), self._settings.optimiser.clip)
        self._optimiser.step()
        return told

    @torch.no_grad()
    def evaluate(self, rows: Sequence[int]) -> tuple[float, Figures]:
        """Return the mean loss of some rows and how good the answers are."""
        learner = self.learner
        learner.model.eval()
        loss_sum, answers = 0.0, []
        for chosen in batches(rows, self._settings.batch_size):
            outputs = learner.outputs(chosen)
            loss_sum += float(learner.model.loss(outputs, learner.wanted(chosen))) * len(chosen)
            if self._task != "other":
                answers += learner.model.head.decode(outputs, [learner.examples[row] for row in chosen])
        targets = [learner.targets[row] for row in rows]
        return loss_sum / len(rows), measure(self._task, learner.spec.labels, targets, answers)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all that a checkpoint needs beside ``place``."""
        found = {f"model.{name}": value for name, value in self.learner.trained().items()}
        for number, values in self._optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{number}.{name}": value for name, value in values.items() if value is not None}
        found["generator"] = torch.get_rng_state()
        if self.learner.device.type == "cuda":
            found["generator.cuda"] = torch.cuda.get_rng_state(self.learner.device)
        return found

    def resume(self, tensors: dict[str, torch.Tensor], place: Place) -> None:
        """Go on from what ``tensors`` gave, at its place."""
        self.place = place
        self.learner.put({name.removeprefix("model."): v for name, v in tensors.items() if name.startswith("model.")})
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, number, key = name.split(".", 2)
                state.setdefault(int(number), {})[key] = value
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": state})
        torch.set_rng_state(tensors["generator"])
        if "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], self.learner.device)


def _optimiser(learner: Learner) -> torch.optim.Optimizer:
    """Return the optimiser; biases and norms are not decayed, as is the custom since He et al., 2019, section 3.1."""
    settings = learner.settings.optimiser
    matrices = [parameter for parameter in learner.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in learner.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.lr)


def rate_at(schedule: ScheduleSettings, step: int, steps: int) -> float:
    """Return the share of the learning rate that a step gets, of those numbered from 0.

    Source: Goyal et al., 2017 (warm-up); Loshchilov and Hutter, "SGDR", 2017 (half a cosine).
    """
    warm = round(schedule.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    gone = (step - warm) / max(steps - warm, 1)
    if schedule.kind == "linear":
        return 1 - gone
    if schedule.kind == "cosine":
        return (1 + math.cos(math.pi * gone)) / 2
    return 1.0
