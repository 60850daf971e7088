"""10,000 photos' embeddings evaluated: seconds and peak memory, beside what one would write without petid.

    python benchmarks/evaluate_scale.py [PHOTOS]

Synthetic embeddings of 1,280 numbers, about five photos an individual, each photo searched for among all others. petid
measures 17 figures, each with an interval from 1,000 draws of individuals. Beside it stands the usual script: all
similarities in one NumPy matrix, average precision by scikit-learn probe by probe, the ROC by scikit-learn over all
pairs; it has no intervals. Each runs in a process of its own, one after the other, so that its peak memory is its own.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
from common import report

DIMENSION, PHOTOS_EACH = 1280, 5


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings whose pairs of one individual overlap with those of two, and the individual of each."""
    rng = np.random.default_rng(0)
    _, owners = np.unique(rng.integers(count // PHOTOS_EACH, size=count), return_inverse=True)
    centres = unit(rng.standard_normal((owners.max() + 1, DIMENSION), dtype=np.float32))
    vectors = centres[np.sort(owners)]
    vectors += 3.5 * unit(rng.standard_normal((count, DIMENSION), dtype=np.float32))
    return unit(vectors), np.sort(owners)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of unit length."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_petid(vectors: np.ndarray, owners: np.ndarray) -> dict[str, float]:
    """All figures with intervals, block by block."""
    from petid_search.evaluate.figures import REPLICATES, draw_individuals, measure_pairs, measure_ranks
    from petid_search.evaluate.search import Sides, search
    from petid_search.index.rule import RULES

    everyone, nobody = np.arange(len(owners)), np.zeros(len(owners), bool)
    weightings = draw_individuals(np.zeros(owners.max() + 1, bool), REPLICATES, 0)
    found = search(vectors, Sides(owners, everyone, everyone, everyone), [RULES["best-photo"]], weightings)
    ranks = measure_ranks(found, found.rules["best-photo"], owners, nobody, weightings)
    figures = {**ranks.figures, **measure_pairs(found).figures}
    return {name: figures[name].value or 0.0 for name in ("rank_1", "mAP", "auc", "tar@far=0.01")}


def by_hand(vectors: np.ndarray, owners: np.ndarray) -> dict[str, float]:
    """Four figures without intervals, by a dense matrix and scikit-learn."""
    from sklearn.metrics import auc, average_precision_score, roc_curve

    similarities = vectors @ vectors.T
    same = owners[:, None] == owners
    first, second = np.triu_indices(len(owners), 1)
    far, tar, _ = roc_curve(same[first, second], similarities[first, second])
    np.fill_diagonal(similarities, -np.inf)
    mated = same.sum(axis=1) > 1
    nearest = owners[similarities.argmax(axis=1)]
    others = ~np.eye(len(owners), dtype=bool)
    precisions = [
        average_precision_score(same[probe, others[probe]], similarities[probe, others[probe]])
        for probe in np.flatnonzero(mated)
    ]
    return {
        "rank_1": float(np.mean(nearest[mated] == owners[mated])),
        "mAP": float(np.mean(precisions)),
        "auc": float(auc(far, tar)),
        "tar@far=0.01": float(tar[np.searchsorted(far, 0.01, "right") - 1]),
    }


def measure(way: str, count: int) -> None:
    """Run one of the ways in this process and print what it took."""
    vectors, owners = draw(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    figures = {"petid": by_petid, "hand": by_hand}[way](vectors, owners)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak": peak / 1024, "before": before / 1024, **figures}))


def main() -> None:
    """Measure both, one after the other."""
    if len(sys.argv) > 2:
        measure(sys.argv[2], int(sys.argv[1]))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    petid, hand = (
        json.loads(
            subprocess.run(
                [sys.executable, __file__, str(count), way], check=True, capture_output=True, text=True
            ).stdout
        )
        for way in ("petid", "hand")
    )
    report(
        f"evaluate {count} embeddings of {DIMENSION} numbers",
        {
            "petid, with intervals, s": petid["seconds"],
            "NumPy and scikit-learn, without, s": hand["seconds"],
            "petid / by hand, time": petid["seconds"] / hand["seconds"],
            "petid, peak memory, MB": petid["peak"],
            "of which were there before, MB": petid["before"],
            "by hand, peak memory, MB": hand["peak"],
            "petid / by hand, memory": petid["peak"] / hand["peak"],
            **{f"{name}, petid": petid[name] for name in ("rank_1", "mAP", "auc", "tar@far=0.01")},
            **{f"{name}, by hand": hand[name] for name in ("rank_1", "mAP", "auc", "tar@far=0.01")},
        },
    )


if __name__ == "__main__":
    main()
