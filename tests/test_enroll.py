"""Photos into the gallery: which shows whom, what becomes of each, and that what was told is true on the disk."""

import itertools
import os
import shutil
import sys
from pathlib import Path

import pytest

from petid_search.embed import embed_photos
from petid_search.enroll import Plan, enroll, plan_enrolment
from petid_search.errors import GalleryError, ModelMismatch
from petid_search.images import read_photo
from petid_search.index.gallery import Gallery


def statuses(outcomes) -> list[str]:
    return [outcome.status for outcome in outcomes]


def lines(plan: Plan) -> list[str]:
    return [str(problem) for problem in plan.problems]


@pytest.fixture
def many(take_photo):
    """A hundred and fifty photos of ten individuals, three batches, each with its individual's name."""
    return [(take_photo(i % 10, i), f"pet {i % 10}") for i in range(150)]


# Whom a photo shows


def test_sub_folders_are_individuals_by_their_names(take_photo, tmp_path):
    rex, ada = take_photo(1, path="pets/Rex/a.png"), take_photo(2, path="pets/Ada/b.png")
    deep = take_photo(1, path="pets/Rex/2024/May/c.png")
    plan = plan_enrolment([tmp_path / "pets"])
    assert plan.photos == [(ada, "Ada"), (rex, "Rex"), (deep, "Rex")]
    assert plan.problems == []


def test_a_folder_without_sub_folders_is_one_individual(take_photo, tmp_path, monkeypatch):
    photo = take_photo(1, path="Rex/a.png")
    assert plan_enrolment([tmp_path / "Rex"]).photos == [(photo, "Rex")]
    monkeypatch.chdir(tmp_path / "Rex")
    assert [name for _, name in plan_enrolment([tmp_path / "Rex" / ".."]).photos] == ["Rex"]
    assert [name for _, name in plan_enrolment([Path()]).photos] == ["Rex"]


def test_a_sub_folder_without_photos_makes_no_difference(take_photo, tmp_path):
    photo = take_photo(1, path="Rex/a.png")
    (tmp_path / "Rex" / "notes").mkdir()
    (tmp_path / "Rex" / "notes" / "vet.txt").touch()
    (tmp_path / "Rex" / ".thumbnails").mkdir()
    shutil.copy(photo, tmp_path / "Rex" / ".thumbnails")
    assert plan_enrolment([tmp_path / "Rex"]).photos == [(photo, "Rex")]


def test_a_stray_photo_beside_the_individuals_is_named_and_left_out(take_photo, tmp_path):
    stray, photo = take_photo(1, path="pets/stray.png"), take_photo(2, path="pets/Rex/a.png")
    plan = plan_enrolment([tmp_path / "pets"])
    assert plan.photos == [(photo, "Rex")]
    assert lines(plan) == [f"{stray} lies beside the individuals' folders: give it with --as NAME, or move it."]


def test_with_a_name_every_photo_shows_that_individual(take_photo, tmp_path):
    paths = [take_photo(1, path=f"pets/{name}.png") for name in ("a", "Bo/b", "Ada/c")]
    single = take_photo(1, path="d.png")
    plan = plan_enrolment([tmp_path / "pets", single], "  Rex ")
    assert plan.photos == [(paths[0], "Rex"), (paths[2], "Rex"), (paths[1], "Rex"), (single, "Rex")]
    assert plan.problems == []


def test_a_photo_by_itself_needs_a_name(take_photo, tmp_path):
    plan = plan_enrolment([take_photo(1, path="a.png"), tmp_path / "missing.png"])
    assert plan.photos == []
    unnamed, missing = lines(plan)
    assert "a.png does not say whom it shows: give --as NAME" in unnamed
    assert "There is no photo or folder" in missing


def test_a_folder_without_photos_is_named(take_photo, tmp_path):
    (tmp_path / "empty").mkdir()
    photo = take_photo(1, path="Rex/a.png")
    plan = plan_enrolment([tmp_path / "empty", tmp_path / "Rex"])
    assert plan.photos == [(photo, "Rex")]
    assert lines(plan) == [f"There is no photo in {tmp_path / 'empty'}: name a folder that holds some."]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "needs a name"), ("  ", "needs a name"), ("x" * 10_000, "10000 characters"), ("a\nb", "control character")],
)
def test_a_name_that_is_not_fit_is_refused(take_photo, name, reason):
    with pytest.raises(GalleryError, match=reason):
        plan_enrolment([take_photo(1)], name)


@pytest.mark.parametrize("name", ["Rex/../../etc", "Ella & Söhne", "🐶🏳️‍🌈", "a'; DROP TABLE photos; --", "x" * 200])
def test_a_name_may_be_what_people_call_animals(gallery, embedder, take_photo, name):
    plan = plan_enrolment([take_photo(1)], name)
    assert statuses(enroll(gallery, plan.photos, embedder)) == ["enrolled"]
    with Gallery(gallery.folder) as reopened:
        assert reopened.individuals() == {name: 1}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="such names of folders cannot be there")
def test_a_folder_whose_name_is_not_fit_is_named_and_the_others_are_enrolled(take_photo, tmp_path):
    photo = take_photo(1, path="pets/Rex/a.png")
    take_photo(2, path="pets/line\nbreak/a.png")
    take_photo(3, path=os.fsdecode(b"pets/caf\xe9/a.png"))
    plan = plan_enrolment([tmp_path / "pets"])
    assert plan.photos == [(photo, "Rex")]
    assert [line.count("control character") for line in lines(plan)] == [1, 1]


# What becomes of it


def test_photos_are_enrolled_once_and_known_ever_after(gallery, embedder, take_photos):
    photos = plan_enrolment([take_photos(3, 2)]).photos
    first = list(enroll(gallery, photos, embedder))
    assert [(outcome.path, outcome.individual) for outcome in first] == photos
    assert statuses(first) == ["enrolled"] * 6
    assert statuses(enroll(gallery, photos, embedder)) == ["known"] * 6
    with Gallery(gallery.folder) as reopened:
        assert reopened.individuals() == {"0": 2, "1": 2, "2": 2}
    assert gallery.undo()[1] == 6, "enrolling known photos is no change"


def test_a_photo_that_cannot_be_read_fails_and_the_others_do_not(gallery, embedder, take_photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    photos = [(take_photo(1), "Rex"), (broken, "Rex"), (tmp_path / "gone.jpg", "Rex"), (take_photo(2), "Ada")]
    outcomes = list(enroll(gallery, photos, embedder))
    assert statuses(outcomes) == ["enrolled", "failed", "failed", "enrolled"]
    assert "broken.jpg is not a photo" in str(outcomes[1].reason)
    assert "There is no photo" in str(outcomes[2].reason)
    assert [outcome.reason for outcome in outcomes if outcome.status != "failed"] == [None, None]
    assert gallery.individuals() == {"Ada": 1, "Rex": 1}


def test_the_same_photo_under_two_names_is_refused_with_both(gallery, embedder, take_photo, tmp_path):
    photo = take_photo(1)
    copy = shutil.copy(photo, tmp_path / "copy.png")
    list(enroll(gallery, [(photo, "Rex")], embedder))
    outcomes = list(enroll(gallery, [(copy, "Bello")], embedder))
    assert statuses(outcomes) == ["failed"]
    assert "enrolled as 'Rex' and cannot be 'Bello'" in str(outcomes[0].reason)
    assert gallery.individuals() == {"Rex": 1}


@pytest.mark.parametrize("between", [0, 20, 150])
def test_the_same_photo_twice_in_one_call_is_enrolled_once(gallery, embedder, take_photo, many, between):
    """Side by side, in another chunk of the same batch, and in another batch."""
    photo = take_photo(77)
    outcomes = list(enroll(gallery, [(photo, "Rex"), *many[:between], (photo, "Rex")], embedder))
    assert statuses(outcomes) == ["enrolled"] * (between + 1) + ["known"]
    assert gallery.count_photos() == between + 1


@pytest.mark.parametrize("between", [0, 20, 150])
def test_the_same_photo_under_two_names_in_one_call_keeps_the_first(gallery, embedder, take_photo, many, between):
    photo = take_photo(77)
    outcomes = list(enroll(gallery, [(photo, "Rex"), *many[:between], (photo, "Bello")], embedder))
    assert statuses(outcomes) == ["enrolled"] * (between + 1) + ["failed"]
    assert "'Rex'" in str(outcomes[-1].reason)
    assert "'Bello'" in str(outcomes[-1].reason)


def test_outcomes_come_in_the_order_of_the_photos(gallery, embedder, many, tmp_path):
    list(enroll(gallery, many[10:20], embedder))
    photos = [*many[:70], (tmp_path / "gone.jpg", "Rex"), *many[70:]]
    outcomes = list(enroll(gallery, iter(photos), embedder))
    assert [(outcome.path, outcome.individual) for outcome in outcomes] == photos
    expected = ["enrolled"] * 151
    expected[10:20], expected[70] = ["known"] * 10, "failed"
    assert statuses(outcomes) == expected


def test_photos_are_told_of_batch_by_batch_and_only_once_they_are_on_the_disk(gallery, embedder, many):
    with Gallery(gallery.folder) as beside:
        for told, outcome in enumerate(enroll(gallery, many, embedder), start=1):
            assert outcome.status == "enrolled"
            assert beside.count_photos() >= told


@pytest.mark.parametrize("taken", [1, 64, 65, 100])
def test_what_was_told_stays_when_the_consumer_stops_half_way(gallery, embedder, many, taken):
    outcomes = enroll(gallery, many, embedder)
    told = list(itertools.islice(outcomes, taken))
    outcomes.close()
    gallery.close()
    with Gallery(gallery.folder) as reopened:
        enrolled = {photo.source: photo for photo in reopened.photos()}
        assert {outcome.path for outcome in told} <= enrolled.keys()
        assert all(read_photo(photo.file).sha256 == photo.sha256 for photo in enrolled.values())
        assert reopened.index.is_right()
        rest = list(enroll(reopened, many, embedder))
        assert statuses(rest) == ["known"] * len(enrolled) + ["enrolled"] * (150 - len(enrolled))
        assert reopened.count_photos() == 150


def test_what_was_told_stays_when_the_list_of_photos_breaks_off(gallery, embedder, many):
    def broken_off():
        yield from many[:140]
        raise OSError("the disk of the photos was pulled out")

    told = []
    with pytest.raises(OSError, match="pulled out"):
        told.extend(iter(enroll(gallery, broken_off(), embedder)))
    with Gallery(gallery.folder) as reopened:
        assert {outcome.path for outcome in told} <= {photo.source for photo in reopened.photos()}
        assert statuses(enroll(reopened, many, embedder)).count("failed") == 0
        assert reopened.count_photos() == 150


def test_undo_takes_back_all_of_an_enrolment_of_many_batches(gallery, embedder, many, take_photo):
    list(enroll(gallery, [(take_photo(77), "Rex")], embedder))
    assert statuses(enroll(gallery, many, embedder)) == ["enrolled"] * 150
    assert gallery.undo() == ("enroll", 150)
    assert gallery.individuals() == {"Rex": 1}
    assert gallery.undo() == ("enroll", 1)
    assert gallery.count_photos() == 0


def test_undo_of_a_photo_enrolled_again_leaves_it_removed(gallery, embedder, take_photo):
    photos = [(take_photo(1), "Rex"), (take_photo(2), "Ada")]
    list(enroll(gallery, photos, embedder))
    gallery.remove("Rex")
    assert statuses(enroll(gallery, photos, embedder)) == ["enrolled", "known"]
    assert gallery.undo() == ("enroll", 1)
    assert gallery.individuals() == {"Ada": 1}


def test_a_removed_photo_enrolled_again_is_found_again(gallery, embedder, take_photo):
    photo = take_photo(1)
    list(enroll(gallery, [(photo, "Rex"), (take_photo(2), "Ada")], embedder))
    vector = next(embed_photos([photo], embedder)).vector
    model = gallery.require_model(embedder.name, embedder.fingerprint)
    gallery.remove("Rex")
    assert [hit.individual for hit in gallery.index.search(vector[None], 5, model=model)[0]] == ["Ada"]
    assert statuses(enroll(gallery, [(photo, "Bello")], embedder)) == ["enrolled"], "the old name holds no longer"
    assert [hit.individual for hit in gallery.index.search(vector[None], 5, model=model)[0]] == ["Bello", "Ada"]
    assert [read_photo(kept.file).data for kept in gallery.photos("Bello")] == [photo.read_bytes()]


def test_a_copy_of_every_photo_is_kept(gallery, embedder, take_photo):
    photo = take_photo(1)
    data = photo.read_bytes()
    list(enroll(gallery, [(photo, "Rex")], embedder))
    photo.unlink()
    (kept,) = gallery.photos()
    assert (kept.file.read_bytes(), kept.source, kept.linked) == (data, photo, False)
    assert kept.file.is_relative_to(gallery.folder)


def test_a_linked_photo_is_not_copied(gallery, embedder, take_photos):
    photos = plan_enrolment([take_photos(4, 1)]).photos
    assert statuses(enroll(gallery, photos, embedder, link=True)) == ["enrolled"] * 4
    assert not (gallery.folder / "photos").exists()
    for kept, (path, _) in zip(gallery.photos(), photos, strict=True):
        assert (kept.file, kept.linked) == (path, True)


def test_a_linked_photo_named_from_here_is_found_from_elsewhere(gallery, embedder, take_photo, monkeypatch, tmp_path):
    photo = take_photo(1, path="a.png")
    monkeypatch.chdir(tmp_path)
    list(enroll(gallery, [(photo.relative_to(tmp_path), "Rex")], embedder, link=True))
    monkeypatch.chdir("/")
    assert [kept.file for kept in gallery.photos()] == [photo]


def test_nothing_is_left_in_the_incoming_folder(gallery, embedder, many):
    list(enroll(gallery, [*many, *many[:5], (many[0][0], "another name")], embedder))
    assert list((gallery.folder / "photos" / "incoming").iterdir()) == []
    stored = [file for file in (gallery.folder / "photos").rglob("*") if file.is_file()]
    assert len(stored) == 150


def test_another_model_is_refused(gallery, embedder, other_embedder, take_photo):
    list(enroll(gallery, [(take_photo(1), "Rex")], embedder))
    with pytest.raises(ModelMismatch, match="petid reindex --model other"):
        list(enroll(gallery, [(take_photo(2), "Ada")], other_embedder))
    assert gallery.individuals() == {"Rex": 1}


def test_nobody_and_nothing_to_enroll_leaves_an_empty_gallery(gallery, embedder, tmp_path):
    assert list(enroll(gallery, [], embedder)) == []
    assert statuses(enroll(gallery, [(tmp_path / "gone.jpg", "Rex")], embedder)) == ["failed"]
    assert gallery.model is None, "a model becomes the gallery's with the first photo"
    assert gallery.individuals() == {}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="such names of files cannot be there")
def test_a_photo_whose_name_is_not_utf_8_is_named_and_the_others_are_enrolled(gallery, embedder, take_photo):
    odd = take_photo(1, path=os.fsdecode(b"caf\xe9.png"))
    outcomes = list(enroll(gallery, [(odd, "Rex"), (take_photo(2), "Ada")], embedder))
    assert statuses(outcomes) == ["failed", "enrolled"]
    assert "not UTF-8: rename it" in str(outcomes[0].reason)
