"""A model on disk: a folder with a card, the weights, the network as ONNX, and the hash of each.

`card.json` says what the model is; `embed.onnx` embeds and classifies, without TensorFlow; `weights.weights.h5` is what
training starts from, and what explaining takes the projection from; `split.csv.gz` says which photos a trained model
was trained on. Opening a bundle runs no code from it and unpickles nothing.
"""

import contextlib
import datetime
import gzip
import hashlib
import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

import petid_search
from petid_search.disk import sync
from petid_search.errors import ModelError, RecipeError
from petid_search.models.architecture import Head
from petid_search.models.backbones import create_backbone
from petid_search.models.half import halve_keras_file, halve_onnx, rounded

if TYPE_CHECKING:
    import keras

CARD: Final = "card.json"
WEIGHTS: Final = "weights.weights.h5"
ONNX: Final = "embed.onnx"
SPLIT: Final = "split.csv.gz"

SHIPPED: Final = Path(__file__).with_name("shipped")
"""The folder of the models that come with petid, a bundle each."""

FORMAT: Final = 5
"""Version of the bundle's layout; a petid that does not know it refuses the bundle. Formats 1 to 4 are read as
well, but for models of format 4 that keep features: those had no share of their own. Heads of formats 1 to 3 kept
nothing and mirrored nothing. Formats 1 and 2 lacked `purpose` and `limits`, and had the projection a
second time, in `head.npz`. Format 1 knew no classifiers and had `pooling` and `projection` in place of `head`, and no
`recipe`."""

_ONCE_KEPT: Final = "head.npz"
_ONCE_SPLIT: Final = "split.csv"
"""As formats 1 to 3 had it."""

_LEAST_COSINE: Final = 0.9999
"""Between an embedding by Keras and the same by ONNX Runtime; float32 alone costs about 1e-6."""

_LARGEST_DIFFERENCE: Final = 1e-4
"""Between a score by Keras and the same by ONNX Runtime."""

_LARGEST_DIFFERENCE_OF_HALF: Final = 1e-2
"""The same in 16 bits: ONNX's kernels have normalisation in them and are rounded otherwise; up to 5e-4 was seen."""

_REPORT: Final = "please report this with the versions of keras, tf2onnx and onnxruntime"

_STALE: Final = 24 * 3600
"""Seconds after which the unfinished folder of a writer that died is cleared away by the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model is.

    Attributes:
        name: what `--model` takes.
        backbone: the registry's name of its network.
        input_size: side of the square image it takes, in pixels.
        fit: how a photo is brought to that square.
        head: what stands on the backbone.
        dimension: numbers of an embedding, d.
        classes: the individuals whom its classifier knows, in the order of its scores; empty without one.
        purpose: what it is for; empty where nobody said.
        limits: what it is not for; empty where nobody said.
        origin: where the weights came from.
        licence: of the weights.
        data: what the weights were trained on, and whose that is.
        created: the day it was made, as in 2026-01-31.
        metrics: results on a split, by name.
        calibration: from similarities to probabilities, or None.
        recipe: what it was trained with, or None where petid did not train it.
        files: sha256 of every other file, by name.
        petid: the version that wrote it.
        fingerprint: sha256 over what determines the embeddings; two models of one fingerprint embed alike.
        seal: sha256 over everything else here.
    """

    name: str
    backbone: str
    input_size: int
    fit: str
    head: Head
    dimension: int
    classes: tuple[str, ...]
    purpose: str
    limits: str
    origin: str
    licence: str
    data: str
    created: str
    metrics: dict[str, Any]
    calibration: dict[str, Any] | None
    recipe: dict[str, Any] | None
    files: dict[str, str]
    petid: str
    fingerprint: str
    seal: str


_FIELDS: Final[dict[str, tuple[type, ...]]] = {
    "name": (str,),
    "backbone": (str,),
    "input_size": (int,),
    "fit": (str,),
    "head": (dict,),
    "dimension": (int,),
    "classes": (list,),
    "purpose": (str,),
    "limits": (str,),
    "origin": (str,),
    "licence": (str,),
    "data": (str,),
    "created": (str,),
    "metrics": (dict,),
    "calibration": (dict, type(None)),
    "recipe": (dict, type(None)),
    "files": (dict,),
    "petid": (str,),
    "fingerprint": (str,),
    "seal": (str,),
    "format": (int,),
}
_FIELDS_2: Final = {key: kinds for key, kinds in _FIELDS.items() if key not in ("purpose", "limits")}
_FIELDS_1: Final[dict[str, tuple[type, ...]]] = {
    **{key: kinds for key, kinds in _FIELDS_2.items() if key not in ("head", "recipe")},
    "pooling": (str,),
    "projection": (int, type(None)),
}
_OTHER_FILES: Final = {
    1: {_ONCE_SPLIT, _ONCE_KEPT},
    2: {_ONCE_SPLIT, _ONCE_KEPT},
    3: {_ONCE_SPLIT},
    4: {SPLIT},
    FORMAT: {SPLIT},
}
"""What a bundle may hold beside the card, the weights and the network."""
_FIELDS_OF: Final = {1: _FIELDS_1, 2: _FIELDS_2, 3: _FIELDS, 4: _FIELDS, FORMAT: _FIELDS}


@dataclass(frozen=True)
class Bundle:
    """A model in a folder, its card read and found whole; the other files are checked as they are used."""

    folder: Path
    card: Card
    _verified: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read and check the card of a bundle.

        Raises:
            ModelError: there is no bundle, it is of a format that this petid does not know, or it is damaged.
        """
        file = folder / CARD
        try:
            written = file.read_bytes()
        except FileNotFoundError:
            if folder.is_dir():
                raise _damaged(file, "it is missing") from None
            raise ModelError(f"There is no model in {folder}: add one with `petid models add`.") from None
        except OSError as error:
            raise _unreadable(file, error) from error
        try:
            values = json.loads(written, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise _damaged(file, "it is not JSON") from error
        version = values.get("format") if isinstance(values, dict) else None
        if isinstance(version, int) and version not in _FIELDS_OF:
            raise ModelError(
                f"{file} is of format {version}, this petid reads formats 1 to {FORMAT}: "
                "update petid, or add the model again with this one."
            )
        if _serialise(values) != written:  # a space for a tab would pass the seal
            raise _damaged(file, "it was changed")
        return cls(folder, _read_card(values, file))

    @property
    def is_shipped(self) -> bool:
        """Whether it comes with petid."""
        return self.folder.parent == SHIPPED

    @property
    def remedy(self) -> str:
        """What to do where a bundle is of no use, as a message ends."""
        return _remedy(self.folder)

    def split(self) -> str | None:
        """The split that the model was trained on, as CSV; None where the bundle has none.

        Raises:
            ModelError: it is missing, unreadable or changed.
        """
        if SPLIT in self.card.files:
            written = gzip.decompress(self.file(SPLIT).read_bytes())
        elif _ONCE_SPLIT in self.card.files:
            written = self.file(_ONCE_SPLIT).read_bytes()
        else:
            return None
        return written.decode("utf-8", "surrogateescape")

    def file(self, name: str) -> Path:
        """Return the path of one of the bundle's files, proved by its hash the first time that it is asked for.

        Raises:
            ModelError: the bundle has no such file, or it is missing, unreadable or changed.
        """
        path = self.folder / name
        if name in self._verified:
            return path
        if name not in self.card.files:
            raise ModelError(f"Model {self.card.name!r} has no file {name!r}; it has {', '.join(self.card.files)}.")
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            raise _damaged(path, "it is missing") from None
        except OSError as error:
            raise _unreadable(path, error) from error
        if digest != self.card.files[name]:
            raise _damaged(path, "it was changed")
        self._verified.add(name)
        return path


def write_bundle(
    model: "keras.Model",
    folder: Path,
    *,
    name: str,
    backbone: str,
    head: Head,
    fit: str,
    origin: str,
    licence: str,
    data: str,
    classes: Sequence[str] = (),
    purpose: str = "",
    limits: str = "",
    half: bool = False,
    metrics: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    split: Path | None = None,
) -> Bundle:
    """Export a model and write it as a bundle: whole under its name, or not at all.

    The embeddings and scores of the exported network are compared with Keras's on pseudo-random images first.

    Args:
        model: from heads.create_model, on the backbone named.
        folder: the bundle's folder; it must not exist, its parent is created.
        name: of the model.
        backbone: the registry's name of the network, from which load_keras builds it again.
        head: what the model was made with.
        fit: how a photo is brought to the square input (images.FIT).
        origin: where the weights came from.
        licence: of the weights.
        data: what they were trained on.
        classes: the individuals whom its classifier knows, in the order of its scores: any text, none twice.
        purpose: what it is for.
        limits: what it is not for.
        half: store the weights in 16 bits; the model's own are rounded to half precision (see half.rounded).
        metrics: results on a split, by name; JSON values.
        calibration: from similarities to probabilities; JSON values.
        recipe: what it was trained with; JSON values.
        split: the file of the split that it was trained on, which is copied.

    Raises:
        ModelError: the folder exists, the disk is full or may not be written, the classes are not those of the
            classifier, the network answers with numbers that are not finite or with nothing, or ONNX Runtime
            answers otherwise than Keras.
    """
    _check_classes(model, classes)
    if folder.exists():
        raise ModelError(f"{folder} exists: choose another name, or remove that model first.")
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_stale(folder.parent)
        partial.mkdir()
        if half:
            model.set_weights(rounded(model.get_weights()))
        model.save_weights(partial / WEIGHTS)
        if half:
            halve_keras_file(partial / WEIGHTS)
        _export(model, partial / ONNX, half=half)
        if split is not None:
            (partial / SPLIT).write_bytes(gzip.compress(split.read_bytes(), mtime=0))
        files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(partial.iterdir())}
        values = {
            "format": FORMAT,
            "name": name,
            "backbone": backbone,
            "input_size": int(model.input_shape[1]),
            "fit": fit,
            "head": head.to_json(),
            "dimension": int(model.output["embedding"].shape[-1]),
            "classes": list(classes),
            "purpose": purpose,
            "limits": limits,
            "origin": origin,
            "licence": licence,
            "data": data,
            "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "metrics": dict(metrics or {}),
            "calibration": None if calibration is None else dict(calibration),
            "recipe": None if recipe is None else dict(recipe),
            "files": files,
            "petid": petid_search.__version__,
        }
        values["fingerprint"] = _fingerprint(values)
        values["seal"] = _seal(values)
        (partial / CARD).write_bytes(_serialise(values))
        _compare(model, Bundle.open(partial), _LARGEST_DIFFERENCE_OF_HALF if half else _LARGEST_DIFFERENCE)
        for file in (*partial.iterdir(), partial):
            sync(file)
        partial.rename(folder)
        sync(folder.parent)
    except OSError as error:
        if folder.exists():
            raise ModelError(f"{folder} exists: choose another name, or remove that model first.") from error
        # What HDF5 says of a full disk is a paragraph; the system's own word for it is enough.
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise ModelError(f"The model cannot be written to {folder} ({reason}): make room or choose another.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle.open(folder)


def load_keras(bundle: Bundle, *, size: int | None = None) -> "keras.Model":
    """Build the bundle's network again and give it its weights, for explaining or training on.

    Args:
        bundle: the model.
        size: side of the square input, in pixels; by default the model's own.

    Returns:
        The model as heads.create_model makes it, with outputs `embedding`, `features` and, with a classifier, `scores`.

    Raises:
        ModelError: the weights are damaged, or not those of the network that the card names.
    """
    card = bundle.card
    file = bundle.file(WEIGHTS)
    backbone = create_backbone(card.backbone, size=size or card.input_size)
    from petid_search.models.heads import create_model

    model = create_model(backbone, card.head, len(card.classes))
    try:
        model.load_weights(file)
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"{file} does not fit {card.backbone}: {bundle.remedy}.") from error
    return model


def _damaged(file: Path, what: str) -> ModelError:
    return ModelError(f"{file} is damaged ({what}): {_remedy(file.parent)}.")


def _remedy(folder: Path) -> str:
    if folder.parent == SHIPPED:
        return "it comes with petid, so install petid again"
    return f"run `petid models remove {folder.name}` and add the model again"


def _unreadable(file: Path, error: OSError) -> ModelError:
    return ModelError(f"{file} cannot be read ({error.strerror}): check the rights to it and the disk.")


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _serialise(values: object) -> bytes:
    """Write a card as it stands in its file; what is read must be exactly this again."""
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(
        errors="surrogatepass"  # a class may have the name of a folder whose name is not UTF-8
    )


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _fingerprint(values: Mapping[str, Any]) -> str:
    """Hash what determines an embedding: the network with its weights, and how a photo is brought to it."""
    made_by = {"onnx": values["files"][ONNX], "input_size": values["input_size"], "fit": values["fit"]}
    return hashlib.sha256(_canonical(made_by)).hexdigest()


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({key: value for key, value in values.items() if key != "seal"})).hexdigest()


def _read_card(values: Any, file: Path) -> Card:
    """Turn a card's JSON into a Card, every field of its kind, the seal and the fingerprint right."""
    version = values.get("format") if isinstance(values, dict) else None
    fields = _FIELDS_OF[version] if isinstance(version, int) else _FIELDS
    if not isinstance(values, dict) or values.keys() != fields.keys():
        raise _damaged(file, "its fields are not those of a card")
    for key, kinds in fields.items():
        if not isinstance(values[key], kinds) or isinstance(values[key], bool):
            raise _damaged(file, f"its {key} is of the wrong kind")
    if values["seal"] != _seal(values):
        raise _damaged(file, "it was changed")
    values = _as_of_today(values)
    if values["format"] == 4 and values["head"].get("kept"):
        raise ModelError(
            f"{file} is of format 4 and keeps features, which now have a share of their own: train it again."
        )
    try:
        head = Head.from_json(values["head"])
    except RecipeError as error:
        raise _damaged(file, "it describes no model") from error
    classes = tuple(values["classes"])
    dimension = values["dimension"]
    is_sized = min(values["input_size"], dimension) >= 1 and head.numbers in (None, dimension)
    if not is_sized or not _fit_head(classes, head):
        raise _damaged(file, "it describes no model")
    files = values["files"]
    named = files.keys() - _OTHER_FILES[values["format"]]
    if named != {WEIGHTS, ONNX} or not all(re.fullmatch("[0-9a-f]{64}", str(one)) for one in files.values()):
        raise _damaged(file, "it does not name the bundle's files")
    if values["fingerprint"] != _fingerprint(values):
        raise _damaged(file, "its fingerprint is wrong")
    rest = {key: value for key, value in values.items() if key != "format"}
    return Card(**{**rest, "head": head, "classes": classes})


def _as_of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """A card of any format with the fields of the present one."""
    today = {"purpose": "", "limits": "", **values}
    if values["format"] == 1:
        today["head"] = {"pooling": today.pop("pooling"), "projection": today.pop("projection"), "classifier": None}
        today |= {"recipe": None, "classes": []}  # named, but without scores: there was no classifier
    if values["format"] < 4:
        today["head"] = {"kept": None, "mirror": False, **today["head"]}
    return today


def _fit_head(classes: tuple[Any, ...], head: Head) -> bool:
    are_names = all(isinstance(name, str) and name for name in classes) and len(set(classes)) == len(classes)
    return are_names and bool(classes) == (head.classifier is not None)


def _check_classes(model: Any, classes: Sequence[str]) -> None:
    """Refuse names that are not those of the classifier's outputs."""
    outputs = int(model.output["scores"].shape[-1]) if "scores" in model.output else 0
    if len(classes) != outputs:
        raise ModelError(f"The classifier has {outputs} outputs and {len(classes)} classes: name each output's class.")
    if not all(classes):
        raise ModelError("A class has no name: give each one.")
    for name, times in Counter(classes).items():
        if times > 1:
            raise ModelError(f"{times} classes are called {name!r}: give each a name of its own.")


def _export(model: Any, file: Path, *, half: bool = False) -> None:
    """Write a model as ONNX, in the same bytes whenever its weights are the same."""
    import onnx

    model(np.zeros((1, *model.input_shape[1:]), np.float32), training=False)
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")  # of NumPy's future, from Keras's repairs to tf2onnx
        model.export(file, format="onnx", verbose=False)
    exported = onnx.load(file)
    _name_in_order(exported.graph)
    if half:
        halve_onnx(exported.graph)
    file.write_bytes(exported.SerializeToString(deterministic=True))


def _name_in_order(graph: Any) -> None:
    """Give nodes and tensors of an ONNX graph names that depend on nothing but their order.

    tf2onnx numbers them through the life of a process. With names of its own, a model that is removed and
    added again has the fingerprint that it had, and the gallery's embeddings remain good.
    """
    images = graph.input[0]
    names = {images.name: "images", **{output.name: output.name for output in graph.output}}
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        node.doc_string = ""
        for tensor in (*node.input, *node.output):
            if tensor:  # an input left out is an empty string
                names.setdefault(tensor, f"tensor_{len(names)}")
        node.input[:] = [names.get(tensor, "") for tensor in node.input]
        node.output[:] = [names.get(tensor, "") for tensor in node.output]
    images.name = "images"
    for value in (images, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    graph.initializer.sort(key=lambda tensor: tensor.name)
    del graph.value_info[:]
    graph.name = "embed"
    graph.doc_string = ""


def _compare(model: Any, bundle: Bundle, largest: float) -> None:
    """Prove that ONNX Runtime embeds and classifies as Keras does, one image at a time and several.

    Raises:
        ModelError: it does not, or the network answers with what is no embedding at all.
    """
    from petid_search.models.runtime import Embedder  # which reads bundles; only this proof needs it here

    images = _pseudo_random_images(bundle.card.input_size)
    answers = model(images, training=False)
    by_keras: NDArray[np.float32] = np.asarray(answers["embedding"])
    maps_by_keras: NDArray[np.float32] = np.asarray(answers["features"])
    if not np.allclose(np.linalg.norm(by_keras, axis=1), 1, atol=1e-3):
        raise ModelError(
            f"The weights of {bundle.card.name!r} give no embedding for an image of noise: are they the right ones?"
        )
    embedder = Embedder(bundle)
    by_onnx, maps_by_onnx = embedder.features(images)
    alone = embedder.embed(images[:1])
    cosine = float(np.min(np.sum(by_keras * by_onnx, axis=1)))
    scale = float(np.abs(maps_by_keras).max())
    # Untrained networks answer much alike to everything, so cosines by themselves would prove little.
    difference = float(np.abs(maps_by_keras - maps_by_onnx).max()) / scale
    if cosine < _LEAST_COSINE or float(np.sum(alone * by_keras[:1])) < _LEAST_COSINE or difference > 1e-2:
        raise ModelError(
            f"ONNX Runtime embeds otherwise than Keras (cosine {cosine:.5f}, features apart by {difference:.1e}): "
            f"{_REPORT}."
        )
    if not embedder.classes:
        return
    apart = float(np.abs(np.asarray(answers["scores"]) - embedder.scores(images)).max())
    if not apart <= largest:  # which NaN is not
        raise ModelError(f"ONNX Runtime classifies otherwise than Keras (scores apart by {apart:.1e}): {_REPORT}.")


def _pseudo_random_images(size: int) -> NDArray[np.float32]:
    """Draw four images of coloured patches, fine to coarse, the same ones every time."""
    generator = np.random.default_rng(0)
    patches = [generator.uniform(0, 255, (-(-size // side), -(-size // side), 3)) for side in (1, 4, 16, 64)]
    images = [
        patch.repeat(side, axis=0).repeat(side, axis=1)[:size, :size]
        for patch, side in zip(patches, (1, 4, 16, 64), strict=True)
    ]
    return np.stack(images).astype(np.float32)


def _clear_stale(parent: Path) -> None:
    """Remove what writers that died have left; a living one is done long before the limit."""
    for left in parent.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left)
