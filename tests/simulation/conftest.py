"""What was explored is told at the end: seeds that passed are the only proof there is."""

import pytest

EXPLORED = pytest.StashKey()


@pytest.fixture
def explored(request):
    """Say what a test has explored."""
    return request.config.stash.setdefault(EXPLORED, []).append


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(EXPLORED, []):
        terminalreporter.write_line(f"explored {line}")
