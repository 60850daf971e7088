"""Which class, and where: HiResCAM of any class of a classifier, the best beside those that were asked for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.embed import Unreadable
from petid_search.errors import ModelError, PhotoError
from petid_search.explain.classifier import LinearClassifier, has_closed_form, read_classifier
from petid_search.explain.maps import border_share, border_warning, cam_by_gradient
from petid_search.explain.views import stitched, views
from petid_search.images import decode, read_photo
from petid_search.models.runtime import Embedder

if TYPE_CHECKING:
    from petid_search.models.gradients import Differentiable

_BEST: Final = 3
"""Classes that are explained side by side where none is asked for."""


@dataclass(frozen=True, slots=True)
class ClassExplanation:
    """What a classifier makes of a photo, and where each class's score comes from.

    Attributes:
        photo: the photo.
        model: name of the model.
        layer: the layer whose map is explained; None for the last.
        scores: of the classes explained, in [0, 1], the best class of all first.
        maps: for each of them, on the photo as the model sees it, float32, (3h, 3w), see `views`: shares of the score
            before the activation (a logit; of a cosine classifier, a cosine), negative where a place speaks against it.
    """

    photo: Path
    model: str
    layer: str | None
    scores: dict[str, float]
    maps: dict[str, NDArray[np.float32]]

    @property
    def border_share(self) -> float:
        """Share of the best class's evidence that lies in the border of the picture, in [0, 1]."""
        return border_share(next(iter(self.maps.values())))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to beware of."""
        warning = border_warning(next(iter(self.maps.values())))
        return () if warning is None else (warning,)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, without the maps."""
        return {
            "photo": str(self.photo),
            "model": self.model,
            "layer": self.layer,
            "scores": self.scores,
            "border_share": self.border_share,
            "warnings": list(self.warnings),
        }


class ClassExplainer:
    """Explains the classes of one model, photo by photo.

    Without TensorFlow where the classifier stands on the pooled vector by a linear map, and the last feature map is
    meant; else by automatic differentiation.

    Attributes:
        embedder: the model.

    Args:
        embedder: a model with a classifier.
        classes: whom to explain, beside the best; by default the three best.
        layer: the layer whose map to explain; by default the last feature map.

    Raises:
        ModelError: the model has no classifier, does not know a class, has no such layer, or is damaged.
    """

    def __init__(self, embedder: Embedder, classes: Sequence[str] = (), layer: str | None = None) -> None:
        embedder.require_classifier()
        numbers = {name: number for number, name in enumerate(embedder.classes)}
        for name in classes:
            if name not in numbers:
                raise ModelError(
                    f"Model {embedder.name!r} was not trained on anybody called {name!r}: "
                    f"`petid models show {embedder.name}` tells on whom."
                )
        self.embedder = embedder
        self._asked = [numbers[name] for name in classes]
        self._layer = layer
        if layer is None and has_closed_form(embedder.bundle.card.head):
            self._maps = partial(_in_closed_form, embedder, read_classifier(embedder))
        else:
            from petid_search.models.gradients import Differentiable

            self._maps = partial(_by_gradient, Differentiable(embedder.bundle, layer))

    def explain(self, photo: Path) -> ClassExplanation:
        """Score a photo and show where the scores come from.

        Raises:
            PhotoError: it cannot be read.
        """
        image = decode(read_photo(photo), self.embedder.input_size)
        embeddings, features, scores = self.embedder.everything(image[None])
        shown = self._shown(scores[0])
        if self._layer is None:
            seen = [self._maps(view, shown, embeddings[0]) for view in views(image, features.shape[1])]
            maps = [stitched(one) for one in zip(*seen, strict=True)]
        else:
            maps = [stitched([one]) for one in self._maps(image, shown, embeddings[0])]
        names = [self.embedder.classes[number] for number in shown]
        return ClassExplanation(
            photo,
            self.embedder.name,
            self._layer,
            {name: float(scores[0, number]) for name, number in zip(names, shown, strict=True)},
            dict(zip(names, maps, strict=True)),
        )

    def explain_photos(self, photos: Iterable[Path]) -> Iterator[ClassExplanation | Unreadable]:
        """Explain each photo, in their order; one that cannot be read gives the reason in its place."""
        for photo in photos:
            try:
                yield self.explain(photo)
            except PhotoError as error:
                yield Unreadable(photo, error)

    def _shown(self, scores: NDArray[np.float32]) -> list[int]:
        """The classes to show: the best of all, and then those asked for, or the next best."""
        best = [int(number) for number in np.argsort(-scores, kind="stable")[:_BEST]]
        return list(dict.fromkeys([best[0], *self._asked])) if self._asked else best


def _in_closed_form(
    embedder: Embedder,
    classifier: LinearClassifier,
    image: NDArray[np.uint8],
    shown: Sequence[int],
    embedding: NDArray[np.float32],
) -> list[NDArray[np.float32]]:
    """A map of an image, or of a view of it, for each class shown; the embedding is the image's."""
    features = embedder.features(image[None])[1][0]
    return [classifier.explain(features, embedding, number) for number in shown]


def _by_gradient(
    network: "Differentiable", image: NDArray[np.uint8], shown: Sequence[int], _: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """The same by automatic differentiation."""
    maps, gradients = network.by_classes(image[None], shown)
    return [cam_by_gradient(maps[0], gradient) for gradient in gradients[0]]
