"""A gallery of 100,000 photos: searching, adding, removing, and opening it for one question.

    python benchmarks/gallery_scale.py [PHOTOS]

Synthetic embeddings of 512 numbers, five photos an individual, clustered by individual. Beside petid's search stand
what a user would pick instead: FAISS's IndexFlatIP and a NumPy matrix product, on the same vectors in the same run.
"""

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from common import report

from petid_search.images import Photo
from petid_search.index.gallery import Enrolment, Gallery

DIMENSION, PHOTOS_EACH, BATCH = 512, 5, 2000


def milliseconds(action: Callable[[], object], times: int = 20) -> float:
    """Median duration of an action."""
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations) * 1000


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of unit length."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def draw(count: int, rng: np.random.Generator) -> np.ndarray:
    """Embeddings of individuals with PHOTOS_EACH photos: similarity about 0.8 within, about 0 between."""
    centres = unit(rng.standard_normal((-(-count // PHOTOS_EACH), DIMENSION), dtype=np.float32))
    noise = rng.standard_normal((len(centres) * PHOTOS_EACH, DIMENSION), dtype=np.float32)
    return unit(np.repeat(centres, PHOTOS_EACH, axis=0) + 0.5 * unit(noise))[:count]


def enrolment(number: int, vector: np.ndarray) -> Enrolment:
    """A photo that is linked, so that its bytes are never read."""
    data = str(number).encode()
    return Enrolment(Photo(Path(f"{number}.jpg"), data, hashlib.sha256(data).hexdigest()), f"dog {number // 5}", vector)


def read_characters() -> int:
    """Bytes that this process has read from files so far (Linux)."""
    return int(Path("/proc/self/io").read_text().split()[1])


def main() -> None:
    """Fill a gallery, then measure."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rng = np.random.default_rng(0)
    vectors = draw(count + 100, rng)
    kept, new = vectors[:count], vectors[count:]
    probes = unit(kept[rng.integers(count, size=64)] + 0.3 * unit(rng.standard_normal((64, DIMENSION))))
    about = {"model": ("synthetic", "f" * 64), "link": True}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Gallery(folder, create=True) as gallery:
            started = time.perf_counter()
            for first in range(0, count, BATCH):
                numbers = range(first, min(first + BATCH, count))
                gallery.enroll([enrolment(number, kept[number]) for number in numbers], **about)
            filling = time.perf_counter() - started
            gallery.index.save()
        database = (folder / "gallery.db").stat().st_size

        before, started = read_characters(), time.perf_counter()
        gallery = Gallery(folder)
        model = gallery.model
        gallery.index.search(probes[:1], 5, model=model)
        opening, read = time.perf_counter() - started, read_characters() - before
        each = iter(range(10_000))
        searching = milliseconds(lambda: gallery.index.search(probes[next(each) % 64][None], 5, model=model))
        batch = milliseconds(lambda: gallery.index.search(probes[:32], 5, model=model), 5)

        fresh = iter(range(count, count + 100))
        adding = milliseconds(lambda: gallery.enroll([enrolment(n := next(fresh), new[n - count])], **about))
        after_adding = milliseconds(lambda: gallery.index.search(probes[:1], 5, model=model), 1)
        removed = iter(gallery.individuals())
        removing = milliseconds(lambda: gallery.remove(next(removed)))
        after_removing = milliseconds(lambda: gallery.index.search(probes[:1], 5, model=model), 1)
        gallery.close()

        flat = faiss.IndexFlatIP(DIMENSION)
        flat.add(kept)
        by_faiss = milliseconds(lambda: flat.search(probes[next(each) % 64][None], 5))
        by_numpy = milliseconds(lambda: np.argpartition(kept @ probes[next(each) % 64], -5))
    report(
        f"gallery of {count} embeddings of {DIMENSION} numbers",
        {
            "search, one probe, warm, ms": searching,
            "search, 32 probes at once, ms": batch,
            "IndexFlatIP alone, one probe, ms": by_faiss,
            "NumPy product alone, one probe, ms": by_numpy,
            "petid / IndexFlatIP": searching / by_faiss,
            "enroll one photo, ms": adding,
            "first search after enrolling 20, ms": after_adding,
            "remove one individual, ms": removing,
            "first search after removing 20, ms": after_removing,
            "open the gallery and search once, ms": opening * 1000,
            "read from files for that, MB": read / 1e6,
            "SQLite file, MB": database / 1e6,
            "fill, photos a second": count / filling,
        },
    )


if __name__ == "__main__":
    main()
