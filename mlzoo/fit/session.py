"""The story of a command: data is read, each run is made, the best one is told of, kept and served by its name.

The training process: whoever calls ``run`` has looked at everything that can be known without torch.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from mlzoo.errors import LogUnusable
from mlzoo.fit import files
from mlzoo.fit.columns import samples
from mlzoo.fit.order import Interrupted, Report, RunReport, base_of
from mlzoo.fit.splitting import split
from mlzoo.parts import spec_of
from mlzoo.store.lock import exclusively

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlzoo.fit.columns import Samples
    from mlzoo.fit.composing import Run
    from mlzoo.fit.files import DataFile
    from mlzoo.fit.journal import Journal
    from mlzoo.fit.order import Order, Telling
    from mlzoo.fit.runs import Outcome
    from mlzoo.fit.settings import FitSettings
    from mlzoo.fit.splitting import Split


def run(order: Order, telling: Telling) -> Report | Interrupted:
    """Do what was ordered.

    Raises:
        ConfigError: The data cannot be learned from, or a checkpoint is of another run; nothing is lost.
        NotFinite: A run went astray.
        LogUnusable: Another process trains under this name or has its log, or the log is damaged.
        StorageFailed: The disk would not.
    """
    with exclusively(order.state / "lock", wait=False) as held:
        if not held:
            told = f"another process trains {order.name!r} just now: wait for it, or take another name"
            raise LogUnusable(told, reason="locked", path=str(order.state))
        # What can be wrong with the data is told before torch is imported, of all runs.
        prepared = [_prepared(each) for each in order.runs]
        _set_up(order.runs[0].settings)
        try:
            return trio.run(partial(_session, order, telling, prepared))
        except BaseExceptionGroup as group:  # The log's nursery wraps what ends it.
            raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _prepared(each: Run) -> tuple[DataFile, Samples, Split]:
    settings = each.settings
    data = files.read(settings.data)
    found = samples(data, settings.data, spec_of(settings.model, at="model"))
    return data, found, split(data, settings.data, found, settings.seed)


def _set_up(settings: FitSettings) -> None:
    """Set the process up; torch reads the environment when it is imported."""
    from mlzoo.inference.process import usable_processors  # noqa: PLC0415

    threads = settings.threads or usable_processors()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # Threads that spin starve beside a neighbour.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it, products on a GPU are not always the same
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


async def _session(
    order: Order, telling: Telling, prepared: list[tuple[DataFile, Samples, Split]]
) -> Report | Interrupted:
    from mlzoo.fit.journal import opened  # noqa: PLC0415

    with _interrupts() as is_stopping:
        async with opened(order.log) as journal:
            return await _runs(order, telling, prepared, journal, is_stopping)


async def _runs(
    order: Order, telling: Telling, prepared: list[tuple[DataFile, Samples, Split]], journal: Journal, is_stopping: Any
) -> Report | Interrupted:
    from mlzoo.fit.installing import install  # noqa: PLC0415
    from mlzoo.fit.runs import Stopped, Work, fit  # noqa: PLC0415

    best: tuple[int, Outcome] | None = None
    reports: list[RunReport] = []
    shared: dict[bytes, Any] = {}
    artifact = order.state / "artifact"
    if order.restart:
        shutil.rmtree(order.state / "runs", ignore_errors=True)
    for number, (each, (data, found, parts)) in enumerate(zip(order.runs, prepared, strict=True)):
        base, base_digest = base_of(order, each.settings.base)
        directory = order.state / "runs" / str(number)
        work = Work(
            run=each,
            data=data,
            samples=found,
            split=parts,
            directory=directory,
            base=base,
            base_digest=base_digest,
            journal=journal,
            telling=telling,
            is_stopping=is_stopping,
            shared=shared,
        )
        try:
            outcome = await fit(work)
        except Stopped:
            return Interrupted(" ".join(each.chosen) or order.name, number + 1)
        reports.append(_report(outcome))
        if best is None or _is_better(outcome, best[1]):
            best = number, outcome
            _save(order, outcome, data, parts, artifact)
    assert best is not None
    place, entry = install(order, best[1].run.settings, artifact)
    shutil.rmtree(order.state / "runs", ignore_errors=True)
    return Report(metric=best[1].metric, runs=tuple(reports), best=best[0], artifact=place, entry=entry)


def _report(outcome: Outcome) -> RunReport:
    return RunReport(
        chosen=outcome.run.chosen,
        epochs=len(outcome.history),
        best_epoch=outcome.best_epoch,
        validation=outcome.validation.values,
        test=outcome.test.values if outcome.test else {},
    )


def _is_better(outcome: Outcome, than: Outcome) -> bool:
    from mlzoo.fit.metrics import FALLING  # noqa: PLC0415

    return outcome.best < than.best if outcome.metric in FALLING else outcome.best > than.best


def _save(order: Order, outcome: Outcome, data: DataFile, parts: Split, artifact: Path) -> None:
    """Write the artifact of a run: weights, what it is made of, its card and its pictures."""
    from mlzoo.fit.card import card  # noqa: PLC0415
    from mlzoo.fit.plots import draw  # noqa: PLC0415
    from mlzoo.models import artifact as artifacts  # noqa: PLC0415

    shutil.rmtree(artifact, ignore_errors=True)
    model = outcome.learner.merged()
    artifacts.save(model, outcome.learner.spec, artifact)
    pictures = draw(outcome, artifact)
    (artifact / "README.md").write_text(card(order, outcome, data, parts, pictures), encoding="utf-8")


@contextmanager
def _interrupts() -> Iterator[Any]:
    """Turn Ctrl-C and SIGTERM into a wish that is heard between steps; the second time they end the process."""
    wished = False

    def hear(number: int, _frame: Any) -> None:
        nonlocal wished
        wished = True
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: wished
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
