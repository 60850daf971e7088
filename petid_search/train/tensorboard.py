"""What TensorBoard shows of a training, written as it goes on; nothing that is there already is touched."""

import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto import event_pb2, graph_pb2, summary_pb2
from tensorboard.plugins.histogram import metadata as histogram_plugin
from tensorboard.plugins.hparams import summary_v2 as hparams_plugin
from tensorboard.plugins.image import metadata as image_plugin
from tensorboard.plugins.pr_curve import summary as pr_curve_plugin
from tensorboard.plugins.projector import EmbeddingInfo, ProjectorConfig, visualize_embeddings
from tensorboard.plugins.scalar import summary_v2 as scalar_plugin
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

if TYPE_CHECKING:
    import keras

_MOST_CURVES: Final = 20
"""Classes with a precision-recall curve of their own: those of most photos."""
_BUCKETS: Final = 30
_SPRITE_SIDE: Final = 8192
"""Pixels, the largest texture that browsers can be trusted to take."""
_VALIDATION: Final = "val_"
_ON_HELD_OUT: Final = frozenset({"rank_1", "mAP"})


class TensorBoardLog:
    """The log of one training, in a folder: the runs `train` and `validation`.

    A training that is taken up again opens a new log on the same folder. TensorBoard then forgets what the broken one
    had written of `first_epoch` and later, and shows the two as one. Use it as a context manager, or close it.

    Args:
        folder: made where there is none.
        first_epoch: the first epoch that this log will be told of.

    Raises:
        OSError: the folder cannot be written to; so do all methods.
    """

    def __init__(self, folder: Path, *, first_epoch: int = 0) -> None:
        self._folder = folder
        self._runs = {run: EventFileWriter(str(folder / run)) for run in ("train", "validation")}
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        for run in self._runs.values():
            run.add_event(event_pb2.Event(wall_time=time.time(), step=first_epoch, session_log=started))
            run.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is not written yet, and close the files."""
        for run in self._runs.values():
            run.close()

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Write an epoch's numbers as scalars, and have all that was told so far on the disk.

        What begins with `val_`, and retrieval on individuals held out, becomes a scalar of the run `validation`,
        without `val_`, so that TensorBoard draws it into the picture of its counterpart.

        Args:
            entry: of the history: `epoch`, and numbers by name; what is no number (`stage`, None) is left out.
        """
        for name, value in entry.items():
            if name == "epoch" or isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                continue
            run = "validation" if name.startswith(_VALIDATION) or name in _ON_HELD_OUT else "train"
            self._add(run, scalar_plugin.scalar_pb(name.removeprefix(_VALIDATION), value), entry["epoch"])
        for writer in self._runs.values():
            writer.flush()

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Write what the training was set to, for TensorBoard's table of runs.

        Args:
            values: numbers, booleans and text stay what they are, everything else becomes text; None is left out.
        """
        plain = {
            name: value if isinstance(value, (bool, int, float)) else _tag(str(value))
            for name, value in values.items()
            if value is not None
        }
        self._add("train", hparams_plugin.hparams_pb(plain, trial_id=self._folder.name), 0)

    def graph(self, model: "keras.Model") -> None:
        """Write a functional model's layers, and which takes what from which; a model within it is one node."""
        # TensorBoard 2.21 draws Keras's JSON only of models with neither named outputs nor numbers among the inputs.
        drawn = graph_pb2.GraphDef()
        for layer in json.loads(model.to_json())["config"]["layers"]:
            inputs = dict.fromkeys(_inputs(layer["inbound_nodes"]))
            drawn.node.add(name=layer["name"], op=layer["class_name"], input=inputs)
        self._runs["train"].add_event(event_pb2.Event(wall_time=time.time(), graph_def=drawn.SerializeToString()))

    def weights(self, model: "keras.Model", epoch: int) -> None:
        """Write a histogram of each of the model's trainable weights; what is not finite in them is left out."""
        metadata = histogram_plugin.create_summary_metadata(display_name=None, description=None)
        for variable in model.trainable_variables:
            # Not by the plugin's own function, which takes 240 bytes a weight.
            values = np.asarray(variable, np.float64).ravel()
            counts, edges = np.histogram(values[np.isfinite(values)], _BUCKETS)
            buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
            self._add_tensor("train", f"weights/{variable.path}", buckets, metadata, epoch)

    def precision_recall(
        self, labels: NDArray[np.integer[Any]], scores: NDArray[np.floating[Any]], names: Sequence[str], epoch: int
    ) -> None:
        """Write precision-recall curves: of all classes together, each score a decision of its own, and of the largest.

        Args:
            labels: int, (n,), class numbers, in [0, classes).
            scores: float, (n, classes), softmax outputs, in [0, 1].
            names: of the classes; the 20 of most photos have curves of their own, under `class/NAME`.
            epoch: after which they were measured.

        Source: micro-averaging, Sokolova and Lapalme, "A systematic analysis of performance measures for classification
        tasks", 2009, table 3; thresholds 0, 0.005 … 1.
        """
        support = np.bincount(labels, minlength=len(names))
        largest = [place for place in np.argsort(-support, kind="stable")[:_MOST_CURVES] if support[place]]
        is_class = labels[:, np.newaxis] == np.arange(len(names))
        curves = {"all classes (micro)": (is_class.ravel(), scores.ravel())}
        curves |= {f"class/{_tag(names[place])}": (is_class[:, place], scores[:, place]) for place in largest}
        for tag, (right, score) in curves.items():
            summary = pr_curve_plugin.pb(tag, right, score)
            self._add("validation", summary_pb2.Summary.FromString(summary.SerializeToString()), epoch)

    def image(self, name: str, picture: NDArray[np.uint8] | bytes, epoch: int, *, run: str = "train") -> None:
        """Write a picture.

        Args:
            name: under which it stands; pictures of one name become a series.
            picture: RGB, uint8, (height, width, 3), or a PNG file.
            epoch: to which it belongs.
            run: `train` or `validation`.
        """
        png = picture if isinstance(picture, bytes) else _to_png(Image.fromarray(picture))
        width, height = Image.open(io.BytesIO(png)).size
        content = np.array([str(width).encode(), str(height).encode(), png], object)
        metadata = image_plugin.create_summary_metadata(display_name=None, description=None)
        self._add_tensor(run, name, content, metadata, epoch)

    def embeddings(
        self,
        embeddings: NDArray[np.floating[Any]],
        labels: Sequence[str],
        thumbnails: NDArray[np.uint8] | None = None,
    ) -> None:
        """Write embeddings for TensorBoard's projector, in place of those there were.

        Args:
            embeddings: float, (n, d).
            labels: (n,), whom each shows.
            thumbnails: RGB, uint8, (n, height, width, 3), shown in place of dots. As many as fit into a picture of 8192
                pixels a side are taken: 16,384 of 64 pixels; with more photos there are dots.

        Raises:
            ValueError: shapes do not fit.
        """
        if embeddings.ndim != 2 or len(labels) != len(embeddings):
            raise ValueError(
                f"Expected embeddings (n, d) and a label each. Received: {embeddings.shape}, {len(labels)} labels."
            )
        folder = self._folder / "validation"
        np.savetxt(folder / "embeddings.tsv", embeddings, fmt="%.6g", delimiter="\t")
        # Of a single column without a title; one line a photo, whatever stands in a name.
        lines = [" ".join(_tag(label).split()) or "-" for label in labels]
        (folder / "labels.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        config = ProjectorConfig()
        info = EmbeddingInfo(
            tensor_name="embeddings",
            tensor_path="embeddings.tsv",
            tensor_shape=embeddings.shape,
            metadata_path="labels.tsv",
        )
        if thumbnails is not None and (sprite := _sprite(thumbnails)) is not None:
            (folder / "thumbnails.png").write_bytes(_to_png(sprite))
            info.sprite.image_path = "thumbnails.png"
            info.sprite.single_image_dim.extend([thumbnails.shape[2], thumbnails.shape[1]])
        config.embeddings.append(info)
        visualize_embeddings(str(folder), config)

    def _add_tensor(self, run: str, tag: str, values: NDArray[Any], metadata: Any, step: int) -> None:
        summary = summary_pb2.Summary()
        summary.value.add(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(values))
        self._add(run, summary, step)

    def _add(self, run: str, summary: Any, step: int) -> None:
        self._runs[run].add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))


def _inputs(inbound: Any) -> Iterator[str]:
    """Names of the layers whose tensors stand anywhere in a layer's `inbound_nodes`, as Keras 3 writes them."""
    if isinstance(inbound, dict):
        if "keras_history" in inbound:
            yield inbound["keras_history"][0]
        inbound = list(inbound.values())
    if isinstance(inbound, list):
        for part in inbound:
            yield from _inputs(part)


def _sprite(thumbnails: NDArray[np.uint8]) -> Image.Image | None:
    """Thumbnails side by side in as many rows as columns, row by row; None where they are too many."""
    count, height, width, _ = thumbnails.shape
    side = math.isqrt(max(count - 1, 0)) + 1
    if side * max(height, width) > _SPRITE_SIDE:
        return None
    sheet = np.zeros((side * side, height, width, 3), np.uint8)
    sheet[:count] = thumbnails
    tiled = sheet.reshape(side, side, height, width, 3).swapaxes(1, 2).reshape(side * height, side * width, 3)
    return Image.fromarray(tiled)


def _to_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _tag(name: str) -> str:
    """A name as protocol buffers take it: what is no Unicode, as names of folders may hold it, written in ASCII."""
    return name.encode("utf-8", "backslashreplace").decode()
