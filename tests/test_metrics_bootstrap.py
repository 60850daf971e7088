"""Intervals by drawing individuals anew, against loops that copy the drawn individuals' samples."""

import math
import time
from functools import partial

import numpy as np
import pytest
from scipy.stats import binomtest

from petid_search.metrics import (
    auc,
    baks,
    bootstrap_interval,
    fnir_at_fpir,
    individual_weights,
    paired_interval,
    percentile_interval,
    rank_k,
)


def test_each_replicate_draws_as_many_individuals_as_there_are():
    weights = individual_weights(30, 400, seed=1)
    assert weights.shape == (400, 30)
    assert weights.dtype == np.int64
    assert (weights.sum(axis=1) == 30).all()
    # Multinomial: on average each once, with variance 1 - 1/n, and 1/e of them not at all.
    assert weights.mean(axis=0) == pytest.approx(np.ones(30), abs=0.25)
    assert weights.var() == pytest.approx(1 - 1 / 30, abs=0.05)
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 30) ** 30, abs=0.02)


def test_a_seed_draws_the_same_and_another_seed_does_not():
    assert np.array_equal(individual_weights(20, 10, seed=1), individual_weights(20, 10, seed=1))
    assert not np.array_equal(individual_weights(20, 10, seed=1), individual_weights(20, 10, seed=2))


def test_of_one_individual_every_replicate_is_the_same_and_of_none_it_is_empty():
    assert individual_weights(1, 3, seed=0).tolist() == [[1], [1], [1]]
    assert individual_weights(0, 3, seed=0).shape == (3, 0)


def test_the_interval_of_1000_replicates_leaves_25_out_at_either_end():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    assert percentile_interval(values) == (25, 976)
    assert percentile_interval(values, 0.9) == (50, 951)
    assert percentile_interval(values[values <= 999]) == (25, 975)


def test_an_interval_leaves_out_what_is_undefined_and_bears_infinity():
    assert percentile_interval([math.nan, 3.0, 1.0, math.nan, 2.0]) == (1, 3)
    assert percentile_interval([-math.inf] * 50 + [1.0] * 50) == (-math.inf, 1)
    assert all(math.isnan(end) for end in percentile_interval([math.nan]))
    assert all(math.isnan(end) for end in percentile_interval([]))
    with pytest.raises(ValueError, match="level"):
        percentile_interval([1.0], 95)


def test_a_replicate_is_the_measure_of_all_photos_of_the_drawn_individuals():
    generator = np.random.default_rng(3)
    individuals, ranks = generator.choice(["Rex", "Ginger", "Smoke", "Ash"], 30), generator.integers(1, 4, 30)
    values = []
    for weights in individual_weights(4, 200, seed=7):
        copied = []
        for name, count in zip(sorted(set(individuals.tolist())), weights.tolist(), strict=True):
            for _ in range(count):
                copied += [rank for n, rank in zip(individuals.tolist(), ranks.tolist(), strict=True) if n == name]
        values.append(sum(rank == 1 for rank in copied) / len(copied))
    interval = bootstrap_interval(partial(rank_k, ranks, 1), individuals, replicates=200, seed=7)
    assert interval.value == pytest.approx(rank_k(ranks, 1))
    assert (interval.low, interval.high) == pytest.approx(percentile_interval(values))
    assert interval.undefined == 0


def test_for_independent_probes_it_is_the_binomial_interval():
    ranks = np.where(np.arange(2000) < 1400, 1, 2)
    interval = bootstrap_interval(partial(rank_k, ranks, 1), np.arange(2000), replicates=2000)
    expected = binomtest(1400, 2000).proportion_ci(0.95, "wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_photos_of_one_individual_that_share_its_fate_make_the_interval_wide():
    """20 photos each that are all found or all missed are worth one: as wide as with one photo each."""
    fate = np.where(np.arange(100) < 70, 1, 2)
    single = bootstrap_interval(partial(rank_k, fate, 1), np.arange(100))
    many = bootstrap_interval(partial(rank_k, fate.repeat(20), 1), np.arange(100).repeat(20))
    assert many == pytest.approx(single)
    assert many.high - many.low > 0.15


def test_in_baks_an_individual_drawn_twice_counts_twice():
    """With one probe each BAKS is the share of right ones, and so must be its interval."""
    correct = np.random.default_rng(0).random(80) < 0.6
    ranks = np.where(correct, 1, 2)
    individuals = np.arange(80)
    interval = bootstrap_interval(partial(baks, individuals, correct), individuals)
    assert interval == pytest.approx(bootstrap_interval(partial(rank_k, ranks, 1), individuals))


def test_replicates_without_a_value_are_left_out_and_counted():
    """With two individuals, mated and not, every second replicate draws only one of them."""
    own, ranks, non_mated = np.array([0.9]), np.array([1]), np.array([0.2])
    interval = bootstrap_interval(
        lambda weights: fnir_at_fpir(own, ranks, non_mated, 0.1, weights=weights[:1], non_mated_weights=weights[1:]),
        np.array(["mated", "stranger"]),
    )
    assert interval[:3] == (0, 0, 0)
    assert interval.undefined == pytest.approx(0.5, abs=0.05)


def test_nothing_at_all_has_no_interval():
    nothing = np.empty(0, np.int64)
    interval = bootstrap_interval(partial(rank_k, nothing, 1), nothing, replicates=10)
    assert all(math.isnan(number) for number in interval[:3])
    assert interval.undefined == 1


def test_pairs_count_with_the_individual_of_their_probe_from_one_histogram_an_individual():
    generator = np.random.default_rng(5)
    centres = np.linspace(-1, 1, 16)
    genuine, impostor = generator.integers(0, 5, (6, 16)), generator.integers(0, 5, (6, 16))
    in_histograms = bootstrap_interval(
        lambda weights: auc(centres, centres, genuine_weights=weights @ genuine, impostor_weights=weights @ impostor),
        np.arange(6),
        replicates=100,
    )

    def as_pairs(histograms):
        return np.tile(centres, 6).repeat(histograms.ravel()), np.arange(6).repeat(histograms.sum(axis=1))

    (similarities, probes), (other_similarities, other_probes) = as_pairs(genuine), as_pairs(impostor)
    count = len(similarities)
    in_pairs = bootstrap_interval(
        lambda weights: auc(
            similarities, other_similarities, genuine_weights=weights[:count], impostor_weights=weights[count:]
        ),
        np.concatenate([probes, other_probes]),
        replicates=100,
    )
    assert in_histograms == pytest.approx(in_pairs)


def test_what_is_hard_for_both_models_does_not_widen_their_difference():
    generator = np.random.default_rng(0)
    individuals = np.arange(150).repeat(4)
    hard = generator.random(150).repeat(4)
    ranks = np.where(hard < 0.5, 2, 1)
    better = np.where((ranks == 2) & (generator.random(600) < 0.1), 1, ranks)
    paired = paired_interval(partial(rank_k, better, 1), partial(rank_k, ranks, 1), individuals)
    assert paired.value == pytest.approx(rank_k(better, 1) - rank_k(ranks, 1))
    assert 0 < paired.low < paired.value < paired.high
    alone = bootstrap_interval(partial(rank_k, ranks, 1), individuals)
    assert paired.high - paired.low < (alone.high - alone.low) / 3


def test_a_model_does_not_differ_from_itself():
    ranks = np.random.default_rng(0).integers(1, 4, 50)
    measure = partial(rank_k, ranks, 1)
    assert paired_interval(measure, measure, np.arange(50)) == (0, 0, 0, 0)


def test_a_thousand_replicates_of_ten_thousand_probes_take_no_time():
    generator = np.random.default_rng(0)
    individuals, ranks = generator.integers(0, 2000, 10_000), generator.integers(1, 4, 10_000)
    started = time.perf_counter()
    bootstrap_interval(partial(rank_k, ranks, 1), individuals)
    assert time.perf_counter() - started < 5
