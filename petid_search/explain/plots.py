"""The curves of deletion and insertion, as a picture."""

import io
from typing import Any, Final

import numpy as np
from PIL import Image

from petid_search.evaluate.plots import add_axes, new_figure, to_png
from petid_search.explain.faithfulness import STEPS, Faithfulness

_STYLES: Final[dict[str, dict[str, Any]]] = {
    "this map": {"color": "#0072b2", "linewidth": 2.2},
    "random maps": {"color": "#555555", "linestyle": "--"},
    "a blob in the middle": {"color": "#d55e00", "linestyle": ":", "linewidth": 2.2},
}


def curves(found: Faithfulness) -> Image.Image:
    """Draw what is left of the value as the picture goes, and as it comes back."""
    figure = new_figure(9.4, 3.4)
    shares = np.linspace(0, 100, STEPS + 1)
    orders = dict(zip(_STYLES, (found.of_map, found.of_random, found.of_blob), strict=True))
    for place, what in enumerate(("deletion", "insertion"), start=1):
        covered = "covered (lower is better)" if what == "deletion" else "uncovered (higher is better)"
        axes = add_axes(figure, f"{what.capitalize()}: % of the picture {covered}", (1, 2, place))
        for name, one in orders.items():
            area = one.deletion_area if what == "deletion" else one.insertion_area
            curve = one.deletion if what == "deletion" else one.insertion
            axes.plot(shares, curve, label=f"{name}, mean {area:.2f}", **_STYLES[name])
        axes.legend(frameon=False, fontsize=8)
    return Image.open(io.BytesIO(to_png(figure))).convert("RGB")
