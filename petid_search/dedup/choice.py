"""Of several near-identical photos, the one to keep, and what it has over the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from petid_search.images import decode, read_photo

_AS_SHARP: Final = 0.92
"""Photos of at least so large a share of the sharpest one's sharpness count as sharp. Compression adds edges of its own
(seen at qualities of 30 to 75: 0.99 to 1.08 times the sharpness); blur by 0.7 pixels, or shrinking to a half and
enlarging again, leaves 0.79 to 0.97, half of the time under 0.89."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What tells the better of two near-identical photos.

    Attributes:
        width: in pixels, upright.
        height: in pixels, upright.
        sharpness: 95th percentile of the grey picture's gradient, at half its size; grey levels a pixel.
        bytes: of the file.
        changed_ns: when the file last changed, in nanoseconds since 1970.
    """

    width: int
    height: int
    sharpness: float
    bytes: int
    changed_ns: int


def measure_quality(path: Path) -> Quality:
    """Read a photo and measure it.

    Raises:
        PhotoError: it cannot be read.
    """
    photo = read_photo(path)
    image = decode(photo)
    height, width = image.shape[:2]
    grey = image[: height // 2 * 2, : width // 2 * 2].mean(axis=2, dtype=np.float32)
    halved = (grey[::2, ::2] + grey[1::2, ::2] + grey[::2, 1::2] + grey[1::2, 1::2]) / 4
    gradient = np.hypot(np.diff(halved, axis=0)[:, :-1], np.diff(halved, axis=1)[:-1])
    sharpness = float(np.quantile(gradient, 0.95)) if gradient.size else 0.0
    return Quality(width, height, sharpness, len(photo.data), path.stat().st_mtime_ns)


def best_of(qualities: Sequence[Quality], paths: Sequence[Path]) -> tuple[int, str]:
    """The place of the photo to keep, and why: the first of these that tells the photos apart.

    The largest; those that are sharp; of these the least compressed (most bytes), the oldest file, the first by name.

    Args:
        qualities: of the photos, at least one.
        paths: theirs.
    """
    sharpest = max(quality.sharpness for quality in qualities)
    left = list(range(len(qualities)))
    reasons: dict[str, Callable[[int], float]] = {
        "largest": lambda place: -qualities[place].width * qualities[place].height,
        "sharpest": lambda place: qualities[place].sharpness < _AS_SHARP * sharpest,
        "least compressed": lambda place: -qualities[place].bytes,
        "oldest": lambda place: qualities[place].changed_ns,
    }
    for reason, key in reasons.items():
        best = min(map(key, left))
        left = [place for place in left if key(place) == best]
        if len(left) == 1:
            return left[0], reason
    return min(left, key=lambda place: str(paths[place])), "first by name"
