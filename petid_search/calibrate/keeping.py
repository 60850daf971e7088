"""A gallery's calibration: measured on its photos, kept beside them, renewed when they have changed."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.calibration import Calibration
from petid_search.calibrate.measure import samples_of
from petid_search.calibrate.meeting import Meeting, meet, renew
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
    measured = _measured(gallery)
    with suppress(GalleryError):
        _keep(gallery, measured)
    return measured.calibration


def calibrate(gallery: Gallery) -> Calibration:
    """Make the gallery's calibration anew, from at most 2,000 of its photos as probes, and store it.

    Only what has changed since the last time is compared. Time and memory are bounded by the probes, not squared in the
    gallery. The same gallery gives the same result, whatever was there before.

    Raises:
        GalleryError: nothing is enrolled, or the gallery cannot be written.
    """
    measured = _measured(gallery)
    _keep(gallery, measured)
    return measured.calibration


@dataclass(frozen=True, slots=True)
class _Measured:
    """A calibration, what it is made of, and of which model and generation."""

    calibration: Calibration
    met: Meeting
    model: GalleryModel
    generation: int


def _measured(gallery: Gallery) -> _Measured:
    with gallery.records.read():
        model, generation, photos = _model_of(gallery), gallery.generation, _GalleryPhotos(gallery)
        row, met = gallery.meeting_row(model), None
        if row is not None and row["rule"] == RULE and row["generation"] <= generation:
            before = Meeting.from_bytes(row["met"])
            met = None if before is None else renew(before, photos, gallery.changed(row["generation"]))
        met = met or meet(photos)
        return _Measured(Calibration.of(samples_of(met, photos)), met, model, generation)


def _keep(gallery: Gallery, measured: _Measured) -> None:
    calibration, generation = measured.calibration, measured.generation
    gallery.save_calibration(
        measured.model,
        rule=RULE,
        generation=generation,
        photos=calibration.samples.photos,
        samples=calibration.to_bytes(),
    )
    gallery.save_meeting(measured.model, rule=RULE, generation=generation, met=measured.met.to_bytes())


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
