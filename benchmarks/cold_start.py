"""From the start of the process to the answer: `petid identify PHOTO` against 500 dogs.

    python benchmarks/cold_start.py

Side by side, in turns: petid's own process, and what a user would write without petid, which is a Python process that
loads the same network in Keras, embeds the same photo and searches the same embeddings.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import imagenet_embedder, individuals, report

from petid_search.calibrate import current_calibration
from petid_search.enroll import enroll
from petid_search.index.gallery import Gallery
from petid_search.models.bundle import WEIGHTS

ROUNDS = 7
WITHOUT_PETID = """
import sys
import keras, numpy as np
from PIL import Image
weights, embeddings, photo = sys.argv[1:]
pixels = keras.Input((224, 224, 3))
scaled = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
network = keras.applications.MobileNetV2(include_top=False, weights=None, input_tensor=scaled)
vector = keras.layers.UnitNormalization()(keras.layers.GlobalAveragePooling2D()(network.output))
model = keras.Model(pixels, vector)
image = np.asarray(Image.open(photo).convert("RGB").resize((224, 224)), "float32")
known = np.load(embeddings)
print((known @ model.predict(image[None], verbose=0)[0]).argmax())
"""


def seconds(command: list[str]) -> float:
    """Duration of a process."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    return time.perf_counter() - started


def main() -> None:
    """Fill the gallery, then start processes in turns."""
    dogs = individuals("dogs")[:500]
    embedder = imagenet_embedder()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Gallery(folder / "gallery", create=True) as gallery:
            photos = [(photo, photo.parent.name) for dog in dogs for photo in dog[::2]]
            for _ in enroll(gallery, photos, embedder):
                pass
            gallery.index.save()
            current_calibration(gallery)
            np.save(folder / "known.npy", np.concatenate([block.vectors for block in gallery.blocks()]))
            size = gallery.count_photos()
        probe = str(dogs[42][1])
        petid = [sys.executable, "-m", "petid_search", "identify", probe, "--gallery", str(folder / "gallery")]
        without = [sys.executable, "-c", WITHOUT_PETID]
        without += [str(embedder.bundle.file(WEIGHTS)), str(folder / "known.npy"), probe]
        seconds(petid)
        seconds(without)
        times = [(seconds(petid), seconds(without)) for _ in range(ROUNDS)]
    with_petid, by_hand = (statistics.median(column) for column in zip(*times, strict=True))
    report(
        f"one photo against {size} photos of 500 dogs, process from start to answer, medians of {ROUNDS} in turns",
        {"petid identify, s": with_petid, "Keras by hand, s": by_hand, "petid / Keras by hand": with_petid / by_hand},
    )


if __name__ == "__main__":
    main()
