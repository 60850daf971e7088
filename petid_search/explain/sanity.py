"""Does a map know what the model has learned? With the weights shuffled, it must become another one.

A map that stays as it was when nothing learned is left only shows edges of the picture, whoever is on it.

Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, arXiv:1810.03292, section 3.1 (cascading
randomisation, here by shuffling) and 4 (rank correlation, here partial).
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.explain.faithfulness import centred_blob
from petid_search.explain.maps import cam_by_gradient
from petid_search.models.bundle import Bundle
from petid_search.models.gradients import Differentiable

SHARES: Final = (0.1, 0.5, 1.0)
"""Shares of the kernels that are shuffled, from the output downwards."""


class SanityCheck:
    """Compares maps of a model with those of the same network with ever more of its kernels shuffled.

    Each is of the photo itself, one view of the nine that are drawn.

    Args:
        bundle: the model; its network is built four times, by TensorFlow.
        layer: whose map; by default the last.
        seed: of the shuffling.

    Raises:
        ModelError: the model has no such layer, or is damaged.
    """

    def __init__(self, bundle: Bundle, layer: str | None = None, *, seed: int = 0) -> None:
        self._learned = Differentiable(bundle, layer)
        self._shuffled = {share: Differentiable(bundle, layer) for share in SHARES}
        for share, network in self._shuffled.items():
            network.shuffle_kernels(share, seed)

    def of_similarity(self, image: NDArray[np.uint8], other: NDArray[np.uint8]) -> dict[float, float]:
        """Check the map of the similarity of two images, on the first.

        Args:
            image: uint8, (size, size, 3), of the probe.
            other: likewise, of the candidate's photo; each network embeds it anew.

        Returns:
            For each of SHARES the partial rank correlation with the map of what was learned, in [-1, 1].
        """

        def heat(network: Differentiable) -> NDArray[np.float32]:
            maps, gradients = network.by_similarity(image[None], network.embed(other[None]))
            return cam_by_gradient(maps[0], gradients[0])

        return self._correlations(heat)

    def of_class(self, image: NDArray[np.uint8], number: int) -> dict[float, float]:
        """Check the map of a class.

        Args:
            image: uint8, (size, size, 3).
            number: of the class.

        Returns:
            As of_similarity.

        Raises:
            ModelError: the model has no classifier.
        """

        def heat(network: Differentiable) -> NDArray[np.float32]:
            maps, gradients = network.by_classes(image[None], [number])
            return cam_by_gradient(maps[0], gradients[0, 0])

        return self._correlations(heat)

    def _correlations(self, heat: Callable[[Differentiable], NDArray[np.float32]]) -> dict[float, float]:
        learned = heat(self._learned)
        return {share: rank_correlation(learned, heat(network)) for share, network in self._shuffled.items()}


def rank_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Partial rank correlation of two maps of one shape, given how far a place is from the middle.

    Even a network of nothing but shuffled kernels answers more strongly in the middle, since its borders are padded,
    and animals mostly are in the middle: two maps of anything have that in common. What they have in common beyond it
    is the correlation of the residuals of their ranks.

    Returns:
        In [-1, 1]; 0 where one of them is flat, or is nothing but higher in the middle.

    Source: Spearman's rank correlation, as in Adebayo et al. 2018; for the partial one, Kendall and Stuart, "The
    Advanced Theory of Statistics", vol. 2, chapter 27.
    """
    from scipy.stats import rankdata

    middle, first, second = (_centred(rankdata(values.ravel())) for values in (centred_blob(one.shape), one, other))
    if not middle.any():
        middle[:] = 1
    first, second = (ranks - middle * (ranks @ middle) / (middle @ middle) for ranks in (first, second))
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / lengths if lengths > 1e-9 * len(middle) ** 3 else 0.0


def _centred(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = ranks - ranks.mean()
    return centred
