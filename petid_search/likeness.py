"""Which enrolled photos a new one is nearly identical to: burst shots, re-saved copies, one picture under two names."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.dedup.duplicates import THRESHOLD
from petid_search.dedup.ssim import ROUNDING, SIZE, shortened, signatures, ssim_of_pairs
from petid_search.errors import GalleryError, PhotoError
from petid_search.images import decode_grey, read_photo
from petid_search.index.gallery import Gallery

_WAY: Final = 2
"""Of how a signature is made; those made in another way are made again. It is followed by the thumbnail it is of."""
_NUMBERS: Final = 129
_BYTES: Final = 2 * _NUMBERS
_HALVED: Final = 2.0**-10
"""How far an inner product of unit vectors may be off whose numbers were rounded to half precision."""
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class NearIdentical:
    """An enrolled photo that is nearly the same picture: where it came from, whom it shows, and SSIM, in [-1, 1]."""

    photo: Path
    individual: str
    ssim: float


class Likeness:
    """A gallery's photos, to be asked for those nearly identical to new ones.

    The signatures of all photos are held in memory, half a kilobyte each. They are derived: what is missing, since a
    process was killed or the gallery is of an older petid, is made first.

    Args:
        gallery: whose photos; nobody else may use the object meanwhile.
    """

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._last = -1
        self._ids = np.empty(0, np.int64)
        self._vectors = np.empty((0, _NUMBERS), np.float32)
        after = -1
        while photos := gallery.without_signature(_WAY, after, _BATCH):
            after = photos[-1].id
            self._keep({photo.sha256: pixels for photo in photos if (pixels := _thumbnail(photo.file)) is not None})
        self._catch_up()

    def add(self, thumbnails: Mapping[str, NDArray[np.uint8]]) -> dict[str, list[NearIdentical]]:
        """Take up photos that were enrolled just now, and tell what each is nearly identical to.

        Of two that are taken up together, the later one is told.

        Args:
            thumbnails: by the photo's sha256, uint8, (32, 32).

        Returns:
            by sha256, for the photos that are nearly identical to others, those, the most alike first.
        """
        self._keep(thumbnails)
        self._catch_up()
        found = {}
        ids = self._gallery.photo_ids(thumbnails)
        for sha256, photo_id in ids.items():
            places = np.flatnonzero(self._ids == photo_id)
            if not len(places):
                continue  # purged meanwhile
            bounds = self._vectors @ self._vectors[places[-1]]
            may = np.unique(self._ids[bounds >= THRESHOLD - ROUNDING - _HALVED]).tolist()
            others = [one for one in may if one < photo_id or (one != photo_id and one not in ids.values())]
            if near := self._compare(thumbnails[sha256], others):
                found[sha256] = near
        return found

    def _compare(self, thumbnail: NDArray[np.uint8], photo_ids: list[int]) -> list[NearIdentical]:
        near = []
        for photo_id, row in self._gallery.signatures_of(photo_ids, _WAY):
            pair = np.stack([thumbnail, np.frombuffer(row[_BYTES:], np.uint8).reshape(SIZE, SIZE)])
            ssim = float(ssim_of_pairs(pair, np.array([0]), np.array([1]))[0])
            if ssim >= THRESHOLD:
                with suppress(GalleryError):  # purged meanwhile
                    photo = self._gallery.photo(photo_id)
                    if not photo.removed:
                        near.append(NearIdentical(photo.source, photo.individual, ssim))
        return sorted(near, key=lambda one: -one.ssim)

    def _keep(self, thumbnails: Mapping[str, NDArray[np.uint8]]) -> None:
        if thumbnails:
            vectors = shortened(signatures(np.stack(list(thumbnails.values()))), _NUMBERS).astype("<f2")
            rows = {
                sha256: vector.tobytes() + np.asarray(pixels, np.uint8).tobytes()
                for (sha256, pixels), vector in zip(thumbnails.items(), vectors, strict=True)
            }
            self._gallery.add_signatures(_WAY, rows)

    def _catch_up(self) -> None:
        """Read the signatures of photos that were enrolled since, by this process or another."""
        rows = list(self._gallery.signatures_after(self._last, _WAY, _BYTES))
        if rows:
            self._last = rows[-1][0]
            news = np.frombuffer(b"".join(vector for _, _, vector in rows), "<f2").reshape(-1, _NUMBERS)
            self._ids = np.concatenate([self._ids, [photo_id for _, photo_id, _ in rows]])
            self._vectors = np.concatenate([self._vectors, news.astype(np.float32)])


class Pictures:
    """Which of a gallery's photos are one picture, by the thumbnails kept when they were enrolled.

    No photo is read. Signatures and thumbnails are looked up as they are asked for, 1.3 kB each, and remembered.

    Args:
        gallery: whose photos.
    """

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._row: dict[int, int] = {}
        self._vectors = np.empty((0, _NUMBERS), np.float32)
        self._thumbnails = np.empty((0, SIZE, SIZE), np.uint8)

    def near_identical(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the photos of each two ids have an SSIM of 0.95 or more; False where one has no signature.

        Args:
            first: int64, (pairs,), photo ids.
            second: int64, (pairs,), the others.

        Returns:
            bool, (pairs,).
        """
        self._look_up(np.concatenate([first, second]))
        near = np.zeros(len(first), np.bool_)
        if not len(self._vectors):
            return near
        a = np.array([self._row[photo_id] for photo_id in first.tolist()], np.int64)
        b = np.array([self._row[photo_id] for photo_id in second.tolist()], np.int64)
        may = np.flatnonzero((a >= 0) & (b >= 0))
        may = may[np.einsum("ij,ij->i", self._vectors[a[may]], self._vectors[b[may]]) >= THRESHOLD - ROUNDING - _HALVED]
        near[may] = ssim_of_pairs(self._thumbnails, a[may], b[may]) >= THRESHOLD
        return near

    def _look_up(self, photo_ids: NDArray[np.int64]) -> None:
        unknown = [photo_id for photo_id in np.unique(photo_ids).tolist() if photo_id not in self._row]
        rows = list(self._gallery.signatures_of(unknown, _WAY))
        self._row.update(dict.fromkeys(unknown, -1))
        if rows:
            self._row.update({photo_id: len(self._vectors) + place for place, (photo_id, _) in enumerate(rows)})
            vectors = np.frombuffer(b"".join(row[:_BYTES] for _, row in rows), "<f2").reshape(-1, _NUMBERS)
            pixels = np.frombuffer(b"".join(row[_BYTES:] for _, row in rows), np.uint8).reshape(-1, SIZE, SIZE)
            self._vectors = np.concatenate([self._vectors, vectors.astype(np.float32)])
            self._thumbnails = np.concatenate([self._thumbnails, pixels])


def _thumbnail(file: Path) -> NDArray[np.uint8] | None:
    """None where the photo is not to be read any more: `petid check` will tell."""
    try:
        return decode_grey(read_photo(file), SIZE)
    except PhotoError:
        return None
