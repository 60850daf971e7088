"""No pair is missed: what the upper bound lets through holds all that comparing every pair finds."""

import numpy as np
import pytest
from conftest import SHARED, copies, draw_scene, needs_shared
from PIL import Image
from skimage.metrics import structural_similarity
from test_ssim import hard_cases, small

from petid_search.dedup import pairs
from petid_search.dedup.pairs import find_pairs
from petid_search.dedup.thumbnails import Picture, ThumbnailStore
from petid_search.images import open_image

COUNT = 420
THRESHOLDS = [0.80, 0.85, 0.90, 0.95, 0.99]
SETS = ["cats-cropped", "cats-raw", "cattle", "dogs", "heads"]


def pairs_of(found) -> list[tuple[int, int]]:
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles so small that a few hundred pictures take several each way."""
    monkeypatch.setattr(pairs, "_ROWS", 64)
    monkeypatch.setattr(pairs, "_COLUMNS", 150)
    monkeypatch.setattr(pairs, "_SQUARE", 100)


@pytest.fixture(scope="module")
def scenes() -> np.ndarray:
    """Scenes and their copies among pictures that are like no other, shuffled."""
    rng = np.random.default_rng(0)
    thumbnails = list(hard_cases())
    for seed in range(30):
        scene = draw_scene(seed)
        thumbnails += [small(scene), *map(small, copies(scene).values())]
    fill = rng.integers(0, 256, (COUNT - len(thumbnails), 6, 6), np.uint8)
    thumbnails += [np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in fill]
    return np.stack(thumbnails)[rng.permutation(COUNT)]


@pytest.mark.parametrize("threshold", [0.5, *THRESHOLDS, 1.0])
def test_the_same_pairs_are_found_as_by_comparing_all(threshold, scenes):
    quick, slow = find_pairs(scenes, threshold), find_pairs(scenes, threshold, exhaustive=True)
    assert len(quick.first) > 20
    assert pairs_of(quick) == pairs_of(slow)
    np.testing.assert_allclose(quick.ssim, slow.ssim, atol=1e-9)
    assert (quick.first < quick.second).all()
    assert (quick.ssim >= threshold).all()


def test_comparing_all_compares_all(scenes):
    some = scenes[:60]
    expected = [(i, j) for i in range(60) for j in range(i + 1, 60) if structural_similarity(some[i], some[j]) >= 0.8]
    assert pairs_of(find_pairs(some, 0.8, exhaustive=True)) == expected
    assert expected


@pytest.mark.parametrize("exhaustive", [False, True])
def test_only_pairs_with_one_of_the_searched_are_found(exhaustive, scenes):
    everything = pairs_of(find_pairs(scenes, 0.9))
    for searched in (0, 1, 64, 250, COUNT):
        found = pairs_of(find_pairs(scenes, 0.9, searched=searched, exhaustive=exhaustive))
        assert found == [pair for pair in everything if min(pair) < searched]


def test_only_wanted_pairs_are_found(scenes):
    everything = pairs_of(find_pairs(scenes, 0.9))
    found = find_pairs(scenes, 0.9, wanted=lambda first, second: (first + second) % 2 == 0)
    assert pairs_of(found) == [pair for pair in everything if sum(pair) % 2 == 0]
    assert 0 < len(found.first) < len(everything)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_thumbnails_have_few_pairs(count):
    same = np.zeros((count, 32, 32), np.uint8)
    assert pairs_of(find_pairs(same, 0.95)) == [(0, 1)][: count - 1 if count else 0]


def test_no_pair_is_looked_at_twice(scenes):
    seen = []

    def watched(first, second):
        seen.extend(zip(first.tolist(), second.tolist(), strict=True))
        return np.ones(len(first), np.bool_)

    find_pairs(scenes, 0.5, wanted=watched, exhaustive=True)
    assert len(seen) == len(set(seen)) == COUNT * (COUNT - 1) // 2
    tiles = list(pairs._tiles(COUNT, COUNT, 64, 150))
    assert all(left >= start for start, _, left, _ in tiles), "what lies left of the diagonal was compared above it"


def test_progress_ends_at_the_number_searched(scenes):
    told: list[int] = []
    find_pairs(scenes, 0.95, searched=390, advance=told.append)
    assert sum(told) == 390


def test_tiles_are_put_together_without_a_seam():
    half = 333
    rng = np.random.default_rng(5)
    low = rng.integers(0, 256, (half, 8, 8), np.uint8)
    pictures = np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in low])
    found = find_pairs(np.concatenate([pictures, pictures]), 0.99)
    assert pairs_of(found) == [(place, place + half) for place in range(half)]


@needs_shared
def test_no_pair_of_real_photos_and_their_copies_is_missed():
    """Every value by scikit-image itself, so that nothing of petid's stands on both sides."""
    thumbnails = []
    for name in SETS:
        photos = sorted((SHARED / "data" / name).rglob("*.jpg"))
        for photo in photos[:: len(photos) // 9][:9]:
            picture = Image.fromarray(open_image(photo))
            thumbnails += [small(picture), *map(small, copies(picture).values())]
    thumbnails = np.stack(thumbnails)
    assert len(thumbnails) == 5 * 9 * 7
    ssim = np.zeros((len(thumbnails), len(thumbnails)))
    for i, j in zip(*np.triu_indices(len(thumbnails), 1), strict=True):
        ssim[i, j] = structural_similarity(thumbnails[i], thumbnails[j])
    for threshold in THRESHOLDS:
        found = find_pairs(thumbnails, threshold)
        assert pairs_of(found) == list(zip(*(places.tolist() for places in np.nonzero(ssim >= threshold)), strict=True))
        np.testing.assert_allclose(found.ssim, ssim[found.first, found.second], atol=1e-6)
        assert len(found.first) > 45


@pytest.mark.slow
@pytest.mark.timeout(3000)
@needs_shared
def test_no_pair_of_all_real_photos_and_their_copies_is_missed(tmp_path, monkeypatch):
    monkeypatch.undo()  # tiles of the real size
    photos = [photo for name in SETS for photo in sorted((SHARED / "data" / name).rglob("*.jpg"))]
    with ThumbnailStore(tmp_path / "thumbnails.db") as store:
        thumbnails = [one.thumbnail for one in store.read(photos) if isinstance(one, Picture)]
    assert len(thumbnails) == len(photos) > 10_000
    for photo in photos[::100]:
        thumbnails += map(small, copies(Image.fromarray(open_image(photo))).values())
    thumbnails = np.stack(thumbnails)
    every = find_pairs(thumbnails, THRESHOLDS[0], exhaustive=True)
    for threshold in THRESHOLDS:
        high = every.ssim >= threshold
        found = find_pairs(thumbnails, threshold)
        assert pairs_of(found) == list(zip(every.first[high].tolist(), every.second[high].tolist(), strict=True))
        assert len(found.first) > 100
