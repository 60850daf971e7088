"""Colours that can be told apart with every kind of colour vision: a scale for maps, and a few for regions."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petid_search.explain.maps import enlarged
from petid_search.explain.views import stitched

_VIRIDIS: Final = np.array(
    (
        *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
        *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
    ),
    dtype=np.float64,
)
"""Nine steps of viridis (van der Walt and Smith 2015, CC0)."""

REGION_COLOURS: Final = ((230, 159, 0), (86, 180, 233), (0, 158, 115))
"""Orange, sky blue and bluish green, of Okabe and Ito, "Color Universal Design", 2008."""


def scale(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Viridis of values in [0, 1]: RGB in [0, 255], one axis more."""
    steps = np.linspace(0.0, 1.0, len(_VIRIDIS))
    return np.stack([np.interp(strength, steps, _VIRIDIS[:, channel]) for channel in range(3)], axis=-1)


def heated(picture: Image.Image, heat: NDArray[np.float32], highest: float) -> Image.Image:
    """A picture, grey, under a map.

    Args:
        picture: RGB.
        heat: float32, (3h, 3w), drawn from 0 on; it knows the picture brought to a square, and is brought back.
        highest: the value at the upper end of the scale.
    """
    strength = enlarged(heat, picture.size) / max(highest, 1e-12)
    grey = np.asarray(picture.convert("L"), np.float64)[..., None]
    mixed = 0.5 * grey + 0.5 * scale(np.clip(strength, 0.0, 1.0))
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def in_regions(picture: Image.Image, regions: NDArray[np.float32]) -> Image.Image:
    """A picture, grey, with each region in its colour, where it is strong.

    Args:
        picture: RGB.
        regions: float32, (k, h, w), k at most the number of REGION_COLOURS.
    """
    grey = np.asarray(picture.convert("L"), np.float64)
    mixed = np.repeat(grey[..., None], 3, axis=2)
    if len(regions):
        strengths = np.maximum([enlarged(stitched([region]), picture.size) for region in regions], 0.0)
        owner = strengths.argmax(0)
        # Coloured from three quarters of the highest evidence on, grey below a quarter of it.
        evidence = strengths.sum(0) / max(float(strengths.sum(0).max()), 1e-12)
        opacity = np.clip(2 * evidence - 0.5, 0.0, 1.0)[..., None] * 0.65
        mixed = mixed * (1 - opacity) + np.array(REGION_COLOURS, np.float64)[owner] * opacity
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
