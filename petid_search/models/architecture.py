"""What stands on a backbone, in words: the part of a model that its card stores and that a recipe chooses."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self, TypeAlias, get_args

from petid_search.errors import RecipeError

Pooling: TypeAlias = Literal["avg", "max", "gem"]
POOLINGS: Final[tuple[Pooling, ...]] = get_args(Pooling)

GEM_POWER: Final = 3.0
"""Of the generalised mean: fixed, since petid's models are told apart by the pooling's name alone."""

GEM_SMALLEST: Final = 1e-6
"""What GeM raises to its power at least: below zero there is no power, and at zero the root has no gradient."""

SCORING: Final = ("softmax", "sigmoid", "hard_sigmoid")
"""The activations that a classifier may end with: those whose values are in [0, 1], as scores are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """How scores for the individuals of the training come about.

    Attributes:
        kind: `softmax` stands on the pooled vector; `cosine` on the embedding, its scores being softmax(scale ·
            cosines), which is what margin losses train.
        flatten: the whole feature map, flattened, in place of the pooled vector; for `softmax` only. The embedding
            is of the pooled vector all the same.
        dense: units of the dense layers before the last one; for `softmax` only.
        activation: of these layers, by Keras's name.
        dropout: share of the numbers dropped in training after each of these layers, or before the last one where there
            are none, in [0, 1); for `softmax` only.
        batch_norm: batch normalisation between each dense layer and its activation.
        output_activation: one of SCORING; for `softmax` only.
        scale: multiplier of the cosines, dimensionless, over 0; for `cosine` only.
        centres: how many directions an individual has, of which the nearest counts, at least 1; for `cosine` only.

    Raises:
        RecipeError: something is out of range, or has nothing to act on.

    Source: Deng et al., "ArcFace", CVPR 2019, arXiv:1801.07698 (scale); Deng et al., "Sub-center ArcFace", ECCV 2020,
    eq. 2 (centres).
    """

    kind: Literal["softmax", "cosine"] = "softmax"
    flatten: bool = False
    dense: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.0
    batch_norm: bool = False
    output_activation: str = "softmax"
    scale: float = 30.0
    centres: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("softmax", "cosine"):
            raise RecipeError(f"A classifier is of the kind softmax or cosine, not {self.kind!r}: choose one of them.")
        if any(units < 1 for units in self.dense):
            raise RecipeError(f"A dense layer has at least 1 unit; the classifier's are {list(self.dense)}.")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout is a share from 0 to less than 1; it is {self.dropout:g}.")
        if not 0 < self.scale < float("inf"):
            raise RecipeError(f"The scale of a cosine classifier is a number over 0; it is {self.scale:g}.")
        if self.centres < 1:
            raise RecipeError(f"An individual has at least 1 centre; the classifier gives it {self.centres}.")
        if self.output_activation not in SCORING:
            raise RecipeError(
                f"A classifier ends with {', '.join(SCORING[:-1])} or {SCORING[-1]}, since scores are in [0, 1]; "
                f"it cannot end with {self.output_activation!r}."
            )
        if self.batch_norm and not self.dense:
            raise RecipeError(
                "Batch normalisation stands behind a dense layer: give the classifier one, or leave it off."
            )
        if self.kind == "softmax" and self.centres > 1:
            raise RecipeError("Only a cosine classifier has several centres: choose that kind, or 1 centre.")
        if self.kind == "cosine" and (
            self.flatten or self.dense or self.dropout or self.output_activation != "softmax"
        ):
            raise RecipeError(
                "A cosine classifier stands on the embedding itself: leave out flatten, dense layers, dropout and "
                "output activation, or choose the kind softmax."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Features of the backbone as it was before it was trained, which stand beside those it learnt.

    They come from a copy of a part of it that never learns. What is learnt of one species' faces tells other animals
    apart worse than before; with these beside it, it does not.

    Attributes:
        after: the layer of the backbone whose output the copy takes; up to there the backbone does not learn either.
        layer: the last layer copied, whose feature map is as large as the backbone's.
        channels: of that feature map.
        numbers: of the embedding that come from it, by a dense layer with bias.
        share: of the embedding's squared length that they have, in (0, 1), for every photo alike: what was learnt and
            what is kept are each brought to a length of its own, so that neither is loud where it happens to be long.

    Raises:
        RecipeError: something is out of range.
    """

    after: str
    layer: str
    channels: int
    numbers: int
    share: float

    def __post_init__(self) -> None:
        if not self.after or not self.layer or min(self.channels, self.numbers) < 1 or not 0 < self.share < 1:
            raise RecipeError(f"Features that are kept have layers, channels, numbers and a share; these are {self}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """From a feature map to the embedding, and to scores where there is a classifier.

    Attributes:
        pooling: from feature map to vector: the mean over its places, the maximum, or the generalised mean.
        projection: numbers of the embedding, by a dense layer with bias; None where the pooled vector is the embedding.
        classifier: None where the model only embeds.
        kept: features that stand beside the backbone's; None where none do. They need a projection.
        mirror: whether a photo's feature map is the mean of its own and of its mirror image's, turned back.

    Raises:
        RecipeError: something is out of range.
    """

    pooling: Pooling = "avg"
    projection: int | None = None
    classifier: Classifier | None = None
    kept: Kept | None = None
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise RecipeError(f"Pooling is one of {', '.join(POOLINGS)}, not {self.pooling!r}.")
        if self.projection is not None and self.projection < 1:
            raise RecipeError(f"An embedding has at least 1 number; the projection has {self.projection}.")
        if self.kept is not None and self.projection is None:
            raise RecipeError("What is kept stands beside a projection: give the head one.")

    @property
    def numbers(self) -> int | None:
        """Numbers of the embedding; None where it has as many as the feature map has channels."""
        if self.projection is None or self.kept is None:
            return self.projection
        return self.projection + self.kept.numbers

    def to_json(self) -> dict[str, Any]:
        """As JSON values, which from_json reads."""
        values = asdict(self)
        if self.classifier is not None:
            values["classifier"]["dense"] = list(self.classifier.dense)
        return values

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Make a head of what to_json gave.

        Raises:
            RecipeError: these are no such values.
        """
        _require(values, _HEAD)
        classifier = values["classifier"]
        if classifier is not None:
            _require(classifier, _CLASSIFIER)
            if not all(type(units) is int for units in classifier["dense"]):
                raise RecipeError("The units of dense layers are whole numbers.")
            classifier = Classifier(**{**classifier, "dense": tuple(classifier["dense"])})
        kept = values["kept"]
        if kept is not None:
            _require(kept, _KEPT)
            kept = Kept(**kept)
        return cls(**{**values, "classifier": classifier, "kept": kept})


_HEAD: Final[dict[str, tuple[type, ...]]] = {
    "pooling": (str,),
    "projection": (int, type(None)),
    "classifier": (dict, type(None)),
    "kept": (dict, type(None)),
    "mirror": (bool,),
}
_KEPT: Final[dict[str, tuple[type, ...]]] = {
    "after": (str,),
    "layer": (str,),
    "channels": (int,),
    "numbers": (int,),
    "share": (float,),
}
_CLASSIFIER: Final[dict[str, tuple[type, ...]]] = {
    "kind": (str,),
    "flatten": (bool,),
    "dense": (list,),
    "activation": (str,),
    "dropout": (int, float),
    "batch_norm": (bool,),
    "output_activation": (str,),
    "scale": (int, float),
    "centres": (int,),
}


def _require(values: Any, fields: Mapping[str, tuple[type, ...]]) -> None:
    if not isinstance(values, dict) or values.keys() != fields.keys():
        raise RecipeError(f"A head is described by {', '.join(fields)}.")
    for key, kinds in fields.items():
        if type(values[key]) not in kinds:  # a bool is an int to isinstance
            raise RecipeError(f"The {key} of a head is of the wrong kind.")
