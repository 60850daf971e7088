"""How well a photo shows its animal, for rules that let better photos weigh more."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.cores import usable_cores
from petid_search.images import open_image

_SIDE: Final = 128


def sharpness(image: NDArray[np.uint8]) -> float:
    """How much of an image's contrast is in its finest details: a blurred or enlarged photo has little.

    Args:
        image: RGB, uint8, (height, width, 3); 3 pixels at least on each side.

    Returns:
        standard deviation of the Laplacian of the grey image / that of the grey image; 0 or more, 0 where it is even.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000 (variance of the Laplacian),
    here relative to the contrast, so that a bright photo does not weigh more than a dark one.
    """
    grey = image.astype(np.float32).mean(axis=2)
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    contrast = float(inner.std())
    return float(laplacian.std()) / contrast if contrast > 0 else 0.0


def qualities(photos: Sequence[Path]) -> NDArray[np.float32]:
    """Sharpness of photos, each brought to a square of 128 pixels.

    Returns:
        float32, (photos,), over 0.

    Raises:
        PhotoError: a photo cannot be read.
    """
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="petid-quality") as pool:
        values = list(pool.map(lambda path: sharpness(open_image(path, _SIDE)), photos))
    return np.maximum(np.array(values, np.float32), np.float32(1e-3))
