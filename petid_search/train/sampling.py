"""Which photos make a batch: what an epoch draws is told by seed and epoch alone, so that a resumed run draws the same.

Each way of sampling gives an epoch's batches as arrays of places among the photos trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from petid_search.errors import RecipeError

Places: TypeAlias = NDArray[np.int64]


def shuffled(count: int, batch_size: int, *, seed: int, epoch: int) -> list[Places]:
    """Every photo once, in a random order.

    Args:
        count: of the photos.
        batch_size: photos in a batch, at least 1; the last batch holds those that are left.
        seed: of the run.
        epoch: from 0 on.

    Returns:
        int64, (batch_size,) each, places in [0, count).

    Raises:
        RecipeError: the batch size is less than 1.
    """
    _check(batch_size >= 1, f"A batch holds one photo at least; batch-size is {batch_size}.")
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def balanced(labels: NDArray[np.int64], batch_size: int, *, seed: int, epoch: int) -> list[Places]:
    """Each class as often as any other, to within one photo; an epoch is as long as that of `shuffled`.

    A class with more photos than its part gives others in each epoch; one with fewer gives each as often as another.

    Args:
        labels: int64, (photos,), the class of each.
        batch_size: photos in a batch, at least 1; all batches are full.
        seed: of the run.
        epoch: from 0 on.

    Returns:
        int64, (batch_size,) each, places in [0, photos).

    Raises:
        RecipeError: the batch size is less than 1.
    """
    _check(batch_size >= 1, f"A batch holds one photo at least; batch-size is {batch_size}.")
    rng = np.random.default_rng([seed, epoch])
    classes = _members(labels)
    total = -(-len(labels) // batch_size) * batch_size
    # Who gets one more, where the classes do not divide the epoch, is drawn anew each epoch.
    parts = np.full(len(classes), total // max(1, len(classes)))
    parts[rng.permutation(len(classes))[: total - int(parts.sum())]] += 1
    drawn = [next(_decks(members, int(part), rng)) for members, part in zip(classes, parts, strict=True) if part]
    order = rng.permutation(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)
    return list(order.reshape(-1, batch_size))


def p_k(labels: NDArray[np.int64], individuals: int, photos: int, *, seed: int, epoch: int) -> list[Places]:
    """P individuals with K photos each in every batch, for losses that compare the photos of a batch.

    Individuals take turns, so that each comes as often as any other, to within one. So do the photos of each: one comes
    a second time in a batch only where its individual has fewer than K (`few_photos` counts these). An epoch has as
    many batches as it takes to show as many photos as there are.

    Args:
        labels: int64, (photos,), whom each shows.
        individuals: P, at least 2 and no more than there are.
        photos: K, at least 2.
        seed: of the run.
        epoch: from 0 on.

    Returns:
        int64, (P · K,) each, places in [0, photos), the photos of an individual side by side.

    Raises:
        RecipeError: P or K is out of range.
    Source: Hermans et al. 2017, arXiv:1703.07737, section 2 (PK batches).
    """
    classes = _members(labels)
    _check(photos >= 2, f"It takes two photos of an individual to compare them; photos in a batch (K) are {photos}.")
    _check(individuals >= 2, f"It takes two individuals to compare them; individuals in a batch (P) are {individuals}.")
    _check(
        individuals <= len(classes),
        f"A batch cannot hold {individuals} individuals (P): there are {len(classes)} to train on. Take fewer.",
    )
    rng = np.random.default_rng([seed, epoch])
    turns = [_decks(members, photos, rng) for members in classes]
    lots = _decks(np.arange(len(classes), dtype=np.int64), individuals, rng)
    batches = -(-len(labels) // (individuals * photos))
    return [np.concatenate([next(turns[one]) for one in next(lots)]) for _ in range(batches)]


@dataclass(frozen=True, slots=True)
class FewPhotos:
    """How many classes cannot fill their part of a batch with different photos.

    Attributes:
        classes: how many there are.
        fewer: how many have fewer photos than K, and give some of them twice.
        single: how many of these have one photo only, and are compared with themselves.
    """

    classes: int
    fewer: int
    single: int


def few_photos(labels: NDArray[np.int64], photos: int) -> FewPhotos:
    """Count the classes for which `p_k` has to take a photo twice.

    Args:
        labels: int64, (photos,), the class of each.
        photos: K.
    """
    _, counts = np.unique(labels, return_counts=True)
    return FewPhotos(len(counts), int((counts < photos).sum()), int((counts == 1).sum()))


def _members(labels: NDArray[np.int64]) -> list[Places]:
    """Places of each class, by its number."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []


def _decks(those: Places, hand: int, rng: np.random.Generator) -> Iterator[Places]:
    """Hands dealt from a shuffled deck without end: none comes again before all came.

    A hand that uses up the deck is filled from a new one, with those first that it does not hold yet. A hand larger
    than the deck holds each as often as another, to within one.
    """
    deck = np.empty(0, np.int64)
    while True:
        if hand > len(those):
            yield np.concatenate([rng.permutation(those) for _ in range(-(-hand // len(those)))])[:hand]
            continue
        dealt, deck = deck[:hand], deck[hand:]
        if len(dealt) < hand:
            fresh = rng.permutation(those)
            held = np.isin(fresh, dealt)
            fresh = np.concatenate([fresh[~held], fresh[held]])
            dealt, deck = np.concatenate([dealt, fresh[: hand - len(dealt)]]), fresh[hand - len(dealt) :]
        yield dealt


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RecipeError(otherwise)
