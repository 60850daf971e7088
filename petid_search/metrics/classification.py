"""Classification: the classifier's scores against the classes it was trained on, and whether they can be believed."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petid_search.metrics.weighted import Floats, Integers, Weights, check_samples, divide, mean, share, weigh


class PerClass(NamedTuple):
    """Results of each class.

    Args:
        precision: float64, (classes,), share of right ones among those called this class; 0 where none was.
        recall: float64, (classes,), share of this class that was called so; 0 where there is none of it.
        f1: float64, (classes,), harmonic mean of the two; 0 where the class neither occurs nor was called.
        support: float64, (classes,), samples of this class, by weight.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.float64]


class Reliability(NamedTuple):
    """A reliability diagram: bins of confidence of equal width.

    Args:
        edges: float64, (bins + 1,), from 0 to 1. A bin holds its right edge but not its left one, save the first, which
            holds 0.
        confidence: float64, (bins,), mean confidence in the bin; NaN where it is empty.
        accuracy: float64, (bins,), share of right ones in the bin; NaN where it is empty.
        counts: float64, (bins,), samples in the bin, by weight.
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.float64]


def top_k_accuracy(scores: Floats, labels: Integers, k: int, *, weights: Weights | None = None) -> float:
    """Share of samples whose class is among the k of the highest scores; a wrong class of equal score comes first.

    Args:
        scores: float, (samples, classes), softmax outputs, in [0, 1].
        labels: int, (samples,), class numbers, in [0, classes).
        k: 1 or more.
        weights: (samples,), how often each counts; once where not given.

    Returns:
        in [0, 1]; NaN where there are no samples.

    Raises:
        ValueError: a score is NaN, a label is out of range, or shapes do not fit.

    Source: Russakovsky et al., "ImageNet large scale visual recognition challenge", IJCV 115(3), 2015, for k = 5.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            "Expected scores (samples, classes) and labels (samples,). "
            f"Received: shapes {scores.shape} and {labels.shape}."
        )
    if np.isnan(scores).any():
        raise ValueError("Scores must not be NaN.")
    _check_labels(labels, scores.shape[1])
    own = np.take_along_axis(scores, labels[:, np.newaxis], axis=1)
    places = np.count_nonzero(scores >= own, axis=1)
    return share(places <= k, weigh(weights, len(labels)))


def confusion_matrix(
    labels: Integers, predicted: Integers, classes: int, *, weights: Weights | None = None
) -> NDArray[np.float64]:
    """How often each class was called which.

    Args:
        labels: int, (samples,), class numbers, in [0, classes).
        predicted: int, (samples,), class numbers, in [0, classes).
        classes: how many there are.
        weights: (samples,), how often each counts; once where not given.

    Returns:
        float64, (classes, classes), samples by weight; row: what it is, column: what it was called.

    Raises:
        ValueError: a class number is out of range, or shapes do not fit.

    Source: as sklearn.metrics.confusion_matrix.
    """
    if labels.ndim != 1 or labels.shape != predicted.shape:
        raise ValueError(
            f"Labels and predictions must have shape (samples,). Received: {labels.shape} and {predicted.shape}."
        )
    _check_labels(labels, classes)
    _check_labels(predicted, classes)
    cells = labels.astype(np.int64) * classes + predicted.astype(np.int64)
    counts = np.bincount(cells, weights=weigh(weights, len(labels)), minlength=classes * classes)
    return counts.astype(np.float64).reshape(classes, classes)


def per_class(labels: Integers, predicted: Integers, classes: int, *, weights: Weights | None = None) -> PerClass:
    """Precision, recall, F1 and support of each class; 0 where one would divide by nought.

    Args:
        labels: int, (samples,), class numbers, in [0, classes).
        predicted: int, (samples,), class numbers, in [0, classes).
        classes: how many there are.
        weights: (samples,), how often each counts; once where not given.

    Returns:
        four arrays, (classes,).

    Raises:
        ValueError: a class number is out of range, or shapes do not fit.

    Source: van Rijsbergen, "Information Retrieval", 2nd ed., 1979, chapter 7; as
    sklearn.metrics.precision_recall_fscore_support with zero_division=0.
    """
    confusion = confusion_matrix(labels, predicted, classes, weights=weights)
    right, support, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return PerClass(
        divide(right, called, otherwise=0.0),
        divide(right, support, otherwise=0.0),
        divide(2 * right, support + called, otherwise=0.0),
        support,
    )


def reliability(
    confidence: Floats, correct: NDArray[np.bool_], *, bins: int = 15, weights: Weights | None = None
) -> Reliability:
    """Mean confidence and accuracy in bins of confidence of equal width: what a reliability diagram draws.

    Args:
        confidence: float, (samples,), in [0, 1]: the highest score of each, or the probability of a match.
        correct: bool, (samples,), whether what it stands for is so.
        bins: how many, 1 or more.
        weights: (samples,), how often each counts; once where not given.

    Returns:
        edges and, for each bin, mean confidence, accuracy and count.

    Raises:
        ValueError: a confidence is NaN or outside [0, 1] by more than rounding, or shapes do not fit.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599, section 2.
    """
    check_samples(confidence, name="Confidences")
    if correct.shape != confidence.shape:
        raise ValueError(f"Expected one answer a confidence. Received: shapes {correct.shape} and {confidence.shape}.")
    if len(confidence) and (confidence.min() < -1e-6 or confidence.max() > 1 + 1e-6):
        raise ValueError("Confidences must be in [0, 1].")
    edges = np.linspace(0.0, 1.0, bins + 1)
    weighed = weigh(weights, len(confidence))
    bin_of = np.searchsorted(edges[1:-1], confidence.astype(np.float64), "left")

    def in_bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(bin_of, weights=values, minlength=bins).astype(np.float64)

    counts = in_bins(weighed)
    sure, right = in_bins(weighed * confidence), in_bins(weighed * correct)
    return Reliability(edges, divide(sure, counts, otherwise=np.nan), divide(right, counts, otherwise=np.nan), counts)


def expected_calibration_error(
    confidence: Floats, correct: NDArray[np.bool_], *, bins: int = 15, weights: Weights | None = None
) -> float:
    """Mean over the samples of how far confidence and accuracy lie apart in their bin (ECE).

    Args:
        confidence: float, (samples,), in [0, 1]: the highest score of each, or the probability of a match.
        correct: bool, (samples,), whether what it stands for is so.
        bins: how many, of equal width, 1 or more; each holds its right edge but not its left one, the first also 0.
        weights: (samples,), how often each counts; once where not given.

    Returns:
        in [0, 1]; NaN where there are no samples. With few samples in a bin it is biased upwards.

    Raises:
        ValueError: a confidence is NaN or outside [0, 1] by more than rounding, or shapes do not fit.

    Source: Guo et al. 2017, eq. 3; the source's 15 bins.
    """
    _, sure, right, counts = reliability(confidence, correct, bins=bins, weights=weights)
    filled = counts > 0
    return mean(np.abs(right - sure)[filled], counts[filled])


def _check_labels(labels: NDArray[np.integer[Any]], classes: int) -> None:
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"Class numbers must be in [0, {classes}). Received: {labels.min()} to {labels.max()}.")
