"""From what strangers reach to a threshold that can be promised, with the interval that it can be held to.

Individuals count, and not photos: the photos of one rise and fall together. FPIR is the mean, over individuals that
play the stranger, of the share of its photos that reach the threshold.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import CalibrationError

LEVEL: Final = 0.95
_TAIL: Final = 0.2
_TAIL_LEAST: Final = 10
"""The tail is fitted to this share of the individuals, and to so many at least."""
_RATES: Final = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.007),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5),
)
_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Promise:
    """A threshold, and what is known of the strangers who reach it.

    Attributes:
        fpir: the false positive identification rate that was asked for.
        threshold: the similarity from which on a candidate is a match.
        measured: share of the strangers played here that reach the threshold, each individual weighing the same.
        low: of as many new strangers as were played here, the share that reaches the threshold lies between this
        high: and this, in 95 of 100 cases.
        individuals: how many played the stranger.
        gallery_size: individuals in the gallery that this holds for, N.
        smallest: the smallest FPIR that they can promise without extrapolation.
        extrapolated: whether the threshold lies beyond what so few can promise, by a fit of the tail.
    """

    fpir: float
    threshold: float
    measured: float
    low: float
    high: float
    individuals: int
    gallery_size: int
    smallest: float
    extrapolated: bool


@dataclass(frozen=True, slots=True)
class Strangers:
    """What the individuals reach that play the stranger.

    Attributes:
        similarity: float32, (probes,), highest to any other individual; rising.
        individual: int, (probes,), whose probe it is; numbers from 0.
        nearest: int, (probes,), that other individual, by the same numbers; -1 where it plays no stranger itself.
    """

    similarity: NDArray[np.float32]
    individual: NDArray[np.int32]
    nearest: NDArray[np.int32]

    @property
    def count(self) -> int:
        """How many individuals."""
        return int(np.count_nonzero(np.bincount(self.individual))) if len(self.individual) else 0

    def measured(self, threshold: float) -> float:
        """Mean over the individuals of the share of their probes at or over the threshold; NaN where nobody is there.

        Source: as BAUS, Adam et al., "AnimalCLEF 2025", CLEF 2025; ISO/IEC 19795-1:2021 for FPIR.
        """
        weight = self.weights()
        return float(weight[self.similarity >= threshold].sum()) if len(weight) else float("nan")

    def weights(self) -> NDArray[np.float64]:
        """Of each probe: one over its individual's probes and over the individuals; their sum is 1."""
        return individual_weight(self.individual)

    def contradict(self, threshold: float, rate: float) -> bool:
        """Whether so many reach a threshold that at most this share of strangers hardly does.

        They would by chance in less than 2.5 of 100 galleries: a binomial test, in which two animals that may have
        reached it because of each other count as one, as do the animals of the gallery.
        """
        from scipy.special import bdtrc  # scipy.stats would take half a second to import

        if self.count < 2:
            return False
        reached = math.floor(self.measured(threshold) * self.count / 2 + _TOLERANCE)
        return bool(bdtrc(reached - 1, self.count // 2, rate) < (1 - LEVEL) / 2)

    def interval(self, threshold: float) -> tuple[float, float]:
        """What share of as many new strangers reaches the threshold: a prediction interval, in 95 of 100 cases.

        Of G strangers played, S reach the threshold (shares of photos added up). The rate of the next ones is then as
        uncertain as a Beta distribution of S and G - S individuals; which of them come is chance once more. Both
        together are the beta-binomial distribution. On its lower side it is taken with S of G, on its upper side with
        S + 2 of G + 2: one for the stranger who comes, as in conformal prediction, and one for whom it is most
        similar to, who would have reached the threshold, too, had the stranger been there.

        The variance of the shares, compared with that of individuals who reach the threshold with all photos or with
        none, tells how many such G individuals are worth (design effect): more, where several photos of one tell more
        than one does. Added to it is one who reaches the threshold with all photos, since chance may have spared that
        one here. Two that reach it because of each other are worth one.

        Source: Geisser, "Predictive inference", 1993 (beta-binomial); Clopper, Pearson, Biometrika 26, 1934, for the
        two sides; Korn, Graubard, Survey Methodology 24(2), 1998, for the design effect in such an interval.
        """
        count = self.count
        if not count:
            return 0.0, 1.0
        worth, mutual = self._worth(threshold)
        known = worth / (1 + mutual)
        coming = max(1, round(worth * count))
        reached, missed = known * self.measured(threshold) * count, known * (1 - self.measured(threshold)) * count
        one = min(1.0, known)
        low = _quantile(coming, reached, missed + one, (1 - LEVEL) / 2)
        high = _quantile(coming, reached + 2 * one, max(missed, one / 2), (1 + LEVEL) / 2)
        return low, high

    def _worth(self, threshold: float) -> tuple[float, float]:
        """How many individuals of one photo one of these is worth; and the share that is so because of each other."""
        over = self.similarity >= threshold
        weights = self.weights()
        size = int(max(self.individual.max(), self.nearest.max())) + 1
        probes = np.bincount(self.individual, minlength=size)
        shares = (np.bincount(self.individual[over], minlength=size) / np.maximum(probes, 1))[probes > 0]
        rate = float(shares.mean())
        if not 0.0 < rate < 1.0:
            return 1.0, 1.0
        worth = max(1.0, rate * (1 - rate) * len(shares) / float(np.square(shares - rate).sum() + 1.0))
        to = self.individual[over].astype(np.int64) * size + self.nearest[over]
        back = self.nearest[over].astype(np.int64) * size + self.individual[over]
        mutual = float(weights[over][np.isin(back, to)].sum() / weights[over].sum())
        return worth, mutual


def individual_weight(individuals: NDArray[np.int32]) -> NDArray[np.float64]:
    """Weights of samples in which every individual weighs the same, (samples,); their sum is 1."""
    if not len(individuals):
        return np.empty(0)
    counts = np.bincount(individuals)
    return np.asarray(1.0 / counts[individuals] / np.count_nonzero(counts), np.float64)


def smallest(individuals: int) -> float:
    """The smallest rate that a threshold can be promised for, by so many individuals; 1 where there are none."""
    return 1.0 / (individuals + 1)


def rounded_up(rate: float) -> float:
    """The rate rounded up in its third digit, so that one can ask for what is printed."""
    digits = 10.0 ** (2 - np.floor(np.log10(rate)))
    return float(np.ceil(rate * digits - _TOLERANCE) / digits)


def stated_rates(individuals: int) -> tuple[float, ...]:
    """The rates that a model carries thresholds for, rising: from the smallest that so many can promise to a half."""
    least = rounded_up(smallest(individuals))
    return tuple(sorted({rate for rate in (least, *_RATES) if least <= rate <= _RATES[-1]}))


def place_of(rate: float, rates: tuple[float, ...]) -> int | None:
    """Which of the rates that thresholds are carried for holds a wanted one: the highest that is no higher, if any."""
    place = int(np.searchsorted(rates, rate * (1 + _TOLERANCE), "right")) - 1
    return place if place >= 0 else None


def threshold_of(
    similarity: NDArray[np.float32], individual: NDArray[np.int32], rate: float, wanted: str, of_what: str
) -> float:
    """The lowest threshold with (S + 1)/(G + 1) ≤ rate, S being the shares of G individuals at or over it, added up.

    One more individual, exchangeable with these, then reaches it with a share that is on average at most the rate. It
    is so where what each reaches does not depend on the others. Where they are searched for among each other, with one
    photo each, the mean is at most (S + 2)/(G + 1): two that are each other's most similar count twice, as they would
    with the stranger for one of them.

    Raises:
        CalibrationError: the individuals are too few for this rate.

    Source: Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal risk control", ICLR 2024, arXiv:2208.02814; Vovk,
    Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005.
    """
    weight = individual_weight(individual)
    count = len(np.unique(individual))
    allowed = rate * (count + 1) - 1
    if allowed < -_TOLERANCE:
        needed = int(np.ceil(1 / rate - _TOLERANCE)) - 1
        raise CalibrationError(
            f"the gallery is too small for {wanted}: {needed} {of_what} are needed, and it has {count}"
        )
    falling = np.argsort(-similarity, kind="stable")
    reached = np.cumsum(weight[falling]) * count
    # Those of one similarity reach a threshold together, so it lies above all of the first that is too many.
    refused = np.flatnonzero(reached > allowed + _TOLERANCE)
    highest = similarity[falling[refused[0]]] if len(refused) else np.float32(-1.0)
    return float(np.nextafter(highest, np.float32(np.inf)))


def tail_threshold(strangers: Strangers, rate: float) -> float:
    """The similarity that strangers reach at this rate, by a generalised Pareto distribution fitted to the highest.

    Probability-weighted moments of what a fifth of the strangers exceed, each individual weighing the same.

    Raises:
        CalibrationError: they are too few to be fitted, or all alike.

    Source: Pickands, "Statistical inference using extreme order statistics", Annals of Statistics 3(1), 1975; Hosking,
    Wallis, "Parameter and quantile estimation for the generalized Pareto distribution", Technometrics 29(3), 1987;
    Scheirer, Rocha, Micheals, Boult, "Meta-recognition", IEEE TPAMI 33(8), 2011, for similarities.
    """
    count = strangers.count
    if count < 2 * _TAIL_LEAST:
        raise CalibrationError(
            f"the gallery is too small to extrapolate: it takes {2 * _TAIL_LEAST} individuals, and it has {count}"
        )
    weight = strangers.weights()
    above = np.cumsum(weight[::-1])[::-1]
    share = max(_TAIL, _TAIL_LEAST / count)
    start = float(strangers.similarity[np.flatnonzero(above >= share - _TOLERANCE)[-1]])
    tail = strangers.similarity > start
    reached = float(weight[tail].sum())
    excess = strangers.similarity[tail].astype(np.float64) - start
    if not len(excess) or excess[-1] <= excess[0]:
        raise CalibrationError("the most similar strangers are all alike: there is no tail to extrapolate")
    if rate >= reached:
        raise CalibrationError(f"FPIR {rate:.2%} is not in the tail: it needs no extrapolation")
    of_tail = weight[tail] / reached
    survival = np.cumsum(of_tail[::-1])[::-1] - of_tail / 2
    mean, moment = float(of_tail @ excess), float(of_tail @ (excess * survival))
    shape = 2.0 - mean / max(mean - 2 * moment, _TOLERANCE)
    scale = 2 * mean * moment / max(mean - 2 * moment, _TOLERANCE)
    log = np.log(rate / reached)
    beyond = -scale * log if abs(shape) < 1e-6 else scale / shape * np.expm1(-shape * log)
    return float(np.nextafter(np.float32(min(start + beyond, 1.0)), np.float32(np.inf)))


def grown(rate: float, size: float, to: float) -> float:
    """FPIR in a gallery of another size: 1 - (1 - rate)^(to/size), as if each individual had its own chance.

    It is near rate · to/size. It holds where strangers are mistaken now for this one and now for that, and those who
    come are such as were there.

    Source: Grother, Phillips, "Models of large population recognition performance", CVPR 2004 (binomial model).
    """
    return float(-np.expm1(np.log1p(-min(rate, 1 - _TOLERANCE)) * to / max(size, 1)))


def _quantile(trials: int, successes: float, failures: float, level: float) -> float:
    """The lowest share of the trials whose beta-binomial distribution function is over the level."""
    if successes <= 0.0:
        return 0.0
    from scipy.special import betaln, gammaln

    hits = np.arange(trials + 1)
    choose = gammaln(trials + 1) - gammaln(hits + 1) - gammaln(trials - hits + 1)
    chance = np.exp(choose + betaln(hits + successes, trials - hits + failures) - betaln(successes, failures))
    below = np.cumsum(chance)
    return float(np.searchsorted(below, level, "right").clip(0, trials) / trials)
