"""Which layers of a backbone learn, and batch normalisation that may learn only when it knows its inputs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import RecipeError

if TYPE_CHECKING:
    import keras


def freeze(backbone: "keras.Model", which: str, *, norm: bool = False) -> int:
    """Let some of a backbone's layers learn and hold the others fast.

    A frozen batch normalisation works in inference mode, by its moving mean and variance, as Keras has it do.

    Args:
        backbone: the network.
        which: `none`, `all`, `first-N` or `all-but-last-N`, counted in its layers, the input being the first.
        norm: whether every batch normalisation is held fast, whatever layers learn.

    Returns:
        how many layers with weights learn.

    Raises:
        RecipeError: the backbone has fewer layers.
    """
    import keras

    layers, frozen = backbone.layers, first_frozen(backbone, which)
    for place, layer in enumerate(layers):
        held = norm and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = place >= frozen and not held
    return sum(bool(layer.trainable_weights) for layer in layers)


def first_frozen(backbone: "keras.Model", which: str) -> int:
    """How many of a backbone's first layers do not learn, by `which` as `freeze` takes it.

    Raises:
        RecipeError: the backbone has fewer layers.
    """
    layers = len(backbone.layers)
    if which in ("none", "all"):
        return layers if which == "all" else 0
    kind, _, number = which.rpartition("-")
    if int(number) > layers:
        raise RecipeError(f"{backbone.name} has {layers} layers: freeze cannot be {which}.")
    return int(number) if kind == "first" else layers - int(number)


def unfold(backbone: "keras.Model", batches: Iterable[NDArray[np.float32]]) -> int:
    """Give each batch normalisation that only adds a bias its inputs' mean and variance, the function staying the same.

    Weights with batch normalisation folded in leave it with mean 0, variance 1 - epsilon and gamma 1. That is exact for
    inference and wrong as soon as it normalises by batch, as it does while it learns. With the mean m and variance v
    measured on photos, gamma = √(v + ε) and beta = bias + m, it computes the same, and may learn.

    Args:
        backbone: the network; its weights are changed.
        batches: photos, float32, (n, size, size, 3), in [0, 255]; a few hundred in all.

    Returns:
        how many normalisations were changed.
    """
    import keras

    folded = [layer for layer in backbone.layers if _is_folded(layer)]
    if not folded:
        return 0
    # The network hands out two numbers a channel, not its maps: of 32 photos of 224 px, those are a gigabyte.
    moments = [keras.ops.moments(layer.input, axes=(0, 1, 2)) for layer in folded]
    looking = keras.Model(backbone.input, moments)
    count = 0.0
    sums: list[Any] = [0.0] * len(folded)
    squares: list[Any] = [0.0] * len(folded)
    for images in batches:
        for place, (means, variances) in enumerate(looking.predict_on_batch(images)):
            mean = np.asarray(means, np.float64)
            sums[place] = sums[place] + mean * len(images)
            squares[place] = squares[place] + (variances + mean**2) * len(images)
        count += len(images)
    for layer, total, square in zip(folded, sums, squares, strict=True):
        mean = total / count
        variance = np.maximum(square / count - mean**2, 1e-6)
        bias = np.asarray(layer.beta)
        layer.set_weights([np.sqrt(variance + layer.epsilon), bias + mean, mean, variance])
    return len(folded)


def _is_folded(layer: Any) -> bool:
    import keras

    if not isinstance(layer, keras.layers.BatchNormalization) or layer.gamma is None or layer.beta is None:
        return False
    gamma, _, mean, variance = (np.asarray(weight) for weight in layer.weights)
    return bool((gamma == 1).all() and (mean == 0).all() and np.allclose(variance, 1 - layer.epsilon, atol=1e-7))
