"""Philox4x32-10 against the known answers of Random123 (kat_vectors), and what sampling makes of it."""

from __future__ import annotations

import pytest

from mlzoo.inference.philox import philox4x32, uniform

PI_COUNTER = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
PI_KEY = (0xA4093822, 0x299F31D0)
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI_COUNTER, PI_KEY, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_known_answers(counter, key, expected):
    assert philox4x32(counter, key) == expected


def test_a_uniform_number_is_a_fraction_that_depends_on_seed_and_position():
    drawn = [uniform(seed, position) for seed in range(50) for position in range(50)]
    assert all(0 <= number < 1 for number in drawn)
    assert len(set(drawn)) == len(drawn)
    assert abs(sum(drawn) / len(drawn) - 0.5) < 0.02


def test_seeds_beyond_32_bits_count_whole():
    assert uniform(1, 7) != uniform(1 + 2**32, 7)
    assert uniform(2**53 - 1, 2**40) == uniform(2**53 - 1, 2**40)
