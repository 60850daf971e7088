"""Gradients of a model's class scores and similarities by any of its feature maps, by automatic differentiation.

For what has no closed form: classifiers of several dense layers or of the flattened map, layers below the last, and
weights that were shuffled. TensorFlow is imported when the first network is built.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import ModelError
from petid_search.models.bundle import Bundle, load_keras

if TYPE_CHECKING:
    import keras

_NAMED: Final = 5
"""Layers that an error names: those nearest to the last, of which there may be hundreds."""


class Differentiable:
    """A model's network in Keras, of which what it answers can be differentiated by a layer's feature map.

    Attributes:
        layer: the layer's name; None for the map that the embedding is pooled from.

    Args:
        bundle: the model.
        layer: the name of a layer of its network that has a feature map, (n, h, w, c).

    Raises:
        ModelError: there is no such layer, or the bundle is damaged.
    """

    def __init__(self, bundle: Bundle, layer: str | None = None) -> None:
        self.layer = layer
        self._classifier = bundle.card.head.classifier
        model = load_keras(bundle)
        self._model = model
        import keras

        maps = model.output["features"] if layer is None else _map_of(model, layer, bundle.card.name)
        # What becomes the embedding when it is brought to unit length.
        outputs = {"maps": maps, "vector": model.get_layer("unit_length").input}
        if self._classifier is not None and self._classifier.kind == "softmax":
            outputs["logits"] = model.get_layer("classifier").output
        self._network = keras.Model(model.input, outputs)

    def by_classes(
        self, images: NDArray[np.uint8], classes: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Differentiate scores before the activation: logits, or cosines with the embedding's length held fixed.

        Args:
            images: RGB, uint8, (n, size, size, 3), in [0, 255].
            classes: the numbers of k classes, in the order of the model's.

        Returns:
            Feature maps, float32, (n, h, w, c); and the gradients of the classes' scores by them, (n, k, h, w, c).

        Raises:
            ModelError: the model has no classifier.
        """
        import tensorflow as tf

        if self._classifier is None:
            raise ModelError("The model has no classifier: train one that has with `petid train FOLDER`.")

        def scores(answer: dict[str, Any]) -> list[Any]:
            if "logits" in answer:
                return [answer["logits"][:, number] for number in classes]
            unit = answer["vector"] / tf.stop_gradient(_lengths(answer["vector"]))
            kernel = self._model.get_layer("cosines").kernel
            centres = kernel / tf.norm(kernel, axis=0, keepdims=True)
            cosines = tf.reshape(unit @ centres, (len(images), -1, self._classifier.centres))  # type: ignore[union-attr]
            nearest = tf.reduce_max(cosines, axis=-1)
            return [nearest[:, number] for number in classes]

        return self._differentiate(images, scores)

    def by_similarity(
        self, images: NDArray[np.uint8], others: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Differentiate similarities to other embeddings, which are held fixed, as is the length of the embedding.

        Args:
            images: RGB, uint8, (n, size, size, 3), in [0, 255].
            others: float32, (n, d), one for each image, unit length.

        Returns:
            Feature maps, float32, (n, h, w, c); and the gradients by them, float32, (n, h, w, c).
        """
        import tensorflow as tf

        def similarity(answer: dict[str, Any]) -> list[Any]:
            vectors = answer["vector"]
            return [tf.reduce_sum(vectors * others, axis=-1) / tf.stop_gradient(_lengths(vectors)[:, 0])]

        maps, gradients = self._differentiate(images, similarity)
        return maps, gradients[:, 0]

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed images with the weights as they are now: float32, (n, d), unit length."""
        embeddings: NDArray[np.float32] = np.asarray(
            self._model(images.astype(np.float32), training=False)["embedding"]
        )
        return embeddings

    def shuffle_kernels(self, share: float, seed: int) -> None:
        """Shuffle the numbers within each kernel, of the uppermost layers first: nothing learned is left in them.

        What a kernel computes is lost and its scale is not, so that activations neither die nor grow beyond bounds.
        Biases and normalisation stay as they are.

        Args:
            share: of the kernels, counted from the output, in (0, 1]; at least one is shuffled.
            seed: the same seed shuffles the same.
        """
        generator = np.random.default_rng(seed)
        kernels = [weight for layer in self._model.layers for weight in layer.weights if len(weight.shape) > 1]
        for kernel in kernels[-max(1, round(share * len(kernels))) :]:
            kernel.assign(generator.permutation(np.asarray(kernel).ravel()).reshape(kernel.shape))

    def _differentiate(self, images: NDArray[np.uint8], targets: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        pixels = tf.constant(images, tf.float32)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(pixels)  # so that every layer's map is on the tape, whatever may be trained
            answer = self._network(pixels, training=False)
            # Each image's score depends on its own map alone, so the gradient of the sum is that of each.
            sums = [tf.reduce_sum(target) for target in targets(answer)]
        gradients = [tape.gradient(one, answer["maps"]) for one in sums]
        return np.asarray(answer["maps"], np.float32), np.stack([np.asarray(one, np.float32) for one in gradients], 1)


def _lengths(vectors: Any) -> Any:
    import tensorflow as tf

    return tf.maximum(tf.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _map_of(model: "keras.Model", name: str, of: str) -> Any:
    """The output of a layer that has a feature map and lies on the way to the embedding or to the scores."""
    with_map = [layer.name for layer in model.layers if _is_map(layer)]
    if name not in with_map:
        raise ModelError(
            f"Model {of!r} has no layer {name!r} with a feature map; its last are {', '.join(with_map[-_NAMED:])}: "
            "choose one of its layers."
        )
    return model.get_layer(name).output


def _is_map(layer: Any) -> bool:
    output = getattr(layer, "output", None)
    return len(getattr(output, "shape", ())) == 4 and not layer.__class__.__name__.startswith("Input")
