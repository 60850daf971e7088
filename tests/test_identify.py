"""Who is on a photo, end to end: photos, a real model, a gallery on disk."""

import json
import re

import numpy as np
import pytest
from conftest import draw_animal

from petid_search.calibrate import current_calibration
from petid_search.embed import Unreadable
from petid_search.enroll import enroll, plan_enrolment
from petid_search.errors import GalleryError, ModelMismatch
from petid_search.identify import compare, identify, verify
from petid_search.index.gallery import Gallery


@pytest.fixture
def filled(gallery, embedder, take_photos):
    """A gallery of 30 individuals with 4 photos each."""
    plan = plan_enrolment([take_photos(30, 4)])
    assert {outcome.status for outcome in enroll(gallery, plan.photos, embedder)} == {"enrolled"}
    return gallery


def test_the_individual_with_the_same_coat_comes_first(filled, embedder, take_photo):
    answer = next(identify([take_photo(7, 99)], filled, embedder))
    assert answer.candidates[0].individual == "7"
    assert answer.similarity == pytest.approx(answer.candidates[0].similarity)
    assert answer.gallery_size == 30


def test_enrolled_animals_match_and_strangers_do_not(filled, embedder, take_photo):
    mated = list(identify([take_photo(i, 99) for i in range(30)], filled, embedder, fpir=0.05))
    strangers = list(identify([take_photo(i, 0) for i in range(100, 130)], filled, embedder, fpir=0.05))
    assert sum(answer.decision == "match" for answer in mated) >= 27
    assert {answer.individual for answer in mated} - {None} <= {str(i) for i in range(30)}
    assert sum(answer.decision == "match" for answer in strangers) <= 2
    assert all((answer.individual is None) == (answer.decision != "match") for answer in strangers)
    assert sum(answer.decision == "unknown" for answer in strangers) >= 24


def test_the_probability_of_a_match_is_above_that_of_the_runner_up(filled, embedder, take_photo):
    answer = next(identify([take_photo(3, 99)], filled, embedder))
    first, second = answer.candidates[:2]
    assert 0.0 < second.probability < first.probability < 1.0
    assert first.probability > 0.5


def test_similarities_are_the_cosines_of_the_best_photos(filled, embedder, take_photo):
    from petid_search.images import open_image

    probe = take_photo(5, 99)
    answer = next(identify([probe], filled, embedder, top=30))
    vector = embedder.embed(open_image(probe, 32)[None])[0]
    for candidate in answer.candidates:
        photos = [photo.file for photo in filled.photos(candidate.individual)]
        cosines = embedder.embed(np.stack([open_image(photo, 32) for photo in photos])) @ vector
        assert candidate.similarity == pytest.approx(cosines.max(), abs=1e-5)
        assert candidate.file == photos[cosines.argmax()]
    similarities = [candidate.similarity for candidate in answer.candidates]
    assert similarities == sorted(similarities, reverse=True)


def test_a_reopened_gallery_gives_the_same_answer(filled, embedder, take_photo):
    probe = take_photo(7, 99)
    before = next(identify([probe], filled, embedder))
    with Gallery(filled.folder) as reopened:
        assert next(identify([probe], reopened, embedder)) == before


def test_too_few_photos_for_a_threshold_are_said_and_the_answer_is_uncertain(
    gallery, embedder, take_photos, take_photo
):
    list(enroll(gallery, plan_enrolment([take_photos(3, 2)]).photos, embedder))
    answer = next(identify([take_photo(1, 99)], gallery, embedder))
    assert (answer.decision, answer.threshold, answer.individual) == ("uncertain", None, None)
    assert "too small" in answer.note
    assert answer.candidates[0].individual == "1"


def test_a_gallery_that_is_too_small_says_what_it_can_promise_and_keeps_it(filled, embedder, take_photo):
    answer = next(identify([take_photo(7, 99)], filled, embedder, fpir=0.01))
    assert (answer.decision, answer.threshold) == ("uncertain", None)
    assert answer.note.endswith("it has 30; the smallest FPIR that it can promise is 0.0323")
    promised = next(identify([take_photo(7, 99)], filled, embedder, fpir=0.0323))
    assert (promised.decision, promised.note) == ("match", "")


def test_a_gallery_that_has_grown_since_it_was_measured_has_a_higher_threshold_and_says_so(
    filled, embedder, take_photos, take_photo
):
    before = next(identify([take_photo(7, 99)], filled, embedder, fpir=0.1))
    assert before.note == ""
    list(enroll(filled, plan_enrolment([take_photos(3, 1, first=50)]).photos, embedder))
    after = next(identify([take_photo(7, 99)], filled, embedder, fpir=0.1))
    calibration = current_calibration(filled)
    assert (calibration.samples.gallery_size, after.gallery_size) == (30, 33)
    assert after.note.startswith(
        "measured at N = 30; since FPIR grows about with N, the threshold is that of FPIR 0.0913"
    )
    assert after.threshold == calibration.threshold(0.0913) >= before.threshold


def test_where_growth_uses_up_what_was_promised_the_calibration_is_renewed(filled, embedder, take_photos, take_photo):
    assert next(identify([take_photo(7, 99)], filled, embedder, fpir=0.0323)).decision == "match"
    list(enroll(filled, plan_enrolment([take_photos(3, 1, first=50)]).photos, embedder))
    answer = next(identify([take_photo(7, 99)], filled, embedder, fpir=0.0323))
    assert (answer.decision, answer.note) == ("match", "")
    assert current_calibration(filled).samples.gallery_size == 33


def test_a_single_enrolled_photo_is_enough_for_an_answer(gallery, embedder, take_photo):
    list(enroll(gallery, [(take_photo(1), "Rex")], embedder))
    answer = next(identify([take_photo(1, 99)], gallery, embedder))
    assert [candidate.individual for candidate in answer.candidates] == ["Rex"]
    assert answer.decision == "uncertain"


def test_a_gallery_whose_individuals_were_all_removed_knows_nobody(gallery, embedder, take_photo):
    list(enroll(gallery, [(take_photo(1), "Rex")], embedder))
    gallery.remove("Rex")
    answer = next(identify([take_photo(1, 99)], gallery, embedder))
    assert (answer.decision, answer.candidates) == ("unknown", ())


def test_a_photo_that_cannot_be_read_gives_its_reason_in_its_place(filled, embedder, take_photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a photo")
    answers = list(identify([take_photo(1, 99), broken, take_photo(2, 99)], filled, embedder, fpir=0.05))
    assert [getattr(answer, "individual", "unreadable") for answer in answers] == ["1", "unreadable", "2"]
    assert isinstance(answers[1], Unreadable)
    assert "broken.jpg" in str(answers[1].error)


def test_an_empty_gallery_says_how_to_fill_it(gallery, embedder, take_photo):
    with pytest.raises(GalleryError, match="petid enroll"):
        next(identify([take_photo(1)], gallery, embedder))


def test_a_probe_embedded_by_another_model_is_refused(filled, other_embedder, take_photo):
    with pytest.raises(ModelMismatch, match="cannot be compared"):
        next(identify([take_photo(1)], filled, other_embedder))
    with pytest.raises(ModelMismatch):
        verify(take_photo(1), take_photo(2), filled, other_embedder)


def test_many_probes_are_answered_in_their_order(filled, embedder, take_photo):
    probes = [take_photo(i % 30, 200 + i) for i in range(100)]
    answers = list(identify(iter(probes), filled, embedder))
    assert [answer.photo for answer in answers] == probes
    assert [answer.candidates[0].individual for answer in answers] == [str(i % 30) for i in range(100)]


def test_an_answer_is_plain_json(filled, embedder, take_photo):
    answer = next(identify([take_photo(7, 99)], filled, embedder))
    said = json.loads(json.dumps(answer.to_json()))
    assert list(said)[:7] == ["photo", "decision", "individual", "similarity", "probability", "threshold", "fpir"]
    assert said["candidates"][0]["classifier_score"] is None


def test_the_classifiers_score_stands_beside_candidates_that_it_knows(gallery, five, take_photos, take_photo):
    from petid_search.images import open_image

    list(enroll(gallery, plan_enrolment([take_photos(10, 2)]).photos, five))
    probe = take_photo(6, 99)
    answer = next(identify([probe], gallery, five, top=10))
    scores = dict(zip(five.classes, five.scores(open_image(probe, 32)[None])[0].tolist(), strict=True))
    assert {one.individual: one.classifier_score for one in answer.candidates} == pytest.approx(
        {str(individual): scores.get(str(individual)) for individual in range(10)}, abs=1e-6
    )
    gallery.rename("6", "Rex")  # whom the classifier does not know by this name
    renamed = next(identify([probe], gallery, five))
    assert (renamed.candidates[0].individual, renamed.candidates[0].classifier_score) == ("Rex", None)


def test_identify_prints_the_classifiers_score_where_there_is_one(gallery, five, petid, take_photos, take_photo):
    list(enroll(gallery, plan_enrolment([take_photos(6, 2)]).photos, five))
    done = petid("identify", take_photo(5, 99), "--gallery", gallery.folder, "--top", 6)
    *candidates, by_whom = done.stdout.splitlines()[1:]
    told = {re.search(r"  (\d)  [(/]", line)[1]: "  (classifier " in line for line in candidates}
    assert by_whom.startswith("      index")
    assert told == {"0": False, "1": False, "2": False, "3": False, "4": True, "5": True}


def test_two_photos_of_one_animal_verify_and_two_of_two_do_not(filled, embedder, take_photo):
    same = verify(take_photo(200, 1), take_photo(200, 2), filled, embedder, far=0.05)
    different = verify(take_photo(200, 1), take_photo(201, 1), filled, embedder, far=0.05)
    assert (same.decision, different.decision) == ("match", "different")
    assert same.similarity > same.threshold > different.similarity
    assert (same.calibration, same.calibrated_on, same.note) == ("gallery", 30, "")


def test_thirty_individuals_cannot_promise_one_in_a_hundred_to_verify_by(filled, embedder, take_photo):
    answer = verify(take_photo(200, 1), take_photo(200, 2), filled, embedder)
    assert (answer.decision, answer.threshold, answer.calibration) == ("uncertain", None, None)
    assert answer.note.endswith("99 individuals that are compared with others are needed, and it has 30")


def test_a_named_individual_is_compared_however_many_are_more_alike(filled, embedder):
    probe = embedder.embed(np.stack([np.asarray(draw_animal(3, 99, 32))]))[0]
    candidate = compare(probe, "21", filled, embedder)
    assert candidate.individual == "21"
    with pytest.raises(GalleryError, match="petid list"):
        compare(probe, "nobody", filled, embedder)
