"""An export answers as Keras does, or is not there."""

import json

import numpy as np
import pytest
from conftest import draw_animal
from PIL import Image

from petid_search.errors import ModelError
from petid_search.models.backbones import import_keras
from petid_search.models.export import FEWEST_PHOTOS, export_network, read_evenly

keras = import_keras()

SIZE = 32
ABOUT = {"model": "small", "classes": ["Räx", "Bella", "Max"]}


def create_network(*, classes=3, spread=None):
    """A small network with a map among its outputs, as models have it.

    With `spread`, what tells images apart is much smaller than that, which one feature is for all images: 8 bits cannot
    hold both.
    """
    keras.utils.set_random_seed(1)
    pixels = keras.Input((SIZE, SIZE, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)
    features = keras.layers.Conv2D(24, 8, strides=8, activation="relu")(scaled)
    if spread is not None:
        features = keras.layers.Conv2D(24, 1, activation="relu", name="spread")(features)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    projected = keras.layers.Dense(8, name="projection")(pooled)
    embedding = keras.layers.UnitNormalization(name="unit")(projected)
    outputs = {"embedding": embedding, "features": features}
    if classes:
        outputs["scores"] = keras.layers.Dense(classes, activation="softmax", name="classifier")(4 * embedding)
    model = keras.Model(pixels, outputs)
    if spread is not None:
        bias = np.zeros(24)
        bias[0] = spread
        kernel = np.eye(24)
        kernel[0, 0] = 0
        model.get_layer("spread").set_weights([kernel[np.newaxis, np.newaxis], bias])
        weights, _ = model.get_layer("projection").get_weights()
        weights[0] = 0
        model.get_layer("projection").set_weights([weights, np.zeros(8)])
    return model


def animals(n):
    return np.stack([draw_animal(number, 0, SIZE) for number in range(n)])


def in_folder(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_saved_model_answers_as_keras_does(tmp_path):
    import tensorflow as tf

    model, images = create_network(), animals(12)
    told = export_network(model, "saved-model", tmp_path / "saved", images, ABOUT)
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    answers = saved.serve(images.astype(np.float32))
    expected = model(images, training=False)
    np.testing.assert_allclose(answers["embedding"], expected["embedding"], atol=1e-5)
    np.testing.assert_allclose(answers["scores"], expected["scores"], atol=1e-5)
    assert set(answers) == {"embedding", "scores"}
    assert told["check"]["photos"] == 12
    assert told["check"]["cosine_min"] > 0.99999
    assert in_folder(tmp_path) == ["saved", "saved.json"]


def answers_of(file, images):
    import tensorflow as tf

    with pytest.warns(UserWarning, match="deprecated"):
        runner = tf.lite.Interpreter(str(file)).get_signature_runner()
    each = [runner(images=image[np.newaxis].astype(np.float32)) for image in images]
    return {name: np.concatenate([one[name].copy() for one in each]) for name in each[0]}


def test_a_litert_file_answers_as_keras_does(tmp_path):
    model, images = create_network(), animals(12)
    export_network(model, "litert", tmp_path / "small.tflite", images, ABOUT)
    answers, expected = answers_of(tmp_path / "small.tflite", images), model(images, training=False)
    np.testing.assert_allclose(answers["embedding"], expected["embedding"], atol=1e-5)
    np.testing.assert_allclose(answers["scores"], expected["scores"], atol=1e-5)


def test_int8_is_smaller_nearly_the_same_and_checked_on_photos_that_did_not_set_its_ranges(tmp_path):
    model, images = create_network(), animals(60)
    whole = export_network(model, "litert", tmp_path / "whole.tflite", images, ABOUT)
    told = export_network(model, "litert-int8", tmp_path / "small.tflite", images, ABOUT)
    assert told["bytes"] < 0.5 * whole["bytes"]
    assert (told["calibrating_photos"], told["check"]["photos"]) == (40, 20)
    answers = answers_of(tmp_path / "small.tflite", images[40:])
    expected = {name: np.asarray(value) for name, value in model(images[40:], training=False).items()}
    unit = answers["embedding"] / np.linalg.norm(answers["embedding"], axis=1, keepdims=True)
    cosines = np.sum(unit * expected["embedding"], axis=1)
    assert 0.97 < told["check"]["cosine_mean"] < 0.999999
    assert told["check"]["cosine_mean"] == pytest.approx(cosines.mean(), abs=1e-5)
    assert told["check"]["cosine_min"] == pytest.approx(cosines.min(), abs=1e-5)
    same = answers["scores"].argmax(axis=1) == expected["scores"].argmax(axis=1)
    assert told["check"]["same_class"] == same.mean()
    assert told["check"]["scores_apart"] == pytest.approx(
        np.abs(answers["scores"] - expected["scores"]).max(), abs=1e-5
    )


def test_the_sidecar_says_what_goes_in_and_what_comes_out(tmp_path):
    import hashlib

    file = tmp_path / "small.tflite"
    told = export_network(create_network(), "litert", file, animals(4), ABOUT)
    assert json.loads((tmp_path / "small.tflite.json").read_text()) == told
    assert told["classes"] == ["Räx", "Bella", "Max"]
    assert told["input"]["shape"] == [1, SIZE, SIZE, 3]
    assert told["input"]["range"] == [0, 255]
    assert told["outputs"]["embedding"]["shape"] == [1, 8]
    assert told["outputs"]["scores"]["shape"] == [1, 3]
    assert told["bytes"] == file.stat().st_size
    assert told["sha256"] == {"small.tflite": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_without_photos_drawn_images_are_taken_and_said(tmp_path):
    told = export_network(create_network(classes=0), "saved-model", tmp_path / "saved", animals(4)[:0], ABOUT)
    assert told["check"]["drawn"]
    assert told["check"]["same_class"] is None
    assert set(told["outputs"]) == {"embedding"}


def test_a_network_that_8_bits_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    model, images = create_network(spread=1000.0), animals(60)
    with pytest.raises(ModelError, match=r"answers otherwise than Keras .cosine of embeddings .*: take litert"):
        export_network(model, "litert-int8", tmp_path / "small.tflite", images, ABOUT)
    assert in_folder(tmp_path) == []
    export_network(model, "litert", tmp_path / "small.tflite", images, ABOUT)


def test_int8_wants_photos_enough(tmp_path):
    with pytest.raises(ModelError, match="29 could be read, at least 30"):
        export_network(create_network(), "litert-int8", tmp_path / "x", animals(FEWEST_PHOTOS - 1), ABOUT)
    assert in_folder(tmp_path) == []


@pytest.mark.parametrize("there", ["small.tflite", "small.tflite.json"])
def test_nothing_is_written_over(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(ModelError, match="exists, and no file is overwritten"):
        export_network(create_network(), "litert", tmp_path / "small.tflite", animals(4), ABOUT)
    assert (tmp_path / there).read_text() == "mine"
    assert in_folder(tmp_path) == [there]


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ModelError, match="There is no folder"):
        export_network(create_network(), "litert", tmp_path / "no" / "small.tflite", animals(4), ABOUT)


def test_an_operation_that_litert_lacks_is_said_and_leaves_nothing(tmp_path):
    pixels = keras.Input((SIZE, SIZE, 3))
    values = keras.ops.reshape(pixels, (-1, SIZE * SIZE * 3))
    model = keras.Model(pixels, {"embedding": keras.ops.erfinv(values / 256.0)[:, :8]})
    with pytest.raises(ModelError, match=r"cannot be converted to litert .*: take another --format"):
        export_network(model, "litert", tmp_path / "small.tflite", animals(4), ABOUT)
    assert in_folder(tmp_path) == []


def test_photos_are_read_evenly_and_broken_ones_named(tmp_path):
    photos = []
    for number in range(400):
        photos.append(tmp_path / f"{number}.png")
        Image.new("RGB", (4, 4), (number // 2, 0, 0)).save(photos[-1])
    photos[0].write_bytes(b"no photo")
    problems = []
    images = read_evenly(photos, 4, problems.append)
    assert len(images) == 299
    assert len(problems) == 1
    assert images[-1, 0, 0, 0] == 199
    assert len(np.unique(images[:, 0, 0, 0])) == 200
    assert read_evenly([], 4).shape == (0, 4, 4, 3)


def test_a_model_is_exported_by_the_command(petid, tmp_path, monkeypatch, take_photos):
    from petid_search.models.backbones import create_backbone
    from petid_search.models.home import add_model

    monkeypatch.setenv("PETID_HOME", str(tmp_path / "home"))
    weights = tmp_path / "drawn.weights.h5"
    keras.utils.set_random_seed(2)
    create_backbone("mobilenetv2", size=SIZE).save_weights(weights)
    add_model("drawn", backbone="mobilenetv2", weights=weights, size=SIZE)
    photos = take_photos(3, 2)
    (photos / "0" / "broken.jpg").write_bytes(b"no photo")
    done = petid(*("models", "export", "drawn", "--format", "litert", "--output", "m.tflite", "--photos", photos))
    assert "Against Keras on 6 photos: cosine 1.0000" in done.stdout
    assert done.returncode == 1
    assert "broken.jpg" in done.stderr
    assert json.loads((tmp_path / "m.tflite.json").read_text())["model"] == "drawn"
    refused = petid("models", "export", "drawn", "--format", "litert-int8", "--output", "n.tflite")
    assert refused.returncode == 1
    assert "Name a folder with --photos" in refused.stderr
