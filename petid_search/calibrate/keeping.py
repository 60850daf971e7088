"""A gallery's calibration: measured on its photos, kept beside them, renewed when they have changed."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.calibration import Calibration
from petid_search.calibrate.measure import measure
from petid_search.errors import GalleryError
from petid_search.index.gallery import Gallery
from petid_search.index.records import GalleryModel
from petid_search.index.rule import RULE
from petid_search.index.search import Block
from petid_search.likeness import Pictures

_GROWTH: Final = 0.1
"""A calibration serves until so many photos were enrolled, removed or moved, as a share of those it was made of."""


def current_calibration(gallery: Gallery) -> Calibration:
    """The gallery's calibration: the stored one while it serves, else a new one, which is then stored.

    Who may only read the gallery gets the new one all the same.

    Raises:
        GalleryError: nothing is enrolled.
    """
    row = gallery.calibration_row(_model_of(gallery))
    if row is not None and row["rule"] == RULE and gallery.count_changed(row["generation"]) <= _GROWTH * row["photos"]:
        stored = Calibration.from_bytes(row["samples"])
        if stored is not None:
            return stored
    return renewed_calibration(gallery)


def renewed_calibration(gallery: Gallery) -> Calibration:
    """The gallery's calibration made anew, and stored unless the gallery may only be read.

    Raises:
        GalleryError: nothing is enrolled.
    """
    calibration, generation = _measured(gallery)
    with suppress(GalleryError):
        _keep(gallery, calibration, generation)
    return calibration


def calibrate(gallery: Gallery) -> Calibration:
    """Make the gallery's calibration anew, from at most 2,000 of its photos as probes, and store it.

    Time and memory are bounded by the probes, not squared in the gallery. The same gallery gives the same result.

    Raises:
        GalleryError: nothing is enrolled, or the gallery cannot be written.
    """
    calibration, generation = _measured(gallery)
    _keep(gallery, calibration, generation)
    return calibration


def _measured(gallery: Gallery) -> tuple[Calibration, int]:
    _model_of(gallery)
    with gallery.records.read():
        return Calibration.of(measure(_GalleryPhotos(gallery))), gallery.generation


def _keep(gallery: Gallery, calibration: Calibration, generation: int) -> None:
    gallery.save_calibration(
        _model_of(gallery),
        rule=RULE,
        generation=generation,
        photos=calibration.samples.photos,
        samples=calibration.to_bytes(),
    )


def _model_of(gallery: Gallery) -> GalleryModel:
    if gallery.model is None:
        raise GalleryError(f"The gallery {gallery.folder} is empty: fill it with `petid enroll PHOTOS`.")
    return gallery.model


class _GalleryPhotos:
    """A gallery's photos as `measure` asks for them."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._pictures = Pictures(gallery)

    def owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._gallery.owners()

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._gallery.embeddings(ids)

    def blocks(self) -> Iterator[Block]:
        return self._gallery.blocks()

    def near(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._pictures.near_identical(first, second)
