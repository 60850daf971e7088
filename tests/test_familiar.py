"""A model's calibration holds for photos of the kind that it was measured on, and of others it decides nothing."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import draw_animal, write_small_model
from herd import to_unit
from PIL import Image
from typer.testing import CliRunner

from petid_search.calibrate import Carried, count_of_another_kind, speaking
from petid_search.calibrate.combined import Combined, Weights
from petid_search.calibrate.familiar import Familiar
from petid_search.cli import app
from petid_search.enroll import enroll
from petid_search.explain import draw, explain
from petid_search.explain.sheet import _reason
from petid_search.identify import identify, verify
from petid_search.models.runtime import Embedder

KIND, OTHERS = np.linalg.qr(np.random.default_rng(0).normal(size=(96, 32)))[0].T.reshape(2, 16, 96)


def herd(individuals, photos, *, along=KIND, seed=0):
    """Animals that differ along some directions; their photos differ a little along all."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(individuals, 1, len(along))) @ along
    vectors = to_unit(centres + 0.1 * rng.normal(size=(individuals, photos, along.shape[1])))
    return vectors.reshape(-1, along.shape[1]), np.repeat(np.arange(individuals), photos)


@pytest.fixture(scope="module")
def familiar():
    return Familiar.measure(*herd(150, 3))


# What is measured


def test_directions_are_those_along_which_the_animals_differ(familiar):
    vectors, _ = herd(150, 3)
    assert familiar.directions.shape == (24, 96)
    np.testing.assert_allclose(familiar.directions @ familiar.directions.T, np.eye(24), atol=0.01)
    kept = np.linalg.norm(KIND @ familiar.directions.T, axis=1)
    assert kept.min() > 0.99
    apart = vectors - vectors.mean(axis=0)
    residual = apart - apart @ familiar.directions.T @ familiar.directions
    np.testing.assert_allclose(familiar.distances(vectors), (residual**2).sum(axis=1), atol=0.005)


def test_nineteen_in_twenty_photos_of_other_animals_of_the_kind_lie_within_the_limit(familiar):
    inside = familiar.distances(herd(400, 3, seed=1)[0]) <= familiar.limit
    assert 0.92 < inside.mean() < 0.98


def test_animals_that_differ_along_other_directions_lie_beyond_it(familiar):
    one, other = herd(2, 1, along=OTHERS, seed=2)[0]
    same = herd(1, 1, seed=3)[0][0]
    assert not familiar.holds(one, other)
    assert familiar.holds(same, same)


def test_an_animal_of_many_photos_weighs_as_much_as_one_of_few():
    vectors, owners = herd(150, 2)
    odd = herd(5, 200, along=OTHERS, seed=2)
    many = Familiar.measure(np.concatenate([vectors, odd[0]]), np.concatenate([owners, 150 + odd[1]]))
    assert many.limit < 2 * Familiar.measure(vectors, owners).limit


@pytest.mark.parametrize(("individuals", "directions"), [(31, None), (32, 8), (100, 24)])
def test_few_animals_have_few_directions_or_none(individuals, directions):
    measured = Familiar.measure(*herd(individuals, 2))
    assert directions == (measured if measured is None else len(measured.directions))


def test_names_of_individuals_need_not_be_numbers_in_a_row(familiar):
    vectors, owners = herd(150, 3)
    assert Familiar.measure(vectors, 7 + 1000 * owners).limit == familiar.limit


def test_it_comes_back_from_json_as_it_was(familiar):
    again = Familiar.from_json(json.loads(json.dumps(familiar.to_json())))
    np.testing.assert_array_equal(again.directions, familiar.directions)
    np.testing.assert_array_equal(again.mean, familiar.mean)
    assert again.limit == familiar.limit
    assert Familiar.from_json(None) is None


# Who is named by it


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two embed alike and carry a calibration of drawn animals; `once` is of before a model told their kind."""
    folder = tmp_path_factory.mktemp("models")
    owners = np.repeat(np.arange(120), 3)
    photos = np.stack([draw_animal(owner, photo, 32) for owner in range(1000, 1120) for photo in range(3)])
    embeddings = Embedder(write_small_model(folder, "bare", seed=1)).embed(photos)
    carried = Carried.measure(embeddings, owners, np.arange(360), data="animals").to_json()
    assert carried["familiar"] is not None
    once = {key: value for key, value in carried.items() if key != "familiar"}
    bundles = [write_small_model(folder, "kind", seed=1, calibration=carried)]
    bundles += [write_small_model(folder, "once", seed=1, calibration=once)]
    combined = Combined(Weights((0.0, 5.0, 0.01), (0.0, 5.0)), 120, 3.0, 120, (0.01, 0.05), (1.0, 0.0), -9.0)
    both = {**carried, "combined": combined.to_json()}
    bundles += [write_small_model(folder, "both", seed=1, classes=("1", "2"), calibration=both)]
    return {bundle.card.name: Embedder(bundle) for bundle in bundles}


@pytest.fixture
def pictures(tmp_path):
    """Two of no animal: to a model of coats all noise is alike."""
    files = [tmp_path / "noise" / f"{number}.png" for number in range(2)]
    files[0].parent.mkdir()
    for number, file in enumerate(files):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    return files


def ask(gallery, embedder, enrolled, probe):
    list(enroll(gallery, [(enrolled, "Tom")], embedder))
    return next(identify([probe], gallery, embedder))


def test_a_stranger_of_another_kind_is_not_called_by_the_name_of_the_only_one_enrolled(models, gallery, pictures):
    answer = ask(gallery, models["kind"], *pictures)
    assert (answer.decision, answer.individual, answer.familiar) == ("uncertain", None, False)
    assert (answer.threshold, answer.calibration, answer.calibrated_on, answer.probability) == (None, None, 0, None)
    assert answer.note == (
        "these two photos are of another kind than those of 120 individuals that the calibration carried by model kind "
        "was measured on, so it does not hold; with 99 animals or more, `petid calibrate` measures it on yours"
    )
    assert answer.candidates[0].individual == "Tom"


def test_it_would_be_if_the_model_did_not_tell_of_what_kind_its_calibration_is(models, gallery, pictures):
    answer = ask(gallery, models["once"], *pictures)
    assert (answer.decision, answer.individual, answer.calibration) == ("match", "Tom", "model")
    assert answer.probability > 0.9


def test_an_animal_of_the_kind_is_called_by_its_name(models, gallery, take_photo):
    answer = ask(gallery, models["kind"], take_photo(1, 0), take_photo(1, 1))
    assert (answer.decision, answer.individual, answer.calibration) == ("match", "Tom", "model")
    assert answer.familiar
    assert answer.probability > 0.9


def test_a_stranger_of_the_kind_is_unknown(models, gallery, take_photo):
    answer = ask(gallery, models["kind"], take_photo(1, 0), take_photo(2, 0))
    assert (answer.decision, answer.calibration, answer.familiar) == ("unknown", "model", True)


@pytest.mark.parametrize("name", ["1", "Tom"])
def test_index_and_classifier_together_decide_of_the_kind_only_too(models, gallery, pictures, take_photo, name):
    photos = [(take_photo(2, 0), "2"), (pictures[0], name)]
    list(enroll(gallery, photos, models["both"]))
    answer = next(identify([pictures[1]], gallery, models["both"]))
    assert (answer.candidates[0].individual, answer.decision, answer.individual) == (name, "uncertain", None)
    assert (answer.familiar, answer.threshold, answer.probability) == (False, None, None)
    assert (answer.experts.together, answer.experts.threshold) == (False, None)
    of_the_kind = next(identify([take_photo(2, 1)], gallery, models["both"]))
    assert (of_the_kind.decision, of_the_kind.individual, of_the_kind.experts.together) == ("match", "2", True)


def test_two_photos_of_another_kind_are_not_verified(models, gallery, pictures, take_photo):
    enrolled = take_photo(1, 0)
    list(enroll(gallery, [(enrolled, "Tom")], models["kind"]))
    answer = verify(*pictures, gallery, models["kind"])
    assert (answer.decision, answer.threshold, answer.calibration) == ("uncertain", None, None)
    assert "of another kind" in answer.note
    assert verify(enrolled, take_photo(1, 1), gallery, models["kind"]).decision == "match"


def test_enrolling_photos_of_another_kind_is_told_that_the_threshold_is_not_for_them(
    models, gallery, pictures, take_photo
):
    enrolled = [(picture, "Tom") for picture in pictures]
    list(enroll(gallery, enrolled, models["kind"]))
    limits = speaking(gallery, models["kind"].bundle.card, 0.01)
    assert count_of_another_kind(gallery, limits, 2) == (2, 2)
    assert count_of_another_kind(gallery, replace(limits, familiar=None), 2) == (0, 0)
    list(enroll(gallery, [(take_photo(1, photo), "Rex") for photo in range(3)], models["kind"]))
    assert count_of_another_kind(gallery, limits, 3) == (0, 3)
    assert count_of_another_kind(gallery, limits, 900) == (2, 5)


def test_petid_enroll_says_that_the_threshold_is_not_for_them(models, pictures, take_photo, tmp_path, monkeypatch):
    shutil.copytree(models["kind"].bundle.folder, tmp_path / "home" / "models" / "kind")
    monkeypatch.setenv("PETID_HOME", str(tmp_path / "home"))

    def told(gallery, *photos):
        done = CliRunner().invoke(
            app,
            ["enroll", *map(str, photos), "--as", "Tom", "--model", "kind", "--gallery", str(tmp_path / gallery)],
        )
        assert done.exit_code == 0, done.stderr
        return " ".join(done.stdout.split())

    assert "But 2 of 2 photos just enrolled are of another kind than it was measured on" in told("noise", *pictures)
    of_the_kind = told("animal", take_photo(1, 0), take_photo(1, 1))
    assert "`petid identify` goes by" in of_the_kind
    assert "another kind" not in of_the_kind


def test_an_explanation_is_drawn_of_what_the_calibration_does_not_decide(models, gallery, pictures):
    list(enroll(gallery, [(pictures[0], "Tom")], models["kind"]))
    explanation = explain(pictures[1], gallery, models["kind"])
    assert (explanation.identification.decision, explanation.candidates[0].probability) == ("uncertain", None)
    assert _reason(explanation).endswith("cannot be said: the photos are of another kind than the model's")
    assert draw(explanation).height > 200
