"""Thumbnails are made once for each content, and come back without the photo being read; nothing depends on them."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_scene
from PIL import Image
from skimage.metrics import structural_similarity
from test_ssim import small

from petid_search.dedup import thumbnails
from petid_search.dedup.thumbnails import Picture, ThumbnailStore
from petid_search.errors import PhotoError


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "thumbnails.db"


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    return [save(tmp_path / f"{seed}.png", seed) for seed in range(5)]


def save(path: Path, seed: int, *, seconds_ago: int = 60, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_scene(seed).save(path, **options)
    age(path, seconds_ago)
    return path


def age(path: Path, seconds: int) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def read(file: Path, paths: list[Path]) -> list[Picture | PhotoError]:
    with ThumbnailStore(file) as store:
        return store.read(paths)


@pytest.fixture
def at_once(monkeypatch):
    """A file counts as settled at once: the time of an inode cannot be set back."""
    monkeypatch.setattr(thumbnails, "_SETTLED_NS", -1)


@pytest.fixture
def work(monkeypatch) -> dict[str, int]:
    """How often a photo is read, and decoded."""
    counts = {"read": 0, "decoded": 0}
    read_photo, decode_grey = thumbnails.read_photo, thumbnails.decode_grey

    def reading(path):
        counts["read"] += 1
        return read_photo(path)

    def decoding(photo, size):
        counts["decoded"] += 1
        return decode_grey(photo, size)

    monkeypatch.setattr(thumbnails, "read_photo", reading)
    monkeypatch.setattr(thumbnails, "decode_grey", decoding)
    return counts


def test_a_thumbnail_is_what_pillow_makes_of_the_photo(file, photos):
    for seed, picture in enumerate(read(file, photos)):
        np.testing.assert_array_equal(picture.thumbnail, small(draw_scene(seed)))


def test_a_large_photo_is_decoded_at_a_part_of_its_size_and_gives_nearly_the_same(file, tmp_path):
    large = draw_scene(3, 1600)
    large.save(tmp_path / "large.jpg", quality=95)
    (picture,) = read(file, [tmp_path / "large.jpg"])
    difference = np.abs(picture.thumbnail.astype(int) - small(Image.open(tmp_path / "large.jpg").convert("RGB")))
    assert difference.max() <= 2
    assert difference.mean() < 0.5
    whole = small(Image.open(tmp_path / "large.jpg").convert("RGB"))
    assert structural_similarity(picture.thumbnail, whole) > 0.998


def test_what_was_seen_is_not_read_again(file, photos, work, at_once):
    first = read(file, photos)
    assert work == {"read": 5, "decoded": 5}
    second = read(file, photos)
    assert work == {"read": 5, "decoded": 5}
    for before, after in zip(first, second, strict=True):
        assert (before.path, before.sha256) == (after.path, after.sha256)
        np.testing.assert_array_equal(before.thumbnail, after.thumbnail)


def test_a_photo_that_was_moved_is_read_and_not_decoded_again(file, photos, work):
    read(file, photos)
    moved = photos[0].rename(photos[0].with_name("elsewhere.png"))
    (picture,) = read(file, [moved])
    assert work == {"read": 6, "decoded": 5}
    np.testing.assert_array_equal(picture.thumbnail, small(draw_scene(0)))


def test_a_photo_that_changed_is_read_again(file, photos, work, at_once):
    read(file, photos)
    save(photos[0], 77, seconds_ago=30)
    (picture,) = read(file, photos[:1])
    assert work["decoded"] == 6
    np.testing.assert_array_equal(picture.thumbnail, small(draw_scene(77)))


def test_a_photo_replaced_by_one_as_large_and_as_old_is_read_again(file, photos, work, at_once):
    draw_scene(1).save(photos[0].with_suffix(".bmp"))
    age(photos[0].with_suffix(".bmp"), 60)
    at = photos[0].with_suffix(".bmp").stat()
    read(file, [photos[0].with_suffix(".bmp")])
    draw_scene(2).save(photos[0].with_suffix(".bmp"))
    os.utime(photos[0].with_suffix(".bmp"), ns=(at.st_mtime_ns, at.st_mtime_ns))
    assert photos[0].with_suffix(".bmp").stat().st_size == at.st_size
    (picture,) = read(file, [photos[0].with_suffix(".bmp")])
    np.testing.assert_array_equal(picture.thumbnail, small(draw_scene(2)))


def test_qualities_are_measured_once(file, photos, monkeypatch):
    measured = []
    measure = thumbnails.measure_quality
    monkeypatch.setattr(thumbnails, "measure_quality", lambda photo: measured.append(photo) or measure(photo))
    for _ in range(2):
        with ThumbnailStore(file) as store:
            qualities = store.measure(store.read(photos))
        assert [(one.width, one.height, one.format, one.frames) for one in qualities] == [(96, 96, "PNG", 1)] * 5
    assert len(measured) == 5


def test_a_photo_written_this_very_moment_is_read_again_next_time(file, tmp_path, work):
    photo = save(tmp_path / "now.bmp", 1, seconds_ago=0)
    at = photo.stat()
    read(file, [photo])
    draw_scene(2).save(photo)  # as large as before, and within one tick of a coarse clock
    os.utime(photo, ns=(at.st_mtime_ns, at.st_mtime_ns))
    assert photo.stat().st_size == at.st_size
    (picture,) = read(file, [photo])
    np.testing.assert_array_equal(picture.thumbnail, small(draw_scene(2)))


def test_what_cannot_be_read_stands_in_its_place_as_the_reason(file, photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    results = read(file, [photos[0], broken, tmp_path / "gone.png", tmp_path / "nul\0.png", photos[1]])
    assert [isinstance(result, Picture) for result in results] == [True, False, False, False, True]
    assert "not a photo" in str(results[1])
    assert "There is no photo" in str(results[2])


def test_more_photos_than_one_chunk_keep_their_order(file, photos, monkeypatch):
    monkeypatch.setattr(thumbnails, "_CHUNK", 2)
    told: list[int] = []
    with ThumbnailStore(file) as store:
        results = store.read(photos[::-1], told.append)
    assert [result.path for result in results] == photos[::-1]
    assert told == [2, 2, 1]


@pytest.mark.parametrize("damage", [b"no database", b""])
def test_a_damaged_file_is_begun_anew(file, photos, damage, work):
    read(file, photos)
    file.write_bytes(damage)
    assert all(isinstance(result, Picture) for result in read(file, photos))
    read(file, photos)
    assert work["decoded"] == 10


def test_a_file_of_another_version_is_begun_anew(file, photos, monkeypatch, work):
    read(file, photos)
    monkeypatch.setattr(thumbnails, "_VERSION", 99)
    read(file, photos)
    assert work["decoded"] == 10


def test_without_a_place_to_keep_them_thumbnails_are_made_all_the_same(photos, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert all(isinstance(result, Picture) for result in read(tmp_path / "file" / "thumbnails.db", photos))


def test_a_file_that_another_process_holds_locked_is_done_without(file, photos, monkeypatch):
    read(file, photos[:1])
    monkeypatch.setattr(thumbnails, "_PATIENCE_S", 0.1)
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert all(isinstance(result, Picture) for result in read(file, photos))
    finally:
        other.close()


def test_two_processes_may_fill_one_file_at_once(file, photos):
    code = (
        "import sys; from pathlib import Path; from petid_search.dedup.thumbnails import ThumbnailStore\n"
        "store = ThumbnailStore(Path(sys.argv[1])); print(len(store.read([Path(p) for p in sys.argv[2:]])))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, file, *photos], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0] for process in started] == ["5\n"] * 3
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT count(*) FROM thumbnails").fetchone() == (5,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
