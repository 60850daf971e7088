"""Photos decoded once, to a file on disk: an epoch reads pixels instead of decoding, and memory does not grow."""

import errno
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.cores import usable_cores
from petid_search.dataset.manifest import LabelledPhoto
from petid_search.disk import sync
from petid_search.errors import DatasetError, PhotoError
from petid_search.images import FIT, decode, read_photo

_FORMAT: Final = 1
_CHUNK: Final = 16
"""Photos that a worker decodes at a time; as many are marked as done together, once they are on the disk."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DecodedPhotos:
    """Photos as images of one size, each decoded once, in a file that the next run uses again.

    Made with all cores. What an interruption leaves is finished, not begun anew, even after a power cut. A file that
    belongs to other photos or another size is made anew. One process at a time uses a folder.

    Args:
        photos: what to decode, at least one; a photo is known by its place here.
        size: side of the images, in pixels.
        folder: where `decoded.npy` lies, n · size² · 3 bytes, and two small files beside it; made if it is not there.
        problem: told of each photo that cannot be decoded, each time: it is tried again by the next run.
        advance: told how many more photos are done.

    Attributes:
        size: side of the images, in pixels.
        usable: bool, (n,): whether each photo could be decoded.

    Raises:
        DatasetError: the file cannot be written: the disk is full, the folder may not be written to.
    """

    def __init__(
        self,
        photos: Sequence[LabelledPhoto],
        size: int,
        folder: Path,
        *,
        problem: Callable[[PhotoError], object] | None = None,
        advance: Callable[[int], object] | None = None,
    ) -> None:
        if not photos:
            raise DatasetError("There is no photo to decode: name a folder that holds some.")
        pixels, marks, sidecar = (folder / f"decoded.{suffix}" for suffix in ("npy", "done", "json"))
        about = {"format": _FORMAT, "size": size, "fit": FIT, "sha256": [photo.sha256 for photo in photos]}
        self.size = size
        shape = (len(photos), size, size, 3)
        with _said_in_a_line(folder, int(np.prod(shape))):
            folder.mkdir(parents=True, exist_ok=True)
            if not (_read(sidecar) == about and _is_whole(pixels, marks, shape)):
                _begin(pixels, marks, sidecar, about, shape)
            _decode_missing(photos, size, pixels, marks, problem or (lambda _: None), advance or (lambda _: None))
            self.usable: NDArray[np.bool_] = np.fromfile(marks, np.uint8) == 1
            self._images: NDArray[np.uint8] = np.load(pixels, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._images)

    def images(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Some images, read from the disk or what the system still holds of it.

        Args:
            places: int64, (m,), of usable photos.

        Returns:
            uint8, (m, size, size, 3), a copy, values in [0, 255].

        Raises:
            IndexError: one of the photos is not usable, or there is none at a place.
        """
        if not self.usable[places].all():
            raise IndexError(f"Photo {int(places[~self.usable[places]][0])} could not be decoded: it has no image.")
        return np.asarray(self._images[places])


def _read(sidecar: Path) -> Any:
    """What a file of decoded photos says of itself; None where there is none."""
    try:
        return json.loads(sidecar.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _is_whole(pixels: Path, marks: Path, shape: tuple[int, ...]) -> bool:
    """Whether the files are there and as long as they must be."""
    try:
        return np.load(pixels, mmap_mode="r").shape == shape and marks.stat().st_size == shape[0]
    except (FileNotFoundError, ValueError, EOFError):  # cut short, or no array
        return False


def _begin(pixels: Path, marks: Path, sidecar: Path, about: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Files for photos none of which is decoded; the sidecar is the last, so that what it tells of is there."""
    for file in (sidecar, marks, pixels):
        file.unlink(missing_ok=True)
    try:
        np.lib.format.open_memmap(pixels, "w+", np.uint8, shape)
        with pixels.open("r+b") as opened:
            _reserve(opened)
        marks.write_bytes(bytes(shape[0]))
        unfinished = sidecar.with_suffix(".part")
        unfinished.write_text(json.dumps(about), encoding="utf-8")
        for file in (pixels, marks, unfinished):
            sync(file)
        unfinished.replace(sidecar)
        sync(sidecar.parent)
    except OSError:
        # Without a sidecar they are of no use, and of a full disk they would hold the rest.
        for file in (pixels, marks, sidecar.with_suffix(".part")):
            with suppress(OSError):
                file.unlink(missing_ok=True)
        raise


def _reserve(opened: BinaryIO) -> None:
    """Take the whole place on the disk at once: better to hear now that it is full than after an hour's decoding."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(opened.fileno(), 0, os.fstat(opened.fileno()).st_size)
        except OSError as error:
            if error.errno in _FULL:
                raise
            # Some file systems cannot: there, writing will tell.


def _decode_missing(
    photos: Sequence[LabelledPhoto],
    size: int,
    pixels: Path,
    marks: Path,
    problem: Callable[[PhotoError], object],
    advance: Callable[[int], object],
) -> None:
    """Decode what is not marked as done."""
    done = np.fromfile(marks, np.uint8)
    missing = np.flatnonzero(done != 1).tolist()
    advance(len(photos) - len(missing))
    if not missing:
        return
    offset = pixels.stat().st_size - len(photos) * size * size * 3
    with pixels.open("r+b") as to_pixels, marks.open("r+b") as to_marks:
        for chunk, images in _decoded(photos, missing, size):
            kept = []
            for place, image in zip(chunk, images, strict=True):
                if isinstance(image, PhotoError):
                    problem(image)
                else:
                    # Written, not mapped: where a disk is full, writing to mapped memory ends the process.
                    to_pixels.seek(offset + place * image.nbytes)
                    to_pixels.write(image.tobytes())
                    kept.append(place)
            _flush(to_pixels)
            for place in kept:
                to_marks.seek(place)
                to_marks.write(b"\1")
            to_marks.flush()
            advance(len(chunk))
        _flush(to_marks)


def _flush(opened: BinaryIO) -> None:
    opened.flush()
    os.fsync(opened.fileno())


def _decoded(
    photos: Sequence[LabelledPhoto], places: Sequence[int], size: int
) -> Iterator[tuple[list[int], list[NDArray[np.uint8] | PhotoError]]]:
    """Chunks of places and their images, in order; a few are under way at once, on all cores."""

    def decode_chunk(chunk: list[int]) -> list[NDArray[np.uint8] | PhotoError]:
        return [_decode(photos[place], size) for place in chunk]

    workers = usable_cores()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="petid-decode")
    under_way: deque[tuple[list[int], Future[list[NDArray[np.uint8] | PhotoError]]]] = deque()
    try:
        for start in range(0, len(places), _CHUNK):
            chunk = list(places[start : start + _CHUNK])
            under_way.append((chunk, pool.submit(decode_chunk, chunk)))
            if len(under_way) > 2 * workers:
                first, future = under_way.popleft()
                yield first, future.result()
        while under_way:
            first, future = under_way.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(photo: LabelledPhoto, size: int) -> NDArray[np.uint8] | PhotoError:
    try:
        read = read_photo(photo.path)
        if read.sha256 != photo.sha256:
            return PhotoError(f"{photo.path} changed since the folder was read: run again.")
        return decode(read, size)
    except PhotoError as error:
        return error


@contextmanager
def _said_in_a_line(folder: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DatasetError(
                f"No space is left for the decoded photos, {-(-size // 2**20)} MB in {folder}: free some and run again."
            ) from None
        raise DatasetError(
            f"The decoded photos cannot be kept in {folder} ({error.strerror}): check the rights to it."
        ) from None
