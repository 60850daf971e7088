"""Measures of identification on plain arrays, by the names and definitions of ISO/IEC 19795-1."""

import numpy as np
from numpy.typing import NDArray


def rank_k(ranks: NDArray[np.int64], k: int) -> float:
    """Share of mated probes whose individual is among the first k candidates (CMC at k).

    Args:
        ranks: int, (probes,), place of the probe's individual, 1 for the first.
        k: 1 or more.

    Returns:
        in [0, 1]; NaN where there are no probes.

    Source: Phillips, Moon, Rizvi, Rauss, "The FERET evaluation methodology", IEEE TPAMI 22(10), 2000.
    """
    return float(np.mean(ranks <= k)) if len(ranks) else float("nan")


def threshold_at_fpir(non_mated: NDArray[np.float32], fpir: float) -> float:
    """The lowest threshold at which at most this share of the given non-mated probes returns a candidate.

    A candidate is returned whose similarity is at or over the threshold.

    Args:
        non_mated: float, (probes,), each non-mated probe's highest similarity.
        fpir: false positive identification rate, in [0, 1].

    Returns:
        a similarity; minus infinity where every probe may return a candidate.

    Source: ISO/IEC 19795-1:2021 (false positive identification rate).
    """
    allowed = int(np.floor(fpir * len(non_mated) + 1e-9))
    if allowed >= len(non_mated):
        return float("-inf")
    highest_refused = np.sort(non_mated)[::-1][allowed]
    return float(np.nextafter(np.float32(highest_refused), np.float32(np.inf)))


def fpir_at(non_mated: NDArray[np.float32], threshold: float) -> float:
    """Share of non-mated probes that return a candidate at or over the threshold.

    Args:
        non_mated: float, (probes,), each non-mated probe's highest similarity.
        threshold: a similarity.

    Returns:
        in [0, 1]; NaN where there are no probes.
    """
    return float(np.mean(non_mated >= threshold)) if len(non_mated) else float("nan")


def fnir_at(own: NDArray[np.float32], ranks: NDArray[np.int64], threshold: float, *, rank: int = 1) -> float:
    """FNIR(N, R, T): share of mated probes whose individual is not among the first R candidates over T.

    Args:
        own: float, (probes,), similarity of each mated probe to its own individual.
        ranks: int, (probes,), place of that individual, 1 for the first.
        threshold: T, a similarity.
        rank: R.

    Returns:
        in [0, 1]; NaN where there are no probes. N is the number of individuals in the gallery that was searched.

    Source: ISO/IEC 19795-1:2021; NIST FRTE 1:N.
    """
    return float(np.mean((own < threshold) | (ranks > rank))) if len(own) else float("nan")
