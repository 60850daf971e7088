"""SSIM of many pairs at once is scikit-image's, and no signature ever promises less than it."""

import numpy as np
import pytest
from conftest import copies, draw_scene
from PIL import Image
from skimage.metrics import structural_similarity

from petid_search.dedup.ssim import DIMENSION, ROUNDING, SIZE, shortened, signatures, ssim_of_pairs


def small(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def hard_cases() -> np.ndarray:
    """Thumbnails with little in common but that a formula may stumble over them, and scenes with their copies."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:SIZE, :SIZE]
    checks = (255 * ((down + across) % 2)).astype(np.uint8)
    cases = [np.full((SIZE, SIZE), grey, np.uint8) for grey in (0, 1, 127, 254, 255)]
    cases += [checks, 255 - checks, (8 * across).clip(0, 255).astype(np.uint8)]
    cases += [rng.integers(0, high, (SIZE, SIZE), np.uint8) for high in (2, 16, 256)]
    cases += [(base + rng.integers(0, 3, (SIZE, SIZE))).astype(np.uint8) for base in (0, 120, 250)]
    for seed in range(6):
        scene = draw_scene(seed)
        cases += [small(scene), 255 - small(scene), *map(small, copies(scene).values())]
    return np.stack(cases)


@pytest.fixture(scope="module")
def thumbnails():
    return hard_cases()


@pytest.fixture(scope="module")
def all_pairs(thumbnails):
    return np.triu_indices(len(thumbnails))


@pytest.fixture(scope="module")
def reference(thumbnails, all_pairs):
    return np.array([structural_similarity(thumbnails[i], thumbnails[j]) for i, j in zip(*all_pairs, strict=True)])


def test_ssim_of_many_pairs_is_that_of_scikit_image(thumbnails, all_pairs, reference):
    np.testing.assert_allclose(ssim_of_pairs(thumbnails, *all_pairs), reference, atol=1e-9)
    assert reference.min() < -0.5  # the cases reach from contrary …
    assert np.sort(reference[all_pairs[0] != all_pairs[1]])[-5] > 0.95  # … to nearly identical


def test_ssim_is_the_same_in_batches_in_any_order_and_either_way_round(thumbnails, all_pairs, reference):
    shuffled = np.random.default_rng(1).permutation(np.tile(np.arange(len(reference)), 3))
    first, second = all_pairs[0][shuffled], all_pairs[1][shuffled]
    np.testing.assert_allclose(ssim_of_pairs(thumbnails, second, first), reference[shuffled], atol=1e-9)


def test_a_picture_is_exactly_identical_to_itself(thumbnails):
    places = np.arange(len(thumbnails))
    assert (ssim_of_pairs(thumbnails, places, places) == 1.0).all()


def test_no_pairs_have_no_ssim(thumbnails):
    assert ssim_of_pairs(thumbnails, np.empty(0, np.int64), np.empty(0, np.int64)).shape == (0,)
    assert signatures(thumbnails[:0]).shape == (0, DIMENSION)


@pytest.mark.parametrize("numbers", [DIMENSION, 300, 129, 2])
def test_signatures_never_promise_less_than_ssim(numbers, thumbnails, all_pairs, reference):
    vectors = shortened(signatures(thumbnails), numbers)
    assert vectors.shape == (len(thumbnails), numbers)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    bounds = np.einsum("ij,ij->i", vectors[all_pairs[0]], vectors[all_pairs[1]])
    assert (bounds >= reference - ROUNDING).all()


def test_no_search_for_a_counterexample_gets_below_the_promise():
    # Changes of a pair are kept where they bring SSIM nearer to its bound, or beyond it.
    rng = np.random.default_rng(3)
    pair = rng.integers(0, 256, (2, SIZE, SIZE)).astype(np.uint8)
    here = np.array([0]), np.array([1])

    def margin(pair):
        a, b = signatures(pair)
        return float(a @ b) - ssim_of_pairs(pair, *here)[0]

    least = margin(pair)
    started_at = least
    for step in range(600):
        changed = pair.copy()
        top, left = rng.integers(0, SIZE - 4, 2)
        patch = changed[step % 2, top : top + 4, left : left + 4]
        patch[:] = np.clip(patch.astype(int) + rng.integers(-60, 61), 0, 255)
        if (now := margin(changed)) < least:
            pair, least = changed, now
    assert least < started_at - 0.3  # the search does find nearer pairs …
    assert least > -ROUNDING  # … and none below


def test_signatures_tell_different_pictures_apart(thumbnails):
    scenes = np.stack([small(draw_scene(seed)) for seed in range(100, 160)])
    bounds = signatures(scenes) @ signatures(scenes).T
    apart = bounds[np.triu_indices(len(scenes), 1)]
    assert np.quantile(apart, 0.99) < 0.8  # a bound of 1 for all would never be wrong, and of no use
