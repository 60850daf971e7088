"""One connection to a gallery's SQLite file: its transactions, and its errors said so that one knows what to do."""

import errno
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlite_utils import Database

from petid_search.errors import GalleryError
from petid_search.images import GALLERY_FILE
from petid_search.index.schema import connect

DATABASE: Final = GALLERY_FILE
WHOLE: Final = "whole"
"""The crop of an embedding that was made of the whole photo; so far there is no other."""


@dataclass(frozen=True, slots=True)
class GalleryModel:
    """The model whose embeddings a gallery holds."""

    id: int
    name: str
    fingerprint: str
    dimension: int


class Records:
    """The rows of a gallery, read and written in transactions.

    Args:
        folder: the gallery's folder.
        create: make the file where there is none.

    Raises:
        GalleryError: there is no gallery in the folder and `create` is False, or the file there is not one.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
        file = folder / DATABASE
        with self.explained():
            if not create and not file.exists():
                raise GalleryError(
                    f"There is no gallery in {folder}: make one with `petid enroll PHOTOS`, or name one with --gallery."
                )
            folder.mkdir(parents=True, exist_ok=True)
            self.db: Database = connect(file)

    @property
    def generation(self) -> int:
        """A number that grows with every change of the gallery."""
        return self.state("generation") or 0

    @property
    def model(self) -> GalleryModel | None:
        """The model whose embeddings are compared; None while nothing was enrolled."""
        rows = self.rows("SELECT m.* FROM models m JOIN state s ON s.value = m.id WHERE s.key = 'model'")
        return next((GalleryModel(**row) for row in rows), None)

    def state(self, key: str) -> int | None:
        """A number that is true of the whole gallery, or None where it was never set."""
        row = next(self.select("SELECT value FROM state WHERE key = ?", [key]), None)
        return None if row is None else int(row[0])

    def value(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """The only value of the only row that a query gives."""
        return next(self.select(sql, values))[0]

    def select(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, read as they are asked for."""
        with self.explained():
            yield from self.db.execute(sql, values)

    def rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[dict[str, Any]]:
        """The rows of a query, by column."""
        with self.explained():
            yield from self.db.query(sql, values)

    @contextmanager
    def read(self) -> Iterator[None]:
        """One state of the gallery for several reads, whatever is written meanwhile; may stand inside another."""
        if self.db.conn.in_transaction:
            yield
            return
        with self.explained():
            self.db.begin()
            try:
                yield
            finally:
                self.db.rollback()

    @contextmanager
    def write(self, *, changes: bool = True) -> Iterator[int]:
        """A transaction that holds the write lock from its beginning; yields the generation that it makes."""
        with self.explained():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                if changes:
                    self.db.execute("UPDATE state SET value = value + 1 WHERE key = 'generation'")
                yield self.generation
                self.db.commit()
            except BaseException:
                self.db.rollback()
                raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        """SQLite's and the disk's errors, said in a line that tells what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise GalleryError(self._explanation(error)) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise GalleryError(self._no_space()) from error
            reason = error.strerror or error
            raise GalleryError(
                f"The gallery {self.folder} cannot be used ({reason}): check the folder and its rights."
            ) from error

    def _no_space(self) -> str:
        return f"No space is left for the gallery {self.folder}: free some and run again; nothing enrolled is lost."

    def _explanation(self, error: sqlite3.Error) -> str:
        # The low byte of SQLite's extended code is the primary one: SQLITE_READONLY_DIRECTORY is a SQLITE_READONLY.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return self._no_space()
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"Another process has been writing to {self.folder} for a minute: run again when it is done."
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
            return f"The gallery {self.folder} may not be written: give yourself the right to write there."
        return f"The gallery {self.folder} cannot be used ({error}): run `petid check`, or restore it from a backup."
