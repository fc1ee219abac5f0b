"""The fold, where it does something by hand that could silently go wrong."""

from __future__ import annotations

import attrs
from core_driver import OTHER, Core, row

from mlzoo.core.apply import apply
from mlzoo.core.state import FitState, ProviderState
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.events.facts import History


def test_a_streamed_row_changes_its_counters_and_no_other_field_of_request_or_state():
    core = Core()
    keyed = {"key": "k1", "params_digest": "p1", "determinism": "exact", "ephemeral": True}
    core.chat("r1", size_bytes=5, deadline_ms=90_000, priority="batch", require_device="cpu", **keyed)
    core.chat("r2")
    core.ready(fingerprint="f0")
    core.at_ms += 7
    core.step(row("r1", prompt_tokens=12, cached_tokens=4))
    core.step(row("r2", "stop"))
    core.chat("r3")
    core.shut_down()
    of_replicas = {"max_tokens": 9, "prefixes": ("a",)}
    talk = {"conversation": "c", "persona": "p", "history": History(base_seq=1, from_seq=1), "truncated": 1}
    of_routes = {"chain": (cmd.Candidate(model=OTHER),), "is_rerouted": True}
    talk |= {"adapter": "a"}
    lost = {"asked_ms": 7, "fingerprint": "f1", "losses": 2, "resumed": "prefill"}
    old = attrs.evolve(core.state.requests["r1"], **lost, **of_replicas, **of_routes, **talk)
    facts = cmd.KeyFacts(request="r0", params_digest="p0", accepted_seq=1, ended_seq=2, next_seq=3, ended_at_ms=4)
    requests = {**core.state.requests, "r1": old}
    numbers = {"patience": 3, "better_by": 0.1, "epoch": 2, "best_epoch": 1, "best": 0.5}
    fit = FitState(run="f1", name="m", falls=True, epochs=9, **numbers)
    failing = {"cloud": ProviderState(faults=2)}
    rest = {"keys": {"k0": facts}, "requests": requests, "providers": failing, "fit": fit}
    was = attrs.evolve(core.state, wall_ahead_ms=5, storage_low=True, stopped=True, **rest)
    for holder in (was, was.requests["r1"]):
        defaults = {f.name: f.default for f in attrs.fields(type(holder)) if not isinstance(f.default, attrs.Factory)}
        like_new = [name for name, default in defaults.items() if getattr(holder, name) == default]
        assert like_new == [], "a field that is at its default could be lost unseen"
    event = ev.RequestStreamed(request="r1", row=0, tokens=3, seq=1)
    request = attrs.evolve(was.requests["r1"], completion_tokens=4, next_seq=2, losses=0)
    assert apply(was, event, core.seq, core.at_ms) == attrs.evolve(was, requests={**was.requests, "r1": request})


def test_an_event_leaves_the_state_that_it_was_applied_to_as_it_was():
    core = Core()
    core.chat("r1")
    core.ready()
    was, text = core.state, repr(core.state)
    core.step(row("r1"))
    core.step(row("r1", "stop"))
    assert repr(was) == text
