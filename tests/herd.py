"""Galleries filled with embeddings that the tests make up: no network has to look at a photo first."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petid_search.images import Photo
from petid_search.index.gallery import Enrolment, Gallery

MODEL = ("drawn", "0" * 64)
OTHER_MODEL = ("other", "1" * 64)


def unit_vectors(count: int, dimension: int = 16, *, seed: int = 0) -> np.ndarray:
    """Random directions, float32, (count, dimension)."""
    return to_unit(np.random.default_rng(seed).normal(size=(count, dimension)))


def to_unit(vectors: np.ndarray) -> np.ndarray:
    """The same directions at unit length, float32."""
    vectors = np.asarray(vectors, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def sha256_of(number: int) -> str:
    """The hash of the photo of this number."""
    return hashlib.sha256(b"photo %d" % number).hexdigest()


def vector_of(number: int, dimension: int = 16) -> np.ndarray:
    """The embedding of the photo of this number."""
    return unit_vectors(1, dimension, seed=number)[0]


def photo_of(number: int, folder: Path) -> Photo:
    """A photo of its own bytes, which lie in the folder too."""
    data = b"photo %d" % number
    path = folder / f"{number}.jpg"
    if folder.is_dir():
        path.write_bytes(data)
    return Photo(path, data, hashlib.sha256(data).hexdigest())


def put(
    gallery: Gallery,
    photos: Sequence[tuple[int, str]],
    *,
    folder: Path = Path("nowhere"),
    link: bool = False,
    entry: int | None = None,
) -> list[str]:
    """Enroll photos by number and name in one change; returns how each stands."""
    batch = [Enrolment(photo_of(number, folder), name, vector_of(number)) for number, name in photos]
    return [standing.status for standing in gallery.enroll(batch, model=MODEL, link=link, entry=entry)[0]]


def fill(
    gallery: Gallery, owners: Sequence[object], vectors: np.ndarray, *, first: int = 0, model: tuple[str, str] = MODEL
) -> None:
    """Enroll one linked photo for each row of `vectors`, of the individual that `owners` names."""
    batch = [
        Enrolment(photo_of(first + row, Path("nowhere")), str(owner), vector)
        for row, (owner, vector) in enumerate(zip(owners, vectors, strict=True))
    ]
    statuses = {standing.status for standing in gallery.enroll(batch, model=model, link=True)[0]}
    assert statuses == {"enrolled"}
