"""Thresholds, intervals, tails and growth, on plain arrays: individuals count, and not photos."""

import numpy as np
import pytest
from scipy.stats import beta, betabinom, genpareto

from petid_search.calibrate.calibration import Calibration
from petid_search.calibrate.measure import Samples
from petid_search.calibrate.promise import Strangers, grown, smallest, tail_threshold, threshold_of
from petid_search.errors import CalibrationError


def strangers(similarities, individuals=None, nearest=None):
    similarities = np.asarray(similarities, np.float32)
    order = np.argsort(similarities, kind="stable")
    individuals = np.arange(len(similarities)) if individuals is None else np.asarray(individuals)
    nearest = np.full(len(similarities), -1) if nearest is None else np.asarray(nearest)
    return Strangers(similarities[order], individuals.astype(np.int32)[order], nearest.astype(np.int32)[order])


def calibration_of(those, size):
    nothing = np.empty(0, np.float32)
    nobody = np.empty(0, np.int32)
    samples = Samples(
        nothing,
        nobody,
        those.similarity,
        those.individual,
        those.nearest,
        nothing,
        nobody,
        nothing,
        np.empty((0, 2), np.int32),
        500,
        size,
        0,
    )
    return Calibration.of(samples)


def ask(those, rate):
    return threshold_of(those.similarity, those.individual, rate, "a threshold", "individuals")


# Individuals count


def test_fpir_is_the_mean_over_individuals_of_the_share_of_their_photos():
    those = strangers([0.9, 0.8, 0.1, 0.2, 0.9, 0.1], [0, 0, 0, 0, 1, 2])
    assert those.measured(0.5) == pytest.approx((2 / 4 + 1 + 0) / 3)
    assert those.count == 3


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_lowest_one_of_plain_loops(seed):
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    similarities = rng.integers(0, 40, len(owners)) / 40  # with ties
    those = strangers(similarities, owners)
    for rate in (0.02, 0.05, 0.2, 0.7):
        threshold = ask(those, rate)

        def allowed(candidate, rate=rate):
            shares = [np.mean(similarities.astype(np.float32)[owners == one] >= candidate) for one in range(60)]
            return (sum(shares) + 1) / 61 <= rate + 1e-9

        lower = np.unique(those.similarity[those.similarity < threshold])
        assert allowed(threshold)
        assert not any(allowed(candidate) for candidate in lower[-3:])


def test_one_individual_with_many_photos_does_not_raise_the_threshold_more_than_with_one():
    others = np.linspace(0, 0.5, 198)
    once = strangers([0.9, *others])
    many = strangers([0.9] * 50 + [*others], [0] * 50 + [*range(1, 199)])
    assert ask(once, 0.01) == ask(many, 0.01)
    assert ask(many, 0.01) < 0.6


def test_photos_of_one_individual_do_not_make_a_gallery_larger():
    few = strangers(np.linspace(0, 0.5, 980), np.repeat(np.arange(98), 10))
    with pytest.raises(CalibrationError, match=r"99 individuals are needed, and it has 98$"):
        ask(few, 0.01)
    assert smallest(98) > 0.01 >= smallest(99)


# The interval


def test_with_one_photo_each_the_interval_is_that_of_the_beta_binomial_distribution():
    """Every individual by itself: S of G reached it, S + 2 of G + 2 on the upper side."""
    those = strangers(np.linspace(0, 1, 200))
    low, high = those.interval(0.9)
    reached = int((those.similarity >= 0.9).sum())
    below, above = betabinom(200, reached, 200 - reached + 1), betabinom(200, reached + 2, 200 - reached)
    assert low == pytest.approx(below.ppf(0.025) / 200, abs=0.0051)
    assert high == pytest.approx(above.ppf(0.975) / 200, abs=0.0051)
    assert low < beta.ppf(0.025, reached, 201 - reached), "new strangers vary more than the rate they come at"


def test_where_nobody_reaches_the_threshold_the_interval_begins_at_nought_and_does_not_end_there():
    for count in (2, 20, 200, 2000):
        low, high = strangers(np.linspace(0, 0.5, count)).interval(0.6)
        assert low == 0.0
        assert min(1.0, 3 / count) <= high, "the rule of three"
        assert high <= min(1.0, 12 / count)
    # Two are taken to be worth one, and two more strangers to come.
    assert high == pytest.approx(betabinom(2000, 1, 1000).ppf(0.975) / 2000, abs=0.0006)


def test_strangers_who_reach_it_because_of_each_other_widen_the_interval():
    similarities = np.linspace(0, 1, 400)
    partner = np.arange(400) ^ 1
    low, high = strangers(similarities).interval(0.95)
    low_in_pairs, high_in_pairs = strangers(similarities, nearest=partner).interval(0.95)
    assert low_in_pairs < low < 0.05 < high < high_in_pairs


def test_several_photos_that_do_not_rise_together_narrow_the_interval_and_equal_ones_do_not():
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(300), 5)
    one = rng.random(300)
    apart = strangers(rng.random(1500), owners)
    together = strangers(np.repeat(one, 5), owners)
    widths = [np.subtract(*those.interval(0.9)[::-1]) for those in (apart, together, strangers(one))]
    assert widths[0] < 0.75 * widths[1]
    assert widths[1] == pytest.approx(widths[2], rel=0.02)


def test_no_strangers_promise_nothing():
    assert strangers([]).interval(0.5) == (0.0, 1.0)
    assert np.isnan(strangers([]).measured(0.5))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("threshold", [-1.0, 0.5, 1.1])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_interval_of_hardly_anybody_holds_what_was_measured(count, threshold):
    those = strangers(np.full(count, 0.5), nearest=np.zeros(count))
    low, high = those.interval(threshold)
    assert 0.0 <= low <= those.measured(threshold) <= high <= 1.0


# The tail


@pytest.mark.parametrize("shape", [-0.4, 0.0, 0.2])
def test_a_tail_is_extrapolated_to_where_it_goes_on(shape):
    law = genpareto(shape, scale=0.05)
    similarities = np.concatenate([np.linspace(-0.2, 0.3, 4000), 0.3 + law.ppf((np.arange(1000) + 0.5) / 1000)])
    found = tail_threshold(strangers(np.minimum(similarities, 1.0)), 0.002)
    assert found == pytest.approx(0.3 + law.isf(0.01), abs=0.012)


def test_an_extrapolated_threshold_rises_as_the_rate_falls_and_never_passes_one():
    those = strangers(np.random.default_rng(0).normal(0.4, 0.1, 60))
    calibration = calibration_of(those, 60)
    thresholds = [calibration.promise(rate, extrapolate=True).threshold for rate in (0.1, 0.02, 0.016, 0.005, 1e-4)]
    assert thresholds == sorted(thresholds)
    crowded = 1 - np.random.default_rng(0).exponential(0.01, 60) ** 2
    for rate in (0.01, 1e-4, 1e-9):
        assert tail_threshold(strangers(crowded), rate) <= np.nextafter(np.float32(1), np.float32(2))
    heavy = strangers(1 / (1 + np.exp(-np.random.default_rng(3).standard_t(1, 60))))
    assert tail_threshold(heavy, 1e-9) <= np.nextafter(np.float32(1), np.float32(2))


def test_what_is_extrapolated_is_labelled_and_stated_with_what_was_measured():
    calibration = calibration_of(strangers(np.random.default_rng(1).normal(0.4, 0.1, 60)), 60)
    promise = calibration.promise(0.01, extrapolate=True)
    assert promise.extrapolated
    assert (promise.measured, promise.low) == (0.0, 0.0)
    assert promise.high > 0.05, "60 cannot vouch for 1 %"
    assert not calibration.promise(0.05, extrapolate=True).extrapolated, "what can be promised is not extrapolated"
    with pytest.raises(CalibrationError, match=r"99 individuals .* it has 60; the smallest FPIR .* is 0\.0164$"):
        calibration.promise(0.01)
    assert calibration.promise(calibration.smallest_fpir()).threshold == pytest.approx(
        calibration.strangers.similarity.max(), abs=1e-6
    )


def test_too_few_are_not_extrapolated_either():
    with pytest.raises(CalibrationError, match=r"it takes 20 individuals, and it has 19"):
        calibration_of(strangers(np.linspace(0, 0.5, 19)), 19).promise(0.001, extrapolate=True)


# Growth


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5])
def test_fpir_grows_as_if_each_individual_had_its_own_chance(rate):
    each = 1 - (1 - rate) ** (1 / 100)
    assert grown(rate, 100, 250) == pytest.approx(1 - (1 - each) ** 250)
    assert grown(grown(rate, 100, 250), 250, 100) == pytest.approx(rate)
    assert grown(rate, 100, 100) == pytest.approx(rate)


def test_in_a_larger_gallery_the_threshold_is_higher_and_the_promise_is_that_of_its_size():
    calibration = calibration_of(strangers(np.linspace(0, 1, 400)), 400)
    before, after = calibration.promise(0.05), calibration.promise(0.05, size=800)
    assert (before.gallery_size, after.gallery_size) == (400, 800)
    assert after.threshold > before.threshold
    assert after.threshold == calibration.promise(grown(0.05, 800, 400)).threshold
    assert after.measured <= 0.05
    assert after.smallest == pytest.approx(2 * before.smallest, rel=0.02)
    assert calibration.threshold(0.05, size=800) == after.threshold


def test_a_gallery_that_shrank_keeps_its_threshold():
    calibration = calibration_of(strangers(np.linspace(0, 1, 400)), 400)
    assert calibration.threshold(0.05, size=300) == calibration.threshold(0.05)


def test_strangers_among_more_individuals_are_called_by_a_name_as_often_as_foretold():
    rng = np.random.default_rng(0)

    def unit(count):
        vectors = rng.normal(size=(count, 24))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    probes = unit(4000)
    small = [(probes @ unit(100).T).max(axis=1) for _ in range(10)]
    large = [(probes @ unit(200).T).max(axis=1) for _ in range(10)]
    rates = (
        np.mean([similarities >= 0.7 for similarities in small]),
        np.mean([similarities >= 0.7 for similarities in large]),
    )
    assert rates[1] == pytest.approx(grown(rates[0], 100, 200), rel=0.1)
