"""Delta debugging."""

import pytest

from mlzoo.simulation.ddmin import ddmin


@pytest.mark.parametrize("needed", [{3}, {0, 19}, {4, 5, 6, 11}, set(range(20)), set()])
def test_what_is_left_is_what_the_failure_needs_and_each_step_fails(needed):
    def fails(units):
        return needed <= set(units)

    steps = list(ddmin(tuple(range(20)), fails))
    assert all(map(fails, steps))
    assert set(steps[-1] if steps else range(20)) == needed


def test_whoever_stops_listening_has_the_smallest_so_far():
    steps = ddmin(tuple(range(8)), lambda units: 5 in units)
    assert next(steps) == (4, 5, 6, 7)
    assert next(steps) == (4, 5)
