"""The last layer of a classifier, read from a bundle without TensorFlow, where it stands on the pooled vector."""

from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from petid_search.errors import ModelError
from petid_search.explain.maps import cam, hires_cam
from petid_search.models.architecture import Head
from petid_search.models.bundle import WEIGHTS, Bundle
from petid_search.models.linear_head import LinearHead
from petid_search.models.runtime import Embedder


def has_closed_form(head: Head) -> bool:
    """Whether nothing but pooling and a linear map lead from the feature map to a class's score."""
    return head.classifier is not None and not head.classifier.flatten and not head.classifier.dense


@dataclass(frozen=True)
class LinearClassifier:
    """What a class's score before the activation is an inner product with.

    Attributes:
        kernel: float32, (c, classes) of a softmax classifier, on the pooled vector; (d, classes · centres) of a cosine
            classifier, on the embedding, those of a class side by side, each of unit length.
        centres: directions of each class.
        head: what pools, and projects to the embedding.
        is_cosine: which of the two it is.
    """

    kernel: NDArray[np.float32]
    centres: int
    head: LinearHead
    is_cosine: bool

    def explain(
        self, features: NDArray[np.float32], embedding: NDArray[np.float32], number: int
    ) -> NDArray[np.float32]:
        """HiResCAM of a class's score before the activation: its logit, or its cosine with the length held fixed.

        Args:
            features: float32, (h, w, c).
            embedding: float32, (d,), of the same image: it says which of a class's directions is the nearest.
            number: of the class.

        Returns:
            float32, (h, w); see maps.cam and maps.hires_cam.
        """
        directions = self.kernel[:, number * self.centres : (number + 1) * self.centres]
        if not self.is_cosine:
            return cam(features, directions[:, 0], self.head)
        nearest = directions[:, np.argmax(embedding @ directions)]
        return hires_cam(features, nearest, self.head)


def read_classifier(embedder: Embedder) -> LinearClassifier:
    """Read the last layer of a classifier that has a closed form.

    Raises:
        ModelError: the weights are damaged.
    """
    head = embedder.bundle.card.head
    if head.classifier is None or not has_closed_form(head):
        raise ValueError(f"Expected a head with a linear classifier. Received: {head}.")
    is_cosine = head.classifier.kind == "cosine"
    kernel = _read_kernel(embedder.bundle, "cosines" if is_cosine else "classifier")
    if is_cosine:
        kernel = kernel / np.maximum(np.linalg.norm(kernel, axis=0), 1e-12)
    return LinearClassifier(kernel, head.classifier.centres, embedder.head(), is_cosine)


def _read_kernel(bundle: Bundle, layer: str) -> NDArray[np.float32]:
    """Read the kernel of a layer from Keras's file of weights, whose groups are numbered and named by attributes."""
    with h5py.File(bundle.file(WEIGHTS)) as file:
        for group in file["layers"].values():
            if group["vars"].attrs.get("name") == layer:
                kernel: NDArray[np.float32] = group["vars"]["0"][:].astype(np.float32)
                return kernel
    raise ModelError(
        f"The weights of model {bundle.card.name!r} have no layer {layer!r}: run `petid models remove "
        f"{bundle.card.name}` and add the model again."
    )
