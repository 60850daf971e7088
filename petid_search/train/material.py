"""What a training is given: photos, divided and decoded, with their classes by numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petid_search.dataset import near_duplicate_groups, read_manifest
from petid_search.dataset.manifest import LabelledPhoto
from petid_search.dataset.near_duplicates import near_duplicate_pairs
from petid_search.dataset.splits import Split
from petid_search.dataset.training_split import make_training_split, read_training_split
from petid_search.errors import DatasetError, PhotoError, RecipeError
from petid_search.train.config import TrainConfig
from petid_search.train.photos import DecodedPhotos
from petid_search.train.validation import Kept


@dataclass(frozen=True, slots=True)
class Material:
    """The photos of a training, by their places.

    Attributes:
        split: what each photo is for.
        photos: those of the split that are used, in its order, some of which may turn out unreadable.
        groups: int64, (photos,), their groups of near-duplicates.
        decoded: their pixels.
        classes: names of the individuals trained on, sorted; a class number is a place here.
        labels: int64, (photos,), class numbers; -1 for individuals that are held out.
        trained: int64, places of the photos trained on.
        kept: what is measured by.
    """

    split: Split
    photos: list[LabelledPhoto]
    groups: NDArray[np.int64]
    decoded: DecodedPhotos
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    trained: NDArray[np.int64]
    kept: Kept

    @property
    def held_out(self) -> int:
        """Individuals that are held out."""
        return int(self.kept.owners.max(initial=-1)) + 1


def photos_folder(config: TrainConfig) -> Path:
    """The folder of a config's photos.

    Raises:
        RecipeError: it names none.
        DatasetError: there is no such folder.
    """
    if config.folder is None:
        raise RecipeError("There are no photos to train on: name their folder.")
    folder = Path(config.folder)
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}: name one with a sub-folder for each class.")
    return folder


def divide(
    config: TrainConfig, earlier: Path | None, problem: Callable[[PhotoError], object]
) -> tuple[Split, list[LabelledPhoto], NDArray[np.int64]]:
    """Divide the photos of a config's folder.

    Args:
        config: the training, its shares filled in.
        earlier: a split that a training taken up again goes by; None where it begins.
        problem: told of each photo that cannot be used.

    Returns:
        the split; the photos that it uses; int64, (photos,), their groups of near-duplicates.

    Raises:
        RecipeError: the config names no folder, or a share is out of range.
        DatasetError: there is no such folder, or it cannot be divided as was asked.
        LeakError: the split given leaks.
    """
    manifest = read_manifest(photos_folder(config), problem)
    groups = near_duplicate_groups(len(manifest), near_duplicate_pairs(manifest))
    given = earlier or (None if config.split is None else Path(config.split))
    if given is not None:
        split = read_training_split(given, manifest)
    else:
        split = make_training_split(
            manifest,
            groups,
            hold_out_individuals=float(config.hold_out_individuals or 0.0),
            hold_out_photos=float(config.hold_out_photos or 0.0),
            least_photos=config.least_photos,
            seed=config.seed,
        )
    by_name = {photo.name: place for place, photo in enumerate(manifest)}
    places = [by_name[one.photo] for one in split.photos if one.role != "left out"]
    return split, [manifest[place] for place in places], groups[places]


def gather(
    split: Split,
    photos: list[LabelledPhoto],
    groups: NDArray[np.int64],
    cache: Path,
    size: int,
    *,
    problem: Callable[[PhotoError], object],
    doing: Callable[[str, int, int], object],
) -> Material:
    """Decode the photos, and number the individuals.

    Args:
        split: as `divide` gives it, like the next two.
        photos: those that it uses.
        groups: int64, (photos,), their groups of near-duplicates.
        cache: the folder of the decoded photos.
        size: side of the images, in pixels.
        problem: told of each photo that cannot be decoded, and is left out.
        doing: told of how far it is: what, how many are done, of how many.

    Raises:
        DatasetError: there are no two individuals left to train on, one has no name, or the disk is full.
    """
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        doing("Decoding", done, len(photos))

    decoded = DecodedPhotos(photos, size, cache, problem=problem, advance=advance)
    assigned = {one.photo: one for one in split.photos}
    individuals = [assigned[photo.name].individual for photo in photos]
    roles = np.array([assigned[photo.name].role for photo in photos])
    roles[~decoded.usable] = "left out"
    trained, validation, held_out = (np.flatnonzero(roles == role) for role in ("train", "validation", "held out"))
    classes = tuple(sorted({individuals[place] for place in trained}))
    if len(classes) < 2:
        raise DatasetError(f"There is nothing to tell apart: {len(classes)} individual is left to train on.")
    if "" in classes:
        raise DatasetError("The name of a class's folder is blank: give the folder a name.")
    number = {name: place for place, name in enumerate(classes)}
    labels = np.array([number.get(one, -1) for one in individuals], np.int64)
    validation = validation[labels[validation] >= 0]
    _, owners = np.unique([individuals[place] for place in held_out], return_inverse=True)
    kept = Kept(validation, labels[validation], held_out, owners.astype(np.int64), groups[held_out])
    return Material(split, photos, groups, decoded, classes, labels, trained, kept)
