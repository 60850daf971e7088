"""Heads turn feature maps into embeddings and scores, whatever the policy, and are told in words that are checked."""

import json

import keras
import numpy as np
import pytest

from petid_search.errors import ModelError, RecipeError
from petid_search.models.architecture import Classifier, Head
from petid_search.models.heads import (
    CosineClassifier,
    GeneralisedMeanPooling2D,
    copy_weights,
    create_head,
    create_model,
)

MAPS = np.random.default_rng(0).normal(1, 1, (4, 5, 5, 12)).astype(np.float32)
DEEP = Classifier(dense=(8, 6), activation="gelu", dropout=0.5, batch_norm=True)


def identity():
    pixels = keras.Input((5, 5, 12))
    return keras.Model(pixels, keras.layers.Identity()(pixels))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def names(model):
    return [layer.name for layer in model.layers][2:]  # but for the input and the backbone


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("avg", MAPS.mean((1, 2))),
        ("max", MAPS.max((1, 2))),
        ("gem", (np.maximum(MAPS, 1e-6).astype(float) ** 3).mean((1, 2)) ** (1 / 3)),
    ],
)
def test_the_embedding_is_the_pooled_vector_at_unit_length(pooling, pooled):
    answers = create_model(identity(), Head(pooling=pooling))(MAPS)
    assert answers.keys() == {"embedding", "features"}
    np.testing.assert_allclose(answers["embedding"], unit(pooled), atol=1e-6)
    np.testing.assert_array_equal(answers["features"], MAPS)


def test_gem_lies_between_mean_and_maximum_and_has_a_gradient_where_all_is_zero():
    import tensorflow as tf

    means = [np.asarray(GeneralisedMeanPooling2D(p)(np.abs(MAPS))) for p in (1.0, 3.0, 6.0)]
    np.testing.assert_allclose(means[0], np.abs(MAPS).mean((1, 2)), rtol=1e-5)
    assert (np.diff(np.stack([*means, np.abs(MAPS).max((1, 2))]), axis=0) > 0).all()
    nothing = tf.zeros((1, 5, 5, 12))
    with tf.GradientTape() as tape:
        tape.watch(nothing)
        total = tf.reduce_sum(GeneralisedMeanPooling2D()(nothing))
    assert np.isfinite(tape.gradient(total, nothing)).all()
    with pytest.raises(ValueError, match="at least 1"):
        GeneralisedMeanPooling2D(0.5)


def test_a_softmax_classifier_stands_on_the_pooled_vector_beside_the_embedding():
    model = create_model(identity(), Head(projection=7, classifier=Classifier(dense=(9,), activation="tanh")), 3)
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    answers, pooled = model(MAPS), MAPS.mean((1, 2))
    hidden = np.tanh(pooled @ weights["dense_1"][0])
    np.testing.assert_allclose(answers["scores"], softmax(hidden @ weights["classifier"][0]), atol=1e-6)
    np.testing.assert_allclose(answers["embedding"], unit(pooled @ weights["projection"][0]), atol=1e-6)


def test_a_flattening_classifier_sees_every_place_while_the_embedding_is_pooled():
    model = create_model(identity(), Head(classifier=Classifier(flatten=True)), 3)
    kernel = model.get_layer("classifier").get_weights()[0]
    assert kernel.shape == (300, 3)
    answers = model(MAPS)
    np.testing.assert_allclose(answers["scores"], softmax(MAPS.reshape(4, -1) @ kernel), atol=1e-5)
    np.testing.assert_allclose(answers["embedding"], unit(MAPS.mean((1, 2))), atol=1e-6)


def test_a_cosine_classifier_scores_by_the_nearest_of_an_individuals_centres():
    head = Head(projection=7, classifier=Classifier(kind="cosine", scale=12.0, centres=3))
    model = create_model(identity(), head, 5)
    embeddings = np.asarray(model(MAPS)["embedding"])
    kernel = model.get_layer("cosines").get_weights()[0]
    expected = np.empty((4, 5))
    for photo in range(4):
        for one in range(5):
            centres = [unit(kernel[:, 3 * one + centre]) for centre in range(3)]
            expected[photo, one] = max(float(centre @ embeddings[photo]) for centre in centres)
    cosines = keras.Model(model.input, model.get_layer("cosines").output)(MAPS)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    np.testing.assert_allclose(model(MAPS)["scores"], softmax(12 * expected), atol=1e-5)
    one = CosineClassifier(5)
    assert one(embeddings).shape == (4, 5)


def test_layers_have_fixed_names_in_their_order():
    model = create_model(identity(), Head(projection=4, classifier=DEEP), 3)
    stack = [f"dense_{number}{what}" for number in (1, 2) for what in ("", "_bn", "_activation", "_dropout")]
    assert set(names(model)) == {"pooled", "projection", "unit_length", *stack, "classifier", "scores"}
    assert [name for name in names(model) if name.startswith("dense")] == stack
    dropped = create_model(identity(), Head(classifier=Classifier(dropout=0.2, flatten=True)), 3)
    assert {"flattened", "dropout", "classifier"} < set(names(dropped))
    cosine = create_model(identity(), Head(classifier=Classifier(kind="cosine")), 3)
    assert names(cosine) == ["pooled", "unit_length", "cosines", "scaled", "scores"]


def test_dropout_is_for_training_only():
    model = create_model(identity(), Head(classifier=Classifier(dropout=0.5)), 3)
    first, again = model(MAPS, training=False)["scores"], model(MAPS, training=False)["scores"]
    np.testing.assert_array_equal(first, again)
    assert np.abs(model(MAPS, training=True)["scores"] - first).max() > 1e-3


@pytest.mark.parametrize("classifier", [DEEP, Classifier(flatten=True), Classifier(kind="cosine", centres=2)])
def test_a_head_trained_on_kept_features_is_the_one_on_the_backbone(classifier):
    head = Head(pooling="gem", projection=7, classifier=classifier)
    alone, whole = create_head(head, 3, (5, 5, 12)), create_model(identity(), head, 3)
    copy_weights(alone, whole)
    for output in ("embedding", "scores"):
        np.testing.assert_allclose(alone(MAPS)[output], whole(MAPS)[output], atol=1e-6)


def test_a_head_on_pooled_features_needs_no_map():
    head = Head(projection=7, classifier=DEEP)
    alone, whole = create_head(head, 3, (12,)), create_model(identity(), head, 3)
    copy_weights(alone, whole)
    np.testing.assert_allclose(alone(MAPS.mean((1, 2)))["scores"], whole(MAPS)["scores"], atol=1e-6)
    with pytest.raises(ValueError, match="flattened"):
        create_head(Head(classifier=Classifier(flatten=True)), 3, (12,))


def test_weights_that_fit_nowhere_are_not_copied_at_all():
    source = create_head(Head(projection=7, classifier=Classifier()), 3, (12,))
    without = create_model(identity(), Head(projection=7))
    before = without.get_layer("projection").get_weights()[0]
    with pytest.raises(ModelError, match="classifier"):
        copy_weights(source, without)
    np.testing.assert_array_equal(without.get_layer("projection").get_weights()[0], before)
    with pytest.raises(ModelError, match="projection"):
        copy_weights(source, create_model(identity(), Head(projection=8, classifier=Classifier()), 3))


@pytest.mark.parametrize("classifier", [Classifier(dense=(6,)), Classifier(kind="cosine", scale=64.0)])
@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
def test_under_a_float16_policy_heads_work_in_float32(classifier, pooling):
    head = Head(pooling=pooling, projection=7, classifier=classifier)
    expected = create_model(identity(), head, 3)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = create_model(identity(), head, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    copy_weights(expected, model)
    large = np.float32(np.float16(MAPS * 300))  # whose squares and cubes are no numbers in float16
    for output in ("embedding", "scores"):
        assert model.output[output].dtype == "float32"
        np.testing.assert_allclose(model(large)[output], expected(large)[output], atol=1e-5)
    assert model(large)["features"].dtype == "float16"


def test_layers_are_built_again_from_what_keras_keeps_of_them():
    head = Head(pooling="gem", classifier=Classifier(kind="cosine", centres=2))
    model = create_head(head, 3, (5, 5, 12))
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(MAPS)["scores"], model(MAPS)["scores"])


@pytest.mark.parametrize("head", [Head(), Head(pooling="gem", projection=4, classifier=DEEP)])
def test_a_head_comes_back_from_json(head):
    assert Head.from_json(json.loads(json.dumps(head.to_json()))) == head


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "median"},
        {"projection": 0},
        {"projection": True},
        {"surprise": 1},
        {"classifier": {"kind": "softmax"}},
        {"classifier": Head(classifier=DEEP).to_json()["classifier"] | {"dense": ["8"]}},
        {"classifier": Head(classifier=DEEP).to_json()["classifier"] | {"dropout": "0.5"}},
    ],
)
def test_json_that_describes_no_head_is_refused(change):
    with pytest.raises(RecipeError):
        Head.from_json(Head().to_json() | change)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "svm"}, "softmax or cosine"),
        ({"dense": (8, 0)}, "at least 1 unit"),
        ({"dropout": 1.0}, "less than 1"),
        ({"dropout": float("nan")}, "less than 1"),
        ({"kind": "cosine", "scale": 0.0}, "over 0"),
        ({"kind": "cosine", "centres": 0}, "at least 1 centre"),
        ({"centres": 2}, "Only a cosine classifier"),
        ({"kind": "cosine", "dense": (8,)}, "stands on the embedding itself"),
        ({"kind": "cosine", "output_activation": "sigmoid"}, "stands on the embedding itself"),
        ({"output_activation": "relu"}, r"scores are in \[0, 1\]"),
        ({"batch_norm": True}, "behind a dense layer"),
    ],
)
def test_a_classifier_that_makes_no_sense_is_refused(settings, said):
    with pytest.raises(RecipeError, match=said):
        Classifier(**settings)


def test_an_activation_that_keras_does_not_know_is_refused():
    with pytest.raises(RecipeError, match="no activation 'rellu'"):
        create_model(identity(), Head(classifier=Classifier(dense=(8,), activation="rellu")), 3)


def test_classes_belong_to_a_classifier():
    for head, classes in ((Head(), 3), (Head(classifier=Classifier()), 0)):
        with pytest.raises(ValueError, match="Expected classes"):
            create_model(identity(), head, classes)
