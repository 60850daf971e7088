"""Losses, optimisers, metrics and activations by their names: petid's own and all of Keras's.

A name is written as Keras writes its class (`CategoricalCrossentropy`), with underscores (`categorical_crossentropy`)
or with hyphens, in any case; the old short ones (`mse`, `kld`) are understood, too. Keras is imported when
something of its own is asked for, and not for `OUR_LOSSES`.
"""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from petid_search.errors import RecipeError
from petid_search.models.backbones import import_keras

if TYPE_CHECKING:
    import keras

Labels = Literal["numbers", "one-hot"]
"""How a photo's class is given: int, (n,), in [0, classes); or float32, (n, classes), with a single 1 in a row."""


@dataclass(frozen=True)
class LossKind:
    """What a loss asks of the model and of the labels that it is given."""

    name: str
    """As it is listed: a name of ours, or Keras's class name."""
    takes: Literal["scores", "cosines", "embeddings"]
    """`scores`, (n, classes): a classifier's output, [0, 1] after a softmax. `cosines`, (n, classes): of a cosine
    classifier, in [-1, 1]. `embeddings`, (n, d), of unit length: the loss is a metric loss and needs several
    photos of an individual in a batch."""
    labels: Labels
    constructor: str
    """Class in petid_search.models.losses or in keras.losses."""
    source: str
    """Where it comes from."""
    centres: int = 1
    """Centres a class that the cosine classifier is to have."""
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Parameters of the class that the name stands for, and which can therefore not be given."""


@dataclass(frozen=True)
class MetricKind:
    """What a metric asks of the labels that it is given; its predictions are a classifier's scores, (n, classes)."""

    name: str
    """As it is listed: `accuracy`, `crossentropy`, or Keras's name."""
    labels: Labels


OUR_LOSSES: Mapping[str, LossKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            LossKind(
                "triplet-semi-hard",
                "embeddings",
                "numbers",
                "TripletSemiHardLoss",
                "Schroff et al. 2015, arXiv:1503.03832",
            ),
            LossKind(
                "triplet-hard", "embeddings", "numbers", "TripletHardLoss", "Hermans et al. 2017, arXiv:1703.07737"
            ),
            LossKind(
                "triplet-hard-soft",
                "embeddings",
                "numbers",
                "TripletHardLoss",
                "Hermans et al. 2017, arXiv:1703.07737",
                # The soft loss has no margin: one that was given would change nothing.
                fixed=MappingProxyType({"soft": True, "margin": 1.0}),
            ),
            LossKind(
                "supcon", "embeddings", "numbers", "SupervisedContrastiveLoss", "Khosla et al. 2020, arXiv:2004.11362"
            ),
            LossKind("arcface", "cosines", "numbers", "ArcFaceLoss", "Deng et al. 2019, arXiv:1801.07698"),
            LossKind("subcenter-arcface", "cosines", "numbers", "ArcFaceLoss", "Deng et al. 2020, ECCV", centres=3),
            LossKind("cosface", "cosines", "numbers", "CosFaceLoss", "Wang et al. 2018, arXiv:1801.09414"),
        )
    }
)

REFUSED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "losses": {"Loss": "it is what all losses are made from", "CTC": "it is for sequences"},
        "optimizers": {
            "Optimizer": "it is what all optimisers are made from",
            "LossScaleOptimizer": "it wraps another one, which mixed precision does without being asked",
            "MultiOptimizer": "it wraps others, each for some layers",
        },
        "metrics": {
            "Metric": "it is what all metrics are made from",
            "MeanMetricWrapper": "it wraps a function",
            "Mean": "it averages numbers and does not look at labels",
            "Sum": "it adds up numbers and does not look at labels",
        },
        "activations": {"threshold": "it needs two numbers beside its input"},
    }
)
"""What cannot serve in training a classifier or an embedding, and why, by Keras's module and name."""

_ONE_OF = MappingProxyType(
    {"losses": "loss", "optimizers": "optimiser", "metrics": "metric", "activations": "activation"}
)
_NUMBERS_LOSSES = frozenset({"SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy"})
_NUMBERS_METRICS = frozenset(
    {
        "SparseCategoricalAccuracy",
        "SparseCategoricalCrossentropy",
        "SparseTopKCategoricalAccuracy",
        "IoU",
        "MeanIoU",
    }
)
_ALIASES = MappingProxyType(
    {
        "mse": "meansquarederror",
        "mae": "meanabsoluteerror",
        "mape": "meanabsolutepercentageerror",
        "msle": "meansquaredlogarithmicerror",
        "bce": "binarycrossentropy",
        "kld": "kldivergence",
        "kullbackleiblerdivergence": "kldivergence",
        "cosineproximity": "cosinesimilarity",
        "acc": "accuracy",
        "ce": "crossentropy",
        "tripletsemihardloss": "tripletsemihard",
        "triplethardloss": "triplethard",
        "arcfaceloss": "arcface",
        "cosfaceloss": "cosface",
        "subcentrearcface": "subcenterarcface",
        "supervisedcontrastive": "supcon",
        "supervisedcontrastiveloss": "supcon",
    }
)
"""Keras's and Keras 2's other names, and what people call ours; both sides as `_key` writes them."""


def loss_names() -> list[str]:
    """List every loss: ours, then Keras's class names."""
    return [*OUR_LOSSES, *_classes("losses", "Loss")]


def optimizer_names() -> list[str]:
    """List every optimiser by Keras's class name."""
    return list(_classes("optimizers", "Optimizer"))


def metric_names() -> list[str]:
    """List every metric: `accuracy` and `crossentropy`, Keras's class names, and its functions that have no class."""
    return list(_metrics())


def activation_names() -> list[str]:
    """List every activation by the name of Keras's function."""
    return list(_activations())


def loss_kind(name: str) -> LossKind:
    """Tell what a loss takes. Ours are told without importing Keras.

    Raises:
        RecipeError: there is no such loss, or it cannot serve.
    """
    for kind in OUR_LOSSES.values():
        if _key(kind.name) == _resolved(name):
            return kind
    found = _find("losses", name, loss_names())
    return LossKind(
        found,
        takes="embeddings" if found == "Circle" else "scores",
        labels="numbers" if found == "Circle" or found in _NUMBERS_LOSSES else "one-hot",
        constructor=found,
        source="Sun et al. 2020, arXiv:2002.10857" if found == "Circle" else f"keras.losses.{found}",
    )


def find_loss(name: str, /, **parameters: Any) -> "keras.losses.Loss":
    """Make a loss.

    Args:
        name: one of `loss_names()`.
        parameters: of its class, such as `margin`.

    Raises:
        RecipeError: there is no such loss or parameter, or a value is out of range.
    """
    kind = loss_kind(name)
    if kind.name in OUR_LOSSES:
        import_keras()
        from petid_search.models import losses as module
    else:
        module = import_keras().losses
    return _make(
        kind.name, getattr(module, kind.constructor), parameters, kind.fixed, hidden={"name", "reduction", "dtype"}
    )


def find_optimizer(
    name: str, learning_rate: "float | keras.optimizers.schedules.LearningRateSchedule", /, **parameters: Any
) -> "keras.optimizers.Optimizer":
    """Make an optimiser.

    Args:
        name: one of `optimizer_names()`.
        learning_rate: a number > 0, or a schedule of Keras.
        parameters: of its class, such as `momentum`.

    Raises:
        RecipeError: there is no such optimiser or parameter, or a value is out of range.
    """
    found = _find("optimizers", name, optimizer_names())
    if isinstance(learning_rate, int | float):
        if not 0 < learning_rate < math.inf:
            raise RecipeError(f"learning_rate must be a number > 0. Got {learning_rate!r} instead.")
        learning_rate = float(learning_rate)  # Keras refuses whole numbers
    constructor = getattr(import_keras().optimizers, found)
    return _make(found, constructor, parameters, {"learning_rate": learning_rate}, hidden={"name"})


def metric_kind(name: str) -> MetricKind:
    """Tell what labels a metric takes.

    Raises:
        RecipeError: there is no such metric, or it cannot serve.
    """
    found = _find("metrics", name, metric_names())
    return MetricKind(found, "numbers" if found in _NUMBERS_METRICS else "one-hot")


def find_metric(name: str, /, *, classes: int | None = None, **parameters: Any) -> "keras.metrics.Metric":
    """Make a metric, to be given labels as its `metric_kind` says, and scores.

    `accuracy` is the share of photos whose true class has the highest score, `crossentropy` the categorical one, as
    when Keras is given these words. F1 and F-beta are the mean over classes, unless `average` says otherwise.

    Args:
        name: one of `metric_names()`.
        classes: of the classifier, > 0; only the IoU metrics need it.
        parameters: of its class, such as `k` of `TopKCategoricalAccuracy`.

    Raises:
        RecipeError: there is no such metric or parameter, one that it needs is missing, or a value is out of range.
    """
    found = metric_kind(name).name
    metric = _metrics()[found]
    if not inspect.isclass(metric):
        return _make(
            found, import_keras().metrics.MeanMetricWrapper, parameters, {"fn": metric, "name": found}, {"dtype"}
        )
    fixed: dict[str, Any] = {"name": found} if found in ("accuracy", "crossentropy") else {}
    if "num_classes" in inspect.signature(metric).parameters:
        if classes is None:
            raise RecipeError(f"The metric {found} needs to know the number of classes: give classes.")
        fixed["num_classes"] = classes
        if "target_class_ids" in inspect.signature(metric).parameters:
            parameters = {"target_class_ids": list(range(classes)), **parameters}
        fixed["sparse_y_pred"] = False  # scores, not class numbers
    if "average" in inspect.signature(metric).parameters:
        parameters = {"average": "macro", **parameters}
    return _make(found, metric, parameters, fixed, hidden={"name", "dtype", "sparse_y_true"})


def find_activation(name: str) -> Callable[[Any], Any]:
    """Find an activation: a function of Keras that any layer takes and that is saved by its name.

    Args:
        name: one of `activation_names()`.

    Raises:
        RecipeError: there is no such activation, or it cannot serve.
    """
    activation: Callable[[Any], Any] = _activations()[_find("activations", name, activation_names())]
    return activation


def _classes(module: str, base: str) -> dict[str, Any]:
    """Collect a Keras module's classes that can serve."""
    members = vars(getattr(import_keras(), module))
    return {
        name: members[name]
        for name in sorted(members)
        if inspect.isclass(members[name]) and issubclass(members[name], members[base]) and name not in REFUSED[module]
    }


def _functions(module: str) -> dict[str, Any]:
    """Collect a Keras module's functions that can serve."""
    members = vars(getattr(import_keras(), module))
    tools = {"get", "serialize", "deserialize"}
    return {
        name: members[name]
        for name in sorted(members)
        if inspect.isfunction(members[name]) and name not in tools and name not in REFUSED[module]
    }


def _metrics() -> dict[str, Any]:
    """Collect metrics, classes and functions, by name."""
    classes = _classes("metrics", "Metric")
    # Keras's class of this name counts scores that equal the label to the last bit; its word means this one.
    del classes["Accuracy"]
    words = {"accuracy": classes["CategoricalAccuracy"], "crossentropy": classes["CategoricalCrossentropy"]}
    keys = {_key(name) for name in classes}
    functions = {name: function for name, function in _functions("metrics").items() if _key(name) not in keys}
    return {**words, **classes, **functions}


def _activations() -> dict[str, Any]:
    """Collect activations by name."""
    return _functions("activations")


def _key(name: str) -> str:
    """Write a name as it is compared: `Categorical_Crossentropy` and `categorical-crossentropy` are one."""
    return re.sub(r"[\s_-]", "", name).lower()


def _resolved(name: str) -> str:
    """Write a name as it is compared, its alias replaced."""
    return _ALIASES.get(_key(name), _key(name))


def _find(module: str, name: str, names: list[str]) -> str:
    """Find a name of a Keras module among those there are, as it is listed there.

    Raises:
        RecipeError: it is not there; names the nearest.
    """
    what = _ONE_OF[module]
    by_key = {_key(there): there for there in names}
    key = _resolved(name)
    if key in by_key:
        return by_key[key]
    for refused, reason in REFUSED[module].items():
        if _key(refused) == key:
            raise RecipeError(f"The {what} {name!r} cannot serve here: {reason}. Take one of: {', '.join(names)}.")
    raise RecipeError(f"Unknown {what} {name!r}. {_nearest(key, {**by_key, **_aliases_of(by_key)}, names)}")


def _aliases_of(by_key: Mapping[str, str]) -> dict[str, str]:
    """Collect the aliases of names, so that a mistake in one is understood as well."""
    return {alias: by_key[key] for alias, key in _ALIASES.items() if key in by_key}


def _nearest(key: str, by_key: Mapping[str, str], names: list[str]) -> str:
    """Say which name was probably meant, or else which there are."""
    nearest = difflib.get_close_matches(key, by_key, n=1)
    return f"Did you mean {by_key[nearest[0]]!r}?" if nearest else f"Expected one of: {', '.join(names)}."


def _make(
    name: str, constructor: Any, parameters: Mapping[str, Any], fixed: Mapping[str, Any], hidden: set[str]
) -> Any:
    """Call a constructor, its parameters checked by name first.

    Args:
        name: what is made, for messages.
        constructor: a class of Keras or ours.
        parameters: as the recipe gives them.
        fixed: given here, and not by the recipe.
        hidden: parameters that are not the recipe's business.

    Raises:
        RecipeError: a parameter is unknown or missing, or its value does not suit.
    """
    signature = inspect.signature(constructor).parameters.values()
    by_name = [parameter for parameter in signature if parameter.kind is not parameter.VAR_KEYWORD]
    offered = [parameter.name for parameter in by_name if parameter.name not in {*fixed, *hidden}]
    for given in parameters:
        if given not in offered:
            if not offered:
                raise RecipeError(f"{name} has no parameters: leave out {given!r}.")
            raise RecipeError(
                f"{name} has no parameter {given!r}. {_nearest(given, {one: one for one in offered}, offered)}"
            )
    for parameter in by_name:
        if parameter.default is parameter.empty and parameter.name not in {*parameters, *fixed}:
            raise RecipeError(f"{name} needs the parameter {parameter.name!r}: give it a value.")
    try:
        return constructor(**parameters, **fixed)
    except (TypeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RecipeError(f"{name} cannot be made of {dict(parameters)!r}: {lines[0]}") from error
