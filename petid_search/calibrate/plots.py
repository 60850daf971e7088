"""A calibration as two pictures: can the probabilities be believed, and what does a threshold cost?"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from petid_search import metrics
from petid_search.calibrate.calibration import Calibration
from petid_search.calibrate.probability import cross_validated
from petid_search.calibrate.promise import Promise, individual_weight
from petid_search.errors import CalibrationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE: Final = "#0072B2"
_ORANGE: Final = "#D55E00"
_BINS: Final = 10
_LOWEST: Final = 1e-4


def draw(calibration: Calibration, promise: Promise | None) -> dict[str, bytes]:
    """Draw what there are numbers for.

    Args:
        calibration: what was measured.
        promise: a threshold to mark, if one could be promised.

    Returns:
        PNG files by name: `reliability`, `fnir-fpir`.
    """
    pictures = {}
    if (reliability := _reliability(calibration)) is not None:
        pictures["reliability"] = reliability
    if len(calibration.samples.mated) and len(calibration.samples.non_mated):
        pictures["fnir-fpir"] = _fnir_fpir(calibration, promise)
    return pictures


def write(calibration: Calibration, promise: Promise | None, folder: Path) -> list[Path]:
    """Write the pictures into a folder, made if there is none; returns the files.

    Raises:
        CalibrationError: they cannot be written.
    """
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in draw(calibration, promise).items():
            (folder / f"{name}.png").write_bytes(picture)
            files.append(folder / f"{name}.png")
    except OSError as error:
        raise CalibrationError(
            f"The pictures cannot be written to {folder} ({error.strerror}): name another --output."
        ) from error
    return files


def _reliability(calibration: Calibration) -> bytes | None:
    told = cross_validated(calibration.samples)
    if told is None:
        return None
    probability, mated, weights = told
    edges, confidence, accuracy, counts = metrics.reliability(probability, mated, bins=_BINS, weights=weights)
    error = metrics.expected_calibration_error(probability, mated, weights=weights)
    axes, picture = _figure("Reliability: of candidates told so, how many are right?")
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color="#dddddd", label="share of probes")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="as told")
    filled = counts > 0
    axes.plot(
        confidence[filled], accuracy[filled], color=_BLUE, marker="o", label=f"measured; mean gap (ECE) {error:.3f}"
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.005, 1.005)
    axes.set_xlabel("probability told, by individuals that the map was not fitted to")
    axes.set_ylabel("share that is right")
    axes.legend(frameon=False, fontsize=9)
    return picture()


def _fnir_fpir(calibration: Calibration, promise: Promise | None) -> bytes:
    samples = calibration.samples
    # The highest similarity decides who comes first: over a threshold, a mated probe misses by its own similarity.
    curve = metrics.oscr(
        samples.mated,
        np.ones(len(samples.mated), np.int64),
        samples.non_mated,
        weights=individual_weight(samples.mated_of),
        non_mated_weights=individual_weight(samples.non_mated_of),
    )
    axes, picture = _figure("Missed animals against strangers called by a name")
    shown = curve.fpir > 0
    axes.step(curve.fpir[shown], 1 - curve.ccr[shown], where="post", color=_BLUE)
    axes.set_xscale("log")
    axes.set_xlim(max(float(curve.fpir[shown].min(initial=0.1)), _LOWEST), 1)
    axes.set_ylim(-0.005, 1.005)
    axes.set_xlabel(f"FPIR: share of strangers called by a name (N = {samples.gallery_size})")
    axes.set_ylabel("FNIR, any rank: share of animals under the threshold")
    if promise is not None:
        missed = calibration.missed(promise.threshold)
        if missed is not None and promise.measured > 0:
            low = min(max(promise.low, _LOWEST), promise.measured)
            spread = [[promise.measured - low], [max(promise.high - promise.measured, 0.0)]]
            axes.errorbar([promise.measured], [missed], xerr=spread, color=_ORANGE, marker="o", capsize=3)
            axes.annotate(
                f"{promise.threshold:.3f}",
                (promise.measured, missed),
                (4, 5),
                textcoords="offset points",
                fontsize=8,
            )
    return picture()


def _figure(title: str) -> "tuple[Axes, Callable[[], bytes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

    def finish() -> bytes:
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": "petid"})
        return file.getvalue()

    return axes, finish
