"""What stands on a backbone: pooling, an optional projection, and the step to unit length."""

from typing import Literal

import keras

Pooling = Literal["avg", "max"]

_SMALLEST_SQUARE = 1e-24
"""Squared length below which a vector is no longer brought to length 1: zero stays zero, its gradient finite.

A MobileNetV2 with random weights answers with vectors as short as 1e-11.
"""


def create_embedder(backbone: keras.Model, *, pooling: Pooling = "avg", projection: int | None = None) -> keras.Model:
    """Put a head on a backbone.

    Args:
        backbone: from pixels to an unpooled feature map, (n, h, w, c).
        pooling: how the map becomes one vector: the mean or the maximum over its places.
        projection: numbers of the embedding, by a dense layer with bias called `projection`; by default the
            pooled vector itself is the embedding, d = c.

    Returns:
        A model with the backbone's input and two outputs: `embedding`, float32, (n, d), of unit length (zero
        where every feature is zero), and `features`, the backbone's map as it is, for explaining.
    """
    pool = keras.layers.GlobalAveragePooling2D if pooling == "avg" else keras.layers.GlobalMaxPooling2D
    vector = pool(name="pooled")(backbone.output)
    if projection is not None:
        vector = keras.layers.Dense(projection, name="projection")(vector)
    squared = keras.ops.sum(keras.ops.square(vector), axis=-1, keepdims=True)
    embedding = vector * keras.ops.rsqrt(keras.ops.maximum(squared, _SMALLEST_SQUARE))
    return keras.Model(backbone.input, {"embedding": embedding, "features": backbone.output}, name=backbone.name)
