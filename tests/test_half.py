"""Weights in 16 bits: kernels are halved, and nothing that would be harmed by it."""

import h5py
import numpy as np
import pytest

from petid_search.models.backbones import import_keras
from petid_search.models.half import as_half, halve_keras_file, halve_onnx, in_whole_numbers, rounded

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(0, 0.1, (3, 3, 16, 24)).astype(np.float32)
IMAGE = RNG.normal(0, 1, (1, 16, 8, 8)).astype(np.float32)


def test_a_kernel_is_rounded_to_half_precision():
    half = as_half(KERNEL)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype(np.float32), KERNEL, rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize(
    "weight",
    [
        RNG.uniform(1e-7, 6e-5, 24).astype(np.float32),  # variances of a batch normalisation
        KERNEL * 1e-4,
        KERNEL * 1e6,
        np.full((2, 2), np.nan, np.float32),
    ],
    ids=["vector", "too small", "too large", "not a number"],
)
def test_what_half_precision_would_harm_stays_as_it_is(weight):
    assert as_half(weight) is None
    (kept,) = rounded([weight])
    np.testing.assert_array_equal(kept, weight)


def test_rounding_twice_changes_nothing_more():
    once = rounded([KERNEL, KERNEL[0, 0, 0]])
    assert not np.array_equal(once[0], KERNEL)
    np.testing.assert_array_equal(once[1], KERNEL[0, 0, 0])
    for one, again in zip(once, rounded(once), strict=True):
        np.testing.assert_array_equal(one, again)


def test_a_file_of_weights_keeps_its_groups_their_attributes_and_what_is_no_kernel(tmp_path):
    file = tmp_path / "some.weights.h5"
    with h5py.File(file, "w") as written:
        written.attrs["by"] = "a test"
        group = written.create_group("layers/dense/vars")
        group.attrs["name"] = "projection"
        group["0"], group["1"] = KERNEL, KERNEL[0, 0, 0] * 1e-6
        written["seed/vars/0"] = np.array([7, 8], np.uint32)
        written.create_group("empty")
    before = file.stat().st_size
    halve_keras_file(file)
    assert file.stat().st_size < 0.55 * before
    assert list(tmp_path.iterdir()) == [file]
    with h5py.File(file) as read:
        group = read["layers/dense/vars"]
        assert (read.attrs["by"], group.attrs["name"], len(read["empty"])) == ("a test", "projection", 0)
        assert group["0"].dtype == np.float16
        np.testing.assert_array_equal(group["0"], KERNEL.astype(np.float16))
        np.testing.assert_array_equal(group["1"], KERNEL[0, 0, 0] * 1e-6)
        np.testing.assert_array_equal(read["seed/vars/0"], [7, 8])


def test_an_onnx_network_answers_nearly_as_before_however_its_channels_differ_in_size():
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import InferenceSession

    sizes = np.geomspace(1e-6, 1e3, 24).astype(np.float32)
    sizes[5] = 0  # a channel that died
    convolution = KERNEL.transpose(3, 2, 0, 1) * sizes[:, None, None, None]
    dense = RNG.normal(0, 1, (24, 8)).astype(np.float32) * sizes[:8]
    tensors = {"kernel": convolution, "dense": dense, "bias": sizes}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel", "bias"], ["map"]),
            helper.make_node("ReduceMax", ["map"], ["pooled"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["pooled", "dense"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("map", "y")],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)

    def answers():
        session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": IMAGE})

    before = answers()
    with np.errstate(all="raise"):
        halve_onnx(model.graph)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert (kinds["kernel_steps"], kinds["dense_steps"]) == (TensorProto.INT16, TensorProto.INT16)
    assert kinds["bias"] == TensorProto.FLOAT
    after = answers()
    for channel in range(24):
        expected, received = before[0][0, channel], after[0][0, channel]
        np.testing.assert_allclose(received, expected, atol=2e-4 * max(np.abs(expected).max(), 1e-12))
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_allclose(after[1], before[1], rtol=1e-3)


def test_kernels_that_came_from_8_bits_take_8_bits_again():
    from onnx import helper, numpy_helper

    steps = RNG.integers(-127, 128, (24, 16, 3, 3)).astype(np.float32)
    steps[:, 0, 0, 0] = 127
    kernel = steps * np.geomspace(1e-3, 1, 24).astype(np.float32)[:, None, None, None]
    tensors = {"from_8_bits": kernel, "learnt": kernel * RNG.normal(1, 1e-3, kernel.shape)}
    nodes = [helper.make_node("Conv", ["x", name], [f"{name}_map"]) for name in tensors]
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "graph", [], [], initializers)
    halve_onnx(graph)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    np.testing.assert_array_equal(stored["from_8_bits_steps"], steps)
    assert (stored["from_8_bits_steps"].dtype, stored["learnt_steps"].dtype) == (np.int8, np.int16)
    for name, value in tensors.items():
        again = stored[f"{name}_steps"] * stored[f"{name}_scale"]
        assert np.linalg.norm(again - value) <= 1e-4 * np.linalg.norm(value)


def test_what_came_from_8_bits_becomes_whole_numbers_and_answers_as_before():
    keras = import_keras()
    pixels = keras.Input((12, 12, 3))
    layers = [
        keras.layers.Conv2D(8, 3, use_bias=False),
        keras.layers.DepthwiseConv2D(3, use_bias=False),
        keras.layers.Conv2D(6, 1, use_bias=False),
        keras.layers.Conv2D(5, 1),
    ]
    values = pixels
    for layer in layers:
        values = keras.layers.ReLU()(keras.layers.BatchNormalization()(layer(values)))
    network = keras.Model(pixels, values)
    for number, layer in enumerate(layers):
        if number != 2:  # which learnt
            kernel = RNG.integers(-126, 127, layer.kernel.shape).astype(np.float32)
            kernel[0, 0] = 127  # of every channel
            scale = RNG.uniform(0.001, 0.01, layer.kernel.shape[2 if number == 1 else 3]).astype(np.float32)
            kernel *= scale[:, None] if number == 1 else scale
            layer.set_weights([kernel, *layer.get_weights()[1:]])
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([RNG.uniform(0.5, 2, one.shape) for one in layer.get_weights()])
    photos = RNG.normal(size=(4, 12, 12, 3)).astype(np.float32)
    before = np.asarray(network(photos))
    assert in_whole_numbers(network) == 2
    np.testing.assert_allclose(network(photos), before, atol=1e-4 * before.max())
    for number, layer in enumerate(layers):
        kernel = layer.get_weights()[0]
        assert (as_half(kernel) == kernel).all() == (number < 2)
