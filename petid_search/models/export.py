"""A model for use elsewhere: as a SavedModel or for LiteRT, proved on photos before it stands under its name.

Beside PATH lies PATH.json, which says what goes in, what comes out, and how near that comes to what Keras answers.
"""

import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

import petid_search
from petid_search.disk import sync
from petid_search.errors import ModelError, PhotoError
from petid_search.images import FIT, open_image, shortened
from petid_search.models.backbones import silent_stderr
from petid_search.models.bundle import Bundle, load_keras

if TYPE_CHECKING:
    import keras

Format = Literal["saved-model", "litert", "litert-int8"]

FEWEST_PHOTOS: Final = 30
"""Below so many, the ranges of int8 would be guesses."""
ENOUGH_PHOTOS: Final = 150
MOST_PHOTOS: Final = 300
"""More are not read: neither the ranges nor the check become better."""

_CALIBRATING: Final = 2 / 3
"""The share of the photos that sets the ranges of int8; the check is on the others."""
_AT_ONCE: Final = 8


class Tolerance(NamedTuple):
    """How far an export may be from Keras.

    Args:
        cosine: least mean cosine of the embeddings, in [-1, 1].
        agreement: least share of photos of the same class, in [0, 1].
    """

    cosine: float
    agreement: float


TOLERANCES: Final[dict[Format, Tolerance]] = {
    "saved-model": Tolerance(0.9999, 0.99),
    "litert": Tolerance(0.9999, 0.99),
    # MobileNetV2 of ImageNet has 0.993 on photos of dogs.
    "litert-int8": Tolerance(0.97, 0.9),
}


@dataclass(frozen=True, slots=True)
class Check:
    """How near an export comes to Keras.

    Attributes:
        photos: images that both answered.
        drawn: whether these were drawn, for want of photos.
        cosine_mean: of the embeddings of each, in [-1, 1].
        cosine_min: of the worst of them.
        same_nearest: share of images whose most similar other image is the same, in [0, 1].
        same_class: share of images of the same class, in [0, 1]; None without a classifier.
        scores_apart: largest difference of a score, in [0, 1]; None without a classifier.
    """

    photos: int
    drawn: bool
    cosine_mean: float
    cosine_min: float
    same_nearest: float
    same_class: float | None
    scores_apart: float | None


def export_model(
    bundle: Bundle,
    kind: Format,
    output: Path,
    photos: Sequence[Path] = (),
    problem: Callable[[PhotoError], object] | None = None,
) -> dict[str, Any]:
    """Write a bundle's network in another format: proved and whole, or not at all.

    Args:
        bundle: the model.
        kind: `saved-model`, a folder; `litert`, one file of float32; or `litert-int8`, one of 8-bit integers, a quarter
            as large.
        output: where to; neither it nor its sidecar may be there.
        photos: such as the model is for, an individual's one after the other; at most 300 of them, evenly spread, are
            read. Without any, float32 is checked on drawn images; int8 needs 30.
        problem: told of each photo that cannot be read.

    Returns:
        what stands in the sidecar.

    Raises:
        ModelError: something is there already or nothing can be written there; the photos are too few; the bundle is
            damaged; the network cannot be converted; or it answers otherwise than Keras by more than TOLERANCES.
    """
    card = bundle.card
    if card.fit != FIT:
        raise ModelError(f"Model {card.name!r} wants photos brought to its input by {card.fit!r}: update petid.")
    _check_free(output)
    images = read_evenly(photos, card.input_size, problem)
    about = {
        "model": card.name,
        "fingerprint": card.fingerprint,
        "backbone": card.backbone,
        "classes": list(card.classes),
        "origin": card.origin,
        "licence": card.licence,
        "data": card.data,
    }
    _check_enough(kind, len(images))
    return export_network(load_keras(bundle), kind, output, images, about)


def read_evenly(
    photos: Sequence[Path], size: int, problem: Callable[[PhotoError], object] | None = None
) -> NDArray[np.uint8]:
    """Read at most 300 photos, evenly spread over those named, and bring them to a square.

    Args:
        photos: files.
        size: side of the square, in pixels.
        problem: told of each photo that cannot be read, and is left out.

    Returns:
        RGB, uint8, (n, size, size, 3), in the order of the photos.
    """
    places = np.unique(np.linspace(0, len(photos) - 1, min(len(photos), MOST_PHOTOS)).round().astype(int))
    images = []
    for place in places:
        try:
            images.append(open_image(photos[place], size))
        except PhotoError as error:
            if problem is not None:
                problem(error)
    return np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8)


def export_network(
    model: "keras.Model", kind: Format, output: Path, images: NDArray[np.uint8], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a network in another format, as export_model does.

    Args:
        model: of square images, (n, size, size, 3), in [0, 255], with outputs `embedding` and perhaps `scores`; others
            are left out.
        kind: see export_model.
        output: where to.
        images: RGB, uint8, (n, size, size, 3), as read_evenly returns.
        about: what else the sidecar shall say, in JSON values.

    Returns:
        what stands in the sidecar.

    Raises:
        ModelError: as export_model, save for a damaged bundle.
    """
    import keras

    _check_free(output)
    _check_enough(kind, len(images))
    size = int(model.input_shape[1])
    drawn = len(images) == 0
    if drawn:
        images = _draw_images(size)
    first = round(len(images) * _CALIBRATING) if kind == "litert-int8" else 0
    calibrating, checked = images[:first], images[first:]
    network = keras.Model(
        model.input, {name: model.output[name] for name in ("embedding", "scores") if name in model.output}
    )
    sidecar = output.parent / f"{output.name}.json"
    partial = output.parent / f".{output.name}.{secrets.token_hex(4)}.partial"
    try:
        partial.mkdir()
        written = partial / ("network" if kind == "saved-model" else "network.tflite")
        with _quiet():
            answers = _convert(network, kind, written, calibrating)
            check = _compare(lambda batch: network(batch, training=False), answers, checked, drawn=drawn)
        _judge(check, TOLERANCES[kind], kind)
        files = sorted(file for file in written.rglob("*") if file.is_file()) if written.is_dir() else [written]
        values = {
            **about,
            "petid": petid_search.__version__,
            "format": kind,
            "bytes": sum(file.stat().st_size for file in files),
            "sha256": {
                (file.relative_to(written).as_posix() if written.is_dir() else output.name): _digest(file)
                for file in files
            },
            "input": {
                "name": "images",
                "shape": [None if kind == "saved-model" else 1, size, size, 3],
                "dtype": "float32",
                "range": [0, 255],
                "channels": "RGB",
                "fit": FIT,
                "preprocessing": "within the network: turn the photo upright, stretch it to the square, nothing else",
            },
            "outputs": {
                name: {"shape": [None if kind == "saved-model" else 1, int(tensor.shape[-1])], "dtype": "float32"}
                for name, tensor in network.output.items()
            },
            "unit_length": "exact" if kind != "litert-int8" else "to about 1 %: divide by the length before comparing",
            "calibrating_photos": len(calibrating),
            "check": asdict(check),
            "tolerance": TOLERANCES[kind]._asdict(),
        }
        (partial / "sidecar").write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for file in (*files, partial / "sidecar"):
            sync(file)
        # The network last: where it stands, all is there.
        (partial / "sidecar").rename(sidecar)
        try:
            written.rename(output)
        except OSError:
            sidecar.unlink()
            raise
        sync(output.parent)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise ModelError(f"{shortened(output)} cannot be written ({reason}): name another --output.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return values


_Answers = Callable[[NDArray[np.float32]], Mapping[str, Any]]
"""From a batch of images, float32, (n, size, size, 3), to the outputs by name."""


def _convert(network: Any, kind: Format, written: Path, calibrating: NDArray[np.uint8]) -> _Answers:
    """Write a network into a file or folder, and return what answers as that does.

    Raises:
        ModelError: it cannot be converted.
    """
    import keras
    import tensorflow as tf

    shape = network.input_shape[1:]
    settings: dict[str, Any] = {}
    if kind != "saved-model":
        # Keras would let TensorFlow's own operations in, which no LiteRT runtime has by itself.
        settings["target_spec"] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    if kind == "litert-int8":
        settings["optimizations"] = [tf.lite.Optimize.DEFAULT]
        settings["representative_dataset"] = lambda: ([image[np.newaxis].astype(np.float32)] for image in calibrating)
    batch = None if kind == "saved-model" else 1
    try:
        network.export(
            str(written),
            format="tf_saved_model" if kind == "saved-model" else "litert",
            verbose=False,
            input_signature=[keras.InputSpec(shape=(batch, *shape), dtype="float32", name="images")],
            **settings,
        )
        if kind == "saved-model":
            loaded = tf.saved_model.load(str(written))  # whose variables its function does not keep alive
            return lambda images: loaded.serve(images)
        # Deprecated in favour of a package of its own, but what TensorFlow brings is the same interpreter.
        interpreter = tf.lite.Interpreter(str(written))
        runner = interpreter.get_signature_runner()
    except OSError:
        raise
    except Exception as error:  # of the converter's, which has no base of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelError(f"The network cannot be converted to {kind} ({reason}): take another --format.") from error

    def run(images: NDArray[np.float32]) -> Mapping[str, Any]:
        each = [{name: value[0] for name, value in runner(images=image[np.newaxis]).items()} for image in images]
        return {name: np.stack([one[name] for one in each]) for name in network.output}

    return run


def _compare(by_keras: _Answers, by_export: _Answers, images: NDArray[np.uint8], *, drawn: bool) -> Check:
    expected = _answer(by_keras, images)
    received = _answer(by_export, images)
    embeddings, others = _unit(expected["embedding"]), _unit(received["embedding"])
    cosines = np.sum(embeddings * others, axis=1)
    same = _nearest(embeddings) == _nearest(others)
    same_class = scores_apart = None
    if "scores" in expected:
        same_class = float(np.mean(expected["scores"].argmax(axis=1) == received["scores"].argmax(axis=1)))
        scores_apart = float(np.abs(expected["scores"] - received["scores"]).max())
    return Check(
        photos=len(images),
        drawn=drawn,
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        same_nearest=float(np.mean(same)),
        same_class=same_class,
        scores_apart=scores_apart,
    )


def _judge(check: Check, tolerance: Tolerance, kind: Format) -> None:
    """Raise ModelError where an export is not near enough; what is not finite never is."""
    found = f"cosine of embeddings {check.cosine_mean:.4f}, wanted {tolerance.cosine}"
    if check.same_class is not None:
        found += f"; the same class for {check.same_class:.1%}, wanted {tolerance.agreement:.0%}"
    near = check.cosine_mean >= tolerance.cosine
    if not (near and (check.same_class is None or check.same_class >= tolerance.agreement)):
        advice = (
            "take litert, or photos more like those it is for" if kind == "litert-int8" else "take another --format"
        )
        raise ModelError(f"As {kind}, the network answers otherwise than Keras ({found}): {advice}.")


def _answer(ask: _Answers, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """All answers, float64, by name, a few images at a time."""
    parts = [ask(images[first : first + _AT_ONCE].astype(np.float32)) for first in range(0, len(images), _AT_ONCE)]
    names = [name for name in ("embedding", "scores") if name in parts[0]]
    return {name: np.concatenate([np.asarray(part[name], np.float64) for part in parts]) for name in names}


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _nearest(embeddings: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64, (n,), the most similar other one."""
    similarities = embeddings @ embeddings.T
    np.fill_diagonal(similarities, -np.inf)
    return np.asarray(similarities.argmax(axis=1), np.int64)


def _draw_images(size: int) -> NDArray[np.uint8]:
    """Draw eight images of coloured patches, coarse to fine, the same ones every time."""
    generator = np.random.default_rng(0)
    sides = np.unique(np.geomspace(2, size, 8).round().astype(int))
    places = np.arange(size)
    patches = [(generator.integers(0, 256, (side, side, 3)), places * side // size) for side in sides]
    return np.stack([patch[place][:, place] for patch, place in patches]).astype(np.uint8)


def _check_free(output: Path) -> None:
    if not output.parent.is_dir():
        raise ModelError(f"There is no folder {shortened(output.parent)}: make it, or name another --output.")
    for path in (output, output.parent / f"{output.name}.json"):
        if path.exists() or path.is_symlink():
            raise ModelError(f"{shortened(path)} exists, and no file is overwritten: name another --output.")


def _check_enough(kind: Format, photos: int) -> None:
    if kind == "litert-int8" and photos < FEWEST_PHOTOS:
        raise ModelError(
            f"{kind} needs photos to set its ranges by and to be checked on: {photos} could be read, at least "
            f"{FEWEST_PHOTOS} are needed and {ENOUGH_PHOTOS} are better. Name a folder with --photos."
        )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's pages from stderr, and the advice of libraries to each other."""
    with warnings.catch_warnings(), silent_stderr():
        warnings.simplefilter("ignore")
        yield
