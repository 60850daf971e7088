"""Models are added, listed, opened and removed by name; a damaged one hinders none of the others."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petid_search.errors import ModelError
from petid_search.images import FIT
from petid_search.models import bundle as bundles
from petid_search.models import home
from petid_search.models.backbones import create_backbone, import_keras
from petid_search.models.bundle import CARD, ONNX, load_keras
from petid_search.models.runtime import Embedder

SHARED = Path(__file__).parents[2] / "shared"
MOBILENET = SHARED / "weights" / "mobilenetv2-imagenet"
DOGS = SHARED / "data" / "dogs"

SIZE = 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights, as keras.applications would write it."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    file = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    create_backbone("mobilenetv2", size=SIZE).save_weights(file)
    return file


@pytest.fixture(scope="module")
def added(weights, tmp_path_factory):
    """The folder of a model that was added once, to be copied."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PETID_HOME", str(tmp_path_factory.mktemp("home")))
        return home.add_model("small", backbone="mobilenetv2", weights=weights, size=SIZE).folder


@pytest.fixture
def models(monkeypatch, tmp_path):
    """An empty home for models, beside a petid that comes with none."""
    monkeypatch.setenv("PETID_HOME", str(tmp_path))
    monkeypatch.setattr(bundles, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "models"


@pytest.fixture
def shipped(models, added):
    """An empty home for models; the default model comes with petid."""
    return copy_as(added, home.DEFAULT, bundles.SHIPPED)


@pytest.fixture
def small(models, added):
    """A home with the model `small`."""
    shutil.copytree(added, models / "small")
    return models / "small"


def test_a_model_is_added_from_a_file_of_weights(small, weights):
    bundle = home.open_model("small")
    assert bundle.folder == small
    card = bundle.card
    assert (card.name, card.backbone, card.input_size, card.fit) == ("small", "mobilenetv2", SIZE, FIT)
    assert "random.weights.h5" in card.origin
    assert "Apache-2.0" in card.licence
    assert "ImageNet" in card.data
    embeddings = Embedder(bundle).embed(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    assert embeddings.shape == (1, 1280)


def test_a_model_may_pool_by_the_generalised_mean(models, weights):
    bundle = home.add_model("gem", backbone="mobilenetv2", weights=weights, size=SIZE, pooling="gem")
    embedder = Embedder(bundle)
    embeddings, features = embedder.features(np.full((1, SIZE, SIZE, 3), 99, np.uint8))
    pooled = np.cbrt((np.maximum(features, 1e-6) ** 3).mean((1, 2)))
    np.testing.assert_allclose(embeddings, pooled / np.linalg.norm(pooled), atol=1e-5)
    assert embedder.head().pooling == "gem"


def test_models_live_in_petid_home_and_else_in_the_data_folder_of_the_platform(monkeypatch, tmp_path):
    import platformdirs

    monkeypatch.setenv("PETID_HOME", str(tmp_path))
    assert home.models_home() == tmp_path / "models"
    monkeypatch.delenv("PETID_HOME")
    assert home.models_home() == platformdirs.user_data_path("petid") / "models"


def copy_as(model, name, parent=None):
    """Put a copy of a model beside it, or elsewhere, under another name on its card too."""
    folder = (parent or model.parent) / name
    shutil.copytree(model, folder)
    change_card(folder, name=name)
    return folder


def change_card(folder, **changes):
    values = json.loads((folder / CARD).read_bytes()) | changes
    values["fingerprint"] = bundles._fingerprint(values)
    values["seal"] = bundles._seal(values)
    (folder / CARD).write_bytes(bundles._serialise(values))


def test_where_no_model_is_named_the_one_that_comes_with_petid_is_meant(shipped, models):
    opened = home.open_model()
    assert (opened.folder, opened.card.name, opened.is_shipped) == (shipped, "petid-dogs", True)
    assert Embedder(opened).embed(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape == (1, 1280)
    assert not models.exists()


def test_models_of_ones_own_stand_beside_those_that_come_with_petid(shipped, added, models):
    copy_as(added, "zebra", models)
    copy_as(added, "Ant-1.0_b", models)
    assert [bundle.card.name for bundle in home.list_models()] == ["Ant-1.0_b", "petid-dogs", "zebra"]
    assert [bundle.is_shipped for bundle in home.list_models()] == [False, True, False]
    assert home.open_model("zebra").folder == models / "zebra"


def test_a_model_of_ones_own_takes_the_place_of_one_of_its_name_until_it_is_removed(shipped, added, models):
    home.check_new_name("petid-dogs")
    own = copy_as(added, "petid-dogs", models)
    assert home.open_model().folder == own
    assert [bundle.folder for bundle in home.list_models()] == [own]
    with pytest.raises(ModelError, match="petid models remove petid-dogs"):
        home.check_new_name("petid-dogs")
    home.remove_model("petid-dogs")
    assert home.open_model().folder == shipped


def test_a_model_is_found_by_its_fingerprint_even_where_another_took_its_place(shipped, added, models):
    fingerprint = home.open_model().card.fingerprint
    own = copy_as(added, "petid-dogs", models)
    change_card(own, fit="pad")
    assert home.open_model().card.fingerprint != fingerprint
    assert home.find_fingerprint(fingerprint).folder == shipped
    assert home.find_fingerprint(home.open_model().card.fingerprint).folder == own
    assert home.find_fingerprint("0" * 64) is None


def test_a_model_that_comes_with_petid_is_not_removed(shipped):
    with pytest.raises(ModelError, match="petid-dogs comes with petid and stays"):
        home.remove_model("petid-dogs")
    assert home.open_model().folder == shipped


def test_where_a_model_that_comes_with_petid_is_damaged_or_gone_petid_is_to_be_installed_again(shipped):
    (shipped / ONNX).write_bytes(b"changed")
    with pytest.raises(ModelError, match=r"embed\.onnx is damaged .* install petid again"):
        Embedder(home.open_model()).embed(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    (shipped / CARD).write_bytes(b"{")
    with pytest.raises(ModelError, match=r"card\.json is damaged .* install petid again"):
        home.open_model()
    shutil.rmtree(shipped)
    with pytest.raises(ModelError, match=r"comes with petid, is missing from .*: install petid again"):
        home.open_model()


@pytest.mark.skipif(not (bundles.SHIPPED / home.DEFAULT).is_dir(), reason="the default model is not here yet")
def test_the_model_that_comes_with_petid_is_whole_small_and_embeds(monkeypatch, tmp_path):
    monkeypatch.setenv("PETID_HOME", str(tmp_path))
    bundle = home.open_model()
    card = bundle.card
    assert sum(file.stat().st_size for file in bundle.folder.iterdir()) < 12e6
    assert sorted(file.name for file in bundle.folder.iterdir()) == sorted([CARD, *card.files])
    for name in card.files:
        bundle.file(name)
    assert card.classes == ()  # whom it was trained on are nobody's animals here
    assert all((card.purpose, card.limits, card.licence, card.data, card.metrics.get("protocol"), card.recipe))
    side = card.input_size
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    embeddings = Embedder(bundle).embed(images)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    again = load_keras(bundle)(images.astype(np.float32), training=False)["embedding"]
    assert np.sum(embeddings * again, axis=1).min() > 0.9999


def test_an_unknown_name_is_answered_with_the_known_ones(small):
    for ask in (home.open_model, home.remove_model):
        with pytest.raises(ModelError, match="There are: small"):
            ask("smal")


def test_a_damaged_model_hinders_none_of_the_others(small):
    (copy_as(small, "broken") / CARD).write_bytes(b"{")
    assert [bundle.card.name for bundle in home.list_models()] == ["small"]
    assert list(home.damaged_models()) == ["broken"]
    assert "petid models remove broken" in str(home.damaged_models()["broken"])
    with pytest.raises(ModelError, match="petid models remove broken"):
        home.open_model("broken")
    home.remove_model("broken")
    assert home.damaged_models() == {}


def test_a_folder_that_was_renamed_is_refused(small):
    small.rename(small.with_name("other"))
    with pytest.raises(ModelError, match="holds model 'small'"):
        home.open_model("other")


def test_what_is_no_model_is_not_listed(small):
    (small.parent / ".small.1234.partial").mkdir()
    (small.parent / "notes.txt").write_text("bought more disk")
    assert [bundle.card.name for bundle in home.list_models()] == ["small"]
    assert home.damaged_models() == {}


def test_a_name_that_is_taken_is_refused_before_any_work(small, tmp_path):
    with pytest.raises(ModelError, match="petid models remove small"):
        home.add_model("small", backbone="mobilenetv2", weights=tmp_path / "nothing.h5")
    with pytest.raises(ModelError, match="petid models remove small"):
        home.check_new_name("small")
    home.check_new_name("another")
    assert home.open_model("small")


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a b", "räx", "n" * 65, "a\n", "../a"])
def test_a_name_that_is_no_folder_name_is_refused(models, name):
    with pytest.raises(ModelError, match="cannot name a model") as raised:
        home.add_model(name, backbone="mobilenetv2")
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError):
        home.remove_model(name)


def test_an_unknown_backbone_or_wrong_weights_leave_nothing(models, tmp_path):
    with pytest.raises(ModelError, match="Unknown backbone"):
        home.add_model("new", backbone="mobilenetv9")
    (tmp_path / "wrong.npz").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"wrong\.npz"):
        home.add_model("new", backbone="mobilenetv2", weights=tmp_path / "wrong.npz", size=32)
    assert not models.exists()


def test_a_removed_model_is_gone_and_its_name_free(small):
    home.remove_model("small")
    assert list(small.parent.iterdir()) == []
    assert home.list_models() == []


def test_removing_reaches_nothing_outside(small, tmp_path):
    (tmp_path / "precious").mkdir()
    for name in ("../precious", str(tmp_path / "precious"), ".", ".."):
        with pytest.raises(ModelError):
            home.remove_model(name)
    assert (tmp_path / "precious").is_dir()


@pytest.mark.skipif(not (MOBILENET.exists() and DOGS.exists()), reason="shared is not here")
def test_the_real_mobilenetv2_embeds_photos_as_the_onnx_file_beside_it(models):
    import onnxruntime

    bundle = home.add_model("real", backbone="mobilenetv2", weights=MOBILENET / "mobilenetv2_imagenet.npz")
    assert bundle.file(ONNX).exists()
    paths = sorted(DOGS.rglob("*.jpg"))[::40][:30]
    assert len(paths) == 30
    photos = [
        np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)) for path in paths
    ]
    images = np.stack(photos)
    reference = onnxruntime.InferenceSession(
        MOBILENET / "mobilenetv2_imagenet.onnx", providers=["CPUExecutionProvider"]
    )
    (expected,) = reference.run(["embedding"], {"x": (images.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)})
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    embeddings = Embedder(bundle).embed(images)
    assert np.sum(embeddings * expected, axis=1).min() > 0.9999
    np.testing.assert_allclose(embeddings, expected, atol=2e-5)
    assert (expected @ expected.T).min() < 0.6  # the photos differ, so the agreement means something
