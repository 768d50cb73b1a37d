"""Random numbers as pure functions of a key: no generator state, the same on every platform."""

import numpy as np

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15

DOMAIN_A, DOMAIN_B = 0, 1
# What a key is drawn for; part of the key, so that no two uses share bits.
BLOCKS, WINDOW, AUGMENT, HISTORY, INIT, SUBSTITUTE, DROPOUT = 1, 2, 3, 4, 5, 6, 7


def mix(x: int) -> int:
    """The splitmix64 finaliser (Steele, Lea and Flood 2014) of one 64-bit number."""
    x = (x + GOLDEN) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def mix_array(x: np.ndarray) -> np.ndarray:
    """`mix` of every element of a uint64 array."""
    x = x + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(*parts: int) -> int:
    """64 uniform bits that depend on every part and on their order."""
    bits = 0
    for part in parts:
        bits = mix(bits ^ mix(part & MASK))
    return bits


def permutation(n: int, bits: int) -> np.ndarray:
    """A permutation of 0 .. n-1 keyed by `bits`; the same on every platform and version of NumPy. int64 [n]."""
    counters = np.arange(n, dtype=np.uint64) + np.uint64(bits)  # wraps around
    return np.argsort(mix_array(counters), kind="stable")
