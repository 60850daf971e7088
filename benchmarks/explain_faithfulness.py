"""Can the maps of `petid explain` be believed? Deletion, insertion and shuffled weights on real dogs.

    python benchmarks/explain_faithfulness.py [MODEL [PHOTOS]]

MODEL is one of PETID_HOME; by default `imagenet`, made of the shared weights. One probe each of so many individuals,
100 by default, whom the model was not trained on, beside another photo of the same animal: where they are alike; and
once more with the probe at 0.6 of its size, anywhere in the picture, since in this set each face is in the middle. With
a classifier, also one photo each of so many individuals whom it was trained on: where the best class's score comes
from. Prints Markdown tables with intervals of 95 % (individuals drawn anew, 1,000 times), and the border's share.

Deletion: mean similarity or score while the picture is covered, the map's highest places first; lower is better.
Insertion: while it is uncovered on a blurred copy; higher is better. Both: insertion less deletion. Shuffled weights:
partial rank correlation of the map with that of the same network with so many of its kernels shuffled, the last ones
first; the row "another photo" is its correlation with the map of the next individual's photo: what is left in common by
any two maps.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from common import imagenet_embedder, individuals, report
from PIL import Image

from petid_search.evaluate.trained_on import training_of
from petid_search.explain.classes import ClassExplainer
from petid_search.explain.explanation import similarity_map
from petid_search.explain.faithfulness import Curves, Faithfulness, Score, measure
from petid_search.explain.maps import BORDER_AREA, border_share
from petid_search.explain.sanity import SanityCheck, rank_correlation
from petid_search.explain.views import views
from petid_search.images import open_image
from petid_search.metrics.bootstrap import bootstrap_interval
from petid_search.models.home import open_model
from petid_search.models.runtime import Embedder

PHOTOS = 100
ORDERS = {"this map": "of_map", "random maps": "of_random", "a blob in the middle": "of_blob"}


def main() -> None:
    """Measure and print."""
    embedder = Embedder(open_model(sys.argv[1])) if len(sys.argv) > 1 else imagenet_embedder()
    count = int(sys.argv[2]) if len(sys.argv) > 2 else PHOTOS
    training = training_of(embedder.bundle)
    trained = frozenset() if training is None else training.photos
    dogs = {True: [], False: []}
    for photos in individuals("dogs"):
        if len(photos) > 1:
            dogs[any(sha256(photo.read_bytes()).hexdigest() in trained for photo in photos)].append(photos)
    sanity = SanityCheck(embedder.bundle)
    tell(f"similarity, {embedder.name}", similarities(dogs[False][:count], embedder, sanity))
    rng = np.random.default_rng(0)
    off_centre = similarities(dogs[False][:count], embedder, None, change=lambda image: anywhere(image, rng))
    tell(f"similarity, {embedder.name}, probes anywhere in the picture", off_centre)
    if embedder.classes:
        known = dogs[True][:count]
        tell(f"class score, {embedder.name}", class_scores(known, embedder, sanity))


Measured = tuple[np.ndarray, Faithfulness, dict[float, float]]


def similarities(
    dogs: Sequence[Sequence[Path]],
    embedder: Embedder,
    sanity: SanityCheck | None,
    *,
    change: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> Iterator[Measured]:
    """The map of each dog's first photo's similarity to its last, and what its tests find."""
    head = embedder.head()
    for photos in dogs:
        image, other = (open_image(photo, embedder.input_size) for photo in (photos[0], photos[-1]))
        image = change(image)
        embeddings, features = embedder.features(np.stack([image, other]))
        seen = embedder.features(views(image, features.shape[1]))[1]
        heat = similarity_map(seen, embeddings[1], head)
        shuffled = {} if sanity is None else sanity.of_similarity(image, other)
        yield heat, measure(image, heat, likeness(embedder, embeddings[1])), shuffled


def anywhere(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image at 0.6 of its size somewhere in a picture of the mean colour of its edge."""
    side = image.shape[0]
    small = Image.fromarray(image).resize((round(0.6 * side),) * 2, Image.Resampling.LANCZOS)
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).mean(axis=0)
    picture = Image.new("RGB", (side, side), tuple(int(one) for one in edge))
    left, top = rng.integers(0, side - small.width, 2, endpoint=True)
    picture.paste(small, (int(left), int(top)))
    return np.asarray(picture)


def class_scores(dogs: Sequence[Sequence[Path]], embedder: Embedder, sanity: SanityCheck) -> Iterator[Measured]:
    """The map of each dog's first photo's best class, and what its tests find."""
    explainer = ClassExplainer(embedder)
    for photos in dogs:
        best, heat = next(iter(explainer.explain(photos[0]).maps.items()))
        image, number = open_image(photos[0], embedder.input_size), embedder.classes.index(best)
        yield heat, measure(image, heat, score_of(embedder, number)), sanity.of_class(image, number)


def likeness(embedder: Embedder, other: np.ndarray) -> Score:
    """The similarity of images to an embedding."""
    return lambda images: embedder.embed(images) @ other


def score_of(embedder: Embedder, number: int) -> Score:
    """The score of images for a class."""
    return lambda images: embedder.scores(images)[:, number]


def tell(title: str, measured: Iterator[Measured]) -> None:
    """Print the tables of one kind of map."""
    started = time.perf_counter()
    heats, found, shuffled = (list(one) for one in zip(*measured, strict=True))
    seconds = time.perf_counter() - started
    print(f"\n{title}: {len(found)} photos of {len(found)} individuals\n")
    print("| order | deletion | less this map's | insertion | less this map's | both, less this map's |")
    print("|---|---|---|---|---|---|")
    for name, kind in ORDERS.items():
        cells = []
        for area in (deletion, insertion, balance):
            values = np.array([area(getattr(one, kind)) for one in found])
            own = np.array([area(one.of_map) for one in found])
            difference = "" if kind == "of_map" else interval(values - own, "+")
            cells += [difference] if area is balance else [interval(values), difference]
        print(f"| {name} | {' | '.join(cells)} |")
    if shuffled[0]:
        tell_shuffled(heats, shuffled)
    borders = np.array([border_share(heat) for heat in heats])
    report(
        f"explain, {title}",
        {
            "photos": len(found),
            "better than random maps on balance": float(np.mean([one.beats_random for one in found])),
            "better than a blob in the middle on balance": float(np.mean([one.beats_blob for one in found])),
            "share of evidence in the border: median": float(np.median(borders)),
            "share of evidence in the border: 95th percentile": float(np.percentile(borders, 95)),
            "photos with a warning": float(np.mean(borders > BORDER_AREA)),
            "seconds a photo": seconds / len(found),
        },
    )


def tell_shuffled(heats: Sequence[np.ndarray], shuffled: Sequence[dict[float, float]]) -> None:
    """Print what becomes of the maps when kernels are shuffled."""
    print("\n| shuffled | partial rank correlation with the map |\n|---|---|")
    for share in shuffled[0]:
        print(f"| {share:.0%} of the kernels | {interval(np.array([one[share] for one in shuffled]), '+')} |")
    others = [rank_correlation(one, other) for one, other in zip(heats, heats[1:] + heats[:1], strict=True)]
    print(f"| nothing; another photo | {interval(np.array(others), '+')} |")


def deletion(curves: Curves) -> float:
    """The area under the curve of deletion."""
    return curves.deletion_area


def insertion(curves: Curves) -> float:
    """The area under the curve of insertion."""
    return curves.insertion_area


def balance(curves: Curves) -> float:
    """Insertion less deletion."""
    return curves.balance


def interval(values: np.ndarray, sign: str = "") -> str:
    """A mean over individuals, each with one photo, and its interval."""
    mean: Callable[..., float] = lambda weights: float(np.average(values, weights=weights))  # noqa: E731
    found = bootstrap_interval(mean, np.arange(len(values)))
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


if __name__ == "__main__":
    main()
