"""The triplet losses against plain loops, against tensorflow-addons' own answers, and where batches are poor."""

import keras
import numpy as np
import plain_losses
import pytest
import tensorflow as tf
from conftest import SHARED, needs_shared
from plain_losses import differences, loss_and_gradient

from petid_search.errors import RecipeError
from petid_search.models.losses import TripletHardLoss, TripletSemiHardLoss

DISTANCES = ("L2", "squared-L2", "angular")
BATCHES = {
    "pairs": [0, 0, 1, 1, 2, 2, 3, 3],
    "uneven": [5, 5, 5, 5, 2, 2, 2, 9],
    "one photo of an individual": [0, 0, 0, 1, 1, 1, 1, 2],
    "one individual": [4, 4, 4, 4, 4, 4, 4, 4],
    "no positive pair": [0, 1, 2, 3, 4, 5, 6, 7],
}
MARGINS = (0.1, 0.2, 0.5, 1.0)
VARIANTS = {
    "semihard": lambda margin, distance: TripletSemiHardLoss(margin, distance),
    "hard": lambda margin, distance: TripletHardLoss(margin, distance=distance),
    "hardsoft": lambda margin, distance: TripletHardLoss(margin, soft=True, distance=distance),
}


def draw_embeddings(seed: int = 0, photos: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(photos, 4)).astype(np.float32)


def plainly(variant: str, labels: list[int], embeddings: np.ndarray, margin: float, distance: str) -> float:
    if variant == "semihard":
        return plain_losses.triplet_semi_hard(labels, embeddings, margin, distance)
    return plain_losses.triplet_hard(labels, embeddings, None if variant == "hardsoft" else margin, distance)


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_has_the_loss_and_the_gradient_of_plain_loops(variant, distance, labels):
    embeddings = draw_embeddings()
    loss, gradient = loss_and_gradient(VARIANTS[variant](0.4, distance), labels, embeddings)
    plain = differences(lambda values: plainly(variant, labels, values, 0.4, distance), embeddings)
    assert loss == pytest.approx(plainly(variant, labels, embeddings.astype(float), 0.4, distance), rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(gradient, plain, atol=1e-5)


@pytest.mark.parametrize("distance", ["L2", "squared-L2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_distances_and_equal_photos_are_chosen_as_in_plain_loops(variant, distance):
    """On whole numbers distances tie exactly: a negative as far as the positive is not farther."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        embeddings, labels = rng.integers(0, 3, (9, 2)).astype(np.float32), rng.integers(0, 4, 9).tolist()
        loss, gradient = loss_and_gradient(VARIANTS[variant](1.0, distance), labels, embeddings)
        assert loss == pytest.approx(plainly(variant, labels, embeddings, 1.0, distance), rel=1e-6, abs=1e-6)
        assert np.isfinite(gradient).all()


@needs_shared
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_those_of_tensorflow_addons(variant, distance):
    saved = np.load(SHARED / "fixtures" / "tfa_triplet_fixture.npz")
    for seed in range(3):
        for margin in MARGINS:
            for length, embeddings in (("raw", saved[f"emb_{seed}"]), ("l2n", saved[f"embn_{seed}"])):
                key = f"s{seed}_{length}_{distance}_m{margin}_{variant}"
                loss, gradient = loss_and_gradient(
                    VARIANTS[variant](margin, distance), saved[f"labels_{seed}"], embeddings
                )
                assert loss == pytest.approx(float(saved[key]), rel=5e-7, abs=5e-7)
                np.testing.assert_allclose(gradient, saved[f"{key}_grad"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_batch_without_a_positive_pair_has_loss_0_and_no_gradient(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        layer = keras.layers.Dense(4)
        with tf.GradientTape() as tape:
            embeddings = layer(draw_embeddings())
            loss = TripletSemiHardLoss()(np.arange(8), embeddings)
        gradients = tape.gradient(loss, layer.trainable_variables)
    finally:
        keras.config.set_dtype_policy(before)
    assert embeddings.dtype == ("float16" if policy == "mixed_float16" else "float32")
    assert float(loss) == 0
    assert all(not np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "embeddings",
    [np.ones((6, 4)), np.zeros((6, 4)), np.repeat(draw_embeddings(1, 3), 2, axis=0), np.full((6, 4), 1e-20)],
    ids=["all alike", "all zero", "copies", "tiny"],
)
def test_equal_embeddings_have_finite_gradients(embeddings, variant, distance):
    for labels in ([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 2, 2], [0, 0, 0, 0, 0, 0]):
        loss, gradient = loss_and_gradient(VARIANTS[variant](0.5, distance), labels, embeddings.astype(np.float32))
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()


def test_a_soft_margin_of_far_embeddings_does_not_overflow():
    loss, gradient = loss_and_gradient(
        TripletHardLoss(soft=True, distance="squared-L2"), [0, 0, 1, 1], 100 * draw_embeddings(2, 4)
    )
    assert 100 < loss < np.inf
    assert np.isfinite(gradient).all()


def test_class_numbers_are_told_apart_where_everything_else_is_in_float16():
    embeddings = draw_embeddings()
    expected = float(TripletSemiHardLoss()([0, 0, 1, 1, 2, 2, 3, 3], embeddings))
    keras.config.set_floatx("float16")
    try:
        loss = TripletSemiHardLoss()([4096, 4096, 4097, 4097, 4098, 4098, 4099, 4099], embeddings)
    finally:
        keras.config.set_floatx("float32")
    assert float(loss) == expected


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_graph_of_any_batch_size_answers_as_eager_calls_do(variant, compiled):
    loss = VARIANTS[variant](0.4, "L2")
    graph = tf.function(
        loss,
        input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 4], tf.float32)],
        jit_compile=compiled,
    )
    for photos in (1, 6):
        labels, embeddings = np.arange(photos) % 2, draw_embeddings(3, photos)
        answer = graph(tf.constant(labels, tf.int32), embeddings)
        assert float(answer) == pytest.approx(float(loss(labels, embeddings)), rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_loss_answers_the_same(variant):
    loss = VARIANTS[variant](0.3, "squared-L2")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    labels, embeddings = BATCHES["uneven"], draw_embeddings()
    assert float(again(labels, embeddings)) == float(loss(labels, embeddings))
    assert type(again) is type(loss)


def test_an_anchor_of_weight_0_does_not_count():
    """Hence every loss is one number an anchor, and not one a batch."""
    labels, embeddings = BATCHES["one photo of an individual"], draw_embeddings()
    shares = TripletHardLoss(reduction=None)(labels, embeddings).numpy()
    weighted = TripletHardLoss(reduction="sum")(labels, embeddings, sample_weight=np.arange(8) > 3)
    assert shares.shape == (8,)
    assert float(weighted) == pytest.approx(shares[4:].sum())


@pytest.mark.parametrize("loss", [TripletHardLoss, TripletSemiHardLoss])
def test_a_wrong_margin_or_distance_is_refused(loss):
    with pytest.raises(RecipeError, match=r"one of L2, squared-L2, angular\. Got 'cosine' instead"):
        loss(distance="cosine")
    for margin in (-0.1, float("nan"), float("inf")):
        with pytest.raises(RecipeError, match="margin must be a number ≥ 0"):
            loss(margin)
