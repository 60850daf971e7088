"""FAISS, behind the few things that petid asks of it: add, remove, search, save, load.

One kind serves every size: half-precision vectors under an id map. It is faster than `IndexFlatIP` and half as
large, removal works, and since its error is bounded (see ROUNDING) the gallery can make the search exact by
computing the few similarities that matter again from the float32 embeddings in SQLite.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import GalleryError

ROUNDING: Final = 2.0**-10
"""Upper bound of |searched similarity - cosine computed in float32| for unit vectors of up to 4,000 numbers.

Rounding to half precision moves each number by at most 2⁻¹¹ of itself (or 2⁻²⁵ where it is subnormal); by
Cauchy-Schwarz the inner product with a unit vector moves by at most 2⁻¹¹ + √d · 2⁻²⁵. Summing d products in float32
adds at most d · 2⁻²⁴ on either side (IEEE 754-2019; Higham, "Accuracy and Stability of Numerical Algorithms", 3.1)."""


class VectorIndex:
    """Unit vectors by photo id, searched by inner product.

    Args:
        dimension: numbers in a vector.
    """

    def __init__(self, dimension: int) -> None:
        faiss = _faiss()
        self.dimension = dimension
        halves = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._index: Any = faiss.IndexIDMap(halves)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The photo ids in the index, int64, (n,), in no order."""
        ids: NDArray[np.int64] = _faiss().vector_to_array(self._index.id_map)
        return ids

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors, float32, (n, dimension), unit length; ids, int64, (n,), not yet in the index.

        Raises:
            ValueError: the shapes do not fit, or a vector holds NaN or infinity.
        """
        if vectors.shape != (len(ids), self.dimension):
            raise ValueError(f"Expected vectors of shape {(len(ids), self.dimension)}. Received: {vectors.shape}.")
        if not np.isfinite(vectors).all():
            raise ValueError("Expected finite vectors. Received: NaN or infinity.")
        if len(ids):
            self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(ids, np.int64))

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove what is there of these ids, int64, (n,)."""
        if len(ids) and np.isin(ids, self.ids).any():
            self._index.remove_ids(np.ascontiguousarray(ids, np.int64))

    def search(self, queries: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The nearest vectors to each query.

        Args:
            queries: float32, (q, dimension), unit length.
            count: how many to return; cut to the size of the index.

        Returns:
            similarities, float32, (q, count), in [-1, 1] up to ROUNDING, highest first; photo ids, int64, (q, count).

        Raises:
            ValueError: the shapes do not fit, or a query holds NaN or infinity.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(f"Expected queries of shape (q, {self.dimension}). Received: {queries.shape}.")
        if not np.isfinite(queries).all():
            raise ValueError("Expected finite queries. Received: NaN or infinity.")
        count = min(count, len(self))
        if count == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        similarities, ids = self._index.search(np.ascontiguousarray(queries, np.float32), count)
        return similarities, ids

    def save(self, file: Path) -> str:
        """Write the index to a new file, on the disk before this returns; returns the sha256 of its bytes."""
        data: NDArray[np.uint8] = _faiss().serialize_index(self._index)
        with file.open("xb") as out:
            out.write(data.data)
            out.flush()
            os.fsync(out.fileno())
        return hashlib.sha256(data.data).hexdigest()

    @classmethod
    def load(cls, file: Path, *, dimension: int, sha256: str) -> "VectorIndex":
        """Read an index that `save` wrote. FAISS only sees bytes whose hash is the one it was saved with.

        Raises:
            GalleryError: the file is missing or not the one that was saved.
        """
        try:
            data = np.fromfile(file, dtype=np.uint8)
        except OSError:
            raise GalleryError(f"{file} cannot be read: `petid check` makes it again.") from None
        if hashlib.sha256(data.data).hexdigest() != sha256:
            raise GalleryError(f"{file} is not the file that this gallery wrote: `petid check` makes it again.")
        index = cls.__new__(cls)
        index.dimension = dimension
        index._index = _faiss().deserialize_index(data)
        return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise GalleryError("FAISS is not installed: pip install 'petid-search[cpu]' (or [gpu], never both).") from None
    return faiss
