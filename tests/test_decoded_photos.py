"""Decoded photos: the same pixels as decoding gives, made once, and finished after whatever interrupted it."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from petid_search.dataset.manifest import read_manifest
from petid_search.errors import DatasetError
from petid_search.images import open_image
from petid_search.train.photos import DecodedPhotos

SIZE = 24
MAKE = """
import os, resource, signal, sys
from pathlib import Path
from petid_search.dataset.manifest import read_manifest
from petid_search.errors import PetidError
from petid_search.train.photos import DecodedPhotos

photos = read_manifest(Path("photos"))
"""


@pytest.fixture
def photos(take_photos):
    return read_manifest(take_photos(10, 8))


def in_another_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAKE + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )


def forget(photos) -> None:
    """From now on, nothing can be decoded again."""
    for photo in photos:
        photo.path.unlink()


def test_images_are_what_decoding_gives_in_the_order_asked(photos, tmp_path):
    done = []
    decoded = DecodedPhotos(photos, SIZE, tmp_path / "cache" / "here", advance=done.append)
    assert len(decoded) == len(photos) == sum(done) == 80
    assert decoded.usable.all()
    places = np.array([7, 0, 79, 7])
    images = decoded.images(places)
    assert (images.dtype, images.shape) == (np.uint8, (4, SIZE, SIZE, 3))
    for image, place in zip(images, places, strict=True):
        assert np.array_equal(image, open_image(photos[place].path, SIZE))
    images[:] = 0  # a copy: what is on the disk stays
    assert decoded.images(places).any()


def test_the_next_run_decodes_nothing_again(photos, tmp_path):
    first = DecodedPhotos(photos, SIZE, tmp_path / "cache").images(np.arange(80))
    forget(photos)
    problems, done = [], []
    again = DecodedPhotos(photos, SIZE, tmp_path / "cache", problem=problems.append, advance=done.append)
    assert problems == []
    assert done == [80]
    assert np.array_equal(again.images(np.arange(80)), first)


def test_a_photo_that_cannot_be_decoded_is_told_and_left_out_and_tried_again(photos, tmp_path):
    whole = photos[3].path.read_bytes()
    photos[3].path.write_bytes(whole[:300])
    photos[5].path.unlink()
    broken = read_manifest(tmp_path / "photos")
    assert len(broken) == 79
    listed = [*broken[:5], photos[5], *broken[5:]]
    problems = []
    decoded = DecodedPhotos(listed, SIZE, tmp_path / "cache", problem=problems.append)
    assert np.flatnonzero(~decoded.usable).tolist() == [3, 5]
    assert [photos[place].path.name in str(told) for place, told in zip((3, 5), problems, strict=True)] == [True, True]
    with pytest.raises(IndexError, match="Photo 5 could not be decoded"):
        decoded.images(np.array([4, 5]))
    photos[5].path.write_bytes(whole)
    problems = []
    listed[5] = replace(photos[5], sha256=photos[3].sha256)
    again = DecodedPhotos(listed, SIZE, tmp_path / "cache", problem=problems.append)
    assert np.flatnonzero(~again.usable).tolist() == [3]
    assert len(problems) == 1


def test_a_photo_that_changed_since_it_was_listed_is_not_taken_for_it(photos, tmp_path):
    photos[1].path.write_bytes(photos[2].path.read_bytes())
    problems = []
    decoded = DecodedPhotos(photos, SIZE, tmp_path / "cache", problem=problems.append)
    assert np.flatnonzero(~decoded.usable).tolist() == [1]
    assert "changed since" in str(problems[0])


@pytest.mark.parametrize("what", ["other photos", "another order", "another size", "cut short", "emptied", "no words"])
def test_what_does_not_belong_to_these_photos_is_made_anew(photos, tmp_path, what):
    before = DecodedPhotos(photos, SIZE, tmp_path / "cache")
    old = before.images(np.arange(80))
    size = SIZE
    if what == "other photos":
        photos = photos[1:]
    elif what == "another order":
        photos = photos[::-1]
    elif what == "another size":
        size = 20
    elif what == "cut short":
        os.truncate(tmp_path / "cache" / "decoded.npy", 9000)
    elif what == "emptied":
        os.truncate(tmp_path / "cache" / "decoded.npy", 0)
    else:
        (tmp_path / "cache" / "decoded.json").write_bytes(b"\xff{")
    decoded = DecodedPhotos(photos, size, tmp_path / "cache")
    for place in (0, 40, len(photos) - 1):
        assert np.array_equal(decoded.images(np.array([place]))[0], open_image(photos[place].path, size))
    if what in ("other photos", "another order", "another size"):
        assert np.array_equal(before.images(np.arange(80)), old), "who still reads the old file reads the old pixels"


def test_after_a_kill_only_what_was_missing_is_decoded(photos, tmp_path):
    code = """
done = []
def advance(more):
    done.append(more)
    if sum(done) >= 32:
        os.kill(os.getpid(), signal.SIGKILL)
DecodedPhotos(photos, 24, Path("cache"), advance=advance)
"""
    assert in_another_process(code, tmp_path).returncode == -signal.SIGKILL
    expected = np.stack([open_image(photo.path, SIZE) for photo in photos])
    forget(photos[:32])
    done = []
    decoded = DecodedPhotos(photos, SIZE, tmp_path / "cache", advance=done.append)
    assert done[0] == 32
    assert decoded.usable.all()
    assert np.array_equal(decoded.images(np.arange(80)), expected)


def test_a_full_disk_is_said_in_one_line_and_nothing_is_left_on_it(photos, tmp_path):
    """The limit of a file's size stands for a full disk."""
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    DecodedPhotos(photos, 24, Path("cache"))
except PetidError as error:
    print(type(error).__name__, error)
"""
    done = in_another_process(code, tmp_path)
    assert done.stderr == ""
    assert done.stdout == (
        "DatasetError No space is left for the decoded photos, 1 MB in cache: free some and run again.\n"
    )
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_disk_that_is_too_small_is_known_before_anything_is_decoded(photos, tmp_path):
    code = """
try:
    DecodedPhotos(photos, 24, Path("disk/cache"), advance=print)
except PetidError as error:
    print(error)
print(os.listdir("disk/cache"))
"""
    (tmp_path / "disk").mkdir()
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("without unshare no disk can be filled")
    # The disk is there for this shell and its child only, and goes with them.
    script = 'mount -t tmpfs -o size=90k petid-test disk || exit 42; "$@"'
    done = subprocess.run(
        [unshare, "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", MAKE + code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 42 or done.stderr.startswith("unshare:"):
        pytest.skip("no small disk can be mounted here")
    assert done.stdout == (
        "No space is left for the decoded photos, 1 MB in disk/cache: free some and run again.\n[]\n"
    ), done.stderr


def test_a_disk_that_fills_up_on_the_way_keeps_what_is_done(photos, tmp_path):
    """Where a disk cannot reserve space, it may be full later: from some place on, the file cannot be written."""
    code = """
def fill_the_disk(more):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    DecodedPhotos(photos, 24, Path("cache"), advance=fill_the_disk)
except PetidError as error:
    print(error)
"""
    assert in_another_process(code, tmp_path).stdout.startswith("No space is left")
    done = []
    DecodedPhotos(photos, SIZE, tmp_path / "cache", advance=done.append)
    assert done[0] == 48


def test_a_folder_that_cannot_be_written_to_is_said_in_one_line(photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"cannot be kept in .*: check the rights") as raised:
        DecodedPhotos(photos, SIZE, tmp_path / "file")
    assert "\n" not in str(raised.value)


def test_no_photos_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no photo to decode"):
        DecodedPhotos([], SIZE, tmp_path)
