"""How an individual's several photos become its one similarity to a probe: here and nowhere else."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

RULE: Final = "best photo"
"""The rule in force; a calibration is bound to it."""


def similarity_by_individual(similarities: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Similarity of probes to individuals: that of the individual's best photo.

    Args:
        similarities: float32, (probes, photos), in [-1, 1]; the photos of one individual side by side.
        starts: int64, (individuals,), ascending from 0; the first photo of each individual.

    Returns:
        float32, (probes, individuals), in [-1, 1].

    Source: Kittler, Hatef, Duin, Matas, "On combining classifiers", IEEE TPAMI 20(3), 1998 (max rule).
    """
    best: NDArray[np.float32] = np.maximum.reduceat(similarities, starts, axis=1)
    return best
