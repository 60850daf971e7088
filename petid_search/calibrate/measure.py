"""What photos say of similarities when each plays both parts: the animal that is known, and the stranger.

*Mated*, a photo is searched against the gallery without itself and its near-duplicates; *non-mated*, against the
gallery without its individual, as a stranger's would be. One picture under two names is an error of the labels: the two
photos are not compared, else the error would raise the threshold.

Whatever gives its photos as `Photos` can be measured: the gallery does, and so do plain arrays.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from petid_search.index.rule import similarity_by_individual
from petid_search.index.search import Block

_PROBES: Final = 2000
_PAIRS: Final = 20_000
_DRAWN: Final = 4
"""So many times as many pairs are drawn: some are of one individual, some were drawn before."""
_LOOKED_AT: Final = 64
"""So many of the photos most similar to a probe are asked whether they are near-duplicates of it, one after another."""
_HIGHEST: Final = 0.05
"""The share of impostor pairs, the most similar ones, that are asked whether they are one picture."""

_Near = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


class Photos(Protocol):
    """Photos to be measured, known by their ids; individuals are numbers, too."""

    def owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids of all photos, (photos,), and the individual of each, (photos,)."""

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of these photos, (n, d), unit length, in this order."""

    def blocks(self) -> Iterator[Block]:
        """All photos, some whole individuals at a time."""

    def near(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the photos of each two ids, (pairs,), are near-duplicates; False where it is not known."""


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
    ids, owners = source.owners()
    individuals = np.unique(owners)
    chosen = choose_probes(ids, owners)
    meeting = _Meeting(source, ids[chosen], owners[chosen], len(ids))
    for block in source.blocks() if len(chosen) else ():
        meeting.compare(block)
    own = meeting.own()
    other, nearest, left_out = meeting.other()
    numbers = np.full(len(individuals), -1, np.int32)
    with_probe, of_probe = np.unique(owners[chosen], return_inverse=True)
    numbers[np.searchsorted(individuals, with_probe)] = np.arange(len(with_probe))
    genuine, impostor, between = meeting.pairs()
    by_id = np.argsort(ids)
    number_of = numbers[np.searchsorted(individuals, owners[by_id])]

    def whose(photos: NDArray[np.int64]) -> NDArray[np.int32]:
        return number_of[np.searchsorted(ids, photos, sorter=by_id)]

    mated = np.flatnonzero(own > -np.inf)
    mated = mated[np.argsort(own[mated], kind="stable")]
    non_mated = np.flatnonzero(other > -np.inf)
    non_mated = non_mated[np.argsort(other[non_mated], kind="stable")]
    return Samples(
        own[mated],
        of_probe[mated].astype(np.int32),
        other[non_mated],
        of_probe[non_mated].astype(np.int32),
        numbers[np.searchsorted(individuals, nearest[non_mated])],
        genuine.similarity,
        whose(genuine.first),
        impostor.similarity,
        np.stack([whose(impostor.first), whose(impostor.second)], axis=1),
        len(ids),
        len(individuals),
        len(left_out | between),
    )


def choose_probes(ids: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the 2,000 photos that play: one of every individual, then a second of each that has two, and so on.

    Which photo comes first is a matter of a hash of its id, so that a gallery that has grown keeps most of its probes.
    """
    drawn = _hash(ids)
    order = np.lexsort((drawn, owners))
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    turn = np.empty(len(ids), np.int64)
    turn[order] = np.arange(len(ids)) - np.repeat(starts, np.diff(starts, append=len(ids)))
    return np.sort(np.lexsort((drawn, turn))[:_PROBES])


def _hash(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Numbers that look random; Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


class _Meeting:
    """The probes as they meet the gallery, block after block."""

    def __init__(self, source: Photos, ids: NDArray[np.int64], owners: NDArray[np.int64], photos: int) -> None:
        self._source = source
        self._ids, self._owners, self._photos = ids, owners, photos
        self._vectors = source.vectors(ids)
        self._rng = np.random.default_rng(0)
        count = len(ids)
        self._other = np.full(count, -np.inf, np.float32)
        self._nearest = np.full(count, -1, np.int64)
        self._nearest_photo = np.full(count, -1, np.int64)
        self._own_photos: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * count
        self._own: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * count
        self._genuine: list[_Pairs] = []
        self._impostor: list[_Pairs] = []

    def compare(self, block: Block) -> None:
        """Compare all probes with some whole individuals."""
        ends = np.append(block.starts[1:], len(block.photos))
        # Float32 sums may pass 1 by a little.
        similarities = np.minimum(self._vectors @ block.vectors.T, np.float32(1.0))
        by_individual = similarity_by_individual(similarities, block.starts)
        column = np.minimum(np.searchsorted(block.individuals, self._owners), len(block.individuals) - 1)
        at_home = block.individuals[column] == self._owners
        self._draw_impostors(similarities, block, np.repeat(block.individuals, ends - block.starts))
        for individual in np.unique(column[at_home]):
            self._meet_own(similarities, block, np.flatnonzero(at_home & (column == individual)), individual, ends)
        by_individual[at_home, column[at_home]] = -np.inf
        best = by_individual.argmax(axis=1)
        highest = by_individual[np.arange(len(best)), best]
        for row in np.flatnonzero(highest > self._other):
            first, last = block.starts[best[row]], ends[best[row]]
            self._nearest_photo[row] = block.photos[first + similarities[row, first:last].argmax()]
        nearer = highest > self._other
        self._other[nearer], self._nearest[nearer] = highest[nearer], block.individuals[best[nearer]]

    def own(self) -> NDArray[np.float32]:
        """Similarity of each probe to its own individual; minus infinity where that has no other photo to be found by.

        Those most alike are asked first, and asking ends with the first that is no near-duplicate: it is the best photo
        of those that count.
        """
        similarity, _, _ = self._first_of(np.arange(len(self._ids)), self._own, self._own_photos)
        return similarity

    def other(self) -> tuple[NDArray[np.float32], NDArray[np.int64], set[tuple[int, int]]]:
        """Highest similarity of each probe to any other individual, whose that is, and the pairs left out."""
        other, nearest = self._other.copy(), self._nearest.copy()
        met = np.flatnonzero(nearest >= 0)
        twins = met[self._source.near(self._ids[met], self._nearest_photo[met])]
        if not len(twins):
            return other, nearest, set()
        # Few have one: these are compared once more, with all that are most similar at hand.
        owner_of = dict(zip(*(part.tolist() for part in self._source.owners()), strict=True))
        similar = [np.empty(0, np.float32)] * len(twins)
        photos = [np.empty(0, np.int64)] * len(twins)
        for block in self._source.blocks():
            similarities = np.minimum(self._vectors[twins] @ block.vectors.T, np.float32(1.0))
            of_photo = np.repeat(block.individuals, np.diff(block.starts, append=len(block.photos)))
            similarities[self._owners[twins][:, None] == of_photo] = -np.inf
            for place, row in enumerate(similarities):
                merged = np.concatenate([similar[place], row]), np.concatenate([photos[place], block.photos])
                most = np.argsort(-merged[0], kind="stable")[:_LOOKED_AT]
                similar[place], photos[place] = merged[0][most], merged[1][most]
        found, which, left_out = self._first_of(twins, similar, photos)
        other[twins] = found
        nearest[twins] = [owner_of.get(photo, -1) for photo in which.tolist()]
        return other, nearest, left_out

    def pairs(self) -> tuple["_Pairs", "_Pairs", set[tuple[int, int]]]:
        """The genuine and the impostor pairs, rising, and the impostor pairs that are one picture."""
        genuine = _joined(self._genuine).some(self._rng)
        genuine = genuine.at(~self._source.near(genuine.first, genuine.second))
        impostor = _joined(self._impostor).some(self._rng)
        highest = np.argsort(-impostor.similarity)[: int(np.ceil(_HIGHEST * len(impostor.first)))]
        twins = highest[self._source.near(impostor.first[highest], impostor.second[highest])]
        kept = np.ones(len(impostor.first), np.bool_)
        kept[twins] = False
        between = {
            _pair(*two) for two in zip(impostor.first[twins].tolist(), impostor.second[twins].tolist(), strict=True)
        }
        return genuine.rising(), impostor.at(kept).rising(), between

    def _first_of(
        self,
        rows: NDArray[np.int64],
        similar: Sequence[NDArray[np.float32]],
        photos: Sequence[NDArray[np.int64]],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], set[tuple[int, int]]]:
        """For each probe the first of its photos that is no near-duplicate of it.

        Args:
            rows: int64, (n,), the probes.
            similar: for each, similarities to some photos, falling.
            photos: for each, the ids of those.

        Returns:
            similarity, minus infinity where there is none; its photo; the near-duplicates that came before, as pairs.
        """
        found = np.full(len(rows), -np.inf, np.float32)
        which = np.full(len(rows), -1, np.int64)
        left_out: set[tuple[int, int]] = set()
        asking = np.array([place for place, some in enumerate(similar) if len(some)], np.int64)
        for turn in range(_LOOKED_AT):
            asking = np.array([place for place in asking if len(similar[place]) > turn], np.int64)
            if not len(asking):
                break
            asked = np.array([photos[place][turn] for place in asking], np.int64)
            probes = self._ids[rows[asking]]
            near = self._source.near(probes, asked)
            left_out |= {_pair(*two) for two in zip(probes[near].tolist(), asked[near].tolist(), strict=True)}
            done = asking[~near]
            found[done] = [similar[place][turn] for place in done]
            which[done] = asked[~near]
            asking = asking[near]
        return found, which, left_out

    def _meet_own(
        self,
        similarities: NDArray[np.float32],
        block: Block,
        rows: NDArray[np.int64],
        individual: np.int64,
        ends: NDArray[np.int64],
    ) -> None:
        first, last = block.starts[individual], ends[individual]
        photos = block.photos[first:last]
        own = similarities[rows, first:last]
        itself = self._ids[rows][:, None] == photos
        # Two probes meet twice, and are one pair.
        row, place = np.nonzero(~itself & (~np.isin(photos, self._ids[rows]) | (self._ids[rows][:, None] < photos)))
        if len(row) > _PAIRS:
            some = self._rng.choice(len(row), _PAIRS, replace=False)
            row, place = row[some], place[some]
        self._genuine.append(_Pairs(self._ids[rows][row], photos[place], own[row, place]))
        own = np.where(itself, -np.inf, own)
        most = np.argsort(-own, axis=1, kind="stable")[:, : min(_LOOKED_AT, len(photos) - 1)]
        for probe, places in enumerate(most):
            self._own[rows[probe]], self._own_photos[rows[probe]] = own[probe, places], photos[places]

    def _draw_impostors(self, similarities: NDArray[np.float32], block: Block, of_photo: NDArray[np.int64]) -> None:
        places = _places(similarities.size, _DRAWN * _PAIRS * len(block.photos) // self._photos, self._rng)
        row, column = np.divmod(places, len(block.photos))
        kept = self._owners[row] != of_photo[column]
        row, column = row[kept], column[kept]
        first, second = self._ids[row], block.photos[column]
        is_new = ~np.isin(second, self._ids) | (first < second)
        self._impostor.append(_Pairs(first[is_new], second[is_new], similarities[row[is_new], column[is_new]]))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs of photos by id, and their similarity; (pairs,) each."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> "_Pairs":
        return _Pairs(self.first[places], self.second[places], self.similarity[places])

    def rising(self) -> "_Pairs":
        return self.at(np.argsort(self.similarity, kind="stable"))

    def some(self, rng: np.random.Generator) -> "_Pairs":
        return self.at(rng.permutation(len(self.first))[:_PAIRS])


def _joined(parts: Sequence[_Pairs]) -> _Pairs:
    nothing = _Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    every = [nothing, *parts]
    return _Pairs(
        np.concatenate([part.first for part in every]),
        np.concatenate([part.second for part in every]),
        np.concatenate([part.similarity for part in every]),
    )


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def _places(total: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """About this many of the places from 0 to `total`, each at most once; all of them where they are not more."""
    return np.arange(total) if total <= count else np.unique(rng.integers(total, size=count))
