"""petid's VGGFace networks against keras-vggface 0.6 itself, and against files that are not what they should be."""

import runpy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from petid_search.errors import ModelError
from petid_search.models import vggface
from petid_search.models.vggface import TOP_CLASSES, Network

NETWORKS: tuple[Network, ...] = ("vgg16", "resnet50", "senet50")
TOLERANCE = 1e-5  # of the largest value; float32 sums in another order differ by about 1e-6


@pytest.fixture(scope="module")
def original() -> Any:
    """The package keras_vggface, on tf-keras."""
    shim = Path(__file__).with_name("keras_vggface_shim.py")
    return runpy.run_path(str(shim))["import_keras_vggface"]()


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 224, 224, 3), dtype=np.float32)


@dataclass(frozen=True)
class Saved:
    """One network as the original package made and saved it."""

    file: Path
    parameters: int
    answer: np.ndarray
    """Of the whole network."""
    features: np.ndarray
    """Before the 7×7 average pool."""


def save_original(original: Any, name: Network, file: Path, photos: np.ndarray, *, top: bool) -> Saved:
    import tf_keras

    build = {"vgg16": "VGG16", "resnet50": "RESNET50", "senet50": "SENET50"}[name]
    model = getattr(original.models, build)(include_top=top, weights=None, input_shape=(224, 224, 3))
    give_random_weights(model)
    model.save_weights(str(file))
    last = model.get_layer("pool5").output if name == "vgg16" else model.get_layer("avg_pool").input
    answer, features = tf_keras.Model(model.input, [model.output, last])(photos)
    return Saved(file, model.count_params(), np.asarray(answer), np.asarray(features))


def give_random_weights(model: Any) -> None:
    """Such that activations neither die nor explode, and no two of a batch norm's four weights are alike."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        role, shape = variable.name.rsplit("/", 1)[-1].split(":")[0], variable.shape
        if role == "kernel":
            gain = 2 if len(shape) == 4 else 0.5  # the less for the top: softmax must not see one class alone
            value = rng.standard_normal(shape, dtype=np.float32) * np.sqrt(gain / np.prod(shape[:-1]))
        elif role == "gamma":
            value = rng.uniform(0.4, 0.9, shape)
        elif role == "moving_variance":
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.2, shape)
        variable.assign(value.astype(np.float32))


@pytest.fixture(scope="module", params=NETWORKS)
def saved(
    request: pytest.FixtureRequest, original: Any, photos: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Network, Saved]]:
    name = request.param
    file = tmp_path_factory.mktemp("vggface") / f"notop_{name}.h5"
    yield name, save_original(original, name, file, photos, top=False)
    file.unlink()


def create(name: Network, *, top_classes: int | None = None) -> keras.Model:
    inputs = keras.Input((224, 224, 3))
    return keras.Model(inputs, vggface.create_network(name, inputs, top_classes=top_classes))


def difference(answer: Any, expected: np.ndarray) -> float:
    """The largest, as a share of the largest value."""
    answer = np.asarray(answer)
    assert answer.shape == expected.shape
    return float(np.abs(answer - expected).max() / np.abs(expected).max())


def test_without_top_it_answers_as_the_original_does(saved, photos):
    name, original = saved
    assert original.features.std() > 0.1
    assert 1 < np.abs(original.features).max() < 100
    model = create(name)
    vggface.load_weights(model, original.file)
    features = model(photos)
    assert difference(features, original.features) < TOLERANCE
    pooled = np.asarray(features).mean(axis=(1, 2))
    assert difference(pooled, original.answer.mean(axis=(1, 2))) < TOLERANCE
    expected = {"vgg16": 14_714_688, "resnet50": 23_561_152, "senet50": 26_092_144}[name]
    assert model.count_params() == original.parameters == expected


def test_the_comparison_would_see_two_layers_exchanged(saved, photos):
    name, original = saved
    model = create(name)
    vggface.load_weights(model, original.file)
    pairs = {
        "vgg16": [("conv5_1", "conv5_2")],
        "resnet50": [("conv2_2_3x3_bn", "conv2_3_3x3_bn"), ("conv5_2_1x1_reduce", "conv5_3_1x1_reduce")],
        "senet50": [("conv2_2_1x1_up", "conv2_3_1x1_up"), ("conv4_2_3x3", "conv4_3_3x3")],
    }[name]
    for one, other in pairs:
        first, second = model.get_layer(one), model.get_layer(other)
        values = first.get_weights(), second.get_weights()
        first.set_weights(values[1])
        second.set_weights(values[0])
        assert difference(model(photos), original.features) > 100 * TOLERANCE
        first.set_weights(values[0])
        second.set_weights(values[1])


def test_the_comparison_would_see_another_epsilon(saved, photos):
    name, original = saved
    model = create(name)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if name == "vgg16":
        assert not norms
        pytest.skip("vgg16 has no batch norm")
    assert len(norms) == 53
    vggface.load_weights(model, original.file)
    for norm in norms:
        norm.epsilon = 1e-4 if name == "resnet50" else 1e-3
    assert difference(model(photos), original.features) > 100 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_with_top_it_answers_as_the_original_does(name, original, photos, tmp_path):
    with_top = save_original(original, name, tmp_path / "top.h5", photos, top=True)
    assert with_top.answer.max() < 0.5
    assert with_top.answer.std() > 1e-5
    model = create(name, top_classes=TOP_CLASSES[name])
    vggface.load_weights(model, with_top.file)
    assert difference(model(photos), with_top.answer) < 10 * TOLERANCE
    assert model.count_params() == with_top.parameters
    without = create(name)
    vggface.load_weights(without, with_top.file)
    assert difference(without(photos), with_top.features) < TOLERANCE
    with_top.file.unlink()


@pytest.mark.parametrize("name", NETWORKS)
def test_pixels_are_preprocessed_as_the_original_does(name, original):
    pixels = np.random.default_rng(2).uniform(0, 255, (2, 5, 7, 3)).astype(np.float32)
    inputs = keras.Input((5, 7, 3))
    model = keras.Model(inputs, vggface.preprocess(name, inputs))
    expected = original.utils.preprocess_input(pixels, "channels_last", version=1 if name == "vgg16" else 2)
    np.testing.assert_allclose(model(pixels), expected, atol=1e-4)


def test_a_network_can_be_stored_and_read_without_code_of_ours(tmp_path):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, vggface.create_network("senet50", vggface.preprocess("senet50", inputs)))
    file = tmp_path / "model.keras"
    model.save(file)
    pixels = np.random.default_rng(3).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(keras.models.load_model(file, safe_mode=True)(pixels), model(pixels))
    file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "senet50"])  # senet50 has every kind of layer that resnet50 has
def test_the_network_exported_to_onnx_answers_alike(name, tmp_path):
    import onnxruntime

    inputs = keras.Input((64, 64, 3))
    model = keras.Model(inputs, vggface.create_network(name, vggface.preprocess(name, inputs)))
    give_random_weights(model)
    pixels = np.random.default_rng(4).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
    expected = np.asarray(model(pixels))
    file = tmp_path / "model.onnx"
    model.export(file, format="onnx", opset_version=15, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: pixels})
    assert difference(answer, expected) < 10 * TOLERANCE
    file.unlink()


# What follows damages a file of the smallest network with batch norm and shows that it is refused whole.


@pytest.fixture(scope="module")
def resnet(original: Any, photos: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("vggface") / "resnet50.h5"
    yield save_original(original, "resnet50", file, photos, top=False).file
    file.unlink()


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return create("resnet50")


@pytest.fixture
def damaged(resnet: Path, tmp_path: Path) -> Iterator[Callable[[Callable[[h5py.File], None]], Path]]:
    """A copy of the file to which something was done."""
    copy = tmp_path / "copy.h5"

    def damage(do: Callable[[h5py.File], None]) -> Path:
        shutil.copy(resnet, copy)
        with h5py.File(copy, "r+") as file:
            do(file)
        return copy

    yield damage
    copy.unlink()


def refusal(model: keras.Model, file: Path) -> str:
    """The message with which a file is refused, after a check that nothing of it was loaded."""
    before = [variable.numpy() for variable in model.weights[:20]]
    with pytest.raises(ModelError) as error:
        vggface.load_weights(model, file)
    for old, variable in zip(before, model.weights, strict=False):
        np.testing.assert_array_equal(old, variable.numpy())
    message = str(error.value)
    assert "\n" not in message
    assert str(file) in message
    return message


def change_names(group: h5py.Group, attribute: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    group.attrs[attribute] = change(
        [item if isinstance(item, bytes) else item.encode() for item in group.attrs[attribute]]
    )


def add_layer(file: h5py.File, name: str, **weights: tuple[int, ...]) -> None:
    for weight, shape in weights.items():
        file.create_dataset(f"{name}/{name}/{weight}:0", shape=shape)
    file[name].attrs["weight_names"] = [f"{name}/{weight}:0".encode() for weight in weights]
    change_names(file, "layer_names", lambda names: [*names, name.encode()])


def test_the_file_of_another_network_is_refused_by_name(resnet):
    message = refusal(create("senet50"), resnet)
    assert "holds the weights of resnet50, not of senet50" in message
    assert "rcmalli_vggface_tf_notop_senet50.h5 or rcmalli_vggface_tf_senet50.h5" in message
    message = refusal(create("vgg16"), resnet)
    assert "holds the weights of resnet50, not of vgg16" in message


def test_a_file_without_top_is_refused_where_a_top_is_wanted(resnet):
    message = refusal(create("resnet50", top_classes=3), resnet)
    assert "holds no top (classifier)" in message
    assert "use rcmalli_vggface_tf_resnet50.h5 " in message


def test_the_top_of_a_file_is_left_aside_where_none_is_wanted(model, damaged):
    file = damaged(lambda file: add_layer(file, "classifier", kernel=(2048, 3), bias=(3,)))
    vggface.load_weights(model, file)
    model = create("resnet50", top_classes=3)
    vggface.load_weights(model, file)
    assert not model.get_layer("classifier").kernel.numpy().any()


def test_a_top_for_another_number_of_people_is_refused(damaged):
    file = damaged(lambda file: add_layer(file, "classifier", kernel=(2048, 3), bias=(3,)))
    message = refusal(create("resnet50", top_classes=4), file)
    assert "at layer classifier: it holds kernel 2048×3, bias 3 where kernel 2048×4, bias 4 is wanted" in message


def test_a_layer_too_many_is_refused(model, damaged):
    message = refusal(model, damaged(lambda file: add_layer(file, "conv6_1", kernel=(1, 1, 8, 8))))
    assert "unknown layers (conv6_1)" in message


def test_a_layer_that_is_missing_is_refused(model, damaged):
    def forget(file):
        change_names(file, "layer_names", lambda names: [name for name in names if name != b"conv4_3_3x3"])

    assert "lacks layers (conv4_3_3x3)" in refusal(model, damaged(forget))


def test_batch_norm_weights_in_another_order_are_refused(model, damaged):
    def exchange(file):
        change_names(file["conv3_2_3x3/bn"], "weight_names", lambda names: [names[1], names[0], *names[2:]])

    message = refusal(model, damaged(exchange))
    assert "at layer conv3_2_3x3_bn: it holds beta 128, gamma 128, moving_mean 128" in message


def test_a_weight_too_many_or_too_few_is_refused(model, damaged):
    def forget(file):
        change_names(file["conv3_2_3x3/bn"], "weight_names", lambda names: names[:3])

    assert "at layer conv3_2_3x3_bn" in refusal(model, damaged(forget))

    def double(file):
        change_names(file["conv3_2_3x3"], "weight_names", lambda names: [*names, *names])

    assert "at layer conv3_2_3x3:" in refusal(model, damaged(double))


def test_names_of_keras_1_are_taken_by_their_place(model, damaged):
    def rename(file):
        group = file["conv3_2_3x3"]
        value = np.full((3, 3, 128, 128), 7, np.float32)
        group.create_dataset("conv3_2_3x3_W_1:0", data=value)
        change_names(group, "weight_names", lambda _: [b"conv3_2_3x3_W_1:0"])

    vggface.load_weights(model, damaged(rename))
    assert np.all(model.get_layer("conv3_2_3x3").kernel.numpy() == 7)


def test_a_weight_that_is_not_there_is_refused(model, damaged):
    def delete(file):
        del file["conv5_3_3x3/conv5_3_3x3/kernel:0"]

    assert "is not a weight file of keras-vggface" in refusal(model, damaged(delete))


def test_weights_that_keras_3_saved_are_not_taken_for_the_original_format(model, tmp_path):
    file = tmp_path / "small.weights.h5"
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save_weights(file)
    assert "is not a weight file of keras-vggface" in refusal(model, file)


def test_what_is_not_hdf5_is_refused(model, tmp_path, resnet):
    page = tmp_path / "page.h5"
    page.write_text("<html>Not Found</html>")
    assert "give the original file of this network" in refusal(model, page)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(resnet.read_bytes()[:1_000_000])
    assert "truncated" in refusal(model, cut)
    assert "There is no weights file" in refusal(model, tmp_path / "none.h5")
    assert "cannot be read" in refusal(model, tmp_path)
