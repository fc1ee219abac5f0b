"""How sizes are shown to people."""

import pytest

from mlzoo.cli.columns import size, size_or_dash


@pytest.mark.parametrize(
    ("size_bytes", "shown"), [(0, "0 B"), (999, "999 B"), (91_600_000, "91.6 MB"), (2_500_000_000, "2.5 GB")]
)
def test_a_size_is_shown_in_powers_of_ten(size_bytes, shown):
    assert size(size_bytes) == shown


def test_where_nothing_means_nothing_known_it_is_a_dash():
    assert size_or_dash(0) == "-"
    assert size_or_dash(1000) == "1.0 kB"
