"""What is fixed by the individual: how its head is built, and what colours lie where."""

from dataclasses import dataclass, replace
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from petid_search.synthetic.drawing import draw
from petid_search.synthetic.view import View

Colour = tuple[float, float, float]
"""Red, green, blue in [0, 255]."""

_PET: Final = 0x706574
"""First word of every pet's seed: numbers drawn elsewhere from (seed, individual) are others."""
_DOGS: Final[tuple[Colour, ...]] = (
    (236, 208, 160),  # cream
    (214, 156, 84),  # golden
    (178, 100, 48),  # red
    (120, 76, 48),  # chocolate
    (58, 54, 56),  # black
    (128, 134, 146),  # blue
    (242, 236, 226),  # white
    (196, 168, 130),  # fawn
)
_CATS: Final[tuple[Colour, ...]] = (
    (226, 146, 70),  # ginger
    (140, 144, 152),  # grey
    (60, 57, 60),  # black
    (238, 216, 182),  # cream
    (150, 122, 92),  # brown
    (242, 239, 234),  # white
    (186, 158, 146),  # lilac
)
_WHITE: Final[Colour] = (246, 242, 235)
_DARK: Final[Colour] = (62, 52, 50)
_TAN: Final[Colour] = (202, 132, 66)
_DOG_EYES: Final[tuple[Colour, ...]] = ((96, 58, 30), (140, 88, 38), (176, 124, 52), (96, 150, 200))
_CAT_EYES: Final[tuple[Colour, ...]] = ((122, 176, 84), (222, 186, 66), (206, 128, 52), (96, 168, 214))


@dataclass(frozen=True, slots=True)
class Marking:
    """A patch of another colour on the head, where the animal's own face has its coordinates.

    Attributes:
        x: to the right as one looks at it, in [-1, 1]; the head's outline is at about 1.
        y: down, in [-1, 1]; the eyes are at about -0.1, the nose at about 0.3.
        radius: in the same unit, > 0.
        colour: red, green, blue in [0, 255].
        wobble: how far from round its outline is, as a share of the radius.
        phase: where on its outline the wobbles lie, in radians.
    """

    x: float
    y: float
    radius: float
    colour: Colour
    wobble: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True, slots=True)
class Pet:
    """One individual. What is not said here changes from photo to photo.

    Lengths are shares of the head's radius.

    Attributes:
        seed: what everything was drawn from, together with the individual's number.
        individual: its number.
        species: `dog` or `cat`.
        coat: the colour of most of it.
        second: the colour of blaze, muzzle, bib, socks and tip of the tail, where it has them.
        pattern: what lies all over the coat: `plain`, `stripes`, `spots`, or `mask`, a dark lower face.
        pattern_colour: of stripes, spots or mask.
        pattern_scale: number of stripes or spots, as a factor.
        pattern_phase: where the stripes or spots begin, in radians.
        blaze: half the width of a stripe down the forehead; 0 is none.
        muzzle_is_second: whether the muzzle has the second colour.
        brows: whether it has two tan points over the eyes.
        bib: radius of the patch on its chest; 0 is none.
        socks: of the left and the right foreleg, which share has the second colour.
        tail_tip: which share of the tail has the second colour.
        patches: of the coat.
        ears: their shape.
        ear_size: height of the ears.
        ear_spread: angle by which they lean outwards, in radians.
        ears_colour: of the left and the right ear.
        eyes: colour of the left and the right eye.
        eye_size: their radius.
        eye_gap: half their distance.
        nose: its colour.
        muzzle: its half width, half height and how far it stands out.
        head: width and height of the head, as factors, and how much narrower it becomes downwards.
        fluff: how far the fur stands out from its outline.
        placed: a marking put where one wants it, whose place in a photo `marking_mask` tells.
    """

    seed: int
    individual: int
    species: Literal["dog", "cat"]
    coat: Colour
    second: Colour
    pattern: Literal["plain", "stripes", "spots", "mask"]
    pattern_colour: Colour
    pattern_scale: float
    pattern_phase: float
    blaze: float
    muzzle_is_second: bool
    brows: bool
    bib: float
    socks: tuple[float, float]
    tail_tip: float
    patches: tuple[Marking, ...]
    ears: Literal["pricked", "floppy", "folded", "round"]
    ear_size: float
    ear_spread: float
    ears_colour: tuple[Colour, Colour]
    eyes: tuple[Colour, Colour]
    eye_size: float
    eye_gap: float
    nose: Colour
    muzzle: tuple[float, float, float]
    head: tuple[float, float, float]
    fluff: float
    placed: Marking | None = None

    @classmethod
    def of(cls, individual: int, *, seed: int = 0) -> Self:
        """The individual of this number, both numbers at least 0; the same on every machine."""
        rng = np.random.default_rng([_PET, seed, individual])
        is_dog = bool(rng.random() < 0.6)
        coat = _near(_pick(rng, _DOGS if is_dog else _CATS), rng, 14)
        is_light, is_dark = sum(coat) > 630, sum(coat) < 240
        second = _near(_darker(coat, 0.45) if is_light else _WHITE, rng, 6)
        kinds: tuple[Literal["plain", "stripes", "spots", "mask"], ...] = ("plain", "stripes", "spots", "mask")
        chances = [0.45, 0.1, 0.2, 0.25] if is_dog else [0.3, 0.45, 0.1, 0.15]
        pattern = kinds[int(rng.choice(4, p=chances))]
        contrast = _darker(coat, float(rng.uniform(0.3, 0.6))) if not is_dark else _near((120, 104, 94), rng, 10)
        if pattern == "mask":
            contrast = _near(_DARK, rng, 10) if not is_dark else _near(_TAN, rng, 14)
        patches = _patches(rng, coat, is_light) if rng.random() < (0.75 if pattern == "plain" else 0.45) else ()
        ear = (
            _near(contrast, rng, 8)
            if pattern == "mask" or rng.random() < 0.3
            else _darker(coat, float(rng.uniform(0.5, 1.05)))
        )
        other_ear = second if rng.random() < 0.2 else ear
        iris = _pick(rng, _DOG_EYES if is_dog else _CAT_EYES)
        other_iris = _pick(rng, _DOG_EYES if is_dog else _CAT_EYES) if rng.random() < 0.1 else iris
        shapes: tuple[Literal["pricked", "floppy", "folded", "round"], ...] = ("pricked", "floppy", "folded", "round")
        marked = bool(rng.random() < 0.6)
        return cls(
            seed=seed,
            individual=individual,
            species="dog" if is_dog else "cat",
            coat=coat,
            second=second,
            pattern=pattern,
            pattern_colour=contrast,
            pattern_scale=float(rng.uniform(0.6, 1.5)),
            pattern_phase=float(rng.uniform(0, 2 * np.pi)),
            blaze=float(rng.uniform(0.07, 0.26)) if marked and rng.random() < 0.6 else 0.0,
            muzzle_is_second=marked and pattern != "mask" and bool(rng.random() < 0.75),
            brows=is_dog and is_dark,
            bib=float(rng.uniform(0.3, 0.62)) if marked else 0.0,
            socks=_socks(rng) if marked else (0.0, 0.0),
            tail_tip=float(rng.uniform(0.2, 0.5)) if rng.random() < 0.4 else 0.0,
            patches=patches,
            ears=shapes[int(rng.choice(4, p=[0.25, 0.45, 0.2, 0.1]))] if is_dog else "pricked",
            ear_size=float(rng.uniform(0.72, 1.1)) if is_dog else float(rng.uniform(0.58, 0.8)),
            ear_spread=float(rng.uniform(0.05, 0.45)),
            ears_colour=(ear, other_ear),
            eyes=(iris, other_iris),
            eye_size=float(rng.uniform(0.13, 0.175)) if is_dog else float(rng.uniform(0.17, 0.215)),
            eye_gap=float(rng.uniform(0.34, 0.44)) if is_dog else float(rng.uniform(0.38, 0.46)),
            nose=_nose(rng, is_dog),
            muzzle=_muzzle(rng, is_dog),
            head=_head(rng, is_dog),
            fluff=float(rng.uniform(0.0, 0.05)),
        )

    def marked(self, marking: Marking) -> Self:
        """The same individual with one marking more, over all that its head has; before, it had none placed."""
        return replace(self, placed=marking)

    def view(self, photo: int) -> View:
        """What is fixed by the photo of this number, at least 0; a marking that was placed does not change it."""
        return View.of(photo, individual=self.individual, seed=self.seed)

    def draw(self, photo: int, *, size: int = 256) -> NDArray[np.uint8]:
        """The image of a photo, (size, size, 3), as the camera saw it, before it is written as a JPEG."""
        return draw(self, self.view(photo), size)[0]

    def marking_mask(self, photo: int, *, size: int = 256) -> NDArray[np.bool_]:
        """Where the placed marking is seen in the image of a photo, (size, size); nowhere, if none was placed."""
        return draw(self, self.view(photo), size)[1]


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _near(colour: Colour, rng: np.random.Generator, by: float) -> Colour:
    """A colour like this one: lighter or darker, and a little of another hue."""
    red, green, blue = np.clip(np.array(colour) + rng.uniform(-by, by) + rng.uniform(-by / 2, by / 2, 3), 0, 255)
    return float(red), float(green), float(blue)


def _darker(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


def _patches(rng: np.random.Generator, coat: Colour, is_light: bool) -> tuple[Marking, ...]:
    """Up to four, most of them of one colour, anywhere but on the nose."""
    one = _near(_DARK if is_light or rng.random() < 0.4 else _WHITE, rng, 10)
    if is_light and rng.random() < 0.5:
        one = _near(_TAN, rng, 16)
    if abs(sum(one) - sum(coat)) < 150:
        one = _near(_WHITE if sum(coat) < 380 else _DARK, rng, 10)
    places = [(-0.38, -0.15), (0.38, -0.15), (-0.7, 0.35), (0.7, 0.35), (-0.35, -0.75), (0.35, -0.75), (0.0, -0.6)]
    drawn = rng.permutation(len(places))[: int(rng.integers(1, 5))]
    return tuple(
        Marking(
            x=places[at][0] + float(rng.uniform(-0.12, 0.12)),
            y=places[at][1] + float(rng.uniform(-0.12, 0.12)),
            radius=float(rng.uniform(0.22, 0.5)),
            colour=_near(one, rng, 6),
            wobble=float(rng.uniform(0.05, 0.2)),
            phase=float(rng.uniform(0, 2 * np.pi)),
        )
        for at in map(int, drawn)
    )


def _socks(rng: np.random.Generator) -> tuple[float, float]:
    left, right = (float(rng.uniform(0.25, 0.75)) if rng.random() < 0.7 else 0.0 for _ in range(2))
    return left, right


def _nose(rng: np.random.Generator, is_dog: bool) -> Colour:
    if is_dog:
        return _near((44, 38, 40), rng, 8) if rng.random() < 0.8 else _near((138, 88, 78), rng, 10)
    return _near((222, 140, 140), rng, 14) if rng.random() < 0.65 else _near((92, 62, 62), rng, 14)


def _muzzle(rng: np.random.Generator, is_dog: bool) -> tuple[float, float, float]:
    if is_dog:
        return float(rng.uniform(0.38, 0.52)), float(rng.uniform(0.3, 0.4)), float(rng.uniform(0.75, 1.0))
    return float(rng.uniform(0.32, 0.4)), float(rng.uniform(0.2, 0.26)), float(rng.uniform(0.8, 0.9))


def _head(rng: np.random.Generator, is_dog: bool) -> tuple[float, float, float]:
    if is_dog:
        return float(rng.uniform(0.88, 1.06)), float(rng.uniform(0.94, 1.06)), float(rng.uniform(0.0, 0.16))
    return float(rng.uniform(1.0, 1.14)), float(rng.uniform(0.86, 0.95)), float(rng.uniform(-0.06, 0.04))
