"""Measures of classification against scikit-learn and plain loops."""

import math

import numpy as np
import pytest
import sklearn.metrics

from petid_search.metrics import (
    confusion_matrix,
    expected_calibration_error,
    per_class,
    reliability,
    top_k_accuracy,
)

NOTHING = np.empty(0, np.int64)


def draw_scores(seed, *, ties):
    """Softmax outputs, float32, (80, 7), and labels; with ties, only few different ones."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(80, 7)) * 2
    scores = np.exp(np.round(logits) if ties else logits)
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32), generator.integers(7, size=80)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_top_k_accuracy_is_scikit_learns_where_no_scores_are_equal(seed, k):
    scores, labels = draw_scores(seed, ties=False)
    expected = sklearn.metrics.top_k_accuracy_score(labels, scores, k=k, labels=np.arange(7))
    assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("seed", range(3))
def test_among_the_k_highest_a_wrong_class_of_equal_score_comes_first(seed, k):
    scores, labels = draw_scores(seed, ties=True)
    found = 0
    for row, own in zip(scores.tolist(), labels.tolist(), strict=True):
        order = sorted(range(7), key=lambda c: (-row[c], c == own))
        found += own in order[:k]
    assert top_k_accuracy(scores, labels, k) == pytest.approx(found / 80)


@pytest.mark.parametrize("seed", range(4))
def test_the_confusion_matrix_and_what_follows_for_each_class_are_scikit_learns(seed):
    generator = np.random.default_rng(seed)
    # Of 9 classes, one is never true, one never called, one neither.
    labels, predicted = generator.choice([0, 1, 2, 3, 4, 5, 6], 60), generator.choice([0, 1, 2, 3, 4, 5, 7], 60)
    confusion = confusion_matrix(labels, predicted, 9)
    assert np.array_equal(confusion, sklearn.metrics.confusion_matrix(labels, predicted, labels=np.arange(9)))
    expected = sklearn.metrics.precision_recall_fscore_support(labels, predicted, labels=np.arange(9), zero_division=0)
    for mine, theirs in zip(per_class(labels, predicted, 9), expected, strict=True):
        assert mine == pytest.approx(theirs)
    assert per_class(labels, predicted, 9).f1[8] == 0


def count_in_bins(confidence, correct, bins):
    """Guo et al. 2017, by loops: for each bin, the confidences and the answers of those in it."""
    found = []
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            (sure, right)
            for sure, right in zip(confidence.tolist(), correct.tolist(), strict=True)
            if low < sure <= high or (number == 0 and sure == 0)
        ]
        found.append(inside)
    return found


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("bins", [1, 2, 4, 16])
@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy_of_bins(seed, bins, ties):
    generator = np.random.default_rng(seed)
    confidence = generator.integers(0, 17, 90) / 16 if ties else generator.random(90)  # in sixteenths: at every edge
    correct = generator.random(90) < confidence**2
    found = count_in_bins(confidence, correct, bins)
    edges, sure, right, counts = reliability(confidence, correct, bins=bins)
    assert edges == pytest.approx([number / bins for number in range(bins + 1)])
    assert counts.tolist() == [len(inside) for inside in found]
    error = 0.0
    for number, inside in enumerate(found):
        if inside:
            assert sure[number] == pytest.approx(sum(s for s, _ in inside) / len(inside))
            assert right[number] == pytest.approx(sum(r for _, r in inside) / len(inside))
            error += len(inside) / 90 * abs(sure[number] - right[number])
        else:
            assert math.isnan(sure[number])
            assert math.isnan(right[number])
    assert expected_calibration_error(confidence, correct, bins=bins) == pytest.approx(error)


def test_sure_and_always_right_is_calibrated_and_sure_and_always_wrong_is_not():
    ones = np.ones(5, np.float32)
    assert expected_calibration_error(ones, np.ones(5, bool)) == 0.0
    assert expected_calibration_error(ones, np.zeros(5, bool)) == 1.0


def test_of_no_samples_nothing_is_known():
    none = np.empty(0, np.float32)
    assert math.isnan(top_k_accuracy(np.empty((0, 3), np.float32), NOTHING, 1))
    assert confusion_matrix(NOTHING, NOTHING, 2).tolist() == [[0, 0], [0, 0]]
    assert all(values.tolist() == [0, 0] for values in per_class(NOTHING, NOTHING, 2))
    assert math.isnan(expected_calibration_error(none, none > 0))
    assert np.isnan(reliability(none, none > 0, bins=3).accuracy).all()


def test_of_one_class_everything_is_right():
    labels = np.zeros(4, np.int64)
    assert top_k_accuracy(np.ones((4, 1), np.float32), labels, 1) == 1.0
    assert [values.tolist() for values in per_class(labels, labels, 1)] == [[1], [1], [1], [4]]


WEIGHTED = {
    "top_k_accuracy": lambda s, w: top_k_accuracy(s["scores"], s["labels"], 2, weights=w),
    "confusion_matrix": lambda s, w: confusion_matrix(s["labels"], s["predicted"], 7, weights=w),
    "per_class": lambda s, w: np.array(per_class(s["labels"], s["predicted"], 7, weights=w)),
    "reliability": lambda s, w: np.concatenate(
        reliability(s["scores"].max(axis=1), s["labels"] == s["predicted"], weights=w)
    ),
    "expected_calibration_error": lambda s, w: expected_calibration_error(
        s["scores"].max(axis=1), s["labels"] == s["predicted"], weights=w
    ),
}


@pytest.mark.parametrize("measure", WEIGHTED.values(), ids=WEIGHTED.keys())
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_a_sample_so_often(seed, measure):
    scores, labels = draw_scores(seed, ties=True)
    samples = {"scores": scores, "labels": labels, "predicted": scores.argmax(axis=1)}
    counts = np.random.default_rng(seed).integers(0, 4, 80)
    repeated = {name: values.repeat(counts, axis=0) for name, values in samples.items()}
    assert measure(samples, counts) == pytest.approx(measure(repeated, None), rel=1e-12, nan_ok=True)
    with pytest.raises(ValueError, match="one weight"):
        measure(samples, counts[1:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k_accuracy(np.ones((2, 3)), np.array([0, 3]), 1), "Class numbers"),
        (lambda: top_k_accuracy(np.ones((2, 3)), np.array([0]), 1), "shape"),
        (lambda: top_k_accuracy(np.full((1, 3), np.nan), np.array([0]), 1), "NaN"),
        (lambda: confusion_matrix(np.array([-1]), np.array([0]), 2), "Class numbers"),
        (lambda: confusion_matrix(np.array([0]), np.array([2]), 2), "Class numbers"),
        (lambda: confusion_matrix(np.array([0]), np.array([0, 1]), 2), "shape"),
        (lambda: reliability(np.array([1.1]), np.array([True])), "Confidences"),
        (lambda: reliability(np.array([-0.1]), np.array([True])), "Confidences"),
        (lambda: reliability(np.array([np.nan]), np.array([True])), "NaN"),
        (lambda: reliability(np.array([0.5]), np.array([True, False])), "shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_confidence_over_one_by_rounding_is_one():
    over = np.nextafter(np.float32(1), np.float32(2), dtype=np.float32)
    assert reliability(np.array([over]), np.array([True]), bins=4).counts.tolist() == [0, 0, 0, 1]
