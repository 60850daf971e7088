"""Images become embeddings here, by ONNX Runtime: no TensorFlow, and nothing loaded before it is needed."""

import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.cores import usable_cores
from petid_search.errors import ModelError
from petid_search.images import FIT
from petid_search.models.bundle import ONNX, WEIGHTS, Bundle
from petid_search.models.linear_head import LinearHead

if TYPE_CHECKING:
    import onnxruntime

_CPU: Final = "CPUExecutionProvider"
_AT_ONCE: Final = 2
"""Images that one thread takes through the network together: more would not fit in the processor's caches.

Two cores, each with a thread of its own, images a second at 1, 2, 4 and 8 at once: MobileNetV2 327, 314, 296, 279;
ResNet50 28, 32, 30, 35."""


class Embedder:
    """Embeds images with the model of a bundle. Any number of threads may call it at once.

    Attributes:
        bundle: the model on disk.
        name: of the model.
        fingerprint: of what makes its embeddings.
        dimension: numbers of an embedding, d.
        input_size: side of the square images it takes, in pixels.
        pooling: `avg`, `max` or `gem`, from feature map to vector.
        classes: whom its classifier knows, in the order of the scores; empty without a classifier.

    Args:
        bundle: the model; nothing of it but the card is read before the first image.
        threads: how many threads one call may use; by default as many as this process may run on. Several
            Python threads that call with one thread each embed more images a second than one with several.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        if bundle.card.fit != FIT:
            raise ModelError(
                f"Model {bundle.card.name!r} wants photos brought to its input by {bundle.card.fit!r}, "
                f"which this petid does not know (only {FIT!r}): install a newer one."
            )
        self.name = bundle.card.name
        self.fingerprint = bundle.card.fingerprint
        self.dimension = bundle.card.dimension
        self.input_size = bundle.card.input_size
        self.classes = bundle.card.classes
        self.bundle = bundle
        self._threads = threads
        self._session: onnxruntime.InferenceSession | None = None
        self._opening = threading.Lock()

    def embed(self, images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed a batch of images; memory grows with the batch.

        Args:
            images: RGB, uint8 or float32, (n, input_size, input_size, 3), in [0, 255]; n may be 0.

        Returns:
            Embeddings, float32, (n, d), of unit length.

        Raises:
            ValueError: the images are of another shape or kind.
            ModelError: the bundle is damaged, or the network answered with numbers that are not finite.
        """
        return self._run_in_parts(["embedding"], images)[0]

    def scores(self, images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Score a batch of images for every class of the classifier.

        Args:
            images: as for embed.

        Returns:
            Scores, float32, (n, classes), in [0, 1], in the order of `classes`.

        Raises:
            ValueError: the images are of another shape or kind.
            ModelError: the model has no classifier, the bundle is damaged, or the network answered with numbers that
                are not finite.
        """
        self.require_classifier()
        return self._run_in_parts(["scores"], images)[0]

    def require_classifier(self) -> None:
        """Refuse a model that has no classifier.

        Raises:
            ModelError: it has none.
        """
        if not self.classes:
            raise ModelError(f"Model {self.name!r} has no classifier: train one that has with `petid train FOLDER`.")

    def embed_and_score(
        self, images: NDArray[np.uint8] | NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embed a batch of images and score it, in one run of the network.

        Args:
            images: as for embed.

        Returns:
            Embeddings, float32, (n, d), of unit length; and scores, float32, (n, classes), in [0, 1], where classes
            is 0 for a model without a classifier.

        Raises:
            ValueError: the images are of another shape or kind.
            ModelError: the bundle is damaged, or the network answered with numbers that are not finite.
        """
        if not self.classes:
            return self.embed(images), np.empty((len(images), 0), np.float32)
        embeddings, scores = self._run_in_parts(["embedding", "scores"], images)
        return embeddings, scores

    def features(
        self, images: NDArray[np.uint8] | NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embed a batch of images, and return what the embeddings were pooled from as well.

        Args:
            images: as for embed.

        Returns:
            Embeddings, float32, (n, d), of unit length; and feature maps, float32, (n, h, w, c).

        Raises:
            ValueError: the images are of another shape or kind.
            ModelError: the bundle is damaged, or the network answered with numbers that are not finite.
        """
        embeddings, maps = self._run(["embedding", "features"], images)
        return embeddings, maps

    def everything(
        self, images: NDArray[np.uint8] | NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Embed a batch of images and score it, and return what both were pooled from.

        Args:
            images: as for embed.

        Returns:
            Embeddings, float32, (n, d), of unit length; feature maps, float32, (n, h, w, c); and scores, float32,
            (n, classes), in [0, 1].

        Raises:
            ValueError: the images are of another shape or kind.
            ModelError: the model has no classifier, the bundle is damaged, or the network answered with numbers that
                are not finite.
        """
        self.require_classifier()
        embeddings, maps, scores = self._run(["embedding", "features", "scores"], images)
        return embeddings, maps, scores

    def head(self) -> LinearHead:
        """Return what leads from a feature map to an embedding before it is brought to unit length.

        Raises:
            ModelError: the bundle is damaged.
        """
        head = self.bundle.card.head
        if head.projection is None:
            return LinearHead(head.pooling)
        import h5py

        with h5py.File(self.bundle.file(WEIGHTS)) as weights:
            # Keras calls a layer's group by its class and number; its name stands on it.
            groups = [layer["vars"] for layer in weights["layers"].values() if "vars" in layer]

            def of(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
                found = next(group for group in groups if group.attrs.get("name") == name)
                return found["0"][()].astype(np.float32), found["1"][()].astype(np.float32)

            kernel, bias = of("projection")
            if head.kept is None:
                return LinearHead(head.pooling, kernel, bias)
            beside, beside_bias = of("kept_projection")
        whole = np.zeros((len(kernel) + len(beside), len(bias) + len(beside_bias)), np.float32)
        whole[: len(kernel), : len(bias)], whole[len(kernel) :, len(bias) :] = kernel, beside
        return LinearHead(head.pooling, whole, np.concatenate([bias, beside_bias]), head.kept)

    def _run_in_parts(
        self, outputs: list[str], images: NDArray[np.uint8] | NDArray[np.float32]
    ) -> list[NDArray[np.float32]]:
        """As _run, only a few images at once where that is faster."""
        if self._threads == 1 and len(images) > _AT_ONCE and self._open().get_providers()[0] == _CPU:
            parts = [images[first : first + _AT_ONCE] for first in range(0, len(images), _AT_ONCE)]
            return [
                np.concatenate(arrays) for arrays in zip(*(self._run(outputs, part) for part in parts), strict=True)
            ]
        return self._run(outputs, images)

    def _run(self, outputs: list[str], images: NDArray[np.uint8] | NDArray[np.float32]) -> list[NDArray[np.float32]]:
        expected = (self.input_size, self.input_size, 3)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"Expected images of shape (n, {', '.join(map(str, expected))}). Received: {images.shape}."
            )
        if images.dtype not in (np.uint8, np.float32):
            raise ValueError(f"Expected images of uint8 or float32. Received: {images.dtype}.")
        answers: list[NDArray[np.float32]] = self._open().run(
            outputs, {"images": images.astype(np.float32, copy=False)}
        )
        if not all(np.isfinite(answer).all() for answer in answers):
            raise ModelError(
                f"Model {self.name!r} answered with numbers that are not finite: are the images in [0, 255]? "
                f"If so, {self.bundle.remedy}."
            )
        return answers

    def _open(self) -> Any:
        """Return the session, opened once, whichever thread comes first."""
        if self._session is None:
            with self._opening:
                if self._session is None:
                    self._session = self._open_session()
        return self._session

    def _open_session(self) -> Any:
        try:
            import onnxruntime
        except ImportError:
            raise ModelError(
                "ONNX Runtime is not installed: pip install 'petid-search[cpu]' (or [gpu], never both)."
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or usable_cores()
        options.log_severity_level = 3
        providers: list[Any] = [_CPU]
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            # The same embeddings on every machine are worth more than the speed of TensorFloat-32.
            providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
        # From bytes whose hash was proved, which cannot bring other files along: a path could, as external data.
        network = self.bundle.file(ONNX).read_bytes()
        try:
            return onnxruntime.InferenceSession(network, options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            reason = str(error).splitlines()[0]
            raise ModelError(f"Model {self.name!r} cannot be opened ({reason}): {self.bundle.remedy}.") from error
