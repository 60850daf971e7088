"""The contrastive loss that draws all photos of one individual together at once."""

from typing import Any

import keras
from keras import ops

from petid_search.errors import RecipeError
from petid_search.models.losses.pairs import itself, same_individual

_NEVER = -1e9
"""A logit whose exponential is 0 in float32, and which, unlike -inf, leaves no NaN where nothing else is there."""


@keras.saving.register_keras_serializable(package="petid")
class SupervisedContrastiveLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras brings no types
    """Cross-entropy of finding an anchor's positives among all other photos of the batch.

    Anchors without a positive are left out; a batch without a positive pair has loss 0.

    Args:
        temperature: divisor of similarities before the softmax, dimensionless, in [0.001, ∞).
        name: of this loss, in logs.
        reduction: as in every Keras loss.

    Call:
        labels: int, (n,), class numbers.
        embeddings: float, (n, d), of unit length.
        Returns float32, (n,), in nats, each anchor's share; their mean is the mean over the anchors that have a
        positive (the paper has their sum).

    Raises:
        RecipeError: the temperature is out of range.

    Source: Khosla et al., "Supervised contrastive learning", NeurIPS 2020, arXiv:2004.11362, eq. 2 (L_out).
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        name: str = "supervised_contrastive",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        # Always float32: in float16, class numbers over 2048 are no longer told apart.
        super().__init__(name=name, reduction=reduction, dtype="float32")
        if not 0.001 <= temperature < float("inf"):
            raise RecipeError(f"temperature must be a number of 0.001 or more. Got {temperature!r} instead.")
        self.temperature = float(temperature)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` takes."""
        return {**super().get_config(), "temperature": self.temperature}

    def call(self, labels: keras.KerasTensor, embeddings: keras.KerasTensor) -> keras.KerasTensor:
        """Compute each anchor's share of the loss: see the class."""
        same_photo = itself(embeddings)
        logits = ops.matmul(embeddings, ops.transpose(embeddings)) / self.temperature
        logits = ops.where(same_photo, _NEVER, logits)
        log_probabilities = logits - ops.logsumexp(logits, axis=1, keepdims=True)

        positive = ops.logical_and(same_individual(labels), ops.logical_not(same_photo))
        positives = ops.sum(ops.cast(positive, "float32"), axis=1)
        losses = -ops.sum(ops.where(positive, log_probabilities, 0.0), axis=1) / ops.maximum(positives, 1.0)
        anchors = ops.sum(ops.cast(positives > 0, "float32"))
        photos = ops.cast(ops.shape(embeddings)[0], "float32")
        return losses * (photos / ops.maximum(anchors, 1.0))
