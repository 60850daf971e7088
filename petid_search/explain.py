"""Why these two: which regions of the probe, and of the candidate's photo, made them alike; as one picture.

What is explained is the inner product of an image's embedding with the other's, which is held fixed, as is the length
by which the embedding is scaled. Where pooling and a linear map lead from the feature map to the embedding, Grad-CAM's
weights are then known in closed form, and no TensorFlow is needed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from petid_search.embed import Unreadable
from petid_search.errors import GalleryError
from petid_search.identify import Candidate, Identification, compare, identify
from petid_search.images import decode, read_photo
from petid_search.index.gallery import Gallery
from petid_search.models.architecture import GEM_POWER, GEM_SMALLEST
from petid_search.models.runtime import Embedder

_TILE: Final = 300
_GAP: Final = 12
_LINE: Final = 26
_VIRIDIS: Final = np.array(
    (
        *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
        *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
    ),
    dtype=np.float64,
)
"""Nine steps of viridis (van der Walt and Smith 2015, CC0): readable with every kind of colour vision."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A probe's identification and, for each candidate explained, where the similarity comes from.

    Attributes:
        identification: the answer for the probe.
        candidates: those explained: the best, the runner-up, and the one asked for.
        on_probe: for each of them a map on the probe, float32, (h, w), in shares of the similarity, not negative.
        on_candidate: likewise on the candidate's photo.
    """

    identification: Identification
    candidates: tuple[Candidate, ...]
    on_probe: tuple[NDArray[np.float32], ...]
    on_candidate: tuple[NDArray[np.float32], ...]


def explain(
    photo: Path, gallery: Gallery, embedder: Embedder, *, against: str | None = None, fpir: float = 0.01
) -> Explanation:
    """Identify a photo and show why the best candidate was preferred to the runner-up.

    Args:
        photo: the probe.
        gallery: who is known.
        embedder: the gallery's model.
        against: an individual to compare with in place of the runner-up.
        fpir: false positive identification rate of the decision, in (0, 1).

    Raises:
        PhotoError: the probe or a candidate's photo cannot be read.
        GalleryError: nothing is enrolled, or nobody of that name.
        ModelMismatch: the gallery holds embeddings of another model.
    """
    answer = next(identify([photo], gallery, embedder, top=2, fpir=fpir))
    if isinstance(answer, Unreadable):
        raise answer.error
    image = decode(read_photo(photo), embedder.input_size)
    candidates = answer.candidates
    if against is not None:
        vectors, scores = embedder.embed_and_score(image[None])
        asked = compare(vectors[0], against, gallery, embedder, scores=scores[0], fpir=fpir)
        candidates = (*(one for one in candidates[:1] if one.individual != asked.individual), asked)
    if not candidates:
        raise GalleryError(f"Nobody is enrolled in {gallery.folder} whom the photo could be compared with.")
    images = [image, *(decode(read_photo(one.file), embedder.input_size) for one in candidates)]
    embeddings, features = embedder.features(np.stack(images))
    head = embedder.head()
    return Explanation(
        answer,
        candidates,
        tuple(grad_cam(features[0], other, head, embedder.pooling) for other in embeddings[1:]),
        tuple(grad_cam(one, embeddings[0], head, embedder.pooling) for one in features[1:]),
    )


def grad_cam(
    features: NDArray[np.float32],
    other: NDArray[np.float32],
    head: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    pooling: str,
) -> NDArray[np.float32]:
    """Grad-CAM, on a feature map, of the similarity of its embedding to another.

    With p the pooled feature map, projected where there is a head, and e the other embedding, what is explained is
    ⟨p, e⟩/|p| with |p| held fixed, just as a class is explained by its score before the softmax: through the scaling,
    the gradient would vanish where two photos are most alike. Its mean over the places of the feature map, which is
    Grad-CAM's weight of a channel, is Ke/(hw|p|), for average and for maximum pooling. Where the generalised mean pools
    a channel f to (mean f^q)^(1/q), that is multiplied by (mean f^(q-1))/pooled^(q-1), over the places that are not
    cut off. With average pooling and no bias the map adds up to the similarity before its negative part is cut off.

    Args:
        features: float32, (h, w, c).
        other: float32, (d,), unit length.
        head: kernel K, (c, d), and bias, (d,), of the projection; None where p is the pooled feature map itself.
        pooling: `avg`, `max` or `gem`.

    Returns:
        float32, (h, w), not negative.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv:1610.02391, eq. 1 and 2; Stylianou, Souvenir, Pless,
    "Visualizing deep similarity networks", WACV 2019, arXiv:1901.00536, eq. 3; Radenović, Tolias, Chum, TPAMI 2018,
    arXiv:1711.02512, eq. 3 (the generalised mean, here with power q).
    """
    pooled, slopes = _pool(features, pooling)
    kernel_other = other if head is None else head[0] @ other
    projected = pooled if head is None else pooled @ head[0] + head[1]
    places = features.shape[0] * features.shape[1]
    weights = slopes * kernel_other / (places * max(float(np.linalg.norm(projected)), 1e-12))
    positive: NDArray[np.float32] = np.maximum(features @ weights, 0.0).astype(np.float32)
    return positive


def _pool(features: NDArray[np.float32], pooling: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The pooled vector, (c,), and for each channel the sum of its derivatives by the features of all places, (c,)."""
    if pooling != "gem":
        pooled = features.mean((0, 1)) if pooling == "avg" else features.max((0, 1))
        return pooled, np.ones_like(pooled)
    powers = np.maximum(features, GEM_SMALLEST) ** (GEM_POWER - 1)
    pooled = (powers * np.maximum(features, GEM_SMALLEST)).mean((0, 1)) ** (1 / GEM_POWER)
    return pooled, (powers * (features > GEM_SMALLEST)).mean((0, 1)) / pooled ** (GEM_POWER - 1)


def draw(explanation: Explanation) -> Image.Image:
    """One picture: a row for each candidate, with probe, heat map on both photos, and the candidate's photo.

    Each heat map is scaled to its own highest value, as the bar below says.

    Raises:
        PhotoError: a photo can no longer be read.
    """
    answer = explanation.identification
    row_height = _TILE + 2 * _LINE + _GAP
    width = 4 * _TILE + 5 * _GAP
    sheet = Image.new("RGB", (width, 3 * _LINE + row_height * len(explanation.candidates) + 2 * _LINE), "white")
    pen = ImageDraw.Draw(sheet)
    _write(pen, (_GAP, 8), f"{_short(answer.photo.name)}: {_verdict(answer)}", 20)
    probe = Image.fromarray(decode(read_photo(answer.photo)))
    top = 2 * _LINE
    for place, candidate in enumerate(explanation.candidates):
        photo = Image.fromarray(decode(read_photo(candidate.file)))
        name = _short(candidate.individual)
        tiles = (
            (probe, None, "the probe"),
            (probe, explanation.on_probe[place], f"what is like {name}"),
            (photo, explanation.on_candidate[place], f"what is like the probe in {name}"),
            (photo, None, f"{name}, similarity {candidate.similarity:.2f}"),
        )
        _write(pen, (_GAP, top), _heading(candidate, answer), 18)
        for column, (picture, heat, caption) in enumerate(tiles):
            left = _GAP + column * (_TILE + _GAP)
            sheet.paste(_tile(picture, heat), (left, top + _LINE))
            _write(pen, (left, top + _LINE + _TILE + 4), caption, 15)
        top += row_height
    _draw_scale(sheet, pen, top)
    return sheet


def _heading(candidate: Candidate, answer: Identification) -> str:
    if candidate not in answer.candidates[:2]:
        return "Compared with"
    return "Best candidate" if candidate == answer.candidates[0] else "Runner-up"


def _verdict(answer: Identification) -> str:
    best = answer.candidates[0]
    if answer.threshold is None:
        nearest = f"nearest is {_short(best.individual)}, similarity {best.similarity:.2f}"
        return f"{answer.decision}; {nearest} (too few photos for a threshold)"
    whose = ", by the model's calibration" if answer.calibration == "model" else ""
    said = f"similarity {answer.similarity:.2f}, threshold {answer.threshold:.2f} at FPIR {answer.fpir:g}{whose}"
    if answer.decision == "match":
        return f"{_short(best.individual)} ({said})"
    return f"{answer.decision}; nearest is {_short(best.individual)} ({said})"


def _tile(picture: Image.Image, heat: NDArray[np.float32] | None) -> Image.Image:
    """A photo in a square tile, under its heat map where there is one."""
    picture = ImageOps.contain(picture, (_TILE, _TILE))  # before the mixing: a photo has a hundred times as many pixels
    if heat is not None:
        # The map knows the photo as the model saw it, brought to a square; here it is brought back.
        scaled = Image.fromarray(heat / max(float(heat.max()), 1e-12)).resize(picture.size, Image.Resampling.BICUBIC)
        strength = np.clip(np.asarray(scaled, dtype=np.float64), 0.0, 1.0)
        grey = np.asarray(ImageOps.grayscale(picture), dtype=np.float64)[..., None]
        mixed = 0.45 * grey + 0.55 * _colour(strength)
        picture = Image.fromarray(np.rint(mixed).astype(np.uint8))
    return ImageOps.pad(picture, (_TILE, _TILE), color="white")


def _colour(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Viridis of values in [0, 1]: RGB in [0, 255], one axis more."""
    steps = np.linspace(0.0, 1.0, len(_VIRIDIS))
    return np.stack([np.interp(strength, steps, _VIRIDIS[:, channel]) for channel in range(3)], axis=-1)


def _draw_scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, top: int) -> None:
    bar = np.tile(_colour(np.linspace(0.0, 1.0, 200)), (14, 1, 1))
    sheet.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (_GAP + 70, top + 6))
    _write(pen, (_GAP, top + 3), "nothing", 15)
    _write(pen, (_GAP + 280, top + 3), "most of the similarity (each map to its own highest value)", 15)


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int) -> None:
    pen.text(place, text, fill="black", font=ImageFont.load_default(size))


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:12]}…{name[-7:]}"
