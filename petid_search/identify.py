"""Who is on a probe: candidates, best first, and a decision that may be that nobody known is."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate import Limits, Source, speaking, speaking_of_pairs
from petid_search.embed import Embedded, Unreadable, embed_photos
from petid_search.errors import GalleryError
from petid_search.index.gallery import Gallery
from petid_search.index.search import Hit
from petid_search.models.runtime import Embedder

_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Candidate:
    """An individual offered for a probe.

    Attributes:
        individual: its name.
        similarity: cosine, in [-1, 1].
        probability: that it is the probe's, in (0, 1), were half of all probes mated; None without calibration.
        photo: the photo of it most like the probe, where it was when it was enrolled.
        file: where that photo's bytes are now.
        classifier_score: the classifier's score for it, in [0, 1]; None where the model has no classifier, or was not
            trained on anybody of that name.
    """

    individual: str
    similarity: float
    probability: float | None
    photo: Path
    file: Path
    classifier_score: float | None = None


@dataclass(frozen=True, slots=True)
class Identification:
    """The answer for one probe.

    Attributes:
        photo: the probe.
        decision: `match` at or over the threshold, `unknown` under the lower threshold, `uncertain` between them
            and wherever the gallery is too small for a threshold.
        individual: the name, where the decision is a match.
        similarity: of the first candidate.
        probability: of the first candidate.
        threshold: from which on a candidate is a match; None where the gallery is too small to state one.
        fpir: the share of strangers that the threshold lets be called by a name.
        candidates: the individuals most like the probe, best first.
        model: name of the model.
        gallery_size: individuals in the gallery, N.
        calibration: whose threshold and probabilities these are: `gallery`, measured on its own photos, or `model`,
            carried from its training, on other animals, where the gallery cannot promise this FPIR by itself; None
            without a threshold.
        calibrated_on: how many individuals the threshold was measured on; 0 without one.
        note: why there is no threshold, or no `unknown`, that the gallery has grown since they were measured, or that
            the model's calibration speaks; else empty.
    """

    photo: Path
    decision: Literal["match", "uncertain", "unknown"]
    individual: str | None
    similarity: float
    probability: float | None
    threshold: float | None
    fpir: float
    candidates: tuple[Candidate, ...]
    model: str
    gallery_size: int
    calibration: Source | None
    calibrated_on: int
    note: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; paths become text."""
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether two photos show the same individual.

    Attributes:
        photos: the two.
        decision: `match`, `different`, or `uncertain` between the thresholds or without one.
        similarity: cosine of their embeddings, in [-1, 1].
        threshold: from which on they match; None where the gallery is too small to state one.
        far: the share of pairs of different individuals that the threshold lets match, each individual weighing the
            same.
        model: name of the model.
        calibration: as in Identification.
        calibrated_on: as in Identification.
        note: why there is no threshold, or no `different`, or that the model's calibration speaks; else empty.
    """

    photos: tuple[Path, Path]
    decision: Literal["match", "uncertain", "different"]
    similarity: float
    threshold: float | None
    far: float
    model: str
    calibration: Source | None
    calibrated_on: int
    note: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; paths become text."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def identify(
    photos: Iterable[Path], gallery: Gallery, embedder: Embedder, *, top: int = 5, fpir: float = 0.01
) -> Iterator[Identification | Unreadable]:
    """Say who is on each photo, in their order; a photo that cannot be read gives the reason in its place.

    Photos are read, embedded and searched in batches; memory does not grow with their number.

    Args:
        photos: the probes.
        gallery: who is known.
        embedder: the gallery's model.
        top: how many candidates, at least 1.
        fpir: false positive identification rate to hold, in (0, 1).

    Raises:
        GalleryError: nothing is enrolled.
        ModelMismatch: the gallery holds embeddings of another model.
        ModelError: the model cannot be used.
    """
    gallery.require_model(embedder.name, embedder.fingerprint)
    judge = _Judge(gallery, embedder, top, fpir)
    batch: list[Embedded | Unreadable] = []
    for result in embed_photos(photos, embedder):
        if not isinstance(result, Embedded | Unreadable):
            continue
        batch.append(result)
        if len(batch) == _BATCH:
            yield from judge.decide(batch)
            batch = []
    yield from judge.decide(batch)


def verify(first: Path, second: Path, gallery: Gallery, embedder: Embedder, *, far: float = 0.01) -> Verification:
    """Say whether two photos show the same individual, by a threshold of the gallery's photos or its model's.

    Args:
        first: one photo.
        second: the other; neither need be in the gallery.
        gallery: whose photos the threshold is made of.
        embedder: the gallery's model.
        far: false accept rate to hold among pairs of different individuals, in (0, 1).

    Raises:
        PhotoError: one of the photos cannot be read.
        GalleryError: nothing is enrolled.
        ModelMismatch: the gallery holds embeddings of another model.
    """
    gallery.require_model(embedder.name, embedder.fingerprint)
    vectors = []
    for result in embed_photos([first, second], embedder):
        if isinstance(result, Unreadable):
            raise result.error
        if isinstance(result, Embedded):
            vectors.append(result.vector)
    similarity = float(np.clip(vectors[0] @ vectors[1], -1.0, 1.0))
    limits = speaking_of_pairs(gallery, embedder.bundle.card, far)
    decision: Literal["match", "uncertain", "different"] = "uncertain"
    if limits.threshold is not None and similarity >= limits.threshold:
        decision = "match"
    elif limits.threshold is not None and similarity < limits.lower:
        decision = "different"
    return Verification(
        photos=(first, second),
        decision=decision,
        similarity=similarity,
        threshold=limits.threshold,
        far=far,
        model=embedder.name,
        calibration=limits.source,
        calibrated_on=limits.individuals,
        note=limits.note,
    )


def compare(
    probe: NDArray[np.float32],
    individual: str,
    gallery: Gallery,
    embedder: Embedder,
    *,
    scores: NDArray[np.float32] | None = None,
    fpir: float = 0.01,
) -> Candidate:
    """One individual as a candidate for a probe, however many others are more like it.

    Args:
        probe: float32, (d,), unit length.
        individual: its name.
        gallery: where it is enrolled.
        embedder: the gallery's model, which made the probe's embedding.
        scores: float32, (classes,), of the probe for the embedder's classes; without them, no score is told.
        fpir: as for identify, whose calibration tells the probability.

    Raises:
        GalleryError: nobody of that name is enrolled.
        ModelMismatch: the gallery holds embeddings of another model.
    """
    model = gallery.require_model(embedder.name, embedder.fingerprint)
    photos = np.fromiter((photo.id for photo in gallery.photos(individual)), np.int64)
    hit = gallery.index.compare(probe, photos, model=model)
    known = {} if scores is None else dict(zip(embedder.classes, scores.tolist(), strict=True))
    limits = speaking(gallery, embedder.bundle.card, fpir)
    return _candidate(hit, gallery, limits, known)


class _Judge:
    """Candidates and decisions for batches of probes."""

    def __init__(self, gallery: Gallery, embedder: Embedder, top: int, fpir: float) -> None:
        self._gallery = gallery
        self._classes = embedder.classes
        self._model = gallery.require_model(embedder.name, embedder.fingerprint)
        self._top = top
        self._fpir = fpir
        self._size = gallery.count_individuals()
        with suppress(GalleryError):  # who may only read the gallery can search it all the same
            gallery.index.save()
        self._limits = speaking(gallery, embedder.bundle.card, fpir)

    def decide(self, batch: list[Embedded | Unreadable]) -> Iterator[Identification | Unreadable]:
        vectors = [result.vector for result in batch if isinstance(result, Embedded)]
        probes: NDArray[np.float32] = np.stack(vectors) if vectors else np.empty((0, self._model.dimension), np.float32)
        # What a search found must still be there when it is looked up.
        with self._gallery.records.read():
            found = iter(self._gallery.index.search(probes, self._top, model=self._model) if vectors else [])
            answers = [
                self._decide(result, next(found)) if isinstance(result, Embedded) else result for result in batch
            ]
        yield from answers

    def _decide(self, probe: Embedded, hits: list[Hit]) -> Identification:
        scores = dict(zip(self._classes, probe.scores.tolist(), strict=True))
        candidates = tuple(_candidate(hit, self._gallery, self._limits, scores) for hit in hits)
        similarity = hits[0].similarity if hits else -1.0
        limits = self._limits
        decision: Literal["match", "uncertain", "unknown"] = "uncertain"
        if not hits or (limits.threshold is not None and similarity < limits.lower):
            decision = "unknown"
        elif limits.threshold is not None and similarity >= limits.threshold:
            decision = "match"
        return Identification(
            photo=probe.photo.path,
            decision=decision,
            individual=candidates[0].individual if decision == "match" else None,
            similarity=similarity,
            probability=candidates[0].probability if candidates else None,
            threshold=limits.threshold,
            fpir=self._fpir,
            candidates=candidates,
            model=self._model.name,
            gallery_size=self._size,
            calibration=limits.source,
            calibrated_on=limits.individuals,
            note=limits.note,
        )


def _candidate(hit: Hit, gallery: Gallery, limits: Limits, scores: Mapping[str, float]) -> Candidate:
    photo = gallery.photo(hit.photo_id)
    return Candidate(
        hit.individual,
        hit.similarity,
        limits.probability(hit.similarity),
        photo.source,
        photo.file,
        scores.get(hit.individual),
    )


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
        case _:
            return value
