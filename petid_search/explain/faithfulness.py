"""Can a map be believed? What happens to a similarity or a score when the picture is taken away as the map says.

Deletion covers the picture with its mean colour, the most important pixels first: the sooner the value falls, the
better the map. Insertion uncovers it on a blurred copy: the sooner the value rises, the better. Each is the area under
the curve, and says nothing by itself; so it stands beside the same of random maps as coarse as this one, and of a blob
in the middle, where the animal mostly is anyway.

Source: Petsiuk, Das, Saenko, "RISE", BMVC 2018, arXiv:1806.07421, section 4.1 and algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from petid_search.explain.maps import enlarged

STEPS: Final = 20
"""Steps from the whole picture to none of it: more change the areas by less than a hundredth."""
RANDOM_MAPS: Final = 4
_BLUR: Final = 1 / 16
"""Deviation of the blur, as a share of the picture's side: of a coat nothing is left but its colours."""
_BATCH: Final = 32

Score = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""What is explained: from images, uint8, (n, size, size, 3), to a similarity or a score each, float32, (n,)."""


@dataclass(frozen=True, slots=True)
class Curves:
    """What is left of a value as the picture goes, and as it comes back.

    Attributes:
        deletion: float64, (STEPS + 1,): the value with none, a twentieth, … all of the picture covered.
        insertion: likewise, with none, a twentieth, … all of it uncovered.
    """

    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]

    @property
    def deletion_area(self) -> float:
        """Mean value while the picture goes: lower is better."""
        return _area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Mean value while the picture comes back: higher is better."""
        return _area(self.insertion)

    @property
    def balance(self) -> float:
        """Insertion less deletion: higher is better."""
        return self.insertion_area - self.deletion_area


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Deletion and insertion by a map, by random maps (the mean of their curves), and by a blob in the middle."""

    of_map: Curves
    of_random: Curves
    of_blob: Curves

    @property
    def beats_random(self) -> bool:
        """Whether insertion less deletion is more than by random maps."""
        return self.of_map.balance > self.of_random.balance

    @property
    def beats_blob(self) -> bool:
        """Whether insertion less deletion is more than by a blob in the middle."""
        return self.of_map.balance > self.of_blob.balance

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: for each order both areas and curves."""
        return {
            name.removeprefix("of_"): {
                "deletion": curves.deletion_area,
                "insertion": curves.insertion_area,
                "deletion_curve": [round(float(value), 4) for value in curves.deletion],
                "insertion_curve": [round(float(value), 4) for value in curves.insertion],
            }
            for name, curves in (("map", self.of_map), ("random", self.of_random), ("blob", self.of_blob))
        }


def measure(image: NDArray[np.uint8], heat: NDArray[np.float32], score: Score, *, seed: int = 0) -> Faithfulness:
    """Measure deletion and insertion of a map and of what it must beat.

    Args:
        image: uint8, (size, size, 3), as the model sees it.
        heat: float32, (3h, 3w).
        score: the value that the map explains.
        seed: of the random maps and of the order of pixels that are equal.
    """
    generator = np.random.default_rng(seed)
    random = [
        _curves(image, generator.random(heat.shape).astype(np.float32), score, generator) for _ in range(RANDOM_MAPS)
    ]
    return Faithfulness(
        _curves(image, heat, score, generator),
        Curves(np.mean([one.deletion for one in random], axis=0), np.mean([one.insertion for one in random], axis=0)),
        _curves(image, centred_blob(heat.shape), score, generator),
    )


def centred_blob(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A map of a shape, (h, w), that is highest in the middle and falls off in circles: float32, in (0, 1]."""
    rows, columns = ((2 * (np.arange(cells) + 0.5) / cells - 1) ** 2 for cells in shape)
    blob: NDArray[np.float32] = np.exp(-2 * (rows[:, None] + columns)).astype(np.float32)
    return blob


def _curves(
    image: NDArray[np.uint8], heat: NDArray[np.float32], score: Score, generator: np.random.Generator
) -> Curves:
    size = image.shape[0]
    smooth = enlarged(heat, (size, size))
    # Where the map is 0, the order is chance: a fixed one would sweep over the picture line by line.
    order = np.lexsort((generator.random(size * size), -smooth.ravel()))
    rank = np.empty(size * size, np.int64)
    rank[order] = np.arange(size * size)
    rank = rank.reshape(size, size, 1)
    mean = np.broadcast_to(np.rint(image.mean((0, 1))).astype(np.uint8), image.shape)
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(size * _BLUR)))
    counts = np.rint(np.linspace(0, size * size, STEPS + 1)).astype(np.int64)
    deleted = [np.where(rank < count, mean, image) for count in counts]
    inserted = [np.where(rank < count, image, blurred) for count in counts]
    values = _scored([*deleted, *inserted], score)
    return Curves(values[: STEPS + 1], values[STEPS + 1 :])


def _scored(images: list[NDArray[np.uint8]], score: Score) -> NDArray[np.float64]:
    parts = [score(np.stack(images[first : first + _BATCH])) for first in range(0, len(images), _BATCH)]
    return np.concatenate(parts).astype(np.float64)


def _area(curve: NDArray[np.float64]) -> float:
    return float(np.trapezoid(curve, dx=1 / STEPS))
