"""Two experts, one evidence: the index's similarity and the classifier's score of a candidate, taken together.

The evidence that a candidate is the probe's individual is linear in its similarity and in the log-odds of its score,
and falls with neither; as log-odds itself it is a probability. It was fitted on what both experts said of photos that a
model was not trained on, of individuals that its classifier knows, and of strangers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.calibration import MISS
from petid_search.calibrate.promise import grown, individual_weight, place_of, stated_rates, threshold_of
from petid_search.errors import CalibrationError
from petid_search.index.rule import RULE

FLOOR: Final = 1e-6
"""Scores that are nearer to 0 or 1 count as this: a softmax of large numbers is sure of anything, without end."""
_FORMAT: Final = 1
"""Of the JSON values; other ones are not read, as if there were none."""
_RIDGE: Final = 1e-4
"""On the squares of the weights of standardised inputs: keeps them finite where the two kinds lie apart."""
_LEAST: Final = 1e-3
"""Weight of a standardised evidence, so that it puts individuals in an order whatever the probes were."""
_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Weights:
    """How an evidence is made of the two experts' opinions.

    Attributes:
        both: constant, and weights of the similarity and of the score's log-odds, neither of them negative.
        alone: constant and weight of the similarity, for a candidate that the classifier does not know.
    """

    both: tuple[float, float, float]
    alone: tuple[float, float]

    @classmethod
    def fit(
        cls,
        similarities: NDArray[np.float32],
        scores: NDArray[np.float32],
        own: NDArray[np.int64],
        individuals: NDArray[np.int64],
    ) -> Self:
        """Fit them to what both experts say of every individual, for mated probes and for strangers.

        How the two weigh against each other comes of a conditional logit: one of the individuals, or nobody, is the
        choice. Then the highest evidence of each probe becomes the log-odds of its being right, by a logistic
        regression, were half of all probes mated.

        Args:
            similarities: float32, (probes, n), in [-1, 1].
            scores: float32, (probes, n), in [0, 1].
            own: int64, (probes,), whom of the n each probe shows; -1 for a stranger. There are some of either kind.
            individuals: int64, (probes,), whose each is; those of a kind weigh the same.

        Source: McFadden, "Conditional logit analysis of qualitative choice behavior", 1974; Brümmer, du Preez,
        "Application-independent evaluation of speaker detection", Computer Speech and Language 20, 2006 (fusion and
        calibration by logistic regression at a given prior).
        """
        mated = own >= 0
        weights = np.empty(len(own))
        for kind in (mated, ~mated):
            weights[kind] = individual_weight(individuals[kind].astype(np.int32)) / 2
        said = np.stack([similarities.astype(np.float64), _odds(scores)])
        of_similarity, of_score = _choice(said, own, weights)

        def odds(values: NDArray[np.float64]) -> list[float]:
            return _regress(values.max(axis=1), values.argmax(axis=1) == own, weights)

        constant, slope = odds(of_similarity * said[0] + of_score * said[1])
        alone = odds(said[0])
        return cls((constant, slope * of_similarity, slope * of_score), (alone[0], alone[1]))

    def evidence(self, similarities: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds that candidates are the probe's individual, of any shape."""
        constant, of_similarity, of_score = self.both
        return constant + of_similarity * similarities.astype(np.float64) + of_score * _odds(scores)

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
        place = place_of(rate, self.rates)
        if place is None:
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


def _odds(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-odds of scores, which tell sure from surer as well as unlikely from unlikelier."""
    bounded = np.clip(scores.astype(np.float64), FLOOR, 1 - FLOOR)
    return np.log(bounded) - np.log1p(-bounded)


def _threshold(evidence: NDArray[np.float64], individuals: NDArray[np.int64], rate: float) -> float:
    """As promise.threshold_of, of numbers that are no similarities."""
    return threshold_of(
        evidence.astype(np.float32), individuals.astype(np.int32), rate, f"FPIR {rate:g}", "individuals"
    )


def _choice(said: NDArray[np.float64], own: NDArray[np.int64], weights: NDArray[np.float64]) -> tuple[float, float]:
    """Weights, none of them negative, of a conditional logit of two inputs, (2, probes, n), with nobody as a choice."""
    from scipy.optimize import minimize

    mated = np.flatnonzero(own >= 0)
    scale = np.maximum(said.std(axis=(1, 2)), _TOLERANCE)
    standard = (said - said.mean(axis=(1, 2), keepdims=True)) / scale[:, None, None]
    chosen = np.zeros((2, len(own)))
    chosen[:, mated] = standard[:, mated, own[mated]]

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        utilities = parameters[0] + np.tensordot(parameters[1:], standard, 1)
        highest = np.maximum(utilities.max(axis=1), 0.0)
        shares = np.exp(utilities - highest[:, None])
        total = shares.sum(axis=1) + np.exp(-highest)
        shares /= total[:, None]
        ridge = _RIDGE * parameters[1:]
        value = weights @ (highest + np.log(total)) - weights[mated] @ utilities[mated, own[mated]]
        expected = np.einsum("ipn,pn->ip", standard, shares)
        slope = weights @ shares.sum(axis=1) - weights[mated].sum()
        return float(value + ridge @ parameters[1:] / 2), np.concatenate(
            [[slope], (expected - chosen) @ weights + ridge]
        )

    bounds = [(None, None), (0.0, None), (0.0, None)]
    found = minimize(loss, np.zeros(3), jac=True, bounds=bounds, method="L-BFGS-B").x
    return float(found[1] / scale[0]), float(found[2] / scale[1])


def _regress(reached: NDArray[np.float64], right: NDArray[np.bool_], weights: NDArray[np.float64]) -> list[float]:
    """Constant and weight, over 0, of a logistic regression of whether who comes first is right."""
    from scipy.optimize import minimize

    centre, scale = reached.mean(), max(float(reached.std()), _TOLERANCE)
    standard = (reached - centre) / scale
    signs = np.where(right, 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = signs * (parameters[0] + parameters[1] * standard)
        slope = -weights * signs / (1 + np.exp(np.minimum(odds, 500)))
        ridge = _RIDGE * parameters[1]
        value = float(weights @ np.logaddexp(0, -odds) + ridge * parameters[1] / 2)
        return value, np.array([slope.sum(), standard @ slope + ridge])

    found = minimize(loss, np.zeros(2), jac=True, bounds=[(None, None), (_LEAST, None)], method="L-BFGS-B").x
    return [float(found[0] - found[1] * centre / scale), float(found[1] / scale)]
