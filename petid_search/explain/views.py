"""Maps finer than the feature map they are of: a photo is looked at again, moved by a third of a cell each way.

A feature map has as few as six cells a side, and what lies between the middles of two is seen by neither as well. Moved
by a third of a cell it is; the nine views' maps, each cell put where its middle was, are one map of three times as many
cells a side.

Source: shift-and-stitch, of Sermanet et al., "OverFeat", ICLR 2014, arXiv:1312.6229, section 3.3, and Long, Shelhamer,
Darrell, CVPR 2015, arXiv:1411.4038, section 3.2.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

FINER: Final = 3
"""So many views each way, and so many times as many cells a side."""


def views(image: NDArray[np.uint8], cells: int) -> NDArray[np.uint8]:
    """Views of an image for a map of so many cells a side: moved, its edge repeated.

    Args:
        image: uint8, (size, size, 3).
        cells: of the feature map, a side.

    Returns:
        uint8, (9, size, size, 3), row by row; that in the middle is the image itself.
    """
    size, step = image.shape[0], max(1, round(image.shape[0] / cells / FINER))
    padded = np.pad(image, ((step, step), (step, step), (0, 0)), mode="edge")
    corners = [number * step for number in range(FINER)]
    return np.stack([padded[top : top + size, left : left + size] for top in corners for left in corners])


def stitched(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The maps of nine views as one.

    Args:
        maps: float32, (h, w) each, in the order of the views; or one alone, for which each cell becomes nine alike.

    Returns:
        float32, (3h, 3w), adding up to the mean of what the maps add up to.
    """
    nine = np.broadcast_to(maps, (FINER**2, *maps[0].shape)).reshape(FINER, FINER, *maps[0].shape)
    fine = nine.transpose(2, 0, 3, 1).reshape(FINER * nine.shape[2], FINER * nine.shape[3])
    return fine / np.float32(FINER**2)
