"""Every measure against plain loops over its definition, ties and nothing at all included."""

import math

import numpy as np
import pytest

from petid_search.metrics import fnir_at, fpir_at, rank_k, threshold_at_fpir

NOTHING = np.empty(0, np.float32)


def draw(seed, count, *, ties):
    """Similarities, float32; with ties, only few different ones."""
    similarities = np.random.default_rng(seed).uniform(-1, 1, count)
    return (np.round(similarities * 4) / 4 if ties else similarities).astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_rank_k_is_the_share_of_probes_found_among_the_first_k(seed, ties):
    ranks = np.random.default_rng(seed).integers(1, 6 if ties else 100, 83)
    for k in (1, 2, 5, 50, 100):
        found = 0
        for rank in ranks.tolist():
            if rank <= k:
                found += 1
        assert rank_k(ranks, k) == pytest.approx(found / 83)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_fpir_is_the_share_of_strangers_at_or_over_the_threshold(seed, ties):
    non_mated = draw(seed, 91, ties=ties)
    for threshold in [-2.0, -0.5, 0.0, 0.25, 2.0, *non_mated[:5].tolist()]:
        returned = 0
        for similarity in non_mated.tolist():
            if similarity >= threshold:
                returned += 1
        assert fpir_at(non_mated, threshold) == pytest.approx(returned / 91)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 2, 10, 100, 137])
@pytest.mark.parametrize("fpir", [0.0, 0.001, 0.01, 0.05, 0.1, 0.5, 0.99, 1.0])
def test_the_threshold_is_the_lowest_that_holds_the_fpir(count, fpir, ties):
    non_mated = draw(count, count, ties=ties)
    threshold = threshold_at_fpir(non_mated, fpir)
    assert fpir_at(non_mated, threshold) <= fpir
    # The lowest of all float32 numbers: at the next one under it, one more is returned than may be.
    if threshold == float("-inf"):
        assert fpir == 1.0
    else:
        below = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
        assert fpir_at(non_mated, below) > fpir


@pytest.mark.parametrize(
    ("count", "fpir", "allowed"), [(100, 0.01, 1), (100, 0.29, 29), (1000, 0.057, 57), (10, 0.3, 3)]
)
def test_a_share_that_is_a_whole_number_of_probes_is_used_up(count, fpir, allowed):
    """In floating point a share may come out a little less, as 0.29 · 100 does: that must not cost a probe."""
    non_mated = np.random.default_rng(0).permutation(np.linspace(-1, 1, count)).astype(np.float32)
    threshold = threshold_at_fpir(non_mated, fpir)
    assert int((non_mated >= threshold).sum()) == allowed


def test_a_threshold_of_double_precision_similarities_holds_too():
    non_mated = np.random.default_rng(0).uniform(-1, 1, 1000)
    for fpir in (0.0, 0.01, 0.1):
        assert fpir_at(non_mated, threshold_at_fpir(non_mated, fpir)) <= fpir


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 20])
@pytest.mark.parametrize("seed", range(4))
def test_fnir_is_the_share_of_mated_probes_not_returned_over_the_threshold_within_the_rank(seed, rank, ties):
    own = draw(seed, 77, ties=ties)
    ranks = np.random.default_rng(seed + 100).integers(1, 30, 77)
    for threshold in (-2.0, 0.0, 0.25, 0.9, 2.0, float(own[0])):
        missed = 0
        for similarity, place in zip(own.tolist(), ranks.tolist(), strict=True):
            returned = similarity >= threshold and place <= rank
            if not returned:
                missed += 1
        assert fnir_at(own, ranks, threshold, rank=rank) == pytest.approx(missed / 77)


def test_all_probes_tied_at_the_threshold_are_returned_or_none_is():
    non_mated = np.full(50, 0.5, np.float32)
    assert fpir_at(non_mated, 0.5) == 1.0
    threshold = threshold_at_fpir(non_mated, 0.1)
    assert threshold > 0.5
    assert fpir_at(non_mated, threshold) == 0.0


def test_nothing_to_measure_is_not_a_number_and_lets_every_threshold_pass():
    assert math.isnan(rank_k(np.empty(0, np.int64), 1))
    assert math.isnan(fpir_at(NOTHING, 0.5))
    assert math.isnan(fnir_at(NOTHING, np.empty(0, np.int64), 0.5))
    assert threshold_at_fpir(NOTHING, 0.01) == float("-inf")
