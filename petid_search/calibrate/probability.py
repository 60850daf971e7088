"""From similarity to probability: a map that never falls, and how far it can be believed."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.measure import Samples
from petid_search.calibrate.promise import individual_weight

LEAST: Final = 20
"""Probes of either kind without which no map is fitted."""
_FOLDS: Final = 5


@dataclass(frozen=True, slots=True)
class ProbabilityMap:
    """Probabilities by similarity: straight lines between knots, level beyond the first and the last.

    Attributes:
        similarities: float64, (knots,), rising; none where there were too few probes to tell.
        probabilities: float64, (knots,), in (0, 1), never falling.
    """

    similarities: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        mated: NDArray[np.float32],
        mated_of: NDArray[np.int32],
        non_mated: NDArray[np.float32],
        non_mated_of: NDArray[np.int32],
    ) -> Self:
        """Fit the share of mated ones by similarity, were half of all probes mated.

        Isotonic regression, each of its levels drawn together to a knot where it lies on average, so that the map is no
        flight of stairs. Every individual weighs the same on its side. No finite sample claims certainty: mated is not
        taken for 1 but for (m + 1)/(m + 2), m being the individuals, and non-mated likewise for 1/(n + 2).

        Args:
            mated: float32, (m,), similarities of probes to their own individual.
            mated_of: int32, (m,), the individual of each.
            non_mated: float32, (n,), highest similarities of probes to another individual.
            non_mated_of: int32, (n,), the individual of each.

        Returns:
            the map; without knots where there are fewer than 20 probes of either kind.

        Source: Zadrozny, Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD
        2002; Oron, Flournoy, "Centered isotonic regression", Statistics in Biopharmaceutical Research 9(3), 2017; for
        the targets, Platt, "Probabilistic outputs for support vector machines", 1999.
        """
        if min(len(mated), len(non_mated)) < LEAST:
            return cls(np.empty(0), np.empty(0))
        high = 1 - 1 / (len(np.unique(mated_of)) + 2)
        low = 1 / (len(np.unique(non_mated_of)) + 2)
        similarities, place = np.unique(np.concatenate([mated, non_mated]).astype(np.float64), return_inverse=True)
        sides = [individual_weight(mated_of), individual_weight(non_mated_of)]
        parts = np.split(place, [len(mated)])
        there = np.zeros((2, len(similarities)))
        for weights, part, side in zip(there, parts, sides, strict=True):
            np.add.at(weights, part, side)
        return cls.of_weights(similarities, there[0], there[1], high=high, low=low)

    @classmethod
    def of_weights(
        cls,
        similarities: NDArray[np.float64],
        mated: NDArray[np.float64],
        non_mated: NDArray[np.float64],
        *,
        high: float,
        low: float,
    ) -> Self:
        """Fit the map, as `fit` does, to what lies at each similarity.

        Args:
            similarities: float64, (n,), rising.
            mated: float64, (n,), weight of the mated probes there; their sum is 1.
            non_mated: float64, (n,), weight of the non-mated ones; their sum is 1, too. One of the two is over 0.
            high: what a mated probe counts, in (0, 1).
            low: what a non-mated one counts, in (0, 1).
        """
        from scipy.optimize import isotonic_regression

        weights = mated + non_mated
        fitted = isotonic_regression((high * mated + low * non_mated) / weights, weights=weights)
        starts = fitted.blocks[:-1]
        centres = np.add.reduceat(similarities * weights, starts) / np.add.reduceat(weights, starts)
        return cls(centres, np.asarray(fitted.x[starts], np.float64))

    def __call__(self, similarity: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities at similarities, (n,); the map must have knots."""
        return np.interp(similarity.astype(np.float64), self.similarities, self.probabilities)


def fit_map(samples: Samples) -> ProbabilityMap:
    """The map of all samples."""
    return ProbabilityMap.fit(samples.mated, samples.mated_of, samples.non_mated, samples.non_mated_of)


def cross_validated(samples: Samples) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]] | None:
    """What the map says of individuals that it was not fitted to: probabilities, whether mated, weights; (samples,).

    Each fifth of the individuals is told by the map of the others. Both sides weigh the same, and so do the individuals
    of a side. None where there are too few for a map.
    """
    mated_fold, non_mated_fold = samples.mated_of % _FOLDS, samples.non_mated_of % _FOLDS
    told_mated, told_non_mated = np.empty(len(samples.mated)), np.empty(len(samples.non_mated))
    for fold in range(_FOLDS):
        mated, non_mated = mated_fold != fold, non_mated_fold != fold
        others = ProbabilityMap.fit(
            samples.mated[mated], samples.mated_of[mated], samples.non_mated[non_mated], samples.non_mated_of[non_mated]
        )
        if not len(others.similarities):
            return None
        told_mated[~mated] = others(samples.mated[~mated])
        told_non_mated[~non_mated] = others(samples.non_mated[~non_mated])
    weights = [individual_weight(samples.mated_of), individual_weight(samples.non_mated_of)]
    return (
        np.concatenate([told_mated, told_non_mated]),
        np.repeat([True, False], [len(told_mated), len(told_non_mated)]),
        np.concatenate(weights) / 2,
    )
