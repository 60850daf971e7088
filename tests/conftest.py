"""What the tests share: small real models, and photos of animals that differ in their coats."""

import io
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

SHARED = Path(__file__).parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared photos and weights are not here")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Layers whose test sets no weights draw the same ones in every run: Keras takes their seeds from here."""
    random.seed(0)


def write_small_model(folder: Path, name: str, *, seed: int, projection=None, classes=(), split=None, calibration=None):
    """A real bundle, made the real way, of a network small enough for every test.

    One strided convolution and a sine: random Fourier features, whose mean tells apart what colours a coat has. Classes
    are individuals by their numbers: its classifier compares with the mean embedding of three images of each.
    """
    from petid_search.images import FIT
    from petid_search.models.architecture import Classifier, Head
    from petid_search.models.backbones import import_keras
    from petid_search.models.bundle import write_bundle

    keras = import_keras()
    from petid_search.models.heads import create_model

    rng = np.random.default_rng(seed)
    pixels = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)
    convolution = keras.layers.Conv2D(48, 8, strides=8, activation=keras.ops.sin)
    backbone = keras.Model(pixels, convolution(scaled))
    convolution.set_weights([rng.normal(0, 0.2, (8, 8, 3, 48)), rng.uniform(0, 2 * np.pi, 48)])
    keras.utils.set_random_seed(seed)
    head = Head(projection=projection, classifier=Classifier(kind="cosine") if classes else None)
    about = {"backbone": "small", "fit": FIT, "origin": "drawn", "licence": "CC0-1.0", "data": "none"}
    model = create_model(backbone, head, len(classes))
    if classes:
        images = [np.stack([draw_animal(int(one), 500 + photo, 32) for photo in range(3)]) for one in classes]
        means = [np.mean(model(those.astype(np.float32))["embedding"], axis=0) for those in images]
        model.get_layer("cosines").set_weights([np.stack(means, axis=1)])
    about |= {"classes": classes, "split": split, "calibration": calibration}
    return write_bundle(model, folder / name, name=name, head=head, **about)


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory) -> Path:
    """A PETID_HOME with two models, `small` and `other`, that nobody may change."""
    home = tmp_path_factory.mktemp("home")
    write_small_model(home / "models", "small", seed=1)
    write_small_model(home / "models", "other", seed=2, projection=24)
    return home


@pytest.fixture
def home(models_folder, monkeypatch) -> Path:
    """PETID_HOME is the one with the models `small` and `other`; there is no default gallery from outside."""
    monkeypatch.setenv("PETID_HOME", str(models_folder))
    monkeypatch.delenv("PETID_GALLERY", raising=False)
    return models_folder


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory) -> Path:
    """A PETID_HOME with `small`, and `five`, whose classifier knows individuals 4 to 8, that nobody may change."""
    home = tmp_path_factory.mktemp("home")
    write_small_model(home / "models", "small", seed=1)
    write_small_model(home / "models", "five", seed=1, classes=("4", "5", "6", "7", "8"))
    return home


@pytest.fixture
def classifier_home(home, classifier_folder, monkeypatch) -> Path:
    """PETID_HOME is the one with the models `small` and `five`."""
    monkeypatch.setenv("PETID_HOME", str(classifier_folder))
    return classifier_folder


@pytest.fixture
def five(classifier_home):
    """The embedder of `five`, which has a classifier."""
    from petid_search.models.home import open_model
    from petid_search.models.runtime import Embedder

    return Embedder(open_model("five"))


@pytest.fixture
def embedder(home):
    from petid_search.models.home import open_model
    from petid_search.models.runtime import Embedder

    return Embedder(open_model("small"))


@pytest.fixture
def other_embedder(home):
    from petid_search.models.home import open_model
    from petid_search.models.runtime import Embedder

    return Embedder(open_model("other"))


def draw_animal(individual: int, photo: int, size: int = 64) -> np.ndarray:
    """An image of an animal: its coat is fixed by the individual, light, spots of it and noise by the photo.

    Two of one individual have an SSIM under 0.95: they are no near-duplicates.
    """
    coat = np.random.default_rng(individual).uniform(0, 255, (4, 4, 3))
    rng = np.random.default_rng([individual, photo])
    light = rng.uniform(0.95, 1.05)
    image = np.kron(coat, np.ones((size // 4, size // 4, 1))) * light + rng.normal(0, 12, (size, size, 3))
    image += np.kron(rng.normal(0, 8, (size // 2, size // 2, 1)), np.ones((2, 2, 1)))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def take_photo(tmp_path) -> Callable[..., Path]:
    """Writes a PNG of an individual, by number, into a folder of the test's own."""

    def take(individual: int, photo: int = 0, path: str | None = None) -> Path:
        file = tmp_path / (f"photos/{individual}/{photo}.png" if path is None else path)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_animal(individual, photo)).save(file)
        return file

    return take


@pytest.fixture
def take_photos(take_photo, tmp_path) -> Callable[[int, int], Path]:
    """Writes a folder of individuals' folders: how many individuals, how many photos of each."""

    def take(individuals: int, photos: int, *, first: int = 0) -> Path:
        for individual in range(first, first + individuals):
            for photo in range(photos):
                take_photo(individual, photo)
        return tmp_path / "photos"

    return take


@pytest.fixture
def gallery(tmp_path):
    from petid_search.index.gallery import Gallery

    with Gallery(tmp_path / "gallery", create=True) as opened:
        yield opened


@pytest.fixture
def petid(home, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `petid …` as its user would, in a process of its own, in the test's folder."""

    def run(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "petid_search", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    return run


def draw_scene(seed: int, size: int = 96) -> Image.Image:
    """A picture like no other: blots of all sizes, as photos have them."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize((size, size), 3), float)
        / side
        for side in (3, 6, 12, 24, 48)
    ]
    picture = sum(layers)
    low, high = picture.min(), picture.max()
    return Image.fromarray(((picture - low) / (high - low) * 255).astype(np.uint8))


def copies(picture: Image.Image) -> dict[str, Image.Image]:
    """A picture as it comes back from the web: saved again, resized, cut, brighter, mirrored, with a name on it."""
    width, height = picture.size
    again = io.BytesIO()
    picture.save(again, "JPEG", quality=40)
    signed = picture.copy()
    ImageDraw.Draw(signed).text((width * 0.05, height * 0.8), "(c) 2026", fill="white", font_size=height * 0.12)
    return {
        "re-encoded": Image.open(again).convert("RGB"),
        "resized": picture.resize((width * 2 // 3, height * 2 // 3), Image.Resampling.BICUBIC),
        "cropped": picture.crop((width // 50, height // 50, width - width // 50, height - height // 50)),
        "brightened": ImageEnhance.Brightness(picture).enhance(1.2),
        "mirrored": ImageOps.mirror(picture),
        "watermarked": signed,
    }
