import pytest

from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.world import simulated_world


@pytest.fixture
def disk():
    return SimulatedDisk()


@pytest.fixture
def world(disk):
    return simulated_world(1, disk)
