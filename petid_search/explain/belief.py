"""Both tests of whether an explanation can be believed: deletion and insertion, and shuffled weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petid_search.explain.classes import ClassExplanation
from petid_search.explain.explanation import Explanation
from petid_search.explain.faithfulness import Faithfulness, measure
from petid_search.explain.sanity import SanityCheck
from petid_search.images import open_image
from petid_search.models.runtime import Embedder


@dataclass(frozen=True, slots=True)
class Belief:
    """What the tests of an explanation have found, of the map of its first candidate or class on the probe.

    Attributes:
        faithfulness: deletion and insertion.
        under_shuffled_weights: for each share of shuffled kernels, the partial rank correlation with the map
            of the model, both of the photo's own view (see sanity.rank_correlation).
    """

    faithfulness: Faithfulness
    under_shuffled_weights: dict[float, float]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        shuffled = {f"{share:g}": round(value, 4) for share, value in self.under_shuffled_weights.items()}
        return {
            "faithfulness": self.faithfulness.to_json(),
            "rank_correlation_under_shuffled_weights": shuffled,
        }


class Examiner:
    """Tests explanations that one model gave.

    Args:
        embedder: the model.
        layer: whose maps it explained; None for the last.

    Raises:
        ModelError: the model has no such layer, or is damaged.
    """

    def __init__(self, embedder: Embedder, layer: str | None = None) -> None:
        self._embedder = embedder
        self._sanity = SanityCheck(embedder.bundle, layer)

    def examine(self, explanation: Explanation | ClassExplanation) -> Belief:
        """Test an explanation's first map.

        Raises:
            PhotoError: a photo can no longer be read.
        """
        size = self._embedder.input_size
        image = open_image(explanation.photo, size)
        if isinstance(explanation, ClassExplanation):
            name, heat = next(iter(explanation.maps.items()))
            number = self._embedder.classes.index(name)
            found = measure(image, heat, lambda images: self._embedder.scores(images)[:, number])
            return Belief(found, self._sanity.of_class(image, number))
        other = explanation.embeddings[0]

        def similarity(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            similarities: NDArray[np.float32] = self._embedder.embed(images) @ other
            return similarities

        found = measure(image, explanation.on_probe[0], similarity)
        return Belief(found, self._sanity.of_similarity(image, open_image(explanation.candidates[0].file, size)))
