"""Open-set identification: a probe may be none of the gallery's; by the names and definitions of ISO/IEC 19795-1.

A candidate is returned whose similarity is at or over the threshold. `own` is the similarity of each mated probe to its
own individual and `ranks` the place of that individual; `non_mated` is each non-mated probe's highest similarity to
anyone. N, the number of individuals searched, belongs to every result: FPIR and FNIR both grow with it.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petid_search.metrics.verification import auc
from petid_search.metrics.weighted import (
    TOLERANCE,
    Floats,
    Integers,
    Weights,
    area,
    check_ranks,
    check_samples,
    divide,
    returned_at_each_threshold,
    share,
    weigh,
)


class Oscr(NamedTuple):
    """Open-set classification rate curve, from no candidate returned to all.

    Args:
        fpir: float64, (points,), rising from 0 to 1; NaN where there are no non-mated probes.
        ccr: float64, (points,), correct classification rate, rising from 0 to `rank_k` at 1; NaN where there are no
            mated probes.
        thresholds: float64, (points,), falling: infinity, then every similarity that makes a difference, once.
    """

    fpir: NDArray[np.float64]
    ccr: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def threshold_at_fpir(non_mated: Floats, fpir: float, *, weights: Weights | None = None) -> float:
    """The lowest threshold at which at most this share of the given non-mated probes returns a candidate.

    A candidate is returned whose similarity is at or over the threshold.

    Args:
        non_mated: float, (probes,), each non-mated probe's highest similarity.
        fpir: false positive identification rate, in [0, 1].
        weights: (probes,), how often each probe counts; once where not given.

    Returns:
        a similarity, the float32 above the highest that is refused; minus infinity where every probe may return a
        candidate.

    Raises:
        ValueError: a similarity is NaN, or the weights do not fit.

    Source: ISO/IEC 19795-1:2021 (false positive identification rate).
    """
    check_samples(non_mated, name="Similarities of non-mated probes")
    weighed = weigh(weights, len(non_mated))
    falling = np.argsort(-non_mated)
    returned = np.cumsum(weighed[falling])
    refused = np.flatnonzero(returned > (fpir + TOLERANCE) * returned[-1:])
    if not len(refused):
        return float("-inf")
    highest_refused = non_mated[falling[refused[0]]]
    return float(np.nextafter(np.float32(highest_refused), np.float32(np.inf)))


def fpir_at(non_mated: Floats, threshold: float, *, weights: Weights | None = None) -> float:
    """Share of non-mated probes that return a candidate at or over the threshold.

    Args:
        non_mated: float, (probes,), each non-mated probe's highest similarity.
        threshold: a similarity.
        weights: (probes,), how often each probe counts; once where not given.

    Returns:
        in [0, 1]; NaN where there are no probes.

    Raises:
        ValueError: a similarity is NaN, or the weights do not fit.

    Source: ISO/IEC 19795-1:2021 (false positive identification rate).
    """
    check_samples(non_mated, name="Similarities of non-mated probes")
    return share(non_mated >= threshold, weigh(weights, len(non_mated)))


def fnir_at(own: Floats, ranks: Integers, threshold: float, *, rank: int = 1, weights: Weights | None = None) -> float:
    """FNIR(N, R, T): share of mated probes whose individual is not among the first R candidates over T.

    Args:
        own: float, (probes,), similarity of each mated probe to its own individual.
        ranks: int, (probes,), place of that individual, 1 for the first.
        threshold: T, a similarity.
        rank: R.
        weights: (probes,), how often each probe counts; once where not given.

    Returns:
        in [0, 1]; NaN where there are no probes. N is the number of individuals in the gallery that was searched.

    Raises:
        ValueError: a similarity is NaN, a rank is under 1, or the weights do not fit.

    Source: ISO/IEC 19795-1:2021; NIST FRTE 1:N.
    """
    check_samples(own, name="Similarities of mated probes")
    check_ranks(ranks, len(own))
    return share((own < threshold) | (ranks > rank), weigh(weights, len(own)))


def fnir_at_fpir(
    own: Floats,
    ranks: Integers,
    non_mated: Floats,
    fpir: float,
    *,
    rank: int = 1,
    weights: Weights | None = None,
    non_mated_weights: Weights | None = None,
) -> float:
    """FNIR(N, R, T) at the lowest threshold T at which FPIR is at most the wanted one; not interpolated.

    Args:
        own: float, (mated probes,), similarity of each to its own individual.
        ranks: int, (mated probes,), place of that individual, 1 for the first.
        non_mated: float, (non-mated probes,), highest similarity of each.
        fpir: false positive identification rate, in [0, 1].
        rank: R.
        weights: (mated probes,), how often each counts; once where not given.
        non_mated_weights: (non-mated probes,), likewise.

    Returns:
        in [0, 1]; NaN where there are no mated or no non-mated probes.

    Raises:
        ValueError: a similarity is NaN, a rank is under 1, or the weights do not fit.

    Source: ISO/IEC 19795-1:2021; NIST FRTE 1:N.
    """
    threshold = threshold_at_fpir(non_mated, fpir, weights=non_mated_weights)
    missed = fnir_at(own, ranks, threshold, rank=rank, weights=weights)
    return missed if weigh(non_mated_weights, len(non_mated)).any() else float("nan")


def dir_at_fpir(
    own: Floats,
    ranks: Integers,
    non_mated: Floats,
    fpir: float,
    *,
    rank: int = 1,
    weights: Weights | None = None,
    non_mated_weights: Weights | None = None,
) -> float:
    """Detection and identification rate: 1 - FNIR at the lowest threshold at which FPIR is at most the wanted one.

    Args:
        own: float, (mated probes,), similarity of each to its own individual.
        ranks: int, (mated probes,), place of that individual, 1 for the first.
        non_mated: float, (non-mated probes,), highest similarity of each.
        fpir: false positive identification rate, in [0, 1]; the source's false alarm rate.
        rank: R.
        weights: (mated probes,), how often each counts; once where not given.
        non_mated_weights: (non-mated probes,), likewise.

    Returns:
        in [0, 1]; NaN where there are no mated or no non-mated probes.

    Raises:
        ValueError: a similarity is NaN, a rank is under 1, or the weights do not fit.

    Source: Phillips, Grother, Micheals, "Evaluation methods in face recognition", Handbook of Face Recognition,
    2005, chapter 14.
    """
    return 1 - fnir_at_fpir(
        own, ranks, non_mated, fpir, rank=rank, weights=weights, non_mated_weights=non_mated_weights
    )


def oscr(
    own: Floats,
    ranks: Integers,
    non_mated: Floats,
    *,
    weights: Weights | None = None,
    non_mated_weights: Weights | None = None,
) -> Oscr:
    """Correct classification rate against FPIR, at every threshold that makes a difference.

    CCR is the share of mated probes whose individual comes first, at or over the threshold: DIR at rank 1.

    Args:
        own: float, (mated probes,), similarity of each to its own individual.
        ranks: int, (mated probes,), place of that individual, 1 for the first.
        non_mated: float, (non-mated probes,), highest similarity of each.
        weights: (mated probes,), how often each counts; once where not given.
        non_mated_weights: (non-mated probes,), likewise.

    Returns:
        all points, none left out where the curve is straight.

    Raises:
        ValueError: a similarity is NaN, a rank is under 1, or the weights do not fit.

    Source: Dhamija, Günther, Boult, "Reducing network agnostophobia", NeurIPS 2018, arXiv:1811.04110.
    """
    check_samples(own, name="Similarities of mated probes")
    check_samples(non_mated, name="Similarities of non-mated probes")
    check_ranks(ranks, len(own))
    mated_weights = weigh(weights, len(own))
    thresholds, correct, returned = returned_at_each_threshold(
        own, mated_weights * (ranks == 1), non_mated, weigh(non_mated_weights, len(non_mated))
    )
    return Oscr(
        divide(returned, returned[-1], otherwise=np.nan),
        divide(correct, mated_weights.sum(), otherwise=np.nan),
        thresholds,
    )


def oscr_area(
    own: Floats,
    ranks: Integers,
    non_mated: Floats,
    *,
    weights: Weights | None = None,
    non_mated_weights: Weights | None = None,
) -> float:
    """Area under the open-set classification rate curve, by trapezoids over FPIR from 0 to 1.

    How probable it is that a mated probe has its own individual first and is more similar to it than a non-mated probe
    to anyone, ties by half.

    Args:
        own: float, (mated probes,), similarity of each to its own individual.
        ranks: int, (mated probes,), place of that individual, 1 for the first.
        non_mated: float, (non-mated probes,), highest similarity of each.
        weights: (mated probes,), how often each counts; once where not given.
        non_mated_weights: (non-mated probes,), likewise.

    Returns:
        in [0, 1], at most `rank_k` at 1; NaN where there are no mated or no non-mated probes.

    Raises:
        ValueError: a similarity is NaN, a rank is under 1, or the weights do not fit.

    Source: Dhamija, Günther, Boult 2018; the area as in Vaze et al., "Open-set recognition: a good closed-set
    classifier is all you need", ICLR 2022.
    """
    curve = oscr(own, ranks, non_mated, weights=weights, non_mated_weights=non_mated_weights)
    return area(curve.fpir, curve.ccr)


def auroc_known_unknown(
    mated: Floats,
    non_mated: Floats,
    *,
    weights: Weights | None = None,
    non_mated_weights: Weights | None = None,
) -> float:
    """How probable it is that a mated probe's highest similarity is above a non-mated one's, ties by half.

    Whether the highest similarity was that to the right individual plays no part.

    Args:
        mated: float, (mated probes,), highest similarity of each, to whomever.
        non_mated: float, (non-mated probes,), highest similarity of each.
        weights: (mated probes,), how often each counts; once where not given.
        non_mated_weights: (non-mated probes,), likewise.

    Returns:
        in [0, 1]; NaN where there are no mated or no non-mated probes.

    Raises:
        ValueError: a similarity is NaN, or the weights do not fit.

    Source: Neal et al., "Open set learning with counterfactual images", ECCV 2018.
    """
    return auc(mated, non_mated, genuine_weights=weights, impostor_weights=non_mated_weights)


def baks(individuals: NDArray[Any], correct: NDArray[np.bool_], *, weights: Weights | None = None) -> float:
    """Balanced accuracy on known samples: mean over the known individuals of the share of their probes that is right.

    Args:
        individuals: (mated probes,), the individual of each; anything that NumPy can sort.
        correct: bool, (mated probes,), whether the decision named that individual.
        weights: (mated probes,), how often each probe's individual counts; once where not given. Here, other than in
            the other measures, repeating a probe would not do: each counts by one over the number of its individual's
            probes, times its weight. So an individual that a bootstrap drew twice stands there as two individuals.

    Returns:
        in [0, 1]; NaN where there are no probes.

    Raises:
        ValueError: the shapes differ, or the weights do not fit.

    Source: Adam et al., "AnimalCLEF 2025", CLEF 2025; Adam et al., "WildlifeReID-10k", CVPR workshops 2025;
    as in wildlife-datasets, `metrics.BAKS`.
    """
    return _balanced(individuals, correct, weights)


def baus(individuals: NDArray[Any], refused: NDArray[np.bool_], *, weights: Weights | None = None) -> float:
    """Balanced accuracy on unknown samples: mean over unknown individuals of the share called unknown.

    Args:
        individuals: (non-mated probes,), the individual of each; anything that NumPy can sort.
        refused: bool, (non-mated probes,), whether the decision was that it is unknown.
        weights: (non-mated probes,), how often each probe's individual counts, as in `baks`.

    Returns:
        in [0, 1]; NaN where there are no probes.

    Raises:
        ValueError: the shapes differ, or the weights do not fit.

    Source: as that of `baks`; `metrics.BAUS` in wildlife-datasets.
    """
    return _balanced(individuals, refused, weights)


def open_set_accuracy(known: float, unknown: float) -> float:
    """Geometric mean of BAKS and BAUS: nought for a system that always or never says unknown.

    Args:
        known: what `baks` gave, in [0, 1].
        unknown: what `baus` gave, in [0, 1].

    Returns:
        in [0, 1]; NaN where either is.

    Source: Adam et al., "AnimalCLEF 2025", CLEF 2025.
    """
    return float(np.sqrt(known * unknown))


def _balanced(individuals: NDArray[Any], holds: NDArray[np.bool_], weights: Weights | None) -> float:
    if individuals.shape != holds.shape or individuals.ndim != 1:
        raise ValueError(
            f"Expected one individual for each decision. Received: shapes {individuals.shape} and {holds.shape}."
        )
    _, of_probe, probes = np.unique(individuals, return_inverse=True, return_counts=True)
    return share(holds, weigh(weights, len(holds)) / probes[of_probe])
