"""Where no model is named, the one that comes with petid is meant, unless the gallery has one of its own."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import write_small_model
from tiny_network import registered
from typer.testing import CliRunner

from petid_search.cli import app
from petid_search.index.gallery import Gallery
from petid_search.models import bundle as bundles
from petid_search.models.home import open_model
from petid_search.models.runtime import Embedder


@pytest.fixture(scope="session")
def shipped_folder(tmp_path_factory) -> Path:
    """A folder such as comes with petid, with a small `petid-dogs`, that nobody may change."""
    folder = tmp_path_factory.mktemp("shipped")
    write_small_model(folder, "petid-dogs", seed=3)
    return folder


@pytest.fixture
def run(models_folder, shipped_folder, tmp_path, monkeypatch):
    """Runs `petid …` in the test's folder: `petid-dogs` comes with it, `small` and `other` are the user's own."""
    shutil.copytree(models_folder, tmp_path / "home")
    monkeypatch.setenv("PETID_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PETID_GALLERY", raising=False)
    monkeypatch.setattr(bundles, "SHIPPED", shipped_folder)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object):
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 0, (done.stderr, done.exception)
        return done.stdout

    return run


def own_petid_dogs(home: Path, *, seed: int) -> None:
    write_small_model(home / "models", "petid-dogs", seed=seed)


def model_of(folder: str) -> str:
    with Gallery(Path(folder)) as gallery:
        return gallery.model.name


def test_a_new_gallery_is_made_with_it_whatever_other_models_there_are(run, take_photos):
    photos = take_photos(3, 2)
    run("enroll", photos)
    assert model_of("index") == "petid-dogs"
    assert json.loads(run("identify", photos / "1" / "0.png", "--json"))["candidates"][0]["individual"] == "1"


def test_a_gallery_with_a_model_of_its_own_keeps_it(run, take_photos, take_photo):
    run("enroll", take_photos(2, 1), "--model", "small")
    run("enroll", take_photo(9), "--as", "Rex")
    run("reindex")
    assert model_of("index") == "small"


def test_photos_are_embedded_and_models_evaluated_with_it(run, take_photos, tmp_path):
    photos = take_photos(3, 3)
    run("embed", photos, "--output", "default.npz")
    run("embed", photos, "--model", "petid-dogs", "--output", "named.npz")
    run("embed", photos, "--model", "small", "--output", "other.npz")
    default, named, other = (np.load(tmp_path / f"{name}.npz")["embeddings"] for name in ("default", "named", "other"))
    np.testing.assert_array_equal(default, named)
    assert not np.allclose(default, other)
    assert json.loads(run("evaluate", photos, "--json"))["model"] == "petid-dogs"


def test_names_that_it_was_trained_on_are_not_taken_for_those_of_the_user(run, take_photos, tmp_path, monkeypatch):
    photos = take_photos(3, 3)
    split = tmp_path / "split.csv"
    split.write_text("photo,sha256,individual,role\n1/1.jpg,00,1,train\n")
    write_small_model(tmp_path / "trained", "petid-dogs", seed=3, split=split)
    shutil.copytree(tmp_path / "trained", tmp_path / "home" / "models", dirs_exist_ok=True)
    flatters = "1 of their 3 individuals"
    assert flatters in CliRunner().invoke(app, ["evaluate", str(photos)]).stderr
    run("models", "remove", "petid-dogs")
    monkeypatch.setattr(bundles, "SHIPPED", tmp_path / "trained")
    assert CliRunner().invoke(app, ["evaluate", str(photos)]).stderr == ""


def test_a_gallery_made_with_it_still_answers_when_a_model_of_ones_own_takes_its_place(run, take_photos, tmp_path):
    photos = take_photos(3, 2)
    run("enroll", photos)
    before = run("identify", photos / "1" / "0.png", "--json")
    own_petid_dogs(tmp_path / "home", seed=4)
    assert open_model().folder == tmp_path / "home" / "models" / "petid-dogs"
    assert run("identify", photos / "1" / "0.png", "--json") == before
    assert "(6 photos embedded)" in run("reindex")
    assert run("identify", photos / "1" / "0.png", "--json") != before


def test_when_petid_comes_with_a_new_one_a_gallery_goes_over_to_it_by_reindex(run, take_photos, tmp_path, monkeypatch):
    photos = take_photos(3, 2)
    run("enroll", photos)
    write_small_model(tmp_path / "newer", "petid-dogs", seed=5)
    monkeypatch.setattr(bundles, "SHIPPED", tmp_path / "newer")
    refused = CliRunner().invoke(app, ["identify", str(photos)])
    assert refused.exit_code == 1
    assert "another is called so now: go over to it with `petid reindex`" in refused.stderr
    run("reindex")
    assert json.loads(run("identify", photos / "1" / "0.png", "--json"))["decision"]


def test_a_gallery_whose_model_is_gone_goes_over_to_it_by_reindex(run, take_photos):
    run("enroll", take_photos(2, 1), "--model", "small")
    run("models", "remove", "small")
    run("reindex")
    assert model_of("index") == "petid-dogs"


def test_the_list_says_which_comes_with_petid_and_which_is_meant_by_default(run, tmp_path):
    listed = {entry["model"]: entry for entry in map(json.loads, run("models", "list", "--json").splitlines())}
    assert {name: (entry["shipped"], entry["default"]) for name, entry in listed.items()} == {
        "other": (False, False),
        "petid-dogs": (True, True),
        "small": (False, False),
    }
    assert run("models", "list").splitlines()[1].endswith("(comes with petid, the default)")
    own_petid_dogs(tmp_path / "home", seed=4)
    assert run("models", "list").splitlines()[1].endswith("(the default)")


def test_a_training_goes_on_from_it_and_may_take_its_name(run, take_photos, tmp_path, monkeypatch):
    with registered():
        words = ("--size", "32", "--batch-size", "8", "--epochs", "1", "--quiet", "--hold-out-individuals", "0")
        photos = take_photos(4, 4)
        run("train", photos, *words, "--backbone", "tiny", "--weights", "random", "--name", "petid-dogs")
        own = tmp_path / "home" / "models" / "petid-dogs"
        shutil.move(own, tmp_path / "newer" / "petid-dogs")
        monkeypatch.setattr(bundles, "SHIPPED", tmp_path / "newer")
        fingerprint = open_model().card.fingerprint
        run("train", photos, *words, "--backbone", "petid-dogs", "--name", "petid-dogs", "--output", "again")
    assert open_model().folder == own
    assert open_model().card.origin.startswith(f"the model petid-dogs ({fingerprint[:12]})")
    assert Embedder(open_model()).dimension == 512


CARD_WORDS = {
    "purpose": "Telling dogs apart by their faces.",
    "limits": "Not for proving who owns a dog.",
    "data": "DogFaceNet, CC BY 4.0",
    "licence": "CC BY 4.0",
}


def test_a_recipe_says_what_only_people_know_and_models_show_tells_it(run, take_photos):
    words = [part for word, text in CARD_WORDS.items() for part in (f"--{word}", text)]
    with registered():
        run(
            *("train", take_photos(4, 4), "--backbone", "tiny", "--weights", "random", "--epochs", "1", "--quiet"),
            *("--batch-size", "8", "--name", "told", "--half", "--no-keep-classifier", *words),
        )
    card = json.loads(run("models", "show", "told", "--json"))
    assert (card["purpose"], card["limits"]) == (CARD_WORDS["purpose"], CARD_WORDS["limits"])
    assert card["licence"] == "CC BY 4.0; of the weights that it started from: that of what it was trained on"
    assert "individuals in photos (DogFaceNet, CC BY 4.0); before that: nothing before" in card["data"]
    assert (card["classes"], card["head"]["classifier"]) == ([], None)
    shown = " ".join(run("models", "show", "told").split())
    for said in (*CARD_WORDS.values(), "Not for", "Measured by split.csv", "rank-1", "tiny at 48 px"):
        assert said in shown
    assert "{" not in shown
    with h5py.File(open_model("told").file(bundles.WEIGHTS)) as stored:
        kinds = []
        stored.visititems(lambda _, item: kinds.append((item.ndim > 1, item.dtype)) if "shape" in dir(item) else None)
    assert {kind for is_kernel, kind in kinds if is_kernel} == {np.dtype(np.float16)}
    assert np.dtype(np.float32) in {kind for is_kernel, kind in kinds if not is_kernel}
