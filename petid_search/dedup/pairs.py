"""All pairs of near-identical pictures: those that an upper bound of SSIM lets through, then compared exactly."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petid_search.dedup.ssim import ROUNDING, shortened, signatures, ssim_of_pairs

_ROWS: Final = 1024
_COLUMNS: Final = 8192
_COARSE: Final = 129
"""Numbers of a signature that are compared first: all that most pairs need."""
_FEW: Final = 0.02
"""Where the first numbers let through a smaller share than this, the others are compared pair by pair."""
_AT_ONCE: Final = 1 << 14
_SQUARE: Final = 128
"""Side of a tile whose pairs are all compared, so that few photos make many pairs."""


class Pairs(NamedTuple):
    """Pairs of pictures: int64, (pairs,), two places with `first` < `second`, and SSIM, float64, (pairs,)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    ssim: NDArray[np.float64]


def find_pairs(
    thumbnails: NDArray[np.uint8],
    threshold: float,
    *,
    searched: int | None = None,
    wanted: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]] | None = None,
    exhaustive: bool = False,
    advance: Callable[[int], object] | None = None,
) -> Pairs:
    """Every pair of thumbnails whose SSIM is at or above a threshold; none is missed (see `signatures`).

    Time grows with the square of the number of thumbnails, by an inner product of 129 numbers a pair; memory with
    their number (3.6 kB each) and with that of the pairs found.

    Args:
        thumbnails: uint8, (n, 32, 32).
        threshold: SSIM, in (0, 1].
        searched: only pairs with at least one of the first so many thumbnails; all where None.
        wanted: given places of pairs, tells which of them to compare; all where None.
        exhaustive: compare every pair exactly, by no upper bound: slow, and the same result.
        advance: told how many of the `searched` thumbnails were compared with all behind them since the last call.

    Returns:
        the pairs, in the order of their places.
    """
    searched = len(thumbnails) if searched is None else searched
    filtered = _everything(len(thumbnails), searched) if exhaustive else _filtered(thumbnails, searched, threshold)
    found: list[Pairs] = []
    for rows, first, second in filtered:
        if wanted is not None and len(first):
            kept = wanted(first, second)
            first, second = first[kept], second[kept]
        for part in range(0, len(first), _AT_ONCE):
            a, b = first[part : part + _AT_ONCE], second[part : part + _AT_ONCE]
            ssim = ssim_of_pairs(thumbnails, a, b)
            near = ssim >= threshold
            found.append(Pairs(a[near], b[near], ssim[near]))
        if advance is not None:
            advance(rows)
    nothing = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    a = np.concatenate([pairs.first for pairs in [nothing, *found]])
    b = np.concatenate([pairs.second for pairs in [nothing, *found]])
    order = np.lexsort((b, a))
    return Pairs(a[order], b[order], np.concatenate([pairs.ssim for pairs in [nothing, *found]])[order])


_Tile = tuple[int, NDArray[np.int64], NDArray[np.int64]]
"""Rows that are done with this tile, and the pairs in it to compare, `first` ascending."""


def _filtered(thumbnails: NDArray[np.uint8], searched: int, threshold: float) -> Iterator[_Tile]:
    """Tile by tile, the pairs whose SSIM may reach the threshold."""
    fine = signatures(thumbnails)
    coarse = shortened(fine, _COARSE)
    least = np.float32(threshold - ROUNDING)
    for start, stop, left, right in _tiles(len(thumbnails), searched, _ROWS, _COLUMNS):
        bounds = coarse[start:stop] @ coarse[left:right].T
        row, column = _at_least(bounds, least)
        if len(row) > _FEW * bounds.size:
            row, column = _at_least(fine[start:stop] @ fine[left:right].T, least)
        row, column = row + start, column + left
        ahead = row < column
        row, column = row[ahead], column[ahead]
        if len(row) <= _FEW * bounds.size:
            may = np.zeros(len(row), np.bool_)
            for part in range(0, len(row), _ROWS):
                chosen = slice(part, part + _ROWS)
                may[chosen] = np.einsum("ij,ij->i", fine[row[chosen]], fine[column[chosen]]) >= least
            row, column = row[may], column[may]
        yield stop - start if right == len(thumbnails) else 0, row, column


def _everything(total: int, searched: int) -> Iterator[_Tile]:
    for start, stop, left, right in _tiles(total, searched, _SQUARE, _SQUARE):
        row, column = np.triu_indices(stop - start, start - left + 1, right - left)
        yield stop - start if right == total else 0, row + start, column + left


def _tiles(total: int, searched: int, rows: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """Rows from, to and columns from, to of blocks that hold all pairs on and above the diagonal."""
    for start in range(0, searched, rows):
        for left in range(start, total, columns):
            yield start, min(start + rows, searched), left, min(left + columns, total)


def _at_least(bounds: NDArray[np.float32], least: np.float32) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    row, column = np.divmod(np.flatnonzero(bounds >= least), bounds.shape[1])
    return row, column
