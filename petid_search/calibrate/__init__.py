"""From similarity to decision and probability, by the gallery's own photos: what the numbers promise, and how surely.

Every photo plays both parts: *mated*, searched against the gallery without itself and its near-duplicates; and
*non-mated*, searched against the gallery without its individual, as a stranger's would be. What strangers reach sets
the threshold for a wanted FPIR, which so holds for a gallery of this size; the two together give the probability.
Until a gallery can speak for itself, the calibration does that its model carries from its training.
"""

from petid_search.calibrate.calibration import MISS, Calibration
from petid_search.calibrate.carried import Carried
from petid_search.calibrate.keeping import calibrate, current_calibration
from petid_search.calibrate.promise import Promise
from petid_search.calibrate.speaking import (
    Limits,
    Source,
    Together,
    count_of_another_kind,
    speaking,
    speaking_of_pairs,
    speaking_together,
)

__all__ = [
    "MISS",
    "Calibration",
    "Carried",
    "Limits",
    "Promise",
    "Source",
    "Together",
    "calibrate",
    "count_of_another_kind",
    "current_calibration",
    "speaking",
    "speaking_of_pairs",
    "speaking_together",
]
