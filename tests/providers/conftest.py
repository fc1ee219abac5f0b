"""Providers of servers on loopback, under a virtual clock that waits a little for real bytes."""

import pytest
from asking_servers import Asking


@pytest.fixture
def asking(autojump_clock):
    """Ask a server, as the actor does. The clock jumps only where no byte has come for a moment, not at once."""
    autojump_clock.autojump_threshold = 0.05
    return Asking()
