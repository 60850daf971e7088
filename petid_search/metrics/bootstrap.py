"""How sure a number is: intervals by drawing individuals anew, not photos and not pairs.

Photos of one individual are alike, and pairs share photos; to draw them as if they knew nothing of each other gives
intervals that are far too narrow. So whole individuals are drawn, with everything that belongs to them: the subsets
bootstrap. A probe counts with its individual, and a pair with the individual of its probe. The gallery that was
searched stays as it was.

A replicate is the samples with other weights, so every measure that takes weights can be given an interval. For pairs
kept as histograms, keep one histogram for each individual of the probe, (individuals, bins), and let the measure take
the weighted sum, `weights @ histograms`; each individual is then a sample. For many bins, one product for all
replicates, with the parts `individual_weights` and `percentile_interval`, is quicker still.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from petid_search.metrics.weighted import Floats


class Measure(Protocol):
    """Whatever turns weights, int64, (samples,), into a number, or NaN where it is undefined."""

    def __call__(self, *, weights: NDArray[np.int64]) -> float:
        """Measure the samples, each as often as its weight says."""


class Interval(NamedTuple):
    """A number and how sure it is.

    Args:
        value: the measure of the samples as they are.
        low: lower end of the interval; NaN where no replicate is defined.
        high: upper end, likewise.
        undefined: share of replicates in which the measure is NaN, in [0, 1]. They are left out: where it is not small,
            the interval is that of the luckier draws.
    """

    value: float
    low: float
    high: float
    undefined: float


def individual_weights(individuals: int, replicates: int, seed: int) -> NDArray[np.int64]:
    """How often each individual was drawn, drawing as many as there are, with replacement.

    Args:
        individuals: how many there are.
        replicates: how often to draw them all anew.
        seed: of NumPy's default generator; the same seed draws the same.

    Returns:
        int64, (replicates, individuals), multinomial; each row sums to `individuals`.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 6.
    """
    generator = np.random.default_rng(seed)
    counts = np.zeros((replicates, individuals), np.int64)
    if individuals:
        for row in counts:
            row[:] = np.bincount(generator.integers(individuals, size=individuals), minlength=individuals)
    return counts


def percentile_interval(values: Floats | Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval that holds the middle share of the replicates' values.

    With α = (1 - level) / 2 and n values that are not NaN, its ends are the k-th lowest and the k-th highest, where
    k = ⌊α (n + 1)⌋, at least 1. Nothing is interpolated, so infinite values do no harm.

    Args:
        values: float, (replicates,); NaN is left out.
        level: in (0, 1).

    Returns:
        low and high; NaN where there are no values.

    Raises:
        ValueError: the level is out of range.

    Source: Efron and Tibshirani 1993, chapter 13 and, for k, chapter 12.
    """
    if not 0 < level < 1:
        raise ValueError(f"The level must be in (0, 1). Received: {level}.")
    numbers = np.asarray(values, np.float64)
    ordered = np.sort(numbers[~np.isnan(numbers)])
    if not len(ordered):
        return float("nan"), float("nan")
    place = max(1, int((1 - level) / 2 * (len(ordered) + 1) + 1e-9))
    return float(ordered[place - 1]), float(ordered[-place])


def bootstrap_interval(
    measure: Measure,
    individual_of_sample: NDArray[Any],
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A measure and its percentile interval over individuals drawn anew.

    Example: `bootstrap_interval(partial(rank_k, ranks, 1), individuals)`. A measure of several arrays takes the weights
    apart itself:
    `lambda weights: fnir_at_fpir(own, ranks, non_mated, 0.01, weights=weights[:m], non_mated_weights=weights[m:])`,
    where the individuals of the m mated probes come first.

    Args:
        measure: is called with `weights`, how often each sample's individual was drawn, int64, (samples,).
        individual_of_sample: (samples,), the individual of each; anything that NumPy can sort.
        replicates: how often to draw.
        level: in (0, 1).
        seed: the same seed draws the same individuals.

    Returns:
        value, interval, and the share of replicates without a value.

    Raises:
        ValueError: the level is out of range.

    Source: Bolle, Ratha, Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap", Computer
    Vision and Image Understanding 93(1), 2004.
    """
    return _interval(measure, individual_of_sample, replicates=replicates, level=level, seed=seed)


def paired_interval(
    measure: Measure,
    other: Measure,
    individual_of_sample: NDArray[Any],
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How much more one measure is than another of the same samples, such as that of two models.

    In each replicate both see the same individuals, so that what is hard for both cancels out. Where the interval does
    not hold 0, the two differ at this level.

    Args:
        measure: is called with `weights`, as in `bootstrap_interval`.
        other: is called with the same weights, and is subtracted.
        individual_of_sample: (samples,), the individual of each; anything that NumPy can sort.
        replicates: how often to draw.
        level: in (0, 1).
        seed: the same seed draws the same individuals.

    Returns:
        difference, its interval, and the share of replicates in which either is undefined.

    Raises:
        ValueError: the level is out of range.

    Source: Bolle, Ratha, Pankanti 2004; pairing as in Efron and Tibshirani 1993, chapter 8.
    """

    def difference(*, weights: NDArray[np.int64]) -> float:
        return measure(weights=weights) - other(weights=weights)

    return _interval(difference, individual_of_sample, replicates=replicates, level=level, seed=seed)


def _interval(
    measure: Measure, individual_of_sample: NDArray[Any], *, replicates: int, level: float, seed: int
) -> Interval:
    names, of_sample = np.unique(individual_of_sample, return_inverse=True)
    drawn = individual_weights(len(names), replicates, seed)
    values = np.array([measure(weights=weights[of_sample]) for weights in drawn], np.float64)
    low, high = percentile_interval(values, level)
    undefined = float(np.mean(np.isnan(values))) if replicates else 1.0
    return Interval(measure(weights=np.ones(len(of_sample), np.int64)), low, high, undefined)
