"""Measures of verification against scikit-learn, SciPy and plain loops, from pairs and from histograms."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from petid_search.metrics import auc, det, eer, fpir_at, probit, roc, tar_at_far, threshold_at_fpir

NOTHING = np.empty(0, np.float32)


def draw_pairs(seed, *, ties):
    """Similarities of genuine and of impostor pairs, float32; with ties, only few different ones."""
    generator = np.random.default_rng(seed)
    genuine, impostor = generator.normal(0.4, 0.3, 70).clip(-1, 1), generator.normal(0.0, 0.3, 110).clip(-1, 1)
    if ties:
        genuine, impostor = np.round(genuine * 8) / 8, np.round(impostor * 8) / 8
    return genuine.astype(np.float32), impostor.astype(np.float32)


def label(genuine, impostor):
    """Pairs as scikit-learn wants them."""
    return np.repeat([True, False], [len(genuine), len(impostor)]), np.concatenate([genuine, impostor])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_roc_and_its_area_are_scikit_learns(seed, ties):
    genuine, impostor = draw_pairs(seed, ties=ties)
    far, tar, thresholds = roc(genuine, impostor)
    expected = roc_curve(*label(genuine, impostor), drop_intermediate=False)
    for mine, theirs in zip((far, tar, thresholds), expected, strict=True):
        assert mine.dtype == np.float64
        assert mine == pytest.approx(theirs)
    assert auc(genuine, impostor) == pytest.approx(roc_auc_score(*label(genuine, impostor)))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_pair_at_the_threshold_is_accepted(seed, ties):
    genuine, impostor = draw_pairs(seed, ties=ties)
    for far, tar, threshold in zip(*roc(genuine, impostor), strict=True):
        assert far == pytest.approx(sum(s >= threshold for s in impostor.tolist()) / len(impostor))
        assert tar == pytest.approx(sum(s >= threshold for s in genuine.tolist()) / len(genuine))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_how_often_a_genuine_pair_beats_an_impostor(seed, ties):
    genuine, impostor = draw_pairs(seed, ties=ties)
    won = sum((g > i) + 0.5 * (g == i) for g in genuine.tolist() for i in impostor.tolist())
    assert auc(genuine, impostor) == pytest.approx(won / (len(genuine) * len(impostor)))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_equal_error_rate_is_where_the_joined_roc_crosses_the_diagonal(seed, ties):
    genuine, impostor = draw_pairs(seed, ties=ties)
    far, tar, _ = roc(genuine, impostor)
    along = np.linspace(0, len(far) - 1, 2_000_001)  # walk along the curve, whose steps may be upright
    walked_far, walked_tar = np.interp(along, np.arange(len(far)), far), np.interp(along, np.arange(len(tar)), tar)
    nearest = np.argmin(np.abs(walked_far - (1 - walked_tar)))
    assert eer(genuine, impostor) == pytest.approx(walked_far[nearest], abs=1e-5)


def test_the_equal_error_rate_of_what_is_told_apart_is_nought_and_of_what_is_swapped_one():
    high, low = np.array([0.8, 0.9, 0.9]), np.array([0.1, 0.2])
    assert eer(high, low) == 0.0
    assert eer(low, high) == 1.0
    assert (auc(high, low), auc(low, high)) == (1.0, 0.0)
    assert (tar_at_far(high, low, 0.0), tar_at_far(low, high, 0.0)) == (1.0, 0.0)


def test_where_all_similarities_are_equal_nothing_can_be_told():
    genuine, impostor = np.full(5, 0.3, np.float32), np.full(9, 0.3, np.float32)
    assert roc(genuine, impostor).far.tolist() == roc(genuine, impostor).tar.tolist() == [0, 1]
    assert auc(genuine, impostor) == eer(genuine, impostor) == 0.5
    assert (tar_at_far(genuine, impostor, 0.99), tar_at_far(genuine, impostor, 1.0)) == (0.0, 1.0)


def test_of_one_pair_each_every_measure_is_a_number():
    one, other = np.array([0.5]), np.array([0.1])
    assert (auc(one, other), eer(one, other), tar_at_far(one, other, 0.01)) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("far", [0.0, 1 / 110, 0.01, 0.1, 0.29, 0.5, 1.0])
def test_tar_at_far_is_the_highest_tar_of_all_thresholds_that_hold_the_far(far, ties):
    genuine, impostor = draw_pairs(3, ties=ties)
    highest = 0.0
    for threshold in [-2.0, *genuine.tolist(), *impostor.tolist()]:
        if sum(s >= threshold for s in impostor.tolist()) <= far * 110 + 1e-9:
            highest = max(highest, sum(s >= threshold for s in genuine.tolist()) / 70)
    assert tar_at_far(genuine, impostor, far) == pytest.approx(highest)
    assert fpir_at(genuine, threshold_at_fpir(impostor, far)) == pytest.approx(highest)


def test_a_far_that_is_a_whole_number_of_pairs_is_used_up():
    """In floating point 0.29 · 100 comes out a little less than 29: that must not cost a pair."""
    similarities = np.random.default_rng(0).permutation(np.linspace(-1, 1, 100))
    for allowed in range(101):
        assert tar_at_far(similarities, similarities, allowed / 100) == pytest.approx(allowed / 100)


def test_the_det_is_the_roc_with_the_other_error():
    genuine, impostor = draw_pairs(1, ties=True)
    far, frr, thresholds = det(genuine, impostor)
    curve = roc(genuine, impostor)
    assert np.array_equal(far, curve.far)
    assert np.array_equal(thresholds, curve.thresholds)
    for rate, threshold in zip(frr, thresholds, strict=True):
        assert rate == pytest.approx(sum(s < threshold for s in genuine.tolist()) / len(genuine))


def test_the_probit_is_the_normal_quantile_without_ends():
    rates = np.array([[0.0, 0.001, 0.5], [0.8, 0.999, 1.0]], np.float64)
    assert probit(rates) == pytest.approx(norm.ppf(rates))
    assert probit(rates)[0, 0] == -np.inf
    assert probit(rates)[1, 2] == np.inf
    assert probit(rates.astype(np.float32)).dtype == np.float64
    assert np.isnan(probit(np.array([1.5]))).all()


def test_without_genuine_or_impostor_pairs_no_measure_is_a_number():
    some = np.array([0.1, 0.5], np.float32)
    for genuine, impostor in ((some, NOTHING), (NOTHING, some), (NOTHING, NOTHING)):
        assert math.isnan(auc(genuine, impostor))
        assert math.isnan(eer(genuine, impostor))
        assert math.isnan(tar_at_far(genuine, impostor, 0.1))
    assert np.isnan(roc(some, NOTHING).far).all()
    assert roc(some, NOTHING).tar.tolist() == [0, 0.5, 1]
    assert np.isnan(det(NOTHING, some).frr).all()
    assert roc(NOTHING, NOTHING).thresholds.tolist() == [np.inf]


WEIGHTED = {
    "roc": lambda g, i, gw, iw: np.concatenate(roc(g, i, genuine_weights=gw, impostor_weights=iw)),
    "det": lambda g, i, gw, iw: np.concatenate(det(g, i, genuine_weights=gw, impostor_weights=iw)),
    "auc": lambda g, i, gw, iw: auc(g, i, genuine_weights=gw, impostor_weights=iw),
    "eer": lambda g, i, gw, iw: eer(g, i, genuine_weights=gw, impostor_weights=iw),
    "tar_at_far": lambda g, i, gw, iw: tar_at_far(g, i, 0.1, genuine_weights=gw, impostor_weights=iw),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("measure", WEIGHTED.values(), ids=WEIGHTED.keys())
def test_a_weight_counts_a_pair_so_often(measure, ties):
    for seed in range(5):
        genuine, impostor = draw_pairs(seed, ties=ties)
        generator = np.random.default_rng(seed)
        genuine_counts, impostor_counts = generator.integers(0, 4, 70), generator.integers(0, 4, 110)
        expected = measure(genuine.repeat(genuine_counts), impostor.repeat(impostor_counts), None, None)
        assert measure(genuine, impostor, genuine_counts, impostor_counts) == pytest.approx(expected, rel=1e-12)
        assert measure(genuine, impostor, genuine_counts / 7, impostor_counts / 3) == pytest.approx(expected, rel=1e-9)
        with pytest.raises(ValueError, match="one weight"):
            measure(genuine, impostor, genuine_counts[1:], impostor_counts)
    assert np.isnan(np.atleast_1d(measure(genuine, impostor, np.zeros(70), np.zeros(110)))).any()


@pytest.mark.parametrize("measure", WEIGHTED.values(), ids=WEIGHTED.keys())
def test_a_histogram_of_bin_centres_and_counts_is_pairs_too(measure):
    edges = np.linspace(-1, 1, 65)
    centres = (edges[:-1] + edges[1:]) / 2
    genuine, impostor = draw_pairs(0, ties=False)
    counts = [np.histogram(similarities, edges)[0] for similarities in (genuine, impostor)]
    in_bins = [centres[np.digitize(s, edges[1:-1])] for s in (genuine, impostor)]
    assert measure(centres, centres, *counts) == pytest.approx(measure(*in_bins, None, None), rel=1e-12)


def test_pairs_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="Genuine similarities must not be NaN"):
        roc(np.array([np.nan]), np.array([0.5]))
    with pytest.raises(ValueError, match="Impostor similarities must not be NaN"):
        auc(np.array([0.5]), np.array([np.nan]))
