"""What a weight means in every measure: how often its sample counts.

A measure with weights is the measure of the samples repeated so many times, and a sample of weight nought is not there.
So a histogram is samples too, bin centres weighted by counts, and a bootstrap replicate is the samples with other
weights.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]
Integers: TypeAlias = NDArray[np.integer[Any]]
Weights: TypeAlias = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]

#: Shares that differ by less are taken for equal: 0.29 · 100 is a little less than 29 in floating point.
TOLERANCE = 1e-12


def weigh(weights: Weights | None, count: int) -> NDArray[np.float64]:
    """Weights as float64, (count,); ones where none are given.

    Raises:
        ValueError: their number is not that of the samples, or one is negative, infinite or NaN.
    """
    if weights is None:
        return np.ones(count)
    weighed = np.asarray(weights, np.float64)
    if weighed.shape != (count,):
        raise ValueError(f"Expected one weight for each of {count} samples. Received: shape {weighed.shape}.")
    if count and not (weighed.min() >= 0 and weighed.max() < np.inf):
        raise ValueError("Weights must be finite and not negative.")
    return weighed


def check_samples(similarities: Floats, *, name: str) -> None:
    """See to it that there is one number a sample.

    Raises:
        ValueError: not of shape (samples,), or a NaN is among them.
    """
    if similarities.ndim != 1:
        raise ValueError(f"{name} must have shape (samples,). Received: shape {similarities.shape}.")
    if np.isnan(similarities).any():
        raise ValueError(f"{name} must not be NaN.")


def check_ranks(ranks: Integers, count: int) -> None:
    """See to it that every probe is mated, with a rank of 1 or more.

    Raises:
        ValueError: a rank is under 1, or their number is not that of the probes.
    """
    if ranks.shape != (count,):
        raise ValueError(f"Expected one rank for each of {count} probes. Received: shape {ranks.shape}.")
    if count and ranks.min() < 1:
        raise ValueError("Ranks start at 1: a non-mated probe has none, leave it out.")


def share(holds: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    """Share of the samples, by weight, for which it holds; NaN where there are none."""
    total = weights.sum()
    return float(weights[holds].sum() / total) if total > 0 else float("nan")


def mean(values: Floats, weights: NDArray[np.float64]) -> float:
    """Mean of the samples, by weight; NaN where there are none."""
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else float("nan")


def divide(part: NDArray[np.float64], whole: NDArray[np.float64] | float, *, otherwise: float) -> NDArray[np.float64]:
    """Part / whole, and `otherwise` where the whole is nought."""
    wholes = np.broadcast_to(np.asarray(whole, np.float64), part.shape)
    quotients = np.full(part.shape, otherwise, np.float64)
    np.divide(part, wholes, out=quotients, where=wholes > 0)
    return quotients


def area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Area under a curve by trapezoids; NaN where a rate of it is, were it a single point only."""
    return float(np.trapezoid(y, x)) if not (np.isnan(x).any() or np.isnan(y).any()) else float("nan")


def returned_at_each_threshold(
    first: Floats, first_weights: NDArray[np.float64], second: Floats, second_weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Weight of two sets of samples at or over each threshold.

    Args:
        first: float, (n,), similarities.
        first_weights: float64, (n,).
        second: float, (m,), similarities.
        second_weights: float64, (m,).

    Returns:
        thresholds, float64, falling: infinity, then every similarity that has a weight, once; the weight of `first` and
        the weight of `second` at or over each, float64, rising from 0.
    """
    one, two = first_weights > 0, second_weights > 0
    similarities = np.concatenate([first[one], second[two]]).astype(np.float64)
    order = np.argsort(-similarities)
    similarities = similarities[order]
    last_of_its_value = np.append(similarities[1:] != similarities[:-1], True)[: len(similarities)]

    def cumulate(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(0.0, np.cumsum(weights[order])[last_of_its_value])

    return (
        np.append(np.inf, similarities[last_of_its_value]),
        cumulate(np.concatenate([first_weights[one], np.zeros(two.sum())])),
        cumulate(np.concatenate([np.zeros(one.sum()), second_weights[two]])),
    )
