"""What a training is: one frozen TrainConfig, whose words are those of the recipes and of the command line."""

import dataclasses
import math
import re
import sys
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from petid_search.errors import RecipeError

Freeze = str
"""`none`, `all`, `first-N` or `all-but-last-N`, counted in the backbone's Keras layers, its input among them."""

Pooling = Literal["avg", "max", "gem", "flatten"]
Sampler = Literal["auto", "shuffled", "balanced", "p-k"]
Schedule = Literal["constant", "cosine", "plateau"]
Padding = Literal["reflect", "constant", "varied"]
Precision = Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"]

_FREEZE: Final = re.compile(r"none|all|(?:first|all-but-last)-\d{1,4}")
PATHS: Final = ("folder", "split", "weights")
"""Words whose values are paths; in a recipe, from its own folder."""

_OF_A_STAGE: Final = ("epochs", "freeze")


def _option(help: str, default: Any, **bounds: Any) -> Any:
    """A field with what `petid train --help` says of it, and the range of its numbers."""
    return field(default=default, metadata={"help": help, **bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a training in which the same layers are frozen.

    Attributes:
        epochs: how many, 1 or more.
        freeze: which layers of the backbone do not learn.
        learning_rate: of this stage; None takes the training's.
        average: whether what counts is the mean of this stage's weights and of those that it began with, which have the
            weight of the one stage before the first that averages and of every one since, whether it helped or not.
        anew: whether the backbone learns in a stage that averages from where the training began, its frozen
            layers too, and the head from where the stage before ended: a run of its own. What the stage began with has,
            then, the weight of the run before the first such stage and of every such one since, helpful or not.

    Source: Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, "Averaging weights leads to wider optima and better
    generalization", UAI 2018, arXiv:1803.05407, algorithm 1, a stage being a cycle of the learning rate; anew: Wortsman
    et al., "Model soups", ICML 2022, arXiv:2203.05482, the uniform soup.
    """

    epochs: int
    freeze: Freeze = "all"
    learning_rate: float | None = None
    average: bool = False
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training, whole: the same config, photos and weights give the same model.

    Losses, optimisers, metrics and activations are named as by_name finds them, with parameters in brackets where they
    have any: `arcface(margin=0.3)`, `sgd(momentum=0.9)`.

    Raises:
        RecipeError: a value is out of its range, or two values contradict each other.
    """

    folder: str | None = _option("Photos, a sub-folder a class.", None)
    name: str | None = _option("What the model will be called; by default as the folder.", None)
    backbone: str = _option("A network (see `petid models backbones`), or a model to go on from.", "mobilenetv2")
    weights: str | None = _option(
        "Its weights: a FILE, `download`, or `random`; by default downloaded, or the model's own.", None
    )
    size: int | None = _option("Side of the input in pixels; by default the network's own.", None, min=32)
    pooling: Pooling | None = _option("From feature map to vector; by default avg, or the model's own.", None)
    projection: int | None = _option(
        "Numbers of the embedding; by default 512 where it learns, or as many as the model's own.", None, min=2
    )
    dense: tuple[int, ...] = _option("Dense layers before a softmax classifier.", (), min=1)
    activation: str = _option("Of the dense layers.", "relu")
    dropout: float = _option("Share of the dense layers' numbers dropped.", 0.0, min=0.0, max=0.95)
    batch_norm: bool = _option("Normalise the dense layers by batch.", False)
    output_activation: str = _option("Of the classifier whose loss takes scores.", "softmax")

    loss: str = _option(
        "Of the classifier: any of Keras, arcface, cosface, subcenter-arcface, or none.",
        "arcface(margin=0.3, scale=20)",
    )
    metric_loss: str = _option("Of the embedding: triplet-semi-hard, triplet-hard, supcon …, or none.", "none")
    metric_weight: float = _option("Weight of the embedding's loss beside the classifier's.", 1.0, min=0.0)
    optimizer: str = _option("Any of Keras.", "adam")
    learning_rate: float = _option("Its highest learning rate, where a stage names none.", 1e-3, min=0.0)
    schedule: Schedule = _option("How the learning rate goes on from there.", "cosine")
    warmup: float = _option("Share of a stage's steps in which the learning rate rises.", 0.05, min=0.0, max=0.9)
    metrics: tuple[str, ...] = _option("Keras metrics to follow on validation photos, beside petid's own.", ())

    epochs: int = _option("Times that the photos are gone through.", 30, min=1)
    batch_size: int = _option("Photos a step.", 32, min=1)
    sampler: Sampler = _option("How photos become batches; p-k for metric losses.", "auto")
    photos_per_individual: int = _option("K of p-k: photos of each individual in a batch.", 4, min=2)
    freeze: Freeze = _option("none, all, first-N or all-but-last-N layers of the backbone.", "all")
    freeze_norm: bool = _option("Hold batch normalisation fast, by its moving mean and variance.", False)
    stages: tuple[Stage, ...] = ()
    cache: bool = _option("Pass photos through a frozen backbone once only.", True)
    variants: int = _option("Augmented variants of each photo where features are cached.", 4, min=1, max=64)

    rotation: float = _option("Augment: rotated by up to so many degrees.", 0.0, min=0.0, max=180.0)
    shift: float = _option("Augment: moved by up to this share of the side.", 0.0, min=0.0, max=1.0)
    flip: bool = _option("Augment: mirrored, half of the time.", False)
    zoom: tuple[float, ...] = _option("Augment: scaled between two factors, as in 0.8,1.25.", (), min=0.1, max=10.0)
    colour: float = _option("Augment: brightness, contrast, saturation, hue.", 0.0, min=0.0, max=1.0)
    blur: float = _option("Augment: Gaussian blur up to this deviation in pixels.", 0.0, min=0.0, max=10.0)
    crop: float = _option("Augment: up to this share of the side cut off.", 0.0, min=0.0, max=0.9)
    erasing: float = _option("Augment: share of photos with a part erased.", 0.0, min=0.0, max=1.0)

    padding: Padding = _option("What augmented photos show beyond their edge.", "reflect")

    split: str | None = _option("A split to use, as a training wrote it.", None)
    hold_out_individuals: float | None = _option(
        "Share of the individuals never trained on; 0.2 where the embedding learns.", None, min=0.0, max=0.9
    )
    hold_out_photos: float | None = _option(
        "Share of a class's photos to validate on; 0.2 where a classifier learns from scores, or for metrics.",
        None,
        min=0.0,
        max=0.9,
    )
    least_photos: int = _option("Leave out individuals with fewer photos.", 1, min=1)
    monitor: str = _option(
        "Stop and keep the best by this: auto, mAP, rank_1, val_accuracy, val_loss, val_ and a metric, or none.", "auto"
    )
    patience: int | None = _option("Stop after so many epochs without a better one; by default never.", None, min=1)
    seed: int = _option("Of everything drawn.", 0, min=0, max=2**32 - 1)
    precision: Precision = _option("Of the arithmetic; auto takes mixed_float16 on a GPU.", "auto")

    distil: float = _option(
        "Weight of a loss that keeps the features of the network as it was, while it learns.", 0.0, min=0.0
    )
    keep: str | None = _option(
        "Set features of the network as it was beside those learnt: those of this layer, whitened.", None
    )
    keep_share: float | None = _option(
        "Share of the embedding's squared length that they have; by default 0.4.", None, min=0.01, max=0.99
    )
    blend: float = _option(
        "Weight of what the network learnt in the finished model; the rest keeps what it knew before.",
        1.0,
        min=0.0,
        max=1.0,
    )
    mirror: bool = _option("Let the finished model see each photo and its mirror image: twice the time.", False)
    embed_size: int | None = _option(
        "Side of the finished model's input, which may be larger than the one trained at; by default the same.",
        None,
        min=32,
    )
    half: bool = _option("Store the weights in 16 bits: half the size.", False)
    keep_classifier: bool = _option("Keep the classifier in the model; without, it only embeds.", True)
    purpose: str | None = _option("For the card: what the model is for.", None)
    limits: str | None = _option("For the card: what it is not for.", None)
    data: str | None = _option("For the card: whose the photos are, and under which licence.", None)
    licence: str | None = _option("For the card: of the model's weights.", None)

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            _check_range(one, getattr(self, one.name))
            if self.stages and one.name in _OF_A_STAGE and getattr(self, one.name) != one.default:
                raise RecipeError(_stages_have(one.name))
        for freeze in (self.freeze, *(stage.freeze for stage in self.stages)):
            if not _FREEZE.fullmatch(freeze):
                raise RecipeError(
                    f"freeze is none, all, first-N or all-but-last-N with a number for N; it is {freeze!r}."
                )
        for stage in self.stages:
            rate = stage.learning_rate
            if stage.epochs < 1 or (rate is not None and not 0 < rate < math.inf):
                raise RecipeError("A stage needs 1 epoch or more, and a learning-rate over 0 if any.")
        if self.loss == "none" and self.metric_loss == "none":
            raise RecipeError("There is no loss to train with: name a loss or a metric-loss.")
        if self.zoom and (len(self.zoom) != 2 or self.zoom[0] > self.zoom[1]):
            raise RecipeError(f"zoom is two factors, the smaller one first, as in 0.8,1.25; it is {list(self.zoom)}.")
        if self.embed_size is not None and self.pooling == "flatten":
            raise RecipeError("What flattens takes photos of the size trained at only: leave out embed-size.")
        if any(stage.average for stage in self.stages):
            if self.stages[0].average:
                raise RecipeError(
                    "average is of a stage and those before it, and the first has none: leave it out there."
                )
            if not self.freeze_norm or (self.batch_norm and self.dense):
                raise RecipeError(
                    "average mixes weights, which normalisation must not have moved: add freeze-norm, no batch-norm."
                )
        if any(stage.anew and not stage.average for stage in self.stages):
            raise RecipeError("anew is of a stage that averages, so not of the first: add average, or leave anew out.")
        if self.blend < 1 and not self.freeze_norm:
            raise RecipeError("blend mixes weights, which normalisation must not have moved: add freeze-norm.")
        if self.distil and all(stage.freeze == "all" for stage in self.plan):
            raise RecipeError("distil is for layers that learn, and all are frozen: freeze fewer, or leave it out.")
        if self.keep is not None and (self.keep_classifier or self.pooling == "flatten"):
            raise RecipeError(
                "keep changes the embedding, which the classifier was trained on: add no-keep-classifier."
            )
        if self.keep is None and self.keep_share is not None:
            raise RecipeError("keep-share goes with keep: name a layer to keep, or leave keep-share out.")
        if not self.learning_rate > 0:
            raise RecipeError("learning-rate must be over 0.")

    @property
    def plan(self) -> tuple[Stage, ...]:
        """The stages; where none are given, one of all epochs."""
        return self.stages or (Stage(epochs=self.epochs, freeze=self.freeze),)

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain values by its words; what stands at its default is left out."""
        values = {}
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if value != one.default and value is not None and value != ():
                values[word(one.name)] = _plain(value)
        return values


def word(name: str) -> str:
    """A field's word in recipes and options."""
    return name.replace("_", "-")


def make_config(values: dict[str, Any], *, source: str = "the recipe", folder: Path | None = None) -> TrainConfig:
    """Make a config of plain values by their words, as a recipe holds them; `_` may stand for `-`.

    Args:
        values: by word.
        source: where they come from, for messages.
        folder: what relative paths start from; by default where petid was started.

    Raises:
        RecipeError: a word is unknown, and which is meant; or a value is of the wrong kind or out of range.
    """
    hints = get_type_hints(TrainConfig)
    fields = {one.name: one for one in dataclasses.fields(TrainConfig)}
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in fields:
            raise RecipeError(f"{source} has an unknown word {key!r}. {nearest(key, [word(one) for one in fields])}")
        if name == "stages":
            given[name] = tuple(_stage(one, source) for one in _list(key, value, source))
        else:
            given[name] = _converted(key, value, hints[name], source)
        if folder is not None and name in PATHS and given[name] is not None:
            given[name] = placed(name, given[name], folder)
    for name in _OF_A_STAGE:
        # An epochs that equals its default cannot be told from none afterwards.
        if given.get("stages") and name in given:
            raise RecipeError(f"{source}: {_stages_have(name)}")
    try:
        return TrainConfig(**given)
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from None


def nearest(received: str, known: list[str]) -> str:
    """Which of the known words is meant, as a sentence; case, `_` and `-` do not count."""
    by_key = {_key(one): one for one in known}
    close = get_close_matches(_key(received), by_key, 1, 0.5)
    return f"Did you mean {by_key[close[0]]!r}?" if close else f"Expected one of: {', '.join(known)}."


def _key(text: str) -> str:
    return text.lower().replace("_", "-")


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Take `name(key=value, …)` apart; brackets may be missing.

    Raises:
        RecipeError: it is not of that form.
    """
    found = re.fullmatch(r"\s*([\w.-]+)\s*(?:\(([^()]*)\))?\s*", text)
    if found is None:
        raise RecipeError(f"{text!r} is not a name, or a name with parameters in brackets as in 'sgd(momentum=0.9)'.")
    parameters: dict[str, Any] = {}
    for part in filter(None, (one.strip() for one in (found[2] or "").split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key.isidentifier():
            raise RecipeError(f"In {text!r}, {part!r} is not a parameter: write it as key=value.")
        if key in parameters:
            raise RecipeError(f"In {text!r}, {key} is given twice: leave one out.")
        parameters[key] = _value(value)
    return found[1], parameters


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Stage):
        pairs = ((one.name, getattr(value, one.name)) for one in dataclasses.fields(value))
        return {word(name): one for name, one in pairs if one is not None and one is not False}
    return value


def placed(name: str, value: str, folder: Path) -> str:
    """A path of a config as it is found from a folder; a word that stands in place of one stays."""
    if name == "weights" and value in ("download", "random"):
        return value
    return str(folder / Path(value).expanduser())


def _stages_have(name: str) -> str:
    return f"Each of the stages has epochs and freeze of its own: leave out {name}, or the stages."


def limits(one: "dataclasses.Field[Any]") -> str | None:
    """What range a field's numbers have, in words; None where they have none."""
    least, most = one.metadata.get("min"), one.metadata.get("max")
    if least is None:
        return None
    return f"{least} or more" if most is None else f"between {least} and {most}"


def _check_range(one: "dataclasses.Field[Any]", value: Any) -> None:
    least, most = one.metadata.get("min"), one.metadata.get("max")
    for number in value if isinstance(value, tuple) else (value,):
        if least is None or number is None:
            continue
        if not least <= number <= (sys.float_info.max if most is None else most):
            raise RecipeError(f"{word(one.name)} must be {limits(one)}; it is {number}.")


def _list(key: str, value: Any, source: str) -> list[Any]:
    if not isinstance(value, list):
        raise RecipeError(f"{source}: {key} must be a list; it is {value!r}.")
    return value


def _stage(value: Any, source: str) -> Stage:
    if not isinstance(value, dict):
        raise RecipeError(
            f"{source}: each of the stages is a table: epochs, and freeze, learning-rate, average or anew if any."
        )
    hints = get_type_hints(Stage)
    given = {}
    for key, one in value.items():
        name = key.replace("-", "_")
        if name not in hints:
            raise RecipeError(
                f"{source}: a stage has an unknown word {key!r}. {nearest(key, [word(one) for one in hints])}"
            )
        given[name] = _converted(key, one, hints[name], source)
    if "epochs" not in given:
        raise RecipeError(f"{source}: a stage lacks its epochs.")
    return Stage(**given)


def _converted(key: str, value: Any, hint: Any, source: str) -> Any:
    """The value, if it is of the kind that a field takes; whole numbers serve as floats, one value as a list of one."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if _is_optional(hint) else [hint]
    if value is None and _is_optional(hint):
        return None
    kind = kinds[0]
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_converted(key, one, get_args(kind)[0], source) for one in items)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise RecipeError(f"{source}: {key} is {value!r}. {nearest(str(value), list(get_args(kind)))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise RecipeError(f"{source}: {key} must be {names[kind]}; it is {value!r}.")
    return value


def _is_optional(hint: Any) -> bool:
    return type(None) in get_args(hint)
