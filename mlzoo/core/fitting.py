"""The story of a training run: which epoch is the best, and when no better one is waited for.

Knows numbers only. What is trained, and on what, is the training process's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import FitState
    from mlzoo.events import commands as cmd


def begin(draft: Draft, command: cmd.BeginFit) -> None:
    """Begin a run, or take it up again; another one that lives here was killed, since only one process has the log."""
    left = draft.state.fit
    if left is not None and left.run != command.run:
        draft.say(ev.FitEnded(run=left.run, reason="interrupted", best_epoch=left.best_epoch, best=left.best))
    draft.say(
        ev.FitStarted(
            run=command.run,
            name=command.name,
            epoch=command.epoch,
            falls=command.falls,
            epochs=command.epochs,
            patience=command.patience,
            better_by=command.better_by,
            best_epoch=command.best_epoch,
            best=command.best,
        )
    )


def epoch(draft: Draft, command: cmd.ReportFitEpoch) -> None:
    """Judge an epoch; one of a run that does not live here says nothing."""
    fit = draft.state.fit
    if fit is None or fit.run != command.run:
        return
    is_best = _is_better(fit, command.value)
    since_best = 0 if is_best else command.epoch - fit.best_epoch
    stop: ev.FitStop | None = None
    if command.epoch >= fit.epochs:
        stop = "epochs"
    elif 0 < fit.patience <= since_best:
        stop = "patience"
    draft.say(ev.FitEpochEnded(run=fit.run, epoch=command.epoch, value=command.value, is_best=is_best, stop=stop))


def end(draft: Draft, command: cmd.EndFit) -> None:
    """End a run."""
    fit = draft.state.fit
    if fit is not None and fit.run == command.run:
        draft.say(
            ev.FitEnded(
                run=fit.run,
                reason=command.reason,
                best_epoch=fit.best_epoch,
                best=fit.best,
                digest=command.digest,
            )
        )


def _is_better(fit: FitState, value: float) -> bool:
    if fit.best is None:
        return True
    return value < fit.best - fit.better_by if fit.falls else value > fit.best + fit.better_by
