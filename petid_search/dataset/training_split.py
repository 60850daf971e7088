"""What a model is trained on, and what is kept from it to measure it by, without leaks and the same for a seed.

Retrieval is measured on individuals that nothing was learnt from, a classifier on other photos of those that it knows.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.dataset.manifest import LabelledPhoto
from petid_search.dataset.near_duplicates import NearDuplicates, near_duplicate_pairs, told_pairs
from petid_search.dataset.split_file import fit_split, leaks, read_split, refuse_leaks, used_photos
from petid_search.dataset.splits import (
    Role,
    Split,
    assign,
    families_of,
    near_duplicate_groups,
    repeated_bytes,
    shared_groups,
)
from petid_search.errors import DatasetError, RecipeError

_FEWEST: Final = 2
"""Individuals that are held out, if any are, and that are left to train on: of one alone, nothing can be told apart."""


def make_training_split(
    photos: Sequence[LabelledPhoto],
    groups: NDArray[np.int64],
    *,
    hold_out_individuals: float = 0.0,
    hold_out_photos: float = 0.2,
    least_photos: int = 1,
    seed: int = 0,
) -> Split:
    """Divide the photos of a folder into `train`, `validation` and `held out`.

    The same photos, groups and seed are divided the same, in whatever order they come. Of files with the same bytes,
    the first stands for all; where they lie under two names, none is used.

    Args:
        photos: the manifest.
        groups: int64, (photos,), the group of near-duplicates of each, as `near_duplicate_groups` numbers them.
        hold_out_individuals: share of the individuals to hold out, in [0, 1), counted among those that can be searched
            for: with two photos that are not near-duplicates. If any, at least two are held out and two are left.
            Individuals that share near-duplicates stay together.
        hold_out_photos: share of the photos of each of the others to validate on, in [0, 1), by whole groups of
            near-duplicates; some always stay to train on. Shares of less than one photo add up over individuals. A
            picture that stands under two names is trained on.
        least_photos: individuals with fewer photos are left out, at least 1.
        seed: of what is drawn.

    Returns:
        A split of the protocol `training`, in the order of the manifest.

    Raises:
        DatasetError: there are no two individuals to train on, or nothing that can be held out as was asked.
        RecipeError: a share or a number is out of range.
    """
    _check_shares(hold_out_individuals, hold_out_photos, least_photos)
    order = sorted(range(len(photos)), key=lambda place: photos[place].name)
    named, grouped = [photos[place] for place in order], np.asarray(groups, np.int64)[order]
    reasons = repeated_bytes(named)
    by_individual = _by_individual(named, reasons, least_photos)
    rng = np.random.default_rng(seed)
    held_out = _draw_held_out(by_individual, grouped, hold_out_individuals, rng) if hold_out_individuals else set()
    roles: dict[int, Role] = {place: "held out" for name in held_out for place in by_individual[name]}
    trained = {name: places for name, places in by_individual.items() if name not in held_out}
    roles |= dict.fromkeys((place for places in trained.values() for place in places), "train")
    if hold_out_photos:
        roles |= dict.fromkeys(_draw_validation(trained, grouped, hold_out_photos, rng), "validation")
    assigned = assign(named, grouped, roles, reasons)
    in_place = dict(zip(order, assigned, strict=True))
    return Split("training", tuple(in_place[place] for place in range(len(photos))))


def read_training_split(
    file: Path, photos: Sequence[LabelledPhoto], near_duplicates: NearDuplicates = near_duplicate_pairs
) -> Split:
    """Read a training split again, fit it to the folder's photos and audit it.

    Args:
        file: as `write_split` wrote it, or another program.
        photos: the folder's manifest.
        near_duplicates: finds the pairs of near-identical photos; those that the split tells of count, too.

    Raises:
        DatasetError: it cannot be read, is none for training, or the folder does not hold what it names.
        LeakError: it has on two sides what belongs on one.
    """
    split = read_split(file)
    if split.protocol != "training":
        raise DatasetError(
            f"The split {file} is one for an evaluation ({split.protocol}), not for training: "
            "take one with the roles train, validation and held out, or have a new one made."
        )
    fitted = fit_split(split, photos, source=file)
    used = used_photos(fitted)
    by_name = {photo.name: photo for photo in photos}
    entries = [by_name[one.photo] for one in used.photos]
    pairs = np.concatenate([near_duplicates(entries), told_pairs(used.photos)])
    refuse_leaks(leaks(used, entries, near_duplicate_groups(len(entries), pairs)), file)
    return fitted


def held_out_of(split: Split, source: Path) -> Split:
    """Of a training split, the individuals that were never trained on, each photo to be searched for among all others.

    Args:
        split: of the protocol `training`.
        source: the file that it was read from, for messages.

    Returns:
        A split of the protocol `leave-one-out`; all other photos are left out.

    Raises:
        DatasetError: nobody is held out.
    """
    if not any(one.role == "held out" for one in split.photos):
        raise DatasetError(
            f"The training split {source} holds no individual out, so there is nobody to measure on: "
            "train with --hold-out-individuals, or leave out --split."
        )
    photos = (
        replace(one, role="both")
        if one.role == "held out"
        else replace(one, role="left out", reason=one.reason or "the model learnt from it, or from its individual")
        for one in split.photos
    )
    return Split("leave-one-out", tuple(photos))


def _check_shares(individuals: float, photos: float, least_photos: int) -> None:
    for word, share in (("hold-out-individuals", individuals), ("hold-out-photos", photos)):
        if not 0 <= share < 1:
            raise RecipeError(f"{word} is a share from 0 to below 1; it is {share:g}.")
    if least_photos < 1:
        raise RecipeError(f"least-photos is at least 1; it is {least_photos}.")


def _by_individual(photos: Sequence[LabelledPhoto], reasons: dict[int, str], least_photos: int) -> dict[str, list[int]]:
    """Places of each individual's photos, by name; why those of others are left out is added to the reasons."""
    by_individual: dict[str, list[int]] = defaultdict(list)
    for place, photo in enumerate(photos):
        if place not in reasons:
            by_individual[photo.individual].append(place)
    for name, places in list(by_individual.items()):
        if len(places) < least_photos:
            reasons |= dict.fromkeys(places, f"its individual has {len(places)} of the {least_photos} photos wanted")
            del by_individual[name]
    if len(by_individual) < _FEWEST:
        only = "one individual only" if by_individual else "nobody"
        least = f" with {least_photos} photos or more" if least_photos > 1 else ""
        raise DatasetError(
            f"The photos that can be used show {only}{least}, and it takes two to learn to tell them apart: "
            "name the folder that holds the individuals' folders" + (", or ask for fewer photos." if least else ".")
        )
    return dict(sorted(by_individual.items()))


def _draw_held_out(
    by_individual: Mapping[str, list[int]], groups: NDArray[np.int64], share: float, rng: np.random.Generator
) -> set[str]:
    """About a share of the individuals that can be searched for, by whole families."""
    searchable = {name for name, places in by_individual.items() if len(np.unique(groups[places])) > 1}
    families = families_of(groups, by_individual, shared_groups(groups, by_individual))
    drawn = [families[number] for number in rng.permutation(len(families)) if searchable & set(families[number])]
    wanted = max(_FEWEST, share * len(searchable))
    held_out: set[str] = set()
    # By chance first; where that leaves too few, because families are large, the smallest of the others.
    for family in [*drawn, *sorted(drawn, key=len)]:
        if held_out.issuperset(family) or len(by_individual) - len(held_out) - len(family) < _FEWEST:
            continue
        count = len(searchable & held_out)
        if count < _FEWEST or count + len(searchable & set(family)) / 2 <= wanted:
            held_out.update(family)
    if len(searchable & held_out) < _FEWEST:
        raise DatasetError(
            "Too few individuals have two photos that are not near-duplicates: it takes two to hold out, and two more "
            "to train on. Add other photos, or set hold-out-individuals to 0."
        )
    return held_out


def _draw_validation(
    trained: Mapping[str, list[int]], groups: NDArray[np.int64], share: float, rng: np.random.Generator
) -> list[int]:
    """About a share of each individual's photos, by whole groups, none of them shared; each keeps one to train on."""
    shared = shared_groups(groups, trained)
    names = list(trained)
    drawn: list[int] = []
    # Systematic sampling: chances of less than a whole group are summed up, and each time they pass one, one is taken.
    chances = 0.5
    for number in rng.permutation(len(names)):
        places = trained[names[number]]
        sizes = Counter(int(groups[place]) for place in places)
        own = [group for group in dict.fromkeys(int(groups[place]) for place in places) if group not in shared]
        left = len(sizes)
        wanted = share * len(places)
        for group in rng.permutation(np.array(own, np.int64)).tolist():
            if wanted <= 0 or left == 1:
                break
            chances += min(1.0, wanted / sizes[group])
            wanted -= sizes[group]
            if chances >= 1:
                chances -= 1
                left -= 1
                drawn += [place for place in places if groups[place] == group]
    if not drawn:
        raise DatasetError(
            f"No photo can be held out to validate on: a share of {share:g} is not one photo of these, or nobody has "
            "two photos that are not near-duplicates. Add other photos, or give another hold-out-photos (0 for none)."
        )
    return drawn
