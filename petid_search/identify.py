"""Who is on a probe: candidates, best first, and a decision that may be that nobody known is."""

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate import Source, Together, speaking, speaking_of_pairs, speaking_together
from petid_search.calibrate.combined import probability_of
from petid_search.calibrate.speaking import of_another_kind
from petid_search.embed import Embedded, Unreadable, embed_photos
from petid_search.errors import GalleryError
from petid_search.index.gallery import Gallery
from petid_search.index.search import Hit
from petid_search.models.runtime import Embedder

_BATCH: Final = 32
_FIRST_LOOK: Final = 8
"""How many individuals each expert offers first; both offer more until nobody left out can come first."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An individual offered for a probe.

    Attributes:
        individual: its name.
        similarity: cosine, in [-1, 1].
        probability: that it is the probe's, in [0, 1], were half of all probes mated; by index and classifier together
            where they decide so, else by the similarity; None without calibration, or where the model carries one that
            does not hold for the two photos.
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
class Experts:
    """What index and classifier say of a probe, each by itself, and whether they decide together.

    Attributes:
        index: the individual that is most similar.
        similarity: of that individual.
        classifier: the class of the highest score, enrolled or not.
        score: of that class, in [0, 1].
        together: whether order, probabilities and decision are by both; else they are by the index alone.
        threshold: the probability from which on a candidate that both know is a match; None where they do not decide
            together.
        strangers: how many individuals that threshold was measured on; 0 without one.
        note: why they do not decide together, or of whom they do not; else empty.
    """

    index: str
    similarity: float
    classifier: str
    score: float
    together: bool
    threshold: float | None
    strangers: int
    note: str


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
        threshold: the similarity from which on a candidate is a match, unless index and classifier decide of it
            together; None where the gallery is too small to state one.
        fpir: the share of strangers that the threshold lets be called by a name.
        candidates: the individuals most like the probe, best first; by both experts where these decide together.
        model: name of the model.
        gallery_size: individuals in the gallery, N.
        calibration: whose threshold and probabilities these are: `gallery`, measured on its own photos, or `model`,
            carried from its training, on other animals, where the gallery cannot promise this FPIR by itself; None
            without a threshold.
        calibrated_on: how many individuals the threshold was measured on; 0 without one.
        note: why there is no threshold, or no `unknown`, that the gallery has grown since they were measured, or that
            the model's calibration speaks; else empty.
        familiar: whether probe and first candidate's photo are of the kind that the model's calibration was measured
            on; True, too, where that does not decide.
        experts: what index and classifier each say; None where the model has no classifier or nobody is enrolled.
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
    familiar: bool
    experts: Experts | None

    def is_of_both(self, candidate: Candidate) -> bool:
        """Whether index and classifier decide of a candidate together."""
        return self.experts is not None and self.experts.together and candidate.classifier_score is not None

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
    if limits.threshold is not None and limits.familiar is not None and not limits.familiar.holds(*vectors):
        limits = of_another_kind(limits.individuals, embedder.name, far)
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
    judge = _Judge(gallery, embedder, 1, fpir)
    return judge.candidate(probe, judge.compare(probe, individual), _by_class(embedder.classes, scores))


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
        self._together, self._why_not = speaking_together(gallery, embedder.bundle.card, fpir)
        self._enrolled: Set[str] = frozenset()

    def decide(self, batch: list[Embedded | Unreadable]) -> Iterator[Identification | Unreadable]:
        vectors = [result.vector for result in batch if isinstance(result, Embedded)]
        probes: NDArray[np.float32] = np.stack(vectors) if vectors else np.empty((0, self._model.dimension), np.float32)
        # What a search found must still be there when it is looked up.
        with self._gallery.records.read():
            look = self._top if self._together is None else max(self._top, _FIRST_LOOK)
            if self._together is not None:
                self._enrolled = self._gallery.individuals().keys()
            found = iter(self._search(probes, look) if vectors else [])
            answers = [
                self._decide(result, next(found)) if isinstance(result, Embedded) else result for result in batch
            ]
        yield from answers

    def compare(self, probe: NDArray[np.float32], individual: str) -> Hit:
        """One individual, as if it had been found for a probe."""
        photos = np.fromiter((photo.id for photo in self._gallery.photos(individual)), np.int64)
        return self._gallery.index.compare(probe, photos, model=self._model)

    def candidate(self, probe: NDArray[np.float32], hit: Hit, scores: Mapping[str, float]) -> Candidate:
        photo = self._gallery.photo(hit.photo_id)
        score = scores.get(hit.individual)
        probability = None
        if self._is_familiar(probe, hit, score):
            if self._together is None:
                probability = self._limits.probability(hit.similarity)
            else:
                probability = probability_of(self._together.weights.evidence_of(hit.similarity, score))
        return Candidate(hit.individual, hit.similarity, probability, photo.source, photo.file, score)

    def _is_familiar(self, probe: NDArray[np.float32], hit: Hit, score: float | None) -> bool:
        """Whether the probe and the photo found for it are of the kind that whatever decides was measured on."""
        by_both = self._together is not None and score is not None
        familiar = self._together.familiar if self._together is not None and by_both else self._limits.familiar
        return familiar is None or familiar.holds(probe, self._gallery.embeddings(np.array([hit.photo_id]))[0])

    def _search(self, probes: NDArray[np.float32], look: int) -> list[list[Hit]]:
        return self._gallery.index.search(probes, look, model=self._model)

    def _decide(self, probe: Embedded, hits: list[Hit]) -> Identification:
        scores = _by_class(self._classes, probe.scores)
        experts = self._experts(hits, scores)
        highest = hits[0].similarity if hits else -1.0
        if self._together is not None:
            hits = self._by_both(probe.vector, hits, scores, self._together)
        candidates = tuple(self.candidate(probe.vector, hit, scores) for hit in hits[: self._top])
        decision = self._decision(candidates[0], highest) if candidates else "unknown"
        limits = self._limits
        familiar = not candidates or self._is_familiar(probe.vector, hits[0], candidates[0].classifier_score)
        if not familiar:
            decision = "uncertain"
            of = limits.individuals if experts is None or not experts.together else experts.strangers
            if of:
                limits = of_another_kind(of, self._model.name, self._fpir)
            experts = None if experts is None else replace(experts, together=False, threshold=None, strangers=0)
        return Identification(
            photo=probe.photo.path,
            decision=decision,
            individual=candidates[0].individual if decision == "match" else None,
            similarity=candidates[0].similarity if candidates else -1.0,
            probability=candidates[0].probability if candidates else None,
            threshold=limits.threshold,
            fpir=self._fpir,
            candidates=candidates,
            model=self._model.name,
            gallery_size=self._size,
            calibration=limits.source,
            calibrated_on=limits.individuals,
            note=limits.note,
            familiar=familiar,
            experts=experts,
        )

    def _decision(self, first: Candidate, highest: float) -> Literal["match", "uncertain", "unknown"]:
        """What to say of the first candidate, where the most similar one has this similarity."""
        limits, together = self._limits, self._together
        is_under = limits.threshold is not None and highest < limits.lower
        if together is not None and first.classifier_score is not None:
            evidence = together.weights.evidence_of(first.similarity, first.classifier_score)
            if evidence >= together.threshold:
                return "match"
            # The index's own lower threshold is that of such a gallery, whose photos may be fewer than those measured.
            return "unknown" if is_under and evidence < together.lower else "uncertain"
        if limits.threshold is not None and first.similarity >= limits.threshold:
            return "match"
        return "unknown" if is_under else "uncertain"

    def _by_both(
        self, probe: NDArray[np.float32], hits: list[Hit], scores: Mapping[str, float], together: Together
    ) -> list[Hit]:
        """Whom either expert offers, by the evidence of both; nobody who was not offered can come first.

        Evidence falls with neither similarity nor score, so it is bounded by the lowest of either that was offered.
        Source: Fagin, Lotem, Naor, "Optimal aggregation algorithms for middleware", PODS 2001 (threshold algorithm).
        """

        def evidence(hit: Hit) -> float:
            return together.weights.evidence_of(hit.similarity, scores.get(hit.individual))

        known = sorted(scores.keys() & self._enrolled, key=lambda name: (-scores[name], name))
        look = max(self._top, _FIRST_LOOK)
        while True:
            offered = {hit.individual: hit for hit in hits}
            offered |= {name: self.compare(probe, name) for name in known[:look] if name not in offered}
            ranked = sorted(offered.values(), key=evidence, reverse=True)
            if len(hits) < look:
                return ranked
            others: list[float | None] = [scores[known[look - 1]]] if look < len(known) else []
            others += [None] if len(known) < len(self._enrolled) else []
            bounds = (together.weights.evidence_of(hits[-1].similarity, score) for score in others)
            if evidence(ranked[0]) >= max(bounds, default=-math.inf):
                return ranked
            look *= 4
            hits = self._search(probe[None], look)[0]

    def _experts(self, hits: list[Hit], scores: Mapping[str, float]) -> Experts | None:
        if not hits or not scores:
            return None
        together = self._together
        best = max(scores, key=scores.__getitem__)
        return Experts(
            index=hits[0].individual,
            similarity=hits[0].similarity,
            classifier=best,
            score=scores[best],
            together=together is not None,
            threshold=None if together is None else probability_of(together.threshold),
            strangers=0 if together is None else together.strangers,
            note=self._why_not if together is None else together.note,
        )


def _by_class(classes: tuple[str, ...], scores: NDArray[np.float32] | None) -> dict[str, float]:
    return {} if scores is None else dict(zip(classes, scores.tolist(), strict=True))


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
