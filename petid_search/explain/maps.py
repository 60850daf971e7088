"""HiResCAM on a feature map, in closed form where pooling and a linear map lead from it to what is explained.

HiResCAM multiplies each feature by its own gradient, Grad-CAM by the gradient's mean over the places (Selvaraju et al.,
ICCV 2017, arXiv:1610.02391, eq. 1 and 2). Behind average pooling, where the gradient is the same at every place, they
are one map. Behind the generalised mean and the maximum only the former adds up to what it explains; and on real dogs
deletion and insertion found it the better (docs/results.md). Grad-CAM++ (Chattopadhay et al. 2018, arXiv:1710.11063)
adds up to nothing behind any of them, and is not offered.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petid_search.models.linear_head import LinearHead

BORDER: Final = 0.1
"""Width of the border, as a share of a picture's side, at each of the four sides."""

BORDER_AREA: Final = 1 - (1 - 2 * BORDER) ** 2
"""Share of the picture that the border takes: that of the evidence in it if a map were the same everywhere. More than
this says that the border spoke louder than the middle, where the animal is; then one is warned."""

SPREAD: Final = 2.0
"""Deviation of the bell by which maps are spread before they are enlarged, in cells: two thirds of one of the feature
map, of which each is three by three (see `views`)."""


def hires_cam(
    features: NDArray[np.float32],
    other: NDArray[np.float32],
    head: LinearHead,
) -> NDArray[np.float32]:
    """HiResCAM, on a feature map, of the similarity of its embedding to another.

    With p the pooled feature map, projected where there is a head, and e the other embedding, what is explained is
    ⟨p, e⟩/|p| with |p| held fixed, just as a class is explained by its score before the softmax: through the scaling,
    the gradient would vanish where two photos are most alike. Where features are kept, what was learnt and what is kept
    have a length each, and both are held fixed. Where the projection has no bias, the map adds up to the
    similarity; for what it does where there is one, see evidence_for.

    Args:
        features: float32, (h, w, c).
        other: float32, (d,). Of the difference of two embeddings the map is the difference of their maps, and shows why
            the one is nearer (Prabhushankar, Kwon, Temel, AlRegib, "Contrastive explanations in neural networks",
            ICIP 2020, arXiv:2008.00178, section 3).
        head: what pools, and the projection where there is one.

    Returns:
        float32, (h, w); negative where a place speaks against it.

    Source: Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
    networks", 2020, arXiv:2011.08891, section 3.3; Stylianou, Souvenir, Pless, "Visualizing deep similarity networks",
    WACV 2019, arXiv:1901.00536, eq. 3 (of a similarity).
    """
    return (head.parts(features) @ head.to_channels(other * head.scale(features))).astype(np.float32)


def evidence_for(
    features: NDArray[np.float32],
    other: NDArray[np.float32],
    head: LinearHead,
) -> NDArray[np.float32]:
    """HiResCAM of a similarity with what the projection's bias adds to it, in equal parts at all places.

    It adds up to the similarity. A bias that takes away what all photos have in common, as that of whitened features
    does, is large; without it, a place that says no more than any would seem to speak for everybody.

    Args:
        features: as for hires_cam.
        other: as for hires_cam.
        head: as for hires_cam.

    Returns:
        float32, (h, w); negative where a place speaks against it.
    """
    heat = hires_cam(features, other, head)
    if head.bias is None:
        return heat
    return heat + np.float32(head.bias @ (other * head.scale(features)) / heat.size)


def cam(features: NDArray[np.float32], direction: NDArray[np.float32], head: LinearHead) -> NDArray[np.float32]:
    """HiResCAM, on a feature map, of the inner product of what it is pooled to with a direction.

    Args:
        features: float32, (h, w, c).
        direction: float32, (c,): the gradient by the pooled vector, such as a class's column of the last layer.
        head: what pools; its projection does not count.

    Returns:
        float32, (h, w), adding up to the inner product (a logit less its bias); negative where a place speaks against
        it.

    Source: Draelos and Carin 2020, section 3.3.
    """
    return (head.parts(features) @ direction).astype(np.float32)


def cam_by_gradient(features: NDArray[np.float32], gradient: NDArray[np.float32]) -> NDArray[np.float32]:
    """HiResCAM, on a feature map, of whatever has this gradient there.

    Args:
        features: float32, (h, w, c).
        gradient: float32, (h, w, c).

    Returns:
        float32, (h, w); negative where a place speaks against it.

    Source: Draelos and Carin 2020, section 3.3.
    """
    heat: NDArray[np.float32] = (features * gradient).sum(-1)
    return heat


def enlarged(heat: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """A map at a picture's size, as it is drawn and as it is tested.

    Each cell of a map stands for more than its part of the picture, since the network saw beyond it; so it is spread
    over its neighbours before it is enlarged. That made deletion better on real dogs.

    Args:
        heat: float32, (3h, 3w), as `views.stitched` gives it.
        size: width and height, in pixels, as Pillow has them.

    Returns:
        float64, (height, width), smooth between the cells.
    """
    return np.asarray(Image.fromarray(_spread(heat)).resize(size, Image.Resampling.BICUBIC), np.float64)


def peak(*maps: NDArray[np.float32]) -> float:
    """The highest value of several maps, each float32, (3h, 3w), once they are spread: the upper end of their scale."""
    return max(float(_spread(heat).max()) for heat in maps)


def border_share(heat: NDArray[np.float32]) -> float:
    """Share of a map's evidence that lies in the border of the picture, in [0, 1]; BORDER_AREA if it is flat.

    Args:
        heat: float32, (h, w); each value stands for its whole cell of the picture, and what is negative is no evidence.

    Returns:
        The share; 0 where there is no evidence at all.
    """
    heat = np.maximum(heat, 0.0)
    total = float(heat.sum())
    inner = _inner(heat.shape[0]) @ heat @ _inner(heat.shape[1])
    return float(1 - inner / total) if total > 0 else 0.0


def border_warning(heat: NDArray[np.float32], evidence: str = "the evidence") -> str | None:
    """What to say of a map whose evidence lies in the border; None where it is no more than the border's area.

    Args:
        heat: float32, (h, w).
        evidence: what it is called.
    """
    share = border_share(heat)
    if share <= BORDER_AREA:
        return None
    return (
        f"Beware: {share:.0%} of {evidence} lies in the border of the picture, {BORDER_AREA:.0%} of its area. "
        "The background may have spoken: cut the photo to the animal."
    )


def _inner(cells: int) -> NDArray[np.float64]:
    """The share of each of so many cells in a row that lies inside the border."""
    edges = np.clip(np.arange(cells + 1) / cells, BORDER, 1 - BORDER)
    shares: NDArray[np.float64] = np.diff(edges) * cells
    return shares


def _spread(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    spread: NDArray[np.float32] = (_bell(heat.shape[0]) @ heat @ _bell(heat.shape[1]).T).astype(np.float32)
    return spread


def _bell(cells: int) -> NDArray[np.float64]:
    """The matrix that spreads each of so many cells in a row over its neighbours; a flat row stays as it is."""
    apart = np.arange(cells)[:, None] - np.arange(cells)
    bell = np.exp(-0.5 * (apart / SPREAD) ** 2)
    shares: NDArray[np.float64] = bell / bell.sum(1, keepdims=True)
    return shares
