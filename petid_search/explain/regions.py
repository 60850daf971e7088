"""Which part of the probe agrees with which part of the candidate's photo."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from petid_search.models.linear_head import LinearHead

REGIONS: Final = 3
"""Pairs of regions that are looked for: more fell apart into pieces that no eye would pair."""

_ROUNDS: Final = 500
_NOTHING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Regions:
    """Pairs of regions, one on each photo, that agree; the pair that makes up most of what agrees first.

    Attributes:
        on_probe: float32, (k, h, w): for each place what it adds to the similarity, in the map of its own region; 0 in
            the others.
        on_candidate: float32, (k, h', w'), likewise.
        shares: what the places of a pair, each with each, make up of all that agrees, in (0, 1]. The similarity is that
            less what disagrees.
    """

    on_probe: NDArray[np.float32]
    on_candidate: NDArray[np.float32]
    shares: tuple[float, ...]


def pair_regions(
    features: NDArray[np.float32],
    other: NDArray[np.float32],
    head: LinearHead,
) -> Regions:
    """Part the places of two photos into regions that agree, each on the one photo with one on the other.

    The similarity is a sum over pairs of places, one of each photo: of the inner products of what they add to the two
    embeddings. What disagrees is left out. Most places of an animal are like most of another's, so what counts is by
    how much a pair agrees more than its two places do on the whole (modularity). This matrix, its negative part cut
    off, is factorised into a few products of two vectors that are not negative: a region on the probe and one on the
    candidate's photo.

    Args:
        features: float32, (h, w, c), of the probe.
        other: float32, (h', w', c), of the candidate's photo.
        head: what pools and projects.

    Returns:
        Up to REGIONS pairs; none where nothing agrees.

    Source: Stylianou, Souvenir, Pless, WACV 2019, arXiv:1901.00536, eq. 4 (similarity as a sum over pairs of places);
    Barber, Physical Review E 76, 2007, arXiv:0707.1616, eq. 14 (modularity between two kinds of nodes); Collins,
    Achanta, Süsstrunk, "Deep feature factorization", ECCV 2018, arXiv:1806.10206 (regions of several photos, found
    together by factors that are not negative).
    """
    products = (head.places(features) * head.scale(features)) @ (head.places(other) * head.scale(other)).T
    of_probe, of_candidate, total = products.sum(1), products.sum(0), float(products.sum())
    if total <= 0:
        return Regions(np.empty((0, *features.shape[:2]), np.float32), np.empty((0, *other.shape[:2]), np.float32), ())
    agreeing = np.maximum(products, 0.0)
    expected = np.outer(agreeing.sum(1), agreeing.sum(0)) / agreeing.sum()
    excess = np.maximum(agreeing - expected, 0.0)
    if excess.sum() < _NOTHING * agreeing.sum():  # only one part agrees, or all alike
        excess = agreeing
    left, right = _factorise(excess)
    in_probe = _owned(left)
    in_candidate = _owned(right)
    shares = np.einsum("ir,ij,jr->r", in_probe, agreeing, in_candidate) / agreeing.sum()
    order = [region for region in np.argsort(-shares, kind="stable") if shares[region] > 0]
    return Regions(
        _strengths(in_probe, of_probe)[order].reshape(-1, *features.shape[:2]),
        _strengths(in_candidate, of_candidate)[order].reshape(-1, *other.shape[:2]),
        tuple(float(shares[region]) for region in order),
    )


def _factorise(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors (m, k) and (n, k), not negative, whose product comes near a matrix, (m, n), that is not negative either.

    They begin at the singular vectors, so the same matrix has the same factors each time; of each pair, both have the
    same sum.

    Source: Lee and Seung, "Algorithms for non-negative matrix factorization", NIPS 2000, eq. 4; Boutsidis and
    Gallopoulos, Pattern Recognition 41, 2008 (where it begins).
    """
    left, strengths, right = np.linalg.svd(matrix, full_matrices=False)
    count = min(REGIONS, len(strengths))
    x, y = np.empty((matrix.shape[0], count)), np.empty((matrix.shape[1], count))
    for place in range(count):
        pairs = [(np.maximum(sign * left[:, place], 0), np.maximum(sign * right[place], 0)) for sign in (1, -1)]
        x[:, place], y[:, place] = max(pairs, key=lambda pair: float(pair[0].max() * pair[1].max()))
    x, y = (np.sqrt(strengths[:count]) * factor + 1e-6 * np.sqrt(matrix.max()) for factor in (x, y))
    for _ in range(_ROUNDS):
        x *= (matrix @ y) / (x @ (y.T @ y) + 1e-12)
        y *= (matrix.T @ x) / (y @ (x.T @ x) + 1e-12)
    balance = np.sqrt((y.sum(0) + 1e-12) / (x.sum(0) + 1e-12))
    return x * balance, y / balance


def _owned(factor: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which places belong to which region, (places, k): each to that in which it is strongest, if in any."""
    owned: NDArray[np.bool_] = (factor.argmax(1)[:, None] == np.arange(factor.shape[1])) & (factor > 0)
    return owned


def _strengths(owned: NDArray[np.bool_], evidence: NDArray[np.float64]) -> NDArray[np.float32]:
    """What each place adds to the similarity, in the row of its region, (k, places)."""
    strengths: NDArray[np.float32] = (owned.T * np.maximum(evidence, 0.0)).astype(np.float32)
    return strengths
