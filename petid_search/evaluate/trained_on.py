"""What of an evaluation's photos a model was trained on, by the split that its bundle holds."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace

from petid_search.dataset.manifest import LabelledPhoto
from petid_search.models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Training:
    """The photos that a model was trained on.

    Attributes:
        photos: sha256 of each.
        individuals: their names.
    """

    photos: frozenset[str]
    individuals: frozenset[str]


@dataclass(frozen=True, slots=True)
class Known:
    """How much of what was measured the model was trained on: where that is not nothing, the figures flatter.

    Attributes:
        photos: by their bytes.
        individuals: by their names; those of whom other photos were measured are among them.
    """

    photos: int
    individuals: int


def training_of(bundle: Bundle) -> Training | None:
    """What a model was trained on; None where its bundle does not say.

    Photos that training only validated on are not among it, nor are the individuals that it held out. Of a model that
    comes with petid, the names are not told: they are another's, and often mere numbers, as many a folder has.

    Raises:
        ModelError: the bundle is damaged.
    """
    split = bundle.split()
    if split is None:
        return None
    training = _read(split)
    return replace(training, individuals=frozenset()) if bundle.is_shipped else training


def known(training: Training, measured: Iterable[LabelledPhoto]) -> Known:
    """Count how many of the photos measured, and of their individuals, a model was trained on."""
    measured = list(measured)
    names = {photo.individual for photo in measured}
    return Known(sum(photo.sha256 in training.photos for photo in measured), len(names & training.individuals))


def _read(split: str) -> Training:
    trained = [row for row in csv.DictReader(io.StringIO(split, newline="")) if row["role"] == "train"]
    return Training(frozenset(row["sha256"] for row in trained), frozenset(row["individual"] for row in trained))
