"""What is fixed by the photo: how the animal is held, what the light is, what is behind it, what the camera adds."""

from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np

_PHOTO: Final = 0x70686F
"""First word of every photo's seed."""


@dataclass(frozen=True, slots=True)
class View:
    """How one photo was taken.

    Attributes:
        seed: of what is drawn in detail, the background and the noise; three numbers.
        turn: of the head to the side, in radians.
        nod: of the head downwards, in radians.
        tilt: of the head in the picture, in radians.
        x: of the head's middle, in half sides of the image.
        y: the same, downwards.
        scale: of the animal, as a factor.
        mouth: how far it is open, in [0, 1].
        lids: how far the eyes are open, in (0, 1].
        pupils: how wide they are, in (0, 1].
        brightness: a factor.
        warmth: what red gains and blue loses, as a share.
        light_from: where the light comes from, in radians; 0 is the right, -π/2 above.
        shade: how much darker the side away from the light is, in [0, 1].
        background: the kind.
        blur: standard deviation, as a share of the image's side.
        noise: standard deviation, in grey levels.
        quality: of the JPEG, in [1, 95].
    """

    seed: tuple[int, int, int]
    turn: float
    nod: float
    tilt: float
    x: float
    y: float
    scale: float
    mouth: float
    lids: float
    pupils: float
    brightness: float
    warmth: float
    light_from: float
    shade: float
    background: Literal["meadow", "room", "wall", "lights"]
    blur: float
    noise: float
    quality: int

    @classmethod
    def of(cls, photo: int, *, individual: int, seed: int = 0) -> Self:
        """The photo of this number of an individual, all numbers at least 0; the same on every machine."""
        rng = np.random.default_rng([_PHOTO, seed, individual, photo])
        places: tuple[Literal["meadow", "room", "wall", "lights"], ...] = ("meadow", "room", "wall", "lights")
        return cls(
            seed=(seed, individual, photo),
            turn=float(rng.uniform(-0.32, 0.32)),
            nod=float(rng.uniform(-0.13, 0.13)),
            tilt=float(rng.uniform(-0.16, 0.16)),
            x=float(rng.uniform(-0.12, 0.12)),
            y=float(rng.uniform(-0.08, 0.08)),
            scale=float(rng.uniform(0.88, 1.12)),
            mouth=float(rng.uniform(0.4, 1.0)) if rng.random() < 0.35 else 0.0,
            lids=float(rng.uniform(0.72, 1.0)),
            pupils=float(rng.uniform(0.25, 0.8)),
            brightness=float(rng.uniform(0.8, 1.1)),
            warmth=float(rng.uniform(-0.05, 0.06)),
            light_from=float(rng.uniform(-np.pi, 0.0)),
            shade=float(rng.uniform(0.15, 0.42)),
            background=places[int(rng.integers(4))],
            blur=float(rng.uniform(0.0, 0.005)) if rng.random() < 0.5 else 0.0,
            noise=float(rng.uniform(0.5, 3.5)),
            quality=int(rng.integers(60, 95)),
        )
