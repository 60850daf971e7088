"""Draws docs/images/explain.jpg from photos that may be shown: those that come with scikit-image.

    python docs/draw_explain.py

Drawn by petid-dogs. Chelsea the cat is CC0; Eileen Collins
was photographed by NASA (public domain).
"""

import tempfile
from pathlib import Path

import skimage.data
from PIL import Image, ImageEnhance, ImageOps

from petid_search import Embedder, Gallery, open_model
from petid_search.enroll import enroll
from petid_search.explain import draw, explain


def main() -> None:
    """Enroll two, ask for a photo of one that was taken otherwise, draw."""
    cat = Image.fromarray(skimage.data.chelsea())
    eileen = Image.fromarray(skimage.data.astronaut())
    with tempfile.TemporaryDirectory() as name, Gallery(Path(name, "gallery"), create=True) as gallery:
        folder = Path(name)
        cat.crop((60, 0, 360, 300)).save(folder / "chelsea.png")
        eileen.crop((90, 0, 390, 300)).save(folder / "eileen.png")
        probe = ImageOps.mirror(cat.rotate(12, Image.Resampling.BICUBIC)).crop((110, 25, 400, 280))
        ImageEnhance.Brightness(probe).enhance(0.75).save(folder / "found.png")
        embedder = Embedder(open_model())
        photos = [(folder / "chelsea.png", "Chelsea"), (folder / "eileen.png", "Eileen")]
        for outcome in enroll(gallery, photos, embedder):
            print(outcome.path.name, outcome.status)
        picture = draw(explain(folder / "found.png", gallery, embedder))
    target = Path(__file__).parent / "images" / "explain.jpg"
    picture.save(target, quality=88, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
