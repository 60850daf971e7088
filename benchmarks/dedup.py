"""Near-identical photos: petid beside all pairs by scikit-image, imagededup's perceptual hash, and difPy.

    python benchmarks/dedup.py [pairs | rivals | many | scale]

`pairs`: 2,000 photos of dogs, from files to pairs, beside `structural_similarity` of every pair. `rivals`: 1,400 of
them and six copies of each hundredth, with precision and recall by all-pairs SSIM; imagededup and difPy are only
measured where they are installed (`pip install --no-deps imagededup difPy PyWavelets tqdm`). `many`: all shared photos.
`scale`: 100,000 drawn photos, a second run, ten new ones against them, and memory.
"""

import importlib
import io
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

import numpy as np
from common import report, shared_file
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from skimage.metrics import structural_similarity

from petid_search.dedup.duplicates import THRESHOLD, Duplicates, Labelled, find_duplicates
from petid_search.dedup.thumbnails import ThumbnailStore
from petid_search.images import open_image

SIZE = (32, 32)
Pairs = set[frozenset[Path]]


def main() -> None:
    """Run the parts named, or all."""
    parts = {"pairs": pairs, "rivals": rivals, "many": many, "scale": scale}
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


def dogs(count: int) -> list[Path]:
    """The first photos of the shared dogs."""
    return sorted(shared_file("data", "dogs").glob("*/*.jpg"))[:count]


def by_petid(photos: list[Path], store: Path, threshold: float = THRESHOLD) -> Duplicates:
    """From files to pairs and groups."""
    with ThumbnailStore(store) as thumbnails:
        return find_duplicates([Labelled(photo) for photo in photos], store=thumbnails, threshold=threshold)


def by_all_pairs(photos: list[Path]) -> dict[frozenset[Path], float]:
    """What one writes without petid: each photo opened once, each pair compared once. The pairs over 0.8 and SSIM."""
    small = [np.asarray(Image.open(photo).convert("RGB").convert("L").resize(SIZE, 2)) for photo in photos]
    return {
        frozenset((photos[i], photos[j])): ssim
        for i, j in itertools.combinations(range(len(photos)), 2)
        if (ssim := structural_similarity(small[i], small[j])) >= 0.8
    }


def pairs_of(found: Duplicates) -> Pairs:
    """The pairs as sets of two paths."""
    return {frozenset((pair.first.path, pair.second.path)) for pair in found.pairs()}


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and what came of it."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def pairs(folder: Path) -> None:
    """The same pairs as by comparing all, and how much sooner."""
    photos = dogs(2000)
    figures: dict[str, object] = {"photos": len(photos)}
    slow, every = timed(lambda: by_all_pairs(photos))
    for threshold in (0.95, 0.8):
        runs = [
            timed(lambda turn=turn, least=threshold: by_petid(photos, folder / f"{least}-{turn}.db", least))
            for turn in range(3)
        ]
        seconds = sorted(run[0] for run in runs)[1]
        found = pairs_of(runs[0][1])
        exact = {pair for pair, ssim in every.items() if ssim >= threshold}
        figures |= {
            f"SSIM {threshold}: pairs": len(found),
            f"SSIM {threshold}: the same as by all pairs": found == exact,
            f"SSIM {threshold}: petid, seconds from files to groups": seconds,
            f"SSIM {threshold}: all pairs / petid": slow / seconds,
        }
    report("near-identical photos among 2,000", {**figures, "all pairs by scikit-image, seconds": slow})


def rivals(folder: Path) -> None:
    """Time, precision and recall by all-pairs SSIM, of petid and of what else there is."""
    photos = folder / "photos"
    photos.mkdir()
    for place, photo in enumerate(dogs(1400)):
        (photos / photo.name).write_bytes(photo.read_bytes())
        if place % 14 == 0:
            save_copies(photo, photos)
    files = sorted(photos.iterdir())
    slow, every = timed(lambda: by_all_pairs(files))
    exact = {pair for pair, ssim in every.items() if ssim >= THRESHOLD}
    figures: dict[str, object] = {"photos": len(files), "pairs by all-pairs SSIM": len(exact)}
    figures["all pairs by scikit-image, seconds"] = slow
    ways = {"petid": lambda: pairs_of(by_petid(files, folder / "store.db"))}
    with suppress(ImportError):
        ways |= perceptual_hash(photos)
    with suppress(ImportError):
        ways |= difpy(photos)
    for name, way in ways.items():
        seconds, found = timed(way)
        right = len(found & exact)
        figures |= {
            f"{name}: seconds": seconds,
            f"{name}: pairs": len(found),
            f"{name}: precision": right / len(found) if found else float("nan"),
            f"{name}: recall": right / len(exact),
        }
    report("near-identical photos, petid and others", figures)


def save_copies(photo: Path, folder: Path) -> None:
    """Six copies as photos come back from the web."""
    picture = Image.open(photo).convert("RGB")
    width, height = picture.size
    signed = picture.copy()
    ImageDraw.Draw(signed).text((width * 0.05, height * 0.8), "(c) 2026", fill="white", font_size=height * 0.12)
    changed = {
        "resized": picture.resize((width * 2 // 3, height * 2 // 3), Image.Resampling.BICUBIC),
        "cropped": picture.crop((width // 50, height // 50, width - width // 50, height - height // 50)),
        "brightened": ImageEnhance.Brightness(picture).enhance(1.2),
        "mirrored": ImageOps.mirror(picture),
        "watermarked": signed,
    }
    picture.save(folder / f"{photo.stem}-re-encoded.jpg", quality=40)
    for name, copy in changed.items():
        copy.save(folder / f"{photo.stem}-{name}.jpg", quality=90)


def perceptual_hash(folder: Path) -> dict[str, Callable[[], Pairs]]:
    """PHash of imagededup at three distances; 10 is its own default."""
    # Its package imports PyTorch for another method that is not used here.
    for name, attribute in (("methods.cnn", "CNN"), ("utils.models", "CustomModel")):
        stand_in = types.ModuleType(name)
        setattr(stand_in, attribute, None)
        sys.modules[f"imagededup.{name}"] = stand_in
    hasher = importlib.import_module("imagededup.methods.hashing").PHash(verbose=False)

    def find(distance: int) -> Pairs:
        near = hasher.find_duplicates(image_dir=str(folder), max_distance_threshold=distance)
        return {frozenset((folder / one, folder / other)) for one, others in near.items() for other in others}

    return {f"imagededup, PHash, distance {d}": (lambda d=d: find(d)) for d in (2, 6, 10)}


def difpy(folder: Path) -> dict[str, Callable[[], Pairs]]:
    """Both settings of difPy: mean squared error of 50 × 50 pixels, 0 for duplicates, up to 5 for similar photos."""
    module = importlib.import_module("difPy")

    def find(similarity: str) -> Pairs:
        with redirect_stdout(io.StringIO()):
            built = module.build(str(folder), show_progress=False)
            found = module.search(built, similarity=similarity, show_progress=False).result
        return {
            frozenset((Path(one), Path(match[0] if isinstance(match, list) else match)))
            for one, matches in found.items()
            for match in matches
        }

    return {f"difPy, {similarity}": (lambda s=similarity: find(s)) for similarity in ("duplicates", "similar")}


def many(folder: Path) -> None:
    """Every shared photo, from files to groups; then once more."""
    photos = sorted(shared_file("data").rglob("*.jpg"))
    first, found = timed(lambda: by_petid(photos, folder / "store.db"))
    second, _ = timed(lambda: by_petid(photos, folder / "store.db"))
    report(
        "near-identical photos among all shared ones",
        {"photos": len(photos), "pairs": len(found.found.first), "seconds": first, "seconds, second run": second},
    )


def scale(folder: Path) -> None:
    """100,000 drawn photos in files, each run a process of its own."""
    photos = folder / "photos"
    rng = np.random.default_rng(0)
    for number in range(100_000):
        (photos / f"{number // 1000:03}").mkdir(parents=True, exist_ok=True)
        drawn = Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
        drawn.save(photos / f"{number // 1000:03}" / f"{number}.jpg", quality=80)
    inbox = folder / "inbox"
    inbox.mkdir()
    for number in range(10):
        picture = Image.fromarray(open_image(photos / f"{number:03}" / f"{number * 1000}.jpg"))
        picture.resize((64, 64)).save(inbox / f"{number}.jpg", quality=60)
    figures: dict[str, object] = {"photos": 100_000}
    for name, *arguments in (
        ("first run", photos),
        ("second run", photos),
        ("ten new photos against them", inbox, "--against", photos),
    ):
        command = [sys.executable, __file__, "--measure", str(folder / "home"), *map(str, arguments)]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        figures |= {f"{name}: {what}": value for what, value in told.items()}
    report("near-identical photos among 100,000", figures)


def measure() -> None:
    """Run `petid dedup` in this process, and print seconds, pairs and peak memory as JSON."""
    import os

    from typer.testing import CliRunner

    from petid_search.cli import app

    os.environ["PETID_HOME"] = sys.argv[2]
    seconds, done = timed(lambda: CliRunner().invoke(app, ["dedup", *sys.argv[3:], "--json"]))
    pairs = len(json.loads(done.stdout)["pairs"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "pairs": pairs, "peak memory, MB": peak}))


if __name__ == "__main__":
    measure() if sys.argv[1:2] == ["--measure"] else main()
