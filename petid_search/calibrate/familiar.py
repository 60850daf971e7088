"""Is a photo of the kind that a model's calibration was measured on?

Thresholds of dogs hold for dogs. A network that learnt to tell dogs apart finds two cats alike because they are no
dogs: among photos of another kind strangers are far more similar, and a single enrolled animal cannot show it. Their
embeddings can, since they lie away from the few directions along which those of the calibration's animals mostly vary.
"""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

DIRECTIONS: Final = 48
"""How many directions at most: on real photos, 32 told cats from dogs less well, and 64 cattle."""
_EACH: Final = 4
"""Individuals for each direction: with fewer, directions follow single animals."""
_LEAST: Final = 8
"""Directions under which nothing is said."""
_INSIDE: Final = 0.95
"""Share of the calibration's own photos that are familiar."""
_FOLDS: Final = 10
_DIGITS: Final = 1e4


@dataclass(frozen=True, slots=True)
class Familiar:
    """Directions of the embeddings that a calibration was measured on, and how far from them they lie.

    Attributes:
        mean: float32, (d,), of those embeddings.
        directions: float32, (k, d), unit length: their principal axes, orthogonal as far as 8 bits each have it.
        limit: the squared distance from mean and directions within which 95 % of the photos of animals lie that the
            directions were not made of, each animal weighing the same; in (0, 4).

    Source: Wang, Li, Feng, Zhang, "ViM: out-of-distribution with virtual-logit matching", CVPR 2022, arXiv:2203.10807,
    section 4.1 (the residual as a score for what is of another kind).
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    limit: float

    @classmethod
    def measure(cls, embeddings: NDArray[np.float32], owners: NDArray[np.int64]) -> Self | None:
        """Measure it on photos that the model was not trained on; None where they are of too few individuals.

        For the limit, each tenth of the individuals is measured by directions of the others.

        Args:
            embeddings: float32, (photos, d), unit length.
            owners: int64, (photos,), whom they show.
        """
        individuals, numbers, photos = np.unique(owners, return_inverse=True, return_counts=True)
        count = min(DIRECTIONS, len(individuals) // _EACH, embeddings.shape[1] // 4)
        if count < _LEAST:
            return None
        distances, weights = np.empty(len(owners)), 1 / photos[numbers]
        for fold in range(_FOLDS):
            own = numbers % _FOLDS == fold
            distances[own] = cls(*_axes(embeddings[~own], weights[~own], count), limit=0.0).distances(embeddings[own])
        limit = np.quantile(distances, _INSIDE, weights=weights, method="inverted_cdf")
        return cls(*_axes(embeddings, weights, count), limit=math.ceil(limit * _DIGITS) / _DIGITS)

    def distances(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Squared distance of each embedding, float32, (n, d), from mean and directions: float64, (n,)."""
        apart = (embeddings - self.mean).astype(np.float64)
        along = apart @ self.directions.T
        distances: NDArray[np.float64] = (apart**2).sum(axis=1) - (along**2).sum(axis=1)
        return distances

    def holds(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
        """Whether two photos, embeddings of (d,), are on the mean no farther than the limit."""
        return float(self.distances(np.stack([one, other])).mean()) <= self.limit

    def to_json(self) -> dict[str, Any]:
        """As JSON values: numbers as base64 text of little-endian float16 and of int8."""
        mean, directions = self.mean.astype("<f2"), _in_8_bits(self.directions)
        return {"mean": _text(mean), "directions": _text(directions), "limit": self.limit}

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Self | None:
        """What `to_json` gave; None where there is nothing."""
        if values is None:
            return None
        mean = np.frombuffer(base64.b64decode(values["mean"]), "<f2").astype(np.float32)
        directions = np.frombuffer(base64.b64decode(values["directions"]), np.int8).reshape(-1, len(mean))
        return cls(mean, _of_unit_length(directions), values["limit"])


def _axes(
    embeddings: NDArray[np.float32], weights: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and principal axes, each photo with its weight, as a card has them."""
    from scipy.sparse.linalg import eigsh

    mean = np.average(embeddings, axis=0, weights=weights)
    apart = (embeddings - mean) * np.sqrt(weights)[:, None]
    _, axes = eigsh((apart.T @ apart).astype(np.float64), k=count, v0=np.ones(len(mean)))  # a start, to repeat it
    return mean.astype(np.float16).astype(np.float32), _of_unit_length(_in_8_bits(axes[:, ::-1].T))


def _in_8_bits(directions: NDArray[Any]) -> NDArray[np.int8]:
    scaled: NDArray[np.int8] = np.rint(directions / np.abs(directions).max(axis=1, keepdims=True) * 127).astype(np.int8)
    return scaled


def _of_unit_length(directions: NDArray[np.int8]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = directions / np.linalg.norm(directions.astype(np.float32), axis=1, keepdims=True)
    return unit


def _text(numbers: NDArray[Any]) -> str:
    return base64.b64encode(numbers.tobytes()).decode()
