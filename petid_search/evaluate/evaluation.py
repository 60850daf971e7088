"""Evaluate models and rules on the photos of a folder: embed, split, search, measure."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petid_search.dataset.manifest import LabelledPhoto
from petid_search.dataset.near_duplicates import NearDuplicates, near_duplicate_pairs, told_pairs
from petid_search.dataset.split_file import (
    fit_split,
    leaks,
    read_split,
    refuse_lacking,
    refuse_leaks,
    used_photos,
)
from petid_search.dataset.splits import (
    Assigned,
    Protocol,
    Split,
    check_comparable,
    make_split,
    near_duplicate_groups,
)
from petid_search.dataset.training_split import held_out_of
from petid_search.embed import Embedded, Unreadable, embed_photos
from petid_search.errors import DatasetError, PhotoError
from petid_search.evaluate.figures import (
    REPLICATES,
    Figure,
    Measured,
    difference,
    draw_individuals,
    measure_pairs,
    measure_ranks,
)
from petid_search.evaluate.quality import qualities
from petid_search.evaluate.search import Found, Ranked, Sides, search
from petid_search.evaluate.trained_on import Known, known, training_of
from petid_search.index.rule import RULES, Rule
from petid_search.models.runtime import Embedder


@dataclass(frozen=True, slots=True)
class Result:
    """What one model gave by one rule.

    Attributes:
        model: its name.
        fingerprint: of what makes its embeddings.
        rule: name of the rule.
        figures: by name; those of identification first.
        thresholds: similarities by the name of the rate that they stand for; None where it cannot be stated.
        ranks: identification, with what its curves are drawn from; None where only pairs were asked for.
        pairs: verification, likewise; the same for all rules of a model.
        ranked: each probe's result.
        known: how much of what was measured the model was trained on; None where its bundle does not say.
    """

    model: str
    fingerprint: str
    rule: str
    figures: dict[str, Figure]
    thresholds: dict[str, float | None]
    ranks: Measured | None
    pairs: Measured
    ranked: Ranked
    known: Known | None

    @property
    def found(self) -> Found:
        """The search that this was measured on."""
        return self.pairs.found

    def minus(self, other: "Result") -> dict[str, Figure]:
        """How much more its figures are than another's on the same photos, without those that must be the same."""
        names = set(self.figures)
        if self.fingerprint == other.fingerprint:
            names -= {*self.pairs.figures, "mAP", "mINP"}
        return {name: difference(self.figures[name], other.figures[name]) for name in self.figures if name in names}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that a report tells.

    Attributes:
        split: the roles of all photos of the folder, or of the split that was given.
        photos: those that were used, in the order of their numbers in `sides`.
        individuals: their names, in the order of their numbers.
        sides: who was searched for among whom.
        strangers: bool, (probes,), whether a probe's individual is none of the enrolled by design.
        results: one for each model and rule; the first is what the others are compared with.
        failed: photos that could not be read.
        seed: of split and intervals.
        replicates: how often individuals were drawn anew.
        given: the file of a split that was given; None where it was made.
    """

    split: Split
    photos: tuple[LabelledPhoto, ...]
    individuals: tuple[str, ...]
    sides: Sides
    strangers: NDArray[np.bool_]
    results: tuple[Result, ...]
    failed: tuple[PhotoError, ...]
    seed: int
    replicates: int
    given: Path | None


def evaluate(
    photos: Sequence[LabelledPhoto],
    embedders: Sequence[Embedder],
    *,
    rules: Sequence[str] = ("best-photo",),
    protocol: Protocol | None = None,
    split: Path | None = None,
    enrolled: float = 0.5,
    seed: int = 0,
    replicates: int = REPLICATES,
    near_duplicates: NearDuplicates = near_duplicate_pairs,
    problem: Callable[[PhotoError], object] | None = None,
    advance: Callable[[], object] | None = None,
) -> Evaluation:
    """Measure how well models tell the individuals of a folder apart.

    Args:
        photos: the folder's manifest.
        embedders: models to compare, one at least; all are measured on the same photos and the same draws.
        rules: names of rules to compare (see index.rule.RULES), one at least.
        protocol: how the photos are divided (see dataset.splits.make_split); by default that of the split given, else
            leave-one-out.
        split: a file with a split to use again; it is audited for leaks.
        enrolled: share of individuals that the protocol `open-set` enrolls, in (0, 1).
        seed: of the split and of the intervals; the same seed gives the same report.
        replicates: how often individuals are drawn anew for the intervals.
        near_duplicates: finds the pairs of near-identical photos.
        problem: told of each photo that cannot be used, and is left out, as soon as that is known.
        advance: told of each photo embedded; there are len(photos) · len(embedders), or fewer where a split leaves out.

    Raises:
        DatasetError: the photos or the split cannot be evaluated.
        LeakError: the split given has on two sides what belongs on one.
        ModelError: a model cannot be used.
    """
    given = None if split is None else _given(split, photos, protocol)
    if given is not None:
        named = {one.photo for one in used_photos(given).photos}
        photos = [photo for photo in photos if photo.name in named]
    trainings = [training_of(embedder.bundle) for embedder in embedders]
    failed: dict[Path, PhotoError] = {}

    def fail(path: Path, error: PhotoError) -> None:
        if path not in failed:
            failed[path] = error
            if problem is not None:
                problem(error)

    vectors = [_embed(photos, embedder, fail, advance or (lambda: None)) for embedder in embedders]
    kept = np.array([place for place, photo in enumerate(photos) if photo.path not in failed], np.int64)
    readable = [photos[place] for place in kept]
    pairs = near_duplicates(readable)
    order = [photo.name for photo in photos]
    if given is None or split is None:
        groups = near_duplicate_groups(len(readable), pairs)
        made = make_split(readable, groups, protocol or "leave-one-out", seed=seed, enrolled=enrolled)
    else:
        order = [one.photo for one in given.photos]
        names_readable = {photo.name for photo in readable}
        made = Split(given.protocol, tuple(one for one in used_photos(given).photos if one.photo in names_readable))
        refuse_lacking(made, [photo.name for photo in photos if photo.path in failed], split)
        groups = near_duplicate_groups(len(readable), np.concatenate([pairs, told_pairs(made.photos)]))
    # A split that petid has just made passes the same audit as any other.
    places = np.array([place for place, one in enumerate(made.photos) if one.role != "left out"], np.int64)
    used = used_photos(made)
    refuse_leaks(leaks(used, [readable[place] for place in places], groups[places]), split)
    if given is not None:
        check_comparable(_by_individual(used), groups)
        left_out = [one for one in given.photos if one.role == "left out"]
        made = replace(made, photos=(*made.photos, *left_out))
    made = _with_failed(made, order, photos, failed)

    sides, strangers, names = _sides(used, groups[places])
    weightings = _weightings(sides, strangers, len(names), replicates, seed)
    chosen = [RULES[name] for name in rules]
    of_photos = qualities([readable[p].path for p in places]) if any(rule.weighs_quality for rule in chosen) else None
    pairs_only = used.protocol == "verification"
    results = []
    measured = tuple(readable[place] for place in places)
    for embedder, training, embedded in zip(embedders, trainings, vectors, strict=True):
        of_training = None if training is None else known(training, measured)
        found = search(embedded[kept][places], sides, chosen, weightings, qualities=of_photos)
        results += _measure(embedder, of_training, found, pairs_only, sides, strangers, chosen, weightings)
    return Evaluation(
        made,
        measured,
        names,
        sides,
        strangers,
        tuple(results),
        tuple(failed.values()),
        seed,
        replicates,
        split,
    )


def _given(file: Path, photos: Sequence[LabelledPhoto], protocol: Protocol | None) -> Split:
    """The split of a file, fitted to the folder; leaks that are seen without looking at photos are told at once."""
    split = read_split(file)
    if split.protocol == "training":
        split = held_out_of(split, file)
    if protocol is not None and protocol != split.protocol:
        raise DatasetError(f"The split {file} is one for {split.protocol}, not for {protocol}: leave out --protocol.")
    fitted = fit_split(split, photos, source=file)
    by_name = {photo.name: photo for photo in photos}
    used = used_photos(fitted)
    entries = [by_name[one.photo] for one in used.photos]
    groups = near_duplicate_groups(len(entries), told_pairs(used.photos))
    refuse_leaks(leaks(used, entries, groups), file)
    check_comparable(_by_individual(used), groups)
    return fitted


def _by_individual(split: Split) -> dict[str, list[int]]:
    by_individual: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(split.photos):
        by_individual[one.individual].append(place)
    return by_individual


def _embed(
    photos: Sequence[LabelledPhoto],
    embedder: Embedder,
    fail: Callable[[Path, PhotoError], None],
    advance: Callable[[], object],
) -> NDArray[np.float32]:
    vectors = np.zeros((len(photos), embedder.dimension), np.float32)
    results = embed_photos((photo.path for photo in photos), embedder)
    for place, result in enumerate(results):
        if isinstance(result, Unreadable):
            fail(result.path, result.error)
        elif isinstance(result, Embedded):
            vectors[place] = result.vector
            if result.photo.sha256 != photos[place].sha256:
                path = result.photo.path
                fail(path, PhotoError(f"{path} changed while it was evaluated: evaluate again."))
        advance()
    return vectors


def _with_failed(
    split: Split, order: Sequence[str], photos: Sequence[LabelledPhoto], failed: dict[Path, PhotoError]
) -> Split:
    """The split with the photos that could not be read, which are left out, in the order given."""
    assigned = {one.photo: one for one in split.photos}
    for photo in photos:
        if photo.path in failed:
            assigned[photo.name] = Assigned(
                photo.name, photo.sha256, photo.individual, "left out", None, "cannot be read"
            )
    return replace(split, photos=tuple(assigned[name] for name in order))


def _sides(split: Split, groups: NDArray[np.int64]) -> tuple[Sides, NDArray[np.bool_], tuple[str, ...]]:
    names, owners = np.unique([one.individual for one in split.photos], return_inverse=True)
    roles = np.array([one.role for one in split.photos])
    gallery = np.flatnonzero(np.isin(roles, ("gallery", "both")))
    probes = np.flatnonzero(np.isin(roles, ("probe", "stranger", "both")))
    sides = Sides(owners.astype(np.int64), groups, gallery, probes)
    return sides, roles[probes] == "stranger", tuple(names.tolist())


def _weightings(
    sides: Sides, strangers: NDArray[np.bool_], individuals: int, replicates: int, seed: int
) -> NDArray[np.int64]:
    """Individuals drawn anew; those without a probe have no part in any figure and are not drawn."""
    probed = np.unique(sides.owners[sides.probes])
    is_stranger = np.zeros(individuals, bool)
    is_stranger[sides.owners[sides.probes[strangers]]] = True
    weightings = np.ones((1 + replicates, individuals), np.int64)
    weightings[:, probed] = draw_individuals(is_stranger[probed], replicates, seed)
    return weightings


def _measure(
    embedder: Embedder,
    of_training: Known | None,
    found: Found,
    pairs_only: bool,
    sides: Sides,
    strangers: NDArray[np.bool_],
    rules: Sequence[Rule],
    weightings: NDArray[np.int64],
) -> list[Result]:
    pairs = measure_pairs(found)
    results = []
    for rule in rules:
        ranked = found.rules[rule.name]
        ranks = None
        if not pairs_only:
            ranks = measure_ranks(found, ranked, sides.owners[sides.probes], strangers, weightings)
        figures = {**(ranks.figures if ranks else {}), **pairs.figures}
        thresholds = {**(ranks.thresholds if ranks else {}), **pairs.thresholds}
        results.append(
            Result(
                *(embedder.name, embedder.fingerprint, rule.name, figures, thresholds, ranks, pairs, ranked),
                of_training,
            )
        )
    return results
