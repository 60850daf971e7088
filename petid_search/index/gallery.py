"""The gallery: the herd book of enrolled individuals, their photos and their embeddings.

Everything that counts is a row of SQLite, written in transactions. What is derived (the FAISS file, the
calibration) can be deleted at any time, and is never ahead of what was committed.
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import GalleryError, ModelMismatch
from petid_search.images import Photo
from petid_search.index.records import WHOLE, GalleryModel, Records
from petid_search.index.search import Block, GalleryIndex, block_of
from petid_search.index.store import PhotoStore

UNIT_TOLERANCE: Final = 1e-4
"""How far from 1 the length of an embedding may be: far more than float32 needs, too little to matter."""
_LONGEST_NAME: Final = 200
_UNFIT: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS: Final = "\u200c\u200d"
"""Of the invisible signs these two are fit for a name: some scripts and many emoji are written with them."""
_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A photo about to be enrolled: whose it is, and its embedding, float32, (d,), unit length."""

    photo: Photo
    individual: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one photo stands after `enroll`: newly enrolled, known before, removed before, or refused for its name."""

    status: Literal["enrolled", "known", "removed", "refused"]
    individual: str


@dataclass(frozen=True, slots=True)
class EnrolledPhoto:
    """A photo of the gallery and where its bytes are."""

    id: int
    sha256: str
    individual: str
    file: Path
    source: Path
    enrolled_at: str
    linked: bool
    removed: bool


class Gallery:
    """Enrolled individuals in a folder.

    Several processes may read and write one gallery at the same time. One object serves one thread at a time.

    Args:
        folder: the gallery's folder.
        create: make the gallery where there is none.

    Raises:
        GalleryError: there is no gallery in the folder and `create` is False, or the file there is not one.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
        self.records = Records(folder, create=create)
        self.store = PhotoStore(folder)
        self.index = GalleryIndex(self.records)

    def close(self) -> None:
        """Close the database. The object is of no use afterwards."""
        self.records.db.close()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What is there

    @property
    def generation(self) -> int:
        """A number that grows with every change of the gallery."""
        return self.records.generation

    @property
    def model(self) -> GalleryModel | None:
        """The model whose embeddings are compared; None while nothing was enrolled."""
        return self.records.model

    def require_model(self, name: str, fingerprint: str) -> GalleryModel:
        """The gallery's model, if it is the one with this fingerprint.

        Raises:
            GalleryError: nothing is enrolled yet.
            ModelMismatch: the gallery holds embeddings of another model.
        """
        model = self.model
        if model is None:
            raise GalleryError(f"The gallery {self.folder} is empty: fill it with `petid enroll PHOTOS`.")
        if model.fingerprint != fingerprint:
            raise ModelMismatch(model.name, name)
        return model

    def count_photos(self) -> int:
        """Number of enrolled photos."""
        return int(self.records.value("SELECT count(*) FROM photos WHERE active"))

    def count_individuals(self) -> int:
        """Number of enrolled individuals, N."""
        return int(self.records.value("SELECT count(DISTINCT individual_id) FROM photos WHERE active"))

    def individuals(self) -> dict[str, int]:
        """Every enrolled individual's name and its number of photos, by name."""
        rows = self.records.select(
            "SELECT i.name, count(*) FROM photos p JOIN individuals i ON i.id = p.individual_id "
            "WHERE p.active GROUP BY i.id ORDER BY i.name"
        )
        return {str(name): int(count) for name, count in rows}

    def photos(self, individual: str | None = None) -> Iterator[EnrolledPhoto]:
        """The enrolled photos, of one individual or of all, in the order of their enrolment.

        Raises:
            GalleryError: no such individual is enrolled.
        """
        where, values = "p.active", list[Any]()
        if individual is not None:
            where, values = "p.active AND p.individual_id = ?", [self._individual_id(individual)]
        return self._photos_where(where, values)

    def removed_photos(self) -> Iterator[EnrolledPhoto]:
        """The photos that were removed and not purged, which `undo` may bring back."""
        return self._photos_where("NOT p.active", [])

    def photo(self, photo_id: int) -> EnrolledPhoto:
        """The photo of an id that a search gave."""
        for photo in self._photos_where("p.id = ?", [photo_id]):
            return photo
        raise GalleryError(f"Photo {photo_id} was purged meanwhile: search again.")

    def photo_ids(self, hashes: Iterable[str]) -> dict[str, int]:
        """The ids of the photos of these sha256 hashes, removed ones included."""
        rows = self.records.select(
            "SELECT sha256, id FROM photos WHERE sha256 IN (SELECT value FROM json_each(?))", [json.dumps(list(hashes))]
        )
        return {str(sha256): int(photo_id) for sha256, photo_id in rows}

    def known(self, hashes: Iterable[str]) -> dict[str, str]:
        """Of these sha256 hashes, those of enrolled photos, each with its individual's name."""
        rows = self.records.select(
            "SELECT p.sha256, i.name FROM photos p JOIN individuals i ON i.id = p.individual_id "
            "WHERE p.active AND p.sha256 IN (SELECT value FROM json_each(?))",
            [json.dumps(list(hashes))],
        )
        return {str(sha256): str(name) for sha256, name in rows}

    def corrected_name(self, name: str) -> str:
        """What an individual is called now that was once enrolled as `name`; the name itself if it was not changed."""
        row = next(self.records.select("SELECT id, moved_to FROM individuals WHERE name = ?", [name]), None)
        while row is not None and row[1] is not None and not self._is_enrolled(row[0]):
            row = next(self.records.select("SELECT id, moved_to, name FROM individuals WHERE id = ?", [row[1]]))
            name = str(row[2])
        return name

    # Enrolling and correcting

    def enroll(
        self,
        batch: Sequence[Enrolment],
        *,
        model: tuple[str, str],
        link: bool = False,
        corrected: bool = False,
        entry: int | None = None,
    ) -> tuple[list[Standing], int | None]:
        """Enroll photos in one transaction: when this returns, they are on the disk for good.

        Args:
            batch: the photos, with the embeddings that the model made of them.
            model: name and fingerprint of that model; it becomes the gallery's where nothing was enrolled yet.
            link: leave the photos where they are, instead of copying their bytes into the gallery.
            corrected: hold to what was corrected since the names were given: follow renames and merges, and leave out
                what was removed. Else names are meant as they are, and a removed photo comes back.
            entry: the journal's entry that an earlier batch of the same command began; they are undone together.

        Returns:
            how each photo stands, in order, and the journal's entry, None as long as nothing was changed.

        Raises:
            ModelMismatch: the gallery holds embeddings of another model.
            GalleryError: the gallery cannot be written.
            ValueError: an embedding is not of the model's size, or not of unit length.
        """
        if not batch:
            return [], entry
        with self.records.explained():
            staged = [None] * len(batch) if link else self.store.stage([item.photo for item in batch])
        try:
            with self.records.write() as generation:
                model_row = self._model_for(model, len(batch[0].vector))
                writer = _Enroller(self, generation, model_row, corrected, entry)
                standings = [writer.add(item, file) for item, file in zip(batch, staged, strict=True)]
                self.store.settle(writer.settled)
                return standings, writer.entry
        finally:
            for file in staged:
                if file is not None:
                    file.unlink(missing_ok=True)

    def put_back(self, enrolled: EnrolledPhoto, photo: Photo) -> None:
        """Store an enrolled photo's bytes again, as they were when it was enrolled."""
        with self.records.explained():
            (staged,) = self.store.stage([photo])
        try:
            with self.records.write(changes=False):
                self.store.settle([(staged, enrolled.file.relative_to(self.folder).as_posix())])
        finally:
            staged.unlink(missing_ok=True)

    def rename(self, old: str, new: str) -> int:
        """Give an individual another name; returns the number of its photos.

        Raises:
            GalleryError: there is no such individual, the name is not fit, or another individual has it already.
        """
        new = individual_name(new)
        with self.records.write() as generation:
            source, target = self._individual_id(old), self._named(new)
            if source == target:
                raise GalleryError(f"{new!r} is its name already: give another one.")
            if self._is_enrolled(target):
                raise GalleryError(
                    f"There is already an individual {new!r}: if the two are one, use `petid merge {old!r} {new!r}`."
                )
            return self._move(generation, f"rename {old!r} to {new!r}", source, target)

    def merge(self, individual: str, into: str) -> int:
        """Put all photos of one individual under another, since the two are one; returns the number of photos moved.

        Raises:
            GalleryError: there is no such individual, or both are the same.
        """
        with self.records.write() as generation:
            source, target = self._individual_id(individual), self._individual_id(into)
            if source == target:
                raise GalleryError(f"{individual!r} cannot be merged into itself: name two individuals.")
            return self._move(generation, f"merge {individual!r} into {into!r}", source, target)

    def remove(self, individual: str, *, photo: str | None = None) -> int:
        """Take an individual, or one photo of it, out of the gallery; returns the number of photos removed.

        Nothing is deleted before `purge`: `undo` brings it back.

        Args:
            individual: its name.
            photo: the beginning of the sha256 of the only photo to remove.

        Raises:
            GalleryError: there is no such individual, or not exactly one such photo.
        """
        with self.records.write() as generation:
            owner = self._individual_id(individual)
            where, values = "active AND individual_id = ?", list[Any]([owner])
            what = f"remove {individual!r}"
            if photo is not None:
                where, values = f"{where} AND substr(sha256, 1, ?) = ?", [owner, len(photo), photo]
                found = int(self.records.value(f"SELECT count(*) FROM photos WHERE {where}", values))
                if found != 1:
                    raise GalleryError(
                        f"{found} photos of {individual!r} begin with {photo!r}: "
                        f"`petid show {individual!r}` lists them; name one by the beginning of its hash."
                    )
                what = f"remove photo {photo} of {individual!r}"
            entry = self._begin(what)
            self.records.db.execute(
                f"INSERT INTO changes SELECT ?, id, individual_id, active, individual_id, 0 FROM photos WHERE {where}",
                [entry, *values],
            )
            return self._apply(entry, generation, "after")

    def undo(self) -> tuple[str, int]:
        """Take back the latest change that was not taken back yet; returns what it was and how many photos it touched.

        Raises:
            GalleryError: there is nothing to undo, or its photos were changed again meanwhile.
        """
        with self.records.write() as generation:
            latest = self.records.db.execute(
                "SELECT id, action FROM journal j WHERE NOT undone "
                "AND EXISTS (SELECT 1 FROM changes WHERE entry_id = j.id) ORDER BY id DESC LIMIT 1"
            ).fetchone()
            if latest is None:
                raise GalleryError("There is nothing to undo.")
            entry, action = int(latest[0]), str(latest[1])
            touched = self.records.value(
                "SELECT count(*) FROM changes c JOIN photos p ON p.id = c.photo_id WHERE c.entry_id = ? "
                "AND (p.individual_id, p.active) IS NOT (c.individual_after, c.active_after)",
                [entry],
            )
            if touched:
                raise GalleryError(
                    f"{touched} photos of «{action}» were changed since by another command that ran beside it: "
                    "correct them with `petid remove`, `rename` or `merge`."
                )
            count = self._apply(entry, generation, "before")
            self.records.db.execute(
                "UPDATE individuals SET moved_to = NULL "
                "WHERE id IN (SELECT individual_before FROM changes WHERE entry_id = ?)",
                [entry],
            )
            self.records.db.execute("UPDATE journal SET undone = 1 WHERE id = ?", [entry])
            return action, count

    def purge(self) -> int:
        """Delete for good what was removed, and the embeddings of models no longer used; returns the photos deleted.

        Linked photos stay where they are. Nothing done before can be undone afterwards.
        """
        with self.records.write() as generation:
            removed = list(self.removed_photos())
            stored = [photo.file.relative_to(self.folder).as_posix() for photo in removed if not photo.linked]
            self.records.db.execute("DELETE FROM changes")
            self.records.db.execute(
                "DELETE FROM embeddings WHERE photo_id IN (SELECT id FROM photos WHERE NOT active) "
                "OR model_id IS NOT (SELECT value FROM state WHERE key = 'model')"
            )
            self.records.db.execute("DELETE FROM signatures WHERE photo_id IN (SELECT id FROM photos WHERE NOT active)")
            self.records.db.execute("DELETE FROM photos WHERE NOT active")
            self.records.db.execute(
                "DELETE FROM individuals WHERE id NOT IN (SELECT individual_id FROM photos) "
                "AND (moved_to IS NULL OR moved_to NOT IN (SELECT id FROM individuals))"
            )
            for table in ("vector_files", "calibrations", "meetings"):
                self.records.db.execute(f"DELETE FROM {table} WHERE model_id NOT IN (SELECT model_id FROM embeddings)")
            # A FAISS file from before would not learn of the deleted rows from what changed since.
            self.records.db.execute("UPDATE state SET value = ? WHERE key = 'purged'", [generation])
            self._begin("purge")
        # Only now, since a file without a row does no harm and a row without a file would; and under the lock again,
        # since somebody may have enrolled one of these photos anew.
        self.delete_unnamed(stored)
        self.index.save()
        return len(removed)

    def delete_unnamed(self, files: Iterable[str]) -> int:
        """Delete those of these stored photos that no row names; returns how many.

        Whoever settles files holds the write lock until their rows are there: under it, no file is about to be named.
        """
        with self.records.write(changes=False):
            named = {row[0] for row in self.records.select("SELECT stored FROM photos WHERE stored IS NOT NULL")}
            unnamed = [file for file in files if file not in named]
            for file in unnamed:
                self.store.delete(file)
        return len(unnamed)

    def owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every enrolled photo's id and its individual's, (photos,) each, by individual; those with an embedding."""
        model = self.model
        rows = self.records.select(
            "SELECT p.id, p.individual_id FROM photos p CROSS JOIN embeddings e ON e.photo_id = p.id "
            "WHERE p.active AND e.model_id = ? AND e.crop = ? ORDER BY p.individual_id, p.id",
            [None if model is None else model.id, WHOLE],
        )
        both = np.array(list(rows), np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def embeddings(self, photo_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The embeddings of some photos, float32, (n, d), in their order.

        Raises:
            KeyError: one of the photos has none.
        """
        model = self.model
        rows = self.records.select(
            "SELECT e.photo_id, e.vector FROM json_each(?) j CROSS JOIN embeddings e ON e.photo_id = j.value "
            "WHERE e.model_id = ? AND e.crop = ?",
            [json.dumps(photo_ids.tolist()), None if model is None else model.id, WHOLE],
        )
        vectors = {int(photo_id): bytes(vector) for photo_id, vector in rows}
        ordered = b"".join(vectors[photo_id] for photo_id in photo_ids.tolist())
        dimension = 0 if model is None else model.dimension
        return np.frombuffer(ordered, "<f4").reshape(len(photo_ids), dimension)

    def blocks(self) -> Iterator[Block]:
        """All embeddings of enrolled photos, a few thousand at a time, individuals whole.

        What is written while this runs may or may not be among them.
        """
        model = self.model
        if model is None:
            return
        # CROSS JOIN walks along the index of individuals; else all embeddings would be sorted in memory first.
        cursor = self.records.select(
            "SELECT p.individual_id, p.id, e.vector FROM photos p CROSS JOIN embeddings e ON e.photo_id = p.id "
            "WHERE p.active AND e.model_id = ? AND e.crop = ? ORDER BY p.individual_id, p.id",
            [model.id, WHOLE],
        )
        rows: list[tuple[Any, ...]] = []
        for row in cursor:
            if len(rows) >= _BLOCK and row[0] != rows[-1][0]:
                yield block_of(rows)
                rows = []
            rows.append(row)
        if rows:
            yield block_of(rows)

    # Near-identical photos

    def signatures_after(self, last: int, way: int, length: int) -> Iterator[tuple[int, int, bytes]]:
        """What was written after a row of signatures, made in this way: row, ascending, photo's id, its first bytes.

        Photos that were removed are among them.
        """
        for row in self.records.select(
            "SELECT id, photo_id, substr(vector, 1, ?) FROM signatures WHERE id > ? AND way = ? ORDER BY id",
            [length, last, way],
        ):
            yield int(row[0]), int(row[1]), bytes(row[2])

    def signatures_of(self, photo_ids: Iterable[int], way: int) -> Iterator[tuple[int, bytes]]:
        """Of some photos, those that have a signature made in this way, and it."""
        for row in self.records.select(
            "SELECT s.photo_id, s.vector FROM json_each(?) j CROSS JOIN signatures s ON s.photo_id = j.value "
            "WHERE s.way = ?",
            [json.dumps(list(photo_ids)), way],
        ):
            yield int(row[0]), bytes(row[1])

    def without_signature(self, way: int, after: int, count: int) -> list[EnrolledPhoto]:
        """Photos, removed ones included, that have no signature: the first `count` with an id above `after`."""
        return list(
            self._photos_where(
                "p.id > ? AND NOT EXISTS (SELECT 1 FROM signatures s WHERE s.photo_id = p.id AND s.way = ?)",
                [after, way],
                limit=count,
            )
        )

    def add_signatures(self, way: int, signatures: Mapping[str, bytes]) -> None:
        """Keep photos' signatures, by sha256, in one transaction; unless a photo was purged meanwhile."""
        with self.records.write(changes=False):
            for sha256, vector in signatures.items():
                self.records.db.execute(
                    "INSERT OR REPLACE INTO signatures (photo_id, way, vector) "
                    "SELECT id, ?, ? FROM photos WHERE sha256 = ?",
                    [way, vector, sha256],
                )

    # Other models

    def add_model(self, name: str, fingerprint: str, dimension: int) -> GalleryModel:
        """Make a model known to the gallery, without switching over to it."""
        with self.records.write():
            return self._known_model(name, fingerprint, dimension)

    def without_embedding(self, model: GalleryModel, after: int, count: int) -> list[EnrolledPhoto]:
        """Photos, removed ones included, that a model has not embedded: the first `count` with an id above `after`."""
        return list(
            self._photos_where(
                "p.id > ? AND NOT EXISTS "
                "(SELECT 1 FROM embeddings e WHERE e.model_id = ? AND e.photo_id = p.id AND e.crop = ?)",
                [after, model.id, WHOLE],
                limit=count,
            )
        )

    def count_without_embedding(self, model: GalleryModel) -> int:
        """How many photos, removed ones included, a model has not embedded."""
        return int(
            self.records.value(
                "SELECT count(*) FROM photos p WHERE NOT EXISTS "
                "(SELECT 1 FROM embeddings e WHERE e.model_id = ? AND e.photo_id = p.id AND e.crop = ?)",
                [model.id, WHOLE],
            )
        )

    def add_embeddings(self, model: GalleryModel, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep embeddings that a model made of photos, by the photo's sha256, in one transaction.

        Raises:
            ValueError: an embedding is not of the model's size, or not of unit length.
        """
        with self.records.write() as generation:
            for sha256, vector in vectors.items():
                self._insert_embedding(model, sha256, vector)
            if model == self.model:
                self.records.db.execute(
                    "UPDATE photos SET changed = ? WHERE sha256 IN (SELECT value FROM json_each(?))",
                    [generation, json.dumps(list(vectors))],
                )

    def switch_model(self, model: GalleryModel) -> bool:
        """Make another model the gallery's, in one transaction, if it has embedded every photo; else False."""
        with self.records.write() as generation:
            if self.count_without_embedding(model):
                return False
            if self.model == model:
                return True
            self.records.db.execute("INSERT OR REPLACE INTO state (key, value) VALUES ('model', ?)", [model.id])
            self.records.db.execute("INSERT OR REPLACE INTO state (key, value) VALUES ('switched', ?)", [generation])
            self._begin(f"reindex with {model.name!r}")
            return True

    # Calibration

    def calibration_row(self, model: GalleryModel) -> dict[str, Any] | None:
        """What was stored by `save_calibration` for a model, or None."""
        return next(self.records.rows("SELECT * FROM calibrations WHERE model_id = ?", [model.id]), None)

    def meeting_row(self, model: GalleryModel) -> dict[str, Any] | None:
        """What was stored by `save_meeting` for a model, or None.

        One of before the gallery's model was switched is of no use: `changed` does not tell of the embeddings by a
        model that came while it was not the gallery's.
        """
        since = self.records.state("switched") or 0
        rows = self.records.rows("SELECT * FROM meetings WHERE model_id = ? AND generation >= ?", [model.id, since])
        return next(rows, None)

    def changed(self, generation: int) -> NDArray[np.int64]:
        """Ids of the photos that were enrolled, removed, given to another individual or embedded anew since then.

        Those that were removed and purged since are not among them.
        """
        rows = self.records.select("SELECT id FROM photos WHERE changed > ?", [generation])
        return np.fromiter((row[0] for row in rows), np.int64)

    def count_changed(self, generation: int) -> int:
        """How many photos were enrolled, removed or given to another individual since a generation."""
        return int(self.records.value("SELECT count(*) FROM photos WHERE changed > ?", [generation]))

    def save_calibration(self, model: GalleryModel, *, rule: str, generation: int, photos: int, samples: bytes) -> None:
        """Keep a calibration: the rule, generation and number of photos that it was made of, and its samples."""
        with self.records.write(changes=False):
            self.records.db.table("calibrations").upsert(
                {
                    "model_id": model.id,
                    "rule": rule,
                    "generation": generation,
                    "photos": photos,
                    "at": _now(),
                    "samples": samples,
                },
                pk="model_id",
            )

    def save_meeting(self, model: GalleryModel, *, rule: str, generation: int, met: bytes) -> None:
        """Keep what the probes of a calibration met, under this rule and at this generation."""
        with self.records.write(changes=False):
            self.records.db.table("meetings").upsert(
                {"model_id": model.id, "rule": rule, "generation": generation, "met": met}, pk="model_id"
            )

    # Inside

    def _photos_where(self, where: str, values: list[Any], limit: int = -1) -> Iterator[EnrolledPhoto]:
        rows = self.records.select(
            "SELECT p.id, p.sha256, i.name, p.stored, p.source, p.enrolled_at, p.active "
            f"FROM photos p JOIN individuals i ON i.id = p.individual_id WHERE {where} ORDER BY p.id LIMIT ?",
            [*values, limit],
        )
        for photo_id, sha256, name, stored, source, at, active in rows:
            file = Path(source) if stored is None else self.store.place_of(stored)
            yield EnrolledPhoto(photo_id, sha256, name, file, Path(source), at, stored is None, not active)

    def _individual_id(self, name: str) -> int:
        row = next(
            self.records.select("SELECT id FROM individuals WHERE name = ?", [unicodedata.normalize("NFC", name)]), None
        )
        if row is None or not self._is_enrolled(row[0]):
            raise GalleryError(f"No individual {_short(name)!r} is enrolled: `petid list` names all that are.")
        return int(row[0])

    def _is_enrolled(self, individual: int) -> bool:
        """Whether an individual has a photo that was not removed."""
        return bool(
            self.records.value("SELECT EXISTS (SELECT 1 FROM photos WHERE individual_id = ? AND active)", [individual])
        )

    def _named(self, name: str) -> int:
        """The id of an individual with this name, made if there is none."""
        row = self.records.db.execute("SELECT id FROM individuals WHERE name = ?", [name]).fetchone()
        if row is None:
            row = self.records.db.execute("INSERT INTO individuals (name) VALUES (?) RETURNING id", [name]).fetchone()
        return int(row[0])

    def _model_for(self, model: tuple[str, str], dimension: int) -> GalleryModel:
        """The gallery's model, which must be this one, or becomes it where there is none."""
        name, fingerprint = model
        current = self.model
        if current is None:
            current = self._known_model(name, fingerprint, dimension)
            self.records.db.execute("INSERT INTO state (key, value) VALUES ('model', ?)", [current.id])
        if current.fingerprint != fingerprint:
            raise ModelMismatch(current.name, name)
        return current

    def _known_model(self, name: str, fingerprint: str, dimension: int) -> GalleryModel:
        """The model of this fingerprint, under the name that the gallery first knew it by."""
        self.records.db.execute(
            "INSERT OR IGNORE INTO models (name, fingerprint, dimension) VALUES (?, ?, ?)",
            [name, fingerprint, dimension],
        )
        return GalleryModel(**next(self.records.rows("SELECT * FROM models WHERE fingerprint = ?", [fingerprint])))

    def _insert_embedding(self, model: GalleryModel, sha256: str, vector: NDArray[np.float32]) -> None:
        """Keep the embedding of a photo, unless the photo was purged meanwhile."""
        length = float(np.linalg.norm(vector))
        if vector.shape != (model.dimension,) or not abs(length - 1.0) < UNIT_TOLERANCE:
            raise ValueError(
                f"Expected an embedding of {model.dimension} numbers and length 1. "
                f"Received: shape {vector.shape}, length {length:g}."
            )
        self.records.db.execute(
            "INSERT OR IGNORE INTO embeddings (model_id, photo_id, crop, vector) "
            "SELECT ?, id, ?, ? FROM photos WHERE sha256 = ?",
            [model.id, WHOLE, np.ascontiguousarray(vector, "<f4").tobytes(), sha256],
        )

    def _begin(self, action: str) -> int:
        """Begin an entry of the journal."""
        row = self.records.db.execute(
            "INSERT INTO journal (at, action) VALUES (?, ?) RETURNING id", [_now(), action]
        ).fetchone()
        return int(row[0])

    def _move(self, generation: int, action: str, source: int, target: int) -> int:
        entry = self._begin(action)
        self.records.db.execute(
            "INSERT INTO changes SELECT ?, id, individual_id, active, ?, active "
            "FROM photos WHERE active AND individual_id = ?",
            [entry, target, source],
        )
        self.records.db.execute("UPDATE individuals SET moved_to = NULL WHERE id = ?", [target])
        self.records.db.execute("UPDATE individuals SET moved_to = ? WHERE id = ?", [target, source])
        return self._apply(entry, generation, "after")

    def _apply(self, entry: int, generation: int, side: Literal["before", "after"]) -> int:
        """Bring an entry's photos to how they were before it, or are after it."""
        return self.records.db.execute(
            f"UPDATE photos SET individual_id = c.individual_{side}, active = c.active_{side}, changed = ? "
            "FROM changes c WHERE c.photo_id = photos.id AND c.entry_id = ?",
            [generation, entry],
        ).rowcount


class _Enroller:
    """The photos of one batch, written row by row inside the transaction that enrols them."""

    def __init__(
        self, gallery: Gallery, generation: int, model: GalleryModel, corrected: bool, entry: int | None
    ) -> None:
        self._gallery = gallery
        self._db = gallery.records.db
        self._generation = generation
        self._model = model
        self._corrected = corrected
        self._names: dict[str, tuple[int, str]] = {}
        self.entry = entry
        self.settled: list[tuple[Path, str]] = []
        if entry is not None and self._db.execute("SELECT undone FROM journal WHERE id = ?", [entry]).fetchone()[0]:
            self.entry = None  # undone by somebody while the command runs: what follows is a change of its own

    def add(self, item: Enrolment, staged: Path | None) -> Standing:
        photo = item.photo
        row = self._db.execute(
            "SELECT p.id, p.active, p.individual_id, i.name, p.stored FROM photos p "
            "JOIN individuals i ON i.id = p.individual_id WHERE p.sha256 = ?",
            [photo.sha256],
        ).fetchone()
        individual, name = self._individual(item.individual)
        if row is not None and row[1]:
            return Standing("known" if row[3] == name else "refused", str(row[3]))
        if row is not None and self._corrected and self._was_removed(row[0]):
            return Standing("removed", str(row[3]))
        stored = None if staged is None else self._gallery.store.name_of(photo)
        source = str(photo.path.absolute())
        if row is None:
            photo_id = self._db.execute(
                "INSERT INTO photos (sha256, individual_id, source, stored, active, enrolled_at, changed) "
                "VALUES (?, ?, ?, ?, 1, ?, ?) RETURNING id",
                [photo.sha256, individual, source, stored, _now(), self._generation],
            ).fetchone()[0]
            before = individual
        else:  # removed before and enrolled again, maybe from elsewhere
            photo_id, before = row[0], row[2]
            stored = row[4] or stored
            self._db.execute(
                "UPDATE photos SET individual_id = ?, source = ?, stored = ?, active = 1, changed = ? WHERE id = ?",
                [individual, source, stored, self._generation, photo_id],
            )
            if self._db.execute("SELECT max(id) FROM journal").fetchone()[0] != self.entry:
                # It may have been removed since this command began. `undo` goes back entry by entry, so that the
                # photo's return has to stand after its removal.
                self.entry = None
        self._gallery._insert_embedding(self._model, photo.sha256, item.vector)
        if self.entry is None:
            self.entry = self._gallery._begin("enroll")
        self._db.execute("INSERT INTO changes VALUES (?, ?, ?, 0, ?, 1)", [self.entry, photo_id, before, individual])
        if staged is not None and stored is not None:
            self.settled.append((staged, stored))
        return Standing("enrolled", name)

    def _was_removed(self, photo_id: int) -> bool:
        """Whether somebody removed the photo; not, where its enrolment was undone."""
        removals = self._db.execute(
            "SELECT 1 FROM changes c JOIN journal j ON j.id = c.entry_id "
            "WHERE c.photo_id = ? AND c.active_before AND NOT c.active_after AND NOT j.undone",
            [photo_id],
        )
        return removals.fetchone() is not None

    def _individual(self, said: str) -> tuple[int, str]:
        if said not in self._names:
            name = self._gallery.corrected_name(said) if self._corrected else said
            self._names[said] = (self._gallery._named(name), name)
        return self._names[said]


def individual_name(text: str) -> str:
    """A name as the gallery keeps it: in Unicode's composed form, without blanks around it.

    Raises:
        GalleryError: it is empty, longer than 200 characters, or holds a control character.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise GalleryError("An individual needs a name: give one with --as NAME.")
    if len(name) > _LONGEST_NAME:
        raise GalleryError(
            f"The name {_short(name)!r} has {len(name)} characters, more than {_LONGEST_NAME}: give a shorter one."
        )
    if any(unicodedata.category(sign) in _UNFIT and sign not in _JOINERS for sign in name):
        raise GalleryError(f"The name {_short(name)!r} holds a control character: give one without.")
    return name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
