"""Index and classifier, each by itself and both together: who finds more, and whether the two should be combined.

They are compared on probes that a model was not trained on: *mated*, of individuals whom its classifier knows and of
whom photos trained on are the gallery; and *strangers*, of individuals held out. What weighs the two is cross-validated
over individuals, so that no probe is told by weights that were fitted to it or to another photo of its individual.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.combined import Combined, Weights
from petid_search.calibrate.meeting import choose_probes
from petid_search.calibrate.probability import LEAST
from petid_search.calibrate.promise import smallest
from petid_search.index.rule import similarity_by_individual
from petid_search.metrics import first_ranks, fnir_at_fpir, rank_k
from petid_search.metrics.bootstrap import Measure, paired_interval
from petid_search.metrics.weighted import Floats

_FOLDS: Final = 5
_FPIRS: Final = (0.01, 0.05)
_DRAWS: Final = 1000
_TOLERANCE: Final = 1e-12

Photos: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]
"""Embeddings, float32, (n, d), unit length; whom each shows, int64, (n,), numbers from 0; groups of near-duplicates."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the two experts say of probes: of every individual that both know.

    Attributes:
        similarities: float32, (probes, n), in [-1, 1]; -1 where there are only near-duplicates.
        scores: float32, (probes, n), in [0, 1].
        own: int64, (probes,), which of these each shows; -1 for a stranger.
        individuals: int64, (probes,), whose each is, numbers from 0, those of strangers too.
        photos_each: mean number of photos in the gallery.
    """

    similarities: NDArray[np.float32]
    scores: NDArray[np.float32]
    own: NDArray[np.int64]
    individuals: NDArray[np.int64]
    photos_each: float

    @classmethod
    def of(
        cls,
        gallery: Photos,
        mated: Photos,
        mated_scores: NDArray[np.float32],
        strangers: Photos,
        stranger_scores: NDArray[np.float32],
    ) -> Self:
        """Search for probes, at most 2,000 of either kind, and not among their near-duplicates.

        Args:
            gallery: photos of all individuals that the classifier knows, as its classes are numbered.
            mated: photos of some of those, by the same numbers.
            mated_scores: float32, (mated, classes), in [0, 1].
            strangers: photos of others, by numbers of their own.
            stranger_scores: float32, (strangers, classes), likewise.
        """
        enrolled, owners, groups = gallery
        order = np.argsort(owners, kind="stable")
        classes, starts = np.unique(owners[order], return_index=True)
        parts = []
        for (vectors, of, near), scores in ((mated, mated_scores), (strangers, stranger_scores)):
            drawn = choose_probes(np.arange(len(of)), of)
            found = np.clip(vectors[drawn] @ enrolled[order].T, -1.0, 1.0)
            found[near[drawn][:, None] == groups[order]] = -1.0
            parts.append((similarity_by_individual(found, starts), scores[drawn], of[drawn]))
        (similar, scored, own), (similar_strangers, scored_strangers, of_strangers) = parts
        return cls(
            np.concatenate([similar, similar_strangers]),
            np.concatenate([scored, scored_strangers]),
            np.concatenate([own, np.full(len(of_strangers), -1, np.int64)]),
            np.concatenate([own, len(classes) + of_strangers]),
            len(owners) / len(classes),
        )

    @property
    def is_mated(self) -> NDArray[np.bool_]:
        """Which probes are of somebody in the gallery, bool, (probes,)."""
        return self.own >= 0

    def of_probes(self, which: NDArray[np.bool_]) -> "Heard":
        """What they say of some of the probes."""
        return Heard(
            self.similarities[which], self.scores[which], self.own[which], self.individuals[which], self.photos_each
        )


def compare(heard: Heard) -> tuple[Combined | None, dict[str, Any]]:
    """Whether the two experts together find at least as much as the better of them, and by which figures.

    They do if neither the rank-1 of mated probes is lower nor FNIR at FPIR 1 % or 5 % higher than the better one's;
    FPIRs for which there are too few strangers are left out.

    Args:
        heard: what they say of probes.

    Returns:
        the two combined, where they are to be used together; and the figures, as JSON values: for each measure that of
        `index`, `classifier` and `together`, and the interval of together's gain over the better of the two, in which
        less is better for FNIR. Without figures where there are too few individuals of either kind.
    """
    mated = heard.is_mated
    counts = [len(np.unique(heard.individuals[kind])) for kind in (mated, ~mated)]
    about: dict[str, Any] = {"individuals": counts[0], "strangers": counts[1], "gallery_size": heard.scores.shape[1]}
    if min(counts) < LEAST:
        return None, {**about, "used": False}
    evidence = _cross_validated(heard)
    rules: dict[str, Floats] = {"index": heard.similarities, "classifier": heard.scores, "together": evidence}
    found = {name: _Found.of(values, heard.own) for name, values in rules.items()}
    measures = {"rank_1": _rank_1}
    for fpir in _FPIRS:
        if smallest(counts[1]) <= fpir:
            measures[f"fnir_at_fpir_{fpir:g}"] = partial(_fnir, fpir)
    figures, is_good = {}, []
    for name, measure in measures.items():
        figures[name], better = _figures(measure, found, heard.individuals, higher=name == "rank_1")
        is_good.append(better)
    about["used"] = all(is_good)
    if not about["used"]:
        return None, about | figures
    own = evidence[mated, heard.own[mated]]
    combined = Combined.of(
        _fit(heard),
        mated=own,
        mated_of=heard.individuals[mated],
        strangers=evidence[~mated].max(axis=1),
        strangers_of=heard.individuals[~mated],
        size=heard.scores.shape[1],
        photos_each=heard.photos_each,
    )
    return combined, about | figures


@dataclass(frozen=True, slots=True)
class _Found:
    """What one rule finds: own values and ranks of mated probes, (m,), and the highest of strangers, (n,)."""

    own: Floats
    ranks: NDArray[np.int64]
    strangers: Floats

    @classmethod
    def of(cls, values: Floats, own: NDArray[np.int64]) -> Self:
        mated = own >= 0
        those, places = values[mated], own[mated]
        relevant = places[:, None] == np.arange(values.shape[1])
        return cls(those[np.arange(len(places)), places], first_ranks(those, relevant), values[~mated].max(axis=1))


_Of: TypeAlias = Callable[..., float]
"""A measure of a _Found, by keyword `weights`: of the mated probes and then of the strangers."""


def _rank_1(found: _Found, *, weights: NDArray[np.int64]) -> float:
    return rank_k(found.ranks, 1, weights=weights[: len(found.ranks)])


def _fnir(fpir: float, found: _Found, *, weights: NDArray[np.int64]) -> float:
    mated, strangers = np.split(weights, [len(found.ranks)])
    return fnir_at_fpir(found.own, found.ranks, found.strangers, fpir, weights=mated, non_mated_weights=strangers)


def _figures(
    measure: _Of, found: Mapping[str, _Found], individuals: NDArray[np.int64], *, higher: bool
) -> tuple[dict[str, float], bool]:
    """A measure of the three, and whether together they are no worse than the better one."""
    measures: dict[str, Measure] = {name: partial(measure, one) for name, one in found.items()}
    ones = np.ones(len(individuals), np.int64)
    values = {name: one(weights=ones) for name, one in measures.items()}
    best = (max if higher else min)(("index", "classifier"), key=values.__getitem__)
    # Probes stand as in _Found: the mated ones first, as Heard.of has them.
    gain = paired_interval(measures["together"], measures[best], individuals, replicates=_DRAWS)
    no_worse = gain.value >= -_TOLERANCE if higher else gain.value <= _TOLERANCE
    return {**values, "gain_low": gain.low, "gain_high": gain.high}, no_worse


def _cross_validated(heard: Heard) -> NDArray[np.float64]:
    """Evidence of every individual for every probe, (probes, n), by weights of the other folds' individuals."""
    fold = heard.individuals % _FOLDS
    evidence = np.empty(heard.scores.shape)
    for number in range(_FOLDS):
        here = fold == number
        weights = _fit(heard.of_probes(~here))
        evidence[here] = weights.evidence(heard.similarities[here], heard.scores[here])
    return evidence


def _fit(heard: Heard) -> Weights:
    return Weights.fit(heard.similarities, heard.scores, heard.own, heard.individuals)
