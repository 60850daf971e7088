"""The end of a network is copied: what it takes, what it answers, and that it stays as it was."""

import numpy as np
import pytest
from tiny_network import registered

from petid_search.models.backbones import create_backbone, import_keras
from petid_search.models.copying import bottleneck, copy_end, weights_by_layer

keras = import_keras()

PHOTOS = np.random.default_rng(0).uniform(0, 255, (3, 48, 48, 3)).astype(np.float32)


@pytest.fixture
def tiny():
    with registered():
        yield create_backbone("tiny")


def with_a_shortcut():
    """`second` is looked past, from `first` to `sum`."""
    pixels = keras.Input((8,), name="pixels")
    first = keras.layers.Dense(8, name="first")(pixels)
    second = keras.layers.Dense(8, name="second")(first)
    both = keras.layers.Add(name="sum")([first, second])
    return keras.Model(pixels, keras.layers.Dense(2, name="last")(both))


@pytest.mark.parametrize(
    ("frozen", "upto", "found"),
    [
        (1, None, "pixels"),
        (2, None, "first"),
        (3, None, "first"),
        (4, None, "sum"),
        (5, None, "last"),
        (3, "second", "second"),
    ],
)
def test_the_bottleneck_is_the_last_layer_that_nothing_later_looks_past(frozen, upto, found):
    assert bottleneck(with_a_shortcut(), frozen, upto) == found


def test_a_copy_answers_what_the_network_answered_and_does_not_learn_with_it(tiny):
    before = weights_by_layer(tiny)
    expected = np.asarray(tiny(PHOTOS))
    copy = copy_end(tiny, "conv_2_relu", before, name="old")
    assert all(layer.name.startswith("old_") for layer in copy.layers[1:])
    assert not copy.trainable_weights
    for layer in tiny.layers:
        if layer.name in ("conv_3", "conv_4"):
            layer.set_weights([one + 1 for one in layer.get_weights()])
    shared = keras.Model(tiny.input, [tiny.output, copy(tiny.get_layer("conv_2_relu").output, training=False)])
    now, then = (np.asarray(one) for one in shared(PHOTOS))
    assert np.abs(now - expected).max() > 0.1
    np.testing.assert_allclose(then, expected, atol=1e-5)


def test_a_copy_ends_where_it_is_told(tiny):
    copy = copy_end(tiny, "conv_1_relu", weights_by_layer(tiny), name="old", upto="conv_3_relu")
    assert (copy.input_shape, copy.output_shape) == ((None, 24, 24, 8), (None, 12, 12, 16))
    expected = keras.Model(tiny.get_layer("conv_1_relu").output, tiny.get_layer("conv_3_relu").output)
    maps = np.random.default_rng(1).normal(size=(2, 24, 24, 8)).astype(np.float32)
    np.testing.assert_allclose(copy(maps), expected(maps), atol=1e-6)
