"""SSIM of small grey pictures: exact for many pairs at once, and never above what a quick inner product allows.

The measure is scikit-image's `structural_similarity(a, b)` of two grey thumbnails of 32 × 32 pixels, uint8, with its
defaults: windows of 7 × 7, all of the same weight, sample covariance, K1 = 0.01, K2 = 0.03, data range 255. At this
size compression, rescaling and slight blur leave no trace (SSIM over 0.99), a photo cut by 1 % on each side or brighter
by a quarter keeps more than 0.95, and one cut by 4 % falls to 0.8.

Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
IEEE TIP 13(4), 2004.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.cores import usable_cores

SIZE: Final = 32
"""Side of a thumbnail in pixels."""
WINDOW: Final = 7
DIMENSION: Final = 4 * 128 + 1
"""Numbers of a signature."""
ROUNDING: Final = 1e-4
"""What float32 may take off an upper bound; 6e-7 was the most seen."""

_SIDE: Final = SIZE - WINDOW + 1
_AREA: Final = WINDOW * WINDOW
_C1: Final = (0.01 * 255.0) ** 2
_C2: Final = (0.03 * 255.0) ** 2
_BATCH: Final = 64
"""Pairs, or thumbnails, that a core takes at a time: more would not fit in its cache."""
_LUMINANCES: Final = np.exp([9.8, 8.0])
_CONTRASTS: Final = np.exp([7.4, 5.5])
"""Where `_profile` looks at luminance and contrast: what photos of animals have most, and less of."""


def ssim_of_pairs(
    thumbnails: NDArray[np.uint8], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """SSIM of pairs of thumbnails; equal to scikit-image's to 1e-6. Uses all cores.

    What of a thumbnail does not depend on the other is computed once a call, and takes 6.5 kB of memory meanwhile.

    Args:
        thumbnails: uint8, (n, 32, 32).
        first: int64, (pairs,), one of each two.
        second: int64, (pairs,), the other.

    Returns:
        float64, (pairs,), in [-1, 1]; 1 for equal pictures.
    """
    photos, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    pixels = thumbnails[photos].astype(np.float32)
    sums, variances = _moments(pixels)
    a, b = places[: len(first)], places[len(first) :]
    result = np.empty(len(first))

    def compare(start: int) -> None:
        part = slice(start, start + _BATCH)
        result[part] = _ssim(pixels, sums, variances, a[part], b[part])

    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(compare, range(0, len(first), _BATCH)):
            pass
    return result


def signatures(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit vectors whose inner products are upper bounds of SSIM: no pair of a higher SSIM is ever missed by them.

    Each window's SSIM is a product of (2·⟨x, y⟩ + C)/(|x|² + |y|² + C), once of the means and once of what is left
    without them. Such a term is a positive definite kernel, 1 for x = y: 2·⟨x, y⟩ + C is one, and so is
    1/(a + b) = ∫ exp(-a·s) exp(-b·s) ds over s > 0, with a = |x|² + C/2; products and means of kernels are kernels. So
    SSIM is an inner product of unit vectors in a space of functions. A signature holds what falls on 512 orthonormal
    directions of that space: functions of luminance and contrast (`_profile`), added up over the windows that hold a
    pixel, in the lowest frequencies of the picture. Its last number is the length of all that is left out; by the
    inequality of Cauchy and Schwarz, it pays for what the inner product of the rest may have been.

    Args:
        thumbnails: uint8, (n, 32, 32).

    Returns:
        float32, (n, 513), unit length; ⟨a, b⟩ ≥ SSIM - ROUNDING.

    Source: Brunet, Vrscay, Wang, "On the mathematical properties of the structural similarity index", IEEE TIP 21(4),
    2012, for 1 - SSIM as a squared distance; Schölkopf, Smola, "Learning with Kernels", 2002, chapter 13, for what may
    be done with kernels.
    """
    parts = [thumbnails[start : start + _BATCH] for start in range(0, len(thumbnails), _BATCH)]
    if not parts:
        return np.empty((0, DIMENSION), np.float32)
    with ThreadPoolExecutor(usable_cores()) as pool:
        return np.concatenate(list(pool.map(_signatures, parts)))


def shortened(vectors: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Signatures of fewer numbers, with the same promise: quicker to compare, and less sharp.

    Args:
        vectors: float32, (n, d), as `signatures` gives them.
        dimension: how many numbers to keep, at most d.

    Returns:
        float32, (n, dimension), unit length.
    """
    kept = vectors[:, : dimension - 1]
    return np.concatenate([kept, _length_left(kept)], axis=1)


def _signatures(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels = thumbnails.astype(np.float32)
    sums, variances = _moments(pixels)
    means = (sums / _AREA).astype(np.float32)
    luminance = np.float32(2**0.5) * means * _profile(means * means + np.float32(_C1 / 2), _LUMINANCES)
    contrast = np.float32((2 / (_AREA - 1)) ** 0.5) * _profile(
        (variances / (_AREA * (_AREA - 1)) + _C2 / 2).astype(np.float32), _CONTRASTS
    )
    directions, kept = _low_frequencies()
    windows: NDArray[np.float32] = np.sqrt(_spread(np.ones((1, _SIDE, _SIDE), np.float32)))  # that hold each pixel
    parts = []
    for light, texture in product(luminance, contrast):
        weights = light * texture / np.float32(_SIDE)
        # For each pixel, what it stands out by in each window that holds it, added up over those windows.
        summed: NDArray[np.float32] = (pixels * _spread(weights) - _spread(means * weights)) / windows
        parts.append(_both_sides(directions, summed)[:, kept[0], kept[1]])
    vectors = np.concatenate(parts, axis=1)
    return np.concatenate([vectors, _length_left(vectors)], axis=1)


def _length_left(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a unit vector has left beside these of its coordinates, (n, 1)."""
    left = 1.0 - np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True)
    lengths: NDArray[np.float32] = np.sqrt(np.maximum(left, 0.0)).astype(np.float32)
    return lengths


def _profile(values: NDArray[np.float32], nodes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Coordinates of s ↦ exp(-a·s), for each a, along orthonormal functions that span those of the nodes.

    The inner product of exp(-a·s) and exp(-b·s) over s > 0 is 1/(a + b); the inverse of Cholesky's factor of the
    nodes' own products makes them orthonormal.
    """
    inverse = np.linalg.inv(np.linalg.cholesky(1.0 / (nodes[:, None] + nodes))).astype(np.float32)
    products = np.float32(1) / (values + nodes.astype(np.float32)[:, None, None, None])
    coordinates: NDArray[np.float32] = np.tensordot(inverse, products, axes=1)
    return coordinates


@cache
def _low_frequencies() -> tuple[NDArray[np.float32], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows of the orthonormal discrete cosine transform, and the 128 lowest frequencies (row, column), lowest first."""
    frequency = np.arange(SIZE)
    rows = np.sqrt(2.0 / SIZE) * np.cos(np.pi * frequency[:, None] * (2 * frequency + 1) / (2 * SIZE))
    rows[0] = np.sqrt(1.0 / SIZE)
    order = np.argsort(np.hypot(frequency[:, None], frequency).ravel(), kind="stable")[: (DIMENSION - 1) // 4]
    down, across = np.unravel_index(order, (SIZE, SIZE))
    return rows[: max(down.max(), across.max()) + 1].astype(np.float32), (down, across)


@cache
def _boxes() -> NDArray[np.float32]:
    """(26, 32): row i adds up the pixels from i to i + 6."""
    start, pixel = np.arange(_SIDE)[:, None], np.arange(SIZE)
    return ((pixel >= start) & (pixel < start + WINDOW)).astype(np.float32)


def _both_sides(matrix: NDArray[np.float32], pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrix · picture · matrixᵀ for each picture, (n, p, p) to (n, q, q)."""
    both: NDArray[np.float32] = np.matmul(np.matmul(matrix, pictures), matrix.T)
    return both


def _spread(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each pixel the sum over the windows that hold it, (n, 26, 26) to (n, 32, 32)."""
    return _both_sides(_boxes().T, windows)


def _moments(pixels: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Each window's sum, and 49 · 48 times its sample variance, (n, 26, 26) each: whole numbers, nothing is rounded."""
    sums, squares = _sums(pixels), _sums(pixels * pixels)
    return sums, _AREA * squares - sums * sums


def _sums(pixels: NDArray[np.float32]) -> NDArray[np.int32]:
    """Each window's sum of whole numbers up to 255²: under 2²⁴, so that float32 holds it exactly."""
    return _both_sides(_boxes(), pixels).astype(np.int32)


def _ssim(
    pixels: NDArray[np.float32],
    sums: NDArray[np.int32],
    variances: NDArray[np.int32],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
) -> NDArray[np.float64]:
    """SSIM of a batch of pairs: of pictures `a` and `b` with these moments."""
    products = sums[a] * sums[b]
    covariances = _AREA * _sums(pixels[a] * pixels[b]) - products
    squares = np.square(sums[a]) + np.square(sums[b])
    # All are whole numbers under 2³¹ so far: numerators and denominators are taken 49² and 49 · 48 times.
    c1, c2 = _C1 * _AREA**2, _C2 * _AREA * (_AREA - 1)
    luminance = (2 * products + c1) / (squares + c1)
    structure = (2 * covariances + c2) / (variances[a] + variances[b] + c2)
    result: NDArray[np.float64] = (luminance * structure).mean(axis=(1, 2), dtype=np.float64)
    return result
