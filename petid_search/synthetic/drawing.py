"""A pet in a view, painted: shapes are signed distances, so that every edge is smooth at any size.

The head is a ball, turned and nodded; a marking lies where it lies on the ball, and is seen from where the camera is.
Everything is arithmetic on arrays, and so the same on every machine but for the last bit of a sum.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from petid_search.synthetic.pet import Marking, Pet
    from petid_search.synthetic.view import View

Grid = NDArray[np.floating[Any]]
"""One number for each pixel, (size, size); float32, for speed."""
Paint = NDArray[np.floating[Any]] | Sequence[float]
"""One colour, (3,), or one for each pixel, (3, size, size), in [0, 255]: one plane after the other is faster."""

_HEAD: Final = 0.53
"""Radius of the head, in half sides of the image, at scale 1."""
_HEAD_UP: Final = 0.17
"""So far above the middle of the image is that of the head."""
_WHITE: Final = (255.0, 255.0, 255.0)
_INK: Final = (34.0, 26.0, 26.0)
_PINK: Final = (232.0, 148.0, 150.0)


def draw(pet: "Pet", view: "View", size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint a pet in a view.

    Args:
        pet: the individual.
        view: what the photo adds.
        size: of the image, in pixels, at least 16.

    Returns:
        the image, (size, size, 3), and where its placed marking is seen, (size, size).
    """
    steps = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(steps, steps)
    image = _background(view, x, y)
    radius = _HEAD * view.scale
    right, down = (x - view.x) / radius, (y - view.y + _HEAD_UP) / radius
    pixel = 2 / (size * radius)
    below = _window(right, down, 0.0, 1.5, 1.5)
    _body(image[:, *below], pet, view, right[below], down[below], pixel)
    cos, sin = math.cos(view.tilt), math.sin(view.tilt)
    right, down = right * cos + down * sin, down * cos - right * sin
    above = _window(right, down, 0.0, -0.2, 1.85)
    mask = np.zeros((size, size), np.bool_)
    mask[above] = _head(image[:, *above], pet, view, right[above], down[above], pixel)
    return _photographed(image, view, x, y), mask


# The scene.


def _background(view: "View", x: Grid, y: Grid) -> Grid:
    """What is behind the animal, out of focus."""
    rng = np.random.default_rng([1, *view.seed])
    size = len(x)
    image = np.empty((3, size, size), np.float32)
    cloud = _cloud(rng, size, 5) + 0.5 * _cloud(rng, size, 11)
    if view.background == "meadow":
        sky, grass = _tint(rng, (176, 208, 232), 16), _tint(rng, (126, 158, 82), 26)
        image[:] = _plane(sky)
        _paint(image, _soft(y - float(rng.uniform(-0.35, 0.1)) - 0.08 * cloud, 0.12), _lit(grass, 1 + 0.12 * cloud))
    elif view.background == "room":
        wall, floor = _tint(rng, (206, 198, 186), 24), _tint(rng, (150, 116, 88), 24)
        edge = float(rng.uniform(0.1, 0.45))
        image[:] = _lit(wall, 1 + 0.04 * cloud)
        boards = 0.03 * np.sin(18 * x / (0.6 + y - edge + 1.0) + float(rng.uniform(0, 6)))
        _paint(image, _soft(y - edge, 0.02), _lit(floor, 1 + boards + 0.05 * cloud))
        _paint(image, _band(y - edge + 0.03, 0.035), _lit(wall, np.full_like(x, 1.12)))
        left = float(rng.uniform(-0.9, 0.5))
        frame = np.maximum(np.abs(x - left) - float(rng.uniform(0.2, 0.4)), np.abs(y + 0.7) - 0.3)
        _paint(image, _soft(-frame, 0.03), _tint(rng, (150, 160, 168), 40))
    elif view.background == "wall":
        image[:] = _lit(_tint(rng, (166, 160, 156), 50), 1 + 0.1 * cloud - 0.12 * y)
    else:
        image[:] = _lit(_tint(rng, (84, 84, 96), 30), 1 + 0.25 * cloud)
        for _ in range(14):
            at_x, at_y = map(float, rng.uniform(-1, 1, 2))
            lamp = np.hypot(x - at_x, y - at_y) - float(rng.uniform(0.06, 0.22))
            _paint(image, 0.4 * _soft(-lamp, 0.03), _tint(rng, (214, 184, 132), 50))
    return image


def _photographed(image: Grid, view: "View", x: Grid, y: Grid) -> NDArray[np.uint8]:
    """What light and camera make of a scene."""
    towards = x * math.cos(view.light_from) + y * math.sin(view.light_from)
    light = view.brightness * (1 + 0.3 * view.shade * towards)
    image = image * light * _plane((1 + view.warmth, 1.0, 1 - view.warmth))
    image = (127.5 / (1 - math.exp(-1.9))) * (1 - np.exp(image * (-1.9 / 255))) + 0.5 * image  # a soft shoulder
    if view.blur:
        soft = Image.fromarray(_pixels(image)).filter(ImageFilter.GaussianBlur(view.blur * len(x)))
        image = np.asarray(soft, np.float32).transpose(2, 0, 1)
    rng = np.random.default_rng([2, *view.seed])
    grain = rng.standard_normal(x.shape, np.float32) + 0.4 * rng.standard_normal((3, *x.shape), np.float32)
    return _pixels(image + view.noise * grain)


def _pixels(image: Grid) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rint(np.clip(image, 0, 255)).astype(np.uint8).transpose(1, 2, 0))


# The animal.


def _body(image: Grid, pet: "Pet", view: "View", x: Grid, y: Grid, pixel: float) -> None:
    """What stands below the head: tail, chest, forelegs and paws, as they are seen of a pet that sits."""
    x = x + 0.16 * math.sin(view.turn)
    ground = 2.12
    shadow = _ellipse(x, y - ground, 0.98, 0.2)
    _paint(image, 0.45 * _soft(-shadow, 0.16), (28, 24, 24))
    side = 1.0 if pet.individual % 2 else -1.0
    bend = np.linspace(0, 1, 7, dtype=np.float32)
    tail = [(side * float(0.6 + 0.62 * np.sin(1.7 * t)), float(ground - 0.18 - 0.95 * t)) for t in bend]
    thick = 0.13 if pet.species == "cat" else 0.17
    distance, along = _path(x, y, tail)
    _paint(
        image,
        _cover(distance - thick, pixel),
        _lit(_choose(_soft(along - 1.03 + pet.tail_tip, 0.04), pet.coat, pet.second), 0.9 - 0.2 * distance / thick),
    )
    fur = 1 + 0.05 * _texture(pet, x * 1.3, y * 1.3)
    for haunch in (-1, 1):
        hip = _ellipse(x - haunch * 0.54, y - 1.74, 0.42, 0.45)
        _paint(image, _cover(hip, pixel), _lit(pet.coat, fur * (0.8 - 0.16 * np.clip(hip / 0.4 + 1, 0, 1))))
        foot = _ellipse(x - haunch * 0.62, y - ground + 0.02, 0.3, 0.14)
        _paint(image, _cover(foot, pixel), _lit(pet.coat, 0.86 - 0.5 * np.clip(foot + 0.1, 0, 0.1)))
    chest = _ellipse(x * (1 - 0.1 * np.clip(y - 1.2, -1, 1)), y - 1.3, 0.68, 0.92)
    coat = _plane(pet.coat)
    if pet.pattern == "stripes":
        bands = _soft(np.sin(9 * pet.pattern_scale * y + 1.5 * x * x + pet.pattern_phase) - 0.25, 0.3)
        coat = _mix(coat, 0.8 * bands * _soft(np.abs(x) - 0.22, 0.1), pet.pattern_colour)
    elif pet.pattern == "spots":
        coat = _mix(coat, _spots(pet, x * 0.8, y * 0.8), pet.pattern_colour)
    if pet.bib:
        bib = _ellipse(x + 0.04 * np.sin(9 * y), y - 1.05, pet.bib * 0.8, pet.bib * 1.25)
        coat = _mix(coat, _soft(-bib, 0.07), pet.second)
    under_chin = 0.22 * _soft(1.3 - y, 0.5)
    _paint(image, _cover(chest, pixel), coat * (fur * (0.95 - under_chin - 0.3 * _rim(chest, 0.3))))
    for leg, sock in zip((-1, 1), pet.socks, strict=True):
        distance, along = _path(x, y, [(leg * 0.27, 1.3), (leg * 0.28, ground - 0.12)])
        inside = _cover(distance - 0.19, pixel)
        colour = _choose(_soft(along - 1 + sock - 0.02, 0.04) if sock else 0 * x, pet.coat, pet.second)
        shown = _soft(y - 1.42, 0.2)
        _paint(image, inside * shown, _lit(colour, fur * (0.98 - 0.3 * _rim(distance - 0.19, 0.12))))
        paw = _ellipse(x - leg * 0.28, y - ground + 0.02, 0.25, 0.155)
        _paint(image, _cover(paw, pixel), _lit(pet.second if sock else pet.coat, 1.02 - 0.3 * _rim(paw, 0.1)))
        for toe in (-0.09, 0.09):
            line, _ = _path(x, y, [(leg * 0.28 + toe, ground - 0.02), (leg * 0.28 + toe, ground + 0.08)])
            _paint(image, 0.55 * _cover(line - 0.014, pixel), _INK)


def _head(image: Grid, pet: "Pet", view: "View", x: Grid, y: Grid, pixel: float) -> NDArray[np.bool_]:
    """Head, ears and face; returns where the placed marking is seen."""
    width, height, taper = pet.head
    _ears(image, pet, view, x, y, pixel, behind=True)
    down = y / height
    across = x / (width * (1 - taper * np.clip(down, -1, 1) + 0.05 * np.exp(-8 * (down - 0.3) ** 2)))
    angle = np.arctan2(down, across)
    tufts = pet.fluff * (np.abs(np.sin(13 * angle + 0.8 * np.sin(5 * angle))) - 0.5) * _soft(np.abs(across) - 0.4, 0.3)
    radius = np.hypot(across, down) / (1 + tufts)
    inside = _cover((radius - 1) * height, pixel)
    depth = np.sqrt(np.clip(1 - np.minimum(radius, 1) ** 2, 0, 1))
    face_x, face_y, face_z = _turned_back(across, down, depth, view)
    coat = _coat(pet, face_x, face_y)
    placed = np.zeros_like(x)
    if pet.placed is not None:
        placed = _marking(pet.placed, face_x, face_y) * inside * (face_z > 0)
        coat = _mix(coat, placed, pet.placed.colour)
    light = _light(view, across, down, depth) * (1 + 0.06 * _texture(pet, face_x, face_y))
    _paint(image, inside, coat * light)

    covered = np.zeros_like(x)
    for side, colour in zip((-1, 1), pet.eyes, strict=True):
        eye = _window(face_x, face_y, side * pet.eye_gap, -0.1, 1.3 * pet.eye_size)
        beside = face_x[eye] - side * pet.eye_gap
        _cover_up(covered[eye], _eye(image[:, *eye], pet, view, beside, face_y[eye], face_z[eye], colour))
    low = _window(x, y, 0.0, 0.45, 1.05)
    _cover_up(covered[low], _muzzle(image[:, *low], pet, view, x[low], y[low], pixel))
    _cover_up(covered, _ears(image, pet, view, x, y, pixel, behind=False))
    return np.asarray((placed > 0.5) & (covered < 0.5))


def _coat(pet: "Pet", x: Grid, y: Grid) -> Grid:
    """The colours of the head, where its own face has the coordinates x and y."""
    coat = _plane(pet.coat)
    if pet.pattern == "stripes":
        scale, phase = pet.pattern_scale, pet.pattern_phase
        brow = np.sin(15 * scale * x + 1.2 * np.sin(4 * y + phase) + (phase if phase > 3 else 0.0))
        cheek = np.sin(13 * scale * (y - 0.45 * np.abs(x)) + phase)
        lines = np.maximum(
            _soft(brow - 0.2, 0.25) * _soft(-0.28 - y, 0.08), _soft(cheek - 0.3, 0.25) * _soft(np.abs(x) - 0.58, 0.06)
        )
        coat = _mix(coat, 0.85 * lines, pet.pattern_colour)
    elif pet.pattern == "spots":
        coat = _mix(coat, _spots(pet, x, y), pet.pattern_colour)
    elif pet.pattern == "mask":
        edge = 0.16 + 0.1 * np.cos(2.4 * x) + 0.05 * np.sin(5 * x + pet.pattern_phase)
        coat = _mix(coat, _soft(y - edge + 0.26 * pet.pattern_scale, 0.1), pet.pattern_colour)
    for patch in pet.patches:
        coat = _mix(coat, _marking(patch, x, y), patch.colour)
    if pet.blaze:
        half = pet.blaze * (1 + 0.9 * np.clip(y, -1, 1) ** 2 + 0.15 * np.sin(6 * y + pet.pattern_phase))
        coat = _mix(coat, _soft(half - np.abs(x), 0.035), pet.second)
    if pet.brows:
        for side in (-1, 1):
            brow = np.hypot(x - side * pet.eye_gap * 0.9, y + 0.42) - 0.1
            coat = _mix(coat, _soft(-brow, 0.04), (196, 128, 66))
    return coat


def _eye(image: Grid, pet: "Pet", view: "View", x: Grid, y: Grid, z: Grid, colour: Sequence[float]) -> Grid:
    """One eye, in the face's coordinates around it; returns where it covers the face."""
    y = y + 0.1
    size = pet.eye_size
    lid = np.hypot(x, y / view.lids)
    seen = (z > 0).astype(np.float32)
    ball = _soft(size * 1.18 - lid, 0.02) * seen
    _paint(image, ball, _INK)
    iris = np.hypot(x, y)
    inner = _soft(size - lid, 0.02) * seen
    ring = 0.72 + 0.45 * np.clip(0.5 + y / size, 0, 1)
    _paint(image, inner, _lit(colour, ring))
    if pet.species == "cat":
        pupil = np.hypot(x / (0.25 + 0.55 * view.pupils), y / 0.86) - size * 0.86
    else:
        pupil = iris - size * (0.62 + 0.14 * view.pupils)
    _paint(image, inner * _soft(-pupil, 0.02), _INK)
    glint = np.hypot(x + size * 0.34 * -math.cos(view.light_from), y + size * 0.36)
    _paint(image, inner * _soft(size * 0.27 - glint, 0.015), _WHITE)
    small = np.hypot(x - size * 0.4 * -math.cos(view.light_from), y - size * 0.42)
    _paint(image, 0.7 * inner * _soft(size * 0.13 - small, 0.015), _WHITE)
    return ball


def _muzzle(image: Grid, pet: "Pet", view: "View", x: Grid, y: Grid, pixel: float) -> Grid:
    """Muzzle, nose and mouth, on a ball of their own before the head; returns where they cover the face."""
    half, tall, out = pet.muzzle
    middle_x, middle_y, _ = _turned(0.0, 0.4, out, view)
    x, y = x - middle_x, y - middle_y
    is_dog = pet.species == "dog"
    tongue = 0.0 * x
    if view.mouth:
        jaw = _ellipse(x, y - tall * (0.55 + 0.5 * view.mouth), half * 0.62, tall * (0.55 + 0.3 * view.mouth))
        _paint(image, _cover(jaw, pixel), _lit(pet.second if pet.muzzle_is_second else pet.coat, 0.82 + 0 * x))
        mouth = _ellipse(x, y - tall * (0.5 + 0.42 * view.mouth), half * 0.48, tall * (0.42 + 0.26 * view.mouth))
        _paint(image, _cover(mouth, pixel), (92, 42, 46))
        if is_dog:
            lick = _ellipse(x, y - tall * (0.75 + 0.5 * view.mouth), half * 0.34, tall * (0.34 + 0.3 * view.mouth))
            tongue = _cover(lick, pixel)
            _paint(image, tongue, _lit(_PINK, 1 - 0.25 * _soft(0.012 - np.abs(x), 0.01)))
        tongue = np.maximum(tongue, _cover(jaw, pixel))
    across, down = x / half, y / tall
    radius = np.hypot(across, down)
    inside = _cover((radius - 1) * tall, pixel)
    depth = np.sqrt(np.clip(1 - np.minimum(radius, 1) ** 2, 0, 1))
    face_x, face_y, _ = _turned_back(across, down, depth, view)
    colour: Sequence[float]
    if pet.muzzle_is_second:
        colour = pet.second
    elif pet.pattern == "mask":
        colour = pet.pattern_colour
    else:
        colour = tuple(0.45 * part + 0.55 * min(255, 1.12 * part) for part in pet.coat)
    coat = _plane(colour)
    if pet.pattern == "spots":
        coat = _mix(coat, 0.8 * _soft(0.1 - np.hypot(np.abs(face_x) - 0.55, face_y - 0.05), 0.05), pet.pattern_colour)
    light = _light(view, across, down, depth) * (1 + 0.03 * _texture(pet, face_x, face_y))
    _paint(image, 0.28 * _soft(1.16 - radius, 0.24), (40, 30, 28))
    # Above, the muzzle runs into the face; below, it has an edge.
    _paint(image, inside * _soft(down + 0.75, 0.5) if is_dog else inside * _soft(down + 0.5, 0.5), coat * light)

    line = np.abs(face_x) - 0.02
    split = _soft(0.03 - line, 0.02) * _soft(face_y + 0.2, 0.1) * _soft(0.28 - face_y, 0.05)
    smile = np.abs(np.hypot(np.abs(face_x) - 0.3, (face_y - 0.26) * 1.2) - 0.3) - 0.03
    split = np.maximum(split, _soft(-smile, 0.035) * _soft(face_y - 0.26, 0.08))
    _paint(image, 0.85 * inside * split, _INK)
    wide, high = (0.4, 0.3) if is_dog else (0.26, 0.24)
    tip = _ellipse(face_x * (1 + 0.5 * np.clip((face_y + 0.42) / high, -1, 1)), face_y + 0.42, wide, high)
    nose = _soft(-tip, 0.05) * inside
    _paint(image, nose, _lit(pet.nose, 1.0 - 0.35 * np.clip(face_y + 0.42, -0.3, 0.3)))
    if is_dog:
        for side in (-1, 1):
            hole = _ellipse(face_x - side * 0.17, face_y + 0.36, 0.075, 0.06)
            _paint(image, nose * _soft(-hole, 0.03), _lit(pet.nose, 0.4 + 0 * x))
    shine = _ellipse(face_x + 0.1, face_y + 0.55, 0.12, 0.06)
    _paint(image, 0.55 * nose * _soft(-shine, 0.06), _WHITE)
    if not is_dog:
        for side in (-1, 1):
            for rise in (-0.16, 0.02, 0.2):
                ends = [(side * half * 0.5, 0.06 + 0.1 * rise), (side * (half + 0.62), rise * 1.6)]
                whisker, along = _path(x, y, ends)
                _paint(image, (0.75 - 0.4 * along) * _cover(whisker - 0.009, pixel), (250, 250, 246))
    _cover_up(inside, tongue)
    return inside


def _ears(image: Grid, pet: "Pet", view: "View", x: Grid, y: Grid, pixel: float, *, behind: bool) -> Grid:
    """The ears behind the head, or those before it; returns where they cover the face."""
    covered = np.zeros_like(x)
    hanging = pet.ears == "floppy"
    width, height, _ = pet.head
    for side, colour in zip((-1, 1), pet.ears_colour, strict=True):
        root = (side * 0.9, -0.46, 0.0) if hanging else (side * 0.58, -0.68, -0.15)
        at_x, at_y, at_z = _turned(*root, view)
        if (hanging and at_z > -0.16) == behind:
            continue
        lean = side * (-0.12 - 0.5 * pet.ear_spread if hanging else pet.ear_spread)
        cos, sin = math.cos(lean), math.sin(lean)
        near = _window(x, y, at_x * width, at_y * height, 1.6 * pet.ear_size)
        part = image[:, *near]
        right, down = x[near] - at_x * width, y[near] - at_y * height
        ear_x, ear_y = (right * cos + down * sin) * side, down * cos - right * sin
        tall = pet.ear_size
        inner: Grid | None = None
        if hanging:
            shape = _ellipse(ear_x / (0.72 + 0.3 * np.clip(ear_y / tall, 0, 1)), ear_y - tall * 0.52, 0.34, tall * 0.62)
        elif pet.ears == "round":
            shape = np.hypot(ear_x - 0.05, ear_y + 0.06) - 0.36
            inner = np.hypot(ear_x - 0.04, ear_y + 0.03) - 0.2
        elif pet.ears == "folded":
            shape = _polygon(ear_x, ear_y, [(-0.3, 0.25), (-0.12, -0.42), (0.26, -0.34), (0.36, 0.4)]) - 0.07
        else:
            shape = _polygon(ear_x, ear_y, [(-0.34, 0.2), (0.06, -tall), (0.36, 0.36)]) - 0.07
            inner = _polygon(ear_x, ear_y, [(-0.16, 0.1), (0.05, -tall * 0.7), (0.22, 0.2)]) - 0.03
        inside = _cover(shape, pixel)
        light = 0.98 - 0.25 * _rim(shape, 0.16) + 0.05 * _texture(pet, ear_x, ear_y)
        if hanging:  # its own shadow on the cheek
            _paint(part, 0.25 * _soft(-shape + 0.05, 0.12), (30, 24, 24))
        _paint(part, inside, _lit(colour, light))
        if pet.ears == "folded":
            flap = _polygon(ear_x, ear_y, [(-0.12, -0.44), (0.28, -0.36), (0.4, 0.0)]) - 0.085
            _paint(part, 0.35 * _soft(0.05 - flap, 0.08) * inside, (30, 24, 24))
            _paint(part, _cover(flap, pixel), _lit(colour, 0.94 - 0.22 * _rim(flap, 0.12)))
        if inner is not None:
            _paint(part, 0.8 * _soft(-inner, 0.05), (214, 152, 146) if sum(colour) > 260 else (134, 96, 96))
        _cover_up(covered[near], inside)
    return covered


# What the parts are made of.


def _marking(marking: "Marking", x: Grid, y: Grid) -> Grid:
    """How much of a marking lies at each place of a face, in [0, 1]."""
    right, down = x - marking.x, y - marking.y
    angle = np.arctan2(down, right)
    edge = 1 + marking.wobble * (np.sin(3 * angle + marking.phase) + 0.5 * np.sin(5 * angle - 2 * marking.phase))
    return _soft(marking.radius * edge - np.hypot(right, down), 0.035)


def _spots(pet: "Pet", x: Grid, y: Grid) -> Grid:
    """Spots of all sizes, each coat's own."""
    rng = np.random.default_rng([3, pet.seed, pet.individual])
    covered = np.zeros_like(x)
    for _ in range(round(38 * pet.pattern_scale)):
        (at_x, at_y), radius = map(float, rng.uniform((-1, -1), (1, 2))), float(rng.uniform(0.03, 0.1))
        _cover_up(covered, _soft(radius - np.hypot(x - at_x, y - at_y), 0.025))
    return covered


def _texture(pet: "Pet", x: Grid, y: Grid) -> Grid:
    """Hairs: light and dark, in about [-1, 1], longer than wide, along the lines of the coat."""
    rng = np.random.default_rng([4, pet.seed, pet.individual])
    side = 128
    dots = rng.uniform(-1, 1, (side, side)).astype(np.float32)
    hairs = (dots + np.roll(dots, 1, 0) + np.roll(dots, 2, 0) + np.roll(dots, 3, 0)) / 2
    outwards = x + 0.25 * x * y  # the lines part at the nose
    column, row = ((np.abs(at) * scale).astype(np.intp) % side for at, scale in ((outwards + 4, 40), (y + 4, 24)))
    return hairs[row, column]


def _light(view: "View", x: Grid, y: Grid, z: Grid) -> Grid:
    """How bright a ball is where its surface looks towards (x, y, z), in the view."""
    turned = view.light_from - view.tilt
    towards = 0.55 * (x * math.cos(turned) + y * math.sin(turned)) + 0.75 * z
    return 1.04 - view.shade * (0.75 - np.clip(towards, -0.2, 0.85)) - 0.12 * (1 - z) ** 2


def _turned(x: float, y: float, z: float, view: "View") -> tuple[float, float, float]:
    """Where a point of the head is seen, once it is turned and nodded."""
    across, depth = x * math.cos(view.turn) + z * math.sin(view.turn), z * math.cos(view.turn) - x * math.sin(view.turn)
    return (
        float(across),
        float(y * math.cos(view.nod) + depth * math.sin(view.nod)),
        float(depth * math.cos(view.nod) - y * math.sin(view.nod)),
    )


def _turned_back(x: Grid, y: Grid, z: Grid, view: "View") -> tuple[Grid, Grid, Grid]:
    """Which point of the head is seen at a place: `_turned` undone."""
    cos, sin = math.cos(view.nod), math.sin(view.nod)
    face_y, depth = y * cos - z * sin, y * sin + z * cos
    cos, sin = math.cos(view.turn), math.sin(view.turn)
    return x * cos - depth * sin, face_y, x * sin + depth * cos


def _window(x: Grid, y: Grid, at_x: float, at_y: float, reach: float) -> tuple[slice, slice]:
    """The rows and columns that hold every pixel within reach of a point: the rest need not be looked at."""
    near = (np.abs(x - at_x) < reach) & (np.abs(y - at_y) < reach)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if not len(rows):
        return slice(0), slice(0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


# Paint, and distances: below 0 inside a shape.


def _paint(image: Grid, mask: Grid, colour: Paint) -> None:
    """Cover an image with a colour where the mask is 1, in its place."""
    image += np.clip(mask, 0, 1) * (_plane(colour) - image)


def _cover_up(covered: Grid, by: Grid) -> None:
    np.maximum(covered, by, out=covered)


def _mix(under: Grid, mask: Grid, colour: Paint) -> Grid:
    return under + np.clip(mask, 0, 1) * (_plane(colour) - under)


def _choose(mask: Grid, first: Sequence[float], second: Sequence[float]) -> Grid:
    """The first colour where the mask is 0, the second where it is 1."""
    return _mix(_plane(first), mask, second)


def _lit(colour: Paint, light: Grid) -> Grid:
    return _plane(colour) * light


def _plane(colour: Paint) -> Grid:
    """A colour as what goes with planes of pixels."""
    return colour if isinstance(colour, np.ndarray) else np.array(colour, np.float32)[:, None, None]


def _tint(rng: np.random.Generator, colour: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    red, green, blue = np.clip(np.array(colour) + rng.uniform(-by, by) + rng.uniform(-by / 2, by / 2, 3), 0, 255)
    return float(red), float(green), float(blue)


def _cloud(rng: np.random.Generator, size: int, cells: int) -> Grid:
    """Smooth noise in about [-1, 1]."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _soft(inside: Grid, width: float) -> Grid:
    """1 where `inside` is positive, 0 where it is negative, with an edge so wide."""
    at: Grid = np.clip(inside / width + 0.5, 0, 1)
    return at * at * (3 - 2 * at)


def _band(at: Grid, half: float) -> Grid:
    return _soft(half - np.abs(at), half / 2)


def _cover(distance: Grid, pixel: float) -> Grid:
    """How much of each pixel a shape covers."""
    covered: Grid = np.clip(0.5 - distance / pixel, 0, 1)
    return covered


def _rim(distance: Grid, width: float) -> Grid:
    """1 at the edge of a shape, 0 so far inside."""
    near: Grid = np.clip(1 + distance / width, 0, 1)
    return near**2


def _ellipse(x: Grid, y: Grid, half_x: float, half_y: float) -> Grid:
    """Distance from an ellipse around 0; exact on its edge."""
    distance: Grid = (np.hypot(x / half_x, y / half_y) - 1) * min(half_x, half_y)
    return distance


def _path(x: Grid, y: Grid, points: Sequence[tuple[float, float]]) -> tuple[Grid, Grid]:
    """Distance from a line through points, and how far along it the nearest point is, in [0, 1]."""
    best, along = np.full_like(x, np.inf), np.zeros_like(x)
    for number, ((ax, ay), (bx, by)) in enumerate(itertools.pairwise(points)):
        dx, dy = bx - ax, by - ay
        at = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        distance = np.hypot(x - ax - at * dx, y - ay - at * dy)
        along = np.where(distance < best, (number + at) / (len(points) - 1), along)
        best = np.minimum(best, distance)
    return best.astype(np.float32), along.astype(np.float32)


def _polygon(x: Grid, y: Grid, points: Sequence[tuple[float, float]]) -> Grid:
    """Distance from the outline of a polygon, negative inside."""
    outline, _ = _path(x, y, [*points, points[0]])
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        crosses = (y < ay) != (y < by)
        inside ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay if by != ay else 1.0) + ax)
    return np.where(inside, -outline, outline)
