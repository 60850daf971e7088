"""How best to bring a photo to a network's square input: stretched, padded or cut?

    python benchmarks/fit.py

Rank-1 of every photo against all others, MobileNetV2 of ImageNet, on sets whose photos are not square.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import imagenet_embedder, report, shared_file
from PIL import Image, ImageOps

from petid_search.images import open_image
from petid_search.models.runtime import Embedder

SIZE = (224, 224)
WAYS = {
    "stretched": lambda picture: picture.resize(SIZE, Image.Resampling.BILINEAR),
    "padded": lambda picture: ImageOps.pad(picture, SIZE, Image.Resampling.BILINEAR, color=(128, 128, 128)),
    "cut": lambda picture: ImageOps.fit(picture, SIZE, Image.Resampling.BILINEAR),
}


def rank_1(photos: list[Path], way: str, embedder: Embedder) -> float:
    """Share of photos whose nearest other photo shows the same individual."""

    def embed(photo: Path) -> np.ndarray:
        return embedder.embed(np.asarray(WAYS[way](Image.fromarray(open_image(photo))))[None])[0]

    with ThreadPoolExecutor() as pool:
        embeddings = np.stack(list(pool.map(embed, photos)))
    similarities = embeddings @ embeddings.T
    np.fill_diagonal(similarities, -np.inf)
    names = np.array([photo.parent.name for photo in photos])
    return float(np.mean(names[similarities.argmax(1)] == names))


def main() -> None:
    """Compare the ways on three sets."""
    embedder = Embedder(imagenet_embedder().bundle, threads=1)
    figures = {}
    for name, step in (("cattle", 3), ("cats-raw", 1), ("cats-cropped", 1)):
        photos = sorted(shared_file("data", name).glob("*/*.jpg"))[::step]
        for way in WAYS:
            figures[f"{name} ({len(photos)} photos), {way}"] = rank_1(photos, way, embedder)
    report("rank-1 by the way a photo is brought to the square", figures)


if __name__ == "__main__":
    main()
