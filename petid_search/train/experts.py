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
    parts = (material.trained, kept.validation, kept.held_out)
    total, done = sum(map(len, parts)), 0
    embeddings, scores = [], []
    for part in parts:
        answers = []
        for first in range(0, len(part), _AT_ONCE):
            told = answer(part[first : first + _AT_ONCE])
            # Nobody asks for the scores of the photos trained on, which are many, of as many classes.
            answers.append((told["embedding"], told["scores"] if part is not material.trained else told["scores"][:0]))
            done += len(told["embedding"])
            doing("Comparing index and classifier", done, total)
        embeddings.append(np.concatenate([one for one, _ in answers]))
        scores.append(np.concatenate([one for _, one in answers]))
    (enrolled, mated, strangers), (_, mated_scores, stranger_scores) = embeddings, scores
    heard = Heard.of(
        (enrolled, material.labels[material.trained], groups[material.trained]),
        (mated, kept.labels, groups[kept.validation]),
        mated_scores,
        (strangers, kept.owners, kept.groups),
        stranger_scores,
    )
    return compare(heard)
