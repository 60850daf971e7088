"""What goes into the network: augmented photos, or features of them that were computed once; prepared beside it."""

import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import DatasetError
from petid_search.train.augment import Augmenter
from petid_search.train.photos import DecodedPhotos

T = TypeVar("T")
_AHEAD: Final = 2
"""Batches that are prepared while the network works on another."""
_CHUNK: Final = 32


class Inputs(Protocol):
    """The network's inputs of photos by their places."""

    def training(self, places: NDArray[np.int64], seed: tuple[int, ...]) -> NDArray[np.float32]:
        """As they are trained on: drawn anew for each seed, the same for the same."""
        ...

    def plain(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """As they are measured: never augmented."""
        ...


class PhotoInputs:
    """Photos, augmented while training; float32, (n, size, size, 3), in [0, 255]."""

    def __init__(self, photos: DecodedPhotos, augmenter: Augmenter | None) -> None:
        self._photos = photos
        self._augmenter = augmenter

    def training(self, places: NDArray[np.int64], seed: tuple[int, ...]) -> NDArray[np.float32]:
        """Read and augment photos."""
        images = self._photos.images(places)
        return images.astype(np.float32) if self._augmenter is None else self._augmenter(images, seed)

    def plain(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read photos."""
        return self._photos.images(places).astype(np.float32)


class FeatureInputs:
    """Features of a frozen backbone, in a file: every photo passed through it once, and once a variant.

    Args:
        file: where they are, or will be.
        photos: inputs that the network would have taken.
        network: from those to features, (n, …).
        places: int64, of all photos that are passed through.
        trained: places of those that are trained on; only they have variants.
        variants: of each, the photo itself being the first.
        seed: of the variants.
        key: of what the features depend on beside that; a file made for another is made again.
        advance: told of each photo or variant that is done, and how many there are.

    Raises:
        DatasetError: the disk is full.
    """

    def __init__(
        self,
        file: Path,
        photos: Inputs,
        network: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        *,
        places: NDArray[np.int64],
        trained: NDArray[np.int64],
        variants: int,
        seed: int,
        key: object,
        advance: Callable[[int, int], object],
    ) -> None:
        # Where in the file each photo's own features stand, and each variant's, counted from the first of that variant.
        self._own = np.zeros(int(places.max()) + 1, np.int64)
        self._own[places] = np.arange(len(places))
        self._varied = np.zeros_like(self._own)
        self._varied[trained] = np.arange(len(trained))
        self._places, self._trained, self._variants = places, len(trained), variants
        self._seed = seed
        told_of = hashlib.sha256(json.dumps([key, variants, seed]).encode())
        for those in (places, trained):
            told_of.update(hashlib.sha256(those.tobytes()).digest())
        digest = told_of.hexdigest()
        told = file.with_suffix(".json")
        if not (file.exists() and told.exists() and told.read_text() == digest):
            told.unlink(missing_ok=True)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                self._compute(file, photos, network, trained, advance)
                told.write_text(digest)
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise DatasetError(
                    f"The features cannot be written to {file} ({reason}): make room, or name another --output."
                ) from error
        self._features = np.load(file, mmap_mode="r")

    def _compute(
        self,
        file: Path,
        photos: Inputs,
        network: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        trained: NDArray[np.int64],
        advance: Callable[[int, int], object],
    ) -> None:
        """Features of all photos, then variant by variant of those trained on; memory holds one batch."""
        total = len(self._places) + (self._variants - 1) * len(trained)

        def jobs() -> Iterator[tuple[NDArray[np.int64], int]]:
            for variant in range(self._variants):
                places = trained if variant else self._places
                for first in range(0, len(places), _CHUNK):
                    yield places[first : first + _CHUNK], variant

        def read(job: tuple[NDArray[np.int64], int]) -> NDArray[np.float32]:
            places, variant = job
            seed = (self._seed, variant, int(places[0]))
            return photos.training(places, seed) if variant else photos.plain(places)

        done = 0
        # Written in a row, not mapped into memory: of a full disk, a mapping tells by killing the process.
        with file.open("wb") as out:
            for images in ahead(map(read, jobs())):
                features = np.asarray(network(images), "<f4")
                if not done:
                    header = {"descr": "<f4", "fortran_order": False, "shape": (total, *features.shape[1:])}
                    np.lib.format.write_array_header_1_0(out, header)
                out.write(features.tobytes())
                done += len(features)
                advance(done, total)
            out.flush()
            os.fsync(out.fileno())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one photo's features."""
        shape: tuple[int, ...] = self._features.shape[1:]
        return shape

    def training(self, places: NDArray[np.int64], seed: tuple[int, ...]) -> NDArray[np.float32]:
        """One of the variants of each photo, drawn by the seed."""
        variant = np.random.default_rng(seed).integers(0, self._variants, len(places))
        varied = len(self._places) + (variant - 1) * self._trained + self._varied[places]
        return np.asarray(self._features[np.where(variant == 0, self._own[places], varied)])

    def plain(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """The photos' own features."""
        return np.asarray(self._features[self._own[places]])


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, prepared by another thread while the last one is worked on; an error comes where its item would."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def prepare() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
        except BaseException as error:  # it belongs to who waits for the item
            put("error", error)
        put("end", None)

    thread = threading.Thread(target=prepare, name="petid-batches", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()
