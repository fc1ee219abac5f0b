"""What the tests of the real process share: where its log is, a sidecar, the weights, a host."""

import os

import pytest
from real_process import RawSidecar, hosting


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Have models compute in one thread where tests run beside each other: more would wait for each other by spinning.

    What runs there takes twice as long then. ``test_inference`` has as many threads as a user has.
    """
    with pytest.MonkeyPatch.context() as patch:
        if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
            patch.setenv("MLZOO_DEVICES_CPU_THREADS", "1")
        yield


@pytest.fixture
def log(tmp_path):
    """Where the sidecar's log is."""
    return tmp_path / "log"


@pytest.fixture
def sidecar(log):
    """A sidecar of which a test only needs that it runs."""
    with RawSidecar("--log", log) as sidecar:
        yield sidecar


@pytest.fixture(scope="session")
def weights():
    """Skip where the default models are not installed; CI has them."""
    from mlzoo.config import load
    from mlzoo.store import open_store

    config = load(())
    store = open_store(config)
    for name in (config.defaults.chat, config.defaults.embed):
        if store.find(config.model(name)) is None:
            pytest.skip(f"{name} is not installed: mlzoo models pull {name}")


@pytest.fixture(scope="module")
def host(tmp_path_factory, weights):
    """A sidecar with real models. What a test does to it, it survives."""
    with hosting(tmp_path_factory.mktemp("host") / "log") as host:
        yield host
