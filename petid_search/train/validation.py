"""How good a model is in the middle of its training: on individuals and photos that it does not learn from."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.evaluate.search import Sides, search
from petid_search.index.rule import RULES
from petid_search.metrics import rank_k, top_k_accuracy


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept from the training to measure it by.

    Attributes:
        validation: int64, (v,), places of photos of individuals that are trained on.
        labels: int64, (v,), their class numbers.
        held_out: int64, (h,), places of photos of individuals that are not.
        owners: int64, (h,), whom those show, numbers from 0.
        groups: int64, (h,), their groups of near-duplicates.
    """

    validation: NDArray[np.int64]
    labels: NDArray[np.int64]
    held_out: NDArray[np.int64]
    owners: NDArray[np.int64]
    groups: NDArray[np.int64]


def retrieval(embeddings: NDArray[np.float32], kept: Kept) -> dict[str, float]:
    """Rank-1 and mAP of each held-out photo against all the others, near-duplicates of it apart.

    Args:
        embeddings: float32, (h, d), unit length.
        kept: whom they show.
    """
    everyone = np.arange(len(embeddings))
    sides = Sides(kept.owners, kept.groups, everyone, everyone)
    weights = np.ones((1, int(kept.owners.max()) + 1), np.int64)
    found = search(embeddings, sides, [RULES["best-photo"]], weights)
    ranks = found.rules["best-photo"].ranks
    return {"rank_1": float(rank_k(ranks[ranks > 0], 1)), "mAP": float(np.nanmean(found.precisions))}


def accuracy(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of photos whose class has the highest score; a wrong class of equal score comes first."""
    return top_k_accuracy(scores, labels, 1)


_LOWER_IS_BETTER: Final = ("loss", "error", "entropy", "divergence", "poisson", "hinge", "huber", "false", "logcosh")
"""Parts of the names of measures, as petid and Keras have them, that are better when low."""


def is_better(value: float, best: float | None, monitor: str) -> bool:
    """Whether a value of a monitored measure is better than the best so far; losses and errors are better when low."""
    if not np.isfinite(value):
        return False
    if best is None:
        return True
    lower = any(part in monitor.lower() for part in _LOWER_IS_BETTER)
    return value < best if lower else value > best
