"""Runs recordings again from tests that have an event loop of their own."""

from concurrent.futures import ThreadPoolExecutor

from mlzoo.replay.rerun import rerun


def run_again(found, config):
    """Return what ``rerun`` found; it runs a loop of its own, so in a thread, while the test's one waits."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(rerun, found, config).result()
