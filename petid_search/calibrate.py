"""From similarity to decision and probability, by the gallery's own photos.

Every photo plays both parts once: *mated*, searched against the gallery without itself; and *non-mated*, searched
against the gallery without its individual, as a stranger's would be. What strangers reach sets the threshold for a
wanted FPIR, which so holds for a gallery of this size; the two together give the probability.
"""

import io
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import CalibrationError, GalleryError
from petid_search.index.gallery import Gallery
from petid_search.index.records import GalleryModel
from petid_search.index.rule import RULE, similarity_by_individual

MISS: Final = 0.05
"""Under the lower threshold lie this share of the mated probes: there petid says `unknown`, above it `uncertain`."""

_LEAST_FOR_PROBABILITY: Final = 20
_LOGIT: Final = 30.0
"""No similarity, however far from those measured, makes a probability nearer to 0 or 1 than this."""
_PROBES: Final = 2000
_PAIRS: Final = 20_000
_DRAWN: Final = 4
"""So many times as many pairs are drawn: some are of one individual, some were drawn before."""
_GROWTH: Final = 0.1
"""A calibration serves until so many photos were enrolled, removed or moved, as a share of those it was made of."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a gallery's own photos say of similarities. All arrays are float32, ascending, in [-1, 1].

    Attributes:
        mated: (probes,), similarity to the probe's own individual, by its other photos.
        non_mated: (probes,), highest similarity to any other individual.
        genuine: (pairs,), of two photos of one individual.
        impostor: (pairs,), of two photos of two individuals.
        slope, intercept: of the logistic map from similarity to probability, natural logarithms.
        photos: how many the gallery had.
        gallery_size: individuals it had, N.
    """

    mated: NDArray[np.float32]
    non_mated: NDArray[np.float32]
    genuine: NDArray[np.float32]
    impostor: NDArray[np.float32]
    slope: float
    intercept: float
    photos: int
    gallery_size: int

    def threshold(self, fpir: float) -> float:
        """The similarity from which on a candidate is a match, for a wanted FPIR in (0, 1).

        It lies just above the k-th highest of n similarities of strangers, with the largest k for which
        k/(n + 1) ≤ fpir. Where every individual has one photo, a stranger exchangeable with them reaches it with a
        probability of at most (k + 1)/(n + 1): two photos that are each other's most similar count twice, as they
        would with the stranger for one of them. So for k = 1 it may be twice `fpir`, and nears it as k grows. Photos
        of one individual that are much alike count as several, and are hardly more than one.

        Raises:
            CalibrationError: the photos are too few to promise this FPIR.

        Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005 (conformal prediction);
        Barber, Candès, Ramdas, Tibshirani, "Predictive inference with the jackknife+", Annals of Statistics 49(1),
        2021 (what leaving one out costs).
        """
        return _conformal(self.non_mated, fpir, f"a threshold for FPIR {fpir:g}", "photos")

    def lower_threshold(self, fpir: float) -> float:
        """The similarity under which a probe is `unknown`; no higher than the threshold of that FPIR.

        Raises:
            CalibrationError: too few photos show an individual that has others, or too few play the stranger.
        """
        # The same rule upside down: an enrolled animal falls under it with a probability of at most MISS.
        wanted = "saying `unknown`", "photos of individuals with several photos"
        return min(self.threshold(fpir), -_conformal(-self.mated[::-1], MISS, *wanted))

    def verification_threshold(self, far: float) -> float:
        """The similarity from which on two photos show the same individual, for a wanted false accept rate.

        Raises:
            CalibrationError: the pairs of different individuals are too few to promise this rate.
        """
        return _conformal(self.impostor, far, f"a threshold for FAR {far:g}", "pairs of photos of two individuals")

    def verification_lower_threshold(self, far: float) -> float:
        """The similarity under which two photos show different individuals; MISS of genuine pairs lie under it.

        Raises:
            CalibrationError: too few individuals have several photos, or the pairs of different ones are too few.
        """
        wanted = "saying `different`", "pairs of photos of one individual"
        return min(self.verification_threshold(far), -_conformal(-self.genuine[::-1], MISS, *wanted))

    def probability(self, similarity: float) -> float | None:
        """That a candidate of this similarity is the probe's individual, were half of all probes mated; in (0, 1).

        None where too few individuals have several photos to tell.

        Source: Platt, "Probabilistic outputs for support vector machines", 1999.
        """
        if min(len(self.mated), len(self.non_mated)) < _LEAST_FOR_PROBABILITY:
            return None
        logit = np.clip(self.slope * similarity + self.intercept, -_LOGIT, _LOGIT)
        return float(1.0 / (1.0 + np.exp(-logit)))

    def to_bytes(self) -> bytes:
        """The calibration as the bytes of an .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            mated=self.mated,
            non_mated=self.non_mated,
            genuine=self.genuine,
            impostor=self.impostor,
            logistic=np.array([self.slope, self.intercept]),
            size=np.array([self.photos, self.gallery_size]),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote. Nothing is unpickled."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            slope, intercept = (float(value) for value in arrays["logistic"])
            photos, gallery_size = (int(value) for value in arrays["size"])
            return cls(
                arrays["mated"],
                arrays["non_mated"],
                arrays["genuine"],
                arrays["impostor"],
                slope,
                intercept,
                photos,
                gallery_size,
            )


def current_calibration(gallery: Gallery) -> Calibration:
    """The gallery's calibration: the stored one while it serves, else a new one, which is then stored.

    Raises:
        GalleryError: nothing is enrolled.
    """
    model = _model_of(gallery)
    row = gallery.calibration_row(model)
    if row is not None and row["rule"] == RULE and gallery.count_changed(row["generation"]) <= _GROWTH * row["photos"]:
        return Calibration.from_bytes(row["samples"])
    return calibrate(gallery)


def calibrate(gallery: Gallery) -> Calibration:
    """Make the gallery's calibration anew, from at most 2,000 of its photos as probes, and store it.

    Time and memory are bounded by the probes, not squared in the gallery. The same gallery gives the same result.

    Raises:
        GalleryError: nothing is enrolled.
    """
    model = _model_of(gallery)
    with gallery.records.read():
        generation = gallery.generation
        calibration = _measure(gallery)
    gallery.save_calibration(
        model, rule=RULE, generation=generation, photos=calibration.photos, samples=calibration.to_bytes()
    )
    return calibration


def _model_of(gallery: Gallery) -> GalleryModel:
    if gallery.model is None:
        raise GalleryError(f"The gallery {gallery.folder} is empty: fill it with `petid enroll PHOTOS`.")
    return gallery.model


def _measure(gallery: Gallery) -> Calibration:
    rng = np.random.default_rng(0)
    photos, size = gallery.count_photos(), gallery.count_individuals()
    probes, ids, owners = _draw_probes(gallery, rng.permutation(photos)[:_PROBES])
    if not len(probes):
        nothing = np.empty(0, np.float32)
        return Calibration(nothing, nothing, nothing, nothing, 0.0, 0.0, photos, size)
    own = np.full(len(probes), -np.inf, np.float32)
    other = np.full(len(probes), -np.inf, np.float32)
    genuine, impostor = [], []
    for block in gallery.blocks():
        similarities = probes @ block.vectors.T
        photo_owners = np.repeat(block.individuals, np.diff(block.starts, append=len(block.photos)))
        is_itself = ids[:, None] == block.photos
        is_own_photo = owners[:, None] == photo_owners
        # Two probes meet twice, and are one pair.
        is_new_pair = ~np.isin(block.photos, ids) | (ids[:, None] < block.photos)
        genuine.append(similarities[is_own_photo & is_new_pair])
        some = _places(similarities.size, _DRAWN * _PAIRS * len(block.photos) // photos, rng)
        impostor.append(similarities.flat[some][(~is_own_photo & is_new_pair).flat[some]])

        by_individual = similarity_by_individual(np.where(is_itself, -np.inf, similarities), block.starts)
        is_own = owners[:, None] == block.individuals
        own = np.maximum(own, np.where(is_own, by_individual, -np.inf).max(axis=1))
        other = np.maximum(other, np.where(is_own, -np.inf, by_individual).max(axis=1))
    mated, non_mated = np.sort(own[np.isfinite(own)]), np.sort(other[np.isfinite(other)])
    slope, intercept = _fit_logistic(mated, non_mated)
    return Calibration(
        mated,
        non_mated,
        _some(genuine, rng),
        _some(impostor, rng),
        slope,
        intercept,
        photos,
        size,
    )


def _draw_probes(
    gallery: Gallery, places: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The photos at these places of the gallery: embeddings, photo ids, individual ids."""
    vectors, ids, owners = [], [], []
    first = 0
    for block in gallery.blocks():
        here = places[(places >= first) & (places < first + len(block.photos))] - first
        vectors.append(block.vectors[here])
        ids.append(block.photos[here])
        owners.append(np.repeat(block.individuals, np.diff(block.starts, append=len(block.photos)))[here])
        first += len(block.photos)
    if not vectors:
        return np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate(vectors), np.concatenate(ids), np.concatenate(owners)


def _places(total: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """About this many of the places from 0 to `total`, each at most once; all of them where they are not more."""
    return np.arange(total) if total <= count else np.unique(rng.integers(total, size=count))


def _some(parts: list[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.sort(rng.permutation(np.concatenate(parts))[:_PAIRS])


def _conformal(ascending: NDArray[np.float32], rate: float, wanted: str, of_what: str) -> float:
    n = len(ascending)
    k = int(np.floor(rate * (n + 1) + 1e-9))
    if k < 1:
        raise CalibrationError(
            f"the gallery is too small for {wanted}: "
            f"{int(np.ceil(1 / rate - 1e-9)) - 1} {of_what} are needed, and it has {n}"
        )
    return float(np.nextafter(ascending[n - k], np.float32(np.inf)))


def _fit_logistic(mated: NDArray[np.float32], non_mated: NDArray[np.float32]) -> tuple[float, float]:
    """Slope and intercept of Platt's logistic map, both sides weighing the same; never falling."""
    if min(len(mated), len(non_mated)) < _LEAST_FOR_PROBABILITY:
        return 0.0, 0.0
    from scipy.optimize import minimize

    similarity = np.concatenate([mated, non_mated]).astype(np.float64)
    # Platt's targets fall short of 1 and 0, so that no finite sample claims certainty.
    high, low = (len(mated) + 1) / (len(mated) + 2), 1 / (len(non_mated) + 2)
    target = np.repeat([high, low], [len(mated), len(non_mated)])
    weight = np.repeat([0.5 / len(mated), 0.5 / len(non_mated)], [len(mated), len(non_mated)])
    # Centred and scaled, since similarities of one model crowd together.
    centre, scale = similarity.mean(), similarity.std() + 1e-9
    x = (similarity - centre) / scale

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = parameters[0] * x + parameters[1]
        error = weight * (1.0 / (1.0 + np.exp(-logit)) - target)
        value = float(np.sum(weight * (np.logaddexp(0.0, logit) - target * logit)))
        return value, np.array([np.sum(error * x), np.sum(error)])

    fitted = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)])
    slope, intercept = fitted.x
    return float(slope / scale), float(intercept - slope * centre / scale)
