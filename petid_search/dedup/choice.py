"""Of several near-identical photos, the one to keep, and what it has over the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from petid_search.images import Photo, decode, read_header

_AS_SHARP: Final = 0.92
"""Photos of at least so large a share of the sharpest one's sharpness count as sharp. Compression adds edges of its own
(seen at qualities of 30 to 75: 0.99 to 1.08 times the sharpness); blur by 0.7 pixels, or shrinking to a half and
enlarging again, leaves 0.79 to 0.97, half of the time under 0.89."""
_LARGEST: Final = 2048
"""Larger photos are measured at this side, so that one of 200 million pixels takes no more memory than one of four."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What tells the better of two near-identical photos, by its bytes alone.

    Attributes:
        width: in pixels, upright.
        height: in pixels, upright.
        sharpness: 95th percentile of the grey picture's gradient, at half its size; grey levels a pixel.
        format: Pillow's name of the file's format.
        frames: 1, or more for an animation, of which only the first was compared.
    """

    width: int
    height: int
    sharpness: float
    format: str
    frames: int


@dataclass(frozen=True, slots=True)
class Contender:
    """A photo that may be the one to keep.

    Attributes:
        path: where it lies.
        quality: of its bytes.
        bytes: size of the file.
        changed_ns: when the file last changed, in nanoseconds since 1970.
    """

    path: Path
    quality: Quality
    bytes: int
    changed_ns: int


def measure_quality(photo: Photo) -> Quality:
    """Measure a photo.

    Raises:
        PhotoError: it cannot be decoded.
    """
    header = read_header(photo)
    image = decode(photo, None if min(header.width, header.height) <= _LARGEST else _LARGEST)
    height, width = image.shape[:2]
    grey = image[: height // 2 * 2, : width // 2 * 2].mean(axis=2, dtype=np.float32)
    halved = (grey[::2, ::2] + grey[1::2, ::2] + grey[::2, 1::2] + grey[1::2, 1::2]) / 4
    gradient = np.hypot(np.diff(halved, axis=0)[:, :-1], np.diff(halved, axis=1)[:-1])
    sharpness = float(np.quantile(gradient, 0.95)) if gradient.size else 0.0
    return Quality(header.width, header.height, sharpness, header.format, header.frames)


def best_of(contenders: Sequence[Contender]) -> tuple[int, str]:
    """The place of the photo to keep, and why: the first of these that tells the photos apart.

    The largest; those that are sharp; of these, if all are of one format, the least compressed (most bytes); the oldest
    file; the first by name.

    Args:
        contenders: at least one.
    """
    sharpest = max(one.quality.sharpness for one in contenders)
    left = list(range(len(contenders)))
    reasons: dict[str, Callable[[int], float]] = {
        "largest": lambda place: -contenders[place].quality.width * contenders[place].quality.height,
        "sharpest": lambda place: contenders[place].quality.sharpness < _AS_SHARP * sharpest,
        "least compressed": lambda place: -contenders[place].bytes,
        "oldest": lambda place: contenders[place].changed_ns,
    }
    for reason, key in reasons.items():
        if reason == "least compressed" and len({contenders[place].quality.format for place in left}) > 1:
            continue  # a PNG made of a JPEG has more bytes, and nothing that the JPEG has not
        best = min(map(key, left))
        left = [place for place in left if key(place) == best]
        if len(left) == 1:
            return left[0], reason
    return min(left, key=lambda place: str(contenders[place].path)), "first by name"
