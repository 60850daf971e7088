"""Verification: are two photos of one individual? Pairs of one individual are *genuine*, all others *impostor*.

A pair is accepted whose similarity is at or over the threshold. FAR is the share of impostor pairs that are accepted,
TAR the share of genuine pairs, FRR = 1 - TAR. Each pair is one comparison, so these are the false match and the false
non-match rate (FMR, FNMR) of ISO/IEC 19795-1; the literature of re-identification says FAR and TAR.

Many pairs come as a histogram: bin centres for similarities and counts for weights. All pairs of a bin then have one
similarity. Zero-weight bins cost nothing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petid_search.metrics.weighted import (
    TOLERANCE,
    Floats,
    Weights,
    area,
    check_samples,
    divide,
    returned_at_each_threshold,
    weigh,
)


class Roc(NamedTuple):
    """Receiver operating characteristic, from no pair accepted to all.

    Args:
        far: float64, (points,), false acceptance rate, rising from 0 to 1; NaN where there are no impostor pairs.
        tar: float64, (points,), true acceptance rate, rising from 0 to 1; NaN where there are no genuine pairs.
        thresholds: float64, (points,), falling: infinity, then every similarity that occurs, once.
    """

    far: NDArray[np.float64]
    tar: NDArray[np.float64]
    thresholds: NDArray[np.float64]


class Det(NamedTuple):
    """Detection error trade-off, from no pair accepted to all.

    Args:
        far: float64, (points,), false acceptance rate, rising from 0 to 1; NaN where there are no impostor pairs.
        frr: float64, (points,), false rejection rate, falling from 1 to 0; NaN where there are no genuine pairs.
        thresholds: float64, (points,), falling: infinity, then every similarity that occurs, once.
    """

    far: NDArray[np.float64]
    frr: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def roc(
    genuine: Floats,
    impostor: Floats,
    *,
    genuine_weights: Weights | None = None,
    impostor_weights: Weights | None = None,
) -> Roc:
    """FAR and TAR at every threshold that makes a difference.

    Args:
        genuine: float, (genuine pairs,), similarities.
        impostor: float, (impostor pairs,), similarities.
        genuine_weights: (genuine pairs,), how often each counts, such as the count of its bin; once where not given.
        impostor_weights: (impostor pairs,), likewise.

    Returns:
        all points, none left out where the curve is straight.

    Raises:
        ValueError: a similarity is NaN, or the weights do not fit.

    Source: Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27(8), 2006, algorithm 1.
    """
    check_samples(genuine, name="Genuine similarities")
    check_samples(impostor, name="Impostor similarities")
    thresholds, accepted_genuine, accepted_impostor = returned_at_each_threshold(
        genuine, weigh(genuine_weights, len(genuine)), impostor, weigh(impostor_weights, len(impostor))
    )
    return Roc(
        divide(accepted_impostor, accepted_impostor[-1], otherwise=np.nan),
        divide(accepted_genuine, accepted_genuine[-1], otherwise=np.nan),
        thresholds,
    )


def auc(
    genuine: Floats,
    impostor: Floats,
    *,
    genuine_weights: Weights | None = None,
    impostor_weights: Weights | None = None,
) -> float:
    """Area under the ROC: how probable it is that a genuine pair is more similar than an impostor pair, ties by half.

    Args:
        genuine: float, (genuine pairs,), similarities.
        impostor: float, (impostor pairs,), similarities.
        genuine_weights: (genuine pairs,), how often each counts; once where not given.
        impostor_weights: (impostor pairs,), likewise.

    Returns:
        in [0, 1]; NaN where there are no genuine or no impostor pairs.

    Raises:
        ValueError: a similarity is NaN, or the weights do not fit.

    Source: Hanley and McNeil, Radiology 143(1), 1982; by trapezoids as in Fawcett 2006, algorithm 2.
    """
    curve = roc(genuine, impostor, genuine_weights=genuine_weights, impostor_weights=impostor_weights)
    return area(curve.far, curve.tar)


def eer(
    genuine: Floats,
    impostor: Floats,
    *,
    genuine_weights: Weights | None = None,
    impostor_weights: Weights | None = None,
) -> float:
    """Equal error rate: where FAR and FRR are the same.

    Seldom is there a threshold at which they are. The points of the ROC are joined by straight lines, as for its area,
    and the rate is read where the line crosses FRR = FAR. It is not the rate of the ROC's convex hull, which is lower.

    Args:
        genuine: float, (genuine pairs,), similarities.
        impostor: float, (impostor pairs,), similarities.
        genuine_weights: (genuine pairs,), how often each counts; once where not given.
        impostor_weights: (impostor pairs,), likewise.

    Returns:
        in [0, 1], 0.5 where all similarities are equal; NaN where there are no genuine or no impostor pairs.

    Raises:
        ValueError: a similarity is NaN, or the weights do not fit.

    Source: ISO/IEC 19795-1:2021 (equal error rate); interpolation by Fawcett 2006, "Interpolating classifiers": a point
    between two thresholds is what choosing between them at random attains.
    """
    far, tar, _ = roc(genuine, impostor, genuine_weights=genuine_weights, impostor_weights=impostor_weights)
    excess = far - (1 - tar)
    if np.isnan(excess).any():
        return float("nan")
    after = int(np.searchsorted(excess, 0.0, "left"))
    part = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(far[after - 1] + part * (far[after] - far[after - 1]))


def tar_at_far(
    genuine: Floats,
    impostor: Floats,
    far: float,
    *,
    genuine_weights: Weights | None = None,
    impostor_weights: Weights | None = None,
) -> float:
    """TAR at the lowest threshold at which FAR is at most the wanted one; not interpolated.

    `threshold_at_fpir` gives that threshold for the impostor pairs. With fewer than 1/far impostor pairs none is
    accepted.

    Args:
        genuine: float, (genuine pairs,), similarities.
        impostor: float, (impostor pairs,), similarities.
        far: false acceptance rate, in [0, 1].
        genuine_weights: (genuine pairs,), how often each counts; once where not given.
        impostor_weights: (impostor pairs,), likewise.

    Returns:
        in [0, 1]; NaN where there are no genuine or no impostor pairs.

    Raises:
        ValueError: a similarity is NaN, or the weights do not fit.

    Source: ISO/IEC 19795-1:2021 (1 - FNMR at a fixed FMR), as in NIST FRTE 1:1.
    """
    curve = roc(genuine, impostor, genuine_weights=genuine_weights, impostor_weights=impostor_weights)
    if np.isnan(curve.far).any():
        return float("nan")
    return float(curve.tar[np.searchsorted(curve.far, far + TOLERANCE, "right") - 1])


def det(
    genuine: Floats,
    impostor: Floats,
    *,
    genuine_weights: Weights | None = None,
    impostor_weights: Weights | None = None,
) -> Det:
    """FAR and FRR at every threshold that makes a difference; `probit` of both is what is drawn.

    Args:
        genuine: float, (genuine pairs,), similarities.
        impostor: float, (impostor pairs,), similarities.
        genuine_weights: (genuine pairs,), how often each counts; once where not given.
        impostor_weights: (impostor pairs,), likewise.

    Returns:
        all points, none left out where the curve is straight.

    Raises:
        ValueError: a similarity is NaN, or the weights do not fit.

    Source: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997;
    ISO/IEC 19795-1:2021 (DET).
    """
    far, tar, thresholds = roc(genuine, impostor, genuine_weights=genuine_weights, impostor_weights=impostor_weights)
    return Det(far, 1 - tar, thresholds)


def probit(rates: Floats) -> NDArray[np.float64]:
    """Standard normal deviates of rates: the axes of a DET plot, on which normal similarities draw a straight line.

    Args:
        rates: float, any shape, in [0, 1].

    Returns:
        float64, the same shape; minus infinity at 0 and infinity at 1, which a plot leaves out, and NaN outside [0, 1].

    Source: Martin et al. 1997.
    """
    from scipy.special import ndtri

    return np.asarray(ndtri(np.asarray(rates, np.float64)), np.float64)
