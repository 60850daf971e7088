"""How models bear hard photos: of dogs held out, a probe is made hard and searched for among all others as they are.

    python benchmarks/hard_photos.py MODEL...

Prints rank-1 and TAR at FAR 1 % (pairs of a hard probe and an untouched photo) for each model and kind of hardness, on
the dogs that recipes/petid-dogs-split.csv holds out; `imagenet` is MobileNetV2 with the shared weights, untrained.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import imagenet_embedder, report, shared_file
from numpy.typing import NDArray
from PIL import Image

from petid_search.dataset.split_file import read_split
from petid_search.images import open_image
from petid_search.metrics import rank_k, tar_at_far
from petid_search.models.home import open_model
from petid_search.models.runtime import Embedder

SPLIT = Path(__file__).parents[1] / "recipes" / "petid-dogs-split.csv"
BATCH = 64

Picture = Image.Image
Pixels = NDArray[np.uint8]


def small(picture: Picture, _: np.random.Generator) -> Picture:
    """A face of 60 px."""
    return picture.resize((60, 60), Image.Resampling.BOX)


def jpeg(picture: Picture, _: np.random.Generator) -> Picture:
    """Quality 30."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=30)
    return Image.open(stream)


def dark(picture: Picture, rng: np.random.Generator) -> Picture:
    """Two and a half stops less light, lifted again by the camera, with the noise that this brings; by lamplight."""
    light = (np.asarray(picture, np.float64) / 255) ** 2.2 * 2**-2.5 * np.array([1.0, 0.85, 0.6])
    noisy = rng.poisson(np.maximum(light, 0) * 400) / 400 + rng.normal(0, 0.004, light.shape)
    return Image.fromarray((np.clip(noisy * 2**1.2, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8))


def loose(picture: Picture, rng: np.random.Generator) -> Picture:
    """Off-centre, tilted by up to 25 degrees, from 0.7 to 1.5 of its size; around it the mean colour of its edge."""
    angle, scale = np.deg2rad(rng.uniform(-25, 25)), rng.uniform(0.7, 1.5)
    side = picture.width
    shift = rng.uniform(-0.12, 0.12, 2) * side
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    middle = side / 2
    x = middle - cosine * (middle + shift[0]) - sine * (middle + shift[1])
    y = middle + sine * (middle + shift[0]) - cosine * (middle + shift[1])
    pixels = np.asarray(picture)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(axis=0)
    colour = (int(edge[0]), int(edge[1]), int(edge[2]))
    matrix = (cosine, sine, x, -sine, cosine, y)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=colour)


def as_it_is(picture: Picture, _: np.random.Generator) -> Picture:
    """Nothing is done to it."""
    return picture


KINDS: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "as it is": as_it_is,
    "60 px": small,
    "JPEG quality 30": jpeg,
    "poor light": dark,
    "loose crop": loose,
}


def embed(embedder: Embedder, photos: list[Pixels]) -> NDArray[np.float32]:
    """Embeddings, float32, (n, d)."""
    size = (embedder.input_size, embedder.input_size)
    found = []
    for first in range(0, len(photos), BATCH):
        pictures = [Image.fromarray(one) for one in photos[first : first + BATCH]]
        found.append(embedder.embed(np.stack([np.asarray(one.resize(size), np.uint8) for one in pictures])))
    return np.concatenate(found)


def main() -> None:
    """Measure each model."""
    names = sys.argv[1:] or ["imagenet", "petid-dogs"]
    dogs = shared_file("data", "dogs")
    kept = [one for one in read_split(SPLIT).photos if one.role == "held out"]
    owners = np.unique([one.individual for one in kept], return_inverse=True)[1]
    groups = np.array([-1 - place if one.group is None else one.group for place, one in enumerate(kept)])
    photos = [open_image(dogs / one.photo) for one in kept]
    same = owners[:, None] == owners
    near = groups[:, None] == groups  # near-duplicates of a probe, and itself
    made = {}
    for kind, harden in KINDS.items():
        rng = np.random.default_rng(0)
        made[kind] = [np.asarray(harden(Image.fromarray(one), rng).convert("RGB")) for one in photos]
    for name in names:
        embedder = imagenet_embedder() if name == "imagenet" else Embedder(open_model(name))
        gallery = embed(embedder, photos)
        figures: dict[str, object] = {"dogs": int(owners.max()) + 1, "photos": len(kept)}
        for kind in KINDS:
            similarities = embed(embedder, made[kind]) @ gallery.T
            own = np.where(same & ~near, similarities, -np.inf).max(axis=1)
            other = np.where(same, -np.inf, similarities).max(axis=1)
            mated = np.isfinite(own)
            ranks = np.where(own > other, 1, 2)[mated]
            tar = tar_at_far(similarities[same & ~near], similarities[~same], 0.01)
            figures |= {f"{kind}: rank-1": float(rank_k(ranks, 1)), f"{kind}: TAR at FAR 1 %": tar}
        report(f"hard photos of dogs held out, {name}", figures)


if __name__ == "__main__":
    main()
