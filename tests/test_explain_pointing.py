"""The pointing game: where individuals differ by one marking, the map of an individual lies on its marking.

Source: Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016, arXiv:1608.00507, section 4.
"""

import numpy as np
import pytest

from petid_search.explain.classifier import LinearClassifier
from petid_search.explain.faithfulness import centred_blob
from petid_search.explain.maps import enlarged
from petid_search.explain.views import stitched
from petid_search.models.linear_head import LinearHead

SIZE, CELL = 96, 8
PHOTOS, HELD_OUT = 80, 15


@pytest.fixture(scope="module")
def marked_pets():
    """Five individuals that differ by nothing but a marking's place and colour; those held out have masks."""
    from petid_search.synthetic import Marking, Pet

    markings = [
        Marking(-0.5, 0.3, 0.3, (220, 30, 40)),
        Marking(0.5, 0.3, 0.3, (30, 60, 220)),
        Marking(-0.45, -0.5, 0.3, (30, 180, 60)),
        Marking(0.45, -0.5, 0.3, (240, 220, 40)),
        Marking(0.0, -0.6, 0.3, (200, 60, 200)),
    ]
    pets = [Pet.of(3).marked(marking) for marking in markings]
    images = np.stack([[pet.draw(photo, size=SIZE) for photo in range(PHOTOS)] for pet in pets])
    masks = np.stack([[pet.marking_mask(photo, size=SIZE) for photo in range(HELD_OUT)] for pet in pets])
    return images, masks


def features_of(images):
    """Random Fourier features of small patches, at each place of a grid: a network of one layer, (n, h, w, 256)."""
    rng = np.random.default_rng(0)
    patches = np.lib.stride_tricks.sliding_window_view(images / 127.5 - 1, (CELL, CELL), axis=(1, 2))
    patches = patches[:, :: CELL // 2, :: CELL // 2]
    colours = np.concatenate([patches.mean((-2, -1)), patches.std((-2, -1))], axis=-1)
    return np.sin(colours @ rng.normal(0, 2, (6, 256)) + rng.uniform(0, 2 * np.pi, 256)).astype(np.float32)


def trained_on(features, individuals):
    """A linear classifier of the pooled features, by least squares with a ridge."""
    pooled = features.mean((1, 2))
    centred = pooled - pooled.mean(0)
    targets = np.eye(5)[individuals] - 0.2
    kernel = np.linalg.solve(centred.T @ centred + 0.01 * np.eye(256), centred.T @ targets)
    return LinearClassifier(kernel.astype(np.float32), 1, LinearHead("avg"), False), pooled.mean(0)


def test_the_map_of_an_individual_lies_on_the_one_marking_that_tells_it_from_the_others(marked_pets):
    images, masks = marked_pets
    features = np.stack([features_of(one) for one in images])
    learning = features[:, HELD_OUT:].reshape(-1, *features.shape[2:])
    classifier, mean = trained_on(learning, np.repeat(np.arange(5), PHOTOS - HELD_OUT))
    right, hits, blob_hits, gains, blob_gains = [], [], [], [], []
    blob = enlarged(stitched([centred_blob(features.shape[2:4])]), (SIZE, SIZE))
    for individual in range(5):
        for photo in range(HELD_OUT):
            mask = masks[individual, photo]
            if not mask.any():  # turned away
                continue
            one = features[individual, photo]
            right.append(int(np.argmax((one.mean((0, 1)) - mean) @ classifier.kernel)) == individual)
            heat = stitched([classifier.explain(one, np.empty(0, np.float32), individual)])
            heat = np.maximum(enlarged(heat, (SIZE, SIZE)), 0)
            for drawn, pointed, gain in ((heat, hits, gains), (blob, blob_hits, blob_gains)):
                pointed.append(mask[np.unravel_index(drawn.argmax(), drawn.shape)])
                gain.append(drawn[mask].sum() / drawn.sum() / mask.mean())  # energy inside, against the area
    assert np.mean(right) > 0.9
    assert np.mean(hits) > 0.8 > 0.3 > np.mean(blob_hits)
    assert np.mean(gains) > 4 * np.mean(blob_gains)
