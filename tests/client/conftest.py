"""Every test here runs twice: under asyncio and under trio."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

FAKE = Path(__file__).with_name("fake_sidecar.py")
PATIENCE_S = 60  # Only ever waited for by a test that fails.


@pytest.fixture(params=["asyncio", "trio"])
def run(request):
    """Run an async function to its end."""

    def run(function, *args, **kwargs):
        async def bounded():
            with anyio.fail_after(PATIENCE_S):
                return await function(*args, **kwargs)

        return anyio.run(bounded, backend=request.param)

    return run


@pytest.fixture
def spawn_fake():
    """Spawn the sidecar that misbehaves on request."""
    from mlzoo.client import spawn

    def spawn_fake(*flags, **options):
        return spawn([sys.executable, str(FAKE), *flags], **options)

    return spawn_fake


class Outcome:
    """What a call in the background came to."""

    def __init__(self):
        self._value = None
        self._there = anyio.Event()

    async def record(self, function, args):
        try:
            self._value = await function(*args)
        except Exception as error:  # noqa: BLE001 (the outcome is the error, whichever it is)
            self._value = error
        self._there.set()

    async def receive(self):
        await self._there.wait()
        return self._value


@pytest.fixture
def in_background():
    """Start a call beside the test."""

    def in_background(tasks, function, *args):
        outcome = Outcome()
        tasks.start_soon(outcome.record, function, args)
        return outcome

    return in_background
