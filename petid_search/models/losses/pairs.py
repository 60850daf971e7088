"""Every pair of a batch: how far apart two embeddings are, and whose photos they are."""

from typing import Any, Literal, get_args

import keras
from keras import ops

from petid_search.errors import RecipeError

Distance = Literal["L2", "squared-L2", "angular"]

_SMALLEST_SQUARE = 1e-12
"""Squared length below which a vector is no longer brought to length 1, as in tf.math.l2_normalize."""


def require_distance(name: str) -> None:
    """Refuse what is no distance.

    Raises:
        RecipeError: `name` is not one of `Distance`.
    """
    if name not in get_args(Distance):
        raise RecipeError(f"distance must be one of {', '.join(get_args(Distance))}. Got {name!r} instead.")


def pairwise_distances(embeddings: keras.KerasTensor, distance: Distance) -> keras.KerasTensor:
    """Measure how far apart the embeddings of a batch are, as tensorflow-addons 0.23 does.

    Args:
        embeddings: float32, (n, d), of any length.
        distance: `L2`, |x - y|; `squared-L2`, |x - y|²; `angular`, 1 - cos(x, y), which is no angle.

    Returns:
        Float32, (n, n), ≥ 0, the diagonal 0. Gradients are finite everywhere: that of L2 is 0 at distance 0, where
        the root has none.
    """
    if distance == "angular":
        squared = ops.sum(ops.square(embeddings), axis=1, keepdims=True)
        embeddings = embeddings * ops.rsqrt(ops.maximum(squared, _SMALLEST_SQUARE))
        distances = 1.0 - ops.matmul(embeddings, ops.transpose(embeddings))
    else:
        squared = ops.sum(ops.square(embeddings), axis=1, keepdims=True)
        distances = squared + ops.transpose(squared) - 2.0 * ops.matmul(embeddings, ops.transpose(embeddings))
    distances = ops.where(itself(embeddings), 0.0, ops.maximum(distances, 0.0))
    if distance == "L2":
        # The root of 1 stands in for that of 0, whose gradient is infinite and would make the 0 of `where` NaN.
        is_zero = distances <= 0.0
        distances = ops.where(is_zero, 0.0, ops.sqrt(ops.where(is_zero, 1.0, distances)))
    return distances


def itself(rows: keras.KerasTensor) -> keras.KerasTensor:
    """Mark the pairs of a photo with itself: bool, (n, n), for `rows` of shape (n, …)."""
    places = ops.arange(ops.shape(rows)[0])
    return places[:, None] == places[None, :]


def same_individual(labels: Any) -> keras.KerasTensor:
    """Mark the pairs that show one individual, a photo with itself among them.

    Args:
        labels: class numbers, (n,) or (n, 1).

    Returns:
        Bool, (n, n).
    """
    labels = ops.reshape(labels, (-1,))
    return labels[:, None] == labels[None, :]
