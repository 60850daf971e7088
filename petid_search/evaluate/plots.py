"""The curves of an evaluation as PNG pictures, drawn without a display; colours that colour-blind eyes tell apart."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search import metrics
from petid_search.evaluate.evaluation import Evaluation, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito, "Color universal design", 2008; lines differ by their dashes as well."""
_DASHES: Final = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_DPI: Final = 120
_TICKS: Final = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)
_LAST_RANK: Final = 20

TITLES: Final = {
    "cmc": "CMC: is the right individual among the first k?",
    "roc": "ROC: pairs of one individual against pairs of two",
    "det": "DET: the two errors of verification",
    "fnir-fpir": "Open set: missed animals against strangers called by a name",
    "similarities": "Similarities of pairs",
    "oscr": "OSCR: right answers against strangers called by a name",
}


def draw(evaluation: Evaluation) -> dict[str, bytes]:
    """Draw every curve that the evaluation has numbers for, all results into one picture.

    Returns:
        PNG files, by the names in TITLES.
    """
    results = evaluation.results
    pictures = {}
    if all(result.ranks is not None and len(result.ranks.ranks) for result in results):
        pictures["cmc"] = _picture("cmc", results, _cmc)
    if all(_has_pairs(result) for result in results):
        # All rules of a model have the same pairs.
        models = list({result.fingerprint: result for result in reversed(results)}.values())[::-1]
        pictures["roc"] = _picture("roc", models, _roc)
        pictures["det"] = _picture("det", models, _det)
    if "cmc" in pictures and all(result.ranks is not None and len(result.ranks.non_mated) for result in results):
        pictures["fnir-fpir"] = _picture("fnir-fpir", results, _fnir_fpir)
        pictures["oscr"] = _picture("oscr", results, _oscr)
    if _has_pairs(results[0]):
        pictures["similarities"] = _picture("similarities", results[:1], _similarities)
    return pictures


def label(result: Result, results: Sequence[Result]) -> str:
    """What tells a result from the others."""
    parts = []
    if len({one.fingerprint for one in results}) > 1 or len(results) == 1:
        parts.append(result.model)
    if len({one.rule for one in results}) > 1:
        parts.append(result.rule)
    return ", ".join(parts)


def new_figure(width: float = 6.4, height: float = 4.4) -> "Figure":
    """An empty figure of that many inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: "Figure", title: str, place: tuple[int, int, int] = (1, 1, 1)) -> "Axes":
    """Axes in petid's style; `place` as in matplotlib's add_subplot: rows, columns, number."""
    axes = figure.add_subplot(*place)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def to_png(figure: "Figure") -> bytes:
    """The figure as a PNG file; a sign that the font lacks becomes a box, without a warning."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(file, format="png", metadata={"Software": "petid"})
    return file.getvalue()


def plain_label(name: str) -> str:
    """A name as matplotlib shall write it: no formula, no line break, and no `_` in front, which means no legend."""
    printable = "".join(sign if sign.isprintable() else " " for sign in name)
    return printable.replace("$", r"\$").lstrip("_")


def _picture(name: str, results: Sequence[Result], curve: Callable[["Axes", Result, dict[str, Any]], None]) -> bytes:
    figure = new_figure()
    axes = add_axes(figure, TITLES[name])
    for place, result in enumerate(results):
        style = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": _DASHES[place % len(_DASHES)],
            "label": plain_label(label(result, results)) or "model",
        }
        curve(axes, result, style)
    if len(results) > 1 or name == "similarities":
        axes.legend(frameon=False, fontsize=9)
    return to_png(figure)


def _cmc(axes: "Axes", result: Result, style: dict[str, Any]) -> None:
    if result.ranks is None:
        return
    last = min(_LAST_RANK, max(result.found.individuals, 1))
    axes.plot(np.arange(1, last + 1), metrics.cmc(result.ranks.ranks, last), marker="o", markersize=3, **style)
    axes.set_xlabel(f"k (N = {result.found.individuals} individuals)")
    axes.set_xticks(np.unique(np.linspace(1, last, min(last, 10)).astype(int)))
    axes.set_ylabel("share of mated probes")


def _roc(axes: "Axes", result: Result, style: dict[str, Any]) -> None:
    far, tar, _ = metrics.roc(*_pairs(result), **_weights(result))
    lowest = 10.0 ** np.floor(np.log10(1 / max(result.found.pairs.counts[1], 10)))
    shown = far > 0
    axes.step(far[shown], tar[shown], where="post", **style)
    axes.set_xscale("log")
    axes.set_xlim(max(lowest, 1e-6), 1)
    axes.set_ylim(-0.005, 1.005)
    axes.set_xlabel("FAR: share of pairs of two individuals that are accepted")
    axes.set_ylabel("TAR: share of pairs of one individual")


def _det(axes: "Axes", result: Result, style: dict[str, Any]) -> None:
    far, frr, _ = metrics.det(*_pairs(result), **_weights(result))
    shown = (far > 0) & (far < 1) & (frr > 0) & (frr < 1)
    axes.plot(metrics.probit(far[shown]), metrics.probit(frr[shown]), **style)
    ticks = np.array(_TICKS)
    names = [f"{tick:.3g}" for tick in ticks]
    axes.set_xticks(metrics.probit(ticks), names)
    axes.set_yticks(metrics.probit(ticks), names)
    ends = metrics.probit(np.array([0.0005, 0.9]))
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_xlabel("FAR (normal deviates)")
    axes.set_ylabel("FRR (normal deviates)")


def _fnir_fpir(axes: "Axes", result: Result, style: dict[str, Any]) -> None:
    fpir, ccr = _open_set(result)
    shown = fpir > 0
    axes.step(fpir[shown], 1 - ccr[shown], where="post", **style)
    axes.set_xscale("log")
    axes.set_xlim(max(float(fpir[shown].min(initial=min(0.1, axes.get_xlim()[0]))), 1e-5), 1)
    axes.set_ylim(-0.005, 1.005)
    axes.set_xlabel(f"FPIR: share of strangers called by a name (N = {result.found.individuals})")
    axes.set_ylabel("FNIR, rank 1: share of animals missed")


def _oscr(axes: "Axes", result: Result, style: dict[str, Any]) -> None:
    axes.plot(*_open_set(result), **style)
    axes.set_xlim(-0.005, 1.005)
    axes.set_ylim(-0.005, 1.005)
    axes.set_xlabel(f"FPIR: share of strangers called by a name (N = {result.found.individuals})")
    axes.set_ylabel("CCR: share of animals called by theirs")


def _similarities(axes: "Axes", result: Result, style: dict[str, Any]) -> None:
    pairs = result.found.pairs
    for place, (name, counts) in enumerate(
        (("one individual", pairs.genuine[0]), ("two individuals", pairs.impostor[0]))
    ):
        coarse = counts.reshape(128, -1).sum(axis=1)
        middle = pairs.centres.reshape(128, -1).mean(axis=1)
        density = coarse / coarse.sum() / (middle[1] - middle[0])
        drawn = {**style, "color": COLOURS[place], "linestyle": _DASHES[place]}
        axes.fill_between(middle, density, step="mid", alpha=0.25, color=drawn["color"], linewidth=0)
        axes.step(middle, density, where="mid", **{**drawn, "label": f"{pairs.counts[place]:,} pairs of {name}"})
    threshold = result.thresholds.get("far=0.01")
    if threshold is not None:
        axes.axvline(threshold, color="black", linewidth=0.8)
        axes.annotate(
            "FAR 1 %",
            (threshold, 0.97),
            (3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("similarity")
    axes.set_ylabel("density")


def _open_set(result: Result) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    measured = result.ranks
    if measured is None:
        return np.empty(0), np.empty(0)
    curve = metrics.oscr(measured.own, measured.ranks, measured.non_mated)
    return curve.fpir, curve.ccr


def _has_pairs(result: Result) -> bool:
    pairs = result.found.pairs
    return bool(pairs.genuine[0].any() and pairs.impostor[0].any())


def _pairs(result: Result) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return result.found.pairs.centres, result.found.pairs.centres


def _weights(result: Result) -> dict[str, NDArray[np.float64]]:
    return {"genuine_weights": result.found.pairs.genuine[0], "impostor_weights": result.found.pairs.impostor[0]}
