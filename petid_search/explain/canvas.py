"""A white sheet that grows downwards as it is drawn on, one line of text or row of pictures below the other."""

from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from petid_search.explain import text
from petid_search.explain.colours import scale

MARGIN: Final = 24
_LIGHT: Final = "#555555"
_AMBER: Final = "#fff3cd"


class Canvas:
    """The sheet and how far down it is filled.

    Attributes:
        top: the first row of pixels that is still free.

    Args:
        width: in pixels.
    """

    def __init__(self, width: int) -> None:
        self.top = MARGIN
        self._sheet = Image.new("RGB", (width, 400), "white")

    @property
    def picture(self) -> Image.Image:
        """What was drawn, with a margin below."""
        return self._sheet.crop((0, 0, self._sheet.width, self.top + MARGIN))

    @property
    def room(self) -> int:
        """Width between the margins, in pixels."""
        return self._sheet.width - 2 * MARGIN

    def line(self, words: str, size: int = 16, *, bold: bool = False, light: bool = False) -> None:
        """Write a line of text, and go below it."""
        self.write((MARGIN, self.top), words, size, room=self.room, bold=bold, light=light)
        self.top += round(1.5 * size)

    def space(self, height: int) -> None:
        """Leave some pixels free."""
        self.top += height

    def warning(self, words: str) -> None:
        """Write a line of text on amber, and go below it."""
        self.pen(40).rectangle((MARGIN, self.top, MARGIN + self.room, self.top + 30), fill=_AMBER)
        self.write((MARGIN + 10, self.top + 6), words, 16, room=self.room - 20, bold=True)
        self.top += 40

    def write(
        self,
        place: tuple[float, float],
        words: str,
        size: int = 15,
        *,
        room: float,
        bold: bool = False,
        light: bool = False,
    ) -> None:
        """Write text at a place; what has no room loses its middle."""
        fitting = text.shortened(words, size, room, bold=bold)
        pen = self.pen(round(place[1]) - self.top + 2 * size)
        text.write(pen, place, fitting, size, colour=_LIGHT if light else "#1a1a1a", bold=bold)

    def pen(self, height: int) -> ImageDraw.ImageDraw:
        """What draws on the sheet, once there is room for so many rows of pixels from `top`."""
        if self.top + height + MARGIN > self._sheet.height:
            longer = Image.new("RGB", (self._sheet.width, 2 * (self.top + height + MARGIN)), "white")
            longer.paste(self._sheet, (0, 0))
            self._sheet = longer
        return ImageDraw.Draw(self._sheet)

    def paste(self, picture: Image.Image, left: int, side: int | None = None) -> None:
        """Put a picture at `top`, in a square of a side if one is given; `top` stays."""
        self.pen(side or picture.height)
        self._sheet.paste(
            picture if side is None else ImageOps.pad(picture, (side, side), color="white"), (left, self.top)
        )

    def scale_bar(self, words: str) -> None:
        """Draw the scale of heat maps, mixed with mid-grey as on a photo, and go below it."""
        bar = np.tile(0.5 * scale(np.linspace(0.0, 1.0, 220)) + 64, (16, 1, 1))
        self.write((MARGIN, self.top), "nothing", room=100)
        self.pen(30)
        self._sheet.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (MARGIN + 70, self.top + 1))
        self.write((MARGIN + 300, self.top), words, room=self.room - 300)
        self.top += 30
