"""How fast does petid train? Beside a bare `fit` of Keras, and with features cached beside without.

    python benchmarks/train_throughput.py [whole] [cached]

`whole`: all of MobileNetV2 at 160 px, softmax, Adam, batches of 32, no augmentation: petid's own epochs, photos decoded
to disk, beside `model.fit` on the same photos as one float32 array in memory. Epochs of the two are taken in turn; the
first of each, which compiles, is not counted. With the origin's augmentation a second time.

`cached`: a softmax on the frozen MobileNetV2, each of three seeds with features cached and passed through each time:
accuracy on the same held-out photos, and epochs a minute. Individuals with ten photos or more.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import report, shared_file

from petid_search.models.backbones import create_backbone, import_keras
from petid_search.train.config import TrainConfig
from petid_search.train.training import Watch, train

SIZE = 160
PHOTOS = 768
EPOCHS = 4
SEEDS = (0, 1, 2)
ORIGIN = {"rotation": 15.0, "shift": 0.05, "flip": True}


def main() -> None:
    """Measure what is asked for, or everything."""
    asked = sys.argv[1:] or ["whole", "cached"]
    if "whole" in asked:
        whole({})
        whole(ORIGIN)
    if "cached" in asked:
        cached()


def some_photos(folder: Path, least: int, most: int | None = None) -> Path:
    """A folder of links to the dogs with so many photos."""
    taken = 0
    for individual in sorted(shared_file("data", "dogs").iterdir()):
        photos = sorted(individual.glob("*.jpg"))
        if len(photos) < least or (most is not None and taken >= most):
            continue
        (folder / individual.name).mkdir(parents=True)
        for photo in photos if most is None else photos[: most - taken]:
            (folder / individual.name / photo.name).symlink_to(photo)
            taken += 1
    return folder


def config(folder: Path, **words: Any) -> TrainConfig:
    """A softmax on MobileNetV2 with the shared weights."""
    weights = str(shared_file("weights", "mobilenetv2-imagenet", "mobilenetv2_imagenet.npz"))
    return TrainConfig(folder=str(folder), weights=weights, loss="categorical_crossentropy", **words)


def whole(augmentation: Mapping[str, Any]) -> None:
    """Fine-tune everything: an epoch of petid's, an epoch of Keras's, and again."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = some_photos(Path(scratch) / "photos", 4, PHOTOS)
        keras = import_keras()
        bare = Bare(keras, folder)
        seconds: list[float] = []

        def bare_epoch(entry: Mapping[str, Any]) -> None:
            seconds.append(float(entry["seconds"]))
            bare.epoch()

        train(
            config(
                folder,
                name=f"throughput-{time.time_ns()}",
                size=SIZE,
                freeze="none",
                epochs=EPOCHS,
                learning_rate=1e-4,
                sampler="shuffled",
                hold_out_photos=0.0,
                **augmentation,
            ),
            output=Path(scratch) / "run",
            watch=Watch(epoch=bare_epoch),
        )
        ours, theirs = PHOTOS / min(seconds[1:]), PHOTOS / min(bare.seconds[1:])
        report(
            f"fine-tuning MobileNetV2 at {SIZE} px, {'augmented' if augmentation else 'not augmented'}",
            {"petid photos/s": ours, "bare fit photos/s": theirs, "ratio": ours / theirs},
        )


class Bare:
    """What one would write by hand: the same network, photos in memory, `fit`."""

    def __init__(self, keras: Any, folder: Path) -> None:
        from petid_search.images import open_image

        photos = sorted(folder.glob("*/*.jpg"))
        names = sorted({photo.parent.name for photo in photos})
        self.images = np.stack([open_image(photo, SIZE) for photo in photos]).astype(np.float32)
        self.labels = np.array([names.index(photo.parent.name) for photo in photos])
        backbone = create_backbone("mobilenetv2", size=SIZE)
        pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
        self.model = keras.Model(backbone.input, keras.layers.Dense(len(names), activation="softmax")(pooled))
        self.model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        self.seconds: list[float] = []

    def epoch(self) -> None:
        """One epoch."""
        started = time.monotonic()
        self.model.fit(self.images, self.labels, batch_size=32, verbose=0)
        self.seconds.append(time.monotonic() - started)


def cached() -> None:
    """Train a head, with features cached and without."""
    accuracies: dict[bool, list[float]] = {True: [], False: []}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = some_photos(Path(scratch) / "photos", 10)
        for seed in SEEDS:
            for cache in (True, False):
                trained = train(
                    config(
                        folder,
                        name=f"cached-{time.time_ns()}",
                        size=SIZE,
                        epochs=30 if cache else 8,
                        schedule="constant",
                        monitor="none",
                        seed=seed,
                        cache=cache,
                    ),
                    output=Path(scratch) / f"{seed}-{cache}",
                )
                history = trained.report["history"]
                accuracies[cache].append(history[7]["val_accuracy"])
                seconds[cache] += [entry["seconds"] for entry in history[1:]]
    rate = {cache: 60 / float(np.median(seconds[cache])) for cache in (True, False)}
    report(
        "a softmax on the frozen MobileNetV2, features cached and not",
        {
            "accuracy after 8 epochs, cached": str([round(one, 4) for one in accuracies[True]]),
            "accuracy after 8 epochs, uncached": str([round(one, 4) for one in accuracies[False]]),
            "epochs a minute, cached": rate[True],
            "epochs a minute, uncached": rate[False],
            "ratio": rate[True] / rate[False],
        },
    )


if __name__ == "__main__":
    main()
