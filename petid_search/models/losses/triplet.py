"""Triplet losses that choose their triplets within the batch, equal to those of tensorflow-addons 0.23."""

from typing import Any

import keras
from keras import ops

from petid_search.errors import RecipeError
from petid_search.models.losses.pairs import Distance, itself, pairwise_distances, require_distance, same_individual


class _TripletLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras brings no types
    """What both have: a margin and a distance."""

    def __init__(self, margin: float, distance: Distance, name: str, reduction: str | None) -> None:
        # Always float32: in float16, class numbers over 2048 are no longer told apart.
        super().__init__(name=name, reduction=reduction, dtype="float32")
        if not 0 <= margin < float("inf"):
            raise RecipeError(f"margin must be a number ≥ 0. Got {margin!r} instead.")
        require_distance(distance)
        self.margin = float(margin)
        self.distance: Distance = distance

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` takes."""
        return {**super().get_config(), "margin": self.margin, "distance": self.distance}


@keras.saving.register_keras_serializable(package="petid")
class TripletSemiHardLoss(_TripletLoss):
    """Triplet loss over all positive pairs, each with its nearest negative that is farther than the positive.

    Where no negative is farther, the farthest one is taken. An anchor without any negative is held against distance
    0, so that a batch of one individual draws it together; a batch without a positive pair has loss 0 (it is NaN
    in tensorflow-addons).

    Args:
        margin: by how much the negative is to be farther than the positive, ≥ 0, in the unit of the distance.
        distance: see `pairwise_distances`; FaceNet has `squared-L2`, tensorflow-addons `L2`.
        name: of this loss, in logs.
        reduction: as in every Keras loss.

    Call:
        labels: int, (n,), class numbers.
        embeddings: float, (n, d), best of unit length.
        Returns float32, (n,), each anchor's share; their mean is the mean over the positive pairs. It takes n³
        numbers of memory: 64 MiB at n = 256.

    Raises:
        RecipeError: margin or distance is out of range.

    Source: Schroff, Kalenichenko, Philbin, "FaceNet", CVPR 2015, arXiv:1503.03832, eq. 3 and 4 (all anchor-positive
    pairs, semi-hard negatives).
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance: Distance = "L2",
        *,
        name: str = "triplet_semi_hard",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(margin, distance, name, reduction)

    def call(self, labels: keras.KerasTensor, embeddings: keras.KerasTensor) -> keras.KerasTensor:
        """Compute each anchor's share of the loss: see the class."""
        distances = pairwise_distances(embeddings, self.distance)
        same = same_individual(labels)
        positive = ops.logical_and(same, ops.logical_not(itself(embeddings)))
        negative = ops.logical_not(same)

        # [anchor, positive, negative]
        is_farther = ops.logical_and(negative[:, None, :], distances[:, None, :] > distances[:, :, None])
        nearest_farther = ops.min(ops.where(is_farther, distances[:, None, :], float("inf")), axis=2)
        farthest = ops.max(ops.where(negative, distances, 0.0), axis=1, keepdims=True)
        chosen = ops.where(ops.any(is_farther, axis=2), nearest_farther, farthest)

        losses = ops.where(positive, ops.maximum(distances - chosen + self.margin, 0.0), 0.0)
        photos = ops.cast(ops.shape(embeddings)[0], "float32")
        pairs = ops.sum(ops.cast(positive, "float32"))
        return ops.sum(losses, axis=1) * (photos / ops.maximum(pairs, 1.0))


@keras.saving.register_keras_serializable(package="petid")
class TripletHardLoss(_TripletLoss):
    """Triplet loss of every photo with its farthest positive and its nearest negative ("batch hard").

    As in tensorflow-addons, an anchor without a positive counts with positive distance 0, and one without a negative
    with its largest distance: a batch of one individual has the margin as its loss, and no gradient.

    Args:
        margin: by how much the negative is to be farther than the positive, ≥ 0, in the unit of the distance.
        soft: log(1 + exp(positive - negative)) instead of the hinge; there the margin has no effect.
        distance: see `pairwise_distances`.
        name: of this loss, in logs.
        reduction: as in every Keras loss.

    Call:
        labels: int, (n,), class numbers; best with two photos or more of each individual.
        embeddings: float, (n, d), best of unit length.
        Returns float32, (n,), each anchor's loss.

    Raises:
        RecipeError: margin or distance is out of range.

    Source: Hermans, Beyer, Leibe, "In defense of the triplet loss for person re-identification", 2017,
    arXiv:1703.07737, eq. 5; the soft margin in section 2.
    """

    def __init__(
        self,
        margin: float = 1.0,
        soft: bool = False,
        distance: Distance = "L2",
        *,
        name: str = "triplet_hard",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(margin, distance, name, reduction)
        self.soft = bool(soft)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` takes."""
        return {**super().get_config(), "soft": self.soft}

    def call(self, labels: keras.KerasTensor, embeddings: keras.KerasTensor) -> keras.KerasTensor:
        """Compute each anchor's loss: see the class."""
        distances = pairwise_distances(embeddings, self.distance)
        same = same_individual(labels)
        largest = ops.max(distances, axis=1, keepdims=True)
        # A photo's distance to itself is 0, as is what stands for no positive: it need not be left out.
        positive = ops.max(ops.where(same, distances, 0.0), axis=1)
        negative = ops.min(ops.where(same, largest, distances), axis=1)
        if self.soft:
            return ops.softplus(positive - negative)
        return ops.maximum(positive - negative + self.margin, 0.0)
