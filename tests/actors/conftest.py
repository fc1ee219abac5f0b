"""The story that the tests of supervision are told in."""

import pytest
from supervision_story import Story


@pytest.fixture
def story():
    return Story()
