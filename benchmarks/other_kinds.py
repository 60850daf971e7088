"""Is a stranger of another kind called by the name of the only animal enrolled?

    python benchmarks/other_kinds.py [MODEL]

MODEL carries a calibration; by default petid-dogs. Each photo of a set is a gallery by itself, and each other photo a
probe; of dogs those that the model was not trained on, each half of them beside a kind measured on the other half.
Prints which share of probes the threshold for FPIR 1 % calls by the name, and which still are where photos of another
kind than the calibration's are told apart; each pair of animals weighs the same.
"""

import sys
from hashlib import sha256

import numpy as np
from common import individuals

from petid_search.calibrate import Carried
from petid_search.calibrate.familiar import Familiar
from petid_search.evaluate.trained_on import training_of
from petid_search.images import open_image
from petid_search.models.home import open_model
from petid_search.models.runtime import Embedder

FPIR = 0.01
SETS = ("dogs", "cats-cropped", "cats-raw", "cattle")
PHOTOS = 12
"""Of one animal; there are up to 90 of one cow."""


def main() -> None:
    """Measure and print."""
    embedder = Embedder(open_model(sys.argv[1] if len(sys.argv) > 1 else "petid-dogs"))
    training, carried = training_of(embedder.bundle), Carried.from_json(embedder.bundle.card.calibration)
    if training is None or carried is None or carried.familiar is None:
        sys.exit(f"{embedder.name} carries no calibration that tells of what kind it is.")
    threshold = carried.threshold(FPIR, size=1, photos_each=1.0)
    print("| set | photos of another kind | strangers called by a name | … of that kind | the same animal | … |")
    print("|---|---|---|---|---|---|")
    for name in SETS:
        embeddings, owners = embedded(name, embedder, training.photos)
        if name == "dogs":  # those that the model's own kind was measured on
            half = owners % 2 == 0
            parts = [
                shares(embeddings[own], owners[own], threshold, kind)
                for own in (half, ~half)
                if (kind := Familiar.measure(embeddings[~own], owners[~own])) is not None
            ]
        else:
            parts = [shares(embeddings, owners, threshold, carried.familiar)]
        print(f"| {name} | {' | '.join(f'{share:.1%}' for share in np.mean(parts, axis=0))} |")


def shares(embeddings: np.ndarray, owners: np.ndarray, threshold: float, kind: Familiar) -> list[float]:
    """Photos of another kind; strangers called by a name, of all and of the kind; photos of one animal likewise."""
    distances, numbers = kind.distances(embeddings), np.arange(len(owners))
    is_match = embeddings @ embeddings.T >= threshold
    is_familiar = (distances[:, None] + distances) / 2 <= kind.limit
    is_same = owners[:, None] == owners
    return [
        float(np.mean(distances > kind.limit)),
        *(
            averaged(decided, pairs, owners)
            for pairs in (~is_same, is_same & (numbers[:, None] != numbers))
            for decided in (is_match, is_match & is_familiar)
        ),
    ]


def embedded(name: str, embedder: Embedder, trained_on: frozenset[str]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of a set's photos, and whom they show, without animals that the model was trained on."""
    embeddings, owners = [], []
    for number, photos in enumerate(individuals(name)):
        if any(sha256(photo.read_bytes()).hexdigest() in trained_on for photo in photos):
            continue
        images = np.stack([open_image(photo, embedder.input_size) for photo in photos[:PHOTOS]])
        embeddings.append(embedder.embed(images))
        owners += [number] * len(images)
    return np.concatenate(embeddings), np.array(owners)


def averaged(decided: np.ndarray, pairs: np.ndarray, owners: np.ndarray) -> float:
    """The mean of what is decided over pairs of photos, each pair of individuals weighing the same."""
    _, numbers = np.unique(owners, return_inverse=True)
    by_owner = np.eye(numbers.max() + 1)[numbers]
    counts, sums = (by_owner.T @ values.astype(float) @ by_owner for values in (pairs, decided & pairs))
    return float(np.mean(sums[counts > 0] / counts[counts > 0]))


if __name__ == "__main__":
    main()
