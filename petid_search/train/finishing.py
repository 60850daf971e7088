"""What becomes of a network when it has learnt: blended with its start, its old features set beside it, mirrored."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import RecipeError
from petid_search.models.architecture import Head, Kept
from petid_search.models.copying import LayerWeights, bottleneck, set_weights_by_layer
from petid_search.models.half import in_whole_numbers
from petid_search.train.config import TrainConfig
from petid_search.train.freezing import first_frozen

if TYPE_CHECKING:
    import keras

_LEAST_VARIANCE = 1e-6
"""Share of the largest variance below which a direction of features is taken for constant."""
_KEEP_SHARE = 0.4
"""Where a config names none: on dogs hardly worse than less, and better on cats and cattle (docs/results.md)."""


def blend(network: "keras.Model", start: LayerWeights, share: float) -> None:
    """Bring a network back towards the weights that it started from.

    Fine-tuning forgets what the network knew of other animals and photos; between the two lies a network that knows
    both. Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv:2109.01903.

    Args:
        network: what was learnt; its weights are changed.
        start: what it started from.
        share: of what was learnt, in [0, 1].
    """
    for name, weights in start.items():
        layer = network.get_layer(name)
        pairs = zip(layer.get_weights(), weights, strict=True)
        # What never learnt stays as it was to the last bit, and takes 8 bits where it came from as many.
        layer.set_weights([before + share * (learnt - before) for learnt, before in pairs])


def frozen_throughout(network: "keras.Model", config: TrainConfig) -> int:
    """How many of a network's first layers learn in none of a config's stages.

    Raises:
        RecipeError: the network has fewer layers than are to be frozen.
    """
    return min(first_frozen(network, stage.freeze) for stage in config.plan)


def check_kept(kept: Kept, network: "keras.Model", config: TrainConfig) -> None:
    """Check that a config neither trains what the features that a model keeps stand on, nor keeps some a second time.

    Args:
        kept: what the model that is gone on from keeps.
        network: its backbone.
        config: the training.

    Raises:
        RecipeError: it does.
    """
    if config.keep is not None:
        raise RecipeError(f"{config.backbone} keeps features of {kept.layer} already: leave out keep.")
    least = [layer.name for layer in network.layers].index(kept.after) + 1
    if frozen_throughout(network, config) < least:
        raise RecipeError(
            f"{config.backbone} keeps features that stand on its first {least} layers, which must not learn: "
            f"let freeze be first-{least} or more."
        )


def plan_kept(network: "keras.Model", config: TrainConfig, photos: int) -> Kept | None:
    """What a config keeps of a network, as a head describes it: as many numbers as those learnt, where it has them.

    Args:
        network: the backbone.
        config: the training.
        photos: how many are trained on.

    Returns:
        None where nothing is to be kept.

    Raises:
        RecipeError: the network has no such layer, none of what it stands on learns, there is no projection, or there
            are too few photos.
    """
    if config.keep is None:
        return None
    layer = next((layer for layer in network.layers if layer.name == config.keep), None)
    shape = () if layer is None else tuple(layer.output.shape)
    size = tuple(network.output.shape[1:3])
    if layer is None or shape[1:3] != size:
        fitting = [one.name for one in network.layers if tuple(one.output.shape[1:3]) == size]
        what = "no such layer" if layer is None else f"another feature map there than at its end, which is {size}"
        raise RecipeError(
            f"keep is {config.keep!r}, but {network.name} has {what}: take one such as {', '.join(fitting[:5])}."
        )
    if config.projection is None:
        raise RecipeError("keep stands beside a projection: give one, as in --projection 256.")
    frozen = frozen_throughout(network, config)
    if network.layers.index(layer) < frozen:
        raise RecipeError(
            f"keep is {config.keep!r}, but the first {frozen} layers never learn, it among them: freeze fewer, "
            "or leave keep out."
        )
    numbers = min(config.projection, int(shape[-1]))
    if photos < 2 * numbers:
        raise RecipeError(
            f"keep needs {2 * numbers} photos to train on for {numbers} numbers, and there are {photos}: "
            "give more photos, a smaller projection, or leave it out."
        )
    after = bottleneck(network, max(frozen, 1), upto=config.keep)
    return Kept(
        after=after, layer=config.keep, channels=int(shape[-1]), numbers=numbers, share=config.keep_share or _KEEP_SHARE
    )


def set_beside(
    model: "keras.Model", fresh: "keras.Model", start: LayerWeights, head: Head, kept: Kept
) -> tuple["keras.Model", Head]:
    """Set features of a network as it was beside those that a model learnt.

    Args:
        model: what was learnt, from heads.create_model.
        fresh: its backbone anew, of any weights, which becomes part of the result.
        start: what its backbone started from.
        head: of the model.
        kept: what is kept; the projection of it is still to be fitted, see `fit_kept`.

    Returns:
        the model, without a classifier; and its head.
    """
    import keras

    from petid_search.models.heads import copy_weights, create_model

    set_weights_by_layer(fresh, start)
    wider = replace(head, classifier=None, kept=kept)
    result = create_model(fresh, wider)
    embedding = keras.Model(model.input, model.output["embedding"])
    copy_weights(embedding, result)
    return result, wider


def with_mirror(model: "keras.Model", network: "keras.Model", head: Head, classes: int) -> tuple["keras.Model", Head]:
    """Let a model see each photo and its mirror image.

    Args:
        model: from heads.create_model.
        network: its backbone, which the result shares.
        head: of the model.
        classes: of its classifier; 0 where it has none.

    Returns:
        the model; and its head.
    """
    from petid_search.models.heads import copy_weights, create_model

    mirrored = replace(head, mirror=True)
    result = create_model(network, mirrored, classes)
    copy_weights(model, result)
    return result, mirrored


def compact(model: "keras.Model", network: "keras.Model", kept: Kept) -> None:
    """Let what never learns again take 8 bits where it came from as many: what is kept, and what it stands on.

    Args:
        model: with a head that keeps something.
        network: its backbone, which shares its layers.
        kept: what the head keeps.
    """
    import keras

    for part in (model.get_layer("kept"), keras.Model(network.input, network.get_layer(kept.after).output)):
        in_whole_numbers(part)


def fit_kept(model: "keras.Model", head: Head, pooled: NDArray[np.float32]) -> None:
    """Whiten what is kept of photos.

    Along the principal axes every number gets the same variance, those of small variance too: between individuals of
    one species these differ most. Source: Jégou, Chum, "Negative evidences and co-occurences in image retrieval: the
    benefit of PCA and whitening", ECCV 2012.

    Args:
        model: with a head that keeps something; the layer `kept_projection` is changed.
        head: of the model.
        pooled: what is kept of the photos trained on, pooled, float32, (n, kept.channels), n over kept.numbers.
    """
    kept = head.kept
    if kept is None:
        raise ValueError(f"Expected a head that keeps something. Received: {head}.")
    pooled = pooled.astype(np.float64)
    centre = pooled.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov((pooled - centre).T))
    variances, axes = variances[::-1][: kept.numbers], axes[:, ::-1][:, : kept.numbers]
    whitening = axes / np.sqrt(np.maximum(variances, _LEAST_VARIANCE * variances[0]))
    model.get_layer("kept_projection").set_weights(
        [whitening.astype(np.float32), (-centre @ whitening).astype(np.float32)]
    )
