"""How much of ONNX Runtime's own speed is left when photos are read, decoded, hashed, copied and committed too?

    python benchmarks/enroll_throughput.py

Side by side in one run, in turns: ONNX Runtime alone on images that are ready in memory, as its users call it (one
session on all cores, batches of 32 and of 8), and `enroll` from files to committed rows. Then the memory of
processes that enroll 500 and 5,000 photos.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from common import imagenet_embedder, individuals, report

from petid_search.enroll import enroll
from petid_search.images import open_image
from petid_search.index.gallery import Gallery
from petid_search.models.bundle import ONNX

PHOTOS, ROUNDS = 1000, 3


def onnxruntime_alone(session: onnxruntime.InferenceSession, images: np.ndarray, batch: int) -> float:
    """Images a second through one session, from an array that is ready."""
    started = time.perf_counter()
    for first in range(0, len(images), batch):
        session.run(["embedding"], {"images": images[first : first + batch]})
    return len(images) / (time.perf_counter() - started)


def enrolling(photos: list[Path]) -> float:
    """Photos a second from files to rows on the disk, in a new gallery."""
    embedder = imagenet_embedder()
    with tempfile.TemporaryDirectory() as folder, Gallery(Path(folder), create=True) as gallery:
        started = time.perf_counter()
        for outcome in enroll(gallery, ((photo, photo.parent.name) for photo in photos), embedder):
            assert outcome.status != "failed" or "enrolled as" in str(outcome.reason)
        return len(photos) / (time.perf_counter() - started)


def peak_megabytes(count: int) -> float:
    """Peak memory of a process that enrolls this many photos."""
    command = [sys.executable, __file__, "--enroll", str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Run in turns and print the ratio of the medians."""
    photos = [photo for dog in individuals("dogs") for photo in dog]
    if sys.argv[1:2] == ["--enroll"]:
        enrolling(photos[: int(sys.argv[2])])
        # Not getrusage: its peak begins with that of the process that started this one.
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(int(peak.split()[1]) / 1024)
        return
    photos = photos[:PHOTOS]
    embedder = imagenet_embedder()
    images = np.stack([open_image(photo, embedder.input_size) for photo in photos]).astype(np.float32)
    session = onnxruntime.InferenceSession(embedder.bundle.file(ONNX), providers=["CPUExecutionProvider"])
    onnxruntime_alone(session, images[:64], 8)
    alone_8, alone_32, enrolled = [], [], []
    for _ in range(ROUNDS):
        alone_32.append(onnxruntime_alone(session, images, 32))
        enrolled.append(enrolling(photos))
        alone_8.append(onnxruntime_alone(session, images, 8))
    few, many = peak_megabytes(500), peak_megabytes(5000)
    report(
        f"enroll {PHOTOS} photos of 224 px, {os.cpu_count()} cores, medians of {ROUNDS} rounds in turns",
        {
            "ONNX Runtime alone, batches of 32, images a second": statistics.median(alone_32),
            "ONNX Runtime alone, batches of 8, images a second": statistics.median(alone_8),
            "enroll, photos a second": statistics.median(enrolled),
            "enroll / ONNX Runtime alone, batches of 32": statistics.median(np.divide(enrolled, alone_32)),
            "enroll / ONNX Runtime alone, batches of 8": statistics.median(np.divide(enrolled, alone_8)),
            "peak memory of a process enrolling 500, MB": few,
            "peak memory of a process enrolling 5,000, MB": many,
        },
    )


if __name__ == "__main__":
    main()
