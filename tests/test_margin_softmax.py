"""ArcFace and CosFace against plain loops, at the ends of what a cosine can be, and beyond."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from plain_losses import arcface_lower, differences, loss_and_gradient, margin_softmax

from petid_search.errors import RecipeError
from petid_search.models.losses import ArcFaceLoss, CosFaceLoss

LOSSES = {"arcface": ArcFaceLoss, "cosface": CosFaceLoss}


def draw_cosines(seed: int = 0, photos: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.99, 0.99, (photos, 5)).astype(np.float32)


def plainly(name: str, labels: list[int], cosines: np.ndarray, margin: float, scale: float) -> float:
    lower = {"arcface": lambda cosine: arcface_lower(cosine, margin), "cosface": lambda cosine: cosine - margin}
    return margin_softmax(labels, cosines, scale, lower[name])


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_has_the_loss_and_the_gradient_of_plain_loops(name, margin):
    cosines, labels = draw_cosines(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 2, 2]
    cosines[0, 0], cosines[1, 1] = -0.99, 0.99  # the one beyond π - margin, but for margin 0
    loss, gradient = loss_and_gradient(LOSSES[name](margin, 16.0), labels, cosines)
    assert loss == pytest.approx(plainly(name, labels, cosines.astype(float), margin, 16.0), rel=1e-6)
    plain = differences(lambda values: plainly(name, labels, values, margin, 16.0), cosines)
    np.testing.assert_allclose(gradient, plain, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_margin_it_is_the_softmax_of_scaled_cosines(name):
    cosines, labels = draw_cosines(), np.arange(12) % 5
    softmax = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(LOSSES[name](0.0, 8.0)(labels, cosines)) == pytest.approx(float(softmax(labels, 8 * cosines)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_ends_have_finite_losses_and_gradients(name):
    """A cosine is exactly ±1 where a photo is its class's centre, and rounding takes it beyond."""
    ends = np.array([1, -1, np.nextafter(np.float32(1), np.float32(2)), -1.001, 1.001, 1 - 1e-7, 1e-7 - 1])
    cosines = np.stack([ends, ends[::-1], np.zeros(7), np.full(7, 0.5)], axis=1).astype(np.float32)
    for label in range(4):
        for margin in (0.0, 0.5, 0.99):
            loss, gradient = loss_and_gradient(LOSSES[name](margin, 64.0), [label] * 7, cosines)
            assert np.isfinite(loss)
            assert np.isfinite(gradient).all()


def test_the_sharpest_agreement_is_still_drawn_closer():
    """At cosine 1 the gradient is not lost: a photo on its centre keeps pulling it from the others."""
    cosines = np.array([[1.0, 0.9, 0.9]], np.float32)
    _, gradient = loss_and_gradient(ArcFaceLoss(0.5, 30.0), [0], cosines)
    assert gradient[0, 0] < -1


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.5])
def test_a_wider_angle_is_never_rewarded(margin):
    """Beyond π - margin, cos(θ + margin) would rise again."""
    cosines = np.linspace(-1, 1, 4001, dtype=np.float32)
    lowered = ArcFaceLoss(margin).lower(tf.constant(cosines)).numpy()
    assert (np.diff(lowered) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_float16_cosines_and_many_classes_keep_their_precision(name):
    """In float16 a class number over 2048 would be another's, and 30 · cosine would be rounded to 1/64."""
    cosines = np.random.default_rng(1).uniform(-1, 1, (3, 5000)).astype(np.float16)
    loss = LOSSES[name]()([4097, 4098, 4999], tf.constant(cosines))
    expected = LOSSES[name]()([4097, 4098, 4999], cosines.astype(np.float32))
    assert loss.dtype == tf.float32
    assert float(loss) == float(expected)


def test_class_numbers_are_told_apart_where_everything_else_is_in_float16():
    cosines = draw_cosines(3, 1).repeat(1000, axis=1)
    expected = float(ArcFaceLoss()([4097], cosines))
    keras.config.set_floatx("float16")
    try:
        loss = ArcFaceLoss()([4097], cosines)
    finally:
        keras.config.set_floatx("float32")
    assert float(loss) == expected


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_graph_of_any_batch_size_answers_as_eager_calls_do(name, compiled):
    loss = LOSSES[name]()
    graph = tf.function(
        loss,
        input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 5], tf.float32)],
        jit_compile=compiled,
    )
    for photos in (1, 6):
        labels, cosines = np.arange(photos) % 5, draw_cosines(4, photos)
        answer = graph(tf.constant(labels, tf.int32), cosines)
        assert float(answer) == pytest.approx(float(loss(labels, cosines)), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_saved_loss_answers_the_same(name):
    loss = LOSSES[name](0.123, 17.0)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    labels, cosines = np.arange(12) % 5, draw_cosines()
    assert float(again(labels, cosines)) == float(loss(labels, cosines))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArcFaceLoss(margin=np.pi / 2), "angle in radians"),
        (lambda: ArcFaceLoss(margin=-0.1), "angle in radians"),
        (lambda: CosFaceLoss(margin=1.0), "cosine's difference"),
        (lambda: CosFaceLoss(margin=float("nan")), "cosine's difference"),
        (lambda: ArcFaceLoss(scale=0.0), "scale must be a number > 0"),
        (lambda: CosFaceLoss(scale=float("inf")), "scale must be a number > 0"),
    ],
)
def test_a_wrong_margin_or_scale_is_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()
