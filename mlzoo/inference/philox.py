"""Philox4x32-10, a counter-based random generator: the same key and counter give the same numbers, on every machine.

Knows nothing of sampling. Plain integers: one draw costs some microseconds, less than the tensor operations that would
replace it for a batch of rows.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

_WORD = 0xFFFFFFFF
_MULTIPLIER_0 = 0xD2511F53
_MULTIPLIER_1 = 0xCD9E8D57
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85

Counter = tuple[int, int, int, int]
Key = tuple[int, int]


def philox4x32(counter: Counter, key: Key, rounds: int = 10) -> Counter:
    """Return the four 32-bit words that belong to a counter (four words) under a key (two words)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0, c1 = (product_1 >> 32) ^ c1 ^ k0, product_1 & _WORD
        c2, c3 = (product_0 >> 32) ^ c3 ^ k1, product_0 & _WORD
        k0, k1 = (k0 + _WEYL_0) & _WORD, (k1 + _WEYL_1) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1), with 53 random bits, that belongs to a place in a sequence.

    Args:
        seed: Of the request; its low 64 bits count.
        position: Index of the token in the whole sequence, prompt included; its low 64 bits count.
    """
    counter = (position & _WORD, (position >> 32) & _WORD, 0, 0)
    high, low, _, _ = philox4x32(counter, (seed & _WORD, (seed >> 32) & _WORD))
    return ((high << 21) | (low >> 11)) * 2.0**-53
