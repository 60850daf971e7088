"""The network that a training starts from: a backbone with weights, or a model to go on from; and their origin."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from petid_search.errors import ModelError
from petid_search.evaluate.trained_on import Training, training_of
from petid_search.models.architecture import Kept
from petid_search.models.backbones import BACKBONES, create_backbone, find_backbone
from petid_search.models.bundle import Bundle, load_keras
from petid_search.models.home import list_models, open_model
from petid_search.train.config import TrainConfig, nearest

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, slots=True)
class Start:
    """What a training starts from.

    Attributes:
        backbone: the registry's name of the network.
        network: from pixels to the unpooled feature map.
        model: the whole model that is gone on from; None where there is only a backbone.
        classes: of that model's classifier.
        origin: where the weights came from.
        licence: of the weights.
        data: what they were trained on.
        training: the photos of the model's own training; None where there is none, or nothing tells of it.
        kept: what that model keeps of the network before it.
    """

    backbone: str
    network: "keras.Model"
    model: "keras.Model | None"
    classes: tuple[str, ...]
    origin: str
    licence: str
    data: str
    training: Training | None = None
    kept: Kept | None = None


def start_from(config: TrainConfig, progress: Callable[[int, int | None], None] | None = None) -> Start:
    """Build the network that a config names, with its weights.

    Raises:
        ModelError: there is no such network or model, or its weights cannot be had.
    """
    if config.backbone not in BACKBONES:
        names = {bundle.card.name for bundle in list_models()}
        if config.backbone not in names:
            near = nearest(config.backbone, [*sorted(names), *BACKBONES])
            raise ModelError(f"{config.backbone!r} is neither a network nor a model. {near}")
        return _from_bundle(open_model(config.backbone), config)
    spec = find_backbone(config.backbone)
    weights: Path | Literal["download"] | None
    if config.weights == "random":
        weights, origin, data = None, "none: trained from random numbers", "nothing before"
        licence = "that of what it was trained on"
    elif config.weights in (None, "download"):
        weights, origin, data, licence = "download", spec.weights_origin, spec.weights_data, spec.weights_licence
    else:
        weights = Path(str(config.weights))
        network = create_backbone(config.backbone, size=config.size, weights=weights, progress=progress)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        origin = f"the file {weights.name} (sha256 {digest})"
        licence = f"that of the published weights ({spec.weights_licence}), where the file holds those"
        return Start(config.backbone, network, None, (), origin, licence, spec.weights_data)
    network = create_backbone(config.backbone, size=config.size, weights=weights, progress=progress)
    return Start(config.backbone, network, None, (), origin, licence, data)


def _from_bundle(bundle: Bundle, config: TrainConfig) -> Start:
    from petid_search.models.heads import backbone_of

    card = bundle.card
    if config.weights is not None:
        raise ModelError(f"{card.name} is a model and has weights of its own: leave out --weights.")
    flattens = card.head.classifier is not None and card.head.classifier.flatten
    if flattens and config.size not in (None, card.input_size):
        raise ModelError(
            f"{card.name} flattens the feature map of {card.input_size} px, its weights fit no other size: "
            f"leave out --size, or take a network such as {card.backbone}."
        )
    model = load_keras(bundle, size=config.size)
    network = backbone_of(model)
    origin = f"the model {card.name} ({card.fingerprint[:12]}), from {card.origin}"
    return Start(
        card.backbone,
        network,
        model,
        card.classes,
        origin,
        card.licence,
        card.data,
        training_of(bundle),
        card.head.kept,
    )
