"""Measures of identification against plain loops over their definitions, ties and nothing at all included."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

import petid_search.metrics
from petid_search.metrics import (
    auroc_known_unknown,
    average_precision,
    baks,
    baus,
    cmc,
    dir_at_fpir,
    first_ranks,
    fnir_at,
    fnir_at_fpir,
    fpir_at,
    inverse_negative_penalty,
    mean_average_precision,
    mean_inverse_negative_penalty,
    open_set_accuracy,
    oscr,
    oscr_area,
    rank_k,
    tar_at_far,
    threshold_at_fpir,
)

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


def draw_block(seed, probes, items, *, ties):
    """Similarities and what is relevant, at least one item each; one item a probe is left out."""
    generator = np.random.default_rng(seed)
    similarities = draw(seed, probes * items, ties=ties).reshape(probes, items)
    relevant = generator.random((probes, items)) < 0.2
    out = generator.integers(items, size=probes)
    similarities[np.arange(probes), out] = -np.inf
    relevant[np.arange(probes), (out + 1) % items] = True
    relevant[np.arange(probes), out] = False
    return similarities, relevant


def list_pessimistically(similarities, relevant):
    """Whether each item is relevant, most similar first and wrong ones before right ones of the same similarity."""
    items = [(-s, r) for s, r in zip(similarities.tolist(), relevant.tolist(), strict=True) if s > -math.inf]
    return [r for _, r in sorted(items)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_rank_is_the_place_of_the_first_right_item_in_a_list_that_puts_equal_wrong_ones_before_it(seed, ties):
    similarities, relevant = draw_block(seed, 40, 23, ties=ties)
    ranks = first_ranks(similarities, relevant)
    assert ranks.dtype == np.int64
    for probe in range(40):
        assert ranks[probe] == list_pessimistically(similarities[probe], relevant[probe]).index(True) + 1


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_scikit_learns_ties_included(seed, ties):
    similarities, relevant = draw_block(seed, 40, 23, ties=ties)
    precisions = average_precision(similarities, relevant)
    for probe in range(40):
        there = similarities[probe] > -np.inf
        expected = average_precision_score(relevant[probe][there], similarities[probe][there])
        assert precisions[probe] == pytest.approx(expected)
    assert mean_average_precision(precisions) == pytest.approx(sum(precisions) / 40)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_of_one_right_item_is_one_over_its_rank(seed, ties):
    similarities = draw(seed, 30 * 12, ties=ties).reshape(30, 12)
    relevant = np.arange(12) == np.random.default_rng(seed).integers(12, size=(30, 1))
    ranks = first_ranks(similarities, relevant)
    assert average_precision(similarities, relevant) == pytest.approx(1 / ranks)
    assert inverse_negative_penalty(similarities, relevant) == pytest.approx(1 / ranks)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_inverse_negative_penalty_is_the_share_of_right_ones_down_to_the_last_right_one(seed, ties):
    similarities, relevant = draw_block(seed, 40, 23, ties=ties)
    penalties = inverse_negative_penalty(similarities, relevant)
    for probe in range(40):
        items = list_pessimistically(similarities[probe], relevant[probe])
        last = max(place for place, right in enumerate(items, 1) if right)
        negative_penalty = (last - sum(items)) / last
        assert penalties[probe] == pytest.approx(1 - negative_penalty)
    assert mean_inverse_negative_penalty(penalties) == pytest.approx(sum(penalties) / 40)


def test_a_block_gives_what_its_halves_give():
    similarities, relevant = draw_block(3, 40, 23, ties=True)
    for measure in (first_ranks, average_precision, inverse_negative_penalty):
        halves = [measure(similarities[half], relevant[half]) for half in (slice(0, 17), slice(17, 40))]
        assert np.array_equal(measure(similarities, relevant), np.concatenate(halves))


def test_where_all_are_equally_similar_the_right_one_comes_last():
    similarities, relevant = np.zeros((1, 10), np.float32), np.arange(10)[np.newaxis] < 4
    assert first_ranks(similarities, relevant).tolist() == [7]
    assert average_precision(similarities, relevant).tolist() == [0.4]
    assert inverse_negative_penalty(similarities, relevant).tolist() == [0.4]


def test_a_non_mated_probe_has_no_rank_and_is_refused_by_measures_over_mated_probes():
    similarities, relevant = draw_block(0, 4, 6, ties=False)
    relevant[2] = False
    ranks = first_ranks(similarities, relevant)
    assert (ranks > 0).tolist() == [True, True, False, True]
    assert ranks[2] == 0
    precisions, penalties = average_precision(similarities, relevant), inverse_negative_penalty(similarities, relevant)
    assert np.isnan(precisions).tolist() == np.isnan(penalties).tolist() == [False, False, True, False]
    for refuse in (
        lambda: rank_k(ranks, 1),
        lambda: cmc(ranks, 3),
        lambda: fnir_at(draw(0, 4, ties=False), ranks, 0.5),
        lambda: oscr(draw(0, 4, ties=False), ranks, NOTHING),
        lambda: mean_average_precision(precisions),
        lambda: mean_inverse_negative_penalty(penalties),
    ):
        with pytest.raises(ValueError, match=r"non-mated|NaN"):
            refuse()
    assert rank_k(ranks[ranks > 0], 6) == 1.0


def test_a_gallery_of_one_or_no_item_is_a_gallery():
    one, none = np.zeros((3, 1), np.float32), np.zeros((3, 0), np.float32)
    assert first_ranks(one, np.ones((3, 1), bool)).tolist() == [1, 1, 1]
    assert average_precision(one, np.ones((3, 1), bool)).tolist() == [1, 1, 1]
    assert first_ranks(none, np.ones((3, 0), bool)).tolist() == [0, 0, 0]
    assert np.isnan(inverse_negative_penalty(none, np.ones((3, 0), bool))).all()
    assert first_ranks(one[:0], np.ones((0, 1), bool)).shape == (0,)
    assert average_precision(one[:0], np.ones((0, 1), bool)).shape == (0,)


def test_blocks_that_do_not_fit_or_hold_no_number_are_refused():
    with pytest.raises(ValueError, match="shape"):
        first_ranks(np.zeros((2, 3)), np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="NaN"):
        average_precision(np.full((1, 2), np.nan), np.ones((1, 2), bool))


@pytest.mark.parametrize("up_to", [1, 3, 200])
@pytest.mark.parametrize("seed", range(3))
def test_the_cmc_is_rank_k_for_every_k(seed, up_to):
    ranks = np.random.default_rng(seed).integers(1, 30, 83)
    curve = cmc(ranks, up_to)
    assert curve == pytest.approx([rank_k(ranks, k) for k in range(1, up_to + 1)])
    assert np.isnan(cmc(ranks[:0], up_to)).tolist() == [True] * up_to


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("fpir", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_fnir_at_fpir_is_the_lowest_fnir_of_all_thresholds_that_hold_the_fpir(fpir, rank, ties):
    own, non_mated = draw(1, 60, ties=ties), draw(2, 50, ties=ties)
    ranks = np.random.default_rng(3).integers(1, 6, 60)
    lowest = 1.0
    for threshold in [-2.0, 2.0, *own.tolist(), *non_mated.tolist()]:
        if sum(s >= threshold for s in non_mated.tolist()) <= fpir * 50:
            lowest = min(lowest, fnir_at(own, ranks, threshold, rank=rank))
    assert fnir_at_fpir(own, ranks, non_mated, fpir, rank=rank) == pytest.approx(lowest)
    assert dir_at_fpir(own, ranks, non_mated, fpir, rank=rank) == pytest.approx(1 - lowest)
    if rank == 1:
        first = np.ones(60, np.int64)
        assert dir_at_fpir(own, first, non_mated, fpir) == pytest.approx(tar_at_far(own, non_mated, fpir))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_point_of_the_oscr_is_dir_at_rank_1_and_fpir_at_its_threshold(seed, ties):
    own, non_mated = draw(seed, 40, ties=ties), draw(seed + 50, 30, ties=ties)
    ranks = np.random.default_rng(seed).integers(1, 4, 40)
    fpir, ccr, thresholds = oscr(own, ranks, non_mated)
    for returned, correct, threshold in zip(fpir, ccr, thresholds, strict=True):
        assert returned == pytest.approx(fpir_at(non_mated, threshold))
        assert correct == pytest.approx(1 - fnir_at(own, ranks, threshold))
    assert (fpir[0], ccr[0], thresholds[0]) == (0, 0, np.inf)
    assert (fpir[-1], ccr[-1]) == (1, pytest.approx(rank_k(ranks, 1)))
    assert set(thresholds[1:]) == set(own[ranks == 1].tolist()) | set(non_mated.tolist())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_area_under_the_oscr_is_how_often_a_found_probe_beats_a_stranger(seed, ties):
    own, non_mated = draw(seed, 40, ties=ties), draw(seed + 50, 30, ties=ties)
    ranks = np.random.default_rng(seed).integers(1, 4, 40)
    won = 0.0
    for similarity, rank in zip(own.tolist(), ranks.tolist(), strict=True):
        for stranger in non_mated.tolist():
            if rank == 1:
                won += 1.0 if similarity > stranger else 0.5 if similarity == stranger else 0.0
    assert oscr_area(own, ranks, non_mated) == pytest.approx(won / (40 * 30))
    assert oscr_area(own, np.ones(40, np.int64), non_mated) == pytest.approx(auroc_known_unknown(own, non_mated))
    assert oscr_area(own, np.full(40, 2), non_mated) == 0.0


@pytest.mark.parametrize("ties", [False, True])
def test_the_auroc_of_known_and_unknown_is_scikit_learns(ties):
    mated, non_mated = draw(1, 60, ties=ties), draw(2, 45, ties=ties)
    expected = roc_auc_score(np.repeat([True, False], [60, 45]), np.concatenate([mated, non_mated]))
    assert auroc_known_unknown(mated, non_mated) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_baks_is_scikit_learns_balanced_accuracy(seed):
    generator = np.random.default_rng(seed)
    individuals, predicted = generator.integers(6, size=80), generator.integers(6, size=80)
    assert baks(individuals, individuals == predicted) == pytest.approx(balanced_accuracy_score(individuals, predicted))


@pytest.mark.parametrize("names", [["Rex"], ["Rex", "Ginger", "Smoke", "Ash"]])
def test_baus_is_the_mean_over_strangers_of_the_share_called_unknown(names):
    generator = np.random.default_rng(len(names))
    individuals, refused = generator.choice(names, 50), generator.random(50) < 0.6
    shares = []
    for name in sorted(set(individuals.tolist())):
        own = [r for n, r in zip(individuals.tolist(), refused.tolist(), strict=True) if n == name]
        shares.append(sum(own) / len(own))
    assert baus(individuals, refused) == pytest.approx(sum(shares) / len(shares))


def test_with_one_probe_each_baks_is_the_share_of_right_ones():
    correct = np.random.default_rng(0).random(40) < 0.3
    assert baks(np.arange(40), correct) == pytest.approx(correct.mean())


def test_an_individual_of_weight_two_counts_in_baks_as_two_individuals():
    individuals, correct = np.array([0, 0, 0, 1, 2, 2]), np.array([True, False, False, True, True, False])
    weights = np.array([2, 2, 2, 0, 1, 1])
    twice = np.array([0, 0, 0, 10, 10, 10, 2, 2])
    assert baks(individuals, correct, weights=weights) == pytest.approx(baks(twice, correct[[0, 1, 2, 0, 1, 2, 4, 5]]))
    assert math.isnan(baks(individuals, correct, weights=np.zeros(6)))


def test_a_system_that_never_says_unknown_has_no_open_set_accuracy():
    assert open_set_accuracy(1.0, 0.0) == 0.0
    assert open_set_accuracy(0.9, 0.4) == pytest.approx(0.6)
    assert math.isnan(open_set_accuracy(0.9, float("nan")))


def test_without_strangers_or_without_mated_probes_open_set_measures_are_not_numbers():
    own, ranks, non_mated = draw(0, 5, ties=False), np.ones(5, np.int64), draw(1, 5, ties=False)
    no_ranks = np.empty(0, np.int64)
    for measure in (
        lambda *probes: fnir_at_fpir(*probes, 0.1),
        lambda *probes: dir_at_fpir(*probes, 0.1),
        oscr_area,
        lambda own, ranks, non_mated: auroc_known_unknown(own, non_mated),
    ):
        assert math.isnan(measure(own, ranks, NOTHING))
        assert math.isnan(measure(NOTHING, no_ranks, non_mated))
        assert math.isnan(measure(NOTHING, no_ranks, NOTHING))
        assert not math.isnan(measure(own, ranks, non_mated))
    assert math.isnan(baks(no_ranks, np.empty(0, bool)))
    assert math.isnan(baus(no_ranks, np.empty(0, bool)))
    assert math.isnan(mean_average_precision(NOTHING))
    assert math.isnan(mean_inverse_negative_penalty(NOTHING))


WEIGHTED = {
    "rank_k": lambda s, w, v: rank_k(s["ranks"], 2, weights=w),
    "cmc": lambda s, w, v: cmc(s["ranks"], 7, weights=w),
    "mean_average_precision": lambda s, w, v: mean_average_precision(s["own"], weights=w),
    "mean_inverse_negative_penalty": lambda s, w, v: mean_inverse_negative_penalty(s["own"], weights=w),
    "fpir_at": lambda s, w, v: fpir_at(s["non_mated"], 0.25, weights=v),
    "threshold_at_fpir": lambda s, w, v: threshold_at_fpir(s["non_mated"], 0.1, weights=v),
    "fnir_at": lambda s, w, v: fnir_at(s["own"], s["ranks"], 0.25, rank=2, weights=w),
    "fnir_at_fpir": lambda s, w, v: fnir_at_fpir(
        s["own"], s["ranks"], s["non_mated"], 0.2, weights=w, non_mated_weights=v
    ),
    "dir_at_fpir": lambda s, w, v: dir_at_fpir(
        s["own"], s["ranks"], s["non_mated"], 0.2, rank=2, weights=w, non_mated_weights=v
    ),
    "oscr": lambda s, w, v: np.concatenate(oscr(s["own"], s["ranks"], s["non_mated"], weights=w, non_mated_weights=v)),
    "oscr_area": lambda s, w, v: oscr_area(s["own"], s["ranks"], s["non_mated"], weights=w, non_mated_weights=v),
    "auroc_known_unknown": lambda s, w, v: auroc_known_unknown(
        s["own"], s["non_mated"], weights=w, non_mated_weights=v
    ),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("measure", WEIGHTED.values(), ids=WEIGHTED.keys())
def test_a_weight_counts_a_probe_so_often(measure, ties):
    for seed in range(5):
        generator = np.random.default_rng(seed)
        samples = {
            "own": draw(seed, 60, ties=ties),
            "ranks": generator.integers(1, 5, 60),
            "non_mated": draw(seed + 1, 50, ties=ties),
        }
        mated_counts, counts = generator.integers(0, 4, 60), generator.integers(0, 4, 50)
        repeated = {
            "own": samples["own"].repeat(mated_counts),
            "ranks": samples["ranks"].repeat(mated_counts),
            "non_mated": samples["non_mated"].repeat(counts),
        }
        expected = measure(repeated, None, None)
        assert measure(samples, mated_counts, counts) == pytest.approx(expected, rel=1e-12)
        assert measure(samples, mated_counts / 3, counts / 7) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -1.0, 1.0], [1.0, np.nan, 1.0], [1.0, np.inf, 1.0]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match=r"[Ww]eight"):
        fpir_at(draw(0, 3, ties=False), 0.5, weights=np.array(weights))


def test_samples_that_are_no_numbers_are_refused():
    holed = np.array([0.5, np.nan], np.float32)
    for refuse in (
        lambda: fpir_at(holed, 0.5),
        lambda: threshold_at_fpir(holed, 0.5),
        lambda: fnir_at(holed, np.array([1, 1]), 0.5),
        lambda: oscr(holed, np.array([1, 1]), NOTHING),
    ):
        with pytest.raises(ValueError, match="NaN"):
            refuse()
    with pytest.raises(ValueError, match="shape"):
        fpir_at(np.zeros((2, 2)), 0.5)
    with pytest.raises(ValueError, match="one rank"):
        fnir_at(np.zeros(2), np.array([1]), 0.5)
    with pytest.raises(ValueError, match="one individual"):
        baks(np.arange(3), np.ones(2, bool))


def test_every_measure_can_be_had_from_the_package_and_their_names_are_sorted():
    names = petid_search.metrics.__all__
    assert names == sorted(names)
    assert all(hasattr(petid_search.metrics, name) for name in names)
