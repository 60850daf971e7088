"""The registry of backbones: one contract for every network, whatever its family asks of its callers.

RGB images in [0, 255] go in, the unpooled feature map comes out, and the preprocessing a family was trained
with is part of the graph. So training, embedding and explaining cannot disagree about it.
"""

import contextlib
import difflib
import os
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import ModelError
from petid_search.models.weights import VGGFACE, Progress, fetch

if TYPE_CHECKING:
    import keras

Family = Literal["keras", "vggface"]
Preprocessing = Literal["caffe", "tf", "tf-128", "torch", "vggface-1", "vggface-2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """One network that petid can build, and all that a user must know before using its weights.

    Attributes:
        name: what `--backbone` takes.
        family: who defines the network: keras.applications, or petid's own VGGFace.
        constructor: its name there.
        size: side of the square image that it was trained on, in pixels.
        smallest: the smallest side that leaves a feature map, in pixels.
        channels: of the feature map.
        preprocessing: what is done to RGB in [0, 255]. `caffe`: BGR minus ImageNet's mean; `tf`: to [-1, 1];
            `tf-128`: the same with 128 for 127.5; `torch`: to [0, 1], then ImageNet's mean and deviation;
            `vggface-1` and `-2`: BGR minus the mean of VGGFace and of VGGFace2.
        source: the paper.
        weights_origin: who trained the published weights, and how they came into a file for Keras.
        weights_licence: what their publishers allow. The photos they were trained on have terms of their own.
        weights_data: what they were trained on.
    """

    name: str
    family: Family = "keras"
    constructor: str
    size: int = 224
    smallest: int = 32
    channels: int
    preprocessing: Preprocessing
    source: str
    weights_origin: str
    weights_licence: str
    weights_data: str = "ImageNet-1k (ILSVRC 2012)"


_VGGFACE_ORIGIN: Final = "Visual Geometry Group, University of Oxford; converted by R. C. Malli (keras-vggface)"
_VGGFACE_LICENCE: Final = "for non-commercial research only, under a Creative Commons Attribution licence"
_VGG_ORIGIN: Final = "Visual Geometry Group, University of Oxford; converted by keras.applications"
_DENSENET_ORIGIN: Final = "G. Huang, Z. Liu et al.; converted by keras.applications"
_GOOGLE_ORIGIN: Final = "Google; published by keras.applications"
_DENSENET_SOURCE: Final = "Huang et al., CVPR 2017, arXiv:1608.06993"
_EFFICIENTNETV2_SOURCE: Final = "Tan and Le, ICML 2021, arXiv:2104.00298"

BACKBONES: Final[dict[str, Backbone]] = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="vggface-vgg16",
            family="vggface",
            constructor="vgg16",
            channels=512,
            preprocessing="vggface-1",
            source="Parkhi et al., BMVC 2015, doi:10.5244/C.29.41",
            weights_origin=_VGGFACE_ORIGIN,
            weights_licence=_VGGFACE_LICENCE,
            weights_data="VGGFace (2.6 million photos of 2,622 people)",
        ),
        Backbone(
            name="vggface-resnet50",
            family="vggface",
            constructor="resnet50",
            channels=2048,
            preprocessing="vggface-2",
            source="Cao et al., FG 2018, arXiv:1710.08092; He et al., CVPR 2016, arXiv:1512.03385",
            weights_origin=_VGGFACE_ORIGIN,
            weights_licence=_VGGFACE_LICENCE,
            weights_data="VGGFace2 (3.3 million photos of 9,131 people)",
        ),
        Backbone(
            name="vggface-senet50",
            family="vggface",
            constructor="senet50",
            channels=2048,
            preprocessing="vggface-2",
            source="Cao et al., FG 2018, arXiv:1710.08092; Hu et al., CVPR 2018, arXiv:1709.01507",
            weights_origin=_VGGFACE_ORIGIN,
            weights_licence=_VGGFACE_LICENCE,
            weights_data="VGGFace2 (3.3 million photos of 9,131 people)",
        ),
        Backbone(
            name="vgg16",
            constructor="VGG16",
            channels=512,
            preprocessing="caffe",
            source="Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556",
            weights_origin=_VGG_ORIGIN,
            weights_licence="CC BY 4.0",
        ),
        Backbone(
            name="vgg19",
            constructor="VGG19",
            channels=512,
            preprocessing="caffe",
            source="Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556",
            weights_origin=_VGG_ORIGIN,
            weights_licence="CC BY 4.0",
        ),
        Backbone(
            name="resnet50",
            constructor="ResNet50",
            channels=2048,
            preprocessing="caffe",
            source="He et al., CVPR 2016, arXiv:1512.03385",
            weights_origin="K. He et al., Microsoft Research; converted by keras.applications",
            weights_licence="MIT",
        ),
        Backbone(
            name="inceptionv3",
            constructor="InceptionV3",
            size=299,
            smallest=75,
            channels=2048,
            preprocessing="tf",
            source="Szegedy et al., CVPR 2016, arXiv:1512.00567",
            weights_origin=_GOOGLE_ORIGIN,
            weights_licence="Apache-2.0",
        ),
        Backbone(
            name="inceptionresnetv2",
            constructor="InceptionResNetV2",
            size=299,
            smallest=75,
            channels=1536,
            preprocessing="tf",
            source="Szegedy et al., AAAI 2017, arXiv:1602.07261",
            weights_origin=_GOOGLE_ORIGIN,
            weights_licence="Apache-2.0",
        ),
        Backbone(
            name="xception",
            constructor="Xception",
            size=299,
            smallest=71,
            channels=2048,
            preprocessing="tf",
            source="Chollet, CVPR 2017, arXiv:1610.02357",
            weights_origin="F. Chollet; published by keras.applications",
            weights_licence="MIT",
        ),
        Backbone(
            name="densenet121",
            constructor="DenseNet121",
            channels=1024,
            preprocessing="torch",
            source=_DENSENET_SOURCE,
            weights_origin=_DENSENET_ORIGIN,
            weights_licence="BSD-3-Clause",
        ),
        Backbone(
            name="densenet169",
            constructor="DenseNet169",
            channels=1664,
            preprocessing="torch",
            source=_DENSENET_SOURCE,
            weights_origin=_DENSENET_ORIGIN,
            weights_licence="BSD-3-Clause",
        ),
        Backbone(
            name="densenet201",
            constructor="DenseNet201",
            channels=1920,
            preprocessing="torch",
            source=_DENSENET_SOURCE,
            weights_origin=_DENSENET_ORIGIN,
            weights_licence="BSD-3-Clause",
        ),
        Backbone(
            name="mobilenetv2",
            constructor="MobileNetV2",
            channels=1280,
            preprocessing="tf",
            source="Sandler et al., CVPR 2018, arXiv:1801.04381",
            weights_origin=_GOOGLE_ORIGIN,
            weights_licence="Apache-2.0",
        ),
        Backbone(
            name="efficientnetv2-b0",
            constructor="EfficientNetV2B0",
            channels=1280,
            preprocessing="torch",
            source=_EFFICIENTNETV2_SOURCE,
            weights_origin=_GOOGLE_ORIGIN,
            weights_licence="Apache-2.0",
        ),
        Backbone(
            name="efficientnetv2-s",
            constructor="EfficientNetV2S",
            size=384,
            channels=1280,
            preprocessing="tf-128",
            source=_EFFICIENTNETV2_SOURCE,
            weights_origin=_GOOGLE_ORIGIN,
            weights_licence="Apache-2.0",
        ),
        Backbone(
            name="convnext-tiny",
            constructor="ConvNeXtTiny",
            channels=768,
            preprocessing="torch",
            source="Liu et al., CVPR 2022, arXiv:2201.03545",
            weights_origin="Z. Liu et al., Meta AI; converted by keras.applications",
            weights_licence="MIT",
        ),
    )
}
"""Every backbone by its name, oldest family first."""

PREPROCESSED: Final = "preprocessed"
"""Name of the layer whose output enters a network of keras.applications."""

# Mean and standard deviation of ImageNet's pixels: Caffe's, of BGR in [0, 255]; Torch's, of RGB in [0, 1].
_CAFFE_MEAN: Final = (103.939, 116.779, 123.68)
_TORCH_MEAN: Final = (0.485, 0.456, 0.406)
_TORCH_DEVIATION: Final = (0.229, 0.224, 0.225)


def find_backbone(name: str) -> Backbone:
    """Return the registry's entry of that name.

    Raises:
        ModelError: there is none; the message offers the nearest, and names all.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    nearest = difflib.get_close_matches(name.lower(), BACKBONES, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    raise ModelError(f"Unknown backbone {name!r}. {hint}Expected one of: {', '.join(BACKBONES)}.")


def create_backbone(
    name: str,
    *,
    size: int | None = None,
    weights: Path | Literal["download"] | None = None,
    progress: Progress | None = None,
) -> "keras.Model":
    """Build a network from pixels to its unpooled feature map.

    Args:
        name: one of BACKBONES.
        size: side of the square input, in pixels; by default the one that the network was trained on.
        weights: a file of weights, `"download"` for the published ones, or None for random ones. Files of
            keras.applications (`*_notop.h5`, `*.weights.h5`), for mobilenetv2 also one of folded
            convolutions (`.npz`), for VGGFace the original `rcmalli_vggface_tf_*.h5`.
        progress: told of a download of VGGFace's weights (see weights.fetch); Keras draws a bar for the others.

    Returns:
        A model from RGB images, float32, (n, size, size, 3), in [0, 255], to float32, (n, h, w, channels).

    Raises:
        ModelError: the name is unknown, the size too small, or the weights cannot be had or do not fit.
    """
    backbone = find_backbone(name)
    size = backbone.size if size is None else size
    if size < backbone.smallest:
        raise ModelError(f"{name} cannot take images of {size} px: give it at least {backbone.smallest} px.")
    if isinstance(weights, Path) and not weights.is_file():
        raise ModelError(f"There is no file of weights {weights}: check the name.")
    keras = import_keras()
    pixels = keras.Input((size, size, 3), name="pixels")
    if backbone.family == "vggface":
        return _create_vggface(backbone, pixels, weights, progress)
    features = _create_from_keras(backbone, pixels, "imagenet" if weights == "download" else None)
    model = keras.Model(pixels, features, name=name)
    if isinstance(weights, Path):
        _load(model, backbone, weights)
    return _exportable(model) if backbone.constructor.startswith("ConvNeXt") else model


def import_keras() -> Any:
    """Import Keras on TensorFlow, without the pages that TensorFlow writes to stderr when it is first loaded.

    Raises:
        ModelError: Keras was imported before with another backend, or is set to channels first: no network
            here could serve either.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with contextlib.nullcontext() if "tensorflow" in sys.modules else silent_stderr():
        import keras

    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"Keras runs on {keras.backend.backend()} here, petid needs it on TensorFlow: import petid's models first."
        )
    if keras.config.image_data_format() != "channels_last":
        raise ModelError(
            'Keras is set to channels first: set "image_data_format" to "channels_last" in ~/.keras/keras.json.'
        )
    return keras


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 nowhere: TensorFlow's C++ side speaks before its log level can be set."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _preprocess(preprocessing: Preprocessing, pixels: Any) -> Any:
    """Do in the graph what the family's `preprocess_input` does to RGB in [0, 255]."""
    import keras

    if preprocessing == "tf":
        return keras.layers.Rescaling(1 / 127.5, -1.0, name=PREPROCESSED)(pixels)
    if preprocessing == "tf-128":
        return keras.layers.Rescaling(1 / 128, -1.0, name=PREPROCESSED)(pixels)
    if preprocessing == "torch":
        scale = [1 / (255 * deviation) for deviation in _TORCH_DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(_TORCH_MEAN, _TORCH_DEVIATION, strict=True)]
        return keras.layers.Rescaling(scale, offset, name=PREPROCESSED)(pixels)
    blue_first = keras.ops.take(pixels, [2, 1, 0], axis=-1)
    return keras.layers.Rescaling(1.0, [-mean for mean in _CAFFE_MEAN], name=PREPROCESSED)(blue_first)


def _create_from_keras(backbone: Backbone, pixels: Any, weights: Literal["imagenet"] | None) -> Any:
    """Return the feature map of a network of keras.applications, (n, h, w, channels), as a symbolic tensor."""
    import keras

    constructor = getattr(keras.applications, backbone.constructor)
    entering = _preprocess(backbone.preprocessing, pixels)
    # The younger networks bring preprocessing of their own, which tf2onnx turns into inputs without a value.
    has_own = backbone.constructor.startswith(("EfficientNet", "ConvNeXt"))
    without_own = {"include_preprocessing": False} if has_own else {}
    try:
        # Keras draws its progress on stdout, which belongs to the command's answer; and it warns of sizes
        # for which it takes the weights of 224 px, as it should.
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = constructor(
                include_top=False,
                weights=weights,
                input_tensor=entering,
                input_shape=tuple(pixels.shape[1:]),
                **without_own,
            )
    except Exception as error:  # what Keras raises for a failed download is a bare Exception
        if weights is None:
            raise
        raise ModelError(
            f"The weights of {backbone.name} cannot be downloaded ({_first_line(error)}): try again, or fetch "
            f"Keras's no-top file of {backbone.constructor} elsewhere and give it with --weights FILE."
        ) from error
    return network.output


def _exportable(model: Any) -> Any:
    """Replace in a ConvNeXt what tf2onnx cannot convert, by layers that compute the same from the same weights.

    A convolution in as many groups as channels, which Keras hands to XLA, becomes a depthwise one; the
    Gaussian error unit by erfc becomes the one by erf (Hendrycks and Gimpel 2016, arXiv:1606.08415, eq. 1).
    """
    import keras

    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + keras.ops.erf(x / 2**0.5))

    def replace(layer: Any) -> Any:
        if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
            return keras.layers.DepthwiseConv2D(layer.kernel_size, padding=layer.padding, name=layer.name)
        if isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.gelu:
            return keras.layers.Activation(gelu, name=layer.name)
        return type(layer).from_config(layer.get_config())

    twin = keras.models.clone_model(model, clone_function=replace)
    for layer in model.layers:
        weights = layer.get_weights()
        if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
            weights[0] = weights[0].swapaxes(2, 3)  # (h, w, 1, channels) to (h, w, channels, 1)
        twin.get_layer(layer.name).set_weights(weights)
    return twin


def _create_vggface(
    backbone: Backbone, pixels: Any, weights: Path | Literal["download"] | None, progress: Progress | None
) -> Any:
    """Return one of the VGGFace networks as a model; its weights are matched by name, not by order."""
    import keras

    from petid_search.models import vggface

    network = cast(vggface.Network, backbone.constructor)
    features = vggface.create_network(network, vggface.preprocess(network, pixels))
    model = keras.Model(pixels, features, name=backbone.name)
    if weights is not None:
        file = fetch(VGGFACE[network, False], progress=progress) if weights == "download" else weights
        vggface.load_weights(model, file)
    return model


def _load(model: Any, backbone: Backbone, file: Path) -> None:
    """Fill a network of keras.applications from a file."""
    if file.suffix == ".npz" and backbone.name == "mobilenetv2":
        _fold_in(model, file)
        return
    if file.suffix not in (".h5", ".hdf5"):
        also = ", or .npz with folded convolutions" if backbone.name == "mobilenetv2" else ""
        raise ModelError(f"{file} is no file of weights for {backbone.name}: give Keras's no-top .h5{also}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # what Keras could not place, it only warns of
            model.load_weights(file)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise ModelError(
            f"{file} does not hold weights of {backbone.name} without its top ({_first_line(error)}): "
            f"give Keras's no-top file of {backbone.constructor}."
        ) from error


def _first_line(error: BaseException) -> str:
    """Shorten an error of another package to what fits into one line."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return line if len(line) <= 300 else f"{line[:297]}..."


@dataclass(frozen=True, slots=True)
class _Convolution:
    """One convolution with its batch normalisation folded in, as PyTorch would lay it out."""

    kernel: NDArray[np.float32]
    """(out, in / groups, height, width)"""
    bias: NDArray[np.float32]
    """(out,)"""
    stride: int
    groups: int
    has_relu6: bool


def _read_folded(file: Path) -> list[_Convolution]:
    """Read MobileNetV2's folded convolutions: `NNN_conv_w` or `NNN_dw_w`, `NNN_*_b` and `NNN_*_meta`.

    Raises:
        ModelError: the file is not a NumPy archive of such arrays, numbered from 000 without a gap.
    """
    rows: list[_Convolution] = []
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = set(arrays.files)
            while names:
                number = f"{len(rows):03}"
                kind = "dw" if f"{number}_dw_w" in names else "conv"
                keys = [f"{number}_{kind}_{part}" for part in ("w", "b", "meta")]
                kernel, bias, meta = (arrays[key] for key in keys)
                if (kernel.ndim, bias.ndim, meta.shape) != (4, 1, (3,)) or {kernel.dtype, bias.dtype} != {
                    np.dtype(np.float32)
                }:
                    raise ValueError(f"{number}_{kind} is not laid out as a convolution in float32")
                if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
                    raise ValueError(f"{number}_{kind} holds numbers that are not finite")
                stride, groups, relu6 = (int(value) for value in meta)
                rows.append(_Convolution(kernel, bias, stride, groups, bool(relu6)))
                names -= set(keys)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = _first_line(error).strip("'\"")
        raise ModelError(
            f"{file} does not hold folded convolutions ({reason}): give the file of MobileNetV2 unchanged."
        ) from error
    return rows


def _fold_in(model: Any, file: Path) -> None:
    """Give a Keras MobileNetV2 the folded convolutions, batch normalisation standing aside.

    With gamma 1, beta the bias, mean 0 and variance 1 - epsilon, each normalisation adds the bias and
    nothing else. That is exact for inference; normalising by batch while training would undo it.

    Raises:
        ModelError: a row is not what the network has at its place.
    """
    import keras

    rows = _read_folded(file)
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    layers = model.layers
    places = [place for place, layer in enumerate(layers) if isinstance(layer, kinds)]
    if len(rows) not in (len(places), len(places) + 1):  # the one more is the classifier, which stays away
        raise ModelError(
            f"{file} holds {len(rows)} convolutions, but MobileNetV2 has {len(places)} and a classifier: "
            "give the file of MobileNetV2 1.0 unchanged."
        )
    for number, (row, place) in enumerate(zip(rows, places, strict=False)):
        convolution, normalisation, follower = layers[place], layers[place + 1], layers[place + 2 : place + 3]
        is_depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
        # (out, in / groups, h, w) to Keras's (h, w, in, out), and (h, w, channels, 1) for depthwise ones.
        kernel = row.kernel.transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))
        received = (*kernel.shape, row.bias.size, row.stride, row.groups, row.has_relu6)
        expected = (
            *convolution.kernel.shape,
            normalisation.gamma.shape[0],
            convolution.strides[0],
            convolution.kernel.shape[2] if is_depthwise else 1,
            any(isinstance(layer, keras.layers.ReLU) for layer in follower),
        )
        if received != expected:
            raise ModelError(
                f"Convolution {number:03} of {file} is {received}, but MobileNetV2 has {expected} there (height, "
                "width, in, out, biases, stride, groups, ReLU6): give the file of MobileNetV2 1.0 unchanged."
            )
        convolution.set_weights([kernel])
        ones = np.ones_like(row.bias)
        normalisation.set_weights([ones, row.bias, 0 * ones, ones - np.float32(normalisation.epsilon)])
