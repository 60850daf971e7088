"""Many photos to embeddings and scores, fast: every core reads, decodes and embeds, and memory stays bounded."""

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from petid_search.cores import usable_cores
from petid_search.dedup.ssim import SIZE
from petid_search.errors import PhotoError
from petid_search.images import Photo, decode, decode_grey, read_photo
from petid_search.models.runtime import Embedder

_CHUNK: Final = 8
"""Photos that a worker takes at a time, from reading to embedding."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A photo and what became of it.

    Attributes:
        photo: as it was read.
        vector: its embedding, float32, (d,), unit length.
        thumbnail: uint8, (32, 32), if asked for.
        scores: float32, (classes,), in [0, 1], in the order of the embedder's classes; empty without a classifier.
    """

    photo: Photo
    vector: NDArray[np.float32]
    thumbnail: NDArray[np.uint8] | None
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A photo that was read and then left out, as `skip` wanted."""

    photo: Photo


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A photo that could not be used, and why."""

    path: Path
    error: PhotoError


Result: TypeAlias = Embedded | Skipped | Unreadable


def embed_photos(
    paths: Iterable[Path],
    embedder: Embedder,
    *,
    skip: Callable[[Sequence[str]], Container[str]] | None = None,
    keep_bytes: bool = False,
    thumbnails: bool = False,
) -> Iterator[Result]:
    """Read, decode and embed photos on all cores; one result a path, in their order, as soon as it is there.

    A worker takes a few photos from reading to embedding, so that one core decodes while another embeds, with no
    queue between them. Only a few chunks are under way at once: memory does not grow with the number of photos.

    Args:
        paths: photos; read lazily, in the caller's thread.
        embedder: the model.
        skip: given the sha256 of some photos, those not to decode and embed; called by several threads at once.
        keep_bytes: leave the bytes of embedded photos in the results, to be stored; else they are dropped.
        thumbnails: give each embedded photo's thumbnail, too, to tell what other photo it is nearly identical to.

    Raises:
        ModelError: the model cannot be used.
    """
    chunks = _chunked(paths)
    first = next(chunks, [])
    second = next(chunks, None)
    if second is None:  # few photos: all cores on one network instead of a network on each core
        yield from _embed_chunk(first, embedder, skip, keep_bytes, thumbnails)
        return
    workers = usable_cores()
    narrow = Embedder(embedder.bundle, threads=1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="petid-embed")
    under_way: deque[Future[list[Result]]] = deque()
    try:
        for chunk in chain([first, second], chunks):
            under_way.append(pool.submit(_embed_chunk, chunk, narrow, skip, keep_bytes, thumbnails))
            if len(under_way) > 2 * workers:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _chunked(paths: Iterable[Path]) -> Iterator[list[Path]]:
    iterator = iter(paths)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _embed_chunk(
    paths: Sequence[Path],
    embedder: Embedder,
    skip: Callable[[Sequence[str]], Container[str]] | None,
    keep_bytes: bool,
    thumbnails: bool,
) -> list[Result]:
    results = [_read(path) for path in paths]
    read = [result.photo.sha256 for result in results if isinstance(result, Skipped)]
    left_out = skip(read) if skip is not None and read else ()
    images: dict[int, NDArray[np.uint8]] = {}
    small: dict[int, NDArray[np.uint8]] = {}
    for place, result in enumerate(results):
        if isinstance(result, Skipped) and result.photo.sha256 not in left_out:
            try:
                images[place] = decode(result.photo, embedder.input_size)
                if thumbnails:
                    small[place] = decode_grey(result.photo, SIZE)
            except PhotoError as error:
                results[place] = Unreadable(paths[place], error)
    if images:
        vectors, scores = embedder.embed_and_score(np.stack(list(images.values())))
        for place, vector, of_classes in zip(images, vectors, scores, strict=True):
            result = results[place]
            if isinstance(result, Skipped):
                results[place] = Embedded(result.photo, vector, small.get(place), of_classes)
    return results if keep_bytes else [_without_bytes(result) for result in results]


def _without_bytes(result: Result) -> Result:
    return result if isinstance(result, Unreadable) else replace(result, photo=replace(result.photo, data=b""))


def _read(path: Path) -> Result:
    try:
        return Skipped(read_photo(path))
    except PhotoError as error:
        return Unreadable(path, error)
