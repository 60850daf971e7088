"""What a training's index and classifier say of the photos that were kept from it."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.calibrate.combined import Combined
from petid_search.calibrate.experts import Heard, compare
from petid_search.train.material import Material

_AT_ONCE: Final = 256

Answer = Callable[[NDArray[np.int64]], Mapping[str, NDArray[np.float32]]]
"""From places of photos, int64, (n,), to `embedding`, (n, d), and `scores`, (n, classes), of each."""


def compare_experts(
    answer: Answer, material: Material, doing: Callable[[str, int, int], object]
) -> tuple[Combined | None, dict[str, Any]]:
    """Compare them, the photos trained on being the gallery (see calibrate.experts.compare).

    Args:
        answer: the trained model.
        material: what it was trained on, and what was kept from it: some photos and some individuals.
        doing: told of how far it is: what, how many photos are done, of how many.
    """
    kept, groups = material.kept, material.groups
    places = np.concatenate([material.trained, kept.validation, kept.held_out])
    answers = []
    for first in range(0, len(places), _AT_ONCE):
        answers.append(answer(places[first : first + _AT_ONCE]))
        doing("Comparing index and classifier", min(first + _AT_ONCE, len(places)), len(places))
    ends = np.cumsum([len(material.trained), len(kept.validation)])
    enrolled, mated, strangers = np.split(np.concatenate([one["embedding"] for one in answers]), ends)
    _, mated_scores, stranger_scores = np.split(np.concatenate([one["scores"] for one in answers]), ends)
    heard = Heard.of(
        (enrolled, material.labels[material.trained], groups[material.trained]),
        (mated, kept.labels, groups[kept.validation]),
        mated_scores,
        (strangers, kept.owners, kept.groups),
        stranger_scores,
    )
    return compare(heard)
