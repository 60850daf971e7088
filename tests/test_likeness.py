"""What is enrolled is flagged where it is nearly identical to what was enrolled before."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import copies, draw_scene

from petid_search import likeness
from petid_search.dedup.ssim import SIZE, ssim_of_pairs
from petid_search.enroll import enroll, plan_enrolment
from petid_search.images import decode_grey, read_photo
from petid_search.index.gallery import Gallery


@pytest.fixture
def save(tmp_path):
    def write(name: str, picture) -> Path:
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (draw_scene(picture) if isinstance(picture, int) else picture).save(file)
        return file

    return write


@pytest.fixture
def flagged(gallery, embedder, tmp_path):
    """Enrolls what is in the folder; gives what each photo is nearly identical to: its place, and that one's owner."""

    def run(folder: str = "pets", **options) -> dict[str, list[tuple[str, str]]]:
        outcomes = list(enroll(gallery, plan_enrolment([tmp_path / folder]).photos, embedder, **options))
        assert all(outcome.status in ("enrolled", "known") for outcome in outcomes), outcomes
        return {
            f"{outcome.individual}/{outcome.path.name}": [
                (f"{near.individual}/{near.photo.name}", near.individual) for near in outcome.near
            ]
            for outcome in outcomes
            if outcome.near
        }

    return run


def test_a_picture_saved_again_is_flagged_with_the_one_enrolled_before(flagged, save):
    save("Rex/1.png", 1)
    save("Max/1.png", 2)
    assert flagged() == {}
    save("Rex/2.png", copies(draw_scene(1))["re-encoded"])
    save("Max/3.png", copies(draw_scene(1))["resized"])
    save("Max/4.png", 3)
    # Of two that come together, the one enrolled first is told of.
    found = flagged()
    assert found.keys() == {"Max/3.png", "Rex/2.png"}
    assert found["Max/3.png"] == [("Rex/1.png", "Rex")]
    assert sorted(found["Rex/2.png"]) == [("Max/3.png", "Max"), ("Rex/1.png", "Rex")]


def test_within_one_command_the_later_photo_is_flagged(flagged, save):
    save("Rex/0.png", 1)
    save("Rex/1.png", copies(draw_scene(1))["re-encoded"])
    save("Rex/2.png", copies(draw_scene(1))["resized"])
    assert {photo: len(near) for photo, near in flagged().items()} == {"Rex/1.png": 1, "Rex/2.png": 2}


def test_what_lies_many_batches_apart_is_found(flagged, save):
    save("A/0.png", 1000)
    for number in range(150):
        save(f"B/{number:03}.png", number)
    save("C/0.png", copies(draw_scene(1000))["re-encoded"])
    assert flagged() == {"C/0.png": [("A/0.png", "A")]}


def test_the_name_told_is_the_one_of_today_and_what_was_removed_is_not_told(gallery, flagged, save):
    save("Rex/1.png", 1)
    save("Max/1.png", 2)
    flagged()
    gallery.rename("Rex", "Tyrannosaurus")
    gallery.remove("Max")
    save("New/1.png", copies(draw_scene(1))["re-encoded"])
    save("New/2.png", copies(draw_scene(2))["re-encoded"])
    shutil.rmtree(save("x/x.png", 3).parents[1] / "Max")
    shutil.rmtree(save("x/x.png", 3).parent)
    assert flagged(corrected=True) == {"New/1.png": [("Tyrannosaurus/1.png", "Tyrannosaurus")]}


@pytest.mark.parametrize("how", ["never made", "made in another way"])
def test_signatures_that_are_missing_are_made_first(how, gallery, flagged, save):
    save("Rex/1.png", 1)
    flagged()
    change = "DELETE FROM signatures" if how == "never made" else "UPDATE signatures SET way = 0, vector = x'00'"
    with gallery.records.write():
        gallery.records.db.execute(change)
    save("Max/1.png", copies(draw_scene(1))["re-encoded"])
    assert flagged() == {"Max/1.png": [("Rex/1.png", "Rex")]}


def test_a_photo_whose_file_is_gone_is_still_known(gallery, flagged, save):
    save("Rex/1.png", 1)
    flagged()
    (stored,) = gallery.photos("Rex")
    stored.file.unlink()
    save("Max/1.png", copies(draw_scene(1))["re-encoded"])
    assert flagged() == {"Max/1.png": [("Rex/1.png", "Rex")]}
    assert gallery.count_photos() == 2


def test_purged_photos_leave_no_signature(gallery, flagged, save):
    save("Rex/1.png", 1)
    save("Max/1.png", 2)
    flagged()
    gallery.remove("Rex")
    gallery.purge()
    assert gallery.records.value("SELECT count(*) FROM signatures") == 1
    assert gallery.records.db.execute("PRAGMA foreign_key_check").fetchall() == []


def test_photos_that_another_process_enrolled_meanwhile_are_seen(gallery, embedder, save, tmp_path):
    watched = likeness.Likeness(gallery)
    photo = save("Rex/1.png", 1)
    with Gallery(gallery.folder) as other:
        list(enroll(other, plan_enrolment([photo.parent]).photos, embedder))
    again = save("Max/1.png", copies(draw_scene(1))["re-encoded"])
    with Gallery(gallery.folder) as other:
        list(enroll(other, plan_enrolment([again.parent]).photos, embedder))
    sha256 = next(gallery.photos("Max")).sha256
    near = watched.add({sha256: likeness._thumbnail(again)})
    assert [one.individual for one in near[sha256]] == ["Rex"]


def test_whether_two_enrolled_photos_are_one_picture_is_told_without_reading_them(gallery, flagged, save, tmp_path):
    scene = draw_scene(1)
    for number, picture in enumerate([scene, copies(scene)["re-encoded"], scene.crop((5, 5, 91, 91)), draw_scene(2)]):
        save(f"Rex/{number}.png", picture)
    flagged()
    shutil.rmtree(gallery.folder / "photos")
    ids = {photo.source.stem: photo.id for photo in gallery.photos()}
    first = np.array([ids["0"]] * 4 + [999])
    second = np.array([ids["0"], ids["1"], ids["2"], ids["3"], ids["0"]])
    thumbnails = np.stack([decode_grey(read_photo(tmp_path / f"pets/Rex/{number}.png"), SIZE) for number in range(4)])
    ssim = ssim_of_pairs(thumbnails, np.zeros(4, np.int64), np.arange(4))
    assert 0.85 < ssim[2] < 0.95 < ssim[1], "a picture that only comparing exactly tells from a copy is among them"
    near = likeness.Pictures(gallery).near_identical(first, second)
    assert near.tolist() == [True, True, False, False, False]
