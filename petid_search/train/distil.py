"""Distillation of what a network knew before: while it learns one set of animals, it does not forget the others.

Source: Li, Hoiem, "Learning without forgetting", ECCV 2016, arXiv:1606.09282; on features as Romero et al., "FitNets",
ICLR 2015, arXiv:1412.6550: a layer of its own, which is thrown away afterwards, finds in what the network answers now
what it answered then.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.models.copying import LayerWeights, bottleneck, copy_end

if TYPE_CHECKING:
    import keras

    from petid_search.models.architecture import Pooling

_SHORTEST: Final = 1e-6
"""Length below which features are not brought to length 1: of a photo that answers with nothing."""

FINDER: Final = "found_again"
"""The name of the layer that finds the old features in the new ones."""


class Before:
    """A network as it was, which answers beside the one that learns; what both share is computed once.

    Args:
        network: the one that learns.
        weights: what it had before.
        pooling: from its feature map to a vector.
        frozen: how many of its first layers do not learn.
    """

    def __init__(self, network: "keras.Model", weights: LayerWeights, pooling: "Pooling", frozen: int) -> None:
        from petid_search.models.heads import pooling_layer

        after = network.get_layer(bottleneck(network, max(frozen, 1)))
        end = copy_end(network, after.name, weights, name="before")
        # Neither drops anything nor counts the batch: it answers as in use.
        features = end(after.output, training=False)
        self._network, self._pooled = network, pooling_layer(pooling, name="pooled_before")(features)

    def centre(self, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The mean of what it answers to photos, float32, (c,).

        Args:
            batches: photos, float32, (n, size, size, 3), in [0, 255]; a few hundred in all.
        """
        import keras

        looking = keras.Model(self._network.input, self._pooled)
        answers = np.concatenate([np.asarray(looking.predict_on_batch(images), np.float32) for images in batches])
        centre: NDArray[np.float32] = answers.mean(axis=0)
        return centre

    def forgotten(self, model: "keras.Model", centre: NDArray[np.float32]) -> Any:
        """What the model has forgotten of each photo: 1 − cosine of the features found again and the old ones.

        Args:
            model: the network with its head, whose layer `pooled` is looked at; what the head keeps beside it is not.
            centre: what both are measured from.

        Returns:
            A tensor of the model, float32, (n,), in [0, 2]; 0 as long as the network is what it was.
        """
        import keras

        channels = len(centre)
        finder = keras.layers.Dense(channels, name=FINDER, dtype="float32")
        found = finder(model.get_layer("pooled").output[:, :channels])
        finder.set_weights([np.eye(channels, dtype=np.float32), -centre])
        now, then = (keras.ops.normalize(one, epsilon=_SHORTEST) for one in (found, self._pooled - centre))
        return 1 - keras.ops.sum(now * then, axis=-1)
