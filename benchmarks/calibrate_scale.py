"""What it costs to calibrate a gallery of 1,000, 10,000 and 100,000 photos.

    python benchmarks/calibrate_scale.py [PHOTOS…]

Synthetic embeddings as in gallery_scale.py: 512 numbers, five photos an individual.
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


def seconds(action: Callable[[], object], times: int = 3) -> float:
    """Median duration of an action."""
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def main() -> None:
    """Fill galleries and calibrate them."""
    figures: dict[str, object] = {}
    for count in [int(argument) for argument in sys.argv[1:]] or [1000, 10_000, 100_000]:
        vectors = draw(count, np.random.default_rng(0))
        with tempfile.TemporaryDirectory() as folder, Gallery(Path(folder), create=True) as gallery:
            for first in range(0, count, BATCH):
                batch = [enrolment(number, vectors[number]) for number in range(first, min(first + BATCH, count))]
                gallery.enroll(batch, model=("synthetic", "f" * 64), link=True)
            calibrate(gallery)
            figures[f"{count} photos: calibrate anew, s"] = seconds(lambda gallery=gallery: calibrate(gallery))
            kept = seconds(lambda gallery=gallery: current_calibration(gallery).promise(0.01))
            figures[f"{count} photos: read what is kept and state a threshold with its interval, s"] = kept
            row = gallery.calibration_row(gallery.model)
            figures[f"{count} photos: kept, kB"] = len(row["samples"]) / 1000
    report("calibrate, synthetic embeddings of 512 numbers", figures)


if __name__ == "__main__":
    main()
