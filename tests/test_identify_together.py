"""Where a model carries how index and classifier decide together, they do, and what each said is always told."""

import json
import re

import pytest
from conftest import write_small_model

from petid_search.calibrate.combined import Combined, Weights, probability_of
from petid_search.enroll import enroll, plan_enrolment
from petid_search.explain.explanation import explain
from petid_search.explain.sheet import draw
from petid_search.identify import compare, identify
from petid_search.images import open_image
from petid_search.models.bundle import Bundle
from petid_search.models.runtime import Embedder

CLASSES = ("4", "5", "6", "7", "8")
WEIGHTS = Weights(both=(-4.0, 10.0, 2.0), alone=(0.0, 10.0))


def combined(weights=WEIGHTS, *, threshold=0.0, lower=-1.0, size=40):
    return Combined(weights, size, 2.0, 99, (0.01, 0.05), (threshold + 1, threshold), lower)


@pytest.fixture
def model(home, tmp_path):
    """Makes an embedder like `five`, of a model that carries a combination."""

    def make(carried):
        calibration = {"format": 0, "combined": carried and carried.to_json()}
        folder = tmp_path / "models"
        count = len(list(folder.glob("*")))
        write_small_model(folder, f"m{count}", seed=1, classes=CLASSES, calibration=calibration)
        return Embedder(Bundle.open(folder / f"m{count}"))

    return make


@pytest.fixture
def filled(gallery, five, take_photos):
    """30 individuals of two photos; `five` embeds as the others here do."""
    list(enroll(gallery, plan_enrolment([take_photos(30, 2)]).photos, five))
    return gallery


def everyone(probe, gallery, embedder, weights):
    """The evidence of all who are enrolled, by comparing with each."""
    vector, scores = embedder.embed_and_score(open_image(probe, 32)[None])
    told = [compare(vector[0], name, gallery, embedder, scores=scores[0]) for name in gallery.individuals()]
    return {one.individual: weights.evidence_of(one.similarity, one.classifier_score) for one in told}


@pytest.fixture
def asked(filled, model):
    """Identifies a photo by a model that carries a combination; by default at an FPIR that 30 individuals promise."""

    def ask(photo, carried, *, fpir=0.05, **options):
        return next(identify([photo], filled, model(carried), fpir=fpir, **options))

    return ask


@pytest.mark.parametrize(
    "weights", [WEIGHTS, Weights((-1.0, 0.1, 3.0), (0.0, 0.1)), Weights((0.0, 9.0, 0.1), (-9.0, 9.0))]
)
@pytest.mark.parametrize("individual", [3, 6, 7])
def test_who_comes_first_is_the_first_of_all_by_both(filled, asked, model, take_photo, weights, individual):
    filled.rename("6", "Rex")  # whom the classifier now does not know, though she has his photos
    filled.rename("20", "6")
    probe = take_photo(individual, 99)
    answer = asked(probe, combined(weights), top=3)
    expected = everyone(probe, filled, model(None), weights)
    assert answer.candidates[0].individual == max(expected, key=expected.get)
    told = [expected[one.individual] for one in answer.candidates]
    assert told == sorted(told, reverse=True)
    assert [one.probability for one in answer.candidates] == pytest.approx([probability_of(one) for one in told])
    assert (answer.similarity, answer.probability) == (
        answer.candidates[0].similarity,
        answer.candidates[0].probability,
    )
    assert len(answer.candidates) == 3


def test_whom_only_the_classifier_would_name_is_offered_too(filled, asked, take_photo):
    filled.rename("6", "Rex")
    filled.rename("20", "6")
    probe = take_photo(6, 99)
    by_index = asked(probe, None, top=30)
    assert [one.individual for one in by_index.candidates].index("6") > 8
    answer = asked(probe, combined(Weights((0.0, 0.01, 5.0), (-40.0, 1.0))), top=1)
    assert [one.individual for one in answer.candidates] == ["6"]
    assert (answer.experts.index, answer.experts.classifier) == ("Rex", "6")


def test_the_decision_follows_the_evidence_of_both(asked, take_photo):
    probe = take_photo(6, 99)
    evidence = WEIGHTS.evidence_of(*_opinions(asked(probe, None)))
    at, over = (asked(probe, combined(threshold=threshold)) for threshold in (evidence, evidence + 1e-6))
    assert (at.decision, at.individual, over.decision, over.individual) == ("match", "6", "uncertain", None)
    assert over.similarity >= over.threshold, "by the index alone it would be a match"
    assert at.experts.threshold == pytest.approx(probability_of(evidence))
    assert (at.experts.together, at.experts.strangers, at.experts.index) == (True, 99, "6")
    stricter = asked(probe, combined(threshold=evidence), fpir=0.01, top=5)
    assert (stricter.decision, stricter.experts.threshold) == ("uncertain", pytest.approx(probability_of(evidence + 1)))


def _opinions(answer):
    return answer.candidates[0].similarity, answer.candidates[0].classifier_score


def test_unknown_is_said_only_where_the_index_would_say_it_too(asked, take_photo):
    stranger, known = take_photo(77, 0), take_photo(6, 99)
    only_classes = Weights((50.0, 1.0, 2.0), (-50.0, 1.0))  # so that one of those comes first
    under = {"threshold": 200.0, "lower": 200.0}
    assert asked(stranger, None).decision == "unknown"
    assert asked(stranger, combined(only_classes, **under)).decision == "unknown"
    assert asked(stranger, combined(only_classes, threshold=200.0, lower=-200.0)).decision == "uncertain"
    assert asked(known, combined(only_classes, **under)).decision == "uncertain"


def test_of_whom_the_classifier_does_not_know_the_index_decides(asked, take_photo):
    probe = take_photo(20, 99)
    alone, answer = asked(probe, None), asked(probe, combined(threshold=900.0))
    assert (answer.decision, answer.individual) == (alone.decision, alone.individual) == ("match", "20")
    assert answer.experts.note == "the classifier knows 5 of 30 enrolled; of the others the index decides"
    assert answer.candidates[0].classifier_score is None
    stranger = asked(take_photo(77, 0), combined())
    assert stranger.decision == "unknown"


def test_where_they_cannot_promise_it_the_index_decides_alone_and_says_so(asked, take_photo):
    probe = take_photo(6, 99)
    alone, answer = asked(probe, None), asked(probe, combined(size=2))
    assert (answer.decision, answer.candidates, answer.threshold) == (alone.decision, alone.candidates, alone.threshold)
    assert not answer.experts.together
    assert answer.experts.threshold is None
    assert re.fullmatch(
        r"index and classifier together cannot promise FPIR 0.05 at N = 30: .*; so the index decides alone",
        answer.experts.note,
    )
    assert (alone.experts.together, alone.experts.note) == (False, "")


def test_where_nobody_enrolled_is_known_to_the_classifier_the_index_decides_alone(filled, asked, take_photo):
    for name in CLASSES:
        filled.remove(name)
    answer = asked(take_photo(20, 99), combined())
    assert (answer.decision, answer.individual) == ("match", "20")
    assert (answer.experts.together, answer.experts.note, answer.experts.index) == (False, "", "20")
    assert answer.experts.classifier in CLASSES


def test_without_a_classifier_there_are_no_experts_to_tell_of(filled, asked, embedder, take_photo, gallery):
    for name in list(filled.individuals()):
        filled.remove(name)
    assert asked(take_photo(20, 99), combined()).experts is None


def test_both_are_told_in_one_line_and_in_json(filled, model, petid, take_photo, home, tmp_path, monkeypatch):
    folder = tmp_path / "told"
    calibration = {"format": 0, "combined": combined(threshold=-3.0).to_json()}
    write_small_model(folder / "models", "five", seed=1, classes=CLASSES, calibration=calibration)
    monkeypatch.setenv("PETID_HOME", str(folder))
    arguments = ("--gallery", filled.folder, "--fpir", 0.05)
    header, *_, said = petid("identify", take_photo(6, 99), *arguments).stdout.splitlines()
    assert header.endswith(": match 6 (by index and classifier, FPIR 0.05, N = 30)")
    assert re.fullmatch(
        r"      index: 6 0\.\d{3}; classifier: 6 \d+\.\d%; together: match 6 "
        r"\(a match takes 4\.7%, measured on 99 strangers\) "
        r"\(the classifier knows 5 of 30 enrolled; of the others the index decides\)",
        said,
    )
    said = petid("identify", take_photo(20, 99), *arguments).stdout.splitlines()[-1]
    assert re.match(r"      index says 20 0\.\d{3}, classifier says \d \d+\.\d%; together: match 20", said)
    told = json.loads(petid("identify", take_photo(6, 99), *arguments, "--json").stdout)
    assert told["experts"].keys() == {
        *("index", "similarity", "classifier", "score", "together", "threshold", "strangers", "note")
    }
    assert (told["experts"]["index"], told["experts"]["together"]) == ("6", True)


def test_an_explanation_tells_what_both_make_together(filled, model, take_photo):
    explanation = explain(take_photo(6, 99), filled, model(combined()), fpir=0.05)
    best = explanation.candidates[0]
    assert (best.individual, explanation.short_of_threshold(best)) == ("6", None)
    assert best.probability == pytest.approx(
        probability_of(WEIGHTS.evidence_of(best.similarity, best.classifier_score))
    )
    assert draw(explanation).height > 400
    asked_for = explain(take_photo(6, 99), filled, model(combined()), against="7", fpir=0.05).candidates[1]
    assert asked_for.probability == pytest.approx(
        probability_of(WEIGHTS.evidence_of(asked_for.similarity, asked_for.classifier_score))
    )
