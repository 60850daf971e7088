"""Do thresholds hold on animals that were not there? Calibrate on one half of the individuals, measure on the other.

    python benchmarks/calibration_halves.py [HALVES]

For each set: MobileNetV2 of ImageNet, embeddings computed once. A hundred times the individuals are parted at random;
one half is the gallery and is calibrated, as `petid calibrate` does it; the photos of the other half play strangers to
it. Told is in how many of the hundred the measured FPIR lies in the interval that the calibration stated. Where a half
is too small to promise a rate, the smallest that it can promise stands beside, and what extrapolation gives.
"""

import sys
import time
from collections.abc import Iterator

import numpy as np
from common import imagenet_embedder, report, shared_file
from numpy.typing import NDArray

from petid_search.calibrate import Calibration
from petid_search.calibrate.measure import measure
from petid_search.calibrate.promise import Strangers
from petid_search.dedup.pairs import find_pairs
from petid_search.dedup.ssim import SIZE
from petid_search.embed import Embedded, embed_photos
from petid_search.errors import CalibrationError
from petid_search.images import decode_grey, read_photo
from petid_search.index.search import Block

SETS = ("dogs", "cattle", "cats-cropped")
RATES = (0.01, 0.05)
SSIM = 0.95


class Arrays:
    """Photos in arrays, as `measure` asks for them."""

    def __init__(self, vectors: NDArray[np.float32], owners: NDArray[np.int64], near: set[int]) -> None:
        order = np.argsort(owners, kind="stable")
        self._ids, self._owners, self._vectors, self._near = order, owners[order], vectors[order], near
        self._total = len(vectors)
        self._place = np.empty(len(vectors), np.int64)
        self._place[order] = np.arange(len(order))

    def part(self, chosen: NDArray[np.bool_]) -> "Arrays":
        """Only these photos, by the same ids."""
        other = object.__new__(Arrays)
        kept = chosen[self._ids]
        other._ids, other._owners, other._vectors = self._ids[kept], self._owners[kept], self._vectors[kept]
        other._near, other._total = self._near, self._total
        other._place = np.full(self._total, -1, np.int64)
        other._place[other._ids] = np.arange(len(other._ids))
        return other

    def owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids, and individuals."""
        return self._ids, self._owners

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings."""
        return self._vectors[self._place[ids]]

    def blocks(self) -> Iterator[Block]:
        """All in one."""
        individuals, starts = np.unique(self._owners, return_index=True)
        yield Block(individuals, starts, self._ids, self._vectors)

    def near(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Near-duplicates."""
        low, high = np.minimum(first, second), np.maximum(first, second)
        keys = (low * self._total + high).tolist()
        return np.array([key in self._near for key in keys], np.bool_)


def load(name: str) -> Arrays:
    """Embed a set and find its near-duplicates."""
    folder = shared_file("data", name)
    paths = sorted(folder.glob("*/*.jpg"))
    vectors = np.stack([one.vector for one in embed_photos(paths, imagenet_embedder()) if isinstance(one, Embedded)])
    owners = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
    pairs = find_pairs(np.stack([decode_grey(read_photo(path), SIZE) for path in paths]), SSIM)
    return Arrays(vectors, owners, set((pairs.first * len(paths) + pairs.second).tolist()))


def strangers_to(gallery: Arrays, strangers: Arrays) -> Strangers:
    """What the photos of strangers reach in a gallery; one picture under two names does not count."""
    ids, owners = strangers.owners()
    known, _ = gallery.owners()
    similarities = np.minimum(strangers.vectors(ids) @ gallery.vectors(known).T, np.float32(1))
    highest = similarities.argmax(axis=1)
    near = strangers.near(ids, known[highest])
    while near.any():
        similarities[near, highest[near]] = -1
        highest = similarities.argmax(axis=1)
        near = strangers.near(ids, known[highest])
    reached = similarities.max(axis=1)
    order = np.argsort(reached)
    return Strangers(reached[order], np.unique(owners, return_inverse=True)[1][order], np.full(len(ids), -1)[order])


def main() -> None:
    """Part, calibrate, measure, and print."""
    halves = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for name in SETS:
        photos = load(name)
        _, owners = photos.owners()
        individuals = np.unique(owners)
        of_id = np.empty(len(owners), np.int64)
        of_id[photos.owners()[0]] = owners
        rng = np.random.default_rng(0)
        found: dict[str, list[tuple[float, ...]]] = {}
        seconds, left_out = [], []
        for _ in range(halves):
            first = rng.permutation(individuals)[: len(individuals) // 2]
            is_first = np.isin(of_id, first)
            gallery, others = photos.part(is_first), photos.part(~is_first)
            started = time.perf_counter()
            calibration = Calibration.of(measure(gallery))
            seconds.append(time.perf_counter() - started)
            left_out.append(calibration.samples.left_out)
            measured = strangers_to(gallery, others)
            for rate in (*RATES, None):
                asked = calibration.smallest_fpir() if rate is None else rate
                try:
                    promise, how = calibration.promise(asked), "promised"
                except CalibrationError:
                    promise, how = calibration.promise(asked, extrapolate=True), "extrapolated"
                rate_found = measured.measured(promise.threshold)
                inside = promise.low <= rate_found <= promise.high
                what = f"FPIR {asked:.2%} {how}" if rate is not None else "smallest FPIR"
                found.setdefault(what, []).append(
                    (inside, asked, promise.measured, promise.low, promise.high, rate_found, rate_found < promise.low)
                )
        figures: dict[str, object] = {"individuals in the gallery, N": len(individuals) // 2}
        for what, rows in found.items():
            table = np.array(rows)
            inside, asked, promised, low, high, rate_found, under = table.mean(axis=0)
            figures[what] = (
                f"{inside * len(rows):.0f} of {len(rows)} inside ({under * len(rows):.0f} under); asked {asked:.2%}, "
                f"gallery says {promised:.2%} ({low:.2%} to {high:.2%}), others {rate_found:.2%} "
                f"± {table[:, 5].std():.2%}"
            )
        figures["pairs of one picture under two names, left out"] = float(np.mean(left_out))
        figures["seconds to calibrate"] = float(np.median(seconds))
        report(f"{name}: thresholds of one half on the other", figures)


if __name__ == "__main__":
    main()
