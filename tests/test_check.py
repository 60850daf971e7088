"""What can be made again is; what cannot is named; a whole gallery has nothing said of it."""

import os
import shutil
import sqlite3
import time

import numpy as np
import pytest

from petid_search.check import Findings, check
from petid_search.enroll import enroll, plan_enrolment
from petid_search.identify import identify
from petid_search.index.gallery import Gallery
from petid_search.index.records import DATABASE
from petid_search.index.store import STALE_S

INDIVIDUALS, PHOTOS = 12, 2


@pytest.fixture
def filled(gallery, embedder, take_photos):
    """A gallery of 12 individuals with 2 photos each."""
    list(enroll(gallery, plan_enrolment([take_photos(INDIVIDUALS, PHOTOS)]).photos, embedder))
    gallery.index.save()
    return gallery


@pytest.fixture
def checked(embedder):
    """Checks a gallery; `twice` says what is still found after the repair."""

    def run(gallery):
        with Gallery(gallery.folder) as opened:
            return check(opened, lambda: embedder)

    return run


def no_model():
    raise AssertionError("no embedding has to be made again")


def assert_found(gallery, checked, embedder, take_photo, repaired):
    """Just this is found and repaired; then the gallery is whole and answers as it should."""
    first = checked(gallery)
    assert first.problems == []
    assert len(first.repaired) == 1
    assert repaired in first.repaired[0]
    assert checked(gallery) == Findings([], [])
    with Gallery(gallery.folder) as reopened:
        answers = identify([take_photo(individual, 9) for individual in range(INDIVIDUALS)], reopened, embedder)
        names = [answer.candidates[0].individual for answer in answers]
        assert names == [str(individual) for individual in range(INDIVIDUALS)]
        assert len(list(reopened.folder.glob("vectors-*.faiss"))) == 1


def test_a_whole_gallery_has_nothing_said_of_it(filled):
    seen = []
    assert check(filled, no_model, looked=lambda: seen.append(1)) == Findings([], [])
    assert len(seen) == INDIVIDUALS * PHOTOS


def test_an_empty_gallery_and_one_that_was_emptied_are_whole(gallery, filled):
    assert check(gallery, no_model) == Findings([], [])
    for individual in list(filled.individuals()):
        filled.remove(individual)
    assert check(filled, no_model) == Findings([], [])
    filled.purge()
    assert check(filled, no_model) == Findings([], [])


def test_removed_photos_linked_ones_and_other_models_are_nothing_wrong(
    filled, embedder, other_embedder, take_photo, checked
):
    from petid_search.reindex import reindex

    list(enroll(filled, [(take_photo(50), "linked")], embedder, link=True))
    filled.remove("3")
    list(reindex(filled, other_embedder))
    list(reindex(filled, embedder))
    files = set(filled.store.files())
    assert check(filled, no_model) == Findings([], [])
    assert set(filled.store.files()) == files, "what was removed can still be undone"
    filled.undo()
    assert check(filled, no_model) == Findings([], [])


@pytest.mark.parametrize("damage", ["deleted", "garbled", "of another gallery", "swapped"])
def test_a_faiss_file_that_is_not_right_is_made_again(filled, embedder, checked, take_photo, tmp_path, damage):
    file = next(filled.folder.glob("vectors-*.faiss"))
    match damage:
        case "deleted":
            file.unlink()
        case "garbled":
            data = bytearray(file.read_bytes())
            data[-100] ^= 255
            file.write_bytes(data)
        case "of another gallery":
            with Gallery(tmp_path / "another", create=True) as another:
                list(enroll(another, [(take_photo(50), "Rex")], embedder))
                another.index.save()
                shutil.copyfile(next(another.folder.glob("vectors-*.faiss")), file)
        case "swapped":
            from petid_search.index.vectors import VectorIndex

            block = next(filled.blocks())
            index = VectorIndex(block.vectors.shape[1])
            index.add(block.photos, block.vectors[::-1])
            file.unlink()
            filled.records.db.execute("UPDATE vector_files SET sha256 = ?", [index.save(file)])
    assert_found(filled, checked, embedder, take_photo, "search index was built again")


def test_stored_photos_that_no_row_names_are_deleted(filled, embedder, checked, take_photo):
    kept = set(filled.store.files())
    for name in ("00/" + "0" * 64 + ".jpg", "ff/" + "f" * 64, "ff/rest"):
        file = filled.folder / "photos" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"left behind")
    (filled.folder / "photos" / "ab" / "@eaDir").mkdir(parents=True)  # as network storage puts everywhere
    assert_found(filled, checked, embedder, take_photo, "2 stored photos that an interrupted command left behind")
    assert set(filled.store.files()) == kept
    assert file.exists(), "what petid did not name it does not delete"


def test_what_a_killed_process_left_incoming_is_swept_and_what_a_living_one_writes_is_not(filled, checked):
    incoming = filled.folder / "photos" / "incoming"
    old, new, vanished = (incoming / name for name in ("old", "new", "vanished"))
    old.write_bytes(b"half a ph")
    new.write_bytes(b"half a ph")
    vanished.symlink_to(incoming / "settled meanwhile")
    past = time.time() - STALE_S - 60
    os.utime(old, (past, past))
    assert checked(filled).problems == []
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("damage", ["missing", "short", "not of unit length", "not finite", "empty"])
def test_embeddings_that_are_not_right_are_made_again(filled, embedder, checked, take_photo, damage):
    before = {row[0]: row[1] for row in filled.records.db.execute("SELECT photo_id, vector FROM embeddings")}
    bad = sorted(before)[3:8]
    spoiled = {
        "short": lambda data: data[:-4],
        "not of unit length": lambda data: (np.frombuffer(data, "<f4") * np.float32(1.5)).tobytes(),
        "not finite": lambda data: np.full(len(data) // 4, np.nan, "<f4").tobytes(),
        "empty": lambda data: b"",
    }
    for photo in bad:
        if damage == "missing":
            filled.records.db.execute("DELETE FROM embeddings WHERE photo_id = ?", [photo])
        else:
            values = [spoiled[damage](before[photo]), photo]
            filled.records.db.execute("UPDATE embeddings SET vector = ? WHERE photo_id = ?", values)
    assert_found(filled, checked, embedder, take_photo, "5 embeddings were made again")
    after = {row[0]: row[1] for row in filled.records.db.execute("SELECT photo_id, vector FROM embeddings")}
    assert sorted(after) == sorted(before)
    for photo, data in after.items():
        assert np.frombuffer(data, "<f4") == pytest.approx(np.frombuffer(before[photo], "<f4"), abs=1e-6)


def test_a_removed_photo_whose_embedding_is_lost_gets_it_back_too(filled, embedder, checked, take_photo):
    lost = next(filled.photos("3")).id
    filled.remove("3")
    filled.records.db.execute("DELETE FROM embeddings WHERE photo_id = ?", [lost])
    assert checked(filled).repaired == ["1 embeddings were made again"]
    filled.undo()
    assert check(filled, no_model) == Findings([], [])


@pytest.mark.parametrize("damage", ["deleted", "cut short", "emptied folder"])
def test_a_stored_photo_that_is_lost_is_fetched_from_where_it_came(filled, embedder, checked, take_photo, damage):
    photo = next(filled.photos("3"))
    data = photo.file.read_bytes()
    match damage:
        case "deleted":
            photo.file.unlink()
        case "cut short":
            photo.file.write_bytes(data[:100])
        case "emptied folder":
            shutil.rmtree(photo.file.parent)
    assert_found(filled, checked, embedder, take_photo, f"a photo of '3' was fetched again from {photo.source}")
    assert photo.file.read_bytes() == data


@pytest.mark.parametrize("source", ["gone", "changed"])
def test_a_stored_photo_that_is_lost_for_good_is_named(filled, embedder, checked, take_photo, source):
    photo = next(filled.photos("3"))
    photo.file.unlink()
    if source == "gone":
        photo.source.unlink()
    else:
        photo.source.write_bytes(b"something else")
    for findings in (checked(filled), checked(filled)):
        assert findings.repaired == []
        assert len(findings.problems) == 1
        for told in (str(photo.file), "'3'", "is missing", str(photo.source), f"--photo {photo.sha256[:12]}"):
            assert told in findings.problems[0]
    assert filled.individuals()["3"] == PHOTOS, "nothing is deleted by itself"
    assert next(identify([take_photo(3, 9)], filled, embedder)).candidates[0].individual == "3"
    filled.remove("3", photo=photo.sha256[:12])
    (problem,) = checked(filled).problems
    assert "`petid purge`" in problem, "undo would bring back a photo without its bytes"
    filled.purge()
    assert checked(filled) == Findings([], [])


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_linked_photo_that_is_not_the_one_enrolled_is_named(filled, embedder, checked, take_photo, damage):
    photo = take_photo(50)
    list(enroll(filled, [(photo, "linked")], embedder, link=True))
    if damage == "changed":
        photo.write_bytes(take_photo(51).read_bytes())
    else:
        photo.unlink()
    what = "is missing" if damage == "missing" else "is not the photo that was enrolled"
    findings = checked(filled)
    assert findings.repaired == []
    assert len(findings.problems) == 1
    assert f"{photo} of 'linked' {what}" in findings.problems[0]


def test_an_embedding_that_cannot_be_made_again_is_named_and_the_others_still_serve(
    filled, embedder, checked, take_photo
):
    photos = list(filled.photos("3"))
    filled.records.db.execute("DELETE FROM embeddings WHERE photo_id = ?", [photos[0].id])
    photos[0].file.unlink()
    photos[0].source.unlink()
    assert checked(filled).repaired == ["the search index was built again"], "it had the photo still"
    for findings in (checked(filled), checked(filled)):
        assert findings.repaired == []
        assert len(findings.problems) == 2
        assert "1 embeddings are missing and could not be made again" in findings.problems[1]
    with Gallery(filled.folder) as reopened:
        assert next(identify([take_photo(3, 9)], reopened, embedder)).candidates[0].individual == "3"
        assert next(identify([take_photo(4, 9)], reopened, embedder)).candidates[0].individual == "4"


def test_an_embedding_that_is_spoiled_and_cannot_be_made_again_is_no_longer_searched(filled, embedder, checked):
    photo = next(filled.photos("3"))
    filled.records.db.execute("UPDATE embeddings SET vector = x'00' WHERE photo_id = ?", [photo.id])
    photo.file.unlink()
    photo.source.unlink()
    assert checked(filled).repaired == []
    with Gallery(filled.folder) as reopened:
        reopened.index.search(np.eye(1, embedder.dimension, dtype=np.float32), 1, model=reopened.model)
        assert photo.id not in reopened.index._index.ids


def test_a_model_that_is_not_there_is_named_where_it_is_needed(filled):
    from petid_search.errors import ModelError

    def gone():
        raise ModelError("The model is not here: add it again.")

    assert check(filled, gone) == Findings([], [])
    filled.records.db.execute("DELETE FROM embeddings WHERE photo_id = 1")
    findings = check(filled, gone)
    assert len(findings.problems) == 1
    assert "add it again" in findings.problems[0]


def overwrite_pages(folder):
    """Garbage over the middle third of SQLite's file."""
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    file = folder / DATABASE
    data = bytearray(file.read_bytes())
    pages = len(data) // 16384
    for page in range(pages // 3, 2 * pages // 3):
        data[page * 16384 : (page + 1) * 16384] = np.random.default_rng(page).bytes(16384)
    file.write_bytes(data)


def test_damage_to_the_database_is_named_and_nothing_is_touched(filled, embedder):
    filled.close()
    overwrite_pages(filled.folder)
    before = {file: file.read_bytes() for file in filled.folder.rglob("*") if file.is_file()}
    with Gallery(filled.folder) as damaged:
        findings = check(damaged, no_model)
    assert findings.repaired == []
    assert findings.problems
    for problem in findings.problems:
        assert problem.startswith("The database is damaged")
        assert "backup" in problem
        assert "\n" not in problem
    assert {file: file.read_bytes() for file in before} == before


def test_a_row_whose_photo_is_gone_is_damage(filled):
    filled.records.db.execute("PRAGMA foreign_keys = OFF")
    filled.records.db.execute("DELETE FROM photos WHERE id = 1")
    problems = check(filled, no_model).problems
    assert problems
    assert all("row without its other" in problem for problem in problems)


@pytest.mark.parametrize(
    "command", [["check"], ["list"], ["identify", "photos/1/0.png"], ["show", "1"], ["purge", "--yes"]]
)
def test_no_command_answers_a_damaged_database_with_a_traceback(filled, petid, command):
    filled.close()
    overwrite_pages(filled.folder)
    answered = petid(*command, "--gallery", filled.folder)
    assert answered.returncode == 1
    assert "Traceback" not in answered.stderr
    assert all(line.startswith("petid: ") for line in answered.stderr.splitlines())


def test_the_command_names_what_it_found_and_answers_by_its_exit_code(filled, petid):
    gallery = ("--gallery", filled.folder)
    whole = petid("check", *gallery)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert "is whole: 24 photos of 12 individuals" in whole.stdout
    next(filled.folder.glob("vectors-*.faiss")).unlink()
    repaired = petid("check", *gallery)
    assert repaired.returncode == 0
    assert "Repaired: the search index was built again" in repaired.stdout
    photo = next(filled.photos("3"))
    photo.file.unlink()
    photo.source.unlink()
    broken = petid("check", *gallery)
    assert broken.returncode == 1
    assert f"--photo {photo.sha256[:12]}" in broken.stderr
    assert "whole" not in broken.stdout
