"""From similarity to decision and probability, by what photos reached when each played both parts."""

import io
import zipfile
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from petid_search import metrics
from petid_search.calibrate import probability as of_probability
from petid_search.calibrate.measure import Samples
from petid_search.calibrate.probability import ProbabilityMap
from petid_search.calibrate.promise import Promise, Strangers, grown, rounded_up, smallest, tail_threshold, threshold_of
from petid_search.errors import CalibrationError

MISS: Final = 0.05
"""Under the lower threshold lie this share of the mated probes: there petid says `unknown`, above it `uncertain`."""
_FORMAT: Final = 3
"""Of the stored bytes; other ones are not read, but measured anew."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a gallery's own photos say of similarities.

    Attributes:
        samples: the similarities that were reached.
        probabilities: the map from similarity to probability.
    """

    samples: Samples
    probabilities: ProbabilityMap

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """The calibration that these samples make."""
        return cls(samples, of_probability.fit_map(samples))

    @property
    def strangers(self) -> Strangers:
        """The individuals as they played the stranger."""
        return Strangers(self.samples.non_mated, self.samples.non_mated_of, self.samples.nearest)

    def promise(self, fpir: float, *, size: int | None = None, extrapolate: bool = False) -> Promise:
        """The threshold for a wanted FPIR, and what can be said of it (see `promise.threshold_of`).

        Args:
            fpir: in (0, 1).
            size: individuals in the gallery that is searched, where it has grown since; then the threshold is that of
                the lower FPIR which grows to the wanted one (see `promise.grown`).
            extrapolate: where the individuals are too few to promise it, go by a fit of the tail instead.

        Raises:
            CalibrationError: they are too few to promise it, and even to extrapolate.
        """
        measured_at = self.samples.gallery_size
        size = max(measured_at, size or 0)
        strangers, rate = self.strangers, self.rate_when_measured(fpir, size)
        extrapolated = False
        try:
            threshold = self._threshold(rate, fpir, size)
        except CalibrationError:
            if not extrapolate:
                raise
            extrapolated = True
            threshold = tail_threshold(strangers, rate)
            threshold = max(threshold, self._threshold(smallest(strangers.count), fpir, size))
        low, high = (grown(end, measured_at, size) for end in strangers.interval(threshold))
        return Promise(
            fpir,
            threshold,
            grown(strangers.measured(threshold), measured_at, size),
            low,
            high,
            strangers.count,
            size,
            self.smallest_fpir(size),
            extrapolated,
        )

    def threshold(self, fpir: float, *, size: int | None = None) -> float:
        """The similarity from which on a candidate is a match, for a wanted FPIR in (0, 1); as in `promise`.

        Raises:
            CalibrationError: the individuals are too few to promise this FPIR.
        """
        return self._threshold(self.rate_when_measured(fpir, size), fpir, size)

    def rate_when_measured(self, fpir: float, size: int | None = None) -> float:
        """The FPIR at the size that was measured which is the given one in a gallery that has grown to another size."""
        measured_at = self.samples.gallery_size
        return grown(fpir, size, measured_at) if size is not None and size > measured_at > 0 else fpir

    def smallest_fpir(self, size: int | None = None) -> float:
        """The smallest FPIR that can be promised for a gallery of so many individuals, by default that measured."""
        measured_at = self.samples.gallery_size
        least = smallest(self.strangers.count)
        return min(1.0, rounded_up(grown(least, measured_at, max(measured_at, size or 0))))

    def lower_threshold(self, fpir: float, *, size: int | None = None) -> float:
        """The similarity under which a probe is `unknown`; no higher than the threshold of that FPIR.

        Raises:
            CalibrationError: too few individuals have several photos, or too few play the stranger.
        """
        # The same rule upside down: an enrolled animal falls under it with a probability of at most MISS.
        wanted = "saying `unknown`", "individuals with several photos"
        lower = -threshold_of(-self.samples.mated[::-1], self.samples.mated_of[::-1], MISS, *wanted)
        return min(self.threshold(fpir, size=size), lower)

    def missed(self, threshold: float) -> float | None:
        """Share of mated probes under a threshold, each individual weighing the same; None where there are none."""
        if not len(self.samples.mated):
            return None
        strangers_upside_down = Strangers(self.samples.mated, self.samples.mated_of, self.samples.mated_of)
        return 1.0 - strangers_upside_down.measured(threshold)

    def verification_threshold(self, far: float) -> float:
        """The similarity from which on two photos show the same individual, for a wanted false accept rate.

        Individuals count, as in `promise`: the rate is the mean, over them, of the share of their pairs with others.

        Raises:
            CalibrationError: the individuals are too few to promise this rate.
        """
        of = self.samples.impostor_of.ravel()  # a pair is one of either individual
        known = of >= 0
        wanted = f"a threshold for FAR {far:g}", "individuals that are compared with others"
        return threshold_of(np.repeat(self.samples.impostor, 2)[known], of[known], far, *wanted)

    def verification_lower_threshold(self, far: float) -> float:
        """The similarity under which two photos show different individuals; MISS of genuine pairs lie under it.

        Raises:
            CalibrationError: too few individuals have several photos, or they are too few to promise the rate.
        """
        wanted = "saying `different`", "individuals with several photos"
        lower = -threshold_of(-self.samples.genuine[::-1], self.samples.genuine_of[::-1], MISS, *wanted)
        return min(self.verification_threshold(far), lower)

    def probability(self, similarity: float) -> float | None:
        """That a candidate of this similarity is the probe's individual, were half of all probes mated; in (0, 1).

        None where too few individuals have several photos to tell.
        """
        if not len(self.probabilities.similarities):
            return None
        return float(self.probabilities(np.array([similarity], np.float32))[0])

    def calibration_error(self) -> float | None:
        """Expected calibration error of the probabilities, of individuals that the map was not fitted to.

        None where too few individuals have several photos to tell.

        Source: Guo et al., "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599.
        """
        told = of_probability.cross_validated(self.samples)
        if told is None:
            return None
        probability, mated, weights = told
        return metrics.expected_calibration_error(probability, mated, weights=weights)

    def to_bytes(self) -> bytes:
        """The calibration as the bytes of an .npz file."""
        buffer = io.BytesIO()
        samples = self.samples
        np.savez_compressed(
            buffer,
            format=np.array(_FORMAT),
            map=np.stack([self.probabilities.similarities, self.probabilities.probabilities]),
            size=np.array([samples.photos, samples.gallery_size, samples.left_out]),
            **{name: getattr(samples, name) for name in _ARRAYS},
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """What `to_bytes` wrote; None where it was written in another way. Nothing is unpickled."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                if int(arrays["format"]) != _FORMAT:
                    return None
                probabilities = ProbabilityMap(*arrays["map"])
                photos, gallery_size, left_out = (int(value) for value in arrays["size"])
                parts = {name: arrays[name] for name in _ARRAYS}
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            return None
        return cls(Samples(**parts, photos=photos, gallery_size=gallery_size, left_out=left_out), probabilities)

    def _threshold(self, rate: float, fpir: float, size: int | None) -> float:
        """For a rate at the size that was measured, which belongs to the FPIR asked for at another."""
        strangers = self.strangers
        wanted = f"a threshold for FPIR {fpir:g}", "individuals that play the stranger"
        try:
            return threshold_of(strangers.similarity, strangers.individual, rate, *wanted)
        except CalibrationError as error:
            if not strangers.count:
                raise
            least = self.smallest_fpir(size)
            raise CalibrationError(f"{error}; the smallest FPIR that it can promise is {least:g}") from error


_ARRAYS: Final = (
    *("mated", "mated_of", "non_mated", "non_mated_of", "nearest"),
    *("genuine", "genuine_of", "impostor", "impostor_of"),
)
