"""Closed-set identification: every probe is mated; how early does the right one come?

The functions of a block take the similarities of some probes to all items, (probes, items), and give one result a
probe, so that a caller who goes block by block never holds all similarities at once. An item is what the gallery is
searched for: an individual (then ranks are those of ISO/IEC 19795-1) or a photo (then they are those of the
re-identification literature).

One rule for ties: they are broken against the system. A wrong item as similar as the right one comes before it. Within
average precision, items of equal similarity share the precision behind the last of them, which for a single right item
is the same rule.

An item to be left out, such as the probe itself, has similarity minus infinity and is not relevant. A non-mated probe,
without a relevant item, has rank 0 and a precision and penalty of NaN; the measures over probes refuse these, so select
the mated probes first: `ranks > 0`.
"""

import numpy as np
from numpy.typing import NDArray

from petid_search.metrics.weighted import (
    Floats,
    Integers,
    Weights,
    check_ranks,
    check_samples,
    divide,
    mean,
    share,
    weigh,
)


def first_ranks(similarities: Floats, relevant: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank of each probe's most similar relevant item: 1 and the number of other items that are at least as similar.

    Args:
        similarities: float, (probes, items), in [-1, 1], or minus infinity for an item to be left out.
        relevant: bool, (probes, items), whether the item is of the probe's individual.

    Returns:
        int64, (probes,), 1 for the first; 0 where no item is relevant.

    Raises:
        ValueError: the shapes differ, or a similarity is NaN.
    """
    _check_block(similarities, relevant)
    best = np.max(similarities, axis=1, where=relevant, initial=-np.inf)
    before = np.count_nonzero((similarities >= best[:, np.newaxis]) & ~relevant, axis=1)
    return np.where(relevant.any(axis=1), 1 + before, 0).astype(np.int64)


def average_precision(similarities: Floats, relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average precision of each probe: mean over its relevant items of the precision at that item's similarity.

    Precision at a similarity is the share of relevant ones among the items that are at least as similar; no
    interpolation.

    Args:
        similarities: float, (probes, items), in [-1, 1], or minus infinity for an item to be left out.
        relevant: bool, (probes, items), whether the item is of the probe's individual.

    Returns:
        float64, (probes,), in (0, 1]; NaN where no item is relevant.

    Raises:
        ValueError: the shapes differ, or a similarity is NaN.

    Source: Zheng et al., "Scalable person re-identification: a benchmark", ICCV 2015; for ties as
    sklearn.metrics.average_precision_score.
    """
    _check_block(similarities, relevant)
    precisions = np.full(len(similarities), np.nan)
    for probe in np.flatnonzero(relevant.any(axis=1)):
        everything = np.sort(similarities[probe])
        own = np.sort(similarities[probe, relevant[probe]])
        found = len(own) - np.searchsorted(own, own, "left")
        looked_at = len(everything) - np.searchsorted(everything, own, "left")
        precisions[probe] = np.mean(found / looked_at)
    return precisions


def inverse_negative_penalty(similarities: Floats, relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Inverse negative penalty of each probe: number of relevant items / rank of the last of them.

    The share of right ones among all that must be looked at to find every photo of the individual.

    Args:
        similarities: float, (probes, items), in [-1, 1], or minus infinity for an item to be left out.
        relevant: bool, (probes, items), whether the item is of the probe's individual.

    Returns:
        float64, (probes,), in (0, 1]; NaN where no item is relevant.

    Raises:
        ValueError: the shapes differ, or a similarity is NaN.

    Source: Ye et al., "Deep learning for person re-identification: a survey and outlook", IEEE TPAMI 44(6), 2022
    (early access 2021), arXiv:2001.04193.
    """
    _check_block(similarities, relevant)
    hardest = np.min(similarities, axis=1, where=relevant, initial=np.inf)
    looked_at = np.count_nonzero(similarities >= hardest[:, np.newaxis], axis=1).astype(np.float64)
    return divide(
        np.count_nonzero(relevant, axis=1).astype(np.float64),
        np.where(relevant.any(axis=1), looked_at, 0.0),
        otherwise=np.nan,
    )


def rank_k(ranks: Integers, k: int, *, weights: Weights | None = None) -> float:
    """Share of mated probes whose individual is among the first k candidates (CMC at k).

    Args:
        ranks: int, (probes,), place of the probe's individual, 1 for the first.
        k: 1 or more.
        weights: (probes,), how often each probe counts; once where not given.

    Returns:
        in [0, 1]; NaN where there are no probes.

    Raises:
        ValueError: a rank is under 1, or the weights do not fit.

    Source: Phillips, Moon, Rizvi, Rauss, "The FERET evaluation methodology", IEEE TPAMI 22(10), 2000.
    """
    check_ranks(ranks, len(ranks))
    return share(ranks <= k, weigh(weights, len(ranks)))


def cmc(ranks: Integers, up_to: int, *, weights: Weights | None = None) -> NDArray[np.float64]:
    """Cumulative match characteristic: `rank_k` for every k up to a last one.

    Args:
        ranks: int, (probes,), place of the probe's individual, 1 for the first.
        up_to: the last k, 1 or more.
        weights: (probes,), how often each probe counts; once where not given.

    Returns:
        float64, (up_to,), in [0, 1], never falling; the first is for k = 1. NaN where there are no probes.

    Raises:
        ValueError: a rank is under 1, or the weights do not fit.

    Source: ISO/IEC 19795-1:2021 (cumulative match characteristic).
    """
    check_ranks(ranks, len(ranks))
    weighed = weigh(weights, len(ranks))
    places = np.minimum(ranks.astype(np.int64), up_to + 1)
    found = np.cumsum(np.bincount(places, weights=weighed, minlength=up_to + 2), dtype=np.float64)
    return divide(found[1:-1], found[-1], otherwise=np.nan)


def mean_average_precision(precisions: Floats, *, weights: Weights | None = None) -> float:
    """Mean of the mated probes' average precisions (mAP).

    Args:
        precisions: float, (probes,), what `average_precision` gave for each mated probe.
        weights: (probes,), how often each probe counts; once where not given.

    Returns:
        in [0, 1]; NaN where there are no probes.

    Raises:
        ValueError: a precision is NaN, as that of a non-mated probe is, or the weights do not fit.
    """
    check_samples(precisions, name="Average precisions")
    return mean(precisions, weigh(weights, len(precisions)))


def mean_inverse_negative_penalty(penalties: Floats, *, weights: Weights | None = None) -> float:
    """Mean of the mated probes' inverse negative penalties (mINP).

    Args:
        penalties: float, (probes,), what `inverse_negative_penalty` gave for each mated probe.
        weights: (probes,), how often each probe counts; once where not given.

    Returns:
        in [0, 1]; NaN where there are no probes.

    Raises:
        ValueError: a penalty is NaN, as that of a non-mated probe is, or the weights do not fit.
    """
    check_samples(penalties, name="Inverse negative penalties")
    return mean(penalties, weigh(weights, len(penalties)))


def _check_block(similarities: Floats, relevant: NDArray[np.bool_]) -> None:
    if similarities.ndim != 2 or similarities.shape != relevant.shape:
        raise ValueError(
            "Similarities and relevance must both have shape (probes, items). "
            f"Received: {similarities.shape} and {relevant.shape}."
        )
    if np.isnan(similarities).any():
        raise ValueError("Similarities must not be NaN.")
