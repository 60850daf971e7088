"""Text on pictures, in any script for which there is a font: names of animals are not all Latin.

The font is DejaVu Sans, which matplotlib brings along: it has Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian and
Georgian. What it lacks (Chinese, Japanese, Korean, Thai, the scripts of India, emoji) is written with a font of the
system; where none has it either, a sign is written as its code point, such as U+732B, which can be looked up. Pillow's
wheels bring Raqm along, which joins Arabic letters and writes from right to left.
"""

import importlib.util
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Final

from PIL import ImageDraw, ImageFont, features

_PLAIN: Final = "DejaVuSans.ttf"
_BOLD: Final = "DejaVuSans-Bold.ttf"
_LAST_OF_LATIN_1: Final = "\xff"
"""Up to here DejaVu Sans has every sign that can be printed, so nothing need be looked up."""

_COLOUR_ONLY: Final = "Color"
"""Part of the names of emoji fonts that hold bitmaps of one size, which Pillow cannot scale."""


def write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    *,
    colour: str = "#1a1a1a",
    bold: bool = False,
) -> None:
    """Write one line of text.

    Args:
        pen: of the picture.
        place: its left end and the upper end of its letters, in pixels.
        text: control characters become spaces.
        size: in pixels.
        colour: as Pillow names it.
        bold: in bold letters, where the font is DejaVu Sans.
    """
    left, top = place
    for run, file in _runs(text, _BOLD if bold else _PLAIN):
        font = _font(file, size)
        # On the base line, since fonts differ in how far it lies below the top.
        pen.text((left, top + size), run, fill=colour, font=font, anchor="ls", direction=_direction())
        left += font.getlength(run)


def width(text: str, size: int, *, bold: bool = False) -> float:
    """How wide a line of text is, in pixels."""
    return sum(_font(file, size).getlength(run) for run, file in _runs(text, _BOLD if bold else _PLAIN))


def shortened(text: str, size: int, room: float, *, bold: bool = False) -> str:
    """A text with its middle left out, if need be, so that it is no wider than there is room, in pixels."""
    text = text if len(text) <= 200 else f"{text[:120]}…{text[-79:]}"
    kept = len(text)
    while kept > 2 and width(text, size, bold=bold) > room:
        kept -= 1
        text = f"{text[: (kept + 1) // 2].rstrip('…')}…{text[len(text) - kept // 2 :]}"
    return text


def missing_signs(text: str) -> str:
    """The signs of a text that no font here has, each once."""
    return "".join(dict.fromkeys(sign for sign in _printable(text) if _file_with(sign, _PLAIN) is None))


def _runs(text: str, file: str) -> Iterator[tuple[str, str]]:
    """The text in pieces, each with the file of the font that has all of its signs."""
    for found, signs in groupby(_printable(text), lambda sign: _file_with(sign, file)):
        run = "".join(signs)
        yield (run, found) if found is not None else ("".join(f"[U+{ord(sign):04X}]" for sign in run), file)


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _file_with(sign: str, preferred: str) -> str | None:
    """The file of a font that has a sign: the preferred one if it does; None if none has."""
    if sign <= _LAST_OF_LATIN_1 or _has(preferred, sign):
        return preferred
    return next((file for file in _system_fonts() if _has(file, sign)), None)


@cache
def _direction() -> str | None:
    """Left to right for the line as a whole, whatever it begins with: without Raqm, Pillow knows nothing else."""
    return "ltr" if features.check_feature("raqm") else None


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(file), size)


@cache
def _path(file: str) -> str:
    """Where a font is: matplotlib's need not import matplotlib, which takes long."""
    spec = importlib.util.find_spec("matplotlib")
    inside = [
        Path(folder, "mpl-data", "fonts", "ttf", file) for folder in (spec and spec.submodule_search_locations) or []
    ]
    return next((str(path) for path in inside if path.is_file()), file)


@cache
def _signs(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(_path(file)).get_charmap())
    except (RuntimeError, OSError):  # a font that FreeType cannot read
        return frozenset()


def _has(file: str, sign: str) -> bool:
    return ord(sign) in _signs(file)


@cache
def _system_fonts() -> tuple[str, ...]:
    """Files of the system's fonts, by name, so that it is the same one each time."""
    from matplotlib.font_manager import findSystemFonts

    files = (file for file in findSystemFonts() if _COLOUR_ONLY not in Path(file).name)
    return tuple(sorted(files, key=lambda file: (Path(file).name, file)))
