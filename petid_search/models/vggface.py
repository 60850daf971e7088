"""The three networks of keras-vggface 0.6, written for Keras 3, and a loader for their original weight files.

VGG16 was trained on VGGFace (Parkhi, Vedaldi, Zisserman, "Deep Face Recognition", BMVC 2015); ResNet50 and
SENet50 on VGGFace2 (Cao, Shen, Xie, Parkhi, Zisserman, FG 2018, arXiv:1710.08092). The SENet's blocks are those
of Hu, Shen, Sun (CVPR 2018, arXiv:1709.01507). They were converted from Caffe, hence blue before red, the stride
in the first 1×1 convolution of a block, and two different batch-norm epsilons.

The originals end in a 7×7 average pool, here part of the top: what is returned without top is the feature map
before it, for any input of 32 pixels or more. At 224 pixels the map is 7×7, so its global average is what
keras-vggface gives with `pooling="avg"`.

Layers carry the original names, with `_` for the `/` that Keras 3 refuses. Weights are matched by these names,
shape by shape, with nothing left over on either side: Keras's own loading by name skips what it does not find.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import h5py
import keras

from petid_search.errors import ModelError

Network = Literal["vgg16", "resnet50", "senet50"]

TOP_CLASSES: dict[Network, int] = {"vgg16": 2622, "resnet50": 8631, "senet50": 8631}
"""People in the original training sets: the classes of the original tops."""

_MEANS: dict[Network, tuple[float, float, float]] = {  # blue, green, red, of the training set's pixels
    "vgg16": (93.5940, 104.7624, 129.1863),
    "resnet50": (91.4953, 103.8827, 131.0912),
    "senet50": (91.4953, 103.8827, 131.0912),
}
_EPSILON: dict[Network, float] = {"resnet50": 1e-3, "senet50": 1e-4}
_TOP_LAYERS = ("fc6", "fc7", "fc8", "classifier")
_ROLE = re.compile(r"kernel|bias|gamma|beta|moving_mean|moving_variance")


def preprocess(name: Network, pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Turn RGB pixels into what the network was trained on: blue first, less the training set's mean.

    Args:
        name: which network it is for; VGGFace and VGGFace2 have different means.
        pixels: float, (n, height, width, 3), RGB in [0, 255].

    Returns:
        Float, (n, height, width, 3), BGR, about [-131, 164]: the `inputs` of `create_network`.
    """
    blue_first = keras.ops.take(pixels, [2, 1, 0], axis=-1)
    return keras.layers.Rescaling(1.0, offset=[-mean for mean in _MEANS[name]])(blue_first)


def create_network(name: Network, inputs: keras.KerasTensor, *, top_classes: int | None = None) -> keras.KerasTensor:
    """Build one of the networks on a tensor, with random weights.

    Args:
        name: which network.
        inputs: float, (n, height, width, 3), from `preprocess`; with a top 224 pixels a side, else at least 32.
        top_classes: classes of the original top to build as well (`TOP_CLASSES[name]` in the original files).

    Returns:
        Without top the unpooled feature map, float, (n, h, w, 512) for vgg16 and (n, h, w, 2048) for the others,
        ≥ 0; h and w are about a 32nd of the input's sides, 7 for 224. With top the scores of the classes after
        softmax, float, (n, top_classes), in [0, 1].
    """
    features = _vgg16(inputs) if name == "vgg16" else _residual_network(name, inputs)
    if top_classes is None:
        return features
    if name == "vgg16":
        x = keras.layers.Flatten(name="flatten")(features)
        for layer in ("fc6", "fc7"):
            x = keras.layers.Dense(4096, name=layer)(x)
            x = keras.layers.Activation("relu", name=f"{layer}_relu")(x)
        x = keras.layers.Dense(top_classes, name="fc8")(x)
        return keras.layers.Activation("softmax", name="fc8_softmax")(x)
    x = keras.layers.AveragePooling2D(7, name="avg_pool")(features)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.layers.Dense(top_classes, activation="softmax", name="classifier")(x)


def _vgg16(x: keras.KerasTensor) -> keras.KerasTensor:
    blocks = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    for block, (filters, convolutions) in enumerate(blocks, start=1):
        for number in range(1, convolutions + 1):
            x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{block}_{number}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool{block}")(x)
    return x


def _residual_network(name: Network, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """ResNet50, or SENet50: the same with squeeze-and-excitation in each block and another epsilon."""
    epsilon = _EPSILON[name]
    x = _normalised_convolution(inputs, 64, 7, "conv1/7x7_s2", strides=2, epsilon=epsilon)
    x = keras.layers.ReLU(name="conv1_relu")(x)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=2):
        for block in range(1, blocks + 1):
            prefix = f"conv{stage}_{block}"
            strides = 2 if block == 1 and stage > 2 else 1
            shortcut = x
            x = _normalised_convolution(x, width, 1, f"{prefix}_1x1_reduce", strides=strides, epsilon=epsilon)
            x = keras.layers.ReLU(name=f"{prefix}_reduce_relu")(x)
            x = _normalised_convolution(x, width, 3, f"{prefix}_3x3", epsilon=epsilon)
            x = keras.layers.ReLU(name=f"{prefix}_3x3_relu")(x)
            x = _normalised_convolution(x, 4 * width, 1, f"{prefix}_1x1_increase", epsilon=epsilon)
            if name == "senet50":
                x = _squeeze_and_excite(x, 4 * width, prefix)
            if block == 1:
                shortcut = _normalised_convolution(
                    shortcut, 4 * width, 1, f"{prefix}_1x1_proj", strides=strides, epsilon=epsilon
                )
            x = keras.layers.Add(name=f"{prefix}_add")([x, shortcut])
            x = keras.layers.ReLU(name=f"{prefix}_relu")(x)
    return x


def _normalised_convolution(
    x: keras.KerasTensor, filters: int, size: int, original_name: str, *, epsilon: float, strides: int = 1
) -> keras.KerasTensor:
    name = _our_name(original_name)
    x = keras.layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False, name=name)(x)
    return keras.layers.BatchNormalization(epsilon=epsilon, name=f"{name}_bn")(x)


def _squeeze_and_excite(x: keras.KerasTensor, channels: int, prefix: str) -> keras.KerasTensor:
    weight = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{prefix}_squeeze")(x)
    weight = keras.layers.Conv2D(channels // 16, 1, activation="relu", name=f"{prefix}_1x1_down")(weight)
    weight = keras.layers.Conv2D(channels, 1, activation="sigmoid", name=f"{prefix}_1x1_up")(weight)
    return keras.layers.Multiply(name=f"{prefix}_excite")([x, weight])


def load_weights(model: keras.Model, file: Path) -> None:
    """Load an original weight file of keras-vggface, unchanged, into a network of `create_network`.

    A file with top also serves a network without: its top is left aside. Nothing is loaded unless all fits.

    Args:
        model: a model whose layers with weights are those of one `create_network`, and no others.
        file: `rcmalli_vggface_tf_….h5`, in the format that Keras 1 and 2 wrote.

    Raises:
        ModelError: the file cannot be read, is of another network, has no top where one is wanted, or differs
            from the model in any layer, shape or order of weights.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    try:
        with h5py.File(file, "r") as opened:
            stored = _stored_weights(opened, file)
            _refuse_other_layers(wanted=set(layers), stored=set(stored), file=file)
            for name, layer in layers.items():
                _refuse_other_weights(layer, stored[name], file)
            for name, layer in layers.items():
                for variable, (_, dataset) in zip(layer.weights, stored[name], strict=True):
                    variable.assign(dataset[()])
    except FileNotFoundError as error:
        raise ModelError(f"There is no weights file {file}: check the path given with `--weights FILE`.") from error
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{file} cannot be read as HDF5 weights ({reason}): give the original file of this network, "
            "or name another with `--weights FILE`."
        ) from error


def _our_name(original: str) -> str:
    return original.replace("/", "_")


def _stored_weights(opened: h5py.File, file: Path) -> dict[str, list[tuple[str, h5py.Dataset]]]:
    """Every layer of the file that has weights, by our name: the weights' original names and their datasets."""
    stored = {}
    try:
        for layer in _texts(opened.attrs["layer_names"]):
            names = _texts(opened[layer].attrs["weight_names"])
            if names:
                stored[_our_name(layer)] = [(name, opened[layer][name]) for name in names]
    except KeyError as error:
        raise ModelError(
            f"{file} is not a weight file of keras-vggface (in it, {error.args[0]}): "
            "download an original one, or name it with `--weights FILE`."
        ) from error
    return stored


def _texts(attribute: Iterable[bytes | str]) -> list[str]:
    """Names from an HDF5 attribute, which h5py gives as bytes or as text, depending on who wrote it."""
    return [item.decode() if isinstance(item, bytes) else str(item) for item in attribute]


def _refuse_other_layers(*, wanted: set[str], stored: set[str], file: Path) -> None:
    top_wanted = wanted.intersection(_TOP_LAYERS)
    if not top_wanted:
        stored = stored.difference(_TOP_LAYERS)
    if stored == wanted:
        return
    asked, found = _network_of(wanted), _network_of(stored)
    if asked and found and asked != found:
        problem = f"holds the weights of {found}, not of {asked}"
    elif top_wanted and not stored.intersection(_TOP_LAYERS):
        problem = f"holds no top ({', '.join(sorted(top_wanted))})"
    else:
        missing, unknown = sorted(wanted - stored), sorted(stored - wanted)
        problem = f"lacks layers {_some(missing)} and has unknown layers {_some(unknown)}"
    names = (
        f"rcmalli_vggface_tf_{asked}.h5"
        if top_wanted
        else f"rcmalli_vggface_tf_notop_{asked}.h5 or rcmalli_vggface_tf_{asked}.h5"
    )
    raise ModelError(f"{file} {problem}: use {names} of keras-vggface.")


def _refuse_other_weights(layer: keras.Layer, stored: list[tuple[str, h5py.Dataset]], file: Path) -> None:
    wanted = [(variable.name, tuple(variable.shape)) for variable in layer.weights]
    # Keras 1 called a kernel `conv1_1_W_1:0`: a name that says nothing we know is taken by its place and shape.
    # Batch norm's four weights have one shape, so there a known name in another place must not pass.
    found = []
    for (role, _), (name, dataset) in zip(wanted, stored, strict=False):
        known = _ROLE.search(name.rsplit("/", 1)[-1])
        found.append((known.group() if known else role, dataset.shape))
    if len(wanted) != len(stored) or found != wanted:
        raise ModelError(
            f"{file} does not fit at layer {layer.name}: it holds {_shapes(found)} where {_shapes(wanted)} "
            "is wanted; use an original weight file of keras-vggface with as many classes."
        )


def _network_of(layers: set[str]) -> Network | None:
    if "conv1_1" in layers:
        return "vgg16"
    if "conv2_1_1x1_down" in layers:
        return "senet50"
    return "resnet50" if "conv2_1_1x1_reduce" in layers else None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"({', '.join(names[:3])}{more})"


def _shapes(weights: list[tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{role} {'×'.join(map(str, shape))}" for role, shape in weights)
