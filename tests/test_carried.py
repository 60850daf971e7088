"""A model's own calibration: what it was measured to be in galleries of every size, and when it speaks."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from herd import fill, to_unit, unit_vectors
from test_calibrate import draw_herd

from petid_search.calibrate import Carried, current_calibration, speaking, speaking_of_pairs
from petid_search.calibrate.by_size import BINS, measure_by_size, upper_edges
from petid_search.calibrate.promise import Strangers
from petid_search.errors import CalibrationError
from petid_search.models.bundle import Card

STEP = 1 / 4096


def card(calibration):
    """The card of a model that carries this calibration; nothing else of it matters."""
    fields = dict.fromkeys(Card.__dataclass_fields__)
    return Card(**{**fields, "name": "dogs", "calibration": calibration and calibration.to_json()})


def measured(owners, vectors, groups=None):
    groups = np.arange(len(owners)) if groups is None else groups
    return measure_by_size(vectors, np.asarray(owners), np.asarray(groups))


def share_over(bins, threshold):
    """Of a histogram, what lies at or over an edge between two bins."""
    return bins[upper_edges() - STEP >= threshold].sum()


@pytest.fixture(scope="module")
def carried():
    """Measured on 150 individuals of four photos."""
    owners, vectors = draw_herd(150, 4, seed=3)
    return Carried.measure(vectors, owners, np.arange(len(owners)), data="herd")


# What is measured


def test_strangers_reach_what_plain_loops_over_every_gallery_find():
    owners, vectors = draw_herd(6, 2, seed=1)
    order = np.random.default_rng(0).permutation(len(owners))
    result = measured(owners[order], vectors[order])
    assert (result.individuals, result.photos, result.sizes) == (6, 12, (1, 2, 5))
    assert result.photos_each == (1.0, 2.0)
    for size, bins in zip(result.sizes, result.strangers[-1], strict=True):
        assert bins.sum() == pytest.approx(1)
        for threshold in (-0.25, 0.0, 0.25, 0.5):
            shares = []
            for stranger in range(6):
                galleries = itertools.combinations([one for one in range(6) if one != stranger], size)
                for gallery in galleries:
                    enrolled = vectors[np.isin(owners, gallery)]
                    shares += [
                        (enrolled @ vectors[probe]).max() >= threshold for probe in np.flatnonzero(owners == stranger)
                    ]
            assert share_over(bins, threshold) == pytest.approx(np.mean(shares))


def test_enrolled_photos_are_drawn_alike_however_few_of_them_are_enrolled():
    owners, vectors = draw_herd(5, 3, seed=2)
    result = measured(owners, vectors)
    assert result.photos_each[0] == 1.0
    for threshold in (-0.25, 0.25, 0.5):
        similar = [
            float(vectors[probe] @ vectors[photo]) >= threshold
            for probe, photo in itertools.permutations(range(15), 2)
            if owners[probe] != owners[photo]
        ]
        assert share_over(result.strangers[0, 0], threshold) == pytest.approx(np.mean(similar), abs=0.05)
        own = [
            float(vectors[probe] @ vectors[photo]) >= threshold
            for probe, photo in itertools.permutations(range(15), 2)
            if owners[probe] == owners[photo]
        ]
        assert share_over(result.mated[0], threshold) == pytest.approx(np.mean(own))


def test_every_individual_weighs_the_same_however_many_photos_it_has():
    vectors = to_unit(np.array([[1, 0, 0], [0, 1, 0]] + [[1, 0.1, 0]] * 8))
    result = measured([0, 1, *[2] * 8], vectors)
    same = float(vectors[0] @ vectors[2])
    # To a gallery of one other, 0 is met by 2 and the reverse: half of the galleries of each.
    assert share_over(result.strangers[-1, 0], np.floor((same + 1) / STEP) * STEP - 1) == pytest.approx((0.5 + 0.5) / 3)


def test_near_duplicates_neither_find_their_animal_nor_are_compared_under_two_names():
    vectors = to_unit(np.array([[1, 0, 0], [1, 0.01, 0], [0, 1, 0], [1, 0.02, 0], [0, 0, 1]]))
    owners, groups = [0, 0, 0, 1, 2], [0, 0, 1, 0, 2]
    result = measured(owners, vectors, groups)
    assert share_over(result.strangers[-1, -1], 0.5) == 0
    assert result.mated_individuals == 1
    assert share_over(result.mated[-1], 0.5) == 0
    apart = measured(owners, vectors)
    assert share_over(apart.strangers[-1, -1], 0.5) > 0
    assert share_over(apart.mated[-1], 0.5) > 0


# What is promised


@pytest.mark.parametrize("fpir", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("size", [1, 5, 50])
def test_a_threshold_is_the_lowest_that_the_individuals_can_promise(size, fpir):
    owners, vectors = draw_herd(60, 3, seed=4)
    by_size = measured(owners, vectors)
    threshold = Carried.of(by_size, data="herd").threshold(fpir, size=size, photos_each=1.0)
    bins = by_size.strangers[0, by_size.sizes.index(size)]
    assert (share_over(bins, threshold) * 60 + 1) / 61 <= fpir < (share_over(bins, threshold - 2 * STEP) * 60 + 1) / 61


def test_under_99_individuals_one_in_a_hundred_is_not_promised():
    owners, vectors = draw_herd(99, 2, seed=5)
    enough = Carried.measure(vectors, owners, np.arange(198), data="herd")
    assert -1 < enough.threshold(0.01, size=1, photos_each=1.0) <= 1.001
    few = Carried.measure(vectors[2:], owners[2:], np.arange(196), data="herd")
    with pytest.raises(
        CalibrationError, match=r"cannot promise FPIR 0\.01 at N = 1: it was measured on 98 individuals$"
    ):
        few.threshold(0.01, size=1, photos_each=1.0)


def test_thresholds_hold_on_galleries_of_animals_that_were_not_there(carried):
    owners, vectors = draw_herd(150, 4, seed=30)
    owners, rng = np.asarray(owners), np.random.default_rng(0)
    for size in (1, 7, 30):
        shares = []
        for _ in range(400 // size):
            enrolled = rng.permutation(150)[:size]
            photos = np.concatenate([rng.permutation(np.flatnonzero(owners == one))[:1] for one in enrolled])
            best = (vectors[~np.isin(owners, enrolled)] @ vectors[photos].T).max(axis=1)
            shares.append(np.mean(best >= carried.threshold(0.1, size=size, photos_each=1.0)))
        assert 0.05 < np.mean(shares) < 0.15


def test_thresholds_rise_with_the_gallery_and_never_fall_below_those_of_a_smaller_one(carried):
    every = [
        [carried.threshold(0.05, size=size, photos_each=each) for size in range(1, 200, 3)]
        for each in (1.0, 1.3, 2.0, 3.1, 4.0, 9.0)
    ]
    assert (np.diff(every, axis=0) >= 0).all()
    assert (np.diff(every, axis=1) >= 0).all()
    between = carried.threshold(0.05, size=7, photos_each=1.0)
    assert (
        carried.threshold(0.05, size=5, photos_each=1.0) < between < carried.threshold(0.05, size=10, photos_each=1.0)
    )


def test_chance_in_what_was_drawn_makes_no_threshold_fall_below_a_smaller_gallerys():
    owners, vectors = draw_herd(60, 3, seed=4)
    by_size = measured(owners, vectors)
    upside_down = replace(by_size, strangers=by_size.strangers[::-1, ::-1])
    carried = Carried.of(upside_down, data="herd")
    assert (np.diff(carried.thresholds, axis=0) >= 0).all()
    assert (np.diff(carried.thresholds, axis=1) >= 0).all()
    assert (carried.thresholds >= Carried.of(by_size, data="herd").thresholds[::-1, ::-1]).all()


def test_a_gallery_larger_than_all_measured_goes_by_a_lower_fpir_as_far_as_that_can_be_promised(carried):
    assert carried.sizes[-1] == 149
    rate = carried.rate_when_measured(0.05, size=298, photos_each=1.0)
    assert rate == pytest.approx(1 - 0.95**0.5)
    assert carried.threshold(0.05, size=298, photos_each=1.0) == carried.threshold(rate, size=149, photos_each=1.0)
    # More photos of each than were measured count as more individuals.
    assert carried.rate_when_measured(0.05, size=149, photos_each=8.0) == pytest.approx(rate)
    with pytest.raises(
        CalibrationError, match=r"at N = 2000: it was measured on 150 individuals, in galleries of up to 149"
    ):
        carried.threshold(0.05, size=2000, photos_each=1.0)


def test_an_fpir_between_two_that_were_measured_has_the_threshold_of_the_lower(carried):
    assert carried.threshold(0.06, size=3, photos_each=2.0) == carried.threshold(0.05, size=3, photos_each=2.0)
    assert carried.threshold(0.07, size=3, photos_each=2.0) < carried.threshold(0.05, size=3, photos_each=2.0)


def test_one_in_twenty_of_enrolled_animals_falls_under_the_lower_threshold():
    owners, vectors = draw_herd(80, 4, seed=6)
    by_size = measured(owners, vectors)
    carried = Carried.of(by_size, data="herd")
    for each, bins in zip(by_size.photos_each, by_size.mated, strict=True):
        lower = carried.lower_threshold(photos_each=each)
        assert (80 * (1 - share_over(bins, lower)) + 1) / 81 <= 0.05
        assert (80 * (1 - share_over(bins, lower + 2 * STEP)) + 1) / 81 > 0.05
    assert carried.lower_threshold(photos_each=1.0) < carried.lower_threshold(photos_each=4.0)


def test_probabilities_rise_with_similarity_and_fall_with_the_gallery(carried):
    told = [carried.probability(one, size=1, photos_each=1.0) for one in np.linspace(-1, 1, 50)]
    assert (np.diff(told) >= 0).all()
    assert 0 < told[0] < 0.1 < 0.9 < told[-1] < 1
    middle = carried.threshold(0.1, size=1, photos_each=1.0)
    assert carried.probability(middle, size=100, photos_each=1.0) < carried.probability(middle, size=1, photos_each=1.0)


def test_individuals_of_one_photo_promise_a_threshold_but_neither_unknown_nor_probabilities():
    owners, vectors = draw_herd(50, 1, seed=7)
    carried = Carried.measure(vectors, owners, np.arange(50), data="herd")
    assert carried.threshold(0.1, size=1, photos_each=1.0) < 1
    assert carried.lower_threshold(photos_each=1.0) is None
    assert carried.probability(0.5, size=1, photos_each=1.0) is None
    assert Carried.from_json(json.loads(json.dumps(carried.to_json()))).lower_thresholds is None


def test_a_calibration_comes_back_from_json_as_it_was_and_others_are_not_read(carried):
    values = json.loads(json.dumps(carried.to_json()))
    again = Carried.from_json(values)
    assert again.to_json() == carried.to_json()
    for size, each in ((1, 1.0), (37, 2.3), (200, 9.0)):
        at = {"size": size, "photos_each": each}
        assert again.threshold(0.05, **at) == carried.threshold(0.05, **at)
        assert again.probability(0.4, **at) == carried.probability(0.4, **at)
    assert Carried.from_json(None) is None
    assert Carried.from_json({**values, "format": 2}) is None
    assert Carried.from_json({**values, "rule": "mean"}) is None


def test_of_very_many_individuals_those_who_play_the_stranger_weigh_one_in_all():
    embeddings = to_unit(np.random.default_rng(0).normal(size=(2300, 16))).astype(np.float32)
    everyone = np.arange(2300)
    measured = measure_by_size(embeddings, everyone, everyone)
    assert measured.individuals == 2000
    assert measured.strangers.sum(axis=2) == pytest.approx(1.0)


def test_one_individual_alone_tells_nothing_of_strangers():
    with pytest.raises(ValueError, match="two individuals or more"):
        measured([0, 0], to_unit(np.eye(2)))


def test_similarities_of_one_are_counted_and_no_threshold_lets_them_pass():
    vectors = np.repeat(to_unit(np.eye(3)[:1]), 40, axis=0)
    result = measured(np.arange(40), vectors)
    assert result.strangers.shape[-1] == BINS
    assert result.strangers[0, 0, -1] == pytest.approx(1)
    assert Carried.of(result, data="herd").threshold(0.05, size=1, photos_each=1.0) > 1


# Who speaks


def test_a_gallery_of_one_photo_goes_by_the_calibration_of_its_model(gallery, carried):
    fill(gallery, [0], draw_herd(1, 1, seed=8)[1])
    alone = speaking(gallery, card(None), 0.01)
    assert (alone.threshold, alone.source, alone.individuals) == (None, None, 0)
    limits = speaking(gallery, card(carried), 0.01)
    assert (limits.source, limits.individuals) == ("model", 150)
    assert limits.threshold == carried.threshold(0.01, size=1, photos_each=1.0)
    assert limits.lower == min(limits.threshold, carried.lower_threshold(photos_each=1.0))
    assert limits.probability(0.3) == carried.probability(0.3, size=1, photos_each=1.0)
    assert limits.note.startswith("carried by model dogs, measured on 150 individuals of herd: it holds")


def test_a_gallery_speaks_for_itself_from_the_fpir_on_that_it_can_promise(gallery, carried):
    owners, vectors = draw_herd(30, 3, seed=9)
    fill(gallery, owners, vectors)
    own = current_calibration(gallery)
    limits = speaking(gallery, card(carried), 0.05)
    assert (limits.source, limits.individuals, limits.note) == ("gallery", 30, "")
    assert limits.threshold == own.threshold(0.05)
    assert limits.probability(0.4) == own.probability(0.4)
    assert limits.lower == own.lower_threshold(0.05)
    beyond = speaking(gallery, card(carried), 0.01)
    assert (beyond.source, beyond.individuals) == ("model", 150)
    assert beyond.threshold == carried.threshold(0.01, size=30, photos_each=3.0)


def test_where_several_animals_need_it_a_lower_fpir_has_no_lower_threshold_though_another_states_it(gallery, carried):
    owners, vectors = draw_herd(30, 3, seed=9)
    alike = owners < 3
    vectors[alike] = to_unit(vectors[alike] + 6.0 * vectors[alike].mean(axis=0))
    fill(gallery, owners, vectors)
    rates = (0.2, 0.1, 0.05, 0.034, 0.02, 0.01, 0.007)
    limits = [speaking(gallery, card(carried), fpir) for fpir in rates]
    assert {one.source for one in limits} == {"gallery", "model"}
    thresholds = [one.threshold for one in limits]
    assert thresholds == sorted(thresholds)
    own = current_calibration(gallery)
    least = own.threshold(own.smallest_fpir())
    assert carried.threshold(0.02, size=30, photos_each=3.0) < least
    assert limits[-3].threshold == least
    assert f"raised to {least:.3f}, which your animals need for FPIR 0.0323 already" in limits[-3].note


def test_one_animal_under_two_names_raises_the_threshold_of_nobody(gallery, carried):
    owners, vectors = draw_herd(10, 4, seed=9)
    owners[2:4] = 99  # two of the first one's four photos
    vectors[2:4] = to_unit(vectors[:2] + 0.1 * unit_vectors(2, vectors.shape[1]))
    fill(gallery, owners, vectors)
    limits = speaking(gallery, card(carried), 0.01)
    own = current_calibration(gallery)
    assert own.threshold(own.smallest_fpir()) > limits.threshold
    assert (limits.source, limits.threshold) == ("model", carried.threshold(0.01, size=11, photos_each=40 / 11))


def test_where_only_single_photos_are_enrolled_the_model_tells_what_is_unknown(gallery, carried):
    owners, vectors = draw_herd(30, 1, seed=10)
    fill(gallery, owners, vectors)
    assert speaking(gallery, card(None), 0.05).lower == -np.inf
    limits = speaking(gallery, card(carried), 0.05)
    assert limits.source == "gallery"
    assert limits.lower == min(limits.threshold, carried.lower_threshold(photos_each=1.0))
    assert limits.note.endswith("so `unknown` goes by the calibration that model dogs carries")
    assert limits.probability(0.3) == carried.probability(0.3, size=30, photos_each=1.0)


def test_where_neither_can_promise_it_both_say_why(gallery, carried):
    fill(gallery, [0, 1], draw_herd(2, 1, seed=11)[1])
    limits = speaking(gallery, card(carried), 0.001)
    assert (limits.threshold, limits.source) == (None, None)
    assert "the gallery is too small" in limits.note
    assert "the model's calibration cannot promise FPIR 0.001 at N = 2" in limits.note


def test_two_photos_are_verified_by_the_model_as_a_gallery_of_one_photo_is(gallery, carried):
    fill(gallery, [0, 0, 1], unit_vectors(3))
    limits = speaking_of_pairs(gallery, card(carried), 0.01)
    assert (limits.source, limits.individuals) == ("model", 150)
    assert limits.threshold == carried.threshold(0.01, size=1, photos_each=1.0)
    assert limits.lower == min(limits.threshold, carried.lower_threshold(photos_each=1.0))
    assert speaking_of_pairs(gallery, card(None), 0.01).threshold is None


def test_enough_individuals_verify_by_themselves(gallery, carried):
    owners, vectors = draw_herd(30, 3, seed=9)
    fill(gallery, owners, vectors)
    own = current_calibration(gallery)
    limits = speaking_of_pairs(gallery, card(carried), 0.05)
    assert (limits.source, limits.threshold) == ("gallery", own.verification_threshold(0.05))
    assert limits.lower == own.verification_lower_threshold(0.05)


def of_another_kind(individuals, photos):
    """Animals that the model finds much alike, as cats are to one that knows dogs."""
    owners, vectors = draw_herd(individuals, photos, seed=21)
    shared = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
    return owners, to_unit(vectors + 4 * shared)


@pytest.mark.parametrize("individuals", [2, 3, 5, 30])
def test_a_gallery_whose_animals_contradict_the_models_calibration_does_not_go_by_it(gallery, carried, individuals):
    fill(gallery, *of_another_kind(individuals, 3))
    for limits in (speaking(gallery, card(carried), 0.01), speaking_of_pairs(gallery, card(carried), 0.01)):
        assert (limits.threshold, limits.lower, limits.source) == (None, -np.inf, None)
        assert limits.note.endswith(
            "the calibration that model dogs carries does not hold for such photos: "
            f"by it {individuals} of your {individuals} animals would be taken for another"
        )


def test_galleries_of_the_models_own_kind_seldom_contradict_it(carried):
    threshold = carried.threshold(0.01, size=9, photos_each=3.0)
    refused = 0
    for seed in range(200):
        owners, vectors = draw_herd(10, 3, seed=1000 + seed)
        similarities = vectors @ vectors.T
        similarities[owners[:, None] == owners] = -1
        highest, nearest = similarities.max(axis=1), owners[similarities.argmax(axis=1)]
        order = np.argsort(highest)
        strangers = Strangers(highest[order], owners[order].astype(np.int32), nearest[order].astype(np.int32))
        refused += strangers.contradict(threshold, 0.01)
    assert refused <= 10
