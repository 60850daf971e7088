"""Why these two, or why nobody: which regions of the probe, and of the candidate's photo, made them alike.

What is explained is the inner product of an image's embedding with the other's, which is held fixed, as is the length
by which the embedding is scaled. Where pooling and a linear map lead from the feature map to the embedding, the
gradient is then known in closed form, and no TensorFlow is needed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.embed import Unreadable
from petid_search.errors import GalleryError, PhotoError
from petid_search.explain.maps import border_share, border_warning, evidence_for
from petid_search.explain.regions import Regions, pair_regions
from petid_search.explain.views import stitched, views
from petid_search.identify import Candidate, Identification, compare, identify
from petid_search.images import decode, read_photo
from petid_search.index.gallery import Gallery
from petid_search.models.linear_head import LinearHead
from petid_search.models.runtime import Embedder

_EXPLAINED: Final = 2
"""Candidates that are explained: the best and the runner-up."""
_NAMED: Final = 5
"""Candidates whose similarities are told, to be compared with the threshold."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A probe's identification and, for each candidate explained, where the similarity comes from.

    Attributes:
        identification: the answer for the probe.
        candidates: those explained: the best, the runner-up or, in its place, the one asked for.
        on_probe: for each of them a map on the probe, float32, (3h, 3w), in shares of the similarity, negative where a
            place speaks against it.
        on_candidate: likewise on the candidate's photo.
        regions: for each of them, which parts of the two photos agree.
        contrast: on the probe, float32, (3h, 3w): how much more a place is like the first candidate's photo than like
            the second's, in shares of similarity, negative where it is less; None with one candidate only.
        embeddings: float32, (candidates, d): those of the candidates' photos.
    """

    identification: Identification
    candidates: tuple[Candidate, ...]
    on_probe: tuple[NDArray[np.float32], ...]
    on_candidate: tuple[NDArray[np.float32], ...]
    regions: tuple[Regions, ...]
    contrast: NDArray[np.float32] | None
    embeddings: NDArray[np.float32]

    @property
    def photo(self) -> Path:
        """The probe."""
        return self.identification.photo

    @property
    def border_share(self) -> float:
        """Share of the evidence for the first candidate that lies in the border of the probe, in [0, 1]."""
        return border_share(self.on_probe[0])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to beware of."""
        told = [border_warning(self.on_probe[0])]
        if self.contrast is not None:
            first, second = (candidate.individual for candidate in self.candidates)
            told.append(border_warning(self.contrast, f"what speaks for {first}, and not for {second},"))
        return tuple(warning for warning in told if warning is not None)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, without the maps."""
        explained = [
            {
                "individual": candidate.individual,
                "similarity": candidate.similarity,
                "short_of_threshold": self.short_of_threshold(candidate),
                "border_share_on_probe": border_share(on_probe),
                "border_share_on_candidate": border_share(on_candidate),
                "regions": [round(share, 4) for share in regions.shares],
            }
            for candidate, on_probe, on_candidate, regions in zip(
                self.candidates, self.on_probe, self.on_candidate, self.regions, strict=True
            )
        ]
        return {
            **self.identification.to_json(),
            "border_share": self.border_share,
            "explained": explained,
            "warnings": list(self.warnings),
        }

    def short_of_threshold(self, candidate: Candidate) -> float | None:
        """How much similarity a candidate lacks for a match; 0 if none, None where that alone decides nothing."""
        answer = self.identification
        if answer.threshold is None or answer.is_of_both(candidate):
            return None
        return max(0.0, answer.threshold - candidate.similarity)


def similarity_map(seen: NDArray[np.float32], other: NDArray[np.float32], head: LinearHead) -> NDArray[np.float32]:
    """Where an image is like an embedding, from the feature maps of its views.

    Args:
        seen: float32, (9, h, w, c), of what `views` gave.
        other: as for `hires_cam`.
        head: as for `hires_cam`.

    Returns:
        float32, (3h, 3w), adding up to the mean similarity of the views; see `evidence_for` and `stitched`.
    """
    return stitched([evidence_for(features, other, head) for features in seen])


def explain(
    photo: Path, gallery: Gallery, embedder: Embedder, *, against: str | None = None, fpir: float = 0.01
) -> Explanation:
    """Identify a photo and show why the best candidate was preferred to the runner-up.

    Args:
        photo: the probe.
        gallery: who is known.
        embedder: the gallery's model.
        against: an individual to compare with in place of the runner-up.
        fpir: false positive identification rate of the decision, in (0, 1).

    Raises:
        PhotoError: the probe or a candidate's photo cannot be read.
        GalleryError: nothing is enrolled, or nobody of that name.
        ModelMismatch: the gallery holds embeddings of another model.
    """
    explanation = next(explain_photos([photo], gallery, embedder, against=against, fpir=fpir))
    if isinstance(explanation, Unreadable):
        raise explanation.error
    return explanation


def explain_photos(
    photos: Iterable[Path], gallery: Gallery, embedder: Embedder, *, against: str | None = None, fpir: float = 0.01
) -> Iterator[Explanation | Unreadable]:
    """Explain each photo, in their order; one that cannot be explained gives the reason in its place.

    Args:
        photos: the probes.
        gallery: who is known.
        embedder: the gallery's model.
        against: an individual to compare each with in place of the runner-up.
        fpir: false positive identification rate of the decisions, in (0, 1).

    Raises:
        GalleryError: nothing is enrolled, or nobody of that name.
        ModelMismatch: the gallery holds embeddings of another model.
    """
    head = embedder.head()
    for answer in identify(photos, gallery, embedder, top=_NAMED, fpir=fpir):
        if isinstance(answer, Unreadable):
            yield answer
            continue
        try:
            yield _explain(answer, gallery, embedder, head, against)
        except PhotoError as error:
            yield Unreadable(answer.photo, error)


def _explain(
    answer: Identification,
    gallery: Gallery,
    embedder: Embedder,
    head: LinearHead,
    against: str | None,
) -> Explanation:
    image = decode(read_photo(answer.photo), embedder.input_size)
    candidates = answer.candidates[:_EXPLAINED]
    if against is not None:
        vectors, scores = embedder.embed_and_score(image[None])
        asked = compare(vectors[0], against, gallery, embedder, scores=scores[0], fpir=answer.fpir)
        candidates = (*(one for one in candidates[:1] if one.individual != asked.individual), asked)
    if not candidates:
        raise GalleryError(f"Nobody is enrolled in {gallery.folder} whom the photo could be compared with.")
    images = [image, *(decode(read_photo(one.file), embedder.input_size) for one in candidates)]
    embeddings, features = embedder.features(np.stack(images))
    seen = [embedder.features(views(one, features.shape[1]))[1] for one in images]
    contrast = None
    if len(candidates) > 1:
        contrast = similarity_map(seen[0], embeddings[1] - embeddings[2], head)
    return Explanation(
        answer,
        candidates,
        tuple(similarity_map(seen[0], other, head) for other in embeddings[1:]),
        tuple(similarity_map(one, embeddings[0], head) for one in seen[1:]),
        tuple(pair_regions(features[0], one, head) for one in features[1:]),
        contrast,
        embeddings[1:],
    )
