"""The herd book: what is enrolled, corrected, taken back and deleted, and that nothing is lost on the way."""

import random
import sqlite3
import unicodedata
from contextlib import contextmanager

import numpy as np
import pytest
from herd import MODEL, OTHER_MODEL, photo_of, put, sha256_of, vector_of

from petid_search.errors import GalleryError, ModelMismatch
from petid_search.index import upkeep
from petid_search.index.gallery import Enrolment, Gallery, Standing, individual_name
from petid_search.index.records import DATABASE


@pytest.fixture
def folder(tmp_path):
    """Where the photos lie before they are enrolled."""
    made = tmp_path / "source"
    made.mkdir()
    return made


def rows_of(gallery):
    """Every row of every table, and every file."""
    with sqlite3.connect(gallery.folder / DATABASE) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}
    connection.close()
    return rows, sorted(file for file in gallery.folder.rglob("*") if file.is_file() and file.parent != gallery.folder)


@contextmanager
def failing(gallery, event):
    """SQLite refuses this one statement, as a full disk might, when all before it in the transaction went well."""
    with sqlite3.connect(gallery.folder / DATABASE) as connection:
        connection.execute(f"CREATE TRIGGER failing {event} BEGIN SELECT RAISE(ABORT, 'no more'); END")
    yield
    with sqlite3.connect(gallery.folder / DATABASE) as connection:
        connection.execute("DROP TRIGGER failing")
    connection.close()


def journal_of(gallery):
    return [(row["action"], row["undone"]) for row in gallery.records.rows("SELECT * FROM journal ORDER BY id")]


def owners_of(gallery):
    return {photo.sha256: photo.individual for photo in gallery.photos()}


# Enrolling


def test_what_was_enrolled_is_there_after_reopening(gallery, folder):
    assert put(gallery, [(1, "Rex"), (2, "Rex"), (3, "Bo")], folder=folder) == ["enrolled"] * 3
    with Gallery(gallery.folder) as reopened:
        assert reopened.individuals() == {"Bo": 1, "Rex": 2}
        assert (reopened.count_photos(), reopened.count_individuals()) == (3, 2)
        assert [photo.sha256 for photo in reopened.photos("Rex")] == [sha256_of(1), sha256_of(2)]
        assert [photo.file.read_bytes() for photo in reopened.photos()] == [b"photo 1", b"photo 2", b"photo 3"]
        assert reopened.model.fingerprint == MODEL[1]
        vectors = np.concatenate([block.vectors for block in reopened.blocks()])
    assert np.array_equal(vectors, np.stack([vector_of(number) for number in (1, 2, 3)]))


def test_enrolling_a_photo_again_changes_nothing_and_says_so(gallery):
    put(gallery, [(1, "Rex")])
    before = rows_of(gallery)[0]
    assert put(gallery, [(1, "Rex")]) == ["known"]
    after = rows_of(gallery)[0]
    assert {table: rows for table, rows in after.items() if table != "state"} == {
        table: rows for table, rows in before.items() if table != "state"
    }


def test_a_photo_under_a_second_name_is_refused_with_the_first(gallery):
    put(gallery, [(1, "Rex")])
    batch = [Enrolment(photo_of(1, gallery.folder / "none"), "Bo", vector_of(1))]
    assert gallery.enroll(batch, model=MODEL) == ([Standing("refused", "Rex")], None)
    assert gallery.individuals() == {"Rex": 1}


def test_one_photo_under_two_names_in_one_batch_is_enrolled_once(gallery):
    assert put(gallery, [(1, "Rex"), (1, "Bo"), (1, "Rex")]) == ["enrolled", "refused", "known"]
    assert gallery.individuals() == {"Rex": 1}
    assert gallery.undo() == ("enroll", 1)


def test_an_empty_batch_changes_nothing(gallery):
    assert gallery.enroll([], model=MODEL, entry=None) == ([], None)
    assert (gallery.model, gallery.generation) == (None, 0)


def test_embeddings_of_another_model_are_refused_and_leave_nothing(gallery):
    put(gallery, [(1, "Rex")])
    before = rows_of(gallery)
    with pytest.raises(ModelMismatch, match="reindex"):
        gallery.enroll([Enrolment(photo_of(2, gallery.folder / "no"), "Bo", vector_of(2))], model=OTHER_MODEL)
    assert rows_of(gallery) == before


def test_all_batches_of_one_command_are_undone_together(gallery):
    _, entry = gallery.enroll([Enrolment(photo_of(1, gallery.folder / "no"), "Rex", vector_of(1))], model=MODEL)
    put(gallery, [(2, "Rex")], entry=entry)
    put(gallery, [(3, "Bo")])
    assert gallery.undo() == ("enroll", 1)
    assert gallery.undo() == ("enroll", 2)
    assert gallery.individuals() == {}


def test_what_a_command_enrols_after_it_was_undone_is_a_change_of_its_own(gallery):
    _, entry = gallery.enroll([Enrolment(photo_of(1, gallery.folder / "no"), "Rex", vector_of(1))], model=MODEL)
    gallery.undo()
    put(gallery, [(2, "Rex")], entry=entry)
    assert owners_of(gallery) == {sha256_of(2): "Rex"}
    assert gallery.undo() == ("enroll", 1)
    assert gallery.individuals() == {}


# Names


def test_a_name_is_the_same_composed_and_decomposed(gallery):
    composed, decomposed = (unicodedata.normalize(form, "Zoë Ångström") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert individual_name(f" {decomposed} ") == composed
    put(gallery, [(1, individual_name(decomposed))])
    assert put(gallery, [(1, individual_name(composed))]) == ["known"]
    for name in (composed, decomposed):
        assert [photo.individual for photo in gallery.photos(name)] == [composed]
    put(gallery, [(2, "Bo")])
    with pytest.raises(GalleryError, match="petid merge"):
        gallery.rename("Bo", decomposed)
    gallery.merge("Bo", decomposed)
    assert gallery.individuals() == {composed: 2}
    gallery.remove(decomposed)
    assert gallery.individuals() == {}


@pytest.mark.parametrize("name", ["a/b", "../Rex", "🐕", "Rex; DROP TABLE photos", "%", "Rex'\"", "x" * 200])
def test_any_name_of_a_person_is_kept_as_it_is(gallery, name):
    put(gallery, [(1, individual_name(name))])
    assert gallery.individuals() == {name: 1}
    gallery.rename(name, "Rex")
    gallery.rename("Rex", name)
    assert [photo.individual for photo in gallery.photos(name)] == [name]
    gallery.remove(name)
    gallery.undo()
    assert gallery.individuals() == {name: 1}


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0b", "x" * 201, "x" * 10_000, "\ud800"])
def test_a_name_that_is_not_fit_is_refused_in_one_line(gallery, name):
    with pytest.raises(GalleryError) as refused:
        individual_name(name)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200
    put(gallery, [(1, "Rex")])
    with pytest.raises(GalleryError):
        gallery.rename("Rex", name)
    assert gallery.individuals() == {"Rex": 1}


def test_a_name_that_nobody_has_is_answered_with_where_names_are_listed(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo")])
    gallery.remove("Bo")
    for attempt in (
        lambda: gallery.photos("Bo"),
        lambda: gallery.rename("Bo", "Ada"),
        lambda: gallery.merge("Bo", "Rex"),
        lambda: gallery.merge("Rex", "Bo"),
        lambda: gallery.remove("Bo"),
        lambda: gallery.remove("x" * 10_000),
    ):
        with pytest.raises(GalleryError, match="petid list") as refused:
            attempt()
        assert len(str(refused.value)) < 200
    assert gallery.individuals() == {"Rex": 1}


# Correcting and taking back


def test_rename_moves_all_photos_and_undo_moves_them_back(gallery):
    put(gallery, [(1, "Rex"), (2, "Rex"), (3, "Bo")])
    before = owners_of(gallery)
    assert gallery.rename("Rex", "Max") == 2
    assert gallery.individuals() == {"Bo": 1, "Max": 2}
    assert gallery.undo() == ("rename 'Rex' to 'Max'", 2)
    assert owners_of(gallery) == before


def test_rename_to_a_name_that_is_taken_offers_merge_and_changes_nothing(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo")])
    before = rows_of(gallery)
    with pytest.raises(GalleryError, match="petid merge 'Rex' 'Bo'"):
        gallery.rename("Rex", "Bo")
    assert rows_of(gallery) == before


def test_rename_to_its_own_name_says_that_nothing_is_to_be_done(gallery):
    put(gallery, [(1, "Rex")])
    with pytest.raises(GalleryError, match="already"):
        gallery.rename("Rex", "Rex")
    with pytest.raises(GalleryError) as refused:
        gallery.rename("Rex", " Rex ")
    assert "merge" not in str(refused.value)


def test_merge_undone_gives_each_its_own_photos_again(gallery):
    put(gallery, [(1, "Rex"), (2, "Rex"), (3, "Bo")])
    before = owners_of(gallery)
    assert gallery.merge("Rex", "Bo") == 2
    assert gallery.individuals() == {"Bo": 3}
    assert gallery.undo() == ("merge 'Rex' into 'Bo'", 2)
    assert owners_of(gallery) == before


def test_an_individual_is_not_merged_into_itself(gallery):
    put(gallery, [(1, "Rex")])
    with pytest.raises(GalleryError, match="itself"):
        gallery.merge("Rex", "Rex")


def test_merge_then_rename_are_undone_one_after_the_other(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo"), (3, "Bo")])
    start = owners_of(gallery)
    gallery.merge("Rex", "Bo")
    merged = owners_of(gallery)
    gallery.rename("Bo", "Rex")
    assert gallery.individuals() == {"Rex": 3}
    gallery.undo()
    assert owners_of(gallery) == merged
    gallery.undo()
    assert owners_of(gallery) == start
    assert journal_of(gallery) == [("enroll", 0), ("merge 'Rex' into 'Bo'", 1), ("rename 'Bo' to 'Rex'", 1)]


def test_a_photo_added_after_a_merge_stays_where_it_was_put_when_the_merge_is_undone(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo")])
    gallery.merge("Rex", "Bo")
    put(gallery, [(3, "Bo")])
    gallery.undo()
    gallery.undo()
    assert owners_of(gallery) == {sha256_of(1): "Rex", sha256_of(2): "Bo"}


def test_a_removed_individual_comes_back_with_undo(gallery, folder):
    put(gallery, [(1, "Rex"), (2, "Rex"), (3, "Bo")], folder=folder)
    assert gallery.remove("Rex") == 2
    assert gallery.individuals() == {"Bo": 1}
    assert (gallery.count_photos(), gallery.count_individuals()) == (1, 1)
    assert gallery.known([sha256_of(number) for number in (1, 2, 3)]) == {sha256_of(3): "Bo"}
    assert gallery.undo() == ("remove 'Rex'", 2)
    assert gallery.individuals() == {"Bo": 1, "Rex": 2}
    assert all(photo.file.is_file() for photo in gallery.photos())


def test_one_photo_is_removed_by_the_beginning_of_its_hash(gallery):
    put(gallery, [(1, "Rex"), (2, "Rex"), (3, "Bo")])
    assert gallery.remove("Rex", photo=sha256_of(1)[:12]) == 1
    assert owners_of(gallery) == {sha256_of(2): "Rex", sha256_of(3): "Bo"}
    gallery.undo()
    assert gallery.individuals() == {"Bo": 1, "Rex": 2}


@pytest.mark.parametrize(("beginning", "found"), [("", 2), ("zz", 0), ("%", 0), ("_" * 64, 0)])
def test_a_beginning_that_is_not_of_just_one_photo_removes_nothing(gallery, beginning, found):
    put(gallery, [(1, "Rex"), (2, "Rex")])
    with pytest.raises(GalleryError, match=f"{found} photos of 'Rex' begin with .*petid show"):
        gallery.remove("Rex", photo=beginning)
    assert gallery.individuals() == {"Rex": 2}


def test_the_photo_of_another_individual_is_not_removed(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo")])
    with pytest.raises(GalleryError, match="0 photos of 'Bo'"):
        gallery.remove("Bo", photo=sha256_of(1)[:12])


def test_the_last_photo_removed_takes_the_individual_along_and_undo_brings_both(gallery):
    put(gallery, [(1, "Rex")])
    gallery.remove("Rex", photo=sha256_of(1))
    assert (gallery.individuals(), gallery.count_individuals()) == ({}, 0)
    gallery.undo()
    assert gallery.individuals() == {"Rex": 1}


def test_undo_goes_back_step_by_step_to_an_empty_gallery_and_then_says_so(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo")])
    gallery.merge("Bo", "Rex")
    gallery.remove("Rex", photo=sha256_of(2))
    seen = []
    for _ in range(3):
        gallery.undo()
        seen.append(gallery.individuals())
    assert seen == [{"Rex": 2}, {"Bo": 1, "Rex": 1}, {}]
    with pytest.raises(GalleryError, match="nothing to undo"):
        gallery.undo()


def test_a_change_made_after_an_undo_is_undone_before_those_before_it(gallery):
    put(gallery, [(1, "Rex")])
    gallery.rename("Rex", "Max")
    gallery.undo()
    gallery.rename("Rex", "Bo")
    assert gallery.undo()[0] == "rename 'Rex' to 'Bo'"
    assert gallery.undo()[0] == "enroll"


def test_removed_then_enrolled_again_then_undone_twice_is_as_before(gallery, folder):
    put(gallery, [(1, "Rex"), (2, "Rex")], folder=folder)
    before = owners_of(gallery)
    gallery.remove("Rex")
    assert put(gallery, [(1, "Bo")], folder=folder) == ["enrolled"]
    assert owners_of(gallery) == {sha256_of(1): "Bo"}
    assert [photo.file.read_bytes() for photo in gallery.photos()] == [b"photo 1"]
    gallery.undo()
    assert owners_of(gallery) == {}
    gallery.undo()
    assert owners_of(gallery) == before


def test_an_enrolment_undone_can_be_made_again(gallery, folder):
    put(gallery, [(1, "Rex")], folder=folder)
    gallery.undo()
    assert put(gallery, [(1, "Rex")], folder=folder) == ["enrolled"]
    assert owners_of(gallery) == {sha256_of(1): "Rex"}
    assert next(gallery.photos()).file.read_bytes() == b"photo 1"


def test_a_photo_enrolled_again_is_where_it_is_now_not_where_it_was(gallery, folder, tmp_path):
    put(gallery, [(1, "Rex")], folder=folder, link=True)
    gallery.remove("Rex")
    (folder / "1.jpg").unlink()
    moved = tmp_path / "moved"
    moved.mkdir()
    put(gallery, [(1, "Rex")], folder=moved, link=True)
    photo = next(gallery.photos())
    assert (photo.file, photo.source, photo.linked) == (moved / "1.jpg", moved / "1.jpg", True)


def test_a_linked_photo_enrolled_again_without_link_is_stored(gallery, folder):
    put(gallery, [(1, "Rex")], folder=folder, link=True)
    gallery.remove("Rex")
    put(gallery, [(1, "Rex")], folder=folder)
    (folder / "1.jpg").unlink()
    assert next(gallery.photos()).file.read_bytes() == b"photo 1"


def test_a_stored_photo_whose_copy_was_lost_is_stored_when_enrolled_again(gallery, folder):
    put(gallery, [(1, "Rex")], folder=folder)
    file = next(gallery.photos()).file
    gallery.remove("Rex")
    file.unlink()
    put(gallery, [(1, "Rex")], folder=folder)
    assert next(gallery.photos()).file.read_bytes() == b"photo 1"
    assert upkeep.delete_orphans(gallery) == 0


def test_a_name_freed_by_removal_serves_another_and_undo_parts_them_again(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo")])
    before = owners_of(gallery)
    gallery.remove("Rex")
    gallery.rename("Bo", "Rex")
    assert owners_of(gallery) == {sha256_of(2): "Rex"}
    gallery.undo()
    gallery.undo()
    assert owners_of(gallery) == before


def test_a_photo_removed_before_a_merge_comes_back_as_whose_it_was(gallery):
    put(gallery, [(1, "Rex"), (2, "Rex"), (3, "Bo")])
    before = owners_of(gallery)
    gallery.remove("Rex", photo=sha256_of(1))
    gallery.merge("Rex", "Bo")
    gallery.undo()
    gallery.undo()
    assert owners_of(gallery) == before


def test_a_change_that_another_command_built_on_is_not_undone(gallery):
    """No command of petid's does so: the journal is gone back through entry by entry."""
    put(gallery, [(1, "Rex"), (2, "Bo")])
    gallery.rename("Rex", "Max")
    gallery.records.db.execute("UPDATE photos SET active = 0 WHERE sha256 = ?", [sha256_of(1)])
    with pytest.raises(GalleryError, match="changed since"):
        gallery.undo()
    assert owners_of(gallery) == {sha256_of(2): "Bo"}


def test_a_photo_removed_while_an_enrolment_runs_and_enrolled_by_it_again_can_be_undone(gallery):
    _, entry = gallery.enroll([Enrolment(photo_of(1, gallery.folder / "no"), "Rex", vector_of(1))], model=MODEL)
    gallery.remove("Rex")
    put(gallery, [(1, "Bo")], entry=entry)
    assert owners_of(gallery) == {sha256_of(1): "Bo"}
    gallery.undo()
    assert owners_of(gallery) == {}
    gallery.undo()
    assert owners_of(gallery) == {sha256_of(1): "Rex"}
    gallery.undo()
    assert owners_of(gallery) == {}


# Deleting for good


def test_purge_deletes_what_was_removed_and_nothing_else(gallery, folder):
    put(gallery, [(1, "Rex"), (2, "Rex"), (3, "Bo")], folder=folder)
    files = {photo.sha256: photo.file for photo in gallery.photos()}
    gallery.remove("Rex", photo=sha256_of(1))
    assert gallery.purge() == 1
    assert [files[sha256_of(number)].exists() for number in (1, 2, 3)] == [False, True, True]
    assert all((folder / f"{number}.jpg").exists() for number in (1, 2, 3))
    assert owners_of(gallery) == {sha256_of(2): "Rex", sha256_of(3): "Bo"}
    assert len(rows_of(gallery)[0]["embeddings"]) == 2
    assert upkeep.damage(gallery) == []


def test_purge_of_nothing_deletes_nothing(gallery, folder):
    put(gallery, [(1, "Rex")], folder=folder)
    assert gallery.purge() == 0
    assert next(gallery.photos()).file.exists()


def test_after_purge_nothing_can_be_undone_and_what_comes_later_can(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo")])
    gallery.remove("Rex")
    gallery.purge()
    with pytest.raises(GalleryError, match="nothing to undo"):
        gallery.undo()
    gallery.rename("Bo", "Rex")
    gallery.undo()
    assert owners_of(gallery) == {sha256_of(2): "Bo"}
    with pytest.raises(GalleryError, match="nothing to undo"):
        gallery.undo()


def test_purge_leaves_linked_photos_where_they_are(gallery, folder):
    put(gallery, [(1, "Rex"), (2, "Rex")], folder=folder, link=True)
    assert [photo.file for photo in gallery.photos()] == [folder / "1.jpg", folder / "2.jpg"]
    gallery.remove("Rex")
    assert gallery.purge() == 2
    assert sorted(file.name for file in folder.iterdir()) == ["1.jpg", "2.jpg"]


def test_a_purged_photo_can_be_enrolled_anew(gallery, folder):
    put(gallery, [(1, "Rex"), (2, "Bo")], folder=folder)
    gallery.remove("Rex")
    gallery.purge()
    assert put(gallery, [(1, "Max")], folder=folder) == ["enrolled"]
    assert owners_of(gallery) == {sha256_of(1): "Max", sha256_of(2): "Bo"}
    assert all(photo.file.is_file() for photo in gallery.photos())


def test_a_gallery_emptied_by_purge_takes_photos_again(gallery, folder):
    put(gallery, [(1, "Rex")], folder=folder)
    gallery.remove("Rex")
    gallery.purge()
    assert (gallery.count_photos(), gallery.individuals(), list(gallery.blocks())) == (0, {}, [])
    put(gallery, [(2, "Bo")], folder=folder)
    assert [hit.individual for hit in gallery.index.search(vector_of(2)[None], 5, model=gallery.model)[0]] == ["Bo"]


def test_stored_photos_are_deleted_only_after_the_rows_are(gallery, folder):
    put(gallery, [(1, "Rex")], folder=folder)
    file = next(gallery.photos()).file
    gallery.remove("Rex")
    with failing(gallery, "BEFORE DELETE ON individuals"), pytest.raises(GalleryError):
        gallery.purge()
    assert file.exists()
    gallery.undo()
    assert owners_of(gallery) == {sha256_of(1): "Rex"}


def test_a_photo_enrolled_again_while_purge_is_at_work_keeps_its_bytes(gallery, folder, monkeypatch):
    put(gallery, [(1, "Rex"), (2, "Bo")], folder=folder)
    gallery.remove("Rex")
    write = gallery.records.write
    transactions = []

    @contextmanager
    def write_then_let_another_in(**options):
        with write(**options) as generation:
            yield generation
        if not transactions:
            transactions.append(generation)
            with Gallery(gallery.folder) as another:
                put(another, [(1, "Max")], folder=folder)

    monkeypatch.setattr(gallery.records, "write", write_then_let_another_in)
    gallery.purge()
    assert owners_of(gallery) == {sha256_of(1): "Max", sha256_of(2): "Bo"}
    assert [photo.file.read_bytes() for photo in gallery.photos("Max")] == [b"photo 1"]


def test_stored_photos_are_deleted_while_nobody_else_can_enrol(gallery, folder, monkeypatch):
    put(gallery, [(1, "Rex")], folder=folder)
    gallery.remove("Rex")
    delete = gallery.store.delete
    other = sqlite3.connect(gallery.folder / DATABASE, timeout=0)

    def delete_when_others_wait(name):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        delete(name)

    monkeypatch.setattr(gallery.store, "delete", delete_when_others_wait)
    assert gallery.purge() == 1
    other.close()
    assert list(gallery.store.files()) == []


# Transactions


@pytest.mark.parametrize(
    ("event", "attempt"),
    [
        ("BEFORE INSERT ON embeddings", lambda gallery: put(gallery, [(7, "Ada"), (8, "Ada")])),
        ("BEFORE INSERT ON changes", lambda gallery: put(gallery, [(7, "Ada"), (8, "Ada")])),
        ("BEFORE UPDATE ON photos", lambda gallery: gallery.rename("Rex", "Max")),
        ("BEFORE UPDATE ON photos", lambda gallery: gallery.merge("Rex", "Bo")),
        ("BEFORE UPDATE ON photos", lambda gallery: gallery.remove("Rex")),
        ("BEFORE UPDATE ON journal", lambda gallery: gallery.undo()),
        ("BEFORE DELETE ON individuals", lambda gallery: gallery.purge()),
    ],
)
def test_a_change_that_fails_halfway_leaves_nothing_behind(gallery, folder, event, attempt):
    put(gallery, [(1, "Rex"), (2, "Rex"), (3, "Bo"), (4, "Gone")], folder=folder)
    gallery.remove("Gone")
    before = rows_of(gallery)
    with failing(gallery, event), pytest.raises(GalleryError) as refused:
        attempt(gallery)
    assert "no more" in str(refused.value)
    assert rows_of(gallery) == before
    attempt(gallery)  # the connection is as good as new
    assert rows_of(gallery) != before


def test_an_enrolment_whose_photos_cannot_be_stored_leaves_nothing_behind(gallery, folder):
    put(gallery, [(1, "Rex")], folder=folder)
    before = rows_of(gallery)
    blocked = gallery.folder / "photos" / sha256_of(2)[:2]
    blocked.write_bytes(b"a file where a folder has to be")
    with pytest.raises(GalleryError):
        put(gallery, [(3, "Bo"), (2, "Bo")], folder=folder)
    blocked.unlink()
    assert rows_of(gallery)[0] == before[0]
    assert not list((gallery.folder / "photos" / "incoming").iterdir())
    upkeep.delete_orphans(gallery)
    assert rows_of(gallery) == before
    assert put(gallery, [(3, "Bo"), (2, "Bo")], folder=folder) == ["enrolled"] * 2


def test_a_vector_that_is_no_embedding_is_refused_before_anything_is_written(gallery):
    put(gallery, [(1, "Rex")])
    before = rows_of(gallery)
    for vector in (np.full(16, np.nan, np.float32), np.ones(16, np.float32), vector_of(2, dimension=15)):
        with pytest.raises(ValueError, match="Received"):
            gallery.enroll([Enrolment(photo_of(2, gallery.folder / "no"), "Bo", vector)], model=MODEL)
    assert rows_of(gallery) == before


def test_a_commit_that_fails_leaves_the_connection_usable(gallery):
    """A deferred foreign key is refused by SQLite at the very last moment, in COMMIT."""

    def give_photos_to_nobody():
        with gallery.records.write():
            gallery.records.db.execute("PRAGMA defer_foreign_keys = ON")
            gallery.records.db.execute("UPDATE photos SET individual_id = 99")

    put(gallery, [(1, "Rex")])
    with pytest.raises(GalleryError):
        give_photos_to_nobody()
    assert gallery.rename("Rex", "Max") == 1
    assert gallery.individuals() == {"Max": 1}


def test_every_change_raises_the_generation(gallery):
    seen = [gallery.generation]
    for change in (
        lambda: put(gallery, [(1, "Rex"), (2, "Bo")]),
        lambda: gallery.rename("Rex", "Max"),
        lambda: gallery.merge("Max", "Bo"),
        lambda: gallery.remove("Bo"),
        lambda: gallery.undo(),
        lambda: gallery.purge(),
    ):
        change()
        seen.append(gallery.generation)
    assert seen == sorted(set(seen))


def test_the_journal_names_every_change_in_order(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo")])
    gallery.rename("Rex", "Max")
    gallery.merge("Max", "Bo")
    gallery.remove("Bo", photo=sha256_of(1)[:8])
    gallery.remove("Bo")
    gallery.undo()
    gallery.purge()
    assert journal_of(gallery) == [
        ("enroll", 0),
        ("rename 'Rex' to 'Max'", 0),
        ("merge 'Max' into 'Bo'", 0),
        (f"remove photo {sha256_of(1)[:8]} of 'Bo'", 0),
        ("remove 'Bo'", 1),
        ("purge", 0),
    ]


def test_photos_can_be_walked_while_the_gallery_is_searched_and_changed(gallery):
    put(gallery, [(number, f"pet {number}") for number in range(50)])
    walked = []
    for photo in gallery.photos():
        gallery.index.search(vector_of(1)[None], 1, model=gallery.model)
        if photo.individual == "pet 10":
            gallery.rename("pet 10", "Rex")
        walked.append(photo.sha256)
    assert walked == [sha256_of(number) for number in range(50)]


# Opening


def test_a_folder_without_a_gallery_says_how_to_make_one(tmp_path):
    with pytest.raises(GalleryError, match="petid enroll"):
        Gallery(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("content", [b"not a database at all", b"SQLite format 3\0" + b"\1" * 100])
def test_a_strange_file_is_refused_and_left_as_it_is(tmp_path, content):
    (tmp_path / DATABASE).write_bytes(content)
    with pytest.raises(GalleryError, match="--gallery"):
        Gallery(tmp_path, create=True)
    assert (tmp_path / DATABASE).read_bytes() == content


def test_the_database_of_another_program_is_refused_and_left_as_it_is(tmp_path):
    for application in (0x1234, 0):
        file = tmp_path / f"{application}" / DATABASE
        file.parent.mkdir()
        with sqlite3.connect(file) as connection:
            connection.execute(f"PRAGMA application_id = {application}")
            connection.execute("CREATE TABLE theirs (x)")
        connection.close()
        before = file.read_bytes()
        with pytest.raises(GalleryError, match="--gallery"):
            Gallery(file.parent, create=True)
        assert file.read_bytes() == before


# Against a plain model of the herd book


class HerdBook:
    """What a gallery should be after any sequence of commands, as a dict and a list."""

    def __init__(self):
        self.photos: dict[int, tuple[str, bool]] = {}  # number: name, active
        self.stored: set[int] = set()
        self.journal: list[dict[int, tuple[str, bool]]] = []

    def of(self, name):
        return [number for number, (owner, active) in self.photos.items() if active and owner == name]

    def names(self):
        return sorted({owner for owner, active in self.photos.values() if active})

    def change(self, to):
        """Notes how the photos were, then brings them to how they shall be."""
        self.journal.append({number: self.photos.get(number, (owner, False)) for number, (owner, _) in to.items()})
        self.photos.update(to)

    def enroll(self, wanted, link):
        statuses, new = [], {}
        for number, name in wanted:
            owner, active = {**self.photos, **new}.get(number, ("", False))
            if not active:
                new[number] = (name, True)
                if not link:
                    self.stored.add(number)
            statuses.append("enrolled" if not active else "known" if owner == name else "refused")
        if new:
            self.change(new)
        return statuses

    def undo(self):
        self.photos.update(self.journal.pop())

    def purge(self):
        gone = [number for number, (_, active) in self.photos.items() if not active]
        for number in gone:
            del self.photos[number]
            self.stored.discard(number)
        self.journal.clear()
        return len(gone)


@pytest.mark.parametrize("seed", range(3))
def test_random_commands_do_what_a_plain_model_of_the_herd_book_does(tmp_path, folder, seed):
    rng = random.Random(seed)
    names = ["Ada", "Bo", "Čert", "Dí", "Rex"]
    book = HerdBook()
    Gallery(tmp_path / "gallery", create=True).close()
    for _ in range(120):
        with Gallery(tmp_path / "gallery") as gallery:
            _one_command(rng, gallery, book, names, folder)
        with Gallery(tmp_path / "gallery") as reopened:
            _compare(reopened, book, rng)
            if rng.random() < 0.3:
                reopened.index.save()
    assert len(list(folder.iterdir())) > 20


def _one_command(rng, gallery, book, names, folder):
    command = rng.choices(
        ["enroll", "rename", "merge", "remove", "remove photo", "undo", "purge"], [8, 2, 2, 2, 3, 6, 1]
    )[0]
    first, second = rng.choice(names), rng.choice(names)
    here, there = book.of(first), book.of(second)
    match command:
        case "enroll":
            wanted = [(rng.randrange(40), rng.choice(names)) for _ in range(rng.randint(1, 4))]
            link = rng.random() < 0.3
            assert put(gallery, wanted, folder=folder, link=link) == book.enroll(wanted, link)
        case "rename" if here and not there:
            assert gallery.rename(first, second) == len(here)
            book.change(dict.fromkeys(here, (second, True)))
        case "merge" if here and there and first != second:
            assert gallery.merge(first, second) == len(here)
            book.change(dict.fromkeys(here, (second, True)))
        case "remove" if here:
            assert gallery.remove(first) == len(here)
            book.change(dict.fromkeys(here, (first, False)))
        case "remove photo" if here:
            number = rng.choice(here)
            assert gallery.remove(first, photo=sha256_of(number)[:16]) == 1
            book.change({number: (first, False)})
        case "undo" if book.journal:
            assert gallery.undo()[1] == len(book.journal[-1])
            book.undo()
        case "purge":
            assert gallery.purge() == book.purge()
        case _:
            attempt = {
                "rename": lambda: gallery.rename(first, second),
                "merge": lambda: gallery.merge(first, second),
                "remove": lambda: gallery.remove(first),
                "remove photo": lambda: gallery.remove(first, photo="0"),
                "undo": lambda: gallery.undo(),
            }[command]
            with pytest.raises(GalleryError):
                attempt()


def _compare(gallery, book, rng):
    assert gallery.individuals() == {name: len(book.of(name)) for name in book.names()}
    assert gallery.count_photos() == sum(active for _, active in book.photos.values())
    assert gallery.count_individuals() == len(book.names())
    assert owners_of(gallery) == {sha256_of(number): name for number, (name, active) in book.photos.items() if active}
    linked = {photo.sha256 for photo in gallery.photos() if photo.linked}
    active = {number for number, (_, active) in book.photos.items() if active}
    assert linked == {sha256_of(number) for number in active - book.stored}
    assert all(photo.file.is_file() for photo in gallery.photos())
    assert len(list(gallery.store.files())) == len(book.stored)
    if gallery.model is None:
        return
    probe = vector_of(1000 + rng.randrange(100))
    hits = gallery.index.search(probe[None], 3, model=gallery.model)[0]
    best = {name: max(float(vector_of(number) @ probe) for number in book.of(name)) for name in book.names()}
    expected = sorted(best.items(), key=lambda item: -item[1])[:3]
    assert [hit.individual for hit in hits] == [name for name, _ in expected]
    assert [hit.similarity for hit in hits] == pytest.approx([similarity for _, similarity in expected], abs=1e-6)
    assert all(gallery.photo(hit.photo_id).individual == hit.individual for hit in hits)
