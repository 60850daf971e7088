"""Photos that are nearly the same picture: found by SSIM, so that a split keeps them on one side."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from petid_search.dataset.manifest import LabelledPhoto
from petid_search.dataset.splits import Assigned
from petid_search.dedup.duplicates import THRESHOLD
from petid_search.dedup.pairs import find_pairs
from petid_search.dedup.thumbnails import Picture, ThumbnailStore

NearDuplicates: TypeAlias = Callable[[Sequence[LabelledPhoto]], NDArray[np.int64]]
"""Finds pairs of near-duplicates, as `near_duplicate_pairs` does."""


def near_duplicate_pairs(photos: Sequence[LabelledPhoto]) -> NDArray[np.int64]:
    """Pairs of photos that are nearly the same picture, by SSIM, those of the same bytes among them.

    Photos that cannot be read any more have no pairs.

    Returns:
        int64, (pairs, 2), places in `photos`.
    """
    with ThumbnailStore() as store:
        read = store.read([photo.path for photo in photos])
    places = np.array([place for place, one in enumerate(read) if isinstance(one, Picture)], np.int64)
    if not len(places):
        return np.empty((0, 2), np.int64)
    found = find_pairs(np.stack([one.thumbnail for one in read if isinstance(one, Picture)]), THRESHOLD)
    return np.stack([places[found.first], places[found.second]], axis=1)


def told_pairs(photos: Sequence[Assigned]) -> NDArray[np.int64]:
    """Pairs of the photos that a split puts into one group of near-duplicates.

    Returns:
        int64, (pairs, 2), places in `photos`; enough of them to link each group.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for place, one in enumerate(photos):
        if one.group is not None:
            groups[one.group].append(place)
    return np.array([pair for places in groups.values() for pair in pairwise(places)], np.int64).reshape(-1, 2)
