"""Several processes on one gallery at the same time: nothing is lost, nothing is there twice, nobody is in the way."""

import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest
from conftest import draw_animal
from herd import photo_of, put, sha256_of
from PIL import Image

from petid_search.index import upkeep
from petid_search.index.gallery import Gallery
from petid_search.index.vectors import VectorIndex

COAT_PHOTOS = 4


@pytest.fixture
def start(home, tmp_path):
    """Starts `petid …` and does not wait for it; what still runs when the test ends is ended."""
    running = []

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "petid_search", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def draw_herd(folder, individuals):
    """A folder of individuals' folders; returns the hash and the individual of every photo."""
    hashes = {}
    for individual in individuals:
        (folder / str(individual)).mkdir(parents=True)
        for photo in range(COAT_PHOTOS):
            file = folder / str(individual) / f"{photo}.png"
            Image.fromarray(draw_animal(individual, photo)).save(file)
            hashes[hashlib.sha256(file.read_bytes()).hexdigest()] = str(individual)
    return hashes


def assert_whole(gallery, hashes):
    """Just these photos are there, each once, with its bytes and its embedding."""
    assert upkeep.damage(gallery) == []
    assert {photo.sha256: photo.individual for photo in gallery.photos()} == hashes
    assert gallery.count_photos() == len(hashes)
    assert sum(len(block.photos) for block in gallery.blocks()) == len(hashes)
    for photo in gallery.photos():
        assert hashlib.sha256(photo.file.read_bytes()).hexdigest() == photo.sha256
    assert sorted(gallery.store.files()) == sorted(
        str(photo.file.relative_to(gallery.folder)) for photo in gallery.photos()
    )
    assert gallery.index.is_right()


def test_two_enrol_at_once_while_a_third_identifies(start, petid, tmp_path, take_photo):
    first = draw_herd(tmp_path / "first", range(40))
    second = draw_herd(tmp_path / "second", range(20, 60))
    gallery = ("--gallery", tmp_path / "herd", "--model", "small")
    both = [start("enroll", folder, *gallery, "--json") for folder in ("first", "second")]
    probe = take_photo(30, 99)
    answers = []

    def ask_until_both_are_done():
        while any(process.poll() is None for process in both):
            answers.append(petid("identify", probe, *gallery[:2], "--json"))

    asking = threading.Thread(target=ask_until_both_are_done)
    asking.start()
    told = [process.communicate(timeout=120) for process in both]
    asking.join()

    assert [(process.returncode, errors) for process, (_, errors) in zip(both, told, strict=True)] == [(0, "")] * 2
    statuses = [json.loads(line)["status"] for said, _ in told for line in said.splitlines()]
    assert len(statuses) == 320
    assert statuses.count("enrolled") == len(first | second) == 240
    assert statuses.count("known") == 80
    with Gallery(tmp_path / "herd") as herd_book:
        assert_whole(herd_book, first | second)
    assert answers
    for answer in answers:
        if answer.returncode:  # asked before the first photo was enrolled
            assert "There is no gallery" in answer.stderr or "is empty" in answer.stderr
            assert len(answer.stderr.splitlines()) == 1
        else:
            assert answer.stderr == ""
            assert json.loads(answer.stdout)["candidates"]
    last = json.loads(petid("identify", probe, *gallery[:2], "--json").stdout)
    assert (last["candidates"][0]["individual"], last["gallery_size"]) == ("30", 60)
    assert petid("check", *gallery[:2]).returncode == 0


def test_enrolling_while_the_gallery_goes_over_to_another_model_loses_nothing(start, petid, tmp_path):
    old = draw_herd(tmp_path / "old", range(100))
    new = draw_herd(tmp_path / "new", range(100, 140))
    gallery = ("--gallery", tmp_path / "herd")
    assert petid("enroll", "old", *gallery, "--model", "small", "--link").returncode == 0
    reindex = start("reindex", *gallery, "--model", "other")
    enroll = start("enroll", "new", *gallery, "--json")
    said, errors = enroll.communicate(timeout=120)
    _, reindex_errors = reindex.communicate(timeout=120)

    assert (reindex.returncode, reindex_errors) == (0, "")
    if enroll.returncode:  # the switch was made in the middle of it
        assert "petid reindex" in errors
        assert len(errors.splitlines()) == 1
    told = [json.loads(line) for line in said.splitlines()]
    with Gallery(tmp_path / "herd") as herd_book:
        assert herd_book.model.name == "other"
        files = {photo.source.relative_to(tmp_path).as_posix() for photo in herd_book.photos()}
        assert {line["photo"] for line in told if line["status"] == "enrolled"} <= files
    assert petid("enroll", "new", *gallery).returncode == 0
    assert (
        petid("check", *gallery).stdout == f"The gallery {tmp_path / 'herd'} is whole: 560 photos of 140 individuals.\n"
    )
    with Gallery(tmp_path / "herd") as herd_book:
        assert {photo.sha256: photo.individual for photo in herd_book.photos()} == old | new
        assert sum(len(block.photos) for block in herd_book.blocks()) == 560
        assert herd_book.index.is_right()


def test_corrections_from_many_connections_are_made_one_after_the_other(tmp_path):
    """Four threads, a connection each, enroll, rename and take back; every photo stays whole and single."""
    Gallery(tmp_path, create=True).close()
    problems = []

    def correct(worker):
        try:
            with Gallery(tmp_path) as gallery:
                for turn in range(8):
                    number = worker * 100 + turn
                    put(gallery, [(number, f"pet {number}"), (turn + 1000, "everybody's")])
                    gallery.rename(f"pet {number}", f"renamed {number}")
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=correct, args=[worker]) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with Gallery(tmp_path) as gallery:
        expected = {f"renamed {worker * 100 + turn}": 1 for worker in range(4) for turn in range(8)}
        assert gallery.individuals() == {**expected, "everybody's": 8}
        assert gallery.generation == 4 * 8 * 2
        assert upkeep.damage(gallery) == []
        assert upkeep.delete_orphans(gallery) == 0
        assert gallery.index.is_right()


def test_a_second_connection_of_a_process_does_not_give_up_the_locks_of_the_first(gallery):
    """POSIX takes all of a process's locks on a file when it closes any handle of it: then another process, closing,
    would believe to be the last, and delete the write-ahead log that this one goes on writing to."""
    script = "import sys, pathlib; from petid_search.index.gallery import Gallery; "
    script += "print(Gallery(pathlib.Path(sys.argv[1])).individuals())"

    def asked_by_another_process():
        answer = subprocess.run([sys.executable, "-c", script, gallery.folder], capture_output=True, text=True)
        assert answer.stderr == ""
        return answer.stdout.strip()

    put(gallery, [(1, "Rex")])
    Gallery(gallery.folder).close()
    assert asked_by_another_process() == "{'Rex': 1}"
    put(gallery, [(2, "Bo")])
    assert asked_by_another_process() == "{'Bo': 1, 'Rex': 1}"


def test_while_one_writes_others_read_what_was_there_before(gallery):
    put(gallery, [(1, "Rex")])
    with Gallery(gallery.folder) as reader:
        with gallery.records.write():
            gallery.records.db.execute("UPDATE photos SET active = 0")
            assert reader.individuals() == {"Rex": 1}
            assert reader.known([sha256_of(1)]) == {sha256_of(1): "Rex"}
        assert reader.individuals() == {}


def test_an_index_saved_by_four_at_once_is_written_by_one_and_whole(gallery, monkeypatch):
    written = []
    save = VectorIndex.save

    def save_and_note(index, file):
        written.append(file)
        return save(index, file)

    monkeypatch.setattr(VectorIndex, "save", save_and_note)
    put(gallery, [(number, f"pet {number}") for number in range(50)])
    others = [Gallery(gallery.folder) for _ in range(4)]
    threads = [threading.Thread(target=other.index.save) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = list(gallery.folder.glob("vectors-*.faiss"))
    assert files == written
    assert gallery.index.is_right()
    for other in others:
        other.close()


def test_photos_of_a_batch_that_another_process_enrolled_meanwhile_are_known_and_stored_once(gallery, tmp_path):
    """Both have staged the same bytes when the first commits."""
    with Gallery(gallery.folder) as another:
        staged = gallery.store.stage([photo_of(1, tmp_path)])
        assert put(another, [(1, "Rex")]) == ["enrolled"]
        assert put(gallery, [(1, "Rex")]) == ["known"]
        assert put(gallery, [(1, "Bo")]) == ["refused"]
    assert [file.exists() for file in staged] == [True]
    staged[0].unlink()
    assert not list((gallery.folder / "photos" / "incoming").iterdir())
    assert len(list(gallery.store.files())) == 1
