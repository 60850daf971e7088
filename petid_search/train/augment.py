"""Photos varied as they are trained on: turned, moved, mirrored, zoomed, in other light, blurred, partly hidden.

Where a photo's pixels come from is one affine map, however many of rotation, shift, flip, zoom and crop there are: it
is sampled once, which keeps it sharper and takes a third of the time of Keras's layers one after the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petid_search.errors import RecipeError
from petid_search.models.backbones import import_keras

Padding = Literal["reflect", "constant", "varied"]

_ERASED: Final = (0.02, 0.33)
"""The least and the largest share of a photo that erasing hides; the rectangle's sides are drawn by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far photos are varied, each by itself; as it stands here, not at all.

    Attributes:
        rotation: largest turn to either side, in degrees, in [0, 180].
        shift: largest move to either side, along each axis, as a share of the side, in [0, 1].
        flip: mirror every other photo, left to right.
        zoom: least and largest magnification, in [0.1, 10], drawn by their logarithm: under 1 the animal becomes
            smaller. One number z in [0, 0.9] stands for (1 - z, 1 + z).
        crop: largest share of the side to cut off, in [0, 0.9]; what is kept lies anywhere and fills the photo.
        colour: strength in [0, 1]. At 1, brightness changes by up to 30 % of the range, contrast and saturation by up
            to 50 %, hue by up to 18°.
        blur: largest standard deviation of a Gaussian, in pixels, in [0, 10].
        erasing: chance in [0, 1] that a rectangle becomes grey (Zhong et al. 2020, arXiv:1708.04896).
        padding: what is seen beyond a photo's edge: the photo mirrored (`reflect`), one random colour (`constant`), or
            by turns the one and the other, drawn for each batch (`varied`).

    Raises:
        RecipeError: a value is out of range.
    """

    rotation: float = 0.0
    shift: float = 0.0
    flip: bool = False
    zoom: float | tuple[float, float] = 0.0
    crop: float = 0.0
    colour: float = 0.0
    blur: float = 0.0
    erasing: float = 0.0
    padding: Padding = "reflect"

    def __post_init__(self) -> None:
        limits = {"rotation": 180, "shift": 1, "crop": 0.9, "colour": 1, "blur": 10, "erasing": 1}
        for word, most in limits.items():
            value = getattr(self, word)
            if not (_is_number(value) and 0 <= value <= most):
                raise RecipeError(f"Augmentation: {word} is a number from 0 to {most:g}; it is {value!r}.")
        if not isinstance(self.flip, bool):
            raise RecipeError(f"Augmentation: flip is true or false; it is {self.flip!r}.")
        ends = self.zoom if isinstance(self.zoom, tuple) else (self.zoom,)
        if not all(_is_number(end) for end in ends) or not (
            0.1 <= ends[0] <= ends[1] <= 10 if len(ends) == 2 else len(ends) == 1 and 0 <= ends[0] <= 0.9
        ):
            raise RecipeError(
                "Augmentation: zoom is a share from 0 to 0.9, or the least and the largest magnification, from 0.1 to "
                f"10; it is {self.zoom!r}."
            )
        if self.padding not in get_args(Padding):
            raise RecipeError(
                f"Augmentation: padding is one of {', '.join(get_args(Padding))}; it is {self.padding!r}."
            )

    @property
    def magnification(self) -> tuple[float, float]:
        """The least and the largest magnification."""
        return self.zoom if isinstance(self.zoom, tuple) else (1 - self.zoom, 1 + self.zoom)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


ORIGIN: Final = Augmentation(rotation=15.0, shift=0.05, flip=True)
"""What the dog identifier that petid goes back to did."""


class Augmenter:
    """Varies images as an augmentation says, each by itself, the same for the same seed in any process.

    For one thread at a time, which may be another than the one that trains.

    Args:
        augmentation: how far.
        size: side of the images, in pixels.
    """

    def __init__(self, augmentation: Augmentation, size: int) -> None:
        self.augmentation = augmentation
        self.size = size
        self._moves = any((augmentation.rotation, augmentation.shift, augmentation.flip, augmentation.crop)) or (
            augmentation.magnification != (1.0, 1.0)
        )
        self._keras = import_keras()
        self._layers = _layers(self._keras, augmentation)
        import tensorflow as tf

        # Of one size and any number, so that the last batch of an epoch is not traced anew.
        signature = [
            tf.TensorSpec((None, size, size, 3), tf.float32),
            tf.TensorSpec((None, 8), tf.float32),
            tf.TensorSpec((None, 1, 1, 3), tf.float32),
            tf.TensorSpec((None,), tf.float32),
        ]
        drawn: tuple[Padding, ...] = ("reflect", "constant")
        paddings = drawn if augmentation.padding == "varied" else (augmentation.padding,)
        self._vary = [tf.function(partial(self._apply, padding), input_signature=signature) for padding in paddings]

    def __call__(
        self, images: NDArray[np.uint8] | NDArray[np.float32], seed: int | Sequence[int]
    ) -> NDArray[np.float32]:
        """Vary images.

        Args:
            images: uint8 or float32, (n, size, size, 3), in [0, 255].
            seed: one number or several, none below 0, such as run, epoch and batch.

        Returns:
            float32, (n, size, size, 3), in [0, 255].
        """
        rng = np.random.default_rng(seed)
        count = len(images)
        affine = _affine(self.augmentation, self.size, count, rng)
        borders = rng.uniform(0, 255, (count, 1, 1, 3)).astype(np.float32)
        sigmas = rng.uniform(0, self.augmentation.blur, count).astype(np.float32)
        for layer in self._layers:
            layer.generator.state.assign(rng.integers(2**31, size=2))
        vary = self._vary[rng.integers(len(self._vary))]
        varied = vary(np.asarray(images, np.float32), affine, borders, sigmas)
        return np.asarray(varied)

    def _apply(self, padding: Padding, images: Any, affine: Any, borders: Any, sigmas: Any) -> Any:
        """The same on tensors, with what was drawn."""
        ops = self._keras.ops
        if self._moves and padding == "reflect":
            images = ops.image.affine_transform(images, affine, fill_mode="reflect")
        elif self._moves:
            # The operation knows one fill value for all images: with its border's colour for zero, each has its own.
            images = ops.image.affine_transform(images - borders, affine, fill_mode="constant") + borders
        if self.augmentation.blur:
            images = _blurred(self._keras, images, sigmas, self.augmentation.blur)
        for layer in self._layers:
            images = layer(images, training=True)
        return ops.clip(images, 0.0, 255.0)


def draw_augmented(images: NDArray[np.uint8], augmenter: Augmenter, *, variants: int = 7, seed: int = 0) -> Image.Image:
    """A sheet to look at: each row a photo, and what training would see of it.

    Args:
        images: uint8, (n, size, size, 3).
        augmenter: of the same size.
        variants: in each row, beside the photo itself.
        seed: of what is drawn.
    """
    side, gap = augmenter.size, 4
    sheet = Image.new("RGB", ((variants + 1) * (side + gap) + gap, len(images) * (side + gap) + gap), "white")
    for row, image in enumerate(images):
        varied = augmenter(np.repeat(image[None], variants, axis=0), [seed, row])
        for column, one in enumerate([image, *np.rint(varied).astype(np.uint8)]):
            sheet.paste(Image.fromarray(one), (gap + column * (side + gap), gap + row * (side + gap)))
    return sheet


def _affine(augmentation: Augmentation, size: int, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Of each image a map from pixels of the result to those of the image: float32, (n, 8), as TensorFlow takes them.

    Around its centre the result is moved back, mirrored, turned and shrunk; then it looks at the part that is cropped.
    """
    turn = np.radians(rng.uniform(-augmentation.rotation, augmentation.rotation, count))
    shift = size * rng.uniform(-augmentation.shift, augmentation.shift, (2, count))
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0) if augmentation.flip else np.ones(count)
    low, high = augmentation.magnification
    kept = rng.uniform(1 - augmentation.crop, 1, count)
    scale = kept / np.exp(rng.uniform(math.log(low), math.log(high), count))
    centre = (size - 1) / 2
    beside = centre + size * (1 - kept) / 2 * rng.uniform(-1, 1, (2, count))
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    # x' = cos·m·(x - c - dx) - sin·(y - c - dy) + beside_x, and y' with sin and cos: each row as a·x + b·y + constant.
    rows = [(cos * mirror, -sin), (sin * mirror, cos)]
    numbers: list[NDArray[np.float64]] = []
    for (a, b), place in zip(rows, beside, strict=True):
        numbers += [a, b, place - a * (centre + shift[0]) - b * (centre + shift[1])]
    nothing = np.zeros(count)
    return np.stack([*numbers, nothing, nothing], axis=1).astype(np.float32)


def _layers(keras: Any, augmentation: Augmentation) -> list[Any]:
    """Keras's layers for light and for erasing, in float32, whatever a network's precision is."""
    layers = []
    if strength := augmentation.colour:
        # Keras names saturation s by f = s / (1 + s), and turns hue by half of its factor.
        low, high = 1 - 0.5 * strength, 1 + 0.5 * strength
        layers += [
            keras.layers.RandomBrightness(0.3 * strength, dtype="float32"),
            keras.layers.RandomContrast(0.5 * strength, dtype="float32"),
            keras.layers.RandomHue(0.1 * strength, dtype="float32"),
            keras.layers.RandomSaturation((low / (1 + low), high / (1 + high)), dtype="float32"),
        ]
    if chance := augmentation.erasing:
        # Keras draws the chance itself between two ends.
        layers.append(keras.layers.RandomErasing((chance, chance), scale=_ERASED, fill_value=127.5, dtype="float32"))
    return layers


def _blurred(keras: Any, images: Any, sigmas: Any, most: float) -> Any:
    """Each image blurred by a Gaussian of its own: Keras's layer draws one for the batch, and darkens the edges."""
    ops = keras.ops
    size, channels = images.shape[1], images.shape[3]
    radius = min(math.ceil(2.5 * most), size)
    far = np.arange(-radius, radius + 1, dtype=np.float32)
    weights = ops.exp(-0.5 * ops.square(far[None] / ops.maximum(sigmas[:, None], 1e-3)))
    weights = weights / ops.sum(weights, axis=1, keepdims=True)
    padded = ops.pad(images, [[0, 0], [radius, radius], [radius, radius], [0, 0]], mode="symmetric")
    # Channels of all images side by side: one convolution with a kernel for each.
    flat = ops.reshape(ops.transpose(padded, (1, 2, 0, 3)), (1, size + 2 * radius, size + 2 * radius, -1))
    kernel = ops.repeat(ops.transpose(weights), channels, axis=1)[:, None, :, None]
    flat = ops.depthwise_conv(flat, kernel)
    flat = ops.depthwise_conv(flat, ops.transpose(kernel, (1, 0, 2, 3)))
    return ops.transpose(ops.reshape(flat, (size, size, -1, channels)), (2, 0, 1, 3))
