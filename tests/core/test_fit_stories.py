"""Training runs, as the core judges them: what is the best epoch, when it is over, and what a kill leaves."""

import pytest
from core_driver import Core

from mlzoo.events import commands as cmd
from mlzoo.events import types as ev


def kinds(events):
    return [type(event).__name__ for event in events]


def begun(core, run="f1", **changes):
    rows = {"train_rows": 10, "validation_rows": 2, "test_rows": 2, "parameters": 30}
    digests = {"settings_digest": "s", "data_digest": "d", "version": "0"}
    judged = {"metric": "accuracy", "falls": False, "epochs": 5, **changes}
    return core.tell(cmd.BeginFit(run=run, name="m", **rows, **digests, **judged))


def epoch(core, number, value, run="f1"):
    told = cmd.ReportFitEpoch(run=run, epoch=number, train_loss=0.5, validation_loss=0.5, value=value)
    [event] = core.tell(told)
    return event


def test_an_epoch_is_the_best_where_its_metric_rises_above_the_others():
    core = Core()
    assert kinds(begun(core)) == ["FitStarted"]
    assert [epoch(core, n, value).is_best for n, value in enumerate([0.5, 0.4, 0.5, 0.6], start=1)] == [
        True, False, False, True,
    ]  # fmt: skip
    assert (core.state.fit.best_epoch, core.state.fit.best, core.state.fit.epoch) == (4, 0.6, 4)


def test_a_metric_that_falls_is_better_below_the_others_and_only_by_as_much_as_was_said():
    core = Core()
    begun(core, metric="loss", falls=True, better_by=0.1)
    assert [epoch(core, n, value).is_best for n, value in enumerate([1.0, 0.95, 0.85], start=1)] == [True, False, True]


def test_a_run_stops_after_its_last_epoch():
    core = Core()
    begun(core, epochs=2)
    assert [epoch(core, n, n / 10).stop for n in (1, 2)] == [None, "epochs"]


def test_a_run_stops_once_its_patience_is_used_up():
    core = Core()
    begun(core, epochs=9, patience=2)
    assert [epoch(core, n, value).stop for n, value in enumerate([0.5, 0.6, 0.6, 0.1], start=1)] == [
        None, None, None, "patience",
    ]  # fmt: skip


def test_a_run_that_is_taken_up_again_is_judged_by_what_its_checkpoint_knows():
    core = Core()
    begun(core, epochs=9, patience=2)
    epoch(core, 1, 0.5)
    epoch(core, 2, 0.9)
    begun(core, epochs=9, patience=2, epoch=1, best_epoch=1, best=0.5)
    assert epoch(core, 2, 0.9).is_best
    [ended] = core.tell(cmd.EndFit(run="f1", reason="finished", digest="abc", figures={"accuracy": 0.9}))
    assert ended == ev.FitEnded(run="f1", reason="finished", best_epoch=2, best=0.9, digest="abc")
    assert core.state.fit is None


def test_a_run_that_was_killed_is_said_to_be_interrupted_when_the_next_one_begins():
    core = Core()
    begun(core)
    epoch(core, 1, 0.5)
    interrupted, started = begun(core, run="f2")
    assert interrupted == ev.FitEnded(run="f1", reason="interrupted", best_epoch=1, best=0.5)
    assert (started.run, core.state.fit.best) == ("f2", None)


@pytest.mark.parametrize(
    "command",
    [
        cmd.ReportFitEpoch(run="f0", epoch=1, train_loss=1.0, validation_loss=1.0, value=1.0),
        cmd.EndFit(run="f0", reason="finished"),
    ],
)
def test_what_is_said_of_a_run_that_does_not_live_changes_nothing(command):
    core = Core()
    begun(core)
    was = core.state
    assert list(core.tell(command)) == []
    assert core.state == was
