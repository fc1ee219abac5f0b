"""Replicas of one model: where they are, which one takes a request, and what the loss of one leaves alone."""

from __future__ import annotations

import attrs
import pytest
from core_driver import BOUNDS, CHAT, EMBED, Core, device, row

from mlzoo.core.replicas import AFFINITY_TOKENS, replicas_of
from mlzoo.errors import ModelLoadFailed
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

TWIN = attrs.evolve(CHAT, name="twin", replicas=2, slots=4)
BITS = "f1"


def both(free_bytes=100):
    return device("cpu:0", free_bytes), device("cpu:1", free_bytes)


def kinds(events):
    return [type(event).__name__ for event in events]


def where(core, *requests):
    return [core.state.requests[request].device for request in requests]


def a_core_with_twins(fingerprints=(BITS, BITS), model=TWIN, **first):
    core = Core(attrs.evolve(BOUNDS, max_running=16, queued_bytes=100_000))
    core.chat("first", model, **first)
    for number, fingerprint in enumerate(fingerprints):
        name = f"cpu:{number}"
        key = model.name if number == 0 else f"{model.name}#{number}"
        core.tell(cmd.ReportDevices(model=key, devices=both()))
        core.worker_up(name)
        core.loaded(model, name, fingerprint)
    return core


def test_a_model_of_two_replicas_is_placed_on_two_devices_by_its_first_request():
    core = Core()
    asked = [event for event in core.chat("r1", TWIN) if isinstance(event, ev.PlacementAsked)]
    assert [event.replica for event in asked] == [0, 1]
    core.tell(cmd.ReportDevices(model="twin", devices=both()))
    core.tell(cmd.ReportDevices(model="twin#1", devices=both()))
    assert [(m.device, m.phase) for m in replicas_of(core.state, "twin")] == [
        ("cpu:0", "loading"),
        ("cpu:1", "loading"),
    ]


def test_a_replica_that_finds_no_room_is_done_without_and_evicts_nobody():
    core = Core()
    core.load("l1", EMBED)
    core.ready(EMBED, on="cpu:1")
    core.chat("r1", TWIN)
    core.tell(cmd.ReportDevices(model="twin", devices=both()))
    events = core.tell(cmd.ReportDevices(model="twin#1", devices=(device("cpu:0", 60), device("cpu:1", 10))))
    assert kinds(events) == ["DevicesSeen", "ModelFailed"]
    core.worker_up("cpu:0")
    assert kinds(core.loaded(TWIN, "cpu:0")) == ["ModelReady", "RequestDispatched"]


def test_requests_go_where_the_fewest_tokens_are_left():
    core = a_core_with_twins(max_tokens=500)
    for request, tokens in (("r1", 10), ("r2", 10), ("r3", 10)):
        core.chat(request, TWIN, max_tokens=tokens)
    assert where(core, "first", "r1", "r2", "r3") == ["cpu:0", "cpu:1", "cpu:1", "cpu:1"]


def test_what_has_been_said_and_read_counts_no_more():
    core = a_core_with_twins(max_tokens=20, size_bytes=4000)
    core.chat("r1", TWIN, max_tokens=30)
    core.step(*[row("first", prompt_tokens=900 if not step else None) for step in range(1)], on="cpu:0")
    core.chat("r2", TWIN, max_tokens=5)
    assert where(core, "first", "r1", "r2") == ["cpu:0", "cpu:1", "cpu:0"]


def test_a_conversation_goes_on_where_it_was_unless_that_is_much_busier():
    core = a_core_with_twins(max_tokens=20, prefixes=("p", "pc"))
    core.chat("same", TWIN, max_tokens=20, prefixes=("p", "pc"))
    core.chat("other", TWIN, max_tokens=20, prefixes=("q", "qc"))
    assert where(core, "first", "same", "other") == ["cpu:0", "cpu:0", "cpu:1"]
    core.chat("long", TWIN, max_tokens=2 * AFFINITY_TOKENS, prefixes=("p", "pc"))
    core.chat("later", TWIN, max_tokens=20, prefixes=("p", "pc"))
    assert where(core, "long", "later") == ["cpu:0", "cpu:1"]


def test_a_persona_prefers_its_replica_less_than_a_conversation_does():
    core = a_core_with_twins(max_tokens=20, prefixes=("p", "pa"))
    core.chat("away", TWIN, max_tokens=1, prefixes=("x", "xa"))
    core.step(row("away", "stop"), on="cpu:1")
    core.chat("persona", TWIN, max_tokens=1, prefixes=("p", "pb"))
    assert where(core, "persona") == ["cpu:0"]


def test_nobody_waits_for_a_busy_replica_while_another_has_a_slot():
    core = a_core_with_twins(max_tokens=1, prefixes=("p", "pc"))
    for number in range(7):
        core.chat(f"r{number}", TWIN, max_tokens=1, prefixes=("p", "pc"))
    devices = where(core, "first", *[f"r{number}" for number in range(7)])
    assert (devices.count("cpu:0"), devices.count("cpu:1")) == (4, 4)


@pytest.mark.parametrize(("second", "resumed"), [(BITS, "exact"), ("f2", "prefill")])
def test_the_loss_of_one_worker_leaves_the_other_alone_and_what_has_a_key_goes_on_there_at_once(second, resumed):
    core = a_core_with_twins((BITS, second), key="k1", determinism="exact")
    core.chat("neighbour", TWIN)
    core.step(row("first"), on="cpu:0")
    assert where(core, "first", "neighbour") == ["cpu:0", "cpu:1"]
    events = core.lost("cpu:0")
    assert kinds(events)[:4] == ["WorkerWentDown", "RequestSuspended", "ModelUnloaded", "RequestDispatched"]
    assert where(core, "first", "neighbour") == ["cpu:1", "cpu:1"]
    assert core.state.requests["first"].resumed == resumed


def test_a_lost_replica_comes_back_when_all_others_are_busy():
    core = a_core_with_twins()
    core.step(row("first", "stop"), on="cpu:0")
    assert kinds(core.lost("cpu:1")) == ["WorkerWentDown", "ModelUnloaded"]
    [asked] = [event for event in core.chat("r1", TWIN) if isinstance(event, ev.PlacementAsked)]
    assert (asked.replica, where(core, "r1")) == (1, ["cpu:0"])


def test_exact_requests_wait_for_no_replica_that_cannot_be_exact():
    core = a_core_with_twins(("", BITS), determinism="exact")
    assert where(core, "first") == ["cpu:1"]


def test_an_unload_takes_all_replicas_and_is_answered_after_the_last():
    core = a_core_with_twins()
    core.step(row("first", "stop"), on="cpu:0")
    assert kinds(core.unload("u1", TWIN)).count("ModelUnloadStarted") == 2
    assert "RequestReplied" not in kinds(core.unloaded(TWIN, "cpu:0"))
    assert "RequestReplied" in kinds(core.unloaded(TWIN, "cpu:1"))


def test_a_load_is_answered_once_every_replica_is_there():
    core = Core()
    core.load("l1", TWIN)
    core.chat("r1", TWIN)
    for key in ("twin", "twin#1"):
        core.tell(cmd.ReportDevices(model=key, devices=both()))
    core.worker_up("cpu:0")
    assert kinds(core.loaded(TWIN, "cpu:0")) == ["ModelReady", "RequestDispatched"]
    core.worker_up("cpu:1")
    assert kinds(core.loaded(TWIN, "cpu:1")) == ["ModelReady", "RequestReplied"]


def test_a_device_that_a_request_requires_is_the_replica_that_takes_it():
    core = a_core_with_twins()
    core.chat("r1", TWIN, require_device="cpu:0")
    core.chat("r2", TWIN, require_device="cpu:1")
    core.chat("r3", TWIN, require_device="cpu:1")
    assert where(core, "r1", "r2", "r3") == ["cpu:0", "cpu:1", "cpu:1"]
    [refused] = [e for e in core.chat("r4", TWIN, require_device="mps") if isinstance(e, ev.RequestFailed)]
    assert refused.failure.data["feature"] == "device mps"


def three(free_bytes=100):
    return device("cpu:2", free_bytes), *both(free_bytes)


def comes_back(core, fingerprint=BITS):
    """Have the second replica placed and loaded, and return where it is and what follows."""
    [placed] = [
        event
        for event in core.tell(cmd.ReportDevices(model="twin#1", devices=three()))
        if isinstance(event, ev.ModelLoadStarted)
    ]
    core.worker_up(placed.device)
    return placed.device, kinds(core.loaded(TWIN, placed.device, fingerprint))


def test_who_needs_the_device_of_a_lost_replica_goes_on_there_once_it_is_back():
    core = a_core_with_twins()
    core.chat("r1", TWIN, key="k1", require_device="cpu:1")
    core.step(row("r1"), on="cpu:1")
    assert kinds(core.lost("cpu:1")) == ["WorkerWentDown", "RequestSuspended", "ModelUnloaded", "PlacementAsked"]
    assert comes_back(core) == ("cpu:1", ["ModelReady", "RequestDispatched"])
    assert core.state.requests["r1"].resumed == "prefill"


def test_what_only_a_lost_replica_computes_exactly_waits_for_it():
    core = a_core_with_twins(("", BITS), key="k1", determinism="exact")
    core.step(row("first"), on="cpu:1")
    assert kinds(core.lost("cpu:1")) == ["WorkerWentDown", "RequestSuspended", "ModelUnloaded", "PlacementAsked"]
    comes_back(core)
    assert core.state.requests["first"].resumed == "exact"


def test_a_request_that_no_replica_can_take_is_refused_once_all_are_there():
    core = a_core_with_twins(("", ""))
    core.lost("cpu:1")
    assert kinds(core.chat("r1", TWIN, determinism="exact")) == ["RequestAccepted", "PlacementAsked"]
    assert comes_back(core, "")[1] == ["ModelReady", "RequestFailed"]


def test_who_needs_a_device_without_room_for_a_replica_is_refused():
    core = a_core_with_twins()
    core.lost("cpu:1")
    core.chat("r1", TWIN, require_device="cpu:1")
    core.load("l1", EMBED)
    core.ready(EMBED, on="cpu:1")
    events = core.tell(cmd.ReportDevices(model="twin#1", devices=(device("cpu:0", 60), device("cpu:1", 10))))
    assert kinds(events) == ["DevicesSeen", "ModelFailed", "RequestFailed"]


def test_who_needs_the_device_of_a_replica_that_is_unloading_waits_for_it():
    core = a_core_with_twins()
    core.pass_time(1000)
    core.step(row("first", "stop"), on="cpu:0")
    core.pass_time(TWIN.keep_alive_ms - 1000)
    assert {m.device: m.phase for m in replicas_of(core.state, "twin")} == {"cpu:0": "ready", "cpu:1": "unloading"}
    assert kinds(core.chat("r1", TWIN, require_device="cpu:1")) == ["RequestAccepted"]
    assert "PlacementAsked" in kinds(core.unloaded(TWIN, "cpu:1"))


@pytest.mark.parametrize(
    ("key", "follows"),
    [("", ["RequestFailed"]), ("k1", ["RequestSuspended", "ModelUnloaded", "PlacementAsked"])],
)
def test_a_worker_that_dies_as_it_loads_a_replica_is_a_loss_to_who_needs_its_device(key, follows):
    core = a_core_with_twins()
    core.lost("cpu:1")
    core.chat("r1", TWIN, key=key, require_device="cpu:1")
    core.tell(cmd.ReportDevices(model="twin#1", devices=both()))
    core.worker_up("cpu:1")
    events = core.lost("cpu:1")
    assert kinds(events) == ["WorkerWentDown", "ModelFailed", *follows]
    failures = [event.failure.code for event in events if isinstance(event, ev.RequestFailed)]
    assert failures == ([] if key else [1004])


def test_weights_that_cannot_be_loaded_are_the_failure_of_who_needs_that_device():
    core = a_core_with_twins()
    core.lost("cpu:1")
    core.chat("r1", TWIN, require_device="cpu:1")
    core.tell(cmd.ReportDevices(model="twin#1", devices=both()))
    broken = ModelLoadFailed("The weights are damaged.").failure()
    events = core.tell(cmd.ReportLoadFailed(model="twin", device="cpu:1", failure=broken))
    assert [event.failure.code for event in events if isinstance(event, ev.RequestFailed)] == [1004]


@pytest.mark.parametrize(
    ("second", "degraded"), [("cpu", "cuda:0: has another replica"), ("cuda:1", None)], ids=["slower", "as fast"]
)
def test_a_replica_on_a_slower_device_says_so(second, degraded):
    core = Core()
    core.chat("r1", TWIN)
    for key in ("twin", "twin#1"):
        core.tell(cmd.ReportDevices(model=key, devices=(device("cuda:0", 100), device(second, 100))))
    assert [(m.device, m.degraded) for m in replicas_of(core.state, "twin")] == [("cuda:0", None), (second, degraded)]
