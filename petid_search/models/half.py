"""Weights stored in 16 bits: half the size on disk, while the network computes in float32 as before.

Kernels alone are halved. Vectors, which are biases and batch normalisation, make up 1 % of a network, and a variance
under 6e-5 would lose its digits in half precision; they stay float32.

The file for training holds kernels in half precision, which Keras reads by itself. The ONNX network holds them as whole
numbers, each output channel with a scale of its own: the batch normalisation is folded into them there, so that half
precision would round a second time, and otherwise. MobileNetV2 on 668 photos of dogs, least cosine to the embedding by
float32: whole numbers 0.999997, half precision 0.9987.

What came from 8 bits and never learns again goes back to 8 bits, exactly: its kernels become whole numbers up to 127,
and their scale part of the batch normalisation (`in_whole_numbers`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LARGEST_CHANGE: Final = 1e-3
"""Of a kernel's length, relative: rounding costs 2⁻¹¹ at most, numbers under 6e-5 or over 65,504 more."""

_OFF_GRID: Final = 1e-3
"""Part of a step by which numbers may lie beside the 8 bits that they came from: float32 computed them."""

_STEPS: Final = {np.int8: 127, np.int16: 32_767}
"""From zero to the largest number of a channel."""


def as_half(kernel: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """Round a kernel to half precision.

    Args:
        kernel: float32, of any shape.

    Returns:
        float16, of the same shape; None where it stays as it is: a vector, or numbers too large or too small.
    """
    if kernel.ndim < 2:
        return None
    with np.errstate(over="ignore"):
        half = kernel.astype(np.float16)
    change = np.linalg.norm(half.astype(np.float64) - kernel)
    return half if change <= _LARGEST_CHANGE * np.linalg.norm(kernel.astype(np.float64)) else None


def rounded(weights: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Return a model's weights, float32, with the values that they will have once stored in half precision."""
    pairs = ((one, as_half(one)) for one in weights)
    return [one if half is None else half.astype(np.float32) for one, half in pairs]


def in_whole_numbers(network: Any) -> int:
    """Make kernels that came from 8 bits whole numbers, the network's function staying the same.

    A channel's scale goes into the batch normalisation behind it. Half precision and int8 hold such kernels exactly,
    and they compress well; but they are no weights to train on.

    Args:
        network: a Keras model; convolutions without bias are looked at, each with batch normalisation behind it.

    Returns:
        how many kernels were changed.
    """
    import keras

    behind = {id(layer.input): layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)}
    changed = 0
    for layer in network.layers:
        normalisation = behind.get(id(getattr(layer, "output", None)))
        if normalisation is None or len(layer.weights) != 1:  # a bias, or no convolution
            continue
        (kernel,) = layer.get_weights()
        channels = 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else 3
        if kernel.ndim != 4 or (channels == 2 and kernel.shape[3] != 1):
            continue
        steps, scale = _in_steps(kernel, tuple(axis for axis in range(4) if axis != channels))
        if steps.dtype != np.int8:
            continue
        gamma, beta, mean, variance = normalisation.get_weights()
        layer.set_weights([steps.astype(np.float32)])
        normalisation.set_weights([gamma * scale.ravel(), beta, mean / scale.ravel(), variance])
        changed += 1
    return changed


def halve_keras_file(file: Path) -> None:
    """Write a file of Keras's weights anew with its kernels in half precision, compressed; Keras reads it as any other.

    Raises:
        OSError: the disk is full or may not be written.
    """
    import h5py

    smaller = file.with_name(f"{file.name}.half")
    # By the newest layout, a group for each layer costs next to nothing.
    with h5py.File(file) as source, h5py.File(smaller, "w", libver="latest") as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group):
                target.create_group(name).attrs.update(item.attrs)
                return
            values = item[()]
            half = as_half(values)
            stored = values if half is None else half
            packed = (
                {"chunks": stored.shape, "compression": "gzip", "compression_opts": 9, "shuffle": True}
                if stored.size > 1
                else {}
            )
            target.create_dataset(name, data=stored, **packed)

        target.attrs.update(source.attrs)
        source.visititems(copy)
    smaller.replace(file)


def halve_onnx(graph: Any) -> None:
    """Store the kernels of an ONNX graph as int16, or int8 where that is as good, with a scale for each output channel.

    ONNX Runtime multiplies them once, as it loads the network: inference takes as long as before.
    """
    from onnx import TensorProto, helper, numpy_helper

    kernels = {
        node.input[1]: 0 if node.op_type == "Conv" else -1
        for node in graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm")
    }
    nodes, scales = [], []
    for tensor in graph.initializer:
        if tensor.name not in kernels or tensor.data_type != TensorProto.FLOAT:
            continue
        name, kernel = tensor.name, numpy_helper.to_array(tensor)
        others = tuple(axis for axis in range(kernel.ndim) if axis != kernels[name] % kernel.ndim)
        steps, scale = _in_steps(kernel, others)
        tensor.CopyFrom(numpy_helper.from_array(steps, f"{name}_steps"))
        scales.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes += [
            helper.make_node("Cast", [f"{name}_steps"], [f"{name}_float"], f"Cast_{name}", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name], f"Mul_{name}"),
        ]
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(scales)


def _in_steps(kernel: NDArray[np.float32], others: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """A kernel as whole numbers and the scale of each channel, in the fewest bits that do.

    Args:
        kernel: float32.
        others: its axes but for that of the output channels.
    """
    largest = np.abs(kernel).max(axis=others, keepdims=True)
    for kind, count in _STEPS.items():
        scale = np.where(largest > 0, largest / np.float32(count), np.float32(1))
        steps = np.round(kernel / scale).astype(kind)
        if np.abs(kernel / scale - steps).max() < _OFF_GRID:
            break
    return steps, scale
