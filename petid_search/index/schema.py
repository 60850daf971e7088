"""The gallery's tables, grown by named, ordered steps. A step that was released is never edited."""

import sqlite3
import time
from pathlib import Path
from typing import Final

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from petid_search.errors import GalleryError

APPLICATION_ID: Final = 0x50455449  # "PETI": tells a gallery from any other SQLite file
BUSY_TIMEOUT_S: Final = 60.0

migrations = Migrations("petid.gallery")


def connect(file: Path) -> Database:
    """Open the SQLite file of a gallery, made and brought to the newest schema where needed.

    The write-ahead log lets others read while one writes; `synchronous=FULL` makes a commit outlast a power cut.
    Connections may be handed from thread to thread, one at a time.

    Raises:
        GalleryError: the file is not one of petid's.
        sqlite3.Error: the file cannot be used.
    """
    connection = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    try:
        _refuse_strange(connection, file)
        # An embedding has 2 to 8 kB: on the default pages of 4 kB half of each would stay empty.
        connection.execute("PRAGMA page_size = 16384")
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        database = Database(connection)
        newest = {migration.name for migration in migrations._migrations}
        if any(applied.name not in newest for applied in migrations.applied(database)):
            raise GalleryError(f"{file} was made by a newer petid: install that one.")
        if migrations.pending(database):
            _migrate(database)
    except BaseException:
        connection.close()
        raise
    return database


def _refuse_strange(connection: sqlite3.Connection, file: Path) -> None:
    """Raise if the file is no gallery, before anything is written to it.

    It is SQLite that has to look: were the file opened beside it, closing that handle would give up all locks that
    this process's other connections hold, and another process would delete the log that they go on writing to.

    Source: SQLite, "How To Corrupt An SQLite Database File", 2.2.
    """
    try:
        connection.execute("BEGIN")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        connection.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise GalleryError(f"{file} is not a gallery: name another folder with --gallery.") from error
    # A new gallery has neither an application nor tables yet.
    if application != APPLICATION_ID and (application, tables) != (0, 0):
        raise GalleryError(f"{file} belongs to another program: name another folder with --gallery.")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Bring a file to the write-ahead log, where it stays."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # Of two that bring a new file there at once SQLite refuses one without waiting: each waits for the other.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _migrate(database: Database) -> None:
    # Of two processes that open a new gallery at once, one migrates and the other finds it done.
    database.conn.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(database)
        database.conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    except BaseException:
        database.rollback()
        raise
    database.commit()


@migrations()
def m001_individuals_photos_embeddings(db: Database) -> None:
    """An individual has photos; a photo is known by its bytes; an embedding by its photo, crop and model."""
    db.table("models").create(
        {"id": int, "name": str, "fingerprint": str, "dimension": int},
        pk="id",
        not_null={"name", "fingerprint", "dimension"},
    )
    db.table("models").create_index(["fingerprint"], unique=True)

    # `moved_to`: whom a rename or merge made of it; a folder that still has the old name shows that one.
    db.table("individuals").create({"id": int, "name": str, "moved_to": int}, pk="id", not_null={"name"})
    db.table("individuals").create_index(["name"], unique=True)

    db.table("photos").create(
        {
            "id": int,
            "sha256": str,
            "individual_id": int,
            "source": str,  # where the photo was when it was enrolled
            "stored": str,  # its copy, relative to the gallery; NULL where it is linked and stays at `source`
            "active": int,
            "enrolled_at": str,
            "changed": int,  # the generation that last changed what the search must know of it
        },
        pk="id",
        foreign_keys=[("individual_id", "individuals", "id")],
        not_null={"sha256", "individual_id", "source", "active", "enrolled_at", "changed"},
    )
    db.table("photos").create_index(["sha256"], unique=True)
    db.table("photos").create_index(["individual_id"])
    db.table("photos").create_index(["changed"])

    db.table("embeddings").create(
        {"id": int, "model_id": int, "photo_id": int, "crop": str, "vector": bytes},
        pk="id",
        foreign_keys=[("model_id", "models", "id"), ("photo_id", "photos", "id")],
        not_null={"model_id", "photo_id", "crop", "vector"},
    )
    db.table("embeddings").create_index(["model_id", "photo_id", "crop"], unique=True)


@migrations()
def m002_state(db: Database) -> None:
    """What is true of the whole gallery: its generation and its model."""
    db.table("state").create({"key": str, "value": int}, pk="key", not_null={"value"})
    db.table("state").insert_all([{"key": "generation", "value": 0}, {"key": "purged", "value": 0}])


@migrations()
def m003_journal(db: Database) -> None:
    """Every change of the herd book: which photos moved from which individual, in or out, so that it can be undone."""
    db.table("journal").create(
        {"id": int, "at": str, "action": str, "undone": int},
        pk="id",
        not_null={"at", "action", "undone"},
        defaults={"undone": 0},
    )
    db.table("changes").create(
        {
            "entry_id": int,
            "photo_id": int,
            "individual_before": int,
            "active_before": int,
            "individual_after": int,
            "active_after": int,
        },
        pk=("entry_id", "photo_id"),
        foreign_keys=[("entry_id", "journal", "id"), ("photo_id", "photos", "id")],
        not_null={"individual_before", "active_before", "individual_after", "active_after"},
    )


@migrations()
def m004_derived(db: Database) -> None:
    """What is derived and may be lost: the FAISS file that this gallery wrote, and its calibration."""
    db.table("vector_files").create(
        {"model_id": int, "file": str, "sha256": str, "generation": int},
        pk="model_id",
        foreign_keys=[("model_id", "models", "id")],
        not_null={"file", "sha256", "generation"},
    )
    db.table("calibrations").create(
        {"model_id": int, "rule": str, "generation": int, "photos": int, "at": str, "samples": bytes},
        pk="model_id",
        foreign_keys=[("model_id", "models", "id")],
        not_null={"rule", "generation", "photos", "at", "samples"},
    )


@migrations()
def m005_signatures(db: Database) -> None:
    """What tells quickly whether two photos may be one picture; derived from the photos, by a way that has a number."""
    db.table("signatures").create(
        {"id": int, "photo_id": int, "way": int, "vector": bytes},  # a later id was written later
        pk="id",
        foreign_keys=[("photo_id", "photos", "id")],
        not_null={"photo_id", "way", "vector"},
    )
    db.table("signatures").create_index(["photo_id"], unique=True)


@migrations()
def m006_meetings(db: Database) -> None:
    """What the probes of a calibration met, so that only changes have to be compared; derived, and may be lost."""
    db.table("meetings").create(
        {"model_id": int, "rule": str, "generation": int, "met": bytes},
        pk="model_id",
        foreign_keys=[("model_id", "models", "id")],
        not_null={"rule", "generation", "met"},
    )
