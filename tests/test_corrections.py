"""Corrections hold: the folders that photos came from do not know of them, and are enrolled again and again."""

import pytest

from petid_search.calibrate import current_calibration
from petid_search.enroll import enroll, plan_enrolment
from petid_search.errors import GalleryError


@pytest.fixture
def folder(take_photo, tmp_path):
    for number, name in enumerate(("Rex", "Max", "Maxi")):
        for photo in range(3):
            take_photo(number, photo, path=f"dogs/{name}/{photo}.png")
    return tmp_path / "dogs"


@pytest.fixture
def again(gallery, embedder, folder):
    """Enrolls the folder as `petid enroll dogs` does; returns how many photos had each status."""

    def enroll_folder():
        outcomes = list(enroll(gallery, plan_enrolment([folder]).photos, embedder, corrected=True))
        statuses = [outcome.status for outcome in outcomes]
        return {status: statuses.count(status) for status in set(statuses)}

    assert enroll_folder() == {"enrolled": 9}
    return enroll_folder


def test_a_renamed_individual_keeps_its_name_and_gets_its_new_photos(gallery, again, take_photo):
    gallery.rename("Rex", "Rex of the Mill")
    take_photo(0, 7, path="dogs/Rex/7.png")
    assert again() == {"known": 9, "enrolled": 1}
    assert gallery.individuals() == {"Max": 3, "Maxi": 3, "Rex of the Mill": 4}


def test_merged_individuals_stay_one(gallery, again, take_photo):
    gallery.merge("Maxi", "Max")
    gallery.rename("Max", "Maximilian")
    take_photo(2, 7, path="dogs/Maxi/7.png")
    assert again() == {"known": 9, "enrolled": 1}
    assert gallery.individuals() == {"Maximilian": 7, "Rex": 3}


def test_a_removed_individual_stays_out(gallery, again):
    gallery.remove("Max")
    assert again() == {"known": 6, "removed": 3}
    assert gallery.individuals() == {"Maxi": 3, "Rex": 3}


def test_an_undone_enrolment_can_be_made_again(gallery, again, embedder, folder):
    gallery.undo()
    list(enroll(gallery, plan_enrolment([folder], "Rex").photos, embedder))
    assert gallery.individuals() == {"Rex": 9}
    gallery.undo()
    assert again() == {"enrolled": 9}
    assert gallery.individuals() == {"Max": 3, "Maxi": 3, "Rex": 3}


def test_what_is_named_outright_is_meant(gallery, again, embedder, folder, take_photo):
    gallery.remove("Max")
    gallery.rename("Rex", "Rex of the Mill")
    photos = [(folder / "Max" / "0.png", "Max"), (take_photo(9, 0), "Rex")]
    assert [outcome.status for outcome in enroll(gallery, photos, embedder)] == ["enrolled", "enrolled"]
    assert gallery.individuals() == {"Max": 1, "Maxi": 3, "Rex": 1, "Rex of the Mill": 3}


def test_an_undone_rename_is_forgotten(gallery, again, take_photo):
    gallery.rename("Rex", "Rex of the Mill")
    gallery.undo()
    gallery.remove("Rex")
    take_photo(0, 7, path="dogs/Rex/7.png")
    again()
    assert gallery.individuals() == {"Max": 3, "Maxi": 3, "Rex": 1}


def test_a_name_given_back_leads_nowhere_else(gallery, again, take_photo):
    gallery.rename("Rex", "Bo")
    gallery.rename("Bo", "Rex")
    take_photo(0, 7, path="dogs/Rex/7.png")
    assert again() == {"known": 9, "enrolled": 1}
    assert gallery.individuals() == {"Max": 3, "Maxi": 3, "Rex": 4}
    assert gallery.corrected_name("Bo") == "Rex"


def test_purging_does_not_forget_who_is_who(gallery, again):
    gallery.rename("Rex", "Bo")
    gallery.purge()
    assert again() == {"known": 9}


def test_corrections_renew_the_calibration_once_they_are_many(gallery, again, embedder, take_photos):
    list(enroll(gallery, plan_enrolment([take_photos(40, 2, first=50)]).photos, embedder))
    before = current_calibration(gallery)
    assert current_calibration(gallery).samples.gallery_size == before.samples.gallery_size == 43
    for number in range(50, 70, 2):
        gallery.merge(str(number), str(number + 1))
    assert current_calibration(gallery).samples.gallery_size == 33


def test_a_gallery_that_names_files_outside_itself_is_refused(gallery, again, tmp_path):
    victim = tmp_path / "precious"
    victim.write_text("not yours")
    gallery.remove("Rex")
    gallery.records.db.execute("UPDATE photos SET stored = '../precious' WHERE NOT active")
    with pytest.raises(GalleryError, match="damaged"):
        gallery.purge()
    assert victim.exists()
    with pytest.raises(GalleryError, match="damaged"):
        list(gallery.removed_photos())
