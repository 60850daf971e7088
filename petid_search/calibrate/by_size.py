"""What strangers reach in galleries of every size that individuals can be drawn to, from one photo of one on.

What a stranger's highest similarity is depends on how many individuals are enrolled and with how many photos each. So
galleries are drawn from the individuals at hand, and each other individual is the stranger to them. The independent
unit is that individual, and not the galleries that it meets or its photos, which rise and fall together: so many
individuals stand behind every size, however many galleries were drawn.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.meeting import choose_probes
from petid_search.index.rule import similarity_by_individual

BINS: Final = 8193
"""Similarities are counted in steps of 1/4096; the last step is for 1 alone."""
_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_MOST_PHOTOS: Final = (1, 2, 5, 10, 20)
_APART: Final = 1.25
"""Galleries are drawn with more photos each only where these are so many times as many on average."""
_DRAWS: Final = 8
_BLOCK: Final = 256


@dataclass(frozen=True, slots=True)
class BySize:
    """What probes reach, in shares by bin of similarity; each individual weighs the same.

    Attributes:
        individuals: how many play the stranger.
        photos: how many photos all of them have.
        sizes: (sizes,), individuals of the galleries drawn, N, rising.
        photos_each: (layers,), mean number of photos of an individual in them, rising.
        strangers: float64, (layers, sizes, BINS), of strangers by their highest similarity; each sums up to 1.
        mated: float64, (layers, BINS), of probes by the similarity to their own individual; each sums up to 1, or to 0
            where nobody has two photos.
        mated_individuals: how many have two photos that are no near-duplicates.
    """

    individuals: int
    photos: int
    sizes: tuple[int, ...]
    photos_each: tuple[float, ...]
    strangers: NDArray[np.float64]
    mated: NDArray[np.float64]
    mated_individuals: int


def upper_edges() -> NDArray[np.float64]:
    """The lowest similarity above each bin, (BINS,)."""
    return (np.arange(BINS) + 1) / 4096 - 1


def measure_by_size(embeddings: NDArray[np.float32], owners: NDArray[np.int64], groups: NDArray[np.int64]) -> BySize:
    """Draw galleries of several sizes from individuals, and let every other individual be the stranger.

    Of the individuals, N are enrolled: all choices of N are counted, by the hypergeometric distribution of whether
    the most similar one is among them, the second, and so on. Of their photos, some are drawn eight times. At most
    2,000 photos are probes.

    Args:
        embeddings: float32, (photos, d), unit length.
        owners: int64, (photos,), whom they show; two individuals at least.
        groups: int64, (photos,), groups of near-duplicates: under one individual they are not searched for by each
            other, and under two they are not compared, since one of the names is wrong.

    Raises:
        ValueError: there is but one individual, or none.
    """
    order = np.argsort(owners, kind="stable")
    embeddings, groups = embeddings[order], groups[order]
    names, owners = np.unique(owners[order], return_inverse=True)
    owners = owners.astype(np.int64)
    if len(names) < 2:
        raise ValueError(f"Expected two individuals or more. Received: {len(names)}.")
    counts = np.bincount(owners)
    others = len(names) - 1
    sizes = (*(size for size in _SIZES if size < others), others)
    shown = np.stack([_rank_weights(others, size) for size in sizes])
    layers = _layers(counts)
    drawn = [_draws(owners, most, np.random.default_rng(most)) for most in layers]
    chosen = choose_probes(np.arange(len(owners)), owners)
    playing = len(np.unique(owners[chosen]))  # of very many individuals, not each plays the stranger
    weight = 1.0 / np.bincount(owners[chosen])[owners[chosen]] / playing
    strangers = np.zeros((len(layers), len(sizes), BINS))
    mated = np.zeros((len(layers), BINS))
    own: list[tuple[int, NDArray[np.int64]]] = []
    for at in range(0, len(chosen), _BLOCK):
        probes, weights = chosen[at : at + _BLOCK], weight[at : at + _BLOCK]
        similarities = embeddings[probes] @ embeddings.T
        is_own = owners[probes][:, None] == owners
        is_near = groups[probes][:, None] == groups
        for row, probe in enumerate(probes):
            counted = np.flatnonzero(is_own[row] & ~is_near[row])
            if len(counted):
                own.append((int(owners[probe]), np.sort(_bins(similarities[row, counted]))[::-1]))
        similarities[is_own | is_near] = -1.0
        for layer, galleries in enumerate(drawn):
            for photos in galleries:
                starts = np.flatnonzero(np.diff(owners[photos], prepend=-1))
                by_individual = similarity_by_individual(similarities[:, photos], starts)
                # Highest first; its own individual, at -1, is the last and left out.
                bins = _bins(np.sort(by_individual, axis=1)[:, :0:-1])
                for size, share in enumerate(shown):
                    met = np.outer(weights / len(galleries), share)
                    strangers[layer, size] += np.bincount(bins.ravel(), met.ravel(), BINS)
    mated_of = np.array([individual for individual, _ in own], np.int64)
    probes_of = np.bincount(mated_of, minlength=len(names))
    individuals = int(np.count_nonzero(probes_of))
    for individual, falling in own:
        for layer, most in enumerate(layers):
            share = _rank_weights(len(falling), min(most, len(falling)))
            np.add.at(mated[layer], falling, share / probes_of[individual] / individuals)
    return BySize(
        playing,
        len(owners),
        sizes,
        tuple(float(np.minimum(counts, most).mean()) for most in layers),
        strangers,
        mated,
        individuals,
    )


def _layers(counts: NDArray[np.int64]) -> list[int]:
    """The largest numbers of photos that an individual is enrolled with; the last one is for all that it has."""
    everything = float(counts.mean())
    layers, last = [], 0.0
    for most in _MOST_PHOTOS:
        mean = float(np.minimum(counts, most).mean())
        if mean >= _APART * last and everything >= _APART * mean:
            layers.append(most)
            last = mean
    return [*layers, int(counts.max())]


def _draws(owners: NDArray[np.int64], most: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Places of so many photos of every individual at most, drawn anew each time; rising. `owners` are rising."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff(starts, append=len(owners))
    if most >= counts.max():
        return [np.arange(len(owners))]
    turn = np.arange(len(owners)) - np.repeat(starts, counts)
    return [np.sort(np.lexsort((rng.random(len(owners)), owners))[turn < most]) for _ in range(_DRAWS)]


def _rank_weights(count: int, drawn: int) -> NDArray[np.float64]:
    """The chance that the first of `count` in a row that is among `drawn` of them is this one, (count,)."""
    place = np.arange(count)
    spared = np.cumprod(np.maximum(count - drawn - place, 0) / (count - place))
    return -np.diff(spared, prepend=1.0)


def _bins(similarities: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.floor((similarities.astype(np.float64) + 1) * 4096).astype(np.int64).clip(0, BINS - 1)
