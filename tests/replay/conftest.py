"""Sessions with a whole sidecar in memory, recorded."""

import sys
from pathlib import Path

import pytest
import trio

sys.path += [str(Path(__file__).parent.parent / name) for name in ("shell", "api")]

from sidecar_life import LOG, Lives

from mlzoo.events import recording
from mlzoo.replay.export import export
from mlzoo.simulation.world import simulated_world


@pytest.fixture
def lives(tmp_path, monkeypatch, autojump_clock):
    """Sidecars under a virtual clock. What else runs in threads runs inline: the clock would not wait for a thread."""

    async def inline(function, *args, **_options):
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", inline)
    return Lives(tmp_path)


@pytest.fixture
def recorded(lives, tmp_path):
    """Return a function that records what the log holds by now."""

    def make(name="recording.ndjson", **wishes):
        output = tmp_path / name
        export(simulated_world(7, lives.disk.copy()), LOG, output, **wishes)
        return recording.read(output)

    return make
