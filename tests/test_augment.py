"""Augmentation: what is varied and how far, each image by itself, and the same for the same seed."""

import numpy as np
import pytest
from conftest import draw_scene

from petid_search.errors import RecipeError
from petid_search.train.augment import ORIGIN, Augmentation, Augmenter, draw_augmented

SIZE = 32
EVERYTHING = Augmentation(
    rotation=40, shift=0.2, flip=True, zoom=(0.6, 2.1), crop=0.3, colour=0.6, blur=1.5, erasing=0.5, padding="constant"
)


@pytest.fixture(scope="module")
def scenes() -> np.ndarray:
    return np.stack([np.asarray(draw_scene(seed, SIZE)) for seed in range(12)])


def vary(images: np.ndarray, seed: object = 0, **how: object) -> np.ndarray:
    return Augmenter(Augmentation(**how), images.shape[1])(images, seed)


def is_like(image: np.ndarray, other: np.ndarray) -> bool:
    return float(np.abs(image - np.asarray(other, np.float32)).max()) < 0.5


def test_without_anything_asked_images_stay_as_they_are(scenes):
    varied = Augmenter(Augmentation(), SIZE)(scenes, 0)
    assert varied.dtype == np.float32
    assert np.array_equal(varied, scenes)


def test_the_same_seed_varies_the_same_and_another_does_not(scenes):
    first, other = Augmenter(EVERYTHING, SIZE), Augmenter(EVERYTHING, SIZE)
    varied = first(scenes, [3, 1, 4])
    assert varied.shape == scenes.shape
    assert varied.dtype == np.float32
    assert varied.min() >= 0
    assert varied.max() <= 255
    first(scenes, 9)  # what was drawn in between leaves no trace
    for again in (first(scenes, [3, 1, 4]), other(scenes, [3, 1, 4]), other(scenes.astype(np.float32), [3, 1, 4])):
        assert np.array_equal(varied, again)
    assert not np.array_equal(varied, first(scenes, [3, 1, 5]))


def test_what_a_seed_draws_is_the_same_in_any_process_and_on_any_machine():
    grey = np.full((4, SIZE, SIZE, 3), 100, np.uint8)
    grey[:, : SIZE // 2] = 180
    means = vary(grey, [1, 2], colour=0.8, erasing=0.5, shift=0.4, padding="constant").mean((1, 2, 3))
    assert means.round(1).tolist() == pytest.approx([118.9, 150.3, 94.4, 167.6], abs=0.2)


@pytest.mark.parametrize(
    "how",
    [
        {"rotation": 90.0},
        {"shift": 0.5},
        {"flip": True},
        {"zoom": 0.5},
        {"crop": 0.6},
        {"colour": 0.8},
        {"blur": 3.0},
        {"erasing": 0.5},
        {"shift": 0.5, "padding": "constant"},
    ],
    ids=lambda how: "+".join(how),
)
def test_each_image_of_a_batch_is_varied_by_itself(scenes, how):
    one = np.repeat(scenes[:1], 12, axis=0)
    varied = vary(one, **how)
    different = {image.tobytes() for image in varied}
    if how == {"flip": True}:
        assert different == {image.astype(np.float32).tobytes() for image in (scenes[0], scenes[0][:, ::-1])}
    elif how == {"erasing": 0.5}:
        assert 4 <= len(different) < 12, "some are left as they are"
    else:
        assert len(different) == 12


def test_a_shift_moves_along_both_axes_by_different_lengths_and_no_further_than_asked():
    dot = np.zeros((200, SIZE, SIZE, 3), np.uint8)
    dot[:, 16, 16] = 255
    places = []
    for image in vary(dot, shift=0.25)[..., 0]:
        assert image.sum() == pytest.approx(255, abs=1)
        rows, columns = np.indices(image.shape)
        places.append((float((rows * image).sum()) / 255 - 16, float((columns * image).sum()) / 255 - 16))
    down, right = np.array(places).T
    for moved in (down, right):
        assert np.abs(moved).max() <= 8.01
        assert np.abs(moved).max() > 7
        assert abs(moved.mean()) < 1
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.25


def test_what_lies_beyond_the_edge_is_mirrored_or_of_one_colour_drawn_for_each(scenes):
    images = np.repeat(scenes[:1], 40, axis=0)
    small = vary(images, zoom=(0.5, 0.5), padding="constant")
    borders = small[:, 0, 0]
    for image, border in zip(small, borders, strict=True):
        frame = np.concatenate([image[:6].reshape(-1, 3), image[-6:].reshape(-1, 3), image[:, :6].reshape(-1, 3)])
        assert is_like(frame, border)
    assert len({tuple(border) for border in borders.round(2).tolist()}) == 40
    (mirrored,) = vary(scenes[:1], zoom=(0.5, 0.5))
    assert np.allclose(mirrored[8], mirrored[7], atol=0.01)
    assert np.allclose(mirrored[:8], mirrored[15:7:-1], atol=0.01)


def test_varied_padding_is_that_of_one_batch_or_the_other_and_both_come(scenes):
    augmenters = {one: Augmenter(Augmentation(zoom=(0.5, 0.5), padding=one), SIZE) for one in ("reflect", "constant")}
    varied = Augmenter(Augmentation(zoom=(0.5, 0.5), padding="varied"), SIZE)
    seen = set()
    for seed in range(12):
        batch = varied(scenes, seed)
        alike = {name for name, one in augmenters.items() if np.array_equal(one(scenes, seed), batch)}
        assert len(alike) == 1
        seen |= alike
    assert seen == set(augmenters)


def test_a_rotation_turns_about_the_centre_and_no_further_than_asked():
    ray = np.zeros((100, 65, 65, 3), np.uint8)
    ray[:, 32, 56] = 255
    angles = []
    for image in vary(ray, rotation=30)[..., 0]:
        rows, columns = np.indices(image.shape)
        y, x = ((place * image).sum() / image.sum() - 32 for place in (rows, columns))
        assert np.hypot(x, y) == pytest.approx(24, abs=0.3)
        angles.append(np.degrees(np.arctan2(y, x)))
    assert max(angles) == pytest.approx(30, abs=3)
    assert min(angles) == pytest.approx(-30, abs=3)


def test_a_photo_that_is_turned_and_mirrored_keeps_its_shape():
    points = np.zeros((60, 65, 65, 3), np.uint8)
    points[:, 32, 50, 0] = points[:, 44, 32, 1] = 255  # to the right, and below
    crossed = []
    for image in vary(points, rotation=180, flip=True):
        rows, columns = np.indices(image.shape[:2])
        right, below = (
            np.array([(place * image[..., c]).sum() / image[..., c].sum() - 32 for place in (columns, rows)])
            for c in (0, 1)
        )
        assert np.hypot(*right) == pytest.approx(18, abs=0.3)
        assert np.hypot(*below) == pytest.approx(12, abs=0.3)
        assert right @ below == pytest.approx(0, abs=6)
        crossed.append(float(np.sign(right[0] * below[1] - right[1] * below[0])))
    assert 15 < crossed.count(-1.0) < 45, "about half are mirrored"


def test_a_zoom_magnifies_between_its_ends_even_strong_ones():
    square = np.zeros((150, 64, 64, 3), np.uint8)
    square[:, 24:40, 24:40] = 255
    sides = [float(np.sqrt(image.sum() / 255)) / 16 for image in vary(square, zoom=(0.6, 2.1))[..., 0]]
    assert min(sides) == pytest.approx(0.6, abs=0.05)
    assert max(sides) == pytest.approx(2.1, abs=0.1)
    assert np.mean(np.log(sides)) == pytest.approx((np.log(0.6) + np.log(2.1)) / 2, abs=0.1)


def test_a_crop_shows_a_part_of_the_photo_and_nothing_beyond_it():
    # Numbers that grow to the right and downwards tell where a part comes from.
    slope = np.stack([np.tile(np.arange(64.0) * 3, (64, 1)), np.tile(np.arange(64.0) * 3, (64, 1)).T], axis=2)
    images = np.repeat(np.concatenate([slope, slope[..., :1]], axis=2)[None].astype(np.float32), 60, axis=0)
    kept = []
    for image in vary(images, crop=0.5):
        for along in (image[32, :, 0], image[:, 32, 1]):
            steps = np.diff(along[1:-1]) / 3
            assert steps.max() - steps.min() < 0.01, "no mirrored edge is seen"
            kept.append(float(steps.mean()))
    assert 0.5 <= min(kept) < 0.6
    assert 0.9 < max(kept) <= 1.0


def test_a_blur_keeps_the_light_and_takes_the_edges(scenes):
    sharp, soft = scenes.astype(np.float32), vary(scenes, blur=2.0)
    assert np.allclose(soft.mean((1, 2, 3)), sharp.mean((1, 2, 3)), atol=2)
    roughness = [float(np.abs(np.diff(images, axis=2)).mean()) for images in (sharp, soft)]
    assert roughness[1] < 0.8 * roughness[0]
    flat = np.full((3, SIZE, SIZE, 3), 200, np.uint8)
    assert np.allclose(vary(flat, blur=4.0), 200, atol=0.01), "no dark edges"


def test_a_blur_is_what_scipy_makes_of_it(scenes):
    from scipy.ndimage import gaussian_filter

    varied = vary(scenes, blur=2.0)
    best = []
    for image, soft in zip(scenes.astype(np.float64), varied, strict=True):
        fits = [
            np.abs(gaussian_filter(image, (s, s, 0), mode="reflect", radius=5) - soft).max()
            for s in np.linspace(0.05, 2, 118)
        ]
        best.append(min(fits))
    assert max(best) < 1


def test_erasing_greys_a_rectangle_of_about_as_many_as_asked():
    white = np.full((300, SIZE, SIZE, 3), 255, np.uint8)
    varied = vary(white, erasing=0.3)
    erased = (varied == 127.5).all(axis=3)
    hit = erased.any(axis=(1, 2))
    assert 60 < hit.sum() < 120
    for mask in erased[hit]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == len(rows) * len(columns)
        assert len(rows) * len(columns) <= 0.4 * SIZE * SIZE
    assert np.array_equal(varied[~hit], white[~hit])


def test_colour_changes_light_but_no_place():
    left = np.zeros((20, SIZE, SIZE, 3), np.uint8) + np.array([60, 120, 90], np.uint8)
    left[:, :, SIZE // 2 :] = (200, 100, 40)
    for image in vary(left, colour=0.7):
        assert is_like(image[:, : SIZE // 2], image[:1, :1])
        assert is_like(image[:, SIZE // 2 :], image[:1, -1:])


def test_a_mixed_precision_policy_leaves_light_as_fine_as_it_was(scenes):
    import keras

    plain = vary(scenes, colour=0.7, erasing=0.5)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        assert np.array_equal(vary(scenes, colour=0.7, erasing=0.5), plain)
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rotation": 181}, "rotation is a number from 0 to 180"),
        ({"shift": -0.1}, "shift"),
        ({"shift": float("nan")}, "shift"),
        ({"flip": 1}, "flip is true or false"),
        ({"zoom": (2.0, 0.5)}, "zoom is a share"),
        ({"zoom": (0.5, 1.0, 2.0)}, "zoom is a share"),
        ({"zoom": 1.0}, "zoom is a share"),
        ({"crop": 0.95}, "crop"),
        ({"colour": True}, "colour"),
        ({"blur": "much"}, "blur"),
        ({"erasing": 1.5}, "erasing"),
        ({"padding": "wrap"}, "padding is one of reflect, constant"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(wrong, said):
    with pytest.raises(RecipeError, match=said) as raised:
        Augmentation(**wrong)
    assert "\n" not in str(raised.value)


def test_a_sheet_shows_each_photo_beside_its_variants(scenes):
    sheet = draw_augmented(scenes[:3], Augmenter(ORIGIN, SIZE), variants=4)
    assert sheet.size == (5 * (SIZE + 4) + 4, 3 * (SIZE + 4) + 4)
    pixels = np.asarray(sheet)
    for row in range(3):
        top = 4 + row * (SIZE + 4)
        shown = [pixels[top : top + SIZE, 4 + c * (SIZE + 4) : 4 + c * (SIZE + 4) + SIZE] for c in range(5)]
        assert np.array_equal(shown[0], scenes[row])
        assert len({image.tobytes() for image in shown}) == 5
