"""Every backbone keeps the registry's contract, and takes the weight files that people have."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from petid_search.errors import ModelError
from petid_search.models.backbones import BACKBONES, PREPROCESSED, create_backbone, import_keras

SHARED = Path(__file__).parents[2] / "shared"
FOLDED = SHARED / "weights" / "mobilenetv2-imagenet" / "mobilenetv2_imagenet.npz"
needs_weights = pytest.mark.skipif(not FOLDED.exists(), reason="shared/weights is not here")

keras = import_keras()

FAMILY_MODULES = {
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "ResNet50": "resnet",
    "InceptionV3": "inception_v3",
    "InceptionResNetV2": "inception_resnet_v2",
    "Xception": "xception",
    "DenseNet121": "densenet",
    "DenseNet169": "densenet",
    "DenseNet201": "densenet",
    "MobileNetV2": "mobilenet_v2",
    "EfficientNetV2B0": "efficientnet_v2",
    "EfficientNetV2S": "efficientnet_v2",
    "ConvNeXtTiny": "convnext",
}
VGGFACE_MEANS = {  # blue, green, red; from keras_vggface.utils.preprocess_input
    "vggface-1": (93.5940, 104.7624, 129.1863),
    "vggface-2": (91.4953, 103.8827, 131.0912),
}


def random_pixels(size, n=2):
    return np.random.default_rng(7).uniform(0, 255, (n, size, size, 3)).astype(np.float32)


def preprocessed_by_family(backbone, pixels):
    """What the family's own preprocess_input makes of RGB in [0, 255]."""
    if backbone.family == "vggface":
        return pixels[..., ::-1] - np.float32(VGGFACE_MEANS[backbone.preprocessing])
    family = import_module(f"keras.applications.{FAMILY_MODULES[backbone.constructor]}")
    return family.preprocess_input(pixels.copy())


def entering_tensor(backbone, model):
    """What goes into the network proper."""
    if backbone.family == "vggface":
        return next(layer.output for layer in model.layers if isinstance(layer, keras.layers.Rescaling))
    return model.get_layer(PREPROCESSED).output


def distance(a, b):
    """Largest difference of two arrays, as a share of the largest number in them."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_every_backbone_keeps_the_contract(backbone):
    keras.backend.clear_session()  # or the networks of all rows stay in memory
    pixels = random_pixels(backbone.smallest)
    model = create_backbone(backbone.name, size=backbone.smallest)

    features = np.asarray(model(pixels, training=False))
    assert features.ndim == 4
    assert features.shape[0] == 2
    assert features.shape[-1] == backbone.channels
    assert features.dtype == np.float32
    assert np.isfinite(features).all()

    entering = entering_tensor(backbone, model)
    # Nothing goes round it: Keras refuses a model whose output depends on more than its input.
    keras.Model(entering, model.output)
    if not backbone.constructor.startswith(("EfficientNet", "ConvNeXt")):
        received = keras.Model(model.input, entering)(pixels)
        np.testing.assert_allclose(received, preprocessed_by_family(backbone, pixels), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("efficientnetv2-b0", ".weights.h5"),
        ("efficientnetv2-b0", ".h5"),
        ("efficientnetv2-s", ".h5"),
        ("convnext-tiny", ".weights.h5"),
        ("convnext-tiny", ".h5"),
    ],
)
def test_preprocessing_that_keras_keeps_inside_is_done_as_there(tmp_path, name, suffix):
    """Their `preprocess_input` does nothing: the network as a whole is compared, through files of weights."""
    keras.backend.clear_session()
    pixels = random_pixels(32)
    original = getattr(keras.applications, BACKBONES[name].constructor)(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    for layer in original.layers:
        if type(layer).__name__ == "LayerScale":  # a fresh one is 1e-6: nothing in its block would be seen
            layer.set_weights([np.full(weight.shape, 0.5) for weight in layer.get_weights()])
    file = tmp_path / f"original{suffix}"
    original.save_weights(file) if suffix == ".weights.h5" else original.save(file)
    model = create_backbone(name, size=32, weights=file)
    np.testing.assert_array_equal(preprocessed_by_family(BACKBONES[name], pixels), pixels)
    assert distance(model(pixels, training=False), original(pixels, training=False)) < 1e-4


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_every_backbone_says_where_its_weights_come_from(backbone):
    assert BACKBONES[backbone.name] is backbone
    assert any(kind in backbone.source for kind in ("arXiv:", "doi:"))
    assert backbone.weights_origin
    assert backbone.weights_licence
    assert backbone.weights_data
    assert backbone.size >= 224
    assert backbone.smallest <= backbone.size


@pytest.mark.parametrize("backbone", [b for b in BACKBONES.values() if b.family == "keras"], ids=lambda b: b.name)
def test_the_size_of_an_entry_is_the_one_that_keras_trained_it_on(backbone):
    constructor = getattr(keras.applications, backbone.constructor)
    with pytest.raises(ValueError, match=rf"\({backbone.size}, {backbone.size}, 3\)"):
        constructor(weights="imagenet", input_shape=(backbone.size + 1, backbone.size + 1, 3))


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all():
    with pytest.raises(ModelError, match=r"Did you mean 'mobilenetv2'\?") as raised:
        create_backbone("MobileNet-V2")
    assert all(name in str(raised.value) for name in BACKBONES)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["xception", "inceptionv3", "mobilenetv2", "vggface-resnet50"])
def test_an_image_too_small_for_the_network_is_refused(name):
    with pytest.raises(ModelError, match=f"at least {BACKBONES[name].smallest} px"):
        create_backbone(name, size=BACKBONES[name].smallest - 1)


@pytest.mark.parametrize(("name", "constructor"), [("mobilenetv2", "MobileNetV2"), ("vgg16", "VGG16")])
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_weight_files_of_keras_applications_are_taken(tmp_path, name, constructor, suffix):
    pixels = random_pixels(64)
    original = getattr(keras.applications, constructor)(include_top=False, weights=None, input_shape=(64, 64, 3))
    original.set_weights([np.random.default_rng(1).uniform(0, 0.1, w.shape) for w in original.get_weights()])
    file = tmp_path / f"original{suffix}"
    if suffix == ".weights.h5":
        original.save_weights(file)
    else:
        original.save(file)  # the older format, which the published *_notop.h5 are in
    expected = original(preprocessed_by_family(BACKBONES[name], pixels), training=False)
    assert distance(create_backbone(name, size=64, weights=file)(pixels, training=False), expected) < 1e-4


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_weights_of_another_network_are_refused(tmp_path, suffix):
    other = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    file = tmp_path / f"other{suffix}"
    other.save_weights(file) if suffix == ".weights.h5" else other.save(file)
    with pytest.raises(ModelError, match="does not hold weights of vgg19") as raised:
        create_backbone("vgg19", size=32, weights=file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["mobilenetv2", "vgg16", "vggface-vgg16"])
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".npz", ".txt"])
def test_a_file_that_holds_no_weights_is_refused_in_one_line(tmp_path, name, suffix):
    file = tmp_path / f"notes{suffix}"
    file.write_bytes(b"to do: find the weights\n" * 9)
    with pytest.raises(ModelError) as raised:
        create_backbone(name, size=32, weights=file)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_weights_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"There is no file of weights .*lost\.h5"):
        create_backbone("mobilenetv2", weights=tmp_path / "lost.h5")


def test_a_download_that_fails_names_the_way_without_a_network(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))  # nothing was downloaded yet
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ModelError, match=r"--weights FILE") as raised:
        create_backbone("mobilenetv2", weights="download")
    assert "refused" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().out == ""  # Keras would tell of its progress there


def folded(**changes):
    """The arrays of the real folded file, some of them replaced (None: left out)."""
    with np.load(FOLDED, allow_pickle=False) as arrays:
        values = {name: arrays[name] for name in arrays.files} | changes
    return {name: value for name, value in values.items() if value is not None}


@needs_weights
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"017_conv_w": None}, "017_conv_w"),
        ({"017_conv_b": np.zeros(31, np.float32)}, "Convolution 017"),
        ({"017_conv_meta": np.array([2, 1, 0])}, "Convolution 017"),
        ({"017_conv_meta": np.array([1, 1, 1])}, "Convolution 017"),
        ({"016_dw_meta": np.array([1, 1, 1])}, "Convolution 016"),
        ({"017_conv_w": np.zeros((32, 192, 3, 3), np.float32)}, "Convolution 017"),
        ({"017_conv_w": np.zeros((32, 192), np.float32)}, "017_conv"),
        ({"017_conv_w": np.full((32, 192, 1, 1), np.nan, np.float32)}, "not finite"),
        ({"017_conv_b": np.zeros(32)}, "float32"),
        ({"017_conv_b": np.array([{}] * 32)}, "allow_pickle"),
        ({"053_conv_w": np.zeros(1, np.float32)}, "053_conv_b"),
        ({f"{n:03}_{k}_{p}": None for n in range(30, 53) for k in ("conv", "dw") for p in ("w", "b", "meta")}, "30"),
    ],
)
def test_a_folded_file_that_differs_anywhere_is_refused(tmp_path, changes, reason):
    file = tmp_path / "changed.npz"
    np.savez(file, **folded(**changes))
    with pytest.raises(ModelError, match=reason) as raised:
        create_backbone("mobilenetv2", size=32, weights=file)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_weights
def test_a_folded_file_is_taken_without_its_classifier(tmp_path):
    file = tmp_path / "notop.npz"
    np.savez(file, **folded(**{f"052_conv_{part}": None for part in ("w", "b", "meta")}))
    pixels = random_pixels(96)
    features = create_backbone("mobilenetv2", size=96, weights=file)(pixels)
    assert distance(features, create_backbone("mobilenetv2", size=96, weights=FOLDED)(pixels)) == 0


def test_importing_the_registry_imports_no_network_library():
    code = (
        "import sys, petid_search.models.backbones\n"
        "sys.exit(', '.join({'tensorflow', 'keras', 'onnxruntime', 'onnx', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_keras_comes_on_tensorflow_whatever_else_is_set_and_without_a_word():
    code = "from petid_search.models.backbones import import_keras; print(import_keras().backend.backend())"
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("tensorflow\n", "")


def test_keras_that_no_network_here_can_use_is_refused(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(ModelError, match="runs on jax"):
            create_backbone("mobilenetv2")
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ModelError, match="channels_last"):
            create_backbone("mobilenetv2")
    finally:
        keras.config.set_image_data_format("channels_last")
