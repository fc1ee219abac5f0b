"""Providers and routes, told to the pure core: who is asked, who instead, and who is left alone for a while."""

from __future__ import annotations

import attrs
import pytest
from core_driver import BOUNDS, CHAT, Core, row, start

from mlzoo import errors
from mlzoo.core.breaker import FAULTS_TO_OPEN, FIRST_OPEN_MS, PROBE_MS
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

CLOUD = cmd.ModelFacts(name="big", kind="chat", provider="cloud", slots=2)
SMALL = cmd.ModelFacts(name="small", kind="chat", provider="cloud", slots=2)
SKY = cmd.ModelFacts(name="blue", kind="chat", provider="sky", slots=1)
DOWN = errors.ProviderError("Provider cloud answered 500.", provider="cloud", status=500).failure()
BUSY = errors.ProviderError("Busy.", provider="cloud", status=429, retry_after_ms=60_000).failure()
WRONG = errors.ProviderError("No.", provider="cloud", status=400, retryable=False).failure()
NO_KEY = errors.ProviderError("No key.", provider="cloud", reason="no_key", retryable=False).failure()
BROKEN_OFF = errors.Interrupted("It broke off.", provider="cloud", resumable=False).failure()


def kinds(events):
    return [type(event).__name__ for event in events]


def only(events, kind):
    [event] = [e for e in events if isinstance(e, kind)]
    return event


def chain(*models, **refused):
    return tuple(cmd.Candidate(model=model, refused=refused.get(model.name)) for model in models)


def fails(core, request, failure=DOWN):
    return core.tell(cmd.ReportFailure(request=request, failure=failure))


def said(request, finish_reason=None):
    return attrs.evolve(row(request, finish_reason), tokens=0)


def completes(core, request, on="api:cloud"):
    last = cmd.RowFacts(request=request, tokens=0, size_bytes=0, finish_reason="stop", completion_tokens=3)
    return core.step(last, on=on)


def a_core_whose_provider_is_left_alone():
    core = Core()
    for number in range(FAULTS_TO_OPEN):
        core.chat(f"f{number}", CLOUD)
        fails(core, f"f{number}")
    return core


# ------------------------------------------------------------------------------------------------ asked


def test_a_model_of_a_provider_is_asked_at_once_and_nothing_is_placed():
    core = Core()
    events = core.chat("r1", CLOUD)
    assert kinds(events) == ["RequestAccepted", "RequestDispatched"]
    assert events[1].device == "api:cloud"
    core.step(said("r1"), on="api:cloud")
    completed = only(completes(core, "r1"), ev.RequestCompleted)
    assert (completed.device, completed.completion_tokens) == ("api:cloud", 3)
    assert not core.state.models
    core.check_replay()


def test_a_provider_has_as_many_requests_as_it_takes_whatever_their_models_and_the_others_wait():
    core = Core()
    core.chat("r1", CLOUD)
    core.chat("r2", SMALL)
    assert kinds(core.chat("r3", CLOUD)) == ["RequestAccepted"]
    assert kinds(core.chat("r4", SKY)) == ["RequestAccepted", "RequestDispatched"]
    assert only(completes(core, "r1"), ev.RequestDispatched).request == "r3"


def test_a_host_that_cancels_has_the_provider_stop():
    core = Core()
    core.chat("r1", CLOUD)
    assert only(core.cancel("r1"), ev.WorkAbandoned).device == "api:cloud"


def test_no_provider_promises_bits_or_a_device():
    core = Core()
    for number, wish in enumerate(({"determinism": "exact"}, {"require_device": "cpu"})):
        failed = only(core.chat(f"r{number}", CLOUD, **wish), ev.RequestFailed)
        assert failed.failure.code == errors.Unsupported.code


# ------------------------------------------------------------------------------------------------ keys


def test_a_keyed_request_of_which_nothing_was_said_is_asked_again_in_the_next_life():
    core = Core()
    core.chat("r1", CLOUD, key="k1", params_digest="p1")
    assert kinds(core.tell(start())) == ["SidecarStarted", "RequestSuspended", "RequestDispatched"]
    completes(core, "r1")
    core.check_replay()


def test_a_keyed_request_ends_with_its_life_once_something_was_said():
    core = Core()
    core.chat("r1", CLOUD, key="k1", params_digest="p1")
    core.step(said("r1"), on="api:cloud")
    failed = only(core.tell(start()), ev.RequestFailed)
    assert (failed.failure.code, failed.failure.data["resumable"]) == (1008, False)
    assert failed.failure.data["seq"] == 0


def test_what_breaks_off_after_a_piece_says_which_was_the_last():
    core = Core()
    core.chat("r1", CLOUD)
    core.step(said("r1"), on="api:cloud")
    failed = only(fails(core, "r1", BROKEN_OFF), ev.RequestFailed)
    assert (failed.failure.code, failed.failure.data["seq"]) == (1008, 0)


def test_a_crash_of_the_providers_actor_ends_what_was_with_it_alone():
    core = Core()
    core.chat("r1", CLOUD)
    core.chat("r2", SKY)
    assert only(core.lost("api:cloud"), ev.RequestFailed).request == "r1"
    assert list(core.state.requests) == ["r2"]


# ------------------------------------------------------------------------------------------------ routes


def test_without_a_route_nothing_falls_back():
    core = Core()
    core.chat("r1", CLOUD)
    assert only(fails(core, "r1"), ev.RequestFailed).failure == DOWN


def test_a_request_whose_provider_fails_is_asked_of_the_next_model():
    core = Core()
    core.chat("r1", CLOUD, chain=chain(SKY))
    events = fails(core, "r1")
    assert kinds(events) == ["ProviderFaulted", "RequestRerouted", "RequestDispatched"]
    assert (events[1].model, events[1].failure) == (SKY, DOWN)
    assert (events[2].device, events[2].model) == ("api:sky", "blue")
    completes(core, "r1", "api:sky")
    core.check_replay()


def test_a_provider_is_followed_by_a_local_model_and_that_by_a_provider():
    core = Core()
    core.chat("r1", CLOUD, chain=chain(CHAT, SKY))
    assert kinds(fails(core, "r1")) == ["ProviderFaulted", "RequestRerouted", "PlacementAsked"]
    core.devices()
    core.worker_up()
    torn = errors.ModelLoadFailed("The weights are torn.").failure()
    events = core.tell(cmd.ReportLoadFailed(model="chatty", device="cpu", failure=torn))
    assert only(events, ev.RequestRerouted).model == SKY
    assert only(events, ev.RequestDispatched).device == "api:sky"
    core.check_replay()


def test_a_model_for_which_there_is_no_room_is_followed_by_the_next():
    core = Core()
    huge = attrs.evolve(CHAT, name="huge", memory_bytes=1000)
    core.chat("r1", huge, chain=chain(SKY))
    events = core.devices(model=huge)
    assert only(events, ev.RequestRerouted).failure.code == errors.OutOfMemory.code
    assert only(events, ev.RequestDispatched).device == "api:sky"


@pytest.mark.parametrize("key", ["", "k1"])
def test_a_worker_that_dies_before_the_first_token_is_followed_by_the_next(key):
    core = Core()
    core.chat("r1", CHAT, chain=chain(SKY), key=key, params_digest="p1")
    core.ready()
    assert only(core.lost(), ev.RequestRerouted).model == SKY


def test_nothing_falls_back_once_a_token_has_come():
    core = Core()
    core.chat("r1", CLOUD, chain=chain(SKY))
    core.step(said("r1"), on="api:cloud")
    assert only(fails(core, "r1", BROKEN_OFF), ev.RequestFailed).failure.code == 1008


def test_what_the_request_is_at_fault_for_is_not_asked_of_others():
    core = Core()
    core.chat("r1", CLOUD, chain=chain(SKY))
    long = errors.ContextLengthExceeded("Too long.").failure()
    assert only(fails(core, "r1", long), ev.RequestFailed).failure == long


def test_models_that_cannot_answer_are_passed_over_and_it_is_told_why():
    core = Core()
    absent = errors.ModelNotInstalled("Not here.").failure()
    events = core.chat("r1", CHAT, unfit=absent, chain=chain(CLOUD, SKY, big=NO_KEY))
    assert kinds(events) == ["RequestAccepted", "RequestRerouted", "RequestRerouted", "RequestDispatched"]
    assert [e.failure for e in events[1:3]] == [absent, NO_KEY]
    core.check_replay()


def test_a_request_that_no_model_can_answer_is_refused_at_the_door():
    core = Core()
    absent = errors.ModelNotInstalled("Not here.").failure()
    events = core.chat("r1", CHAT, unfit=absent, chain=chain(CLOUD, big=NO_KEY))
    assert only(events, ev.RequestRefused).failure == absent


def test_the_last_failure_of_a_chain_is_the_requests():
    core = Core()
    core.chat("r1", CLOUD, chain=chain(SKY))
    fails(core, "r1")
    gone = errors.ProviderError("Provider sky cannot be reached.", provider="sky").failure()
    assert only(fails(core, "r1", gone), ev.RequestFailed).failure == gone


# ------------------------------------------------------------------------------------------------ the breaker


def test_a_provider_that_fails_again_and_again_is_left_alone_and_says_for_how_long():
    core = a_core_whose_provider_is_left_alone()
    core.at_ms += 2000
    failed = only(core.chat("r1", CLOUD), ev.RequestFailed)
    assert failed.failure.code == errors.ProviderError.code
    assert failed.failure.data["retry_after_ms"] == FIRST_OPEN_MS - 2000
    assert kinds(core.chat("r2", SKY)) == ["RequestAccepted", "RequestDispatched"]


def test_an_answer_in_between_begins_the_count_anew():
    core = Core()
    for number in range(FAULTS_TO_OPEN * 2):
        core.chat(f"r{number}", CLOUD)
        if number % 2:
            fails(core, f"r{number}")
        else:
            completes(core, f"r{number}")
    assert core.state.providers["cloud"].open_until_ms is None


def test_one_request_tries_it_when_the_time_has_passed_and_closes_it():
    core = a_core_whose_provider_is_left_alone()
    core.at_ms += FIRST_OPEN_MS
    assert kinds(core.chat("probe", CLOUD)) == ["RequestAccepted", "RequestDispatched"]
    waits = only(core.chat("r1", CLOUD), ev.RequestFailed)
    assert waits.failure.data["retry_after_ms"] == PROBE_MS
    assert "ProviderRecovered" in kinds(completes(core, "probe"))
    assert kinds(core.chat("r2", CLOUD)) == ["RequestAccepted", "RequestDispatched"]
    core.check_replay()


def test_a_probe_that_fails_leaves_it_alone_for_twice_as_long():
    core = a_core_whose_provider_is_left_alone()
    core.at_ms += FIRST_OPEN_MS
    core.chat("probe", CLOUD)
    fails(core, "probe")
    failed = only(core.chat("r1", CLOUD), ev.RequestFailed)
    assert failed.failure.data["retry_after_ms"] == 2 * FIRST_OPEN_MS


def test_a_probe_that_is_cancelled_leaves_the_try_to_the_next():
    core = a_core_whose_provider_is_left_alone()
    core.at_ms += FIRST_OPEN_MS
    core.chat("probe", CLOUD)
    core.cancel("probe")
    assert kinds(core.chat("r1", CLOUD)) == ["RequestAccepted", "RequestDispatched"]


def test_a_provider_is_left_alone_for_as_long_as_it_asks_for():
    core = Core()
    for number in range(FAULTS_TO_OPEN):
        core.chat(f"f{number}", CLOUD)
        fails(core, f"f{number}", BUSY)
    assert only(core.chat("r1", CLOUD), ev.RequestFailed).failure.data["retry_after_ms"] == 60_000


@pytest.mark.parametrize("failure", [WRONG, NO_KEY, errors.ContextLengthExceeded("Long.").failure()])
def test_what_the_request_or_a_key_is_at_fault_for_opens_no_breaker(failure):
    core = Core()
    for number in range(FAULTS_TO_OPEN + 1):
        core.chat(f"r{number}", CLOUD)
        fails(core, f"r{number}", failure)
    assert not core.state.providers


def test_a_stream_that_breaks_off_counts():
    core = Core()
    for number in range(FAULTS_TO_OPEN):
        core.chat(f"r{number}", CLOUD)
        core.step(said(f"r{number}"), on="api:cloud")
        fails(core, f"r{number}", BROKEN_OFF)
    assert core.state.providers["cloud"].open_until_ms is not None


def test_a_route_goes_around_a_provider_that_is_left_alone_and_so_do_those_who_wait():
    core = Core(attrs.evolve(BOUNDS, max_running=8))
    core.chat("r1", CLOUD)
    core.chat("r2", CLOUD)
    core.chat("waits", CLOUD, chain=chain(SKY))
    for number in range(FAULTS_TO_OPEN - 1):
        fails(core, f"r{number + 1}")
        core.chat(f"r{number + 3}", CLOUD)
    events = fails(core, next(r.id for r in core.state.requests.values() if r.phase == "running"))
    assert core.state.providers["cloud"].open_until_ms is not None or events
    rerouted = only(core.chat("late", CLOUD, chain=chain(SKY)), ev.RequestRerouted)
    assert rerouted.failure.data["reason"] == "breaker"
    core.check_replay()


def test_the_next_life_asks_a_provider_again():
    core = a_core_whose_provider_is_left_alone()
    core.tell(start())
    assert kinds(core.chat("r1", CLOUD)) == ["RequestAccepted", "RequestDispatched"]
