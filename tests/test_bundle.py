"""A bundle is whole or refused: what was written is what is read, and it embeds as Keras does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from petid_search.errors import ModelError
from petid_search.models import bundle as bundles
from petid_search.models.architecture import Classifier, Head
from petid_search.models.backbones import BACKBONES, create_backbone, import_keras
from petid_search.models.bundle import CARD, ONNX, SPLIT, WEIGHTS, Bundle, load_keras, write_bundle
from petid_search.models.linear_head import LinearHead
from petid_search.models.runtime import Embedder

keras = import_keras()

SIZE = 96
ABOUT = {
    "backbone": "mobilenetv2",
    "fit": "stretch",
    "origin": "drawn at random",
    "licence": "CC0",
    "data": "nothing",
}
PROJECTED = Head(projection=32)
TRAINED = Head(pooling="max", classifier=Classifier(dense=(8,), dropout=0.5))


def a_model(head, classes=0, *, seed=3):
    """A MobileNetV2 of random weights, normalising so that different images have different embeddings."""
    from petid_search.models.heads import create_model

    keras.utils.set_random_seed(seed)
    model = create_model(create_backbone("mobilenetv2", size=SIZE), head, classes)
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in normalisations:
        layer.momentum = 0.0  # the statistics of this one batch
    model(images(8), training=True)
    if head.projection is not None:
        kernel, bias = model.get_layer("projection").get_weights()
        bias = np.random.default_rng(seed).normal(0, 1, bias.shape)
        model.get_layer("projection").set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def model():
    return a_model(PROJECTED)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """A bundle with a projection, not to be changed."""
    return write_bundle(model, tmp_path_factory.mktemp("models") / "first", name="first", head=PROJECTED, **ABOUT)


FOUND_IN_TRAINING = {
    "classes": ["Räx/\n\udc80", "Bella"],
    "metrics": {"rank1": 0.5, "splits": ["a"]},
    "calibration": {"slope": 9.5, "photos": 12},
    "recipe": {"loss": "arcface", "epochs": 30},
}
FOUND_SPLIT = "photo,sha256,individual,role\na.jpg,00,Bella,train\n"


@pytest.fixture(scope="module")
def trained_model():
    return a_model(TRAINED, 2, seed=4)


@pytest.fixture(scope="module")
def trained(trained_model, tmp_path_factory):
    """A bundle without a projection, in a folder where two writers had been killed: yesterday, and just now."""
    home = tmp_path_factory.mktemp("models")
    for name, age in (("old", 25), ("young", 0)):
        (home / f".{name}.1234.partial").mkdir()
        (home / f".{name}.1234.partial" / WEIGHTS).write_bytes(b"half")
        os.utime(home / f".{name}.1234.partial", (time.time() - age * 3600,) * 2)
    split = home / "given.csv"
    split.write_text(FOUND_SPLIT)
    about = ABOUT | FOUND_IN_TRAINING
    written = write_bundle(trained_model, home / "trained", name="trained", head=TRAINED, split=split, **about)
    split.unlink()
    return written


@pytest.fixture
def copied(written, tmp_path):
    """A bundle to be damaged."""
    shutil.copytree(written.folder, tmp_path / "first")
    return tmp_path / "first"


def images(n):
    generator = np.random.default_rng(5)
    coarse = generator.uniform(0, 255, (n, 6, 6, 3)).repeat(SIZE // 6, axis=1).repeat(SIZE // 6, axis=2)
    return coarse.astype(np.float32)


def test_a_bundle_embeds_as_keras_does_whatever_the_batch(written, model):
    embedder = Embedder(Bundle.open(written.folder))
    for n in (1, 5):  # not what was exported with
        by_keras = model(images(n), training=False)
        embeddings, features = embedder.features(images(n))
        assert embeddings.shape == (n, 32)
        assert np.sum(embeddings * by_keras["embedding"], axis=1).min() > 0.9999
        np.testing.assert_allclose(embeddings, by_keras["embedding"], atol=1e-4)
        np.testing.assert_allclose(features, by_keras["features"], atol=1e-3)
    assert np.ptp(embeddings @ embeddings.T) > 0.01  # or the comparison would prove nothing


def test_a_bundle_becomes_the_same_keras_model_again(written, model):
    again = load_keras(Bundle.open(written.folder))
    for expected, received in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, received)
    assert [layer.name for layer in again.layers if layer.weights] == [
        layer.name for layer in model.layers if layer.weights
    ]


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """A bundle stored in 16 bits, of the weights of `written`, and the model that it was written from."""
    model = a_model(PROJECTED)
    folder = tmp_path_factory.mktemp("models") / "halved"
    return write_bundle(model, folder, name="halved", head=PROJECTED, half=True, **ABOUT), model


def test_stored_in_16_bits_a_bundle_is_half_as_large_and_embeds_the_same(halved, written):
    bundle, _ = halved
    for name in (WEIGHTS, ONNX):
        assert (bundle.folder / name).stat().st_size < 0.55 * (written.folder / name).stat().st_size
    before, after = (Embedder(one).embed(images(8)) for one in (written, bundle))
    assert 0.999 < np.sum(before * after, axis=1).min() < 0.9999999
    np.testing.assert_allclose(before @ before.T, after @ after.T, atol=0.02)


def test_a_classifier_is_stored_in_16_bits_too(tmp_path):
    model = a_model(TRAINED, 3)
    bundle = write_bundle(
        model, tmp_path / "halved", name="halved", head=TRAINED, half=True, classes=("a", "b", "c"), **ABOUT
    )
    scores = Embedder(bundle).scores(images(8))
    np.testing.assert_allclose(scores, model(images(8), training=False)["scores"], atol=1e-2)


def test_stored_in_16_bits_a_bundle_embeds_as_its_own_weights_do_in_keras(halved):
    bundle, model = halved
    again = load_keras(Bundle.open(bundle.folder))
    for expected, received in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, received)
    by_keras = again(images(8), training=False)["embedding"]
    assert np.sum(Embedder(bundle).embed(images(8)) * by_keras, axis=1).min() > 0.99999
    kernel = Embedder(bundle).head().kernel
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, again.get_layer("projection").get_weights()[0])


def test_the_card_says_what_the_model_is(written):
    card = Bundle.open(written.folder).card
    assert (card.name, card.backbone, card.input_size, card.fit) == ("first", "mobilenetv2", SIZE, "stretch")
    assert (card.head, card.dimension, card.recipe) == (PROJECTED, 32, None)
    assert (card.origin, card.licence, card.data) == ("drawn at random", "CC0", "nothing")
    assert (card.classes, card.metrics, card.calibration) == ((), {}, None)
    assert card.files.keys() == {WEIGHTS, ONNX}
    assert sorted(path.name for path in written.folder.iterdir()) == sorted([CARD, WEIGHTS, ONNX])


def test_what_training_found_is_kept_on_the_card(trained):
    card = Bundle.open(trained.folder).card
    assert card.classes == tuple(FOUND_IN_TRAINING["classes"])
    assert card.metrics == FOUND_IN_TRAINING["metrics"]
    assert card.calibration == FOUND_IN_TRAINING["calibration"]
    assert (card.head, card.recipe) == (TRAINED, FOUND_IN_TRAINING["recipe"])


def test_the_scores_of_a_bundle_are_those_of_keras(trained, trained_model):
    opened = Bundle.open(trained.folder)
    expected = np.asarray(trained_model(images(5), training=False)["scores"])
    assert np.ptp(expected[:, 0]) > 0.01  # or the comparison would prove nothing
    np.testing.assert_allclose(Embedder(opened).scores(images(5)), expected, atol=1e-5)
    np.testing.assert_allclose(load_keras(opened)(images(5), training=False)["scores"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("classes", "said"),
    [((), "2 outputs and 0 classes"), (("a",), "2 outputs and 1 class"), (("a", "a"), "'a'"), (("a", ""), "no name")],
)
def test_classes_that_are_not_those_of_the_classifier_make_no_model(trained_model, tmp_path, classes, said):
    with pytest.raises(ModelError, match=said):
        write_bundle(trained_model, tmp_path / "new", name="new", head=TRAINED, classes=classes, **ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_scores_exported_otherwise_make_no_model(trained_model, tmp_path, monkeypatch):
    export = bundles._export

    def export_changed(model, file, half):
        kernel, bias = model.get_layer("classifier").get_weights()
        model.get_layer("classifier").set_weights([kernel, bias + np.float32([0.001, 0])])
        export(model, file, half=half)
        model.get_layer("classifier").set_weights([kernel, bias])

    monkeypatch.setattr(bundles, "_export", export_changed)
    with pytest.raises(ModelError, match="classifies otherwise than Keras"):
        write_bundle(trained_model, tmp_path / "new", name="new", head=TRAINED, classes=("a", "b"), **ABOUT)


def test_the_split_of_the_training_is_kept_and_guarded_like_every_file(trained, tmp_path):
    assert trained.split() == FOUND_SPLIT
    shutil.copytree(trained.folder, tmp_path / "trained")
    (tmp_path / "trained" / SPLIT).write_text(FOUND_SPLIT.replace("train", "probe"))
    with pytest.raises(ModelError, match=r"split\.csv\.gz is damaged"):
        Bundle.open(tmp_path / "trained").split()


def test_pooling_by_the_maximum_without_a_projection_is_kept(trained, trained_model):
    opened = Bundle.open(trained.folder)
    assert (opened.card.head.pooling, opened.card.head.projection, opened.card.dimension) == ("max", None, 1280)
    expected = trained_model(images(2), training=False)["embedding"]
    np.testing.assert_allclose(load_keras(opened)(images(2), training=False)["embedding"], expected, atol=1e-6)
    embedder = Embedder(opened)
    embeddings, features = embedder.features(images(2))
    assert embedder.head() == LinearHead("max")
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)
    pooled = features.max(axis=(1, 2))
    np.testing.assert_allclose(embeddings, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-5)


def test_the_head_is_the_projection_of_the_pooled_features(written):
    embedder = Embedder(Bundle.open(written.folder))
    embeddings, features = embedder.features(images(3))
    head = embedder.head()
    projected = features.mean(axis=(1, 2)) @ head.kernel + head.bias
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(projected, embeddings, atol=1e-5)


def test_the_same_weights_have_the_same_fingerprint_under_any_name(written, tmp_path):
    again = write_bundle(a_model(PROJECTED), tmp_path / "again", name="again", head=PROJECTED, **ABOUT)
    assert again.card.fingerprint == written.card.fingerprint
    assert again.card.seal != written.card.seal


def test_other_weights_or_another_fit_have_another_fingerprint(written, trained):
    assert trained.card.fingerprint != written.card.fingerprint
    values = json.loads((written.folder / CARD).read_bytes())
    assert bundles._fingerprint(values) == written.card.fingerprint
    assert bundles._fingerprint(values | {"fit": "pad"}) != written.card.fingerprint


def test_a_vector_of_zeros_stays_one_and_has_a_gradient():
    import tensorflow as tf

    from petid_search.models.heads import create_model

    pixels = keras.Input((2, 2, 3))
    head = create_model(keras.Model(pixels, pixels * 1.0), Head())
    nothing = tf.zeros((1, 2, 2, 3))
    with tf.GradientTape() as tape:
        tape.watch(nothing)
        embedding = head(nothing)["embedding"]
        total = tf.reduce_sum(embedding)
    np.testing.assert_array_equal(embedding, np.zeros((1, 3)))
    assert np.isfinite(tape.gradient(total, nothing)).all()


@pytest.mark.parametrize("name", [WEIGHTS, ONNX])
@pytest.mark.parametrize("place", [0, 0.3, 1])
def test_a_changed_byte_is_refused(copied, name, place):
    file = copied / name
    content = bytearray(file.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name} is damaged .* `petid models remove first` and add") as raised:
        Bundle.open(copied).file(name)
    assert "\n" not in str(raised.value)


def test_a_changed_byte_anywhere_in_the_card_is_refused(copied):
    file = copied / CARD
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(ModelError) as raised:
            Bundle.open(copied)
        assert str(file) in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"  ", b"\t"), (b"\n", b"\r\n"), (b"{\n", b'{\n  "name": "first",\n'), (b"}\n", b"}"), (b"96,", b"96.0,")],
)
def test_a_card_that_means_the_same_but_was_changed_is_refused(copied, before, after):
    content = (copied / CARD).read_bytes()
    assert before in content
    (copied / CARD).write_bytes(content.replace(before, after))
    with pytest.raises(ModelError, match=r"card\.json is damaged"):
        Bundle.open(copied)


@pytest.mark.parametrize("name", [WEIGHTS, ONNX])
def test_a_cut_or_missing_file_is_refused(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[:-1])
    with pytest.raises(ModelError, match=f"{name} is damaged"):
        Bundle.open(copied).file(name)
    (copied / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is damaged .it is missing"):
        Bundle.open(copied).file(name)


def test_every_user_of_a_file_refuses_its_damage(copied):
    for name in (WEIGHTS, ONNX):
        (copied / name).write_bytes(b"changed")
    damaged = Bundle.open(copied)
    with pytest.raises(ModelError, match=WEIGHTS):
        load_keras(damaged)
    with pytest.raises(ModelError, match=ONNX):
        Embedder(damaged).embed(images(1))
    with pytest.raises(ModelError, match=WEIGHTS):
        Embedder(damaged).head()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{}", b"[" * 100_000, b"null", b'{"format": "one"}', b"NaN"])
def test_a_card_that_is_none_is_refused_in_one_line(copied, content):
    (copied / CARD).write_bytes(content)
    with pytest.raises(ModelError, match=r"card\.json is damaged") as raised:
        Bundle.open(copied)
    assert "\n" not in str(raised.value)


def rewrite(folder, **changes):
    """Change a card and seal it again, as somebody with bad intentions could."""
    values = json.loads((folder / CARD).read_bytes()) | changes
    values["fingerprint"] = bundles._fingerprint(values)
    values["seal"] = bundles._seal(values)
    (folder / CARD).write_bytes(bundles._serialise(values))


@pytest.mark.parametrize(
    "changes",
    [
        {"input_size": "96"},
        {"input_size": True},
        {"head": Head(projection=32).to_json() | {"projection": "32"}},
        {"head": Head(projection=33).to_json()},
        {"head": Head(projection=32, classifier=Classifier()).to_json()},
        {"head": {"pooling": "avg", "projection": 32}},
        {"head": []},
        {"classes": ["a", "b"]},
        {"recipe": []},
        {"classes": {}},
        {"metrics": []},
        {"head": Head(projection=32).to_json() | {"pooling": "median"}},
        {"dimension": 0},
        {"surprise": 1},
        {"purpose": None},
        {"limits": []},
        {"files": {ONNX: "0" * 64, SPLIT: "0" * 64}},
        {"files": {ONNX: "0" * 64, WEIGHTS: "0" * 63}},
        {"files": {ONNX: "0" * 64, WEIGHTS: "0" * 64, "head.npz": "0" * 64}},
        {"files": {ONNX: "0" * 64, WEIGHTS: "0" * 64, "../other": "0" * 64}},
    ],
)
def test_a_card_that_makes_no_sense_is_refused_whatever_its_seal(copied, changes):
    rewrite(copied, **changes)
    with pytest.raises(ModelError, match=r"card\.json is damaged"):
        Bundle.open(copied)


def test_a_card_of_a_later_format_asks_for_a_later_petid(copied):
    rewrite(copied, format=6, more="than is known today")
    with pytest.raises(ModelError, match=r"format 6.*formats 1 to 5: update petid"):
        Bundle.open(copied)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_bundle_of_an_earlier_format_is_read_as_ever(copied, written, model, version):
    file = copied / CARD
    values = json.loads(file.read_bytes()) | {"format": version}
    if version < 3:
        values["files"]["head.npz"] = "0" * 64  # a second copy of the projection, which nobody reads any more
        del values["purpose"], values["limits"]
    if version in (2, 3):
        del values["head"]["kept"], values["head"]["mirror"]
    elif version == 1:
        del values["head"], values["recipe"]
        values |= {"pooling": "avg", "projection": 32}
    file.write_bytes(bundles._serialise(values | {"seal": bundles._seal(values)}))
    opened = Bundle.open(copied)
    card = opened.card
    assert (card.head, card.recipe, card.classes, card.purpose, card.limits) == (PROJECTED, None, (), "", "")
    assert card.fingerprint == written.card.fingerprint
    again = load_keras(opened)(images(2), training=False)["embedding"]
    np.testing.assert_allclose(again, model(images(2), training=False)["embedding"], atol=1e-6)
    head = Embedder(opened).head()
    for expected, received in zip(model.get_layer("projection").get_weights(), (head.kernel, head.bias), strict=True):
        np.testing.assert_array_equal(expected, received)


def test_a_model_that_kept_features_without_a_share_of_their_own_asks_to_be_trained_again(copied):
    kept = {"after": "conv_2_relu", "layer": "conv_4_relu", "channels": 24, "numbers": 8}
    head = json.loads((copied / CARD).read_bytes())["head"] | {"kept": kept}
    rewrite(copied, format=4, head=head)
    with pytest.raises(ModelError, match=r"of format 4 and keeps features.*: train it again"):
        Bundle.open(copied)


def test_a_file_that_the_card_does_not_name_is_not_given_out(written):
    with pytest.raises(ModelError, match=r"no file '\.\./secret'"):
        written.file("../secret")


def test_a_folder_without_a_model_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(ModelError, match="There is no model in"):
        Bundle.open(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"card\.json is damaged"):
        Bundle.open(tmp_path / "empty")


def test_a_file_is_hashed_once(copied):
    opened = Bundle.open(copied)
    assert opened.file(ONNX) == copied / ONNX
    (copied / ONNX).write_bytes(b"changed")
    assert opened.file(ONNX) == copied / ONNX
    with pytest.raises(ModelError, match="damaged"):
        Bundle.open(copied).file(ONNX)


def test_an_existing_folder_is_never_written_over(written, model):
    before = {path.name: path.stat().st_mtime_ns for path in written.folder.iterdir()}
    with pytest.raises(ModelError, match="exists"):
        write_bundle(model, written.folder, name="first", head=PROJECTED, **ABOUT)
    assert {path.name: path.stat().st_mtime_ns for path in written.folder.iterdir()} == before


def test_weights_that_are_not_numbers_make_no_model(tmp_path):
    model = a_model(Head())
    convolution = model.get_layer("Conv_1")
    convolution.set_weights([np.full(weight.shape, np.nan) for weight in convolution.get_weights()])
    with pytest.raises(ModelError, match="give no embedding"):
        write_bundle(model, tmp_path / "nan", name="nan", head=Head(), **ABOUT)
    assert list(tmp_path.iterdir()) == []


def other_projection(model):
    kernel, bias = model.get_layer("projection").get_weights()
    model.get_layer("projection").set_weights([kernel[::-1], bias])


def smaller_features(model):
    """Of the same direction, so that the embeddings without a projection are the same."""
    gamma, beta, mean, variance = model.get_layer("Conv_1_bn").get_weights()
    model.get_layer("Conv_1_bn").set_weights([gamma / 2, beta / 2, mean, variance])


@pytest.mark.parametrize(("change", "projection"), [(other_projection, 8), (smaller_features, None)])
def test_an_export_that_answers_otherwise_makes_no_model(tmp_path, monkeypatch, change, projection):
    head = Head(projection=projection)
    model = a_model(head)
    for _ in range(4):  # below the 6 at which the last layer cuts them off
        smaller_features(model)
    export = bundles._export

    def export_changed(model, file, half):
        weights = model.get_weights()
        change(model)
        export(model, file, half=half)
        model.set_weights(weights)

    monkeypatch.setattr(bundles, "_export", export_changed)
    with pytest.raises(ModelError, match="otherwise than Keras"):
        write_bundle(model, tmp_path / "other", name="other", head=head, **ABOUT)
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from petid_search.models.architecture import Head
from petid_search.models.backbones import create_backbone
from petid_search.models.bundle import write_bundle
backbone = create_backbone("mobilenetv2", size=32)
from petid_search.models.heads import create_model
print("ready", flush=True)
folder = Path(sys.argv[1])
write_bundle(create_model(backbone, Head()), folder, name=folder.name, backbone="mobilenetv2", head=Head(),
             fit="stretch", origin="", licence="", data="")
print("done", flush=True)
"""


@pytest.mark.parametrize("until", [WEIGHTS, ONNX])
def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path, until):
    folder = tmp_path / "models" / "new"
    with subprocess.Popen([sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        while not any(folder.parent.glob(f".new.*.partial/{until}")):
            assert writer.poll() is None
            time.sleep(0.002)
        writer.send_signal(signal.SIGKILL)
        assert "done" not in writer.stdout.read()
    assert not folder.exists()
    assert len(list(folder.parent.iterdir())) == 1


def test_what_a_killed_writer_left_is_cleared_away_a_day_later(trained):
    assert sorted(path.name for path in trained.folder.parent.iterdir()) == [".young.1234.partial", "trained"]


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path):
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n{WRITER}"
    code = f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{code}"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "new"], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "ModelError: The model cannot be written to" in last
    assert list(tmp_path.iterdir()) == []


def test_writing_a_bundle_says_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", WRITER, tmp_path / "new"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("ready\ndone\n", "")


@pytest.mark.parametrize("module", ["bundle", "runtime", "home", "backbones"])
def test_reading_bundles_imports_no_network_library(module):
    code = (
        f"import sys, petid_search.models.{module}\n"
        "sys.exit(', '.join({'tensorflow', 'keras', 'onnxruntime', 'onnx', 'h5py', 'faiss'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_becomes_a_bundle_that_embeds_as_keras_does(name, tmp_path):
    from petid_search.models.heads import create_model

    keras.backend.clear_session()
    keras.utils.set_random_seed(6)
    size = max(64, BACKBONES[name].smallest)
    head = Head(pooling="gem", classifier=Classifier())
    classes = [f"pet {number}" for number in range(100)]
    model = create_model(create_backbone(name, size=size), head, len(classes))
    bundle = write_bundle(model, tmp_path / name, name=name, head=head, classes=classes, **(ABOUT | {"backbone": name}))
    pixels = np.random.default_rng(8).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    embeddings, features = Embedder(bundle).features(pixels)
    by_keras = model(pixels, training=False)
    np.testing.assert_allclose(embeddings, by_keras["embedding"], atol=2e-4)
    np.testing.assert_allclose(Embedder(bundle).scores(pixels), by_keras["scores"], atol=1e-4)
    again = load_keras(bundle)(pixels, training=False)
    np.testing.assert_allclose(again["embedding"], by_keras["embedding"], atol=1e-6)
    assert features.shape[-1] == BACKBONES[name].channels
