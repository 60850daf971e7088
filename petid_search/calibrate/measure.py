"""What photos say of similarities when each plays both parts: the animal that is known, and the stranger.

*Mated*, a photo is searched against the gallery without itself and its near-duplicates; *non-mated*, against the
gallery without its individual, as a stranger's would be. One picture under two names is an error of the labels: the two
photos are not compared, else the error would raise the threshold.

Whatever gives its photos as `Photos` can be measured: the gallery does, and so do plain arrays.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.meeting import LOOKED_AT, Meeting, Nearest, Pairs, Photos, meet

_HIGHEST: Final = 0.05
"""The share of impostor pairs, the most similar ones, that are asked whether they are one picture."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Similarities that photos reach in either part. Individuals are numbered from 0, and -1 is one without a probe.

    Attributes:
        mated: float32, (mated probes,), similarity to the probe's own individual, by its other photos; rising.
        mated_of: int32, (mated probes,), the individual of each.
        non_mated: float32, (non-mated probes,), highest similarity to any other individual; rising.
        non_mated_of: int32, (non-mated probes,), the individual of each.
        nearest: int32, (non-mated probes,), that other individual.
        genuine: float32, (pairs,), of two photos of one individual; rising.
        genuine_of: int32, (pairs,), that individual.
        impostor: float32, (pairs,), of two photos of two individuals; rising.
        impostor_of: int32, (pairs, 2), those individuals.
        photos: how many there are.
        gallery_size: how many individuals, N.
        left_out: pairs of near-duplicates under two individuals that were met and not compared.
    """

    mated: NDArray[np.float32]
    mated_of: NDArray[np.int32]
    non_mated: NDArray[np.float32]
    non_mated_of: NDArray[np.int32]
    nearest: NDArray[np.int32]
    genuine: NDArray[np.float32]
    genuine_of: NDArray[np.int32]
    impostor: NDArray[np.float32]
    impostor_of: NDArray[np.int32]
    photos: int
    gallery_size: int
    left_out: int


def measure(source: Photos) -> Samples:
    """Let at most 2,000 photos, of as many individuals as there are, play both parts.

    Time and memory are bounded by the probes, not squared in the photos. The same photos give the same samples.

    Args:
        source: the photos.
    """
    return samples_of(meet(source), source)


def samples_of(met: Meeting, source: Photos) -> Samples:
    """What the probes reached, near-duplicates left out.

    Args:
        met: what they met among these photos, as they are now.
        source: the photos.
    """
    ids, owners = source.owners()
    individuals = np.unique(owners)
    numbers = np.full(len(individuals), -1, np.int32)
    with_probe, of_probe = np.unique(met.owners, return_inverse=True)
    numbers[np.searchsorted(individuals, with_probe)] = np.arange(len(with_probe))
    by_id = np.argsort(ids)
    number_of = numbers[np.searchsorted(individuals, owners[by_id])]

    def whose(photos: NDArray[np.int64]) -> NDArray[np.int32]:
        return number_of[np.searchsorted(ids, photos, sorter=by_id)]

    own, _, _ = _first_of(met.ids, met.own, source)
    other, nearest, left_out = _first_of(met.ids, met.other, source)
    genuine, impostor, between = _pairs(met, source)
    mated = np.flatnonzero(own > -np.inf)
    mated = mated[np.argsort(own[mated], kind="stable")]
    non_mated = np.flatnonzero(other > -np.inf)
    non_mated = non_mated[np.argsort(other[non_mated], kind="stable")]
    return Samples(
        own[mated],
        of_probe[mated].astype(np.int32),
        other[non_mated],
        of_probe[non_mated].astype(np.int32),
        whose(nearest[non_mated]),
        genuine.similarity,
        whose(genuine.first),
        impostor.similarity,
        np.stack([whose(impostor.first), whose(impostor.second)], axis=1),
        len(ids),
        len(individuals),
        len(left_out | between),
    )


def _pairs(met: Meeting, source: Photos) -> tuple[Pairs, Pairs, set[tuple[int, int]]]:
    """The genuine and the impostor pairs, rising, and the impostor pairs that are one picture."""
    genuine, impostor = (pairs.rising() for pairs in met.drawn())
    genuine = genuine.at(~source.near(genuine.first, genuine.second))
    highest = np.arange(len(impostor.first))[::-1][: int(np.ceil(_HIGHEST * len(impostor.first)))]
    twins = highest[source.near(impostor.first[highest], impostor.second[highest])]
    kept = np.ones(len(impostor.first), np.bool_)
    kept[twins] = False
    between = set(zip(impostor.first[twins].tolist(), impostor.second[twins].tolist(), strict=True))
    return genuine, impostor.at(kept), between


def _first_of(
    probes: NDArray[np.int64], nearest: Nearest, source: Photos
) -> tuple[NDArray[np.float32], NDArray[np.int64], set[tuple[int, int]]]:
    """For each probe the most similar photo that is no near-duplicate of it: the best of those that count.

    Returns:
        similarity, minus infinity where there is none; its photo; the near-duplicates that came before, as pairs.
    """
    found = np.full(len(probes), -np.inf, np.float32)
    which = np.full(len(probes), -1, np.int64)
    left_out: set[tuple[int, int]] = set()
    asking = np.arange(len(probes))
    for turn in range(min(LOOKED_AT, nearest.photos.shape[1])):
        asking = asking[nearest.photos[asking, turn] >= 0]
        asked = nearest.photos[asking, turn]
        near = source.near(probes[asking], asked)
        left_out |= {_pair(*two) for two in zip(probes[asking[near]].tolist(), asked[near].tolist(), strict=True)}
        done = asking[~near]
        found[done], which[done] = nearest.similarity[done, turn], nearest.photos[done, turn]
        asking = asking[near]
        if not len(asking):
            break
    return found, which, left_out


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)
