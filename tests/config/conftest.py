"""Loading with directories of the test's own."""

import pytest

from mlzoo import config


@pytest.fixture
def load(tmp_path):
    """Load with a cache and a user's configuration directory of the test's own."""
    own = tmp_path / "own"
    own.mkdir()

    def load_(*overrides, environ=None, config_dir=own):
        return config.load(overrides, config_dir=config_dir, environ=environ or {}, cache_dir=tmp_path / "cache")

    return load_
