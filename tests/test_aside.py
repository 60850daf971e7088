"""Duplicates are moved aside and come back; whatever happens on the way, no picture is lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import draw_scene

from petid_search.dedup import aside
from petid_search.dedup.aside import carry_out, free_folder, plan_steps, restore
from petid_search.dedup.duplicates import Labelled, find_duplicates
from petid_search.dedup.thumbnails import ThumbnailStore
from petid_search.errors import DedupError
from petid_search.images import MOVED_LIST


@pytest.fixture
def pets(tmp_path) -> Path:
    """Three photos of Rex that are one picture, two such of Max, and one of each that is like no other."""
    for name, seeds in {"Rex": (1, 1, 1, 2), "Max": (3, 3, 4)}.items():
        for number, seed in enumerate(seeds):
            file = tmp_path / "pets" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            draw_scene(seed).save(file)
    return tmp_path / "pets"


@pytest.fixture
def plan(tmp_path):
    def make(folder: Path, *, delete: bool = False):
        photos = [Labelled(photo, photo.parent.name) for photo in sorted(folder.rglob("*.png"))]
        with ThumbnailStore(tmp_path / "thumbnails.db") as store:
            return plan_steps(find_duplicates(photos, store=store).groups, [folder], delete=delete)

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def problems(steps) -> list[str]:
    return [str(problem) for problem in steps if problem is not None]


def test_what_is_moved_aside_comes_back_as_it_was(pets, plan, tmp_path):
    before = contents(pets)
    assert problems(carry_out(plan(pets), tmp_path / "aside")) == []
    assert sorted(contents(pets)) == ["Max/0.png", "Max/2.png", "Rex/0.png", "Rex/3.png"]
    assert sorted(contents(tmp_path / "aside")) == ["Max/1.png", "Rex/1.png", "Rex/2.png", MOVED_LIST]
    assert problems(restore(tmp_path / "aside")) == []
    assert contents(pets) == before
    assert not (tmp_path / "aside").exists()


def test_what_is_deleted_is_written_down(pets, plan, tmp_path):
    assert problems(carry_out(plan(pets, delete=True), tmp_path / "list")) == []
    assert sorted(contents(pets)) == ["Max/0.png", "Max/2.png", "Rex/0.png", "Rex/3.png"]
    steps = [json.loads(line) for line in (tmp_path / "list" / MOVED_LIST).read_text().splitlines()]
    assert sorted((Path(step["photo"]).name, step["action"]) for step in steps) == [
        ("1.png", "delete"),
        ("1.png", "delete"),
        ("2.png", "delete"),
    ]
    assert all(Path(step["keep"]).exists() for step in steps)
    with pytest.raises(DedupError, match="was deleted, not moved"):
        list(restore(tmp_path / "list"))


def test_of_one_picture_under_two_individuals_one_of_each_stays(tmp_path, plan):
    for name in ("Rex/a", "Rex/b", "Max/c", "Max/d", "Max/e"):
        file = tmp_path / "pets" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_scene(1).save(file)
        os.utime(file, (1e9, 1e9))
    assert problems(carry_out(plan(tmp_path / "pets"), tmp_path / "aside")) == []
    assert sorted(contents(tmp_path / "pets")) == ["Max/c.png", "Rex/a.png"]


def test_links_and_animations_stay(tmp_path, plan):
    folder = tmp_path / "pets" / "Rex"
    folder.mkdir(parents=True)
    draw_scene(1).save(folder / "a.png")
    (tmp_path / "elsewhere").mkdir()
    draw_scene(1, 200).save(tmp_path / "elsewhere" / "large.png")
    (folder / "large.png").symlink_to(tmp_path / "elsewhere" / "large.png")
    draw_scene(1, 200).save(tmp_path / "moving.gif", save_all=True, append_images=[draw_scene(2, 200)])
    (tmp_path / "moving.gif").rename(folder / "moving.png")
    draw_scene(1).save(folder / "z.png")
    before = contents(tmp_path / "pets")
    steps = plan(tmp_path / "pets")
    assert [Path(step.photo).name for step in steps] == ["z.png"]
    assert [Path(step.keep).name for step in steps] == ["a.png"]
    list(carry_out(steps, tmp_path / "aside"))
    assert problems(restore(tmp_path / "aside")) == []
    assert contents(tmp_path / "pets") == before


def test_nothing_is_written_over(pets, plan, tmp_path):
    with pytest.raises(FileExistsError):
        aside._move(pets / "Rex" / "0.png", pets / "Rex" / "1.png")
    (pets / "Rex" / "dangling.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        aside._move(pets / "Rex" / "0.png", pets / "Rex" / "dangling.png")
    names = ["Rex/\u00e9.png", "Rex/e\u0301.png", "rex/\u00c9.png"]  # one name, on some disks
    taken: set[str] = set()
    assert len({aside._place(tmp_path / name, [tmp_path], taken).casefold() for name in names}) == 3
    assert len({aside._alike(place) for place in taken}) == 3


def test_a_photo_that_is_gone_from_both_places_keeps_the_list(pets, plan, tmp_path):
    list(carry_out(plan(pets), tmp_path / "aside"))
    (tmp_path / "aside" / "Rex" / "1.png").rename(tmp_path / "aside" / "Rex" / "renamed.png")
    (told,) = problems(restore(tmp_path / "aside"))
    assert "is gone" in told
    assert (tmp_path / "aside" / MOVED_LIST).exists()
    (tmp_path / "aside" / "Rex" / "renamed.png").rename(pets / "Rex" / "1.png")
    assert problems(restore(tmp_path / "aside")) == []
    assert not (tmp_path / "aside" / MOVED_LIST).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"photo": 5},
        {"photo": "relative.png"},
        {"aside": "."},
        {"aside": "/etc/x"},
        {"aside": "a/../../x"},
        {"keep": None},
    ],
)
def test_a_list_that_somebody_changed_moves_nothing(change, pets, plan, tmp_path):
    list(carry_out(plan(pets), tmp_path / "aside"))
    file = tmp_path / "aside" / MOVED_LIST
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([*rest, json.dumps({**json.loads(first), **change})]))
    before = contents(tmp_path)
    with pytest.raises(DedupError, match="is damaged"):
        list(restore(tmp_path / "aside"))
    assert contents(tmp_path) == before


def test_the_root_of_a_disk_has_no_place_beside_it():
    with pytest.raises(DedupError, match="--aside"):
        free_folder(Path(Path.cwd().anchor))


@pytest.mark.parametrize("moment", range(4))
def test_broken_off_at_any_moment_everything_is_there_and_comes_back(moment, pets, plan, tmp_path, monkeypatch):
    before = contents(pets)
    steps = plan(pets)
    move, moves = aside._move, []

    def broken(source, target):
        if len(moves) == moment:
            raise KeyboardInterrupt
        moves.append(source)
        move(source, target)

    monkeypatch.setattr(aside, "_move", broken)
    if moment < len(steps):
        with pytest.raises(KeyboardInterrupt):
            list(carry_out(steps, tmp_path / "aside"))
    else:
        list(carry_out(steps, tmp_path / "aside"))
    monkeypatch.undo()
    assert len(contents(pets)) == len(before) - moment
    assert problems(restore(tmp_path / "aside")) == []
    assert contents(pets) == before


def test_restoring_that_was_broken_off_goes_on(pets, plan, tmp_path, monkeypatch):
    before = contents(pets)
    list(carry_out(plan(pets), tmp_path / "aside"))
    going = restore(tmp_path / "aside")
    next(going)
    del going
    assert len(contents(pets)) == len(before) - 2
    assert problems(restore(tmp_path / "aside")) == []
    assert contents(pets) == before


def test_a_photo_that_changed_since_it_was_compared_stays(pets, plan, tmp_path):
    steps = plan(pets)
    draw_scene(9).save(pets / "Rex" / "1.png")
    told = problems(carry_out(steps, tmp_path / "aside"))
    assert len(told) == 1
    assert f"{pets / 'Rex' / '1.png'} stays: it has changed meanwhile" in told[0]
    assert (pets / "Rex" / "1.png").exists()
    assert not (pets / "Rex" / "2.png").exists()


def test_nothing_is_moved_in_whose_stead_nothing_would_stay(pets, plan, tmp_path):
    steps = plan(pets)
    draw_scene(9).save(pets / "Rex" / "0.png")
    told = problems(carry_out(steps, tmp_path / "aside"))
    assert len(told) == 2
    assert (pets / "Rex" / "1.png").exists()
    assert (pets / "Rex" / "2.png").exists()


def test_nothing_is_touched_before_the_list_is_on_the_disk(pets, plan, tmp_path, monkeypatch):
    before = contents(pets)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(aside, "sync", full)
    with pytest.raises(DedupError, match="cannot be written"):
        list(carry_out(plan(pets), tmp_path / "aside"))
    assert contents(pets) == before


def test_a_folder_that_holds_something_is_not_used(pets, plan, tmp_path):
    with pytest.raises(DedupError, match="is not empty"):
        list(carry_out(plan(pets), pets))
    assert free_folder(pets) == tmp_path / "pets-duplicates"
    (tmp_path / "pets-duplicates").mkdir()
    assert free_folder(pets) == tmp_path / "pets-duplicates-2"


def test_to_another_disk_photos_are_copied_whole_before_they_go(pets, plan, tmp_path, monkeypatch):
    before = contents(pets)
    rename = Path.rename

    def across(self, target):
        if ("aside" in str(target)) != ("aside" in str(self)):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across)
    assert problems(carry_out(plan(pets), tmp_path / "aside")) == []
    assert len(contents(pets)) == len(before) - 3
    assert problems(restore(tmp_path / "aside")) == []
    assert contents(pets) == before


def test_a_photo_copied_to_another_disk_and_not_yet_deleted_is_restored_to_one(pets, plan, tmp_path):
    before = contents(pets)
    list(carry_out(plan(pets), tmp_path / "aside"))
    (pets / "Rex" / "1.png").write_bytes(before["Rex/1.png"])
    assert problems(restore(tmp_path / "aside")) == []
    assert contents(pets) == before
    assert not (tmp_path / "aside").exists()


def test_another_photo_in_its_place_is_not_overwritten(pets, plan, tmp_path):
    list(carry_out(plan(pets), tmp_path / "aside"))
    draw_scene(9).save(pets / "Rex" / "1.png")
    now = (pets / "Rex" / "1.png").read_bytes()
    told = problems(restore(tmp_path / "aside"))
    assert len(told) == 1
    assert "there is something else" in told[0]
    assert (pets / "Rex" / "1.png").read_bytes() == now
    assert (tmp_path / "aside" / "Rex" / "1.png").exists()
    (pets / "Rex" / "1.png").unlink()
    assert problems(restore(tmp_path / "aside")) == []
    assert not (tmp_path / "aside").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "There is no moved-by-petid.jsonl"),
        ("no json\n", "is damaged"),
        ('{"action": "move"}\n', "is damaged"),
        ("ä", "is damaged"),
        ("", "is empty"),
        (
            '{"action": "move", "photo": "/tmp/x", "sha256": "", "aside": "../../x", "keep": "", "keep_sha256": "", '
            '"ssim": 1}\n',
            "is damaged",
        ),
    ],
)
def test_a_list_that_is_none_is_refused(text, says, tmp_path):
    if text is not None:
        (tmp_path / MOVED_LIST).write_text(text, encoding="utf-8")
    with pytest.raises(DedupError, match=says):
        list(restore(tmp_path))


def test_photos_of_the_same_name_do_not_overwrite_each_other(tmp_path, plan):
    for root in ("one", "two"):
        for number, seed in enumerate((5, 5)):
            file = tmp_path / root / "Rex" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            draw_scene(seed).save(file)
    photos = [Labelled(photo, "Rex") for photo in sorted(tmp_path.rglob("*.png"))]
    with ThumbnailStore(tmp_path / "thumbnails.db") as store:
        groups = find_duplicates(photos, store=store).groups
    before = contents(tmp_path)
    steps = plan_steps(groups, [tmp_path / "one", tmp_path / "two"], delete=False)
    assert len({step.aside for step in steps}) == 3
    list(carry_out(steps, tmp_path / "aside"))
    list(restore(tmp_path / "aside"))
    assert contents(tmp_path) == before


def test_kill_9_in_the_midst_loses_nothing(tmp_path):
    for number in range(400):
        file = tmp_path / "pets" / "Rex" / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if number < 2:
            draw_scene(1).save(file)
        else:
            file.write_bytes((tmp_path / "pets" / "Rex" / "000.png").read_bytes())
    before = contents(tmp_path / "pets")
    command = [sys.executable, "-m", "petid_search", "dedup", "pets", "--apply", "--aside", "aside"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PETID_HOME": str(tmp_path / "home")}, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "aside").rglob("*.png")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    moved = len(before) - len(contents(tmp_path / "pets"))
    assert 0 <= moved < len(before)
    assert problems(restore(tmp_path / "aside")) == []
    assert contents(tmp_path / "pets") == before
