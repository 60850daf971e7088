"""What stands on a backbone: pooling, an optional projection, the step to unit length, and an optional classifier.

The whole head works in float32, whatever the policy of the backbone: squares and cubes of features overflow in float16,
and the head costs next to nothing.

Names of its layers, where they are there: `kept`, the copy of a part of the backbone; `beside`, the feature map with
what is kept beside it; `mirrored`, the mean of it and of the mirror image's, turned back; `pooled`, of `learnt_pooled`
and `kept_pooled` where something is kept; `projection`, `kept_projection`, `learnt_unit_length`, `kept_unit_length`,
`unit_length`; of a softmax classifier
`flattened`, `dense_1`, `dense_1_bn`, `dense_1_activation`, `dense_1_dropout`, …, `dropout`, `classifier` (n, classes,
before the activation); of a cosine classifier `cosines` (n, classes) and `scaled`; and `scores`.
"""

import math
from typing import Any

import keras

from petid_search.errors import ModelError, RecipeError
from petid_search.models.architecture import GEM_POWER, GEM_SMALLEST, Classifier, Head, Kept, Pooling
from petid_search.models.copying import copy_end, weights_by_layer

_SMALLEST_SQUARE = 1e-24
"""Squared length below which a vector is no longer brought to length 1: zero stays zero, its gradient finite.

A MobileNetV2 with random weights answers with vectors as short as 1e-11.
"""


@keras.saving.register_keras_serializable("petid")
class UnitLength(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Brings vectors to unit length; zero stays zero, with a finite gradient (keras's own layer gives NaN there).

    Call:
        vectors: float, (n, d). Returns float, (n, d).
    """

    def call(self, vectors: Any) -> Any:
        """Divide each vector by its length."""
        return vectors * _inverse_length(vectors, axis=-1)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """As the vectors: Keras, left to find out, loses the length of some."""
        return shape


@keras.saving.register_keras_serializable("petid")
class GeneralisedMeanPooling2D(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """GeM: the p-th root of the mean, over places, of the features' p-th powers. p = 1 is the mean, p → ∞ the maximum.

    Args:
        p: the power, fixed, at least 1. In float32, p up to 6 keeps clear of underflow.
    Call:
        features: float, (n, h, w, c); those under GEM_SMALLEST count as that.
        Returns float, (n, c).

    Source: Radenović, Tolias, Chum, "Fine-tuning CNN image retrieval with no human annotation", TPAMI 2018,
    arXiv:1711.02512, eq. 3.
    """

    def __init__(self, p: float = GEM_POWER, **settings: Any) -> None:
        super().__init__(**settings)
        if not p >= 1:
            raise ValueError(f"Expected p of at least 1. Received: {p}.")
        self.p = p

    def call(self, features: Any) -> Any:
        """Pool a feature map."""
        powers = keras.ops.power(keras.ops.maximum(features, GEM_SMALLEST), self.p)
        return keras.ops.power(keras.ops.mean(powers, axis=(1, 2)), 1 / self.p)

    def get_config(self) -> dict[str, Any]:
        """Keras's description of the layer."""
        return {**super().get_config(), "p": self.p}


@keras.saving.register_keras_serializable("petid")
class CosineClassifier(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Cosines of embeddings to a direction for each class, or to the nearest of its several directions.

    Args:
        classes: how many.
        centres: directions of each.
    Call:
        embeddings: float, (n, d), unit length.
        Returns float, (n, classes), in [-1, 1] up to rounding.

    Source: Deng et al., "ArcFace", CVPR 2019, arXiv:1801.07698, sec. 2.1; Deng et al., "Sub-center ArcFace", ECCV
    2020, eq. 2.
    """

    def __init__(self, classes: int, centres: int = 1, **settings: Any) -> None:
        super().__init__(**settings)
        self.classes = classes
        self.centres = centres

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the directions, (d, classes · centres), those of a class side by side."""
        self.kernel = self.add_weight(shape=(shape[-1], self.classes * self.centres), name="kernel")

    def call(self, embeddings: Any) -> Any:
        """Compare embeddings with every class."""
        cosines = keras.ops.matmul(embeddings, self.kernel * _inverse_length(self.kernel, axis=0))
        if self.centres == 1:
            return cosines
        return keras.ops.max(keras.ops.reshape(cosines, (-1, self.classes, self.centres)), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Keras's description of the layer."""
        return {**super().get_config(), "classes": self.classes, "centres": self.centres}


def create_model(backbone: keras.Model, head: Head, classes: int = 0) -> keras.Model:
    """Put a head on a backbone.

    Args:
        backbone: from pixels to an unpooled feature map, (n, h, w, c). What the head keeps has its present weights.
        head: what to put there.
        classes: how many the classifier tells apart; 0 where the head has none.

    Returns:
        A model with the backbone's input and named outputs: `embedding`, float32, (n, d), of unit length (zero where
        every feature is zero); `features`, the map that is pooled, for explaining: the backbone's, and behind its
        channels those of what is kept; and with a classifier `scores`, float32, (n, classes), in [0, 1].

    Raises:
        RecipeError: the head names an activation that Keras does not know, or keeps what the backbone does not have.
    """
    features = backbone.output if head.kept is None else _beside(backbone, head.kept)
    if head.mirror:
        features = _with_mirror_image(keras.Model(backbone.input, features, name="twin"))
    outputs = _apply(head, classes, features)
    return keras.Model(backbone.input, {**outputs, "features": features}, name=backbone.name)


def backbone_of(model: keras.Model) -> keras.Model:
    """The backbone within a model that create_model made, sharing its layers; without what the head keeps."""
    features = model.output["features"]
    layers = {layer.name: layer for layer in model.layers}
    for name in ("mirrored", "beside"):
        if name in layers:
            features = layers[name].input[0]
    return keras.Model(model.input, features, name=model.name)


def create_head(head: Head, classes: int, input_shape: tuple[int, ...]) -> keras.Model:
    """Make a head by itself, to be trained on features that were kept; its layers are called as they are on a backbone.

    Args:
        head: what to make.
        classes: how many the classifier tells apart; 0 where the head has none.
        input_shape: of one photo's features: (c,) pooled, or (h, w, c), which a classifier that flattens needs.

    Returns:
        A model with the outputs `embedding` and, with a classifier, `scores`, as create_model makes them.

    Raises:
        RecipeError: the head names an activation that Keras does not know.
    """
    features = keras.Input(input_shape, name="kept_features")
    return keras.Model(features, _apply(head, classes, features), name="head")


def pooling_layer(pooling: Pooling, *, name: str = "pooled") -> keras.Layer:
    """The layer that makes one vector, (n, c), of a feature map, (n, h, w, c)."""
    kinds = {
        "avg": keras.layers.GlobalAveragePooling2D,
        "max": keras.layers.GlobalMaxPooling2D,
        "gem": GeneralisedMeanPooling2D,
    }
    return kinds[pooling](name=name, dtype="float32")


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy the weights of every layer of `source` to the layer of its name in `target`, which may have more.

    Raises:
        ModelError: the target has no layer of a name, or has other weights there; nothing was copied then.
    """
    layers = {layer.name: layer for layer in target.layers}
    pairs = [(layer, layers.get(layer.name)) for layer in source.layers if layer.weights]
    for layer, other in pairs:
        shapes = [tuple(weight.shape) for weight in layer.weights]
        found = None if other is None else [tuple(weight.shape) for weight in other.weights]
        if found != shapes:
            has = "no such layer" if found is None else f"one of {found}"
            raise ModelError(
                f"The weights {shapes} of layer {layer.name} fit no layer of the other network, which has {has}: "
                "take models of one backbone and head."
            )
    for layer, _ in pairs:
        layers[layer.name].set_weights(layer.get_weights())


def _inverse_length(vectors: Any, *, axis: int) -> Any:
    squared = keras.ops.sum(keras.ops.square(vectors), axis=axis, keepdims=True)
    return keras.ops.rsqrt(keras.ops.maximum(squared, _SMALLEST_SQUARE))


def _beside(backbone: keras.Model, kept: Kept) -> Any:
    """The backbone's feature map with that of what is kept beside it, (n, h, w, c + kept.channels)."""
    layers = {layer.name: layer for layer in backbone.layers}
    if not {kept.layer, kept.after} <= layers.keys():
        raise RecipeError(f"{backbone.name} has no layers {kept.after!r} and {kept.layer!r}: it cannot keep them.")
    copy = copy_end(backbone, kept.after, weights_by_layer(backbone), name="kept", upto=kept.layer)
    features = copy(layers[kept.after].output, training=False)
    if features.shape[1:] != (*backbone.output.shape[1:3], kept.channels):
        raise RecipeError(
            f"The feature map of {kept.layer!r} is {features.shape[1:]}, which does not fit beside the last one, "
            f"{backbone.output.shape[1:]}: keep a layer whose map is as high and wide."
        )
    return keras.layers.Concatenate(name="beside")([backbone.output, features])


def _with_mirror_image(network: keras.Model) -> Any:
    """The mean of a network's feature map and of that of the photo's mirror image, turned back, (n, h, w, c)."""
    turned = network(network.input[:, :, ::-1])[:, :, ::-1]
    return keras.layers.Average(name="mirrored")([network.output, turned])


def _apply(head: Head, classes: int, features: Any) -> dict[str, Any]:
    """The head's outputs for features, which are a map or pooled already."""
    if (classes > 0) != (head.classifier is not None):
        raise ValueError(f"Expected classes where there is a classifier, and none else. Received: {classes}, {head}.")
    is_map = len(features.shape) == 4
    pooled = _pool(head, features) if is_map else features
    vector = pooled
    if head.projection is not None:
        learnt = pooled if head.kept is None else pooled[:, : -head.kept.channels]
        vector = keras.layers.Dense(head.projection, name="projection", dtype="float32")(learnt)
    if head.kept is not None:
        projected = keras.layers.Dense(head.kept.numbers, name="kept_projection", trainable=False, dtype="float32")(
            pooled[:, -head.kept.channels :]
        )
        vector = UnitLength(name="learnt_unit_length", dtype="float32")(vector) * math.sqrt(1 - head.kept.share)
        beside = UnitLength(name="kept_unit_length", dtype="float32")(projected) * math.sqrt(head.kept.share)
        vector = keras.layers.Concatenate(dtype="float32")([vector, beside])
    embedding = UnitLength(name="unit_length", dtype="float32")(vector)
    if head.classifier is None:
        return {"embedding": embedding}
    if head.classifier.kind == "cosine":
        return {"embedding": embedding, "scores": _cosine_scores(head.classifier, classes, embedding)}
    if not head.classifier.flatten:
        below = pooled
    elif is_map:
        below = keras.layers.Flatten(name="flattened", dtype="float32")(features)
    else:
        raise ValueError(f"Expected features of shape (h, w, c), to be flattened. Received: {features.shape[1:]}.")
    return {"embedding": embedding, "scores": _softmax_scores(head.classifier, classes, below)}


def _pool(head: Head, features: Any) -> Any:
    """A feature map as a vector; what is kept is averaged, since that told unseen animals apart best."""
    if head.kept is None:
        return pooling_layer(head.pooling)(features)
    learnt = pooling_layer(head.pooling, name="learnt_pooled")(features[..., : -head.kept.channels])
    kept = pooling_layer("avg", name="kept_pooled")(features[..., -head.kept.channels :])
    return keras.layers.Concatenate(name="pooled", dtype="float32")([learnt, kept])


def _cosine_scores(classifier: Classifier, classes: int, embedding: Any) -> Any:
    cosines = CosineClassifier(classes, classifier.centres, name="cosines", dtype="float32")(embedding)
    scaled = keras.layers.Rescaling(classifier.scale, name="scaled", dtype="float32")(cosines)
    return keras.layers.Activation("softmax", name="scores", dtype="float32")(scaled)


def _softmax_scores(classifier: Classifier, classes: int, vector: Any) -> Any:
    for number, units in enumerate(classifier.dense, start=1):
        name = f"dense_{number}"
        vector = keras.layers.Dense(units, name=name, dtype="float32")(vector)
        if classifier.batch_norm:
            vector = keras.layers.BatchNormalization(name=f"{name}_bn", dtype="float32")(vector)
        vector = _activation(classifier.activation, f"{name}_activation")(vector)
        if classifier.dropout:
            vector = keras.layers.Dropout(classifier.dropout, name=f"{name}_dropout", dtype="float32")(vector)
    if classifier.dropout and not classifier.dense:
        vector = keras.layers.Dropout(classifier.dropout, name="dropout", dtype="float32")(vector)
    logits = keras.layers.Dense(classes, name="classifier", dtype="float32")(vector)
    return _activation(classifier.output_activation, "scores")(logits)


def _activation(name: str, layer: str) -> keras.Layer:
    try:
        return keras.layers.Activation(name, name=layer, dtype="float32")
    except ValueError:
        raise RecipeError(f"Keras has no activation {name!r}: take one such as relu, gelu or tanh.") from None
