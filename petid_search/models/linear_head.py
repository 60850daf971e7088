"""From a feature map to an embedding, in NumPy: what pools and projects is simple enough to do without TensorFlow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petid_search.models.architecture import GEM_POWER, GEM_SMALLEST, Kept, Pooling


@dataclass(frozen=True)
class LinearHead:
    """Pooling, and a linear map to what is brought to unit length to be the embedding.

    Attributes:
        pooling: of the channels that were learnt.
        kernel: float32, (c, d), of the projection; None where the pooled vector is the embedding.
        bias: float32, (d,), likewise.
        kept: what stands beside what was learnt: the last channels, which are averaged whatever the pooling, and the
            last numbers, which have a length of their own. It needs a projection.
    """

    pooling: Pooling
    kernel: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    kept: Kept | None = None

    def vector(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is brought to unit length to be the embedding, float32, (d,), of a feature map, float32, (h, w, c)."""
        learnt, kept = self._learnt_and_kept(features)
        pooled = np.concatenate([_pooled(learnt, self.pooling), _pooled(kept, "avg")])
        if self.kernel is None or self.bias is None:
            return pooled
        projected: NDArray[np.float32] = pooled @ self.kernel + self.bias
        return projected

    def scale(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """What brings it to unit length: the embedding is `vector` times this, float32, (d,), never infinite.

        Args:
            features: float32, (h, w, c).
        """
        vector = self.vector(features)
        squared = np.ones_like(vector)
        at = len(vector) - (self.kept.numbers if self.kept else 0)
        if self.kept is not None:
            squared[:at], squared[at:] = 1 - self.kept.share, self.kept.share
        lengths = np.repeat([_length(vector[:at]), _length(vector[at:])], [at, len(vector) - at])
        scale: NDArray[np.float32] = (np.sqrt(squared) / lengths).astype(np.float32)
        return scale / np.float32(_length(vector * scale))  # 1, unless a part of it is zero

    def parts(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """What each place adds to what the channels are pooled to, float32, (h, w, c): its feature times the gradient.

        Over the places it adds up to the pooled vector, whatever the pooling. With the average it is f/(hw); with the
        maximum f, in equal parts at the places that have it; where the generalised mean pools a channel f to
        (mean f^q)^(1/q), it is f^q/(hw·pooled^(q-1)), and nothing at the places that are cut off.

        Args:
            features: float32, (h, w, c).

        Source: Draelos and Carin 2020, arXiv:2011.08891, section 3.3 (a feature times the gradient); Radenović, Tolias,
        Chum, TPAMI 2018, arXiv:1711.02512, eq. 3 (the generalised mean, here with power q).
        """
        learnt, kept = self._learnt_and_kept(features)
        return np.concatenate([_parts(learnt, self.pooling), _parts(kept, "avg")], axis=-1)

    def places(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """What each place adds to `vector`, float64, (h·w, d), the bias in equal parts: they add up to it.

        A bias that takes away what photos have in common, as that of whitened features does, so leaves at each place
        what is peculiar to it.

        Args:
            features: float32, (h, w, c).
        """
        parts = self.parts(features).reshape(-1, features.shape[-1]).astype(np.float64)
        if self.kernel is None or self.bias is None:
            return parts
        projected: NDArray[np.float64] = parts @ self.kernel.astype(np.float64) + self.bias / len(parts)
        return projected

    def to_channels(self, direction: NDArray[np.float32]) -> NDArray[np.float32]:
        """The gradient, by the pooled vector, (c,), of an inner product with a direction, (d,)."""
        return direction if self.kernel is None else self.kernel @ direction

    def _learnt_and_kept(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        channels = features.shape[-1] - (self.kept.channels if self.kept else 0)
        return features[..., :channels], features[..., channels:]


def _length(vector: NDArray[np.float32]) -> float:
    return max(float(np.linalg.norm(vector)), 1e-12)


def _pooled(features: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    """The pooled vector, float32, (c,)."""
    pooled: NDArray[np.float32]
    if pooling == "max":
        pooled = features.max((0, 1))
    elif pooling == "gem":
        pooled = (np.maximum(features, GEM_SMALLEST) ** GEM_POWER).mean((0, 1)) ** (1 / GEM_POWER)
    else:
        pooled = features.mean((0, 1))
    return pooled


def _parts(features: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    """What each place adds to it, float32, (h, w, c)."""
    parts: NDArray[np.float32]
    if pooling == "max":
        highest = features == features.max((0, 1))
        parts = features * highest / highest.sum((0, 1), dtype=np.float32)
        return parts
    parts = features / np.float32(features.shape[0] * features.shape[1])
    if pooling == "gem":
        parts = parts * (features > GEM_SMALLEST) * (features / _pooled(features, pooling)) ** (GEM_POWER - 1)
    return parts
