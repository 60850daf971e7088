"""The calibration that a model carries: thresholds and probabilities for galleries of any size, from one photo on.

It was measured on individuals held out from the model's training: other animals, and other photos, than those of the
gallery that it is used for. It speaks where the gallery cannot yet speak for itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.by_size import BySize, measure_by_size, upper_edges
from petid_search.calibrate.calibration import MISS
from petid_search.calibrate.familiar import Familiar
from petid_search.calibrate.probability import LEAST, ProbabilityMap
from petid_search.calibrate.promise import grown, place_of, stated_rates
from petid_search.errors import CalibrationError
from petid_search.index.rule import RULE

_FORMAT: Final = 1
"""Of the JSON values; other ones are not read, as if there were none."""
_KNOTS: Final = 49
_TOLERANCE: Final = 1e-9
_DIGITS: Final = 1e4


@dataclass(frozen=True, slots=True)
class Carried:
    """Thresholds and probabilities by the size of the gallery.

    Between the sizes measured, they are interpolated in the logarithms of N and of the photos of each individual; no
    threshold is below that of a smaller size. A gallery with more photos of each than were measured counts as one of
    more individuals; one of more individuals has the threshold of the lower FPIR which grows to the wanted one (see
    `promise.grown`), as far as that can be promised.

    Attributes:
        data: the name of the set that the photos are of; for other animals and cameras nothing is promised.
        individuals: how many played the stranger, G; no FPIR under 1/(G + 1) is promised.
        photos: how many photos they have.
        rates: (rates,), FPIRs that thresholds stand for, rising.
        sizes: (sizes,), individuals in the galleries measured, N, rising from 1.
        photos_each: (layers,), mean number of photos of each in them, rising.
        thresholds: float64, (layers, sizes, rates).
        lower_thresholds: float64, (layers,); under them lie MISS of the mated probes. None where too few have several
            photos.
        similarities: float64, (knots,), rising; none where there are too few probes for probabilities.
        probabilities: float64, (layers, sizes, knots), in (0, 1), were half of all probes mated.
        familiar: of what kind the photos are; None where they are of too few individuals to tell.
    """

    data: str
    individuals: int
    photos: int
    rates: tuple[float, ...]
    sizes: tuple[int, ...]
    photos_each: tuple[float, ...]
    thresholds: NDArray[np.float64]
    lower_thresholds: NDArray[np.float64] | None
    similarities: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    familiar: Familiar | None = None

    @classmethod
    def measure(
        cls,
        embeddings: NDArray[np.float32],
        owners: NDArray[np.int64],
        groups: NDArray[np.int64],
        *,
        data: str,
    ) -> Self:
        """Measure it on individuals that the model was not trained on.

        Args:
            embeddings: float32, (photos, d), unit length.
            owners: int64, (photos,), whom they show; two individuals at least.
            groups: int64, (photos,), groups of near-duplicates.
            data: the name of the set that they are of.

        Raises:
            ValueError: there is but one individual, or none.
        """
        carried = cls.of(measure_by_size(embeddings, owners, groups), data=data)
        return replace(carried, familiar=Familiar.measure(embeddings, owners))

    @classmethod
    def of(cls, measured: BySize, *, data: str) -> Self:
        """The thresholds and probabilities that these shares make.

        A threshold is the lowest with (S + 1)/(G + 1) ≤ FPIR, as in `promise.threshold_of`, where S adds up, over the G
        individuals, the shares of their probes and of the galleries without them that reach it. Galleries are drawn
        from the same individuals, so that on average it may be (S + 1 + N/G)/(G + 1).
        """
        count = measured.individuals
        rates = stated_rates(count)
        reached = np.cumsum(measured.strangers[..., ::-1], axis=-1)[..., ::-1] * count
        edges = upper_edges()
        thresholds = np.full((*reached.shape[:2], len(rates)), -1.0)
        for place, rate in enumerate(rates):
            refused = (reached > rate * (count + 1) - 1 + _TOLERANCE).sum(axis=-1)  # the lowest bins, all in a row
            thresholds[..., place] = np.where(refused > 0, edges[refused - 1], -1.0)
        for axis in (0, 1):
            thresholds = np.maximum.accumulate(thresholds, axis=axis)
        similarities, probabilities = _probabilities(measured)
        return cls(
            data,
            count,
            measured.photos,
            rates,
            measured.sizes,
            tuple(round(one, 4) for one in measured.photos_each),
            np.ceil(thresholds * _DIGITS) / _DIGITS,
            _lower_thresholds(measured),
            similarities,
            probabilities,
        )

    def threshold(self, fpir: float, *, size: int, photos_each: float) -> float:
        """The similarity from which on a candidate is a match.

        Args:
            fpir: in (0, 1); between two that were measured, the lower one's threshold is given.
            size: individuals in the gallery, N, 1 or more.
            photos_each: their mean number of photos, 1 or more.

        Raises:
            CalibrationError: this FPIR cannot be promised at this size.
        """
        rate = self.rate_when_measured(fpir, size=size, photos_each=photos_each)
        place = place_of(rate, self.rates)
        if place is None:
            largest = self.sizes[-1]
            beyond = f", in galleries of up to {largest}" if rate < fpir else ""
            raise CalibrationError(
                f"the model's calibration cannot promise FPIR {fpir:g} at N = {size}: "
                f"it was measured on {self.individuals} individuals{beyond}"
            )
        return float(self._between(self.thresholds[..., place], size, photos_each))

    def rate_when_measured(self, fpir: float, *, size: int, photos_each: float) -> float:
        """The FPIR in the largest gallery measured which is the given one in a larger one; else that itself."""
        counted = size * max(1.0, photos_each / self.photos_each[-1])
        return grown(fpir, counted, self.sizes[-1]) if counted > self.sizes[-1] else fpir

    def lower_threshold(self, *, photos_each: float) -> float | None:
        """The similarity under which a probe is `unknown`, unless a threshold is lower; it does not depend on N.

        None where too few individuals had several photos to tell.
        """
        if self.lower_thresholds is None:
            return None
        return float(np.interp(np.log(photos_each), np.log(self.photos_each), self.lower_thresholds))

    def probability(self, similarity: float, *, size: int, photos_each: float) -> float | None:
        """That a candidate of this similarity is the probe's individual, were half of all probes mated; in (0, 1).

        None where too few individuals had several photos to tell.
        """
        if not len(self.similarities):
            return None
        return float(np.interp(similarity, self.similarities, self._between(self.probabilities, size, photos_each)))

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for a model's card."""
        return {
            "format": _FORMAT,
            "rule": RULE,
            "data": self.data,
            "individuals": self.individuals,
            "photos": self.photos,
            "rates": list(self.rates),
            "sizes": list(self.sizes),
            "photos_each": list(self.photos_each),
            "thresholds": self.thresholds.tolist(),
            "lower_thresholds": None if self.lower_thresholds is None else self.lower_thresholds.tolist(),
            "similarities": self.similarities.tolist(),
            "probabilities": self.probabilities.tolist(),
            "familiar": None if self.familiar is None else self.familiar.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Self | None:
        """What `to_json` gave; None where there is nothing, it was given in another way, or for another rule."""
        if values is None or values.get("format") != _FORMAT or values.get("rule") != RULE:
            return None
        lower = values["lower_thresholds"]
        return cls(
            values["data"],
            values["individuals"],
            values["photos"],
            tuple(values["rates"]),
            tuple(values["sizes"]),
            tuple(values["photos_each"]),
            np.array(values["thresholds"], np.float64),
            None if lower is None else np.array(lower, np.float64),
            np.array(values["similarities"], np.float64),
            np.array(values["probabilities"], np.float64),
            Familiar.from_json(values.get("familiar")),
        )

    def _between(self, table: NDArray[np.float64], size: int, photos_each: float) -> NDArray[np.float64]:
        """A table of (layers, sizes, …) at one size, (…); linear in both logarithms, level beyond the ends."""
        counted = size * max(1.0, photos_each / self.photos_each[-1])
        for coordinate, at in ((self.photos_each, photos_each), (self.sizes, counted)):
            points = np.log(np.array(coordinate, np.float64))
            place = float(np.interp(np.log(at), points, np.arange(len(points))))
            first = min(int(place), len(points) - 1)
            second = min(first + 1, len(points) - 1)
            table = table[first] + (place - first) * (table[second] - table[first])
        return table


def _lower_thresholds(measured: BySize) -> NDArray[np.float64] | None:
    """For each layer the highest similarity with (S + 1)/(G + 1) ≤ MISS, S being the shares under it of G mated."""
    count = measured.mated_individuals
    allowed = MISS * (count + 1) - 1
    if allowed < -_TOLERANCE:
        return None
    under = np.cumsum(measured.mated, axis=-1) * count
    kept = (under <= allowed + _TOLERANCE).sum(axis=-1)  # bins that may all be under it
    lower = np.maximum.accumulate(kept / 4096 - 1.0)
    return np.asarray(np.floor(lower * _DIGITS) / _DIGITS, np.float64)


def _probabilities(measured: BySize) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Common similarities, and the probabilities there for each layer and size."""
    layers, sizes = measured.strangers.shape[:2]
    if min(measured.mated_individuals, measured.individuals) < LEAST:
        return np.empty(0), np.empty((layers, sizes, 0))
    middles = upper_edges() - 0.5 / 4096
    high, low = 1 - 1 / (measured.mated_individuals + 2), 1 / (measured.individuals + 2)
    maps = []
    for layer in range(layers):
        for size in range(sizes):
            mated, non_mated = measured.mated[layer], measured.strangers[layer, size]
            there = mated + non_mated > 0
            maps.append(ProbabilityMap.of_weights(middles[there], mated[there], non_mated[there], high=high, low=low))
    ends = [one.similarities[[0, -1]] for one in maps]
    similarities = np.linspace(min(low for low, _ in ends), max(high for _, high in ends), _KNOTS).round(4)
    told = np.stack([np.interp(similarities, one.similarities, one.probabilities) for one in maps])
    return similarities, told.reshape(layers, sizes, _KNOTS).round(5)
