"""A training as pictures: how it went on from epoch to epoch, and whom the classifier takes for whom."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.evaluate.plots import COLOURS, add_axes, new_figure, plain_label, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_MEASURES: Final = ("epoch", "stage", "seconds", "learning_rate")
"""What an epoch of a history tells beside losses and metrics."""

_MOST_NAMED: Final = 60
"""Classes beyond which their names can no longer be read beside the confusion matrix."""
_MOST_COUNTED: Final = 20
"""Classes beyond which no number fits into a cell."""
_LONGEST_NAME: Final = 24


def draw_learning_curves(history: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> bytes:
    """Draw the losses above and the metrics below, over the epochs; stages are parted by lines.

    Args:
        history: one entry an epoch: `epoch`, and whatever was measured. What is missing or None in some epochs is
            drawn from where it was measured; what is not finite is left out.
        best_epoch: the one whose weights were kept, marked with its own line.

    Returns:
        a PNG file.
    """
    from matplotlib.ticker import MaxNLocator

    losses, others = _measures(history)
    figure = new_figure(7.2, 6.4 if losses and others else 4.0)
    shown = [(names, title) for names, title in ((losses, "Losses"), (others, "Metrics")) if names]
    for row, (names, title) in enumerate(shown or [([], "Nothing was measured")], start=1):
        axes = add_axes(figure, title, (max(len(shown), 1), 1, row))
        for place, name in enumerate(names):
            axes.plot(
                *zip(*_points(history, name), strict=True),
                color=COLOURS[place % len(COLOURS)],
                linestyle="--" if name.startswith("val_") else "-",
                marker="o",
                markersize=3,
                label=plain_label(name) or "measure",
            )
        _mark_stages(axes, history)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="black", linewidth=0.8, linestyle=":", label=f"best epoch, {best_epoch}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.set_xlabel("epoch")
    return to_png(figure)


def draw_confusion(confusion: NDArray[np.float64], names: Sequence[str]) -> bytes:
    """Draw a confusion matrix, as shares of each row.

    Up to 60 classes are named, and up to 20 have their numbers in the cells. Beyond, a cell would be smaller than a
    pixel: then each pair that occurs is a dot, so that none is lost.

    Args:
        confusion: float64, (classes, classes), photos; row: what it is, column: what it was called.
        names: of the classes.

    Returns:
        a PNG file.
    """
    classes, photos = len(names), int(confusion.sum())
    side = min(max(5.0, 0.3 * classes + 2.5), 12.0) if classes <= _MOST_NAMED else 10.0
    figure = new_figure(side, side)
    right = np.trace(confusion) / photos if photos else math.nan
    axes = add_axes(figure, f"{photos:,} photos of {classes:,} classes, {right:.1%} right")
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    if classes <= _MOST_NAMED:
        axes.grid(visible=False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        labels = [_shortened(name) for name in names]
        axes.set_xticks(np.arange(classes), labels, rotation=90, fontsize=8)
        axes.set_yticks(np.arange(classes), labels, fontsize=8)
    else:
        rows, columns = np.nonzero(confusion)
        wrong = rows != columns
        strength = shares[rows, columns]
        for shown, colour, meaning in ((~wrong, COLOURS[0], "right"), (wrong, COLOURS[1], "wrong")):
            areas = 2 + 40 * strength[shown]
            axes.scatter(columns[shown], rows[shown], areas, color=colour, alpha=0.6, linewidths=0, label=meaning)
        axes.set_xlim(-1, classes)
        axes.set_ylim(classes, -1)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, 0), ncols=2)
    if classes <= _MOST_COUNTED:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            ink = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, f"{confusion[row, column]:g}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xlabel("what it was called")
    axes.set_ylabel("what it is")
    return to_png(figure)


def _measures(history: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The losses and the other measures that were ever finite, by first appearance."""
    found = dict.fromkeys(
        name for entry in history for name, value in entry.items() if name not in NO_MEASURES and _is_number(value)
    )
    return [name for name in found if "loss" in name], [name for name in found if "loss" not in name]


def _points(history: Iterable[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(int(entry["epoch"]), float(entry[name])) for entry in history if _is_number(entry.get(name))]


def _mark_stages(axes: "Axes", history: Sequence[Mapping[str, Any]]) -> None:
    for before, after in itertools.pairwise(history):
        if before.get("stage") != after.get("stage"):
            border = (before["epoch"] + after["epoch"]) / 2
            axes.axvline(border, color="#888888", linewidth=0.8)
            axes.annotate(
                # Its number alone, since short stages leave no room for more; the history says how each learns.
                "" if after.get("stage") is None else plain_label(str(after["stage"]).partition(":")[0]),
                (border, 1.0),
                (3, -9),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                fontsize=8,
                color="#666666",
            )


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    )


def _shortened(name: str) -> str:
    text = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return plain_label(text)
