"""Nine views of a photo, moved by a third of a cell, make a map of nine times as many cells."""

import numpy as np
import pytest

from petid_search.explain.views import stitched, views

CELL = 12


def pooled(image, cells):
    """As a feature map of one channel sees an image: the brightness of the middle third of each cell."""
    blocks = image[..., 0].astype(np.float32).reshape(cells, CELL, cells, CELL)
    return blocks[:, 4:8, :, 4:8].mean((1, 3))


def test_the_view_in_the_middle_is_the_photo_and_the_others_are_moved_with_their_edge_repeated():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    seen = views(image, 4)
    assert (seen.shape, seen.dtype) == ((9, 48, 48, 3), np.uint8)
    np.testing.assert_array_equal(seen[4], image)
    np.testing.assert_array_equal(seen[0][4:, 4:], image[:-4, :-4])
    np.testing.assert_array_equal(seen[0][:4, 4:], np.repeat(image[:1, :-4], 4, axis=0))
    np.testing.assert_array_equal(seen[5][:, :-4], image[:, 4:])


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 7), (11, 11), (4, 4)])
def test_what_lies_between_the_cells_is_found_in_its_own_third_of_one(row, column):
    image = np.zeros((48, 48, 3), np.uint8)
    image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
    heat = stitched([pooled(view, 4) for view in views(image, 4)])
    assert heat.shape == (12, 12)
    assert np.argwhere(heat > 0).tolist() == [[row, column]]


def test_a_stitched_map_adds_up_to_the_mean_of_its_views():
    maps = np.random.default_rng(0).normal(size=(9, 5, 7)).astype(np.float32)
    assert stitched(list(maps)).sum() == pytest.approx(maps.sum() / 9, abs=1e-4)


def test_a_map_of_as_many_cells_as_pixels_is_moved_by_a_pixel():
    assert views(np.zeros((8, 8, 3), np.uint8), 8).shape == (9, 8, 8, 3)


def test_of_a_map_without_views_each_cell_becomes_nine_alike():
    heat = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_allclose(stitched([heat]), np.kron(heat, np.ones((3, 3))) / 9)
