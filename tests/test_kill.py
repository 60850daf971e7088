"""`kill -9` at any moment: what was told as done is done, the gallery is whole, and the same command completes it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import draw_animal
from PIL import Image

from petid_search.index import upkeep
from petid_search.index.gallery import Gallery
from petid_search.index.records import DATABASE

INDIVIDUALS = 200
MOMENTS = [4, pytest.param(50, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """800 photos of 200 individuals."""
    folder = tmp_path_factory.mktemp("photos")
    for individual in range(INDIVIDUALS):
        (folder / str(individual)).mkdir()
        for photo in range(4):
            Image.fromarray(draw_animal(individual, photo)).save(
                folder / str(individual) / f"{photo}.png", compress_level=1
            )
    return folder


@pytest.fixture
def start(home, tmp_path):
    """Starts `petid …` and does not wait for it."""

    def run(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "petid_search", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def killed(process, after):
    """Kills a process so many seconds after its start; returns the whole lines that it wrote until then."""
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    said, errors = process.communicate()
    assert errors == ""
    return [line for line in said.splitlines(keepends=True) if line.endswith("\n")]


def assert_same(embeddings, expected):
    """Of the same photos, by the same model; another batch may round otherwise."""
    assert set(embeddings) == set(expected)
    for sha256, vector in embeddings.items():
        assert vector == pytest.approx(expected[sha256], abs=1e-5)


def moments(count, duration):
    """So many moments, anywhere in the duration of a command."""
    return [random.Random(moment).uniform(0.0, duration) for moment in range(count)]


def timed(process):
    """Waits for a process that must succeed; returns what it wrote and how long it took."""
    started = time.monotonic()
    said, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    return said, time.monotonic() - started


def assert_whole(petid, gallery, photos):
    """`petid check` finds nothing that it cannot repair, and then nothing at all."""
    said = petid("check", "--gallery", gallery)
    assert (said.returncode, said.stderr) == (0, "")
    assert f"is whole: {photos} photos" in said.stdout
    with Gallery(gallery) as herd_book:
        assert upkeep.damage(herd_book) == []
        assert upkeep.delete_orphans(herd_book) == 0
        assert herd_book.count_photos() == photos
        assert sum(len(block.photos) for block in herd_book.blocks()) == photos
        assert herd_book.index.is_right()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", MOMENTS)
def test_enrolling_survives_kill_9_at_any_moment(start, petid, photos, tmp_path, count):
    timed(start("enroll", photos, "--model", "small", "--gallery", "first"))  # what reads the disk anew takes longer
    _, duration = timed(start("enroll", photos, "--model", "small", "--gallery", "whole", "--json"))
    embedded = _embeddings(tmp_path / "whole")
    assert len(embedded) == 4 * INDIVIDUALS
    partly = 0
    for number, moment in enumerate(moments(count, duration)):
        gallery = tmp_path / f"gallery {number}"
        command = ("enroll", photos, "--model", "small", "--gallery", gallery, "--json")
        told = [json.loads(line) for line in killed(start(*command), moment)]
        assert {line["status"] for line in told} <= {"enrolled"}
        if (gallery / DATABASE).exists():
            with Gallery(gallery) as herd_book:
                there = {photo.source: photo for photo in herd_book.photos()}
            assert len(there) >= len(told)
            partly += 0 < len(there) < 4 * INDIVIDUALS
            for line in told:
                assert there[Path(line["photo"])].individual == line["individual"]
            for photo in there.values():
                assert photo.file.read_bytes() == photo.source.read_bytes()
            kept = _embeddings(gallery)
            assert set(kept) == {photo.sha256 for photo in there.values()}
            assert_same(kept, {sha256: embedded[sha256] for sha256 in kept})
            assert_whole(petid, gallery, len(there))
        else:
            assert told == []
        again = [json.loads(line)["status"] for line in timed(start(*command))[0].splitlines()]
        assert len(again) == 4 * INDIVIDUALS
        assert set(again) <= {"enrolled", "known"}
        assert again.count("known") >= len(told)
        assert_same(_embeddings(gallery), embedded)
        shutil.rmtree(gallery)
    if count >= 50:
        assert partly >= 10, "many of the moments were in the midst of the work"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", MOMENTS)
def test_reindexing_survives_kill_9_at_any_moment(start, petid, photos, tmp_path, count):
    enrolled = tmp_path / "enrolled"
    timed(start("enroll", photos, "--model", "small", "--gallery", enrolled, "--link"))
    before = _embeddings(enrolled)
    shutil.copytree(enrolled, tmp_path / "whole")
    _, duration = timed(start("reindex", "--model", "other", "--gallery", "whole"))
    after = _embeddings(tmp_path / "whole")
    assert len(after) == len(before) == 4 * INDIVIDUALS
    partly = 0
    for number, moment in enumerate(moments(count, duration)):
        gallery = tmp_path / f"gallery {number}"
        shutil.copytree(enrolled, gallery)
        killed(start("reindex", "--model", "other", "--gallery", gallery), moment)
        with Gallery(gallery) as herd_book:
            switched = herd_book.model.name == "other"
            made = herd_book.records.value(
                "SELECT count(*) FROM embeddings e JOIN models m ON m.id = e.model_id WHERE m.name = 'other'"
            )
        partly += 0 < made < 4 * INDIVIDUALS
        assert_same(_embeddings(gallery), after if switched else before)
        assert_whole(petid, gallery, 4 * INDIVIDUALS)
        said, _ = timed(start("reindex", "--model", "other", "--gallery", gallery))
        assert f"({4 * INDIVIDUALS - made} photos embedded)" in said
        assert_same(_embeddings(gallery), after)
        shutil.rmtree(gallery)
    if count >= 50:
        assert partly >= 5, "many of the moments were in the midst of the work"


@pytest.mark.parametrize("count", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_corrections_killed_halfway_are_made_whole_or_not_at_all(tmp_path, count):
    """A process that removes, takes back, merges and purges as fast as it can."""
    script = """
import itertools, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from herd import put
from petid_search.index.gallery import Gallery
with Gallery(Path(sys.argv[1]), create=True) as gallery:
    for turn in itertools.count():
        put(gallery, [(photo, "Rex") for photo in range(20)], folder=Path("nowhere"))
        put(gallery, [(photo, "Bo") for photo in range(20, 100)], folder=Path("nowhere"), link=True)
        print("ready", flush=True)
        for _ in range(5):
            gallery.remove("Rex")
            gallery.undo()
            gallery.merge("Rex", "Bo")
            gallery.undo()
        gallery.remove("Rex")
        gallery.purge()
"""
    tests = str(__file__).rpartition("/")[0]
    seen = set()
    for moment in moments(count, 0.1):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "herd"), tests],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        killed(process, moment)
        with Gallery(tmp_path / "herd") as gallery:
            individuals = gallery.individuals()
            seen.add(tuple(individuals.items()))
            assert individuals in ({"Bo": 80, "Rex": 20}, {"Bo": 80}, {"Bo": 100})
            assert upkeep.damage(gallery) == []
            upkeep.delete_orphans(gallery)
            named = gallery.records.select("SELECT stored FROM photos WHERE stored IS NOT NULL")
            assert [file for (file,) in named if not (gallery.folder / file).is_file()] == []
            assert gallery.index.is_right()
            if individuals == {"Bo": 100}:
                assert gallery.undo() == ("merge 'Rex' into 'Bo'", 20)
    assert len(seen) > 1 or count < 50


def test_what_is_told_is_told_at_once_and_is_true_by_then(start, photos, tmp_path):
    """A line of `enroll --json` reaches its reader while the command is still at work, and its photo is enrolled."""
    process = start("enroll", photos, "--model", "small", "--gallery", "herd", "--json")
    line = json.loads(process.stdout.readline())
    assert process.poll() is None
    with Gallery(tmp_path / "herd") as herd_book:
        there = list(herd_book.photos())
    assert Path(line["photo"]) in {photo.source for photo in there}
    assert len(there) < 4 * INDIVIDUALS, "it was told before all was done"
    process.communicate()
    assert process.returncode == 0


def _embeddings(gallery):
    """The embedding of every photo that the gallery's model is known by, by the photo's hash."""
    with Gallery(gallery) as herd_book:
        hashes = {photo.id: photo.sha256 for photo in herd_book.photos()}
        return {
            hashes[photo]: vector
            for block in herd_book.blocks()
            for photo, vector in zip(block.photos.tolist(), block.vectors, strict=True)
        }
