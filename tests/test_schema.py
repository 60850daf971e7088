"""The tables: grown from any earlier step without losing a row, by one process at a time."""

import sqlite3
import subprocess
import sys
import time

import pytest
from herd import MODEL, put, sha256_of, vector_of
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from petid_search.index import schema, upkeep
from petid_search.index.gallery import Gallery
from petid_search.index.records import DATABASE

STEPS = [step.name for step in schema.migrations.pending(Database(memory=True))]


def tables_of(file):
    with sqlite3.connect(file) as connection:
        tables = dict(connection.execute("SELECT name, sql FROM sqlite_schema"))
    connection.close()
    return tables


def rows_of(file):
    with sqlite3.connect(file) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        }


@pytest.mark.parametrize("step", STEPS)
def test_a_gallery_of_any_earlier_step_keeps_every_row(tmp_path, step):
    """A gallery is filled, and taken back to how it was before a step; then it is opened again."""
    with Gallery(tmp_path / "new", create=True) as gallery:
        put(gallery, [(1, "Rex"), (2, "Bo"), (3, "Bo")])
        gallery.rename("Rex", "Max")
    rows = rows_of(tmp_path / "new" / DATABASE)
    old = tmp_path / "old" / DATABASE
    old.parent.mkdir()
    with sqlite3.connect(old) as connection:
        database = Database(connection)
        schema.migrations.apply(database, stop_before=step)
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        kept = {table: rows[table] for table in database.table_names() if not table.startswith("_")}
        for table, content in kept.items():
            connection.execute(f"DELETE FROM {table}")
            if content:
                places = ",".join("?" * len(content[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({places})", content)
    connection.close()

    with Gallery(old.parent) as opened:
        assert upkeep.damage(opened) == []
        migrated = rows_of(old)
        assert {table: migrated[table] for table in kept} == kept
        if "photos" in kept:
            assert opened.individuals() == {"Bo": 2, "Max": 1}
        put(opened, [(4, "Ada")])
    assert tables_of(old) == tables_of(tmp_path / "new" / DATABASE)


def test_opening_a_gallery_of_the_newest_step_writes_nothing(gallery):
    put(gallery, [(1, "Rex")])
    gallery.close()
    before = (gallery.folder / DATABASE).read_bytes()
    Gallery(gallery.folder).close()
    assert (gallery.folder / DATABASE).read_bytes() == before


def test_a_step_that_fails_leaves_the_gallery_as_it_was(gallery, monkeypatch):
    put(gallery, [(1, "Rex")])
    gallery.close()
    file = gallery.folder / DATABASE
    before = (tables_of(file), rows_of(file))
    grown = Migrations("petid.gallery")
    grown._migrations = list(schema.migrations._migrations)

    @grown()
    def m998_good(db):
        db.table("good").create({"id": int}, pk="id")

    @grown()
    def m999_bad(db):
        db.execute("DELETE FROM embeddings")
        db.execute("SELECT * FROM nowhere")

    monkeypatch.setattr(schema, "migrations", grown)
    with pytest.raises(Exception, match="nowhere"):
        Gallery(gallery.folder)
    assert (tables_of(file), rows_of(file)) == before
    monkeypatch.undo()
    with Gallery(gallery.folder) as reopened:
        assert reopened.individuals() == {"Rex": 1}


def test_processes_that_open_a_new_gallery_at_once_both_can_use_it(tmp_path):
    start = time.time() + 1.5
    script = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from herd import put
from petid_search.index.gallery import Gallery
start, number, folder = float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
for turn in range(15):
    while time.time() < start + 0.15 * turn:
        pass
    with Gallery(folder / str(turn), create=True) as gallery:
        assert put(gallery, [(number, f"pet {number}")]) == ["enrolled"]
"""
    tests = str(__file__).rpartition("/")[0]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(start), str(number), str(tmp_path), tests],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert errors == ["", "", ""]
    for turn in range(15):
        with Gallery(tmp_path / str(turn)) as gallery:
            assert gallery.individuals() == {f"pet {number}": 1 for number in range(3)}
            assert upkeep.damage(gallery) == []


def test_the_file_says_that_it_is_a_gallery_and_keeps_what_was_committed(gallery):
    put(gallery, [(1, "Rex")])
    pragma = {
        name: gallery.records.value(f"PRAGMA {name}")
        for name in ("application_id", "journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    }
    assert pragma == {
        "application_id": schema.APPLICATION_ID,
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 1000 * schema.BUSY_TIMEOUT_S,
    }


def test_a_gallery_whose_process_died_right_after_its_making_is_opened(tmp_path):
    """All of it is in the write-ahead log still: neither tables nor an application id are in the file."""
    script = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from herd import put
from petid_search.index.gallery import Gallery
gallery = Gallery(Path(sys.argv[1]), create=True)
put(gallery, [(1, "Rex")])
os._exit(9)
"""
    tests = str(__file__).rpartition("/")[0]
    assert subprocess.run([sys.executable, "-c", script, tmp_path, tests]).returncode == 9
    assert (tmp_path / DATABASE).read_bytes()[68:72] == bytes(4)
    with Gallery(tmp_path) as opened:
        assert opened.known([sha256_of(1)]) == {sha256_of(1): "Rex"}
        assert opened.model.fingerprint == MODEL[1]
        assert (next(opened.blocks()).vectors[0] == vector_of(1)).all()
