"""TensorBoard reads back what was logged, and a training taken up again is one training to it."""

import io
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_score, recall_score

from petid_search.models.backbones import import_keras

keras = import_keras()

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator  # noqa: E402
from tensorboard.plugins.hparams import metadata as hparams_metadata  # noqa: E402
from tensorboard.plugins.projector import ProjectorConfig  # noqa: E402
from tensorboard.util import tensor_util  # noqa: E402

from petid_search.train.tensorboard import TensorBoardLog  # noqa: E402


def read(folder, run):
    return EventAccumulator(str(folder / run), size_guidance={"tensors": 0}).Reload()


def series(accumulator, tag):
    """Steps and tensors under a tag."""
    events = accumulator.Tensors(tag)
    return [event.step for event in events], [tensor_util.make_ndarray(event.tensor_proto) for event in events]


def scalars(folder, run, tag):
    steps, values = series(read(folder, run), tag)
    assert len(set(steps)) == len(steps)
    return dict(zip(steps, (pytest.approx(float(value)) for value in values), strict=True))


def test_an_epochs_numbers_are_scalars_of_training_and_validation(tmp_path):
    with TensorBoardLog(tmp_path) as log:
        log.epoch(
            {"epoch": 0, "stage": "head", "loss": 2.0, "val_loss": 3.0, "rank_1": None, "accuracy": np.float32(0.5)}
        )
        log.epoch({"epoch": 1, "stage": "head", "loss": 1.0, "val_loss": 2.5, "rank_1": 0.25, "learning_rate": 1e-3})
    assert scalars(tmp_path, "train", "loss") == {0: 2.0, 1: 1.0}
    assert scalars(tmp_path, "train", "accuracy") == {0: 0.5}
    assert scalars(tmp_path, "train", "learning_rate") == {1: 1e-3}
    assert scalars(tmp_path, "validation", "loss") == {0: 3.0, 1: 2.5}
    assert scalars(tmp_path, "validation", "rank_1") == {1: 0.25}
    assert set(read(tmp_path, "train").Tags()["tensors"]) == {"loss", "accuracy", "learning_rate"}


def test_an_epoch_is_on_the_disk_before_the_log_is_closed(tmp_path):
    log = TensorBoardLog(tmp_path)
    log.epoch({"epoch": 0, "loss": 2.0})
    assert scalars(tmp_path, "train", "loss") == {0: 2.0}
    log.close()


def test_a_training_taken_up_again_forgets_what_the_broken_one_had_gone_beyond(tmp_path):
    with TensorBoardLog(tmp_path) as log:
        for number in range(5):
            log.epoch({"epoch": number, "loss": 10.0 + number, "mAP": 0.1 if number == 4 else None})
    before = {path: path.read_bytes() for path in tmp_path.rglob("events*")}
    time.sleep(1.0)  # TensorBoard orders event files by the second of their making
    with TensorBoardLog(tmp_path, first_epoch=3) as log:
        for number in range(3, 6):
            log.epoch({"epoch": number, "loss": 20.0 + number})
    assert {path: path.read_bytes() for path in before} == before
    assert scalars(tmp_path, "train", "loss") == {0: 10.0, 1: 11.0, 2: 12.0, 3: 23.0, 4: 24.0, 5: 25.0}
    assert scalars(tmp_path, "validation", "mAP") == {}


def softmax(classes=30, photos=400):
    rng = np.random.default_rng(0)
    labels = np.minimum(rng.geometric(0.15, photos) - 1, classes - 1)
    raised = rng.random((photos, classes))
    raised[np.arange(photos), labels] += rng.random(photos)
    scores = np.exp(6 * raised)
    return labels, (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def test_precision_recall_curves_are_those_of_scikit_learn(tmp_path):
    labels, scores = softmax()
    names = [f"dog {number}" for number in range(30)]
    with TensorBoardLog(tmp_path) as log:
        log.precision_recall(labels, scores, names, 7)
    accumulator = read(tmp_path, "validation")
    is_class = labels[:, np.newaxis] == np.arange(30)
    expected = {"all classes (micro)": (is_class.ravel(), scores.ravel())}
    expected |= {f"class/dog {place}": (is_class[:, place], scores[:, place]) for place in range(3)}
    for tag, (right, score) in expected.items():
        steps, [curve] = series(accumulator, f"{tag}/pr_curves")
        assert steps == [7]
        for place in (2, 20, 57, 100):
            # A threshold of n / 200; scores in between are told apart by the step that they are over.
            called = np.floor(score * 200) >= place
            assert curve[4][place] == pytest.approx(precision_score(right, called, zero_division=0), abs=1e-6)
            assert curve[5][place] == pytest.approx(recall_score(right, called), abs=1e-6)
            assert curve[0][place] == np.count_nonzero(right & called)


def test_the_twenty_classes_of_most_photos_have_curves(tmp_path):
    labels, scores = softmax()
    with TensorBoardLog(tmp_path) as log:
        log.precision_recall(labels, scores, [str(number) for number in range(30)], 0)
    tags = {tag.removesuffix("/pr_curves") for tag in read(tmp_path, "validation").Tags()["tensors"]}
    support = np.bincount(labels, minlength=30)
    shown = {int(tag.removeprefix("class/")) for tag in tags - {"all classes (micro)"}}
    assert len(shown) == 20
    assert min(support[list(shown)]) >= max(support[place] for place in range(30) if place not in shown)


def test_a_class_without_photos_has_no_curve_and_names_may_be_anything(tmp_path):
    scores = np.array([[0.9, 0.1, 0.0], [1.0000001, 0.0, 0.0]], np.float32)
    with TensorBoardLog(tmp_path) as log:
        log.precision_recall(np.array([0, 1]), scores, ["caf\udce9", "a/b\n犬", "none"], 0)
    tags = set(read(tmp_path, "validation").Tags()["tensors"])
    assert tags == {"all classes (micro)/pr_curves", "class/caf\\udce9/pr_curves", "class/a/b\n犬/pr_curves"}


def create_network():
    pixels = keras.Input((8, 8, 3), name="pixels")
    features = keras.layers.Conv2D(4, 3, name="convolution")(pixels)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(features)
    embedding = keras.layers.Dense(3, name="projection")(pooled) * keras.ops.rsqrt(
        keras.ops.maximum(pooled[:, :1], 1e-3)
    )
    frozen = keras.layers.Dense(2, name="frozen", trainable=False)(embedding)
    return keras.Model(pixels, {"embedding": embedding, "features": features, "scores": frozen})


def test_the_graph_shows_which_layer_takes_what_from_which(tmp_path):
    with TensorBoardLog(tmp_path) as log:
        log.graph(create_network())
    nodes = {node.name: node for node in read(tmp_path, "train").Graph().node}
    assert nodes["convolution"].op == "Conv2D"
    assert list(nodes["convolution"].input) == ["pixels"]
    assert list(nodes["pooled"].input) == ["convolution"]
    [product] = [node for node in nodes.values() if node.op == "Multiply"]
    assert list(product.input) == ["projection", next(name for name, node in nodes.items() if node.op == "Rsqrt")]
    assert list(nodes["frozen"].input) == [product.name]


def test_histograms_are_of_the_weights_that_are_trained(tmp_path):
    model = create_network()
    layer = model.get_layer("convolution")
    kernel = np.linspace(-1, 1, 3 * 3 * 3 * 4).reshape(3, 3, 3, 4)
    kernel[0, 0, 0, 0] = np.inf
    layer.set_weights([kernel, np.zeros(4)])
    with TensorBoardLog(tmp_path) as log:
        log.weights(model, 3)
    accumulator = read(tmp_path, "train")
    assert set(accumulator.Tags()["tensors"]) == {
        f"weights/{layer}/{weight}" for layer in ("convolution", "projection") for weight in ("kernel", "bias")
    }
    steps, [histogram] = series(accumulator, "weights/convolution/kernel")
    assert steps == [3]
    assert histogram[:, 2].sum() == kernel.size - 1
    assert histogram[-1, 1] == pytest.approx(1.0)
    inside = (kernel >= histogram[5, 0]) & (kernel < histogram[5, 1])
    assert histogram[5, 2] == np.count_nonzero(inside)


def test_pictures_are_given_as_arrays_or_png(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    png = io.BytesIO()
    Image.fromarray(picture[:4]).save(png, "PNG")
    with TensorBoardLog(tmp_path) as log:
        log.image("augmented", picture, 0)
        log.image("confusion matrix", png.getvalue(), 4, run="validation")
    _, [[width, height, first]] = series(read(tmp_path, "train"), "augmented")
    assert (width, height) == (b"9", b"6")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(first))), picture)
    steps, [[width, height, second]] = series(read(tmp_path, "validation"), "confusion matrix")
    assert (steps, width, height) == ([4], b"9", b"4")
    assert second == png.getvalue()


def test_hyperparameters_keep_their_kinds(tmp_path):
    values = {"rate": 0.1, "epochs": 3, "augment": True, "loss": "arcface", "dense": (512, 256), "margin": None}
    with TensorBoardLog(tmp_path) as log:
        log.hyperparameters(values)
    tag = hparams_metadata.SESSION_START_INFO_TAG
    written = read(tmp_path, "train").SummaryMetadata(tag).plugin_data.content
    told = hparams_metadata.parse_session_start_info_plugin_data(written).hparams
    assert (told["rate"].number_value, told["epochs"].number_value) == (0.1, 3)
    assert told["augment"].bool_value is True
    assert (told["loss"].string_value, told["dense"].string_value) == ("arcface", "(512, 256)")
    assert set(told) == set(values) - {"margin"}


def test_the_projector_finds_embeddings_labels_and_thumbnails(tmp_path):
    from google.protobuf import text_format

    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(7, 4)).astype(np.float32)
    thumbnails = rng.integers(0, 256, (7, 5, 6, 3), np.uint8)
    labels = ["Rex", "a\tb\nc", "", "犬", "caf\udce9", "Rex", "Max"]
    with TensorBoardLog(tmp_path) as log:
        log.embeddings(embeddings + 1, labels)
        log.embeddings(embeddings, labels, thumbnails)
    folder = tmp_path / "validation"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    [told] = config.embeddings
    np.testing.assert_allclose(np.loadtxt(folder / told.tensor_path, delimiter="\t"), embeddings, atol=1e-5)
    assert list(told.tensor_shape) == [7, 4]
    lines = (folder / told.metadata_path).read_text(encoding="utf-8").split("\n")
    assert lines == ["Rex", "a b c", "-", "犬", "caf\\udce9", "Rex", "Max", ""]
    assert list(told.sprite.single_image_dim) == [6, 5]
    sheet = np.asarray(Image.open(folder / told.sprite.image_path))
    assert sheet.shape == (15, 18, 3)
    for place, thumbnail in enumerate(thumbnails):
        row, column = divmod(place, 3)
        np.testing.assert_array_equal(sheet[5 * row : 5 * row + 5, 6 * column : 6 * column + 6], thumbnail)


def test_more_thumbnails_than_a_browser_takes_are_left_out(tmp_path):
    with TensorBoardLog(tmp_path) as log:
        log.embeddings(np.zeros((5, 2)), list("abcde"), np.zeros((5, 8, 2731, 3), np.uint8))
    assert "sprite" not in (tmp_path / "validation" / "projector_config.pbtxt").read_text()


def test_embeddings_without_a_label_each_are_refused(tmp_path):
    with TensorBoardLog(tmp_path) as log, pytest.raises(ValueError, match="a label each"):
        log.embeddings(np.zeros((3, 2)), ["a"])
