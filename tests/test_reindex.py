"""The gallery goes over to another model: in steps that are kept, and in one switch at the end."""

import numpy as np
import pytest

from petid_search.embed import embed_photos
from petid_search.enroll import enroll, plan_enrolment
from petid_search.errors import GalleryError, ModelMismatch
from petid_search.identify import identify
from petid_search.index import upkeep
from petid_search.index.gallery import Gallery
from petid_search.reindex import count_missing, reindex


@pytest.fixture
def filled(gallery, embedder, take_photos):
    """A gallery of 40 individuals with 4 photos each, embedded with the model `small`."""
    list(enroll(gallery, plan_enrolment([take_photos(40, 4)]).photos, embedder))
    assert gallery.count_photos() == 160
    return gallery


def assert_embedded_with(gallery, embedder):
    """The gallery's embeddings are those that this model makes of its photos, and they are what is searched."""
    assert gallery.model.fingerprint == embedder.fingerprint
    files = {photo.id: photo.file for photo in gallery.photos()}
    blocks = list(gallery.blocks())
    ids = np.concatenate([block.photos for block in blocks])
    vectors = np.concatenate([block.vectors for block in blocks])
    assert sorted(ids.tolist()) == sorted(files)
    expected = np.stack([result.vector for result in embed_photos([files[photo] for photo in ids.tolist()], embedder)])
    assert np.abs(vectors - expected).max() < 1e-6
    for hits, photo in zip(gallery.index.search(vectors, 1, model=gallery.model), ids.tolist(), strict=True):
        assert hits[0].similarity == pytest.approx(1.0, abs=1e-5)
        assert hits[0].individual == gallery.photo(photo).individual
    assert gallery.index.is_right()


def test_all_photos_are_embedded_with_the_new_model_and_it_is_the_gallerys(filled, other_embedder):
    assert count_missing(filled, other_embedder) == 160
    assert list(reindex(filled, other_embedder)) == [None] * 160
    with Gallery(filled.folder) as reopened:
        assert_embedded_with(reopened, other_embedder)
        assert reopened.individuals() == {str(individual): 4 for individual in range(40)}


def test_after_the_switch_the_new_model_identifies_and_the_old_is_refused(filled, embedder, other_embedder, take_photo):
    probe = take_photo(7, 99)
    list(reindex(filled, other_embedder))
    answer = next(identify([probe], filled, other_embedder))
    assert (answer.candidates[0].individual, answer.model) == ("7", other_embedder.name)
    with pytest.raises(ModelMismatch, match="petid reindex"):
        next(identify([probe], filled, embedder))


@pytest.mark.parametrize("stop_after", [1, 70, 130])
def test_a_call_after_an_interruption_embeds_only_the_rest(filled, embedder, other_embedder, stop_after):
    first = reindex(filled, other_embedder)
    for _ in range(stop_after):
        next(first)
    first.close()
    with Gallery(filled.folder) as reopened:
        assert reopened.model.fingerprint == embedder.fingerprint
        missing = count_missing(reopened, other_embedder)
        assert missing == 160 - (stop_after - 1) // 64 * 64, "every batch of 64 is kept"
        assert len(list(reindex(reopened, other_embedder))) == missing
        assert_embedded_with(reopened, other_embedder)


def test_meanwhile_the_old_model_answers(filled, embedder, other_embedder, take_photo):
    probe = take_photo(7, 99)
    with Gallery(filled.folder) as reader:
        before = next(identify([probe], reader, embedder))
        for step, _ in enumerate(reindex(filled, other_embedder)):
            if step % 40 == 0:
                assert next(identify([probe], reader, embedder)) == before
        with pytest.raises(ModelMismatch):
            next(identify([probe], reader, embedder))


def test_photos_enrolled_meanwhile_are_included(filled, embedder, other_embedder, take_photo):
    """One at the beginning, and one when all that were there at the beginning are embedded."""
    asked = 0
    with Gallery(filled.folder) as another:
        for asked, _ in enumerate(reindex(filled, other_embedder), start=1):
            if asked in (1, 160):
                new = take_photo(900 + asked)
                assert next(enroll(another, [(new, f"new {asked}")], embedder)).status == "enrolled"
    assert asked == 162
    assert filled.count_photos() == 162
    assert_embedded_with(filled, other_embedder)
    for number in (1, 160):
        answer = next(identify([take_photo(900 + number, 5)], filled, other_embedder))
        assert answer.candidates[0].individual == f"new {number}"


def test_a_photo_removed_before_or_meanwhile_can_be_undone_after_the_switch(filled, other_embedder):
    filled.remove("7")
    for step, _ in enumerate(reindex(filled, other_embedder)):
        if step == 100:
            filled.remove("8")
    assert filled.count_photos() == 152
    assert filled.undo()[1] == 4
    assert filled.undo()[1] == 4
    assert filled.count_photos() == 160
    assert_embedded_with(filled, other_embedder)


def test_a_photo_purged_meanwhile_gives_its_embedding_to_no_other(gallery, embedder, other_embedder, take_photo):
    """SQLite gives the number of a deleted row away again: to the next photo that is enrolled."""
    list(enroll(gallery, [(take_photo(number), f"pet {number}") for number in range(5)], embedder))
    gallery.remove("pet 4")
    steps = reindex(gallery, other_embedder)
    for _ in range(5):
        next(steps)
    with Gallery(gallery.folder) as another:
        another.purge()
        list(enroll(another, [(take_photo(77), "new")], embedder))
        assert max(photo.id for photo in another.photos()) == 5
    list(steps)
    assert_embedded_with(gallery, other_embedder)


@pytest.mark.parametrize("what", ["deleted", "no photo", "another photo"])
def test_a_photo_that_cannot_be_embedded_is_named_and_the_old_model_kept(
    filled, embedder, other_embedder, take_photo, what
):
    photo = next(filled.photos("7"))
    data = photo.file.read_bytes()
    match what:
        case "deleted":
            photo.file.unlink()
        case "no photo":
            photo.file.write_bytes(b"no photo")
        case "another photo":
            photo.file.write_bytes(take_photo(500).read_bytes())
    problems = []

    def go_over():
        for problem in reindex(filled, other_embedder):
            if problem is not None:
                problems.append(str(problem))

    with pytest.raises(GalleryError, match=r"1 photos could not be embedded.* keeps its model 'small'"):
        go_over()
    assert len(problems) == 1
    assert "'7'" in problems[0]
    assert photo.file.name in problems[0]
    assert filled.model.fingerprint == embedder.fingerprint
    assert next(identify([take_photo(3, 99)], filled, embedder)).candidates[0].individual == "3"

    photo.file.write_bytes(data)
    assert list(reindex(filled, other_embedder)) == [None], "all others were kept"
    assert_embedded_with(filled, other_embedder)


def test_a_photo_that_cannot_be_embedded_no_longer_stands_in_the_way_once_it_is_purged(filled, other_embedder):
    photo = next(filled.photos("7"))
    photo.file.unlink()
    with pytest.raises(GalleryError, match=r"petid remove.*petid purge"):
        list(reindex(filled, other_embedder))
    filled.remove("7", photo=photo.sha256)
    filled.purge()
    # purge drops what no model in use has made, so all is embedded again.
    assert set(reindex(filled, other_embedder)) == {None}
    assert_embedded_with(filled, other_embedder)


def test_going_back_to_the_first_model_embeds_nothing_again(filled, embedder, other_embedder, take_photo):
    list(reindex(filled, other_embedder))
    list(enroll(filled, [(take_photo(900), "new")], other_embedder))
    filled.remove("3")
    assert count_missing(filled, embedder) == 1
    assert list(reindex(filled, embedder)) == [None]
    with Gallery(filled.folder) as reopened:
        for searched in (filled, reopened):
            assert_embedded_with(searched, embedder)
            assert "3" not in searched.individuals()
    assert list(reindex(filled, other_embedder)) == []
    assert_embedded_with(filled, other_embedder)


def test_its_own_model_makes_embeddings_that_are_missing_and_nothing_else(filled, embedder):
    journal = filled.records.value("SELECT count(*) FROM journal")
    assert list(reindex(filled, embedder)) == []
    lost = [photo.id for photo in filled.photos("7")]
    with Gallery(filled.folder) as another:
        another.index.search(np.eye(1, 48, dtype=np.float32), 1, model=another.model)
        upkeep.drop_embeddings(filled, lost)
        names = {
            hit.individual for hit in another.index.search(np.eye(1, 48, dtype=np.float32), 99, model=another.model)[0]
        }
        assert len(names) == 39
        assert "7" not in names
        assert list(reindex(filled, embedder)) == [None] * 4
        assert_embedded_with(another, embedder)
    assert_embedded_with(filled, embedder)
    assert filled.records.value("SELECT count(*) FROM journal") == journal


def test_a_model_that_was_given_another_name_is_the_same_model(filled):
    assert filled.add_model("renamed", filled.model.fingerprint, filled.model.dimension) == filled.model
    before = filled.records.value("SELECT count(*) FROM journal")
    assert filled.switch_model(filled.add_model("renamed", filled.model.fingerprint, filled.model.dimension))
    assert filled.model.name == "small"
    assert filled.records.value("SELECT count(*) FROM journal") == before


def test_linked_photos_are_embedded_where_they_lie(gallery, embedder, other_embedder, take_photos):
    list(enroll(gallery, plan_enrolment([take_photos(5, 2)]).photos, embedder, link=True))
    assert list(reindex(gallery, other_embedder)) == [None] * 10
    assert_embedded_with(gallery, other_embedder)
    assert not list(gallery.store.files())


def test_an_empty_gallery_has_nothing_to_embed(gallery, embedder):
    with pytest.raises(GalleryError, match="empty"):
        list(reindex(gallery, embedder))


def test_the_command_says_what_it_did_and_the_gallery_is_whole(filled, petid):
    gallery = ("--gallery", filled.folder)
    done = petid("reindex", "--model", "other", *gallery)
    assert (done.returncode, done.stderr) == (0, "")
    assert "160 photos embedded" in done.stdout
    assert petid("check", *gallery).returncode == 0
    again = petid("reindex", "--model", "other", *gallery)
    assert "0 photos embedded" in again.stdout
