"""Index and classifier taken together: what weighs them, how they are compared, and what their thresholds promise."""

import json
from dataclasses import replace

import numpy as np
import pytest
from herd import to_unit

from petid_search.calibrate.calibration import MISS
from petid_search.calibrate.combined import Combined, Weights
from petid_search.calibrate.experts import Heard, compare
from petid_search.errors import CalibrationError


def draw_photos(centres, photos, noise, rng):
    vectors = to_unit(centres[:, None] + noise * rng.normal(size=(len(centres), photos, centres.shape[1])))
    return vectors.reshape(-1, centres.shape[1]), np.repeat(np.arange(len(centres)), photos)


def hear(known=60, strangers=120, *, seed=0, noise=1.0, doubt=1.0):
    """A herd of which both experts see another half of what there is, with noise of their own."""
    rng = np.random.default_rng(seed)
    centres = to_unit(rng.normal(size=(known + strangers, 48)))
    parts, scores = [], []
    for those, photos in ((centres[:known], 3), (centres[:known], 2), (centres[known:], 2)):
        vectors, owners = draw_photos(those[:, :24], photos, noise / 5, rng)
        parts.append((vectors, owners, rng.permutation(100_000)[: len(owners)]))
        seen, _ = draw_photos(those[:, 24:], photos, doubt / 5, rng)
        logits = 12 * seen @ to_unit(centres[:known, 24:]).T
        scores.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return Heard.of(parts[0], parts[1], scores[1].astype(np.float32), parts[2], scores[2].astype(np.float32))


@pytest.fixture(scope="module")
def combined():
    found, _ = compare(hear())
    assert found is not None
    return found


def test_the_scale_is_that_of_a_logistic_regression_in_which_individuals_weigh_the_same():
    from sklearn.linear_model import LogisticRegression

    heard = hear()
    heard = heard.of_probes(np.arange(len(heard.own)) % 4 != 1)  # so that some have one photo, and some two
    mated = heard.is_mated
    found = Weights.fit(heard.similarities, heard.scores, heard.own, heard.individuals)
    _, of, counts = np.unique(heard.individuals, return_inverse=True, return_counts=True)
    individuals = np.array([len(np.unique(heard.individuals[kind])) for kind in (~mated, mated)])
    weights = 1e4 / counts[of] / individuals[mated.astype(int)]
    blend = found.both[1] * heard.similarities + found.both[2] * np.log(heard.scores / (1.0 - heard.scores))
    for values, told in ((blend, (found.both[0], 1.0)), (heard.similarities, found.alone)):
        right = values.argmax(axis=1) == heard.own
        theirs = LogisticRegression(C=np.inf, tol=1e-9).fit(values.max(axis=1)[:, None], right, weights)
        assert told == pytest.approx([*theirs.intercept_, *theirs.coef_[0]], rel=0.05)


def test_an_expert_that_misleads_has_no_weight():
    heard = hear()
    scores = (1 - heard.scores) / (heard.scores.shape[1] - 1)
    weights = Weights.fit(heard.similarities, scores, heard.own, heard.individuals)
    assert weights.both[2] == 0
    assert min(weights.both[1], weights.alone[1]) > 1


def test_photos_that_lie_wholly_apart_give_finite_weights():
    own = np.concatenate([np.arange(30), np.full(30, -1)])
    sure = (own[:, None] == np.arange(30)).astype(np.float32)
    weights = Weights.fit(sure, sure, own, np.arange(60))
    assert np.isfinite([*weights.both, *weights.alone]).all()
    assert weights.evidence_of(0.0, 0.0) < -3
    assert weights.evidence_of(1.0, 1.0) > 3


def test_a_probe_is_searched_for_by_the_best_photo_and_not_among_its_near_duplicates():
    gallery = to_unit([[1, 0], [1, 1], [0, 1]]), np.array([0, 0, 1]), np.array([7, 8, 9])
    mated = to_unit([[1, 0.1]]), np.array([0]), np.array([7])
    strangers = to_unit([[-1, 0.1]]), np.array([0]), np.array([9])
    scores = np.array([[0.8, 0.2]], np.float32)
    heard = Heard.of(gallery, mated, scores, strangers, scores[:, ::-1])
    assert heard.similarities[0] == pytest.approx([1.1 / np.sqrt(2 * 1.01), 0.1 / np.sqrt(1.01)], abs=1e-6)
    assert heard.similarities[1].tolist() == [pytest.approx(-0.9 / np.sqrt(2 * 1.01), abs=1e-6), -1.0]
    assert heard.scores.tolist() == [pytest.approx([0.8, 0.2]), pytest.approx([0.2, 0.8])]
    assert (heard.own.tolist(), heard.individuals.tolist(), heard.photos_each) == ([0, -1], [0, 2], 1.5)


def test_experts_whose_errors_differ_find_more_together_and_are_combined():
    found, figures = compare(hear())
    assert found is not None
    assert figures["used"] is True
    assert (figures["individuals"], figures["strangers"], figures["gallery_size"]) == (60, 120, 60)
    assert figures["rank_1"]["together"] > max(figures["rank_1"]["index"], figures["rank_1"]["classifier"])
    for name in ("fnir_at_fpir_0.01", "fnir_at_fpir_0.05"):
        missed = figures[name]
        assert missed["together"] < min(missed["index"], missed["classifier"])
        assert (
            missed["gain_low"] < missed["together"] - min(missed["index"], missed["classifier"]) < missed["gain_high"]
        )
    assert found.weights.both[1] > 0
    assert found.weights.both[2] > 0
    assert json.loads(json.dumps(figures)) == figures


def test_figures_are_what_plain_loops_find():
    heard = hear(known=30, strangers=30, seed=1)
    _, figures = compare(heard)
    for name, said in (("index", heard.similarities), ("classifier", heard.scores)):
        mated = [(row, own) for row, own in zip(said, heard.own, strict=True) if own >= 0]
        highest = sorted((row.max() for row, own in zip(said, heard.own, strict=True) if own < 0), reverse=True)
        threshold = highest[int(0.05 * len(highest))]  # which is refused, as all below it are
        first = [row[own] > np.delete(row, own).max() for row, own in mated]
        over = [row[own] > threshold for row, own in mated]
        assert figures["rank_1"][name] == pytest.approx(np.mean(first))
        assert figures["fnir_at_fpir_0.05"][name] == pytest.approx(1 - np.mean(np.logical_and(first, over)))
    assert "fnir_at_fpir_0.01" not in figures, "30 strangers cannot tell it"


def test_where_they_are_worse_together_they_are_not_combined():
    heard = hear()
    mated = heard.is_mated
    similarities, scores = np.full((2, *heard.scores.shape), 0.001, np.float32)
    rows = np.arange(len(mated))
    other = (heard.own + 1) % scores.shape[1]
    # The index is right by a hair and knows no stranger; the classifier knows strangers, and is wrong once in five.
    similarities[rows, heard.own], similarities[rows, other] = 0.50, 0.4999
    scores[rows[mated], heard.own[mated]] = 0.3
    scores[rows[mated][::5], other[mated][::5]] = 0.6
    found, figures = compare(replace(heard, similarities=similarities, scores=scores))
    assert figures["rank_1"]["index"] == 1.0 > figures["rank_1"]["together"]
    assert figures["used"] is False
    assert found is None


def test_what_is_told_of_a_probe_was_not_fitted_to_its_individual():
    heard = hear(known=25, strangers=25, seed=2)
    # Scores that say nothing, but for each probe the same: only a fit to the very probe could make use of them.
    marks = np.random.default_rng(0).uniform(0.1, 1, len(heard.own)).astype(np.float32)
    scores = np.repeat(marks[:, None], heard.scores.shape[1], axis=1)
    _, figures = compare(replace(heard, scores=scores))
    name = "fnir_at_fpir_0.05"
    assert figures["rank_1"]["together"] == figures["rank_1"]["index"]
    assert figures[name]["together"] >= figures[name]["index"] - 0.1


def test_too_few_individuals_of_either_kind_are_not_compared():
    for known, strangers in ((19, 40), (40, 19)):
        found, figures = compare(hear(known=known, strangers=strangers))
        assert found is None
        assert figures == {"individuals": known, "strangers": strangers, "gallery_size": known, "used": False}


def test_a_threshold_lets_no_more_strangers_pass_than_was_promised(combined):
    strangers = np.arange(119, dtype=float)
    made = Combined.of(
        combined.weights,
        mated=np.arange(40.0),
        mated_of=np.arange(40),
        strangers=strangers,
        strangers_of=np.arange(119),
        size=60,
        photos_each=3.0,
    )
    assert made.rates[0] == pytest.approx(1 / 120, abs=1e-4)
    for fpir in (0.01, 0.05, 0.3):
        threshold = made.threshold(fpir, size=60, photos_each=3.0)
        reached = np.count_nonzero(strangers >= threshold)
        assert (reached + 1) / 120 <= fpir < (reached + 2) / 120
    below = np.count_nonzero(np.arange(40) < made.lower)
    assert (below + 1) / 41 <= MISS < (below + 2) / 41


def test_thresholds_hold_for_strangers_that_were_not_there(combined):
    other = hear(strangers=400, seed=0)  # the same herd to begin with, and other strangers
    strangers = ~other.is_mated
    reached = combined.weights.evidence(other.similarities, other.scores)[strangers].max(axis=1)
    for fpir in (0.05, 0.1):
        assert np.mean(reached >= combined.threshold(fpir, size=60, photos_each=3.0)) < 2 * fpir


def test_a_larger_gallery_has_a_higher_threshold_as_far_as_it_can_be_promised(combined):
    same = combined.threshold(0.05, size=60, photos_each=3.0)
    assert combined.threshold(0.05, size=5, photos_each=1.0) == same
    assert combined.threshold(0.05, size=120, photos_each=3.0) == combined.threshold(0.05, size=60, photos_each=6.0)
    assert combined.threshold(0.05, size=120, photos_each=3.0) > same
    with pytest.raises(CalibrationError, match=r"FPIR 0\.05 at N = 1000: it was measured on 120 strangers"):
        combined.threshold(0.05, size=1000, photos_each=3.0)
    with pytest.raises(CalibrationError):
        combined.threshold(0.001, size=60, photos_each=3.0)


def test_evidence_falls_with_neither_and_ends_where_scores_are_no_more_to_be_told_apart(combined):
    evidence = combined.weights.evidence_of
    assert evidence(0.5, 0.3) < evidence(0.6, 0.3) < evidence(0.6, 0.4)
    assert evidence(0.5, 0.0) == evidence(0.5, 1e-9) < evidence(0.5, 1e-5)
    assert evidence(0.5, None) == pytest.approx(combined.weights.alone[0] + 0.5 * combined.weights.alone[1])


def test_it_comes_back_from_json_as_it_was_and_others_are_not_read(combined):
    values = json.loads(json.dumps(combined.to_json()))
    assert Combined.from_json(values) == combined
    assert Combined.from_json(None) is None
    assert Combined.from_json({**values, "format": 0}) is None
    assert Combined.from_json({**values, "rule": "another"}) is None
