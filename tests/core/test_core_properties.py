"""What holds for every order of events: random hosts, crashes and late answers, checked after each command.

The checks themselves are in ``core_driver``: decide is a function and changes nothing, the fold of the log is the
live state, one terminal a request and nothing after it, dense streams, no bound exceeded, no strike in vain.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from core_cloud import CloudyShell
from core_shell import Shell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlzoo.core.apply import apply_group
from mlzoo.core.decide import decide
from mlzoo.core.state import State
from mlzoo.events import types as ev
from mlzoo.events.codec import Codec, decode_group, encode_group

STATES = Codec(lambda: {"State": ("event", State)}, {})
STEPS = 250
HERE = Path(__file__).parent


def a_life(source: random.Random, steps: int = STEPS, replicas: int = 1) -> Shell:
    shell = Shell(source, replicas)
    for _ in range(steps):
        shell.act()
    return shell


def check_rest(shell: Shell) -> None:
    """Run to rest, and check that nothing is left but what was pinned."""
    shell.run_to_rest()
    state = shell.core.state
    assert state.requests == {}, "a request never ended"
    pinned = {model.facts.name for model in state.models.values() if model.pinned}
    assert all(m.facts.name in pinned for m in state.models.values() if m.phase not in {"available", "failed"})
    for name, worker in shell.workers.items():
        held = {model.facts.name for model in state.models.values() if model.phase == "ready" and model.device == name}
        assert worker.alive == bool(held), "an idle worker keeps its memory, or a model lost its worker"
        assert set(worker.models) == held, "core and worker disagree about what is loaded"
        assert not worker.rows
    shell.core.check_replay()


@pytest.mark.parametrize("block", range(4))
def test_every_life_keeps_the_invariants_and_comes_to_rest(block):
    for seed in range(block * 10, block * 10 + 10):
        try:
            check_rest(a_life(random.Random(seed)))
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("block", range(2))
def test_lives_with_replicas_keep_the_invariants_and_come_to_rest(block):
    together = 0
    for seed in range(block * 10, block * 10 + 10):
        try:
            shell = a_life(random.Random(seed), replicas=2)
            check_rest(shell)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
        ready = [event.model for event in shell.core.events if isinstance(event, ev.ModelReady)]
        together += sum("#" in name for name in ready)
    assert together > 20, "replicas were hardly ever loaded"


@pytest.mark.parametrize("block", range(2))
def test_lives_with_a_provider_and_routes_keep_the_invariants_and_come_to_rest(block):
    seen = set()
    for seed in range(block * 10, block * 10 + 10):
        try:
            shell = CloudyShell(random.Random(seed))
            for _ in range(STEPS):
                shell.act()
            check_rest(shell)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
        seen |= {type(event) for event in shell.core.events}
    assert {ev.RequestRerouted, ev.ProviderFaulted, ev.ProviderRecovered} <= seen


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(source=st.randoms(use_true_random=False), steps=st.integers(1, 60))
def test_short_lives_keep_the_invariants_too(source, steps):
    check_rest(a_life(source, steps))


@pytest.mark.parametrize("seed", range(3))
def test_a_life_that_went_through_bytes_is_decided_and_folded_as_the_first_time(seed):
    state = State()
    for group in a_life(random.Random(seed)).core.groups:
        lines = encode_group(group, 0).splitlines()
        restored = decode_group(lines)
        assert restored == group
        snapshot = orjson.loads(orjson.dumps(STATES.data(state)))
        state = STATES.decode("State", 1, snapshot)
        events, after = decide(state, restored.command, restored.first_seq, restored.at_ms)
        assert events == group.events
        state = apply_group(state, restored)
        assert repr(state) == repr(after)  # Unlike ==, this sees the order of requests, which is that of their turns.


def digest_of_a_life() -> str:
    shell = a_life(random.Random(1), 150)
    return hashlib.sha256(repr(shell.core.groups).encode()).hexdigest()


def test_the_same_commands_give_the_same_log_under_any_hash_seed():
    code = "from test_core_properties import digest_of_a_life; print(digest_of_a_life())"
    path = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
