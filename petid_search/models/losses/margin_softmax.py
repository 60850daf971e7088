"""Softmax losses that ask more of the true class than of the others, on the cosines of a cosine classifier."""

import abc
import math
from typing import Any

import keras
from keras import ops

from petid_search.errors import RecipeError


class _MarginSoftmaxLoss(keras.losses.Loss, abc.ABC):  # type: ignore[misc]  # Keras brings no types
    """What both have: the cross-entropy of scaled cosines, that of the true class lowered first."""

    def __init__(self, margin: float, scale: float, name: str, reduction: str | None) -> None:
        # Always float32: in float16, class numbers over 2048 are no longer told apart.
        super().__init__(name=name, reduction=reduction, dtype="float32")
        if not 0 < scale < math.inf:
            raise RecipeError(f"scale must be a number > 0. Got {scale!r} instead.")
        self.margin = float(margin)
        self.scale = float(scale)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` takes."""
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}

    @abc.abstractmethod
    def lower(self, cosines: keras.KerasTensor) -> keras.KerasTensor:
        """Lower cosines, of any shape, by the margin."""

    def call(self, labels: keras.KerasTensor, cosines: keras.KerasTensor) -> keras.KerasTensor:
        """Compute each photo's loss: see the class."""
        labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
        is_true = labels[:, None] == ops.arange(ops.shape(cosines)[1], dtype="int32")[None, :]
        logits = self.scale * ops.where(is_true, self.lower(cosines), cosines)
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


@keras.saving.register_keras_serializable(package="petid")
class ArcFaceLoss(_MarginSoftmaxLoss):
    """Softmax cross-entropy with an angular margin on the true class.

    On a cosine classifier with several centres a class, whose cosine is that of the nearest, it is
    sub-centre ArcFace (Deng, Guo, Liu, Gong, Zafeiriou, ECCV 2020, eq. 3).

    Args:
        margin: widening of the true class's angle, in radians, in [0, π/2).
        scale: multiplier of cosines before the softmax, dimensionless, > 0.
        name: of this loss, in logs.
        reduction: as in every Keras loss.

    Call:
        labels: int, (n,), class numbers in [0, classes).
        cosines: float, (n, classes), in [-1, 1]; not logits.
        Returns float32, (n,), in nats.

    Raises:
        RecipeError: margin or scale is out of range.

    Source: Deng, Guo, Xue, Zafeiriou, CVPR 2019, arXiv:1801.07698, eq. 3. Beyond θ = π - margin, cos(θ + margin) would
    rise again; there cos θ - margin · sin margin stands for it, as in the authors' code and in
    pytorch-metric-learning.
    """

    def __init__(
        self,
        margin: float = 0.5,
        scale: float = 30.0,
        *,
        name: str = "arcface",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(margin, scale, name, reduction)
        if not 0 <= margin < math.pi / 2:
            raise RecipeError(f"margin must be an angle in radians, in [0, π/2). Got {margin!r} instead.")

    def lower(self, cosines: keras.KerasTensor) -> keras.KerasTensor:
        """Turn cos θ into cos(θ + margin), by the addition theorem: arccos has infinite gradients at ±1."""
        squared_sine = (1.0 - cosines) * (1.0 + cosines)
        # At ±1, and where rounding went beyond, the sine is 0, and its gradient is taken as 0 instead of infinite.
        is_end = squared_sine <= 0.0
        sines = ops.where(is_end, 0.0, ops.sqrt(ops.where(is_end, 1.0, squared_sine)))
        turned = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        return ops.where(cosines >= -math.cos(self.margin), turned, cosines - self.margin * math.sin(self.margin))


@keras.saving.register_keras_serializable(package="petid")
class CosFaceLoss(_MarginSoftmaxLoss):
    """Softmax cross-entropy with a margin on the cosine of the true class ("large margin cosine loss").

    Args:
        margin: what is taken off the true class's cosine, dimensionless, in [0, 1).
        scale: multiplier of cosines before the softmax, dimensionless, > 0.
        name: of this loss, in logs.
        reduction: as in every Keras loss.

    Call:
        labels: int, (n,), class numbers in [0, classes).
        cosines: float, (n, classes), in [-1, 1]; not logits.
        Returns float32, (n,), in nats.

    Raises:
        RecipeError: margin or scale is out of range.

    Source: Wang et al., "CosFace", CVPR 2018, arXiv:1801.09414, eq. 4.
    """

    def __init__(
        self,
        margin: float = 0.35,
        scale: float = 30.0,
        *,
        name: str = "cosface",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(margin, scale, name, reduction)
        if not 0 <= margin < 1:
            raise RecipeError(f"margin must be a cosine's difference, in [0, 1). Got {margin!r} instead.")

    def lower(self, cosines: keras.KerasTensor) -> keras.KerasTensor:
        """Turn cos θ into cos θ - margin."""
        return cosines - self.margin
