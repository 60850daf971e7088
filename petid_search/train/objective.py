"""What is made small: the losses of a config, the head that they need, and the step that follows their gradient."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import RecipeError
from petid_search.models.architecture import Classifier, Head
from petid_search.models.by_name import (
    LossKind,
    find_activation,
    find_loss,
    find_metric,
    find_optimizer,
    loss_kind,
    metric_kind,
)
from petid_search.train.config import TrainConfig, parse_call

if TYPE_CHECKING:
    import keras

_ANY_CLASSES: Final = 2
"""With as many, metrics are made to see whether they can be, before the photos are counted."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A config's losses, found by their names.

    Attributes:
        config: the training.
        head: what stands on the backbone.
        classifier: what the classifier's loss takes; None without a classifier.
        metric: what the embedding's loss takes; None without one.
    """

    config: TrainConfig
    head: Head
    classifier: LossKind | None
    metric: LossKind | None

    @property
    def learns_embedding(self) -> bool:
        """Whether a loss shapes the embedding itself: then it is measured on individuals that are held out."""
        return self.metric is not None or (self.classifier is not None and self.classifier.takes == "cosines")

    @property
    def learns_scores(self) -> bool:
        """Whether the classifier's loss takes scores: then it is measured on photos that are held out."""
        return self.classifier is not None and self.classifier.takes == "scores"


def make_objective(config: TrainConfig) -> Objective:
    """Find a config's losses, and what head they need.

    Raises:
        RecipeError: a name or a parameter is unknown, or the losses do not fit the head.
    """
    classifier = _kind(config.loss, "loss", ("scores", "cosines"))
    metric = _kind(config.metric_loss, "metric-loss", ("embeddings",))
    for one in (config.loss, config.metric_loss):
        if one != "none":
            _find_loss(one)
    _optimizer(config)
    if config.metrics and classifier is None:
        raise RecipeError("metrics are of a classifier's scores: name a loss for it, or leave out metrics.")
    for one in config.metrics:
        _find_metric(one, _ANY_CLASSES)
    find_activation(config.activation)
    return Objective(config, _head(config, classifier), classifier, metric)


def _kind(text: str, key: str, wanted: tuple[str, ...]) -> LossKind | None:
    if text == "none":
        return None
    kind = loss_kind(parse_call(text)[0])
    if kind.takes not in wanted:
        other = "metric-loss" if key == "loss" else "loss"
        raise RecipeError(f"{kind.name} is a loss of {kind.takes}: give it as {other}.")
    return kind


def _head(config: TrainConfig, kind: LossKind | None) -> Head:
    flatten = config.pooling == "flatten"
    classifier = None
    if kind is not None and kind.takes == "cosines":
        if config.dense or config.dropout or flatten or config.batch_norm:
            raise RecipeError(
                f"{kind.name} trains a classifier that stands on the embedding itself: leave out dense, dropout, "
                "batch-norm and pooling flatten, or take a loss of scores such as categorical_crossentropy."
            )
        classifier = Classifier(kind="cosine", scale=float(_find_loss(config.loss).scale), centres=kind.centres)
    elif kind is not None:
        classifier = Classifier(
            kind="softmax",
            flatten=flatten,
            dense=config.dense,
            activation=config.activation,
            dropout=config.dropout,
            batch_norm=config.batch_norm,
            output_activation=config.output_activation,
        )
    elif config.dense or config.dropout or flatten or config.batch_norm:
        raise RecipeError("dense, dropout, batch-norm and pooling flatten belong to a classifier: name a loss for it.")
    pooling = "avg" if config.pooling is None or config.pooling == "flatten" else config.pooling
    return Head(pooling=pooling, projection=config.projection, classifier=classifier)


def compile_for(
    objective: Objective, model: "keras.Model", *, forgotten: Any = None, replicas: int = 1
) -> "keras.Model":
    """Make of a model with a head one that can be trained by the objective.

    Args:
        objective: the losses.
        model: from heads.create_model or heads.create_head; its layers are shared, not copied.
        forgotten: of the model, what it has forgotten of each photo (see distil.Before), (n,), which is made small too;
            None where nothing of it is asked.
        replicas: devices that a batch is shared out among.

    Returns:
        A compiled model with the outputs `embedding` where a metric loss takes it, `scores` or `cosines`, and
        `forgotten`; its targets, by the same names, are what `targets` gives, and zero for what is forgotten.
    """
    import keras

    outputs: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    weights: dict[str, float] = {}
    config = objective.config
    if objective.classifier is not None:
        taken = objective.classifier.takes
        outputs[taken] = model.output["scores"] if taken == "scores" else model.get_layer("cosines").output
        losses[taken], weights[taken] = _find_loss(config.loss), 1.0
    if objective.metric is not None:
        outputs["embedding"] = model.output["embedding"]
        losses["embedding"], weights["embedding"] = _find_loss(config.metric_loss), config.metric_weight
    if forgotten is not None:
        outputs["forgotten"] = forgotten
        losses["forgotten"], weights["forgotten"] = keras.losses.MeanAbsoluteError(), config.distil
    training = keras.Model(model.input, outputs, name="training")
    training.compile(_optimizer(config), loss=losses, loss_weights=weights, jit_compile=replicas == 1 and _has_gpu())
    return training


def targets(objective: Objective, labels: NDArray[np.int64], classes: int) -> dict[str, NDArray[Any]]:
    """What a batch of class numbers is for the losses: numbers, or one-hot, float32, (n, classes)."""
    wanted: dict[str, NDArray[Any]] = {}
    if objective.classifier is not None:
        kind = objective.classifier
        wanted[kind.takes] = labels if kind.labels == "numbers" else one_hot(labels, classes)
    if objective.metric is not None:
        wanted["embedding"] = labels
    return wanted


def loss_of(
    objective: Objective, answers: dict[str, NDArray[np.float32]], labels: NDArray[np.int64], classes: int
) -> float:
    """The classifier's loss, a mean over photos, of its scores or cosines, float32, (n, classes)."""
    if objective.classifier is None:
        raise ValueError("There is no classifier.")
    loss, taken = _find_loss(objective.config.loss), objective.classifier.takes
    total = 0.0
    for first in range(0, len(labels), 1024):
        part = slice(first, first + 1024)
        wanted = targets(objective, labels[part], classes)[taken]
        total += float(loss(wanted, answers[taken][part])) * len(wanted)
    return total / len(labels)


def one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Class numbers, (n,), as rows with a one, float32, (n, classes)."""
    rows = np.zeros((len(labels), classes), np.float32)
    rows[np.arange(len(labels)), labels] = 1.0
    return rows


def follow(objective: Objective, scores: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """The Keras metrics that a config names, of scores, float32, (n, classes), and class numbers, (n,)."""
    values = {}
    for text in objective.config.metrics:
        kind = metric_kind(parse_call(text)[0])
        metric = _find_metric(text, scores.shape[1])
        for first in range(0, len(labels), 1024):
            part = slice(first, first + 1024)
            rows = labels[part] if kind.labels == "numbers" else one_hot(labels[part], scores.shape[1])
            metric.update_state(rows, scores[part])
        values[kind.name] = float(np.mean(np.asarray(metric.result())))
    return values


def _find_loss(text: str) -> "keras.losses.Loss":
    name, parameters = parse_call(text)
    return find_loss(name, **parameters)


def _find_metric(text: str, classes: int) -> "keras.metrics.Metric":
    name, parameters = parse_call(text)
    if "classes" in parameters:
        raise RecipeError(f"In {text!r}, leave out classes: the photos tell how many there are.")
    return find_metric(name, classes=classes, **parameters)


def _optimizer(config: TrainConfig) -> "keras.optimizers.Optimizer":
    name, parameters = parse_call(config.optimizer)
    if "learning_rate" in parameters:
        raise RecipeError(f"In {config.optimizer!r}, leave out learning_rate: it has a word of its own, learning-rate.")
    return find_optimizer(name, config.learning_rate, **parameters)


def _has_gpu() -> bool:
    """Whether there is a GPU: XLA pays there; on a few cores it compiles for a minute and is no faster then.

    What several devices tell each other, it cannot compile.
    """
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))
