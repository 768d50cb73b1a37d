"""The order: a permutation every pass, a pure function, pinned."""

import numpy as np
import pytest

from zorse.data import order
from zorse.data.order import DomainOrder
from zorse.keyed_random import key, mix, mix_array, permutation

COUNTS = [[1], [3, 0, 5], [1067], [7] * 40 + [3]]


@pytest.fixture(params=["whole", "blocked"])
def mode(request, monkeypatch):
    """Both ways to permute, at sizes where every position can be looked at."""
    if request.param == "blocked":
        monkeypatch.setattr(order, "WHOLE_PERMUTATION_BELOW", 0)
        monkeypatch.setattr(order, "BLOCK", 4)
        monkeypatch.setattr(order, "WINDOW_ROWS", 8)
    return request.param


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("lanes", [1, 3, 64])
def test_every_pass_is_a_new_permutation(mode, counts, lanes):
    domain = DomainOrder(counts, seed=5, domain=0, lanes=lanes)
    n = sum(counts)
    passes = [[domain(position) for position in range(k * n, (k + 1) * n)] for k in range(3)]
    for number, visited in enumerate(passes):
        assert {k for k, _ in visited} == {number}
        assert sorted(sample for _, sample in visited) == list(range(n))
    if n > 8:
        assert passes[0] != [(0, sample) for _, sample in passes[1]]


def test_any_position_can_be_asked_first(mode):
    counts = [50, 13, 37]
    forward = DomainOrder(counts, 1, 0, lanes=4)
    backward = DomainOrder(counts, 1, 0, lanes=4)
    assert [forward(i) for i in range(300)] == [backward(i) for i in reversed(range(300))][::-1]


def test_domains_and_seeds_differ(mode):
    orders = [DomainOrder([200], seed, domain, lanes=1) for seed in (0, 1) for domain in (0, 1)]
    assert len({tuple(o(i)[1] for i in range(200)) for o in orders}) == 4


def test_blocks_keep_reads_local(monkeypatch):
    """A slot of the batch reads one lane: few blocks at a time, though the batch mixes the whole domain."""
    monkeypatch.setattr(order, "WHOLE_PERMUTATION_BELOW", 0)
    monkeypatch.setattr(order, "WINDOW_ROWS", 1024)
    batch, samples = 16, 200_000
    domain = DomainOrder([10_000] * 20, 7, 0, lanes=batch)
    slot = [domain(step * batch + 3)[1] // order.BLOCK for step in range(1000)]
    assert len(set(slot)) <= 16  # the least is 4, a plain permutation would touch 500
    one_batch = [domain(slot)[1] for slot in range(batch)]
    assert np.ptp(one_batch) > samples / 2


def test_golden_values():
    """A changed order would silently change every run: it must come with another order.VERSION."""
    assert order.VERSION == "splitmix64-1"
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of splitmix64 seeded with 0
    assert mix_array(np.arange(3, dtype=np.uint64)).tolist() == [mix(i) for i in range(3)]
    assert key(0, 1, 2) == GOLDEN_KEY
    assert permutation(10, 123).tolist() == GOLDEN_PERMUTATION
    assert [DomainOrder([6, 5], 0, 1, 1)(i)[1] for i in range(11)] == GOLDEN_ORDER


GOLDEN_KEY = 12421565313168862949
GOLDEN_PERMUTATION = [4, 7, 8, 6, 5, 9, 3, 0, 2, 1]
GOLDEN_ORDER = [10, 0, 8, 7, 4, 1, 2, 3, 6, 5, 9]


def test_bits_are_fair():
    coins = [key(0, 1, 4, position) & 1 for position in range(4000)]
    assert abs(sum(coins) - 2000) < 150  # four standard deviations are 126
