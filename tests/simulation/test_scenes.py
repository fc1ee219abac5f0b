"""Scenes that chance brings about too rarely: each a story that was written by hand, in the same simulated world."""

from pathlib import Path

import attrs
import pytest
from planted_bugs import a_route_goes_on_amid_an_answer, whatever_goes_on_is_called_exact, whatever_goes_on_is_prefilled

from mlzoo.core import recycling
from mlzoo.simulation import invariants, stories
from mlzoo.simulation.evidence import Evidence
from mlzoo.simulation.histories import LOG
from mlzoo.simulation.machines import config_of
from mlzoo.simulation.plans import (
    MACHINES,
    Ask,
    Cancel,
    CloseOutput,
    Crash,
    EndInput,
    FaultPlan,
    Forget,
    HostPlan,
    LifePlan,
    Pause,
    Settle,
    StoryPlan,
    Together,
    Turns,
    draw,
)
from mlzoo.simulation.stories import tell

TWICE_SEQ = 71  # from which on the old log names a second request as one before: its makers drew names by number
OLD_LOG = Path(__file__).parent.parent.parent / "replay" / "logs" / "1"
CHAT = Ask("chat", {"model": "toy", "stream": True}, pieces=5)
EXACT = Ask("chat", {"model": "toy", "stream": True, "determinism": "exact"}, pieces=9, key="key-1")
RESUME = Ask("resume", {"key": "key-1", "after": -1})
ROOM_BYTES = 1 << 16
SEEDS = range(8)  # each another order of tasks, and another pace of the worker


def life(*actions, faults=(), crash=None, sync_s=0.0, small_segments=False):
    return LifePlan((HostPlan(actions, ROOM_BYTES),), faults, crash, sync_s, small_segments)


def found(*lives, seeds=SEEDS):
    """Return the invariants that a story breaks under any of the seeds."""
    outcomes = [tell(StoryPlan(seed, lives, "disk")) for seed in seeds]
    return {violation.invariant for outcome in outcomes for violation in outcome.violations}


def interrupted(fault):
    """The worker dies in mid-answer; the host hears so, and resumes."""
    return life(EXACT, Settle(), RESUME, EXACT, faults=tuple(FaultPlan(fault, at_s) for at_s in (0.06, 0.3)))


def crashed_in_mid_answer():
    """The sidecar dies in mid-answer; the next one goes on."""
    return life(EXACT, Settle(), crash=Crash("append", 14, power=False)), life(RESUME, EXACT)


def test_an_exact_answer_goes_on_as_if_nothing_had_happened_when_its_worker_was_killed(monkeypatch):
    assert found(interrupted("worker_killed")) == set()
    whatever_goes_on_is_prefilled(monkeypatch)
    assert "I4" in found(interrupted("worker_killed"))


def test_an_exact_answer_goes_on_as_if_nothing_had_happened_when_the_sidecar_was_killed(monkeypatch):
    assert found(*crashed_in_mid_answer()) == set()
    whatever_goes_on_is_prefilled(monkeypatch)
    assert "I4" in found(*crashed_in_mid_answer())


def test_what_another_build_goes_on_with_is_not_called_exact(monkeypatch):
    assert found(interrupted("worker_is_another_build")) == set()
    whatever_goes_on_is_called_exact(monkeypatch)
    assert "I4" in found(interrupted("worker_is_another_build"))


def test_a_cancel_may_come_at_any_turn_of_the_scheduler():
    for count in range(150):
        assert found(life(CHAT, Turns(count), Cancel(0, notify=count % 2 == 0)), seeds=[count]) == set()


def test_forgetting_may_be_broken_off_at_any_change_of_the_disk():
    for point in ("append", "fsync"):
        for after in range(14, 30):
            forgets = life(CHAT, Settle(), Forget(0), crash=Crash(point, after, power=True), small_segments=True)
            assert found(forgets, life(CHAT, Settle(), Forget(0)), seeds=[after]) == set()


def test_stdin_may_end_in_the_middle_of_a_line():
    assert found(life(CHAT, EndInput(in_mid_line=True)), life(CHAT, Pause(0.05), EndInput(in_mid_line=True))) == set()


def test_lives_begin_on_a_log_of_an_old_version():
    files = sorted(path for path in OLD_LOG.rglob("*") if path.is_file())
    files = [path for path in files if path.parent.name != "segments" or int(path.stem) < TWICE_SEQ]
    image = tuple((str(LOG / path.relative_to(OLD_LOG).as_posix()), path.read_bytes()) for path in files)
    for seed in range(25):
        plan = draw(seed)
        assert tell(attrs.evolve(plan, durability="disk"), image).violations == ()


def test_a_host_that_is_gone_with_a_slow_call_open_is_not_waited_for():
    """It asks to forget something, which waits for a sync, and closes its end of stdout; then its input ends."""
    said = Ask("chat", {"model": "toy", "stream": False})
    actions = (
        said,
        Settle(),
        Forget(0),
        Cancel(1, notify=True),
        CloseOutput(),
        Pause(0.7),
        CHAT,
        Cancel(3, notify=True),
    )
    host = HostPlan(actions, room_bytes=1024)
    for seed in (7464743449250500541, *range(8)):
        lived = LifePlan((host,), (), Crash("fsync", 25, power=True), sync_s=2.0, small_segments=False)
        plan = StoryPlan(seed, (lived,), "disk")
        assert not tell(plan).violations


EMBED = Ask("embed", {"model": "vec", "input": ["a"]})


def recorded(monkeypatch, *lives, seed):
    """Tell a story in which nothing is violated, and return the data of its events by their types."""
    made = []

    class Kept(Evidence):
        def __init__(self, durability):
            super().__init__(durability)
            made.append(self)

    monkeypatch.setattr(stories, "Evidence", Kept)
    assert tell(StoryPlan(seed, lives, "disk")).violations == ()
    events = {}
    for record in made[-1].log.groups:
        events.setdefault(record.data["type"], []).append(record.data["data"])
    return events


def making_room():
    """Two models that do not fit together are wanted in turn, in a worker that keeps the memory of what has gone."""
    actions = (EMBED, Settle(), Together((CHAT, CHAT, CHAT)), Pause(0.01), CHAT, Settle())
    leaks = FaultPlan("worker_leaks", 0.0)
    return attrs.evolve(life(*actions, faults=(leaks,)), machine="small")


def test_a_worker_that_keeps_memory_makes_way_once_and_whoever_came_meanwhile_is_served(monkeypatch):
    for seed in SEEDS:
        events = recorded(monkeypatch, making_room(), seed=seed)
        retired = [event["reason"] for event in events["WorkerRetired"]]
        assert retired.count("memory") == 1
        assert len(events["WorkerWentUp"]) == 2
        assert len(events["RequestCompleted"]) == 5
        assert "RequestFailed" not in events


def test_were_it_kept_its_memory_would_be_missing(monkeypatch):
    monkeypatch.setattr(recycling, "KEPT_BYTES", 1 << 40)
    there_and_back = HostPlan((EMBED, Settle(), CHAT, Settle(), EMBED, Settle()), ROOM_BYTES)
    back = attrs.evolve(making_room(), hosts=(there_and_back,))
    [failed] = recorded(monkeypatch, back, seed=0)["RequestFailed"]
    assert failed["failure"]["code"] == 1005


def test_a_model_with_two_replicas_answers_on_both_workers_and_goes_on_beside_one_that_is_killed(monkeypatch):
    actions = (Together((EXACT, CHAT, CHAT, CHAT)), Pause(0.3), RESUME, Settle())
    for seed in SEEDS:
        killed = life(*actions, faults=(FaultPlan("worker_killed", 0.5),))
        events = recorded(monkeypatch, attrs.evolve(killed, machine="two workers"), seed=seed)
        assert {event["device"] for event in events["RequestDispatched"]} == {"cpu:0", "cpu:1"}


def test_a_provider_that_breaks_off_is_followed_by_nobody_once_it_has_said_something(monkeypatch):
    chat = Ask("chat", {"model": "any", "stream": True}, pieces=9)
    breaks_off = life(chat, chat, Settle(), faults=(FaultPlan("provider_breaks_off", 0.0),))
    assert found(breaks_off) == set()
    a_route_goes_on_amid_an_answer(monkeypatch)
    assert "I4" in found(breaks_off)


@pytest.mark.parametrize("machine", MACHINES)
def test_who_waits_for_a_load_that_hangs_waits_until_the_host_leaves_and_the_drain_ends(machine, monkeypatch):
    """Its worker hangs before the turns of a conversation are all answered, and the host waits a quarter of an hour."""
    turn = Ask("chat", {"model": "toy", "stream": True, "conversation": "talk-0"}, pieces=5)
    patient = life(turn, turn, turn, *[Settle()] * 16, faults=(FaultPlan("worker_hangs", 0.01),))
    patient = attrs.evolve(patient, machine=machine)
    assert found(patient) == set()
    drain_ms = round(config_of("disk", machine=machine).limits.drain_s * 1000)
    monkeypatch.setattr(invariants, "LEAVING_MS", drain_ms)
    assert found(patient) == set()
    monkeypatch.setattr(invariants, "LEAVING_MS", drain_ms - 1)
    assert found(patient) == {"I9"}
