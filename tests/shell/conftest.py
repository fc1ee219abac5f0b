"""Whole sidecars for the tests of the shell."""

import sys
from pathlib import Path

import pytest
import trio

sys.path.append(str(Path(__file__).parent.parent / "api"))  # for the reader of schemas
sys.path.append(str(Path(__file__).parent.parent / "providers"))  # for servers on loopback

from sidecar_life import Lives


@pytest.fixture
def lives(tmp_path, monkeypatch, autojump_clock):
    """Sidecars under a virtual clock. What else runs in threads runs inline: the clock would not wait for a thread."""

    async def inline(function, *args, **_options):
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", inline)
    return Lives(tmp_path)
