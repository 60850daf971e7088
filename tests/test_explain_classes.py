"""Which class, and where: the maps are those of plain automatic differentiation, for any class, head and backbone."""

import json

import numpy as np
import pytest
from conftest import draw_animal
from PIL import Image

from petid_search.embed import Unreadable
from petid_search.errors import ModelError, PhotoError
from petid_search.explain import ClassExplainer, draw, maps_of
from petid_search.explain.classifier import LinearClassifier, has_closed_form, read_classifier
from petid_search.explain.maps import cam_by_gradient, hires_cam
from petid_search.images import FIT
from petid_search.models.architecture import Classifier, Head
from petid_search.models.backbones import create_backbone, import_keras
from petid_search.models.gradients import Differentiable
from petid_search.models.linear_head import LinearHead
from petid_search.models.runtime import Embedder

NAMES = ("Rex", "Max", "Шарик")
FAMILIES = (
    *("vggface-vgg16", "vggface-resnet50", "vggface-senet50", "vgg16", "resnet50", "inceptionv3", "xception"),
    *("inceptionresnetv2", "densenet121", "mobilenetv2", "efficientnetv2-b0", "convnext-tiny"),
)
QUICK = ("mobilenetv2",)
"""Networks that are built and differentiated within a few seconds."""
families = pytest.mark.parametrize(
    "family", [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in FAMILIES]
)


def plain_maps(model, image, classifier, layer=None, *, averaged=False):
    """HiResCAM by the book: each class's score differentiated by the feature map, times the map.

    Averaged over the places first, it is Grad-CAM (eq. 1 and 2), which behind average pooling is the same.
    """
    keras = import_keras()
    import tensorflow as tf

    maps = model.output["features"] if layer is None else model.get_layer(layer).output
    is_cosine = classifier.kind == "cosine"
    last = model.get_layer("unit_length").input if is_cosine else model.get_layer("classifier").output
    network = keras.Model(model.input, [maps, last])
    drawn = []
    for number in range(len(NAMES)):
        pixels = tf.constant(image[None].astype(np.float32))
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            features, vector = network(pixels, training=False)
            score = vector[0, number]
            if is_cosine:
                kernel = model.get_layer("cosines").kernel
                directions = kernel / tf.norm(kernel, axis=0)
                own = directions[:, number * classifier.centres : (number + 1) * classifier.centres]
                score = tf.reduce_max(tf.linalg.matvec(own, vector[0], transpose_a=True)) / tf.stop_gradient(
                    tf.norm(vector[0])
                )
        gradient = tape.gradient(score, features)[0].numpy()
        weights = gradient.mean((0, 1)) if averaged else gradient
        drawn.append((features[0].numpy() * weights).sum(-1))
    return drawn


def assert_same(drawn, expected):
    """Relative to the highest value of the maps, and not all of them flat."""
    highest = max(one.max() for one in expected)
    assert highest > 0
    for one, other in zip(drawn, expected, strict=True):
        assert np.abs(one - other).max() / highest < 1e-4


def with_random_head(model, seed=0):
    """Weights that no initialiser would give, biases among them: a forgotten one shall show."""
    rng = np.random.default_rng(seed)
    for name in ("projection", "classifier", "cosines"):
        for layer in model.layers:
            if layer.name == name:
                layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    return model


@families
def test_class_and_similarity_maps_are_those_of_automatic_differentiation(family):
    keras = import_keras()
    from petid_search.models.heads import create_model

    keras.utils.set_random_seed(3)
    backbone = create_backbone(family, size=96 if family != "vggface-senet50" else 197)
    size = backbone.input_shape[1]
    image, other = draw_animal(1, 1, size // 4 * 4), draw_animal(2, 1, size // 4 * 4)
    image, other = (np.asarray(Image.fromarray(one).resize((size, size))) for one in (image, other))

    softmax = Classifier()
    model = with_random_head(create_model(backbone, Head(classifier=softmax), len(NAMES)))
    answers = model(np.stack([image, other]).astype(np.float32))
    features, embeddings = answers["features"].numpy(), answers["embedding"].numpy()
    linear = LinearClassifier(model.get_layer("classifier").kernel.numpy(), 1, LinearHead("avg"), False)
    drawn = [linear.explain(features[0], embeddings[0], number) for number in range(3)]
    assert_same(drawn, plain_maps(model, image, softmax))
    assert_same(drawn, plain_maps(model, image, softmax, averaged=True))

    cosine = Classifier(kind="cosine", centres=2)
    model = with_random_head(create_model(backbone, Head(projection=8, classifier=cosine), len(NAMES)))
    embedding = model(image[None].astype(np.float32))["embedding"][0].numpy()
    kernel = model.get_layer("cosines").kernel.numpy()
    head = LinearHead("avg", *(one.numpy() for one in model.get_layer("projection").weights))
    linear = LinearClassifier(kernel / np.linalg.norm(kernel, axis=0), 2, head, True)
    drawn = [linear.explain(features[0], embedding, number) for number in range(3)]
    assert_same(drawn, plain_maps(model, image, cosine))

    import tensorflow as tf

    maps = tf.constant(features[:1])
    with tf.GradientTape() as tape:
        tape.watch(maps)
        vector = tf.reduce_mean(maps[0], (0, 1))
        similarity = tf.tensordot(vector, embeddings[1], 1) / tf.stop_gradient(tf.norm(vector))
    weights = tape.gradient(similarity, maps)[0].numpy().mean((0, 1))
    assert_same([hires_cam(features[0], embeddings[1], LinearHead("avg"))], [features[0] @ weights])


def write_bundle_of(folder, backbone, head, network):
    """A real bundle with random weights; its model in Keras, too."""
    keras = import_keras()
    from petid_search.models.bundle import write_bundle
    from petid_search.models.heads import create_model

    keras.utils.set_random_seed(4)
    model = with_random_head(create_model(network(), head, len(NAMES)))
    about = {"fit": FIT, "origin": "drawn", "licence": "CC0-1.0", "data": "none", "classes": NAMES}
    bundle = write_bundle(model, folder / "models" / "drawn", name="drawn", backbone=backbone, head=head, **about)
    return bundle, model


def tiny_network():
    keras = import_keras()
    pixels = keras.Input((64, 64, 3))
    lower = keras.layers.Conv2D(8, 5, strides=5, activation="relu", name="lower")
    upper = keras.layers.Conv2D(16, 3, activation="relu", name="upper")
    return keras.Model(pixels, upper(lower(keras.layers.Rescaling(1 / 127.5, -1)(pixels))))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Makes a bundle of a network of two layers, which no registry knows but this one."""
    monkeypatch.setattr("petid_search.models.bundle.create_backbone", lambda *_, **__: tiny_network())
    return lambda head: write_bundle_of(tmp_path, "tiny", head, tiny_network)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(draw_animal(5, 1, 64)).save(tmp_path / "found.png")
    return tmp_path / "found.png"


def in_order(explanation):
    """The maps of the photo itself, the view in the middle of nine."""
    return [9 * explanation.maps[name][1::3, 1::3] for name in NAMES]


@pytest.mark.parametrize("layer", [None, "lower"])
def test_a_head_without_closed_form_is_differentiated_by_any_layer(tiny, photo, layer):
    head = Head(classifier=Classifier(flatten=True, dense=(6,), activation="tanh"))
    bundle, model = tiny(head)
    assert not has_closed_form(head)
    explanation = ClassExplainer(Embedder(bundle), layer=layer).explain(photo)
    assert_same(in_order(explanation), plain_maps(model, draw_animal(5, 1, 64), head.classifier, layer))
    assert explanation.layer == layer
    assert draw(explanation).width > 1000


def test_a_layer_that_is_not_there_is_refused_and_others_named(tiny):
    bundle, _ = tiny(Head(classifier=Classifier()))
    with pytest.raises(ModelError, match=r"no layer 'nowhere' .* lower, upper"):
        ClassExplainer(Embedder(bundle), layer="nowhere")
    with pytest.raises(ModelError, match="no layer 'classifier' with a feature map"):
        ClassExplainer(Embedder(bundle), layer="classifier")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vggface-vgg16", "vggface-resnet50", "mobilenetv2", "densenet121", "convnext-tiny"])
def test_a_dense_classifier_of_any_family_is_differentiated(family, tmp_path, photo):
    head = Head(classifier=Classifier(dense=(5,)))
    bundle, model = write_bundle_of(tmp_path, family, head, lambda: create_backbone(family, size=64))
    assert_same(
        in_order(ClassExplainer(Embedder(bundle)).explain(photo)),
        plain_maps(model, draw_animal(5, 1, 64), head.classifier),
    )


@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
def test_the_last_layer_is_read_from_the_weights_as_keras_reads_it(tiny, photo, pooling):
    head = Head(classifier=Classifier(dropout=0.5, output_activation="sigmoid"), pooling=pooling)
    bundle, model = tiny(head)
    linear = read_classifier(Embedder(bundle))
    np.testing.assert_array_equal(linear.kernel, model.get_layer("classifier").kernel.numpy())
    explanation = ClassExplainer(Embedder(bundle)).explain(photo)
    assert_same(in_order(explanation), plain_maps(model, draw_animal(5, 1, 64), head.classifier))
    by_layer = ClassExplainer(Embedder(bundle), layer="upper").explain(photo)
    assert_same(in_order(by_layer), in_order(explanation))


def test_cosines_and_similarities_are_differentiated_by_a_layer_as_in_closed_form(tiny, photo):
    bundle, _ = tiny(Head(projection=8, classifier=Classifier(kind="cosine", centres=2)))
    embedder = Embedder(bundle)
    closed = ClassExplainer(embedder).explain(photo)
    by_layer = ClassExplainer(embedder, layer="upper").explain(photo)
    assert_same(in_order(by_layer), in_order(closed))
    assert list(closed.scores) == sorted(closed.scores, key=closed.scores.get, reverse=True)

    image, other = draw_animal(5, 1, 64), draw_animal(6, 1, 64)
    embeddings, features = embedder.features(np.stack([image, other]))
    maps, gradients = Differentiable(bundle).by_similarity(image[None], embeddings[1:])
    by_gradient = cam_by_gradient(maps[0], gradients[0])
    assert_same([hires_cam(features[0], embeddings[1], embedder.head())], [by_gradient])


def test_the_best_class_stands_beside_those_asked_for(five, take_photo):
    photo = take_photo(7, 99)
    assert next(iter(ClassExplainer(five).explain(photo).scores)) == "7"
    assert len(ClassExplainer(five).explain(photo).scores) == 3
    explanation = ClassExplainer(five, ["4", "6"]).explain(photo)
    assert list(explanation.scores) == ["7", "4", "6"]
    assert list(ClassExplainer(five, ["7"]).explain(photo).scores) == ["7"]
    assert explanation.scores["7"] > explanation.scores["4"]
    assert maps_of(explanation)["maps"].shape == (3, 12, 12)
    assert list(maps_of(explanation)["classes"]) == ["7", "4", "6"]
    assert 0 <= explanation.border_share <= 1


def test_whom_no_model_was_trained_on_cannot_be_explained(five, embedder, take_photo, tmp_path):
    with pytest.raises(ModelError, match="'nobody'"):
        ClassExplainer(five, ["nobody"])
    with pytest.raises(ModelError, match="no classifier"):
        ClassExplainer(embedder)
    with pytest.raises(PhotoError, match="There is no photo"):
        ClassExplainer(five).explain(tmp_path / "gone.jpg")
    first, second = ClassExplainer(five).explain_photos([tmp_path / "gone.jpg", take_photo(7, 99)])
    assert isinstance(first, Unreadable)
    assert next(iter(second.scores)) == "7"


def test_petid_explain_asks_a_classifier_without_any_gallery(classifier_home, petid, take_photo, tmp_path):
    photo = take_photo(7, 99, "found.png")
    done = petid("explain", photo, "--class", "4", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (list(told["scores"]), told["model"], told["picture"]) == (["7", "4"], "five", "found-explained.png")
    assert (tmp_path / "found-explained.png").exists()
    said = petid("explain", photo, "--model", "five", "--output", "why.png").stdout
    assert said.startswith(f"{photo}: classes of five")
    assert "Drawn to why.png" in said
