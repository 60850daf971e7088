"""Copies of the end of a network, with weights of their own, on what its first layers answer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras

LayerWeights: TypeAlias = Mapping[str, Sequence[NDArray[Any]]]
"""The weights of each layer of a network that has any, by the layer's name."""


def weights_by_layer(network: "keras.Model") -> dict[str, list[NDArray[Any]]]:
    """The weights of a network as they are now, copied."""
    return {layer.name: [np.array(one) for one in layer.get_weights()] for layer in network.layers if layer.weights}


def set_weights_by_layer(network: "keras.Model", weights: LayerWeights) -> None:
    """Give a network the weights that it or one like it had, as `weights_by_layer` copied them."""
    for name, arrays in weights.items():
        network.get_layer(name).set_weights(arrays)


def bottleneck(network: "keras.Model", frozen: int, upto: str | None = None) -> str:
    """Find the last of a network's first layers through which alone the later ones see the photo.

    Args:
        network: made of Keras's functional API, with one input.
        frozen: how many of its layers to look among, from the input on.
        upto: the last layer that has to see the photo through it; by default all do.

    Returns:
        the layer's name; that of the input where a later layer looks past every other.
    """
    places = {operation: place for place, operation in enumerate(network.operations)}
    # The nearest to the input that any later operation looks at, from the end on.
    last = places[network.get_layer(upto)] if upto is not None else len(places) - 1
    seen = [len(places)] * (last + 2)
    for place in range(last, 0, -1):
        parents = [places[node.operation] for node in _nodes(network, network.operations[place])]
        seen[place] = min([seen[place + 1], *parents])
    first = list(network.layers[:frozen])
    for layer in reversed(first):
        place = places[layer]
        if place <= last and seen[place + 1] >= place:
            return str(layer.name)
    return str(network.layers[0].name)


def copy_end(
    network: "keras.Model", after: str, weights: LayerWeights, *, name: str, upto: str | None = None
) -> "keras.Model":
    """Copy what follows on a layer.

    Args:
        network: made of Keras's functional API.
        after: the layer whose output the copy takes (see `bottleneck`).
        weights: those of the copy, by the names of the network's layers; others in it are passed over.
        name: of the copy; its layers have the names of the network's, with this before them.
        upto: the last layer that is copied; by default that of the network's output.

    Returns:
        From the output of the layer `after` to that of `upto`; it does not learn.
    """
    import keras

    output = network.output if upto is None else network.get_layer(upto).output
    end = keras.Model(network.get_layer(after).output, output)

    def renamed(layer: Any) -> Any:
        return layer.__class__.from_config({**layer.get_config(), "name": f"{name}_{layer.name}"})

    cloned = keras.models.clone_model(end, clone_function=renamed)
    copy = keras.Model(cloned.input, cloned.output, name=name)
    copy.trainable = False
    for layer in copy.layers:
        if layer.weights:
            layer.set_weights(weights[layer.name.removeprefix(f"{name}_")])
    return copy


def _nodes(network: "keras.Model", operation: Any) -> list[Any]:
    """What an operation of a network looks at."""
    own = {id(node) for nodes in network._nodes_by_depth.values() for node in nodes}
    return [parent for node in operation._inbound_nodes if id(node) in own for parent in node.parent_nodes]
