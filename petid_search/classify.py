"""What a classifier makes of photos: a score for every individual that it was trained on, whoever is on the photo."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from petid_search.embed import Embedded, Unreadable, embed_photos
from petid_search.models.runtime import Embedder


@dataclass(frozen=True, slots=True)
class Classification:
    """The classifier's answer for one photo.

    Attributes:
        photo: the photo.
        model: name of the model.
        scores: in [0, 1], by class, the highest first; of equal ones, the class that the model has first.
    """

    photo: Path
    model: str
    scores: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; the path becomes text."""
        return {"photo": str(self.photo), "model": self.model, "scores": self.scores}


def classify(
    photos: Iterable[Path], embedder: Embedder, *, top: int | None = None
) -> Iterator[Classification | Unreadable]:
    """Score each photo, in their order; a photo that cannot be read gives the reason in its place.

    A classifier knows no stranger: the scores of an animal that it was not trained on say nothing. For those, there is
    `identify`. Memory does not grow with the number of photos.

    Args:
        photos: the photos.
        embedder: a model with a classifier.
        top: how many classes, the best, at least 1; by default all.

    Raises:
        ModelError: the model has no classifier, or cannot be used.
    """
    embedder.require_classifier()
    for result in embed_photos(photos, embedder):
        if isinstance(result, Embedded):
            best = np.argsort(-result.scores, kind="stable")[:top]
            scores = {embedder.classes[place]: float(result.scores[place]) for place in best}
            yield Classification(result.photo.path, embedder.name, scores)
        elif isinstance(result, Unreadable):
            yield result
