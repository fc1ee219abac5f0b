"""One run from its settings to its best weights: begun or taken up again, checkpointed, recorded.

``fit`` tells the story. Knows no terminal and no store.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import orjson
import torch
import trio
from safetensors.torch import save

from mlzoo import __version__
from mlzoo.errors import ConfigError, MlzooError
from mlzoo.events.commands import BeginFit, EndFit, ReportFitEpoch
from mlzoo.events.types import FitEpochEnded
from mlzoo.fit import checkpoints
from mlzoo.fit.columns import Samples
from mlzoo.fit.composing import Run
from mlzoo.fit.files import DataFile
from mlzoo.fit.journal import Journal
from mlzoo.fit.learning import Kept, Learner, keep_features, make
from mlzoo.fit.metrics import FALLING, Figures, chosen
from mlzoo.fit.order import Telling
from mlzoo.fit.splitting import Split
from mlzoo.fit.training import Epoch, Place, Trainer

UNCOMPARED = ("checkpoint_s", "licence")  # settings that change no weight
LATEST = "checkpoint.safetensors"


class Stopped(Exception):
    """Nobody's fault: the user wants it to end here, and a checkpoint is there."""


@attrs.frozen(kw_only=True)
class Work:
    """What one run is made of.

    Attributes:
        directory: where its checkpoints lie.
        base: where the files of its backbone are.
        base_digest: of those.
        is_stopping: whether the user wants it to end.
        shared: features that earlier runs of the same command have computed.
    """

    run: Run
    data: DataFile
    samples: Samples
    split: Split
    directory: Path
    base: Path | None
    base_digest: str
    journal: Journal
    telling: Telling
    is_stopping: Callable[[], bool]
    shared: dict[bytes, Kept]


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of a run; the learner has its best weights."""

    run: Run
    learner: Learner
    metric: str
    best: float
    history: tuple[Epoch, ...]
    best_epoch: int
    validation: Figures
    test: Figures | None
    digest: str
    parameters: int


async def fit(work: Work) -> Outcome:
    """Train a model, from the beginning or from its checkpoint on.

    Raises:
        Stopped: The user wanted so.
        ConfigError: The data or the checkpoint does not fit what was asked for.
        NotFinite: The loss is none any more.
    """
    settings = work.run.settings
    metric = chosen(work.samples.task, settings.stopping.metric)
    threads = torch.get_num_threads()
    learner = make(settings, work.samples, work.split, work.base)
    attempt = _Attempt(work, learner, Trainer(learner, work.split, work.samples.task), metric)
    attempt.take_up()
    try:
        _keep_features(work, learner)
        if learner.kept is not None or work.base is None:
            torch.set_num_threads(1)  # Small products: threads would wait for each other longer than they compute.
        attempt.begin()
        while not attempt.is_over:
            attempt.run_epoch()
            await trio.lowlevel.checkpoint()  # The log is synced meanwhile.
    except Stopped:
        attempt.end("interrupted")
        raise
    except (MlzooError, RuntimeError, MemoryError) as error:
        attempt.end("failed", detail=str(error).splitlines()[0])
        raise
    finally:
        torch.set_num_threads(threads)
    return attempt.outcome()


class _Attempt:
    """A run on its way, as this process has it."""

    def __init__(self, work: Work, learner: Learner, trainer: Trainer, metric: str) -> None:
        self._work = work
        self._learner = learner
        self._trainer = trainer
        self._metric = metric
        self._settings = work.run.settings
        self._identity = _identity(work, learner)
        self._best: dict[str, torch.Tensor] = {}
        self._id = ""
        self._begun = False
        self._saved_at_s = time.monotonic()
        self.is_over = False

    def take_up(self) -> None:
        """Go on from the checkpoint, if there is one."""
        path = self._work.directory / LATEST
        found = checkpoints.read(path)
        if found is None:
            self._id = _new_id()
            return
        checkpoints.refuse_another(path, found.identity, self._identity)
        said = found.document
        history = [Epoch(**epoch) for epoch in said["history"]]
        self._trainer.resume(found.tensors, Place(**{**said["place"], "history": history}))
        self._id, self.is_over = said["run"], said["is_over"]
        place = self._trainer.place
        best = checkpoints.read(self._best_path(place.best_epoch))
        if best is None and place.best is not None:
            missing = self._best_path(place.best_epoch)
            raise ConfigError(f"the best weights, {missing}, are gone: begin anew with --restart", path=str(missing))
        self._best = {} if best is None else best.tensors
        done = "its last epoch" if self.is_over else f"epoch {place.epoch}, step {place.step}"
        self._work.telling.say(f"going on from a checkpoint: {done}")

    def begin(self) -> None:
        """Record that it begins, or goes on."""
        work, place, settings = self._work, self._trainer.place, self._settings
        split = work.split
        command = BeginFit(
            run=self._id,
            name=settings.name,
            version=__version__,
            settings_digest=hashlib.sha256(orjson.dumps(self._identity["settings"])).hexdigest(),
            data_digest=work.data.sha256,
            train_rows=len(split.train),
            validation_rows=len(split.validation),
            test_rows=len(split.test),
            parameters=sum(parameter.numel() for parameter in self._learner.parameters()),
            metric=self._metric,
            falls=self._metric in FALLING,
            epochs=settings.epochs,
            patience=settings.stopping.patience,
            better_by=settings.stopping.better_by,
            epoch=place.epoch - 1,
            best_epoch=place.best_epoch,
            best=place.best,
        )
        columns = {"input": settings.data.input, "target": settings.data.target, "features": list(work.samples.columns)}
        text = {"path": work.data.path, "columns": columns, "settings": self._identity["settings"]}
        work.journal.record(command, text)
        self._begun = True

    def run_epoch(self) -> None:
        """Train an epoch, and let the core judge it."""
        ended = self._trainer.run_epoch(self._after_step)
        value = ended.values[self._metric]
        report = ReportFitEpoch(
            run=self._id,
            epoch=ended.epoch,
            train_loss=ended.train_loss,
            validation_loss=ended.validation_loss,
            value=value,
        )
        (judged,) = self._work.journal.record(report)
        assert isinstance(judged, FitEpochEnded)
        if judged.is_best:
            self._best = {name: tensor.detach().cpu().clone() for name, tensor in self._learner.trained().items()}
            self._trainer.place.best = value
        self._trainer.next_epoch(attrs.evolve(ended, is_best=judged.is_best))
        self.is_over = judged.stop is not None
        title = " ".join(self._work.run.chosen) or self._settings.name
        self._work.telling.epoch(
            title, ended.epoch, self._settings.epochs, {"train loss": ended.train_loss, **ended.values},
            is_best=judged.is_best,
        )  # fmt: skip
        if self.is_over or self._work.is_stopping():
            self.save()
        if not self.is_over and self._work.is_stopping():
            raise Stopped

    def _after_step(self) -> None:
        if self._work.is_stopping():
            self.save()
            raise Stopped
        if time.monotonic() - self._saved_at_s >= self._settings.checkpoint_s:
            self.save()

    def save(self) -> None:
        """Write a checkpoint; the weights of the best epoch are a file of their own, which it names."""
        place = self._trainer.place
        best_path = self._best_path(place.best_epoch)
        if self._best and not best_path.is_file():
            checkpoints.write(best_path, self._best, {}, {})
        plain = attrs.asdict(place)
        document = {
            "run": self._id,
            "is_over": self.is_over,
            "history": plain.pop("history"),
            "place": plain,
            "versions": {"mlzoo": __version__, "torch": torch.__version__},
        }
        checkpoints.write(self._work.directory / LATEST, self._trainer.tensors(), document, self._identity)
        for old in self._work.directory.glob("best-*.safetensors"):
            if old != best_path:
                old.unlink()
        self._saved_at_s = time.monotonic()

    def _best_path(self, epoch: int) -> Path:
        return self._work.directory / f"best-{epoch}.safetensors"

    def end(self, reason: Any, *, detail: str = "", digest: str = "", figures: dict[str, float] | None = None) -> None:
        """Record that this process leaves the run."""
        if self._begun:
            command = EndFit(run=self._id, reason=reason, digest=digest, figures=figures or {})
            self._work.journal.record(command, {"detail": detail} if detail else None)

    def outcome(self) -> Outcome:
        """Return what came of it, measured with the weights of the best epoch."""
        place, split = self._trainer.place, self._work.split
        assert place.best is not None
        self._learner.put(self._best)
        loss, validation = self._trainer.evaluate(split.validation)
        validation = attrs.evolve(validation, values={**validation.values, "loss": loss})
        test = None
        if split.test:
            loss, test = self._trainer.evaluate(split.test)
            test = attrs.evolve(test, values={**test.values, "loss": loss})
        digest = hashlib.sha256(save(dict(sorted(self._best.items())))).hexdigest()
        self.end("finished", digest=digest, figures=(test or validation).values)
        return Outcome(
            run=self._work.run,
            learner=self._learner,
            metric=self._metric,
            best=place.best,
            history=tuple(place.history),
            best_epoch=place.best_epoch,
            validation=validation,
            test=test,
            digest=digest,
            parameters=sum(parameter.numel() for parameter in self._learner.parameters()),
        )


def _keep_features(work: Work, learner: Learner) -> None:
    """Have what the backbone makes of each row, from an earlier run of the command where it is the same."""
    settings = work.run.settings
    what = [settings.data.input, settings.data.features, settings.base, settings.batch_size, settings.device]
    parts = [settings.model.get("backbone"), settings.model.get("pipeline")]
    key = orjson.dumps([work.data.sha256, *what, *parts])
    if settings.trained != "head" or settings.model.get("pipeline", {}).get("kind") == "tabular":
        return

    def on_batch(done: int, total: int) -> None:
        work.telling.rows(done, total)
        if work.is_stopping():
            raise Stopped

    if key in work.shared:
        learner.kept = work.shared[key]
        return
    keep_features(learner, on_batch)
    if learner.kept is not None:
        work.shared[key] = learner.kept


def _identity(work: Work, learner: Learner) -> dict[str, Any]:
    """Return what must be the same for another process to go on from a checkpoint of this run."""
    plain = attrs.asdict(work.run.settings)
    for name in UNCOMPARED:
        del plain[name]
    architecture = {
        name: f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in learner.trained().items()
    }
    identity = {
        "settings": plain,
        "data": work.data.sha256,
        "base": work.base_digest,
        "labels": list(learner.spec.labels),
        "architecture": {name.replace(".", "/"): shape for name, shape in architecture.items()},
    }
    return orjson.loads(orjson.dumps(identity))  # type: ignore[no-any-return] # as it is read back


def _new_id() -> str:
    return f"fit-{uuid.uuid4().hex[:20]}"


__all__ = ["LATEST", "Outcome", "Stopped", "Work", "fit"]
