"""What it costs to calibrate a gallery of 1,000, 10,000 and 100,000 photos, and to renew that after a change.

    python benchmarks/calibrate_scale.py [PHOTOS…]

Synthetic embeddings as in gallery_scale.py: 512 numbers, five photos an individual. Renewals and measurements from
nothing take turns. Processor time is told, with OPENBLAS_NUM_THREADS=1 about that of one core.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import report
from gallery_scale import BATCH, draw, enrolment

from petid_search.calibrate import calibrate, current_calibration
from petid_search.index.gallery import Gallery

NEWS, TURNS = 10, 3


def seconds(action: Callable[[], object], times: int = 3) -> float:
    """Median processor time of an action, which depends less than its duration on what else the machine does."""
    durations = []
    for _ in range(times):
        started = time.process_time()
        action()
        durations.append(time.process_time() - started)
    return statistics.median(durations)


def from_nothing(gallery: Gallery) -> None:
    """Calibrate without what was kept."""
    gallery.records.db.table("meetings").delete_where()
    calibrate(gallery)


def main() -> None:
    """Fill galleries and calibrate them."""
    figures: dict[str, object] = {}
    for count in [int(argument) for argument in sys.argv[1:]] or [1000, 10_000, 100_000]:
        vectors = draw(count + TURNS * NEWS, np.random.default_rng(0))
        with tempfile.TemporaryDirectory() as folder, Gallery(Path(folder), create=True) as gallery:
            for first in range(0, count, BATCH):
                batch = [enrolment(number, vectors[number]) for number in range(first, min(first + BATCH, count))]
                gallery.enroll(batch, model=("synthetic", "f" * 64), link=True)
            anew, after_enrolling, after_removing = [], [], []
            for turn in range(TURNS):
                anew.append(seconds(lambda gallery=gallery: from_nothing(gallery), 1))
                numbers = range(count + turn * NEWS, count + (turn + 1) * NEWS)
                batch = [enrolment(number, vectors[number]) for number in numbers]
                gallery.enroll(batch, model=("synthetic", "f" * 64), link=True)
                after_enrolling.append(seconds(lambda gallery=gallery: calibrate(gallery), 1))
                gallery.remove(f"dog {turn}")
                after_removing.append(seconds(lambda gallery=gallery: calibrate(gallery), 1))
            measured = statistics.median(anew)
            figures[f"{count} photos: calibrate from nothing, s"] = measured
            for what, durations in (
                (f"enrolling {NEWS} photos", after_enrolling),
                ("removing one dog", after_removing),
            ):
                figures[f"{count} photos: renew after {what}, s"] = statistics.median(durations)
                figures[f"{count} photos: renew after {what} / from nothing"] = statistics.median(durations) / measured
            unchanged = seconds(lambda gallery=gallery: calibrate(gallery))
            figures[f"{count} photos: renew after nothing, s"] = unchanged
            kept = seconds(lambda gallery=gallery: current_calibration(gallery).promise(0.01))
            figures[f"{count} photos: read what is kept and state a threshold with its interval, s"] = kept
            row = gallery.calibration_row(gallery.model)
            figures[f"{count} photos: kept, kB"] = len(row["samples"]) / 1000
            met = gallery.meeting_row(gallery.model)["met"]
            figures[f"{count} photos: kept of what was met, kB"] = len(met) / 1000
    report("calibrate, synthetic embeddings of 512 numbers", figures)


if __name__ == "__main__":
    main()
