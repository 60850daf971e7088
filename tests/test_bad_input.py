"""What petid must withstand, through the command line: one clear line for each, and nothing enrolled is lost."""

import io
import json
import os
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_animal
from PIL import Image
from rights import run_petid_bound_by_rights
from typer.testing import CliRunner

from petid_search.cli import app
from petid_search.enroll import enroll, plan_enrolment
from petid_search.identify import identify
from petid_search.index.gallery import Gallery
from petid_search.models.bundle import CARD, ONNX

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="such names and limits are tested on Linux")


@pytest.fixture
def filled(take_photos, embedder, tmp_path) -> Path:
    """The default gallery, ./index, of six individuals with two photos each."""
    folder = tmp_path / "index"
    with Gallery(folder, create=True) as gallery:
        list(enroll(gallery, plan_enrolment([take_photos(6, 2)]).photos, embedder))
        gallery.index.save()
    return folder


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What petid complained of on stderr: lines that begin with its name, nothing else, and exit code 1."""
    lines = done.stderr.splitlines()
    assert all(line.startswith("petid: ") for line in lines), done.stderr
    assert done.returncode == 1, done.stderr
    assert lines
    return lines


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The only line."""
    (line,) = complaints(done)
    return line


def whole(folder: Path) -> dict[str, int]:
    """The individuals of a gallery whose every row, photo and vector is there."""
    from petid_search.check import check

    with Gallery(folder) as gallery:
        assert check(gallery, lambda: pytest.fail("no embedding may be missing")).problems == []
        return gallery.individuals()


def image_bytes(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


# Photos


def bad_photos(folder: Path) -> list[Path]:
    """One of each kind that cannot be used."""
    folder.mkdir()
    picture = Image.fromarray(draw_animal(1, 1, 128))
    jpeg, png = image_bytes(picture, "JPEG"), image_bytes(picture, "PNG")
    bomb = bytearray(jpeg)
    start = bomb.index(b"\xff\xc0") + 5
    bomb[start : start + 4] = b"\xff\xff\xff\xff"
    flat = bytearray(jpeg)
    flat[start : start + 4] = b"\0\0\0\0"
    files = {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "bomb.jpg": bytes(bomb),
        "flat.jpg": bytes(flat),
        "empty.jpg": b"",
        "text.jpg": b"not a photo",
        "script.jpg": image_bytes(picture, "EPS"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder.jpg").mkdir()
    return [*(folder / name for name in files), folder / "missing.jpg", folder / "folder.jpg"]


def test_a_batch_goes_on_past_bad_photos_and_names_them_at_the_end(petid, filled, tmp_path, take_photo):
    bad = bad_photos(tmp_path / "bad")
    good = [take_photo(7, photo) for photo in range(len(bad))]
    mixed = [path for pair in zip(bad, good, strict=True) for path in pair]
    done = petid("enroll", *mixed, "--as", "Rex", "--json")
    lines = complaints(done)
    # The folder is known to hold no photo before any is opened; the others follow in their order.
    assert [next(path for path in bad if str(path) in line) for line in lines] == [bad[-1], *bad[:-1]]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["status"] for entry in said] == ["failed", "enrolled"] * (len(bad) - 1) + ["enrolled"]
    assert whole(filled)["Rex"] == len(good)

    done = petid("identify", *mixed, "--json", "--top", "1")
    assert len(complaints(done)) == len(bad)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["candidates"][0]["individual"] for entry in said if "error" not in entry] == ["Rex"] * len(good)


def test_odd_but_whole_photos_are_read_without_a_word(petid, filled, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    picture = Image.fromarray(draw_animal(3, 50))
    turned = Image.Exif()
    turned[0x0112] = 6
    animation = {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}
    grey = np.asarray(picture.convert("L"), np.uint16) * 257
    jpeg = image_bytes(picture, "JPEG")
    broken = b"Exif\0\0MM\0*\0\0\0\x08\0\x20" + bytes(range(200))
    files = {
        "animated.gif": image_bytes(picture, "GIF", **animation),
        "animated.webp": image_bytes(picture, "WEBP", **animation),
        "cmyk.jpg": image_bytes(picture.convert("CMYK"), "JPEG"),
        "16-bit.png": image_bytes(Image.fromarray(grey), "PNG"),
        "16-bit.tif": image_bytes(Image.fromarray(grey), "TIFF"),
        "float.tif": image_bytes(Image.fromarray((grey / 65535).astype(np.float32)), "TIFF"),
        "palette.png": image_bytes(picture.quantize(16), "PNG", transparency=0),
        "rgba.png": image_bytes(picture.convert("RGBA"), "PNG"),
        "1-bit.png": image_bytes(picture.convert("1"), "PNG"),
        "turned.jpg": image_bytes(picture, "JPEG", exif=turned),
        "really-a-png.jpg": image_bytes(picture, "PNG"),
        "really-a-jpeg": jpeg,
        "broken-exif.jpg": jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken + jpeg[2:],
        "vast.jpg": image_bytes(Image.new("L", (13_000, 10_000), 99), "JPEG"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    done = petid("identify", *(folder / name for name in files), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    best = {Path(said["photo"]).name: said["candidates"][0] for said in map(json.loads, done.stdout.splitlines())}
    assert list(best) == list(files)
    for name in ("animated.gif", "animated.webp", "rgba.png", "really-a-png.jpg", "really-a-jpeg", "broken-exif.jpg"):
        assert best[name]["individual"] == "3"


def test_a_photo_without_read_right_is_named_and_the_others_are_answered(filled, take_photo, tmp_path):
    secret = take_photo(1, 50, "secret.png")
    locked = take_photo(1, 51, "locked/photo.png").parent
    rex = take_photo(1, 52, "pets/Rex/photo.png")
    take_photo(2, 52, "pets/Ada/photo.png")
    for path, mode in ((secret, 0), (locked, 0), (tmp_path / "pets" / "Ada", 0)):
        path.chmod(mode)
    good = take_photo(1, 53)
    done = run_petid_bound_by_rights(tmp_path, "identify", secret, locked, locked / "photo.png", good, "--json")
    enrolled = run_petid_bound_by_rights(tmp_path, "enroll", "pets")
    for path in (locked, tmp_path / "pets" / "Ada"):
        path.chmod(0o755)
    lines = complaints(done)
    assert [str(path) in line for path, line in zip((locked, secret, locked / "photo.png"), lines, strict=True)]
    assert [json.loads(line)["photo"] for line in done.stdout.splitlines()][-1] == str(good)
    assert "pets/Ada cannot be read" in complaint(enrolled)
    assert whole(filled)["Rex"] == 1
    assert rex.exists()


# Names


@on_linux
def test_a_name_of_a_file_can_neither_break_a_line_nor_steer_a_terminal(petid, filled, take_photo):
    names = ["🐶 and 🐱.png", "two\nlines.png", "red\x1b[31m.png", os.fsdecode(b"caf\xe9.png"), "a\u2028b.png"]
    photos = [take_photo(1, 50 + place, name) for place, name in enumerate(names)]
    for photo in photos:
        shutil.copy(photo, photo.with_suffix(".jpg"))
        photo.with_suffix(".jpg").write_bytes(b"no photo")
    bad = [photo.with_suffix(".jpg") for photo in photos]
    done = petid("identify", *photos, *bad, "--top", "1", PYTHONIOENCODING="utf-8")
    assert len(complaints(done)) == len(names)
    assert len(done.stdout.splitlines()) == 2 * len(names)
    assert "\x1b" not in done.stdout + done.stderr
    assert "🐶 and 🐱.jpg is not a photo" in done.stderr
    assert "two\\nlines.png: " in done.stdout
    for encoding in ("utf-8", "latin-1"):
        done = petid("identify", *photos, "--json", PYTHONIOENCODING=encoding)
        assert [json.loads(line)["photo"] for line in done.stdout.split("\n")[:-1]] == [str(photo) for photo in photos]
    assert petid("identify", photos[0], PYTHONIOENCODING="latin-1").returncode == 0


def test_an_individual_may_be_named_with_slashes_and_emoji(petid, filled, take_photo):
    name = "../../Rex/🐶 d'Ör"
    done = petid("enroll", take_photo(9), "--as", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"     1  {name}" in petid("list").stdout.splitlines()
    assert json.loads(petid("show", name, "--json").stdout)["individual"] == name
    assert petid("rename", name, "Rex").returncode == 0
    assert whole(filled)["Rex"] == 1


def test_a_name_that_is_not_fit_is_refused(petid, filled, take_photo):
    photo = take_photo(9)
    for name in ("x" * 10_000, "two\nlines", "\x1b[2J", " "):
        assert len(complaint(petid("enroll", photo, "--as", name))) < 200
    assert len(complaint(petid("rename", "1", "x" * 10_000))) < 200
    assert whole(filled) == {str(i): 2 for i in range(6)}


def test_10000_letters_are_refused_in_a_short_line(petid, filled, take_photo):
    letters, photo = "x" * 10_000, take_photo(1, 50)
    for command in (
        ("enroll", letters, letters, photo, "--as", "Rex"),
        ("enroll", letters),
        ("identify", letters, photo),
        ("explain", photo, "--against", letters),
    ):
        assert all(len(line) < 700 for line in complaints(petid(*command))), command


@on_linux
def test_10000_letters_are_no_gallery_and_no_file_to_write(petid, filled, take_photo):
    letters, photo = "x" * 10_000, take_photo(1, 50)
    assert "--output" in complaint(petid("explain", photo, "--output", letters))
    assert "--output" in complaint(petid("embed", photo, "--model", "small", "--output", letters))
    assert "File name too long" in complaint(
        petid("enroll", photo, "--as", "R", "--model", "small", "--gallery", letters)
    )
    assert "File name too long" in complaint(petid("list", "--gallery", letters))


# Galleries


def test_without_a_gallery_the_way_to_one_is_said(petid, take_photo, tmp_path):
    assert "petid enroll PHOTOS" in complaint(petid("list"))
    assert "petid enroll PHOTOS" in complaint(petid("identify", take_photo(1)))
    assert not (tmp_path / "index").exists()


def test_a_file_that_is_no_gallery_is_left_as_it_is(petid, take_photo, tmp_path):
    (tmp_path / "index").mkdir()
    file = tmp_path / "index" / "gallery.db"
    file.write_text("the herd book of 1987")
    for command in (("list",), ("enroll", take_photo(1), "--as", "Rex")):
        assert "is not a gallery" in complaint(petid(*command))
    assert file.read_text() == "the herd book of 1987"


@pytest.mark.parametrize("application_id", [0, 77])
def test_the_database_of_another_program_is_left_as_it_is(petid, take_photo, tmp_path, application_id):
    (tmp_path / "index").mkdir()
    file = tmp_path / "index" / "gallery.db"
    with sqlite3.connect(file) as other:
        other.execute(f"PRAGMA application_id = {application_id}")
        other.execute("CREATE TABLE photos (title TEXT)")
    other.close()
    before = file.read_bytes()
    for command in (("list",), ("enroll", take_photo(1), "--as", "Rex", "--model", "small")):
        assert "another program" in complaint(petid(*command))
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_gallery_is_said_to_be_so(petid, filled, take_photo, damage):
    file = filled / "gallery.db"
    with Gallery(filled) as gallery:
        gallery.records.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if damage == "cut":
        os.truncate(file, 3 * 16384)
    else:
        with file.open("r+b") as opened:
            opened.seek(16384)
            opened.write(b"overwritten " * 100_000)
    for command in (("identify", take_photo(1, 50)), ("enroll", take_photo(9), "--as", "Rex"), ("check",)):
        assert "backup" in complaint(petid(*command)), command


def test_a_gallery_that_is_a_file_is_refused(petid, tmp_path, take_photo):
    (tmp_path / "index").write_text("a file")
    assert "There is no gallery in index" in complaint(petid("list"))
    assert "check the folder" in complaint(petid("enroll", take_photo(1), "--as", "Rex", "--model", "small"))


def test_a_gallery_that_may_not_be_written_is_said_to_be_so(filled, take_photo, tmp_path):
    photo = take_photo(9)
    for path in (filled, *filled.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    answers = [
        run_petid_bound_by_rights(tmp_path, *command)
        for command in (("enroll", photo, "--as", "Rex"), ("remove", "1"), ("enroll", photo, "--gallery", "index/new"))
    ]
    filled.chmod(0)
    answers.append(run_petid_bound_by_rights(tmp_path, "list"))
    for path in (filled, *filled.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for answer in answers[:2]:
        assert "may not be written" in complaint(answer)
    assert len(complaints(answers[2])) == 1
    assert "rights" in complaint(answers[3])
    assert whole(filled) == {str(i): 2 for i in range(6)}


@pytest.fixture
def vectors_file(filled) -> Path:
    (file,) = filled.glob("vectors-*.faiss")
    return file


def other_index(embedder, take_photo, folder: Path) -> bytes:
    """A FAISS file that petid wrote for another gallery: the same photo ids, other animals."""
    with Gallery(folder, create=True) as other:
        list(enroll(other, [(take_photo(70 + i), f"other {i}") for i in range(12)], embedder))
        other.index.save()
    (file,) = folder.glob("vectors-*.faiss")
    return file.read_bytes()


@pytest.mark.parametrize("what", ["another gallery's", "garbage", "cut", "empty", "gone"])
def test_a_faiss_file_that_is_not_the_gallerys_own_is_never_loaded(
    filled, vectors_file, embedder, take_photo, tmp_path, monkeypatch, what
):
    import faiss

    whole_file = vectors_file.read_bytes()
    changed = {
        "another gallery's": lambda: other_index(embedder, take_photo, tmp_path / "other"),
        "garbage": lambda: os.urandom(len(whole_file)),
        "cut": lambda: whole_file[:-100],
        "empty": lambda: b"",
    }
    if what == "gone":
        vectors_file.unlink()
    else:
        vectors_file.write_bytes(changed[what]())
    monkeypatch.setattr(faiss, "deserialize_index", lambda data: pytest.fail("FAISS was given a file not its own"))
    monkeypatch.setattr(faiss, "read_index", lambda name: pytest.fail("FAISS was given a file not its own"))
    with Gallery(filled) as gallery:
        answers = list(identify([take_photo(i, 50) for i in range(6)], gallery, embedder))
    assert [answer.candidates[0].individual for answer in answers] == [str(i) for i in range(6)]


def test_a_faiss_file_of_garbage_changes_no_answer_and_check_makes_it_again(petid, vectors_file, take_photo):
    photo = take_photo(4, 50)
    before = petid("identify", photo, "--json")
    vectors_file.write_bytes(b"garbage" * 1000)
    after = petid("identify", photo, "--json")
    assert (after.returncode, after.stderr, after.stdout) == (0, "", before.stdout)
    assert petid("check").returncode == 0
    assert whole(vectors_file.parent) == {str(i): 2 for i in range(6)}


# Models


def test_without_the_model_asked_for_no_gallery_is_made(petid, take_photos, tmp_path):
    done = petid("enroll", take_photos(2, 1), "--model", "gone", PETID_HOME=str(tmp_path / "nothing"))
    assert "There is no model 'gone'" in complaint(done)
    assert not (tmp_path / "index").exists()


def test_a_model_that_is_gone_is_said_to_be_so(petid, filled, take_photo, tmp_path):
    done = petid("identify", take_photo(1, 50), PETID_HOME=str(tmp_path / "nothing"))
    assert "needs model 'small'" in complaint(done)


@pytest.mark.parametrize("name", [ONNX, CARD])
def test_a_bundle_with_a_changed_byte_is_refused(petid, filled, home, take_photo, tmp_path, name):
    models = shutil.copytree(home, tmp_path / "home") / "models"
    file = models / "small" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    for command in (("identify", take_photo(1, 50)), ("enroll", take_photo(9), "--as", "Rex")):
        line = complaint(petid(*command, PETID_HOME=str(models.parent)))
        assert f"{file} is damaged" in line
        assert "petid models remove small" in line
    assert whole(filled) == {str(i): 2 for i in range(6)}


def test_another_model_than_the_gallerys_is_refused(petid, filled, take_photo):
    line = complaint(petid("enroll", take_photo(9), "--as", "Rex", "--model", "other"))
    assert "petid reindex --model other" in line


def test_a_linked_photo_that_is_gone_is_named_by_what_needs_it(petid, embedder, take_photo, tmp_path):
    photo = take_photo(1, path="linked.png")
    with Gallery(tmp_path / "index", create=True) as gallery:
        list(enroll(gallery, [(photo, "Rex")], embedder, link=True))
    photo.unlink()
    probe = take_photo(1, 50)
    done = petid("identify", probe, "--json")
    assert (done.returncode, json.loads(done.stdout)["candidates"][0]["individual"]) == (0, "Rex")
    assert "linked.png" in complaint(petid("explain", probe))
    assert "linked.png of 'Rex' is missing: put it back" in complaint(petid("check"))
    lines = complaints(petid("reindex", "--model", "other"))
    assert ["linked.png" in lines[0], "keeps its model 'small'" in lines[-1]] == [True, True]


# Disks


@on_linux
def test_where_no_file_can_grow_nothing_is_lost_and_later_all_is_enrolled(filled, take_photo, tmp_path, models_folder):
    """The limit of a file's size stands for a full disk here; the next test fills one."""
    for i in range(60):
        take_photo(i % 6, 100 + i, f"more/{i % 6}/{i}.png")

    def enroll_within(limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "petid_search", "enroll", "more"],
            cwd=tmp_path,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
            capture_output=True,
            text=True,
            timeout=120,
        )

    for limit in (1_000, 100_000):
        complaint(enroll_within(limit))
        assert whole(filled) == {str(i): 2 for i in range(6)}
    assert enroll_within(100_000_000).returncode == 0
    assert whole(filled) == {str(i): 12 for i in range(6)}


@on_linux
def test_on_a_full_disk_nothing_is_lost_and_with_room_all_is_enrolled(filled, take_photo, tmp_path, models_folder):
    for i in range(60):
        take_photo(i % 6, 100 + i, f"more/{i % 6}/{i}.png")
    (tmp_path / "disk").mkdir()
    # The disk is there for this shell and its children only, and goes with them.
    script = """
        mount -t tmpfs -o size=900k petid-test disk 2>/dev/null && cp -r index disk/ || exit 42
        "$1" -m petid_search enroll more --gallery disk/index; echo "code $?"
        "$1" -m petid_search list --gallery disk/index
        mount -o remount,size=50m disk
        "$1" -m petid_search enroll more --gallery disk/index --quiet; echo "code $?"
        "$1" -m petid_search check --gallery disk/index | tail -n 1
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("without unshare no disk can be filled")
    done = subprocess.run(
        [unshare, "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 42 or done.stderr.startswith("unshare:"):
        pytest.skip("no small disk can be mounted here")
    assert done.stderr.splitlines() == [
        "petid: No space is left for the gallery disk/index: free some and run again; nothing enrolled is lost."
    ]
    assert done.stdout.splitlines() == [
        "code 1",
        *(f"     2  {i}" for i in range(6)),
        "code 0",
        "The gallery disk/index is whole: 72 photos of 6 individuals.",
    ]


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        ("identify", "a.jpg", "--fpir", "0"),
        ("identify", "a.jpg", "--fpir", "2"),
        ("identify", "a.jpg", "--fpir", "nan"),
        ("identify", "a.jpg", "--fpir", "low"),
        ("explain", "a.jpg", "--fpir", "-0.1"),
        ("calibrate", "--fpir", "1"),
        ("identify", "a.jpg", "--top", "0"),
        ("identify",),
        ("verify", "a.jpg", "b.jpg", "--far", "1"),
        ("verify", "a.jpg"),
        ("embed", "a.jpg", "--output", "."),
        ("explain", "a.jpg", "--against", "Rex", "--model", "small"),
        ("embed", "a.jpg"),
        ("groom", "a.jpg"),
        ("identify", "a.jpg", "--gallop"),
    ],
)
def test_wrong_usage_exits_with_2(arguments):
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage: " in done.stderr


def test_wrong_usage_exits_with_2_from_the_shell(petid):
    done = petid("identify", "a.jpg", "--fpir", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
