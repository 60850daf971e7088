"""From what a search found to figures, each with its interval over individuals, or the reason why there is none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from petid_search import metrics
from petid_search.evaluate.search import Found, Ranked

REPLICATES: Final = 1000
LEVEL: Final = 0.95
FPIRS: Final = (0.01, 0.1)
FARS: Final = (0.01, 0.001)
RANKS: Final = (1, 5, 10)
FEWEST: Final = 10
"""Individuals that an interval takes: of fewer, drawing anew tells next to nothing."""
FEWEST_AT_THRESHOLD: Final = 5
"""Individuals that a threshold should rest on; of fewer, a figure says so."""

Weightings: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number.

    Attributes:
        value: of all individuals; None where it cannot be measured.
        low: lower end of the interval over individuals; None where there is no value, or none can be stated.
        high: upper end.
        count: how many of what it was measured on.
        of: of what, with the number of each kind.
        reason: why there is no value or no interval, or what to keep in mind; else empty.
        replicates: float64, (replicates,), the values with individuals drawn anew; the same draws in every figure.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int
    of: str
    reason: str
    replicates: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one model and one rule, and what their curves are drawn from.

    Attributes:
        figures: by name.
        thresholds: the similarity that belongs to a rate, by the rate's name; None where it cannot be stated.
        found: the search that was measured.
        own: float32, (mated probes,), similarity to the own individual; none where ranks were not asked for.
        ranks: int64, (mated probes,), place of that individual.
        non_mated: float32, (non-mated probes,), highest similarity.
    """

    figures: Mapping[str, Figure]
    thresholds: Mapping[str, float | None]
    found: Found
    own: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    ranks: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    non_mated: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


def draw_individuals(individuals: NDArray[np.bool_], replicates: int, seed: int) -> Weightings:
    """How often each individual counts: once in the first row, then as drawn, strangers apart from the others.

    How many individuals are enrolled and how many are strangers was chosen, not sampled: each kind is drawn by itself.

    Args:
        individuals: bool, (individuals,), whether it is a stranger.
        replicates: how often to draw.
        seed: the same seed draws the same.

    Returns:
        int64, (1 + replicates, individuals).
    """
    weights = np.ones((1 + replicates, len(individuals)), np.int64)
    for kind in (False, True):
        those = np.flatnonzero(individuals == kind)
        weights[1:, those] = metrics.individual_weights(len(those), replicates, seed + kind)
    return weights


def exact_bound(individuals: int, level: float = LEVEL) -> float:
    """The lowest rate at which all of so many individuals would still do right: the lower end of an interval to 1.

    Where all do right, or all wrong, drawing them anew gives an interval of no width. It is also a bound of any mean of
    values in [0, 1] that are all 1, each value being 1 with a probability of at most its mean.

    Args:
        individuals: how many were measured, 1 at least.
        level: of the two-sided interval, in (0, 1).

    Source: Clopper and Pearson 1934, Biometrika 26(4), 404-413, where all of n succeed: ((1 - level) / 2)^(1 / n).
    """
    return float(((1 - level) / 2) ** (1 / individuals))


def measure_pairs(found: Found) -> Measured:
    """Measure verification: the pairs of a probe and a photo of the gallery, under the weightings of the search."""
    pairs = found.pairs
    genuine, impostor = pairs.counts
    on = (genuine + impostor, f"{genuine} genuine and {impostor} impostor pairs")
    missing = "" if impostor else "there is no pair of photos of two individuals"
    if not genuine:
        missing = "there is no pair of photos of one individual, near-duplicates aside"
    table = _Table(found.probed)

    def of_pairs(function: Callable[..., float], *arguments: float) -> NDArray[np.float64]:
        values = np.empty(len(pairs.genuine))
        for row, (those, others) in enumerate(zip(pairs.genuine, pairs.impostor, strict=True)):
            values[row] = function(
                pairs.centres, pairs.centres, *arguments, genuine_weights=those, impostor_weights=others
            )
        return values

    table.add("auc", on, missing, partial(of_pairs, metrics.auc))
    table.add("eer", on, missing, partial(of_pairs, metrics.eer))
    thresholds: dict[str, float | None] = {}
    for far in FARS:
        few = missing or _too_few(impostor, far, f"FAR {far:.4g}", "pairs of two individuals")
        table.add(f"tar@far={far:g}", on, few, partial(of_pairs, metrics.tar_at_far, far))
        # All pairs of a bin have the similarity of its middle; a threshold belongs between two bins.
        half = (pairs.centres[1] - pairs.centres[0]) / 2
        refused = metrics.threshold_at_fpir(pairs.centres, far, weights=pairs.impostor[0])
        thresholds[f"far={far:g}"] = None if few else float(refused + half)
    return Measured(table.figures, thresholds, found)


def measure_ranks(
    found: Found,
    ranked: Ranked,
    owners: NDArray[np.int64],
    strangers: NDArray[np.bool_],
    weightings: Weightings,
) -> Measured:
    """Measure identification by one rule, in closed set and in open set.

    Where there are no strangers, each probe plays one: it is searched for in the gallery without its own individual.

    Args:
        found: the search.
        ranked: what the rule gave.
        owners: int64, (p,), the individual of each probe.
        strangers: bool, (p,), whether the probe is a stranger's.
        weightings: int64, (1 + replicates, individuals), from `draw_individuals`.
    """
    mated = np.flatnonzero(ranked.ranks > 0)
    plays_stranger = strangers if strangers.any() else np.ones_like(strangers)
    non_mated = np.flatnonzero(plays_stranger & (ranked.other > -np.inf))
    ranks, own, highest = ranked.ranks[mated], ranked.own[mated], ranked.other[non_mated]
    known_owners, unknown_owners = owners[mated], owners[non_mated]
    mated_individuals, non_mated_individuals = len(np.unique(known_owners)), len(np.unique(unknown_owners))
    table, both = _Table(mated_individuals), min(mated_individuals, non_mated_individuals)
    on_mated = (len(mated), f"{len(mated)} mated probes")
    on_both = (len(mated) + len(non_mated), f"{len(mated)} mated and {len(non_mated)} non-mated probes")
    nobody = "" if len(mated) else "no probe's individual is enrolled with another photo"

    def of_mated(function: Callable[..., float], *arguments: Any) -> NDArray[np.float64]:
        return np.array([function(*arguments, weights=row[known_owners]) for row in weightings])

    def of_both(function: Callable[..., float], *arguments: Any) -> NDArray[np.float64]:
        return np.array(
            [
                function(*arguments, weights=row[known_owners], non_mated_weights=row[unknown_owners])
                for row in weightings
            ]
        )

    for k in RANKS:
        table.add(f"rank_{k}", on_mated, nobody, partial(of_mated, metrics.rank_k, ranks, k))
    for name, function, values in (
        ("mAP", metrics.mean_average_precision, found.precisions[mated]),
        ("mINP", metrics.mean_inverse_negative_penalty, found.penalties[mated]),
    ):
        table.add(name, on_mated, nobody, partial(of_mated, function, values))
    thresholds: dict[str, float | None] = {}
    for fpir in FPIRS:
        few = nobody or _too_few(len(non_mated), fpir, f"FPIR {fpir:.4g}", "non-mated probes")
        of_fpir = (own, ranks, highest, fpir)
        note = _resting_on(highest, unknown_owners, fpir)
        fnir, dir_ = partial(of_both, metrics.fnir_at_fpir, *of_fpir), partial(of_both, metrics.dir_at_fpir, *of_fpir)
        table.add(f"fnir@fpir={fpir:g}", on_both, few, fnir, individuals=both, note=note)
        table.add(f"dir@fpir={fpir:g}", on_both, few, dir_, individuals=both, note=note)
        thresholds[f"fpir={fpir:g}"] = None if few else metrics.threshold_at_fpir(highest, fpir)
    no_stranger = nobody or ("" if len(non_mated) else "there is no other individual to be mistaken for")
    first = np.maximum(own, ranked.other[mated])
    auroc = partial(of_both, metrics.auroc_known_unknown, first, highest)
    table.add("auroc", on_both, no_stranger, auroc, individuals=both)
    table.add("oscr", on_both, no_stranger, partial(of_both, metrics.oscr_area, own, ranks, highest), individuals=both)

    def known(*, weights: Weightings, non_mated_weights: Weightings) -> float:
        threshold = metrics.threshold_at_fpir(highest, FPIRS[0], weights=non_mated_weights)
        return metrics.baks(known_owners, (ranks == 1) & (own >= threshold), weights=weights)

    def unknown(*, weights: Weightings, non_mated_weights: Weightings) -> float:  # noqa: ARG001 - called like `known`
        threshold = metrics.threshold_at_fpir(highest, FPIRS[0], weights=non_mated_weights)
        return metrics.baus(unknown_owners, highest < threshold, weights=non_mated_weights)

    few = nobody or _too_few(len(non_mated), FPIRS[0], f"FPIR {FPIRS[0]:.4g}", "non-mated probes")
    note = _resting_on(highest, unknown_owners, FPIRS[0])
    table.add(f"baks@fpir={FPIRS[0]:g}", on_both, few, partial(of_both, known), individuals=both, note=note)
    # The threshold is one that just these strangers do not reach: an interval would be about the threshold.
    by_construction = "near 1 - FPIR by construction of the threshold: no interval"
    table.add(f"baus@fpir={FPIRS[0]:g}", on_both, few, partial(of_both, unknown), individuals=0, note=by_construction)
    return Measured(table.figures, thresholds, found, own, ranks, highest)


def difference(figure: Figure, other: Figure) -> Figure:
    """How much more one figure is than another that was measured on the same individuals, drawn the same."""
    if figure.value is None or other.value is None:
        reason = figure.reason or other.reason
        return Figure(None, None, None, figure.count, figure.of, reason, np.empty(0))
    value = figure.value - other.value
    if figure.low is None or other.low is None:
        reason = figure.reason if figure.low is None else other.reason
        return Figure(value, None, None, figure.count, figure.of, reason, np.empty(0))
    replicates = figure.replicates - other.replicates
    low, high = metrics.percentile_interval(replicates, LEVEL)
    return Figure(value, _number(low), _number(high), figure.count, figure.of, "", replicates)


class _Table:
    """Figures as they are added; so many individuals are measured, unless one says otherwise."""

    def __init__(self, individuals: int) -> None:
        self.figures: dict[str, Figure] = {}
        self._individuals = individuals

    def add(
        self,
        name: str,
        measured_on: tuple[int, str],
        reason: str,
        values: Callable[[], NDArray[np.float64]],
        *,
        individuals: int | None = None,
        note: str = "",
    ) -> None:
        """Take the values of all weightings, the first being that of every individual once.

        Args:
            name: of the figure.
            measured_on: how many of what.
            reason: why it cannot be measured; then nothing is.
            values: measures it, float64, (1 + replicates,).
            individuals: how many it is measured on, of the kind of which there are fewest; 0 for no interval.
            note: what to keep in mind.
        """
        count, of = measured_on
        if reason:
            self.figures[name] = Figure(None, None, None, count, of, reason, np.empty(0))
            return
        every = values()
        value, notes = _number(every[0]), [note] if note else []
        measured = self._individuals if individuals is None else individuals
        if measured < FEWEST:
            if measured:
                notes.insert(0, f"too few individuals for an interval: {measured}")
            self.figures[name] = Figure(value, None, None, count, of, "; ".join(notes), every[1:])
            return
        low, high = metrics.percentile_interval(every[1:], LEVEL)
        if value == low == high and value in (0.0, 1.0):
            low, high = (exact_bound(measured), 1.0) if value else (0.0, 1.0 - exact_bound(measured))
        undefined = float(np.isnan(every[1:]).mean()) if len(every) > 1 else 0.0
        if undefined > 0.05:
            notes.append(f"undefined in {undefined:.0%} of the replicates, which are left out")
        self.figures[name] = Figure(value, _number(low), _number(high), count, of, "; ".join(notes), every[1:])


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _resting_on(highest: NDArray[np.float32], owners: NDArray[np.int64], fpir: float) -> str:
    """What to keep in mind of a threshold that the non-mated probes of few individuals define."""
    reaching = np.argsort(-highest, kind="stable")[: int(fpir * len(highest) + 1e-9) + 1]
    individuals = len(np.unique(owners[reaching]))
    if individuals >= FEWEST_AT_THRESHOLD:
        return ""
    return f"the threshold rests on {individuals} {'individual' if individuals == 1 else 'individuals'}"


def _too_few(count: int, rate: float, what: str, of: str) -> str:
    needed = int(np.ceil(1 / rate - 1e-9))
    return "" if count >= needed else f"{what} takes {needed} {of} at least, and there are {count}"
