"""Searching the gallery: FAISS offers photos, SQLite's float32 embeddings decide.

The joins are written CROSS JOIN, by which SQLite goes from photos to embeddings and not the other way round: few
photos are asked for, and the planner, which cannot know, would walk through all embeddings.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.disk import sync
from petid_search.errors import GalleryError, ModelMismatch
from petid_search.index.records import WHOLE, GalleryModel, Records
from petid_search.index.rule import similarity_by_individual
from petid_search.index.vectors import ROUNDING, VectorIndex

_FIRST_LOOK: Final = 32
"""How many photos the first search for a probe asks for; it asks for more until the answer is certain."""
_STALE_SHARE: Final = 0.05
_STALE_LEAST: Final = 2000
"""The FAISS file is written again when more photos than both of these have changed since it was."""
_ROWS: Final = 4096
_SAMPLE: Final = 256


@dataclass(frozen=True, slots=True)
class Hit:
    """An individual found for a probe: cosine similarity in [-1, 1], and its photo most like the probe."""

    individual: str
    similarity: float
    photo_id: int


@dataclass(frozen=True, slots=True)
class Block:
    """Some whole individuals of the gallery: every active photo's embedding, those of one individual side by side."""

    individuals: NDArray[np.int64]  # (individuals,)
    starts: NDArray[np.int64]  # (individuals,): the first photo of each
    photos: NDArray[np.int64]  # (photos,)
    vectors: NDArray[np.float32]  # (photos, d), unit length


class GalleryIndex:
    """The gallery's index: derived from its rows, brought up to date by what changed, never ahead of them.

    Args:
        records: the rows of the gallery.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._index: VectorIndex | None = None
        self._model = 0
        self._generation = 0

    def search(self, probes: NDArray[np.float32], top: int, *, model: GalleryModel) -> list[list[Hit]]:
        """The individuals most like each probe, best first, by exact cosine similarity.

        The index, whose similarities are rounded, offers photos; those of their individuals are then compared by
        their float32 embeddings, with more offered until no individual outside can be among the best `top`. That
        holds for every rule whose result is not above the best photo's similarity.

        Args:
            probes: float32, (n, d), unit length.
            top: how many individuals, at least 1; fewer are returned where the gallery has fewer.
            model: the model that made the probes' embeddings.

        Raises:
            ModelMismatch: the gallery holds embeddings of another model, maybe since a moment ago.
        """
        with self._records.read():
            index = self._current_index(self._same_model(model))
            results: list[list[Hit]] = [[] for _ in probes]
            pending, look = np.arange(len(probes)), _FIRST_LOOK
            while len(index) and len(pending):
                rounded, photos = index.search(probes[pending], look)
                found = self._best_individuals(probes[pending], np.unique(photos), model, top)
                unsure = []
                for row, (probe, hits) in enumerate(zip(pending, found, strict=True)):
                    outside = float(rounded[row, -1]) + ROUNDING
                    if look >= len(index) or (len(hits) == top and hits[-1].similarity >= outside):
                        results[probe] = hits
                    else:
                        unsure.append(probe)
                pending, look = np.asarray(unsure, np.int64), look * 4
            return results

    def compare(self, probe: NDArray[np.float32], photos: NDArray[np.int64], *, model: GalleryModel) -> Hit:
        """The individual that owns these photos, as if it had been found for a probe.

        Args:
            probe: float32, (d,), unit length.
            photos: int64, (n,), ids of one individual's photos.
            model: the model that made the probe's embedding.

        Raises:
            ModelMismatch: the gallery holds embeddings of another model.
            GalleryError: none of these photos is there with an embedding.
        """
        with self._records.read():
            hits = self._best_individuals(probe[None], photos, self._same_model(model), 1)[0]
        if not hits:
            raise GalleryError("These photos are gone, or have lost their embeddings: run `petid check`.")
        return hits[0]

    def save(self) -> None:
        """Write the FAISS file if too much changed since it was; a few changes are caught up with on opening."""
        with self._records.read():
            model = self._records.model
            if model is None or not self._is_stale(model):
                return
            index = self._current_index(model)
        self._write_file(index, model)

    def is_right(self) -> bool:
        """Whether the FAISS file, where one was saved, is as it was, and the index holds just the enrolled photos.

        Some of their embeddings are searched for: each must find itself, or another that is equal.
        """
        with self._records.read():
            model = self._records.model
            if model is None:
                return True
            self._index = None  # what the next process will read is in question, not what this one knows
            if self._saved_row(model) is not None and self._saved_index(model) is None:
                return False
            index = self._current_index(model)
            enrolled = self._records.select(
                "SELECT p.id FROM photos p CROSS JOIN embeddings e ON e.photo_id = p.id "
                "WHERE p.active AND e.model_id = ? AND e.crop = ? ORDER BY p.id",
                [model.id, WHOLE],
            )
            ids = np.fromiter((row[0] for row in enrolled), np.int64)
            if not np.array_equal(np.sort(index.ids), ids):
                return False
            sample = self._vectors_of(np.random.default_rng(0).permutation(ids)[:_SAMPLE], model)
            if not sample:
                return True
            vectors = np.stack(list(sample.values()))
            rounded, found = index.search(vectors, 1)
            theirs = self._vectors_of(found[:, 0], model)
            exact = np.sum(vectors * np.stack([theirs[photo] for photo in found[:, 0].tolist()]), axis=1)
            return bool(
                np.abs(rounded - 1.0).max() < 2 * ROUNDING and np.abs(rounded[:, 0] - exact).max() < 2 * ROUNDING
            )

    def rebuild(self) -> None:
        """Make the FAISS file again from the embeddings in SQLite."""
        with self._records.write(changes=False):
            self._records.db.execute("DELETE FROM vector_files")
        self._index = None
        self.save()

    def _is_stale(self, model: GalleryModel) -> bool:
        saved = self._saved_row(model)
        if saved is None or not (self._records.folder / saved["file"]).is_file():
            return True
        changed = int(self._records.value("SELECT count(*) FROM photos WHERE changed > ?", [saved["generation"]]))
        photos = int(self._records.value("SELECT count(*) FROM photos WHERE active"))
        return changed > max(_STALE_LEAST, _STALE_SHARE * photos)

    def _same_model(self, model: GalleryModel) -> GalleryModel:
        current = self._records.model
        if current is None or current.fingerprint != model.fingerprint:
            raise ModelMismatch("none yet" if current is None else current.name, model.name)
        return current

    def _current_index(self, model: GalleryModel) -> VectorIndex:
        """The index as of this transaction: read from its file or made anew, then caught up with what changed."""
        if self._index is None or self._model != model.id or self._generation < self._purged():
            self._index, self._generation = self._saved_index(model) or (VectorIndex(model.dimension), -1)
            self._model = model.id
        generation = self._records.generation
        if self._generation < generation:
            changed = self._records.select("SELECT id FROM photos WHERE changed > ?", [self._generation])
            self._index.remove(np.fromiter((row[0] for row in changed), np.int64))
            for ids, vectors in self._vectors("p.changed > ?", self._generation, model):
                self._index.add(ids, vectors)
            self._generation = generation
        return self._index

    def _saved_row(self, model: GalleryModel) -> dict[str, Any] | None:
        """What is noted of the model's FAISS file, or None where there is none that is of use."""
        rows = self._records.rows(
            "SELECT * FROM vector_files WHERE model_id = ? AND generation >= ?", [model.id, self._purged()]
        )
        return next(rows, None)

    def _saved_index(self, model: GalleryModel) -> tuple[VectorIndex, int] | None:
        """The index of the FAISS file and its generation, or None where the file is of no use."""
        row = self._saved_row(model)
        if row is None:
            return None
        # Lost or changed behind our back: it is only a cache, and made again from SQLite.
        with suppress(GalleryError):
            file = self._records.folder / Path(row["file"]).name
            return VectorIndex.load(file, dimension=model.dimension, sha256=row["sha256"]), row["generation"]
        return None

    def _purged(self) -> int:
        """The generation of the last purge: a file from before it would not learn of the rows deleted then."""
        return self._records.state("purged") or 0

    def _vectors(
        self, where: str, value: object, model: GalleryModel
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids and embeddings of enrolled photos for which `where` holds, a few thousand at a time."""
        cursor = self._records.select(
            "SELECT p.id, e.vector FROM photos p CROSS JOIN embeddings e ON e.photo_id = p.id "
            f"WHERE {where} AND p.active AND e.model_id = ? AND e.crop = ?",
            [value, model.id, WHOLE],
        )
        while rows := list(islice(cursor, _ROWS)):
            vectors = np.frombuffer(b"".join(row[1] for row in rows), "<f4").reshape(len(rows), model.dimension)
            yield np.asarray([row[0] for row in rows], np.int64), vectors

    def _vectors_of(self, photos: NDArray[np.int64], model: GalleryModel) -> dict[int, NDArray[np.float32]]:
        """Embeddings of these photos, by id."""
        parts = self._vectors("p.id IN (SELECT value FROM json_each(?))", json.dumps(photos.tolist()), model)
        return {photo: vector for ids, vectors in parts for photo, vector in zip(ids.tolist(), vectors, strict=True)}

    def _write_file(self, index: VectorIndex, model: GalleryModel) -> None:
        """Save the index under a new name, tell SQLite of it, then delete the file it replaces.

        All under the write lock: of two processes that come to it at once, the second finds it done.
        """
        name = f"vectors-{model.id}-{self._generation}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.faiss"
        with self._records.write(changes=False):
            if not self._is_stale(model):
                return
            sha256 = index.save(self._records.folder / name)
            sync(self._records.folder)
            self._records.db.table("vector_files").upsert(
                {"model_id": model.id, "file": name, "sha256": sha256, "generation": self._generation}, pk="model_id"
            )
        with self._records.write(changes=False):
            kept = {row[0] for row in self._records.select("SELECT file FROM vector_files")}
            for file in self._records.folder.glob("vectors-*.faiss"):
                if file.name not in kept:
                    file.unlink(missing_ok=True)

    def _best_individuals(
        self, probes: NDArray[np.float32], photos: NDArray[np.int64], model: GalleryModel, top: int
    ) -> list[list[Hit]]:
        """For each probe the best of the individuals that own these photos, by all of their photos."""
        rows = list(
            self._records.select(
                "SELECT p.individual_id, p.id, e.vector FROM photos p CROSS JOIN embeddings e ON e.photo_id = p.id "
                "WHERE p.active AND e.model_id = ? AND e.crop = ? "
                "AND p.individual_id IN "
                "(SELECT individual_id FROM photos WHERE id IN (SELECT value FROM json_each(?))) "
                "ORDER BY p.individual_id, p.id",
                [model.id, WHOLE, json.dumps(photos.tolist())],
            )
        )
        if not rows:
            return [[] for _ in probes]
        block = block_of(rows)
        similarities = probes @ block.vectors.T
        by_individual = similarity_by_individual(similarities, block.starts)
        best = np.argsort(-by_individual, axis=1, kind="stable")[:, :top]
        names = self._names(block.individuals[np.unique(best)])
        ends = np.append(block.starts[1:], len(block.photos))
        return [
            [
                Hit(
                    names[int(block.individuals[place])],
                    # Rounding can carry the cosine of equal vectors past 1.
                    float(np.clip(by_individual[row, place], -1.0, 1.0)),
                    int(block.photos[first + similarities[row, first : ends[place]].argmax()]),
                )
                for place, first in zip(places, block.starts[places], strict=True)
            ]
            for row, places in enumerate(best)
        ]

    def _names(self, individuals: NDArray[np.int64]) -> dict[int, str]:
        rows = self._records.select(
            "SELECT id, name FROM individuals WHERE id IN (SELECT value FROM json_each(?))",
            [json.dumps(individuals.tolist())],
        )
        return {int(row[0]): str(row[1]) for row in rows}


def block_of(rows: Sequence[tuple[Any, ...]]) -> Block:
    """Rows of individual id, photo id and embedding, in this order, as arrays."""
    owners = np.asarray([row[0] for row in rows], np.int64)
    individuals, starts = np.unique(owners, return_index=True)
    vectors = np.frombuffer(b"".join(row[2] for row in rows), "<f4").reshape(len(rows), -1)
    return Block(individuals, starts.astype(np.int64), np.asarray([row[1] for row in rows], np.int64), vectors)
