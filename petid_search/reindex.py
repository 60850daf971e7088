"""The whole gallery embedded with another model, while it goes on answering with the old one."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.embed import Embedded, Unreadable, embed_photos
from petid_search.errors import GalleryError, PhotoError
from petid_search.index.gallery import EnrolledPhoto, Gallery
from petid_search.index.records import GalleryModel
from petid_search.models.runtime import Embedder

_BATCH: Final = 64


def count_missing(gallery: Gallery, embedder: Embedder) -> int:
    """How many photos `reindex` has yet to embed with this model."""
    return gallery.count_without_embedding(gallery.add_model(embedder.name, embedder.fingerprint, embedder.dimension))


def reindex(gallery: Gallery, embedder: Embedder) -> Iterator[PhotoError | None]:
    """Embed with a model every photo that it has not embedded yet, then make it the gallery's model.

    What was embedded is kept, so that a call after a crash goes on where the last one stopped. The switch is one
    transaction, made once no photo is missing, those enrolled meanwhile included; removed photos are embedded too,
    since they can be brought back.

    Args:
        gallery: what to embed.
        embedder: the model to go over to; the gallery's own model makes embeddings that are missing.

    Yields:
        for each photo None, or why it could not be embedded.

    Raises:
        GalleryError: nothing is enrolled, or some photos could not be embedded: the gallery keeps its model then.
        ModelError: the model cannot be used.
    """
    if gallery.model is None:
        raise GalleryError(f"The gallery {gallery.folder} is empty: there is nothing to embed.")
    model = gallery.add_model(embedder.name, embedder.fingerprint, embedder.dimension)
    while True:
        failed = 0
        for problem in _embed_missing(gallery, embedder, model):
            failed += problem is not None
            yield problem
        if failed:
            raise GalleryError(
                f"{failed} photos could not be embedded, so the gallery keeps its model {gallery.model.name!r}: "
                "put them back, or `petid remove` and `petid purge` them, and run the command again."
            )
        if gallery.switch_model(model):
            break
    gallery.index.save()


def _embed_missing(gallery: Gallery, embedder: Embedder, model: GalleryModel) -> Iterator[PhotoError | None]:
    asked: deque[EnrolledPhoto] = deque()

    def missing() -> Iterator[EnrolledPhoto]:
        after = -1
        while photos := gallery.without_embedding(model, after, _BATCH):
            yield from photos
            after = photos[-1].id

    def paths() -> Iterator[Path]:
        for photo in missing():
            asked.append(photo)
            yield photo.file

    ready: dict[str, NDArray[np.float32]] = {}
    for result in embed_photos(paths(), embedder):
        photo = asked.popleft()
        problem = None
        match result:
            case Unreadable(error=error):
                problem = PhotoError(f"Of {photo.individual!r}: {error}")
            case Embedded(vector=vector) if result.photo.sha256 == photo.sha256:
                ready[photo.sha256] = vector
            case _:
                problem = PhotoError(f"{photo.file} of {photo.individual!r} is not the photo that was enrolled.")
        yield problem
        if len(ready) >= _BATCH:
            gallery.add_embeddings(model, ready)
            ready = {}
    if ready:
        gallery.add_embeddings(model, ready)
