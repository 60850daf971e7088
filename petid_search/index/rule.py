"""How an individual's several photos become its one similarity to a probe: here and nowhere else.

One rule is in force; the others are there to be compared with it on one's own photos (`petid evaluate --rule`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

RULE: Final = "best photo"
"""The rule in force; a calibration is bound to it."""


def similarity_by_individual(similarities: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Similarity of probes to individuals: that of the individual's best photo.

    Args:
        similarities: float32, (probes, photos), in [-1, 1]; the photos of one individual side by side.
        starts: int64, (individuals,), ascending from 0; the first photo of each individual.

    Returns:
        float32, (probes, individuals), in [-1, 1].

    Source: Kittler, Hatef, Duin, Matas, "On combining classifiers", IEEE TPAMI 20(3), 1998 (max rule).
    """
    best: NDArray[np.float32] = np.maximum.reduceat(similarities, starts, axis=1)
    return best


Templates = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""From an individual's photos, float32, (k, d), unit length, and their qualities, float32, (k,), to its templates,
float32, (t, d), unit length."""

MEDOIDS: Final = 3
BEST: Final = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """An individual is kept as templates; its similarity to a probe is the mean of the highest few to a template.

    Attributes:
        name: what it is called on the command line.
        best: how many of the highest similarities are averaged, at most as many as there are templates.
        templates: what is kept of an individual's photos; None keeps the photos' own embeddings.
        weighs_quality: whether the templates depend on the qualities.
    """

    name: str
    best: int = 1
    templates: Templates | None = None
    weighs_quality: bool = False

    def similarity(
        self, probe: NDArray[np.float32], photos: NDArray[np.float32], qualities: NDArray[np.float32]
    ) -> float:
        """Similarity of one probe to one individual.

        Args:
            probe: float32, (d,), unit length.
            photos: float32, (k, d), unit length; k is 1 or more.
            qualities: float32, (k,), over 0; only their ratios count.
        """
        kept = photos if self.templates is None else self.templates(photos, qualities)
        return float(np.mean(np.sort(kept @ probe)[-self.best :]))

    def by_individual(self, similarities: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Similarity of probes to individuals.

        Args:
            similarities: float32, (probes, templates), in [-1, 1], or minus infinity for a template to be left out;
                those of one individual side by side.
            starts: int64, (individuals,), ascending from 0; the first template of each individual.

        Returns:
            float32, (probes, individuals), in [-1, 1]; minus infinity where all templates are left out.
        """
        if self.best == 1:
            return similarity_by_individual(similarities, starts)
        counts = np.diff(starts, append=similarities.shape[1])
        result = np.empty((len(similarities), len(starts)), np.float32)
        for count in np.unique(counts):
            those = np.flatnonzero(counts == count)
            of_each = similarities[:, starts[those, None] + np.arange(count)]
            highest = np.sort(of_each, axis=2)[:, :, -self.best :]
            there = highest > -np.inf
            number = there.sum(axis=2)
            total = np.where(there, highest, 0.0).sum(axis=2)
            result[:, those] = np.where(number > 0, total / np.maximum(number, 1), -np.inf)
        return result


def _mean(photos: NDArray[np.float32], _: NDArray[np.float32]) -> NDArray[np.float32]:
    return _unit(photos.sum(axis=0))[None]


def _quality_mean(photos: NDArray[np.float32], qualities: NDArray[np.float32]) -> NDArray[np.float32]:
    return _unit(qualities @ photos)[None]


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    # Photos that point in opposite directions add up to nothing, which is similar to nobody.
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def _medoids(photos: NDArray[np.float32], _: NDArray[np.float32]) -> NDArray[np.float32]:
    """The photos that stand best for the others: each time the one by which the most similarity is won."""
    if len(photos) <= MEDOIDS:
        return photos
    similarities = photos @ photos.T
    chosen: list[int] = []
    nearest = np.full(len(photos), -1.0, np.float32)
    for _step in range(MEDOIDS):
        chosen.append(int(np.argmax(np.maximum(similarities, nearest).sum(axis=1))))
        nearest = np.maximum(nearest, similarities[chosen[-1]])
    return photos[chosen]


RULES: Final = {
    rule.name: rule
    for rule in (
        Rule("best-photo"),
        Rule("best-3", best=BEST),
        Rule("mean", templates=_mean),
        Rule("quality-mean", templates=_quality_mean, weighs_quality=True),
        Rule("medoids", templates=_medoids),
    )
}
"""Rules that can be compared, by name; `best-photo` is the one in force.

Sources: best photo, Kittler, Hatef, Duin, Matas, IEEE TPAMI 20(3), 1998 (max rule); mean embedding, as for templates of
several photos in Whitelam et al., "IARPA Janus Benchmark-B face dataset", CVPR workshops 2017; medoids, Kaufman and
Rousseeuw, "Finding Groups in Data", 1990, by the first, greedy phase of PAM.
"""
