"""What a worker says of a model that has been ready for a while."""

from __future__ import annotations

import attrs
from core_driver import Core

from mlzoo.events import commands as cmd


def kinds(events):
    return [type(event).__name__ for event in events]


def test_a_worker_may_say_later_that_what_it_chose_for_a_model_has_changed():
    core = Core()
    core.load("l1")
    core.ready()
    core.pass_time(1000)
    before = core.state.models["chatty"]
    report = cmd.ReportLoaded(
        model="chatty", device="cpu", memory_bytes=7, context=64, slots=2, why=("its steps are compiled",)
    )
    assert kinds(core.tell(report)) == ["ModelExplained"]
    assert core.state.models["chatty"] == attrs.evolve(before, why=("its steps are compiled",))
    assert core.tell(report) == ()
    assert core.tell(attrs.evolve(report, device="cuda:0", why=())) == ()
