"""Every probe against the gallery, block by block: ranks, similarities and histograms of pairs, and no n × n matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.index.rule import Rule
from petid_search.metrics import average_precision, inverse_negative_penalty

BINS: Final = 4096
_BLOCK: Final = 256
_LOOKED_AT: Final = 128
"""Probes by which the range of the histograms is chosen."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Who is searched for among whom. Photos and individuals are numbers, both from 0.

    Attributes:
        owners: int64, (photos,), the individual of each.
        groups: int64, (photos,), its group of near-duplicates; a probe is not compared with photos of its group.
        gallery: int64, (g,), photos that are enrolled.
        probes: int64, (p,), photos that are searched for; a photo may be both.
    """

    owners: NDArray[np.int64]
    groups: NDArray[np.int64]
    gallery: NDArray[np.int64]
    probes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranked:
    """What one rule gave for each probe, in the order of the probes.

    Attributes:
        ranks: int64, (p,), place of the probe's individual, ties against it; 0 where it is not enrolled.
        own: float32, (p,), similarity to its own individual; minus infinity where that is not enrolled.
        other: float32, (p,), highest similarity to another individual; minus infinity where there is none.
        nearest_other: int64, (p,), that other individual; -1 where there is none.
        nearest_photo: int64, (p,), the photo of that individual that is most similar; -1 where there is none.
    """

    ranks: NDArray[np.int64]
    own: NDArray[np.float32]
    other: NDArray[np.float32]
    nearest_other: NDArray[np.int64]
    nearest_photo: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Histograms of the similarities of probes to the gallery's photos, one for each set of weights of the probes.

    Attributes:
        centres: float64, (bins,), the middle of each bin.
        genuine: float64, (weightings, bins), pairs of one individual, by weight.
        impostor: float64, (weightings, bins), pairs of two.
        counted: how often each pair was counted: twice where both of its photos are probes and enrolled.
    """

    centres: NDArray[np.float64]
    genuine: NDArray[np.float64]
    impostor: NDArray[np.float64]
    counted: int

    @property
    def counts(self) -> tuple[int, int]:
        """How many genuine and impostor pairs there are, each once."""
        return int(self.genuine[0].sum()) // self.counted, int(self.impostor[0].sum()) // self.counted


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search.

    Attributes:
        rules: what each rule gave, by its name.
        precisions: float64, (p,), average precision of each probe over the gallery's photos; NaN where it has no match.
        penalties: float64, (p,), inverse negative penalty, likewise.
        pairs: similarities photo by photo.
        individuals: N, individuals in the gallery.
        probed: individuals that are searched for and have a photo to be found by.
    """

    rules: Mapping[str, Ranked]
    precisions: NDArray[np.float64]
    penalties: NDArray[np.float64]
    pairs: Pairs
    individuals: int
    probed: int


def search(
    vectors: NDArray[np.float32],
    sides: Sides,
    rules: Sequence[Rule],
    weightings: NDArray[np.int64],
    *,
    qualities: NDArray[np.float32] | None = None,
    block: int = _BLOCK,
) -> Found:
    """Compare all probes with the whole gallery.

    Memory is bounded by the block, the gallery and the weightings: it grows with the photos, not with their square.

    Args:
        vectors: float32, (photos, d), unit length.
        sides: who is searched for among whom.
        rules: how several photos become one similarity.
        weightings: int64, (weightings, individuals), how often each individual's pairs count; a pair counts with the
            individual of its probe.
        qualities: float32, (photos,), over 0, for the rules that weigh them.
        block: probes that are compared at a time.
    """
    order = np.argsort(sides.owners[sides.gallery], kind="stable")
    gallery = sides.gallery[order]
    owners, starts = np.unique(sides.owners[gallery], return_index=True)
    qualities = np.ones(len(vectors), np.float32) if qualities is None else qualities
    enrolled = vectors[gallery]
    counted = 2 if np.array_equal(np.sort(sides.gallery), np.sort(sides.probes)) else 1
    counters = _Counters(_range(vectors, sides.probes, enrolled), weightings, counted)
    judges = [_Judge(rule, vectors, sides, gallery, owners, starts, qualities) for rule in rules]
    precisions, penalties = np.full(len(sides.probes), np.nan), np.full(len(sides.probes), np.nan)
    # Probes of one individual side by side, so that a block has the pairs of few individuals to count apart.
    by_owner = np.argsort(sides.owners[sides.probes], kind="stable")
    for first in range(0, len(by_owner), block):
        here = by_owner[first : first + block]
        probes = sides.probes[here]
        similarities = np.clip(vectors[probes] @ enrolled.T, -1.0, 1.0)
        left_out = sides.groups[probes][:, None] == sides.groups[gallery]
        same = (sides.owners[probes][:, None] == sides.owners[gallery]) & ~left_out
        counters.count(similarities, same, ~left_out, sides.owners[probes])
        similarities[left_out] = -np.inf
        precisions[here] = average_precision(similarities, same)
        penalties[here] = inverse_negative_penalty(similarities, same)
        for judge in judges:
            judge.rank(here, probes, similarities, same)
    ranked = {judge.rule.name: judge.ranked for judge in judges}
    probed = len(np.unique(sides.owners[sides.probes[~np.isnan(precisions)]]))
    return Found(ranked, precisions, penalties, counters.pairs(), len(owners), probed)


class _Judge:
    """One rule's ranks, block after block."""

    def __init__(
        self,
        rule: Rule,
        vectors: NDArray[np.float32],
        sides: Sides,
        gallery: NDArray[np.int64],
        owners: NDArray[np.int64],
        starts: NDArray[np.int64],
        qualities: NDArray[np.float32],
    ) -> None:
        self.rule = rule
        self._vectors, self._sides, self._gallery, self._qualities = vectors, sides, gallery, qualities
        self._owners, self._starts, self._ends = owners, starts, np.append(starts[1:], len(gallery))
        self._templates: NDArray[np.float32] | None = None
        if rule.templates is not None:
            kept = [
                rule.templates(vectors[gallery[first:last]], qualities[gallery[first:last]])
                for first, last in zip(self._starts, self._ends, strict=True)
            ]
            self._templates = np.concatenate(kept)
            self._template_starts = np.cumsum([0, *map(len, kept)])[:-1]
        count = len(sides.probes)
        self.ranked = Ranked(
            np.zeros(count, np.int64),
            np.full(count, -np.inf, np.float32),
            np.full(count, -np.inf, np.float32),
            np.full(count, -1, np.int64),
            np.full(count, -1, np.int64),
        )

    def rank(
        self,
        here: NDArray[np.int64],
        probes: NDArray[np.int64],
        similarities: NDArray[np.float32],
        same: NDArray[np.bool_],
    ) -> None:
        """Rank the probes of a block.

        Args:
            here: int64, (b,), their places among all probes.
            probes: int64, (b,), their photos.
            similarities: float32, (b, g), to the gallery's photos; minus infinity for those left out.
            same: bool, (b, g), whether the gallery's photo shows the same individual and is not left out.
        """
        owner = self._sides.owners[probes]
        column = np.minimum(np.searchsorted(self._owners, owner), len(self._owners) - 1)
        mated = np.flatnonzero(same.any(axis=1))
        if self._templates is None:
            by_individual = self.rule.by_individual(similarities, self._starts)
            own = by_individual[mated, column[mated]]
        else:
            # A near-duplicate under another name still has its part in that other's template: a rare fault of labels.
            by_individual = self.rule.by_individual(self._vectors[probes] @ self._templates.T, self._template_starts)
            own = by_individual[mated, column[mated]]
            for place, row in enumerate(mated):
                first, last = self._starts[column[row]], self._ends[column[row]]
                if not same[row, first:last].all():
                    photos = self._gallery[first:last][same[row, first:last]]
                    own[place] = self.rule.similarity(
                        self._vectors[probes[row]], self._vectors[photos], self._qualities[photos]
                    )
        enrolled = np.flatnonzero(self._owners[column] == owner)
        by_individual[enrolled, column[enrolled]] = -np.inf
        nearest = by_individual.argmax(axis=1)
        other = by_individual[np.arange(len(probes)), nearest]
        self.ranked.own[here[mated]] = own
        self.ranked.other[here] = other
        self.ranked.nearest_other[here] = np.where(other > -np.inf, self._owners[nearest], -1)
        for row in np.flatnonzero(other > -np.inf):
            first, last = self._starts[nearest[row]], self._ends[nearest[row]]
            most = first + similarities[row, first:last].argmax()
            if similarities[row, most] > -np.inf:
                self.ranked.nearest_photo[here[row]] = self._gallery[most]
        self.ranked.ranks[here[mated]] = 1 + np.count_nonzero(by_individual[mated] >= own[:, None], axis=1)


class _Counters:
    """Histograms of pairs, added up under every weighting at once: memory does not grow with the individuals."""

    def __init__(self, lowest: float, weightings: NDArray[np.int64], counted: int) -> None:
        self._lowest = lowest
        self._width = (1.0 - lowest) / BINS
        self._weightings = weightings
        self._counted = counted
        self._counts = np.zeros((len(weightings), 2 * BINS))

    def count(
        self,
        similarities: NDArray[np.float32],
        same: NDArray[np.bool_],
        counted: NDArray[np.bool_],
        owners: NDArray[np.int64],
    ) -> None:
        """Count the pairs of a block, whose probes come sorted by individual."""
        names, rows = np.unique(owners, return_inverse=True)
        bins = ((similarities - np.float32(self._lowest)) * np.float32(1 / self._width)).astype(np.int32)
        np.clip(bins, 0, BINS - 1, out=bins)
        bins += np.where(same, 0, BINS) + (rows * 2 * BINS).astype(np.int32)[:, None]
        counts = np.bincount(bins[counted], minlength=len(names) * 2 * BINS).reshape(len(names), 2 * BINS)
        used = np.flatnonzero(counts.any(axis=0))
        self._counts[:, used] += self._weightings[:, names].astype(np.float64) @ counts[:, used].astype(np.float64)

    def pairs(self) -> Pairs:
        """What was counted."""
        centres = np.asarray(self._lowest + self._width * (np.arange(BINS) + 0.5), np.float64)
        return Pairs(centres, self._counts[:, :BINS], self._counts[:, BINS:], self._counted)


def _range(vectors: NDArray[np.float32], probes: NDArray[np.int64], enrolled: NDArray[np.float32]) -> float:
    """The lower end of the histograms: embeddings of one model often crowd in a part of [-1, 1].

    What lies lower still is counted in the lowest bin, where no threshold is.
    """
    some = probes[np.linspace(0, len(probes) - 1, min(_LOOKED_AT, len(probes))).astype(np.int64)]
    lowest = float((vectors[some] @ enrolled.T).min())
    return max(-1.0, lowest - 0.05 * (1.0 - lowest) - 1e-3)
