"""From a feature map to an embedding, in NumPy: what pools and projects is simple enough to do without TensorFlow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petid_search.models.architecture import GEM_POWER, GEM_SMALLEST, Pooling


@dataclass(frozen=True)
class LinearHead:
    """Pooling, and a linear map to what is brought to unit length to be the embedding.

    Attributes:
        pooling: of the channels that were learnt.
        kernel: float32, (c, d), of the projection; None where the pooled vector is the embedding.
        bias: float32, (d,), likewise.
        averaged: so many of the last channels are averaged, whatever the pooling: those that a head keeps.
    """

    pooling: Pooling
    kernel: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    averaged: int = 0

    def vector(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The embedding before it is brought to unit length, float32, (d,), of a feature map, float32, (h, w, c)."""
        pooled = self._pool(features)[0]
        if self.kernel is None or self.bias is None:
            return pooled
        projected: NDArray[np.float32] = pooled @ self.kernel + self.bias
        return projected

    def length(self, features: NDArray[np.float32]) -> float:
        """Length of that vector; never zero."""
        return max(float(np.linalg.norm(self.vector(features))), 1e-12)

    def slopes(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """For each channel, the mean over places of the derivative of what it is pooled to, float32, (c,).

        With average and maximum pooling that is 1/(hw). Where the generalised mean pools a channel f to
        (mean f^q)^(1/q), it is multiplied by (mean f^(q-1))/pooled^(q-1), over the places that are not cut off.

        Args:
            features: float32, (h, w, c).

        Source: Radenović, Tolias, Chum, TPAMI 2018, arXiv:1711.02512, eq. 3 (the generalised mean, here with power q).
        """
        return self._pool(features)[1] / np.float32(features.shape[0] * features.shape[1])

    def project(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bring what is of channels, float64, (n, c), to the embedding's numbers, (n, d); the bias is left out."""
        return vectors if self.kernel is None else vectors @ self.kernel.astype(np.float64)

    def to_channels(self, direction: NDArray[np.float32]) -> NDArray[np.float32]:
        """The gradient, by the pooled vector, (c,), of an inner product with a direction, (d,)."""
        return direction if self.kernel is None else self.kernel @ direction

    def _pool(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The pooled vector, (c,), and for each channel the sum of its derivatives by the features of all places."""
        if not self.averaged:
            return _pool(features, self.pooling)
        learnt, kept = features[..., : -self.averaged], features[..., -self.averaged :]
        pairs = zip(_pool(learnt, self.pooling), _pool(kept, "avg"), strict=True)
        pooled, slopes = (np.concatenate(pair) for pair in pairs)
        return pooled, slopes


def _pool(features: NDArray[np.float32], pooling: Pooling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if pooling != "gem":
        pooled = features.mean((0, 1)) if pooling == "avg" else features.max((0, 1))
        return pooled, np.ones_like(pooled)
    powers = np.maximum(features, GEM_SMALLEST) ** (GEM_POWER - 1)
    pooled = (powers * np.maximum(features, GEM_SMALLEST)).mean((0, 1)) ** (1 / GEM_POWER)
    return pooled, (powers * (features > GEM_SMALLEST)).mean((0, 1)) / pooled ** (GEM_POWER - 1)
