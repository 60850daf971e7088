"""Two experts, one evidence: the index's similarity and the classifier's score of a candidate, taken together.

The evidence that a candidate is the probe's individual is linear in its similarity and in the logarithm of its score,
and falls with neither; as log-odds it is a probability. It was fitted on what both experts said of photos that a model
was not trained on, of individuals that its classifier knows, and of strangers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.calibration import MISS
from petid_search.calibrate.promise import grown, individual_weight, stated_rates, threshold_of
from petid_search.errors import CalibrationError
from petid_search.index.rule import RULE

FLOOR: Final = 1e-6
"""Scores below count as this: a softmax of large numbers is sure of anything, and its logarithm has no end."""
_FORMAT: Final = 1
"""Of the JSON values; other ones are not read, as if there were none."""
_RIDGE: Final = 1e-4
"""On the squares of the weights of standardised inputs: keeps them finite where the two kinds lie apart."""
_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Weights:
    """How an evidence is made of the two experts' opinions.

    Attributes:
        both: constant, and weights of the similarity and of the score's natural logarithm, neither of them negative.
        alone: constant and weight of the similarity, for a candidate that the classifier does not know.
    """

    both: tuple[float, float, float]
    alone: tuple[float, float]

    @classmethod
    def fit(
        cls,
        similarities: NDArray[np.float32],
        scores: NDArray[np.float32],
        is_own: NDArray[np.bool_],
        individuals: NDArray[np.int64],
    ) -> Self:
        """Logistic regression of whether a candidate is the probe's individual, were half of all probes mated.

        Args:
            similarities: float32, (candidates,), in [-1, 1].
            scores: float32, (candidates,), in [0, 1].
            is_own: bool, (candidates,), whether it is; there are some of either kind.
            individuals: int64, (candidates,), whose probe each is of; those of a kind weigh the same.

        Source: Brümmer, du Preez, "Application-independent evaluation of speaker detection", Computer Speech and
        Language 20, 2006 (linear fusion by logistic regression at a given prior).
        """
        weights = np.empty(len(is_own))
        for kind in (True, False):
            weights[is_own == kind] = individual_weight(individuals[is_own == kind].astype(np.int32)) / 2
        inputs = np.stack([similarities.astype(np.float64), _log(scores)])
        both, alone = _regress(inputs, is_own, weights), _regress(inputs[:1], is_own, weights)
        return cls((both[0], both[1], both[2]), (alone[0], alone[1]))

    def evidence(self, similarities: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds that candidates are the probe's individual, of any shape."""
        constant, of_similarity, of_score = self.both
        return constant + of_similarity * similarities.astype(np.float64) + of_score * _log(scores)

    def evidence_of(self, similarity: float, score: float | None) -> float:
        """The same of one candidate, which the classifier may not know."""
        if score is None:
            return self.alone[0] + self.alone[1] * similarity
        return float(self.evidence(np.array(similarity, np.float32), np.array(score, np.float32)))


@dataclass(frozen=True, slots=True)
class Combined:
    """The two experts' evidence, and from which on it is a match.

    Attributes:
        weights: what makes the evidence.
        size: individuals in the gallery that it was measured on, N, all of them known to the classifier.
        photos_each: their mean number of photos.
        individuals: how many strangers were searched for there, G; no FPIR under 1/(G + 1) is promised.
        rates: (rates,), FPIRs that thresholds stand for, rising.
        thresholds: (rates,), evidence from which on a candidate is a match.
        lower: evidence under which MISS of the mated probes lie; None where there are too few to tell.
    """

    weights: Weights
    size: int
    photos_each: float
    individuals: int
    rates: tuple[float, ...]
    thresholds: tuple[float, ...]
    lower: float | None

    @classmethod
    def of(
        cls,
        weights: Weights,
        *,
        mated: NDArray[np.float64],
        mated_of: NDArray[np.int64],
        strangers: NDArray[np.float64],
        strangers_of: NDArray[np.int64],
        size: int,
        photos_each: float,
    ) -> Self:
        """With the thresholds that probes make.

        Args:
            weights: what makes the evidence.
            mated: float64, (m,), of the probes' own individuals.
            mated_of: int64, (m,), whose each is.
            strangers: float64, (n,), the highest that each stranger reaches.
            strangers_of: int64, (n,), whose each is.
            size: as the attribute.
            photos_each: as the attribute.
        """
        count = len(np.unique(strangers_of))
        rates = stated_rates(count)
        thresholds = [_threshold(strangers, strangers_of, rate) for rate in rates]
        try:
            lower = -_threshold(-mated, mated_of, MISS)
        except CalibrationError:
            lower = None
        return cls(weights, size, photos_each, count, rates, tuple(thresholds), lower)

    def threshold(self, fpir: float, *, size: int, photos_each: float) -> float:
        """The evidence from which on a candidate is a match.

        A larger gallery, or one with more photos of each, has the threshold of the lower FPIR which grows to the wanted
        one (see `promise.grown`). One that the classifier knows in part has that of a gallery which it knows wholly:
        there are fewer to be mistaken for.

        Args:
            fpir: in (0, 1); between two that were measured, the lower one's threshold is given.
            size: individuals in the gallery, N, 1 or more.
            photos_each: their mean number of photos, 1 or more.

        Raises:
            CalibrationError: this FPIR cannot be promised at this size.
        """
        counted = size * max(1.0, photos_each / self.photos_each)
        rate = grown(fpir, counted, self.size) if counted > self.size else fpir
        place = int(np.searchsorted(self.rates, rate * (1 + _TOLERANCE), "right")) - 1
        if place < 0:
            raise CalibrationError(
                f"index and classifier together cannot promise FPIR {fpir:g} at N = {size}: it was measured on "
                f"{self.individuals} strangers in a gallery of {self.size}"
            )
        return self.thresholds[place]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for a model's card."""
        return {
            "format": _FORMAT,
            "rule": RULE,
            "both": list(self.weights.both),
            "alone": list(self.weights.alone),
            "size": self.size,
            "photos_each": self.photos_each,
            "individuals": self.individuals,
            "rates": list(self.rates),
            "thresholds": list(self.thresholds),
            "lower": self.lower,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Self | None:
        """What `to_json` gave; None where there is nothing, it was given in another way, or for another rule."""
        if values is None or values.get("format") != _FORMAT or values.get("rule") != RULE:
            return None
        (constant, of_similarity, of_score), alone = values["both"], values["alone"]
        return cls(
            Weights((constant, of_similarity, of_score), (alone[0], alone[1])),
            values["size"],
            values["photos_each"],
            values["individuals"],
            tuple(values["rates"]),
            tuple(values["thresholds"]),
            values["lower"],
        )


def probability_of(evidence: float) -> float:
    """Log-odds as a probability, in [0, 1]."""
    return float(0.5 + 0.5 * np.tanh(evidence / 2))


def _log(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.log(np.maximum(scores.astype(np.float64), FLOOR))


def _threshold(evidence: NDArray[np.float64], individuals: NDArray[np.int64], rate: float) -> float:
    """As promise.threshold_of, of numbers that are no similarities."""
    return threshold_of(
        evidence.astype(np.float32), individuals.astype(np.int32), rate, f"FPIR {rate:g}", "individuals"
    )


def _regress(inputs: NDArray[np.float64], wanted: NDArray[np.bool_], weights: NDArray[np.float64]) -> list[float]:
    """Constant and weights, none of these negative, of a logistic regression; inputs, (inputs, samples)."""
    from scipy.optimize import minimize

    centre = inputs.mean(axis=1)
    scale = np.maximum(inputs.std(axis=1), _TOLERANCE)
    standard = (inputs - centre[:, None]) / scale[:, None]
    signs = np.where(wanted, 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = signs * (parameters[0] + parameters[1:] @ standard)
        slope = -weights * signs / (1 + np.exp(np.minimum(odds, 500)))
        ridge = _RIDGE * parameters[1:]
        value = float(weights @ np.logaddexp(0, -odds) + ridge @ parameters[1:] / 2)
        return value, np.concatenate([[slope.sum()], standard @ slope + ridge])

    bounds = [(None, None), *[(0.0, None)] * len(inputs)]
    found = minimize(loss, np.zeros(len(bounds)), jac=True, bounds=bounds, method="L-BFGS-B").x
    slopes = found[1:] / scale
    return [float(found[0] - slopes @ centre), *map(float, slopes)]
