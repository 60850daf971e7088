"""What probes met in a gallery: the similarities that a calibration is made of, kept so that only changes are compared.

Nothing here depends on the order in which photos were compared, nor on how many at once: similarities are exact, and
what is drawn is drawn by the photos' ids. So a meeting that was renewed is equal to one begun from nothing.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from petid_search.index.search import Block

LOOKED_AT: Final = 32
"""So many of the photos most similar to a probe are asked whether they are near-duplicates of it, one after another."""
PAIRS: Final = 20_000
_PROBES: Final = 2000
_KEPT: Final = 40
"""So many of those are kept, so that some may go before the probe has to be compared with all photos again."""
_DRAWN: Final = 4
"""So many times as many pairs are looked at: some are of one individual, some are met from either side."""
_SPARE: Final = 1.25
"""So many times as many pairs are kept, so that some may go."""
_MOST: Final = 0.5
"""The share of all comparisons from which on everything is compared anew."""
_RANKS: Final = 2**32
_AT_ONCE: Final = 512
_WAITING: Final = 200_000
_FORMAT: Final = 1
"""Of the stored bytes; other ones are not read, but measured anew."""


_Flat = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Of each comparison that counts: the probe, the photo, and their similarity."""


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
class Nearest:
    """Of each probe the photos most similar to it, most similar first; of two equally similar, the lower id.

    Attributes:
        photos: int64, (probes, 40 or fewer), ids, and -1 where there is none.
        similarity: float32, of the same shape; minus infinity where there is none.
        whole: bool, (probes,), whether these are all that there are.
    """

    photos: NDArray[np.int64]
    similarity: NDArray[np.float32]
    whole: NDArray[np.bool_]

    @classmethod
    def none(cls, probes: int) -> Self:
        """Before any photo was met."""
        return cls(np.empty((probes, 0), np.int64), np.empty((probes, 0), np.float32), np.ones(probes, np.bool_))

    @property
    def count(self) -> NDArray[np.int64]:
        """How many photos each probe has here."""
        return np.asarray((self.photos >= 0).sum(axis=1), np.int64)

    def at(self, rows: NDArray[np.int64]) -> "Nearest":
        """Those of some probes."""
        return Nearest(self.photos[rows], self.similarity[rows], self.whole[rows])

    def last(self) -> NDArray[np.float32]:
        """The similarity below which nothing can be taken up, (probes,): whether it would be next is not known."""
        if not self.photos.shape[1]:
            return np.full(len(self.whole), -np.inf, np.float32)
        lowest = np.take_along_axis(self.similarity, np.maximum(self.count - 1, 0)[:, None], axis=1)[:, 0]
        return np.where(self.whole, np.float32(-np.inf), lowest)

    def without(self, gone: NDArray[np.bool_]) -> "Nearest":
        """Without some photos, by place."""
        photos, similarity = self.photos.copy(), self.similarity.copy()
        photos[gone], similarity[gone] = -1, -np.inf
        nothing = np.empty(0, np.int64)
        return Nearest(photos, similarity, self.whole).joined(nothing, nothing, np.empty(0, np.float32))

    def joined(self, rows: NDArray[np.int64], photos: NDArray[np.int64], similarity: NDArray[np.float32]) -> "Nearest":
        """With some more photos, none of which was there: of which probes, their ids and similarities, (n,) each."""
        last = self.last()
        ids = np.full(len(last), -1, np.int64)
        if self.photos.shape[1]:
            ids = np.take_along_axis(self.photos, np.maximum(self.count - 1, 0)[:, None], axis=1)[:, 0]
        before = (similarity > last[rows]) | ((similarity == last[rows]) & (photos < ids[rows]))
        there, place = np.nonzero(self.photos >= 0)
        rows = np.concatenate([there, rows[before]])
        photos = np.concatenate([self.photos[there, place], photos[before]])
        similarity = np.concatenate([self.similarity[there, place], similarity[before]])
        order = np.lexsort((photos, -similarity, rows))
        rows, photos, similarity = rows[order], photos[order], similarity[order]
        count = np.bincount(rows, minlength=len(self.whole))
        turn = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        kept = turn < _KEPT
        shape = len(self.whole), int(min(count.max(initial=0), _KEPT))
        result = Nearest(
            np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32), self.whole & (count <= _KEPT)
        )
        result.photos[rows[kept], turn[kept]] = photos[kept]
        result.similarity[rows[kept], turn[kept]] = similarity[kept]
        return result


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of photos, the lower id first, and their similarity: those of the lowest ranks, all up to a bar.

    Attributes:
        first: int64, (pairs,).
        second: int64, (pairs,).
        similarity: float32, (pairs,).
        bar: every pair of a rank under it is here.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]
    bar: int

    @classmethod
    def of(cls, one: NDArray[np.int64], other: NDArray[np.int64], similarity: NDArray[np.float32], bar: int) -> "Pairs":
        """Pairs that may be met from either side; at most 25,000 of them are kept."""
        first, second = np.minimum(one, other), np.maximum(one, other)
        rank = _rank(_hash_of_pairs(first), _hash_of_pairs(second))
        order = np.lexsort((second, first, rank))
        first, second, rank, similarity = first[order], second[order], rank[order], similarity[order]
        is_new = np.ones(len(first), np.bool_)
        is_new[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
        kept = np.flatnonzero(is_new & (rank < bar))
        most = int(_SPARE * PAIRS)
        if len(kept) > most:
            bar = int(rank[kept[most]])
            kept = kept[rank[kept] < bar]
        return cls(first[kept], second[kept], similarity[kept], bar)

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> "Pairs":
        """Some of them."""
        return Pairs(self.first[places], self.second[places], self.similarity[places], self.bar)

    def rising(self) -> "Pairs":
        """By similarity."""
        return self.at(np.lexsort((self.second, self.first, self.similarity)))

    def drawn(self, bar: int) -> "Pairs":
        """The 20,000 of the lowest ranks under a bar."""
        under = self.at(_rank(_hash_of_pairs(self.first), _hash_of_pairs(self.second)) < bar)
        return under.at(np.arange(min(PAIRS, len(under.first))))

    def suffice(self, bar: int) -> bool:
        """Whether those are all here that `drawn` wants."""
        return self.bar >= bar or len(self.drawn(bar).first) == PAIRS


@dataclass(frozen=True, slots=True)
class Meeting:
    """What the probes met. Whether photos are near-duplicates is not in it: that may become known later.

    Attributes:
        ids: int64, (probes,), the photos that play, by individual and id.
        owners: int64, (probes,), their individuals.
        own: the other photos of each one's individual.
        other: the photos of all others.
        genuine: pairs of a probe and a photo of its individual.
        impostor: pairs of a probe and a photo of another individual.
        total: int64, (2,), how many pairs of either kind there are; those of two probes may count twice.
    """

    ids: NDArray[np.int64]
    owners: NDArray[np.int64]
    own: Nearest
    other: Nearest
    genuine: Pairs
    impostor: Pairs
    total: NDArray[np.int64]

    def drawn(self) -> tuple[Pairs, Pairs]:
        """At most 20,000 genuine and as many impostor pairs."""
        genuine, impostor = (_bar(total) for total in self.total.tolist())
        return self.genuine.drawn(genuine), self.impostor.drawn(impostor)

    def suffices(self) -> bool:
        """Whether all those pairs are here; else too many of the pairs kept have gone."""
        genuine, impostor = (_bar(total) for total in self.total.tolist())
        return self.genuine.suffice(genuine) and self.impostor.suffice(impostor)

    def to_bytes(self) -> bytes:
        """The meeting as the bytes of an .npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, format=np.array(_FORMAT), **dict(_flat(self)))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """What `to_bytes` wrote; None where it was written in another way, or damaged. Nothing is unpickled."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                if int(arrays["format"]) != _FORMAT:
                    return None

                def nearest(name: str) -> Nearest:
                    return Nearest(*(arrays[f"{name}_{part.name}"] for part in fields(Nearest)))

                def pairs(name: str) -> Pairs:
                    parts = [arrays[f"{name}_{part}"] for part in ("first", "second", "similarity")]
                    return Pairs(parts[0], parts[1], parts[2], int(arrays[f"{name}_bar"]))

                met = cls(
                    arrays["ids"],
                    arrays["owners"],
                    nearest("own"),
                    nearest("other"),
                    pairs("genuine"),
                    pairs("impostor"),
                    arrays["total"],
                )
        except Exception:  # there are a dozen kinds: a bit may say that it is encrypted, or of a later version
            return None
        return met if met._is_sound() else None

    def _is_sound(self) -> bool:
        """Whether all that belongs together is of one length."""
        probes = (len(self.ids),)
        of_nearest = {
            (one.photos.shape[:1], one.similarity.shape[:1], one.whole.shape) for one in (self.own, self.other)
        }
        of_pairs = [(one.first.shape, one.second.shape, one.similarity.shape) for one in (self.genuine, self.impostor)]
        return (
            self.owners.shape == probes
            and self.total.shape == (2,)
            and of_nearest == {(probes, probes, probes)}
            and all(one.photos.shape == one.similarity.shape for one in (self.own, self.other))
            and all(len(set(shapes)) == 1 for shapes in of_pairs)
        )


def meet(source: Photos) -> Meeting:
    """Let at most 2,000 photos, of as many individuals as there are, meet all others.

    Time and memory are bounded by the probes, not squared in the photos.

    Args:
        source: the photos.
    """
    ids, owners = source.owners()
    chosen = choose_probes(ids, owners)
    total = _total(owners, chosen)
    genuine, impostor = (min(_RANKS, int(_SPARE * _bar(count))) for count in total.tolist())
    comparison = _Comparison(source.vectors(ids[chosen]), ids[chosen], owners[chosen], (genuine, impostor))
    comparison.with_all(source)
    return comparison.meeting(total)


def renew(met: Meeting, source: Photos, changed: NDArray[np.int64]) -> Meeting:
    """What `meet` would give now, from what was met before: only what has changed since is compared.

    Args:
        met: as it was.
        source: the photos as they are now.
        changed: int64, ids of all photos that were added, removed, given to another individual or embedded anew since;
            those that are no more may be missing.
    """
    ids, owners = source.owners()
    chosen = choose_probes(ids, owners)
    probes, of_probe, total = ids[chosen], owners[chosen], _total(owners, chosen)
    is_fresh = np.isin(ids, changed)
    fresh, unchanged = ids[is_fresh], ids[~is_fresh]

    # The probes that were there before, and after what has gone still know enough.
    if not len(met.ids):
        return meet(source)
    by_id = np.argsort(met.ids)
    place = by_id[np.searchsorted(met.ids, probes, sorter=by_id).clip(max=len(by_id) - 1)]
    known = (met.ids[place] == probes) & (met.owners[place] == of_probe) & np.isin(probes, unchanged)
    nearest = [one.at(place) for one in (met.own, met.other)]
    nearest = [one.without(~np.isin(one.photos, unchanged)) for one in nearest]
    for one in nearest:
        known &= one.whole | (one.count >= LOOKED_AT)
    old, new = np.flatnonzero(known), np.flatnonzero(~known)
    if len(new) / max(len(probes), 1) + len(fresh) / max(len(ids), 1) > _MOST:
        return meet(source)

    bars = met.genuine.bar, met.impostor.bar
    vectors = source.vectors(probes)
    of_old = _Comparison(vectors[old], probes[old], of_probe[old], bars, (nearest[0].at(old), nearest[1].at(old)))
    of_old.compare(fresh, owners[is_fresh], source.vectors(fresh))
    of_new = _Comparison(vectors[new], probes[new], of_probe[new], bars)
    of_new.with_all(source)

    def still(pairs: Pairs) -> Pairs:
        both = np.isin(pairs.first, unchanged) & np.isin(pairs.second, unchanged)
        return pairs.at(both & (np.isin(pairs.first, probes) | np.isin(pairs.second, probes)))

    kept = still(met.genuine), still(met.impostor)
    renewed = _together(of_old.meeting(total), of_new.meeting(total), kept, np.argsort(np.concatenate([old, new])))
    return renewed if renewed.suffices() else meet(source)


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


class _Nearer:
    """The nearest photos so far; what is taken up waits until it is worth sorting."""

    def __init__(self, nearest: Nearest) -> None:
        self._nearest, self._last = nearest, nearest.last()
        self._waiting: list[_Flat] = []

    def take(self, similarities: NDArray[np.float32], photos: NDArray[np.int64], there: NDArray[np.bool_]) -> None:
        """Some photos by their similarities to all probes, where they are there; only few come near."""
        row, column = np.nonzero(there & (similarities >= self._last[:, None]))
        self._waiting.append((row, photos[column], similarities[row, column]))
        if sum(len(part[0]) for part in self._waiting) > _WAITING:
            self.settled()

    def settled(self) -> Nearest:
        """With all that was waiting."""
        self._nearest = self._nearest.joined(*_concatenated(self._waiting))
        self._last, self._waiting = self._nearest.last(), []
        return self._nearest


class _Comparison:
    """Some probes as they meet photos, no photo twice; bars are the ranks up to which either kind of pairs is kept."""

    def __init__(
        self,
        vectors: NDArray[np.float32],
        ids: NDArray[np.int64],
        owners: NDArray[np.int64],
        bars: tuple[int, int],
        nearest: tuple[Nearest, Nearest] | None = None,
    ) -> None:
        self._vectors, self._ids, self._owners, self._bars = _rounded(vectors), ids, owners, bars
        self._hashes = _hash_of_pairs(ids)
        own, other = nearest or (Nearest.none(len(ids)), Nearest.none(len(ids)))
        self._own, self._other = _Nearer(own), _Nearer(other)
        self._genuine: list[_Flat] = []
        self._impostor: list[_Flat] = []

    def with_all(self, source: Photos) -> None:
        """Compare the probes with all photos; without probes, none is read."""
        for block in source.blocks() if len(self._ids) else ():
            counts = np.diff(block.starts, append=len(block.photos))
            self.compare(block.photos, np.repeat(block.individuals, counts), block.vectors)

    def compare(self, photos: NDArray[np.int64], owners: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Compare the probes with some photos: ids, individuals and embeddings."""
        for first in range(0, len(photos) if len(self._ids) else 0, _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            self._compare(photos[part], owners[part], vectors[part])

    def meeting(self, total: NDArray[np.int64]) -> Meeting:
        """What was met; the total is that of the pairs."""
        pairs = [
            Pairs.of(*_concatenated(parts), bar)
            for parts, bar in zip((self._genuine, self._impostor), self._bars, strict=True)
        ]
        return Meeting(self._ids, self._owners, self._own.settled(), self._other.settled(), pairs[0], pairs[1], total)

    def _compare(self, photos: NDArray[np.int64], owners: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        similarities = _similarities(self._vectors, vectors)
        at_home = self._owners[:, None] == owners
        self._other.take(similarities, photos, ~at_home)
        hashes = _hash_of_pairs(photos)
        row, column = _under(self._hashes, hashes, self._bars[1])
        abroad = ~at_home[row, column]
        row, column = row[abroad], column[abroad]
        self._impostor.append((self._ids[row], photos[column], similarities[row, column]))

        row, column = np.nonzero(at_home)
        itself = self._ids[row] == photos[column]
        at_home[row[itself], column[itself]] = False
        self._own.take(similarities, photos, at_home)
        drawn = ~itself & (_rank(self._hashes[row], hashes[column]) < self._bars[0])
        row, column = row[drawn], column[drawn]
        self._genuine.append((self._ids[row], photos[column], similarities[row, column]))


def _together(old: Meeting, new: Meeting, kept: tuple[Pairs, Pairs], order: NDArray[np.int64]) -> Meeting:
    """Two meetings of different probes, and pairs from before, as one meeting; its probes in this order."""

    def nearest(one: Nearest, other: Nearest) -> Nearest:
        width = max(one.photos.shape[1], other.photos.shape[1])
        padded = [((0, 0), (0, width - part.photos.shape[1])) for part in (one, other)]
        photos = [np.pad(part.photos, by, constant_values=-1) for part, by in zip((one, other), padded, strict=True)]
        similar = [
            np.pad(part.similarity, by, constant_values=-np.inf) for part, by in zip((one, other), padded, strict=True)
        ]
        both = Nearest(np.concatenate(photos), np.concatenate(similar), np.concatenate([one.whole, other.whole]))
        return both.at(order)

    def pairs(*parts: Pairs) -> Pairs:
        arrays = [(part.first, part.second, part.similarity) for part in parts]
        return Pairs.of(*_concatenated(arrays), min(part.bar for part in parts))

    return Meeting(
        np.concatenate([old.ids, new.ids])[order],
        np.concatenate([old.owners, new.owners])[order],
        nearest(old.own, new.own),
        nearest(old.other, new.other),
        pairs(kept[0], old.genuine, new.genuine),
        pairs(kept[1], old.impostor, new.impostor),
        old.total,
    )


def _similarities(probes: NDArray[np.float64], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of rounded probes with embeddings, float32, (probes, photos), at most 1; the same however many at once.

    Numbers rounded to 26 bits have products of 52, and by the inequality of Cauchy and Schwarz no sum of those of unit
    vectors needs more than the 53 of double precision: nothing is rounded on the way, in whatever order it is summed.
    """
    similarities = np.asarray(probes @ _rounded(vectors).T * 2.0**-52, np.float32)
    return np.minimum(similarities, np.float32(1.0), out=similarities)


def _rounded(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.rint(vectors.astype(np.float64) * 2.0**26)


def _total(owners: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many pairs a probe and another photo make: of one individual, and of two."""
    _, number, counts = np.unique(owners, return_inverse=True, return_counts=True)
    of_own = counts[number[chosen]]
    return np.array([(of_own - 1).sum(), (len(owners) - of_own).sum()], np.int64)


def _bar(total: int) -> int:
    """The rank under which lie four times 20,000 of so many pairs, by chance; all pairs, where they are not more."""
    return min(_RANKS, -(-_DRAWN * PAIRS * _RANKS // max(total, 1)))


def _rank(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """By which pairs are drawn, from 0 to 2³² - 1: any two ranks are independent, as the hashes are."""
    return (one + other) % _RANKS


def _under(one: NDArray[np.int64], other: NDArray[np.int64], bar: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in either of the pairs whose rank is under a bar, found without looking at all pairs."""
    order = np.argsort(one, kind="stable")
    twice = np.concatenate([one[order], one[order] + _RANKS])
    start = (-other) % _RANKS
    first = np.searchsorted(twice, start)
    counts = np.searchsorted(twice, start + bar) - first
    turn = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[(np.repeat(first, counts) + turn) % len(one)], np.repeat(np.arange(len(other)), counts)


def _hash_of_pairs(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of 32 bits, independent of those by which probes are chosen."""
    return (_hash(~ids) >> np.uint64(32)).astype(np.int64)


def _hash(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Numbers that look random; Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def _concatenated(parts: list[_Flat]) -> _Flat:
    nothing = np.empty(0, np.int64)
    first, second, similarity = zip((nothing, nothing, np.empty(0, np.float32)), *parts, strict=True)
    return np.concatenate(first), np.concatenate(second), np.concatenate(similarity)


def _flat(met: Meeting) -> Iterator[tuple[str, Any]]:
    """All arrays of a meeting, by name."""
    for part in fields(met):
        value = getattr(met, part.name)
        if isinstance(value, np.ndarray):
            yield part.name, value
        else:
            for inner in fields(value):
                yield f"{part.name}_{inner.name}", np.asarray(getattr(value, inner.name))
