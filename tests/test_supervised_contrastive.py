"""The supervised contrastive loss against plain loops, and where batches are poor."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from plain_losses import differences, loss_and_gradient, supervised_contrastive

from petid_search.errors import RecipeError
from petid_search.models.losses import SupervisedContrastiveLoss


def draw_embeddings(seed: int = 0, photos: int = 8) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(photos, 4))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1, 2, 2, 3, 3], [5, 5, 5, 5, 2, 2, 2, 9], [4] * 8, list(range(8))], ids=str
)
def test_a_batch_has_the_loss_and_the_gradient_of_plain_loops(labels, temperature):
    embeddings = draw_embeddings()
    loss, gradient = loss_and_gradient(SupervisedContrastiveLoss(temperature), labels, embeddings)
    assert loss == pytest.approx(supervised_contrastive(labels, embeddings.astype(float), temperature), rel=1e-6)
    plain = differences(lambda values: supervised_contrastive(labels, values, temperature), embeddings)
    np.testing.assert_allclose(gradient, plain, atol=2e-5)


def test_an_anchor_without_a_positive_is_left_out_but_still_told_from():
    """The lone photo has no loss of its own, and makes that of the others larger."""
    embeddings = np.vstack([draw_embeddings(1, 4), draw_embeddings(1, 4)[:1]])
    with_it = SupervisedContrastiveLoss(reduction=None)([0, 0, 1, 1, 2], embeddings).numpy()
    without = SupervisedContrastiveLoss()([0, 0, 1, 1], embeddings[:4])
    assert with_it[4] == 0
    assert with_it.mean() > float(without)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0], [0, 0]], ids=str)
def test_a_poor_batch_has_loss_0_and_finite_gradients(labels):
    """Of two photos of one individual, each is the only one that there is to find."""
    loss, gradient = loss_and_gradient(SupervisedContrastiveLoss(0.01), labels, draw_embeddings(2, len(labels)))
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("embedding", [0.0, 0.5], ids=["zero", "all alike"])
def test_equal_embeddings_have_finite_gradients(embedding):
    loss, gradient = loss_and_gradient(
        SupervisedContrastiveLoss(0.001), [0, 0, 1, 1], np.full((4, 4), embedding, np.float32)
    )
    assert loss == pytest.approx(np.log(3), rel=1e-4)
    assert np.isfinite(gradient).all()


def test_class_numbers_are_told_apart_where_everything_else_is_in_float16():
    embeddings = draw_embeddings()
    expected = float(SupervisedContrastiveLoss()([0, 0, 1, 1, 2, 2, 3, 3], embeddings))
    keras.config.set_floatx("float16")
    try:
        loss = SupervisedContrastiveLoss()([4096, 4096, 4097, 4097, 4098, 4098, 4099, 4099], embeddings)
    finally:
        keras.config.set_floatx("float32")
    assert float(loss) == expected


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
def test_a_graph_of_any_batch_size_answers_as_eager_calls_do(compiled):
    loss = SupervisedContrastiveLoss()
    graph = tf.function(
        loss,
        input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 4], tf.float32)],
        jit_compile=compiled,
    )
    for photos in (1, 6):
        labels, embeddings = np.arange(photos) % 2, draw_embeddings(3, photos)
        answer = graph(tf.constant(labels, tf.int32), embeddings)
        assert float(answer) == pytest.approx(float(loss(labels, embeddings)), rel=1e-5)


def test_a_saved_loss_answers_the_same():
    loss = SupervisedContrastiveLoss(0.23)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    labels, embeddings = [0, 0, 1, 1, 2, 2, 2, 3], draw_embeddings()
    assert float(again(labels, embeddings)) == float(loss(labels, embeddings))


def test_a_wrong_temperature_is_refused():
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(RecipeError, match=r"temperature must be a number of 0\.001 or more"):
            SupervisedContrastiveLoss(temperature)
