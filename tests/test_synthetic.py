"""Drawn pets: the individual's face stays, everything else changes from photo to photo."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from petid_search.images import open_image
from petid_search.synthetic import Marking, Pet, View, pet_name, photo_bytes, write_pets

RED = (230.0, 20.0, 30.0)


def marked(x: float = -0.3, y: float = -0.5, radius: float = 0.25, individual: int = 7) -> Pet:
    return Pet.of(individual).marked(Marking(x, y, radius, RED))


def middle(mask: np.ndarray) -> tuple[float, float]:
    """Of what is marked: right and down, in shares of the image's side."""
    down, right = np.nonzero(mask)
    return float(right.mean() / mask.shape[1]), float(down.mean() / mask.shape[0])


def test_the_same_numbers_draw_the_same_pet():
    assert Pet.of(3) == Pet.of(3)
    np.testing.assert_array_equal(Pet.of(3).draw(5, size=64), Pet.of(3).draw(5, size=64))


def test_another_process_draws_the_same_image():
    code = "from petid_search.synthetic import Pet; import sys; sys.stdout.buffer.write(Pet.of(3).draw(5, size=64))"
    drawn = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert drawn == Pet.of(3).draw(5, size=64).tobytes()


def test_a_drawing_stays_as_it_was_when_it_was_first_seen():
    # Galleries and figures rest on it. Means over quarters: the last bit of a sine is the machine's own.
    quarters = Pet.of(3).draw(5, size=64).reshape(2, 32, 2, 32, 3).mean(axis=(1, 3)).reshape(-1)
    np.testing.assert_allclose(quarters, QUARTERS, atol=0.5)


@pytest.mark.parametrize("other", [Pet.of(4), Pet.of(3, seed=1)])
def test_another_individual_or_seed_is_another_pet(other):
    assert other.coat != Pet.of(3).coat
    assert other.view(0) != Pet.of(3).view(0)


def test_photo_zero_of_individual_zero_shares_nothing_with_their_neighbours():
    drawn = [Pet.of(one, seed=seed).coat for seed in (0, 1) for one in (0, 1)]
    views = [View.of(photo, individual=one, seed=seed) for seed in (0, 1) for one in (0, 1) for photo in (0, 1)]
    assert len(set(drawn)) == 4
    assert len({view.turn for view in views}) == 8


@pytest.mark.parametrize("size", [16, 61, 224])
def test_an_image_has_the_size_asked_for(size):
    image = Pet.of(1).draw(0, size=size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8


def test_a_larger_image_shows_the_same():
    small, large = (Pet.of(12).draw(1, size=size).astype(float) for size in (64, 256))
    shrunk = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small).mean() < 6  # noise and edges


def test_two_photos_differ_in_pose_light_and_background():
    views = [Pet.of(2).view(photo) for photo in range(40)]
    for name in ("turn", "tilt", "nod", "x", "y", "scale", "brightness", "warmth", "light_from", "noise", "quality"):
        assert len({getattr(view, name) for view in views}) > 20, name
    assert len({view.background for view in views}) == 4


def test_individuals_differ_in_everything_that_is_theirs():
    pets = [Pet.of(individual) for individual in range(200)]
    assert {pet.species for pet in pets} == {"dog", "cat"}
    assert {pet.ears for pet in pets} == {"pricked", "floppy", "folded", "round"}
    assert {pet.pattern for pet in pets} == {"plain", "stripes", "spots", "mask"}
    assert len({pet.coat for pet in pets}) == 200


def test_two_photos_of_one_are_more_alike_in_colour_than_those_of_two():
    def coats(individual: int) -> np.ndarray:
        return np.stack([Pet.of(individual).draw(photo, size=48)[8:28, 14:34].mean(axis=(0, 1)) for photo in range(4)])

    means = np.stack([coats(individual) for individual in range(20)])
    within = means.std(axis=1).mean()
    between = means.mean(axis=1).std(axis=0).mean()
    assert between > 1.5 * within


def test_a_placed_marking_changes_the_image_where_its_mask_is_and_nowhere_else():
    for photo in range(4):
        pet = marked()
        before, after = Pet.of(7).draw(photo, size=128).astype(int), pet.draw(photo, size=128).astype(int)
        mask = pet.marking_mask(photo, size=128)
        changed = np.abs(before - after).max(axis=2) > 40
        assert 100 < mask.sum() < 2500
        assert changed[mask].mean() > 0.9
        assert (changed & ~mask).sum() < 0.35 * mask.sum()  # its soft edge, and the photo's blur


def test_a_placed_marking_leaves_everything_else_of_the_photo_alone():
    assert marked().view(3) == Pet.of(7).view(3)


def test_the_mask_moves_with_the_head():
    at = [middle(marked().marking_mask(photo, size=96)) for photo in range(12)]
    views = [marked().view(photo) for photo in range(12)]
    assert np.corrcoef([x for x, _ in at], [view.x / 2 + 0.1 * view.turn for view in views])[0, 1] > 0.7


def test_a_marking_on_the_left_is_seen_on_the_left_of_one_on_the_right():
    left, right = (middle(marked(x).marking_mask(2, size=96)) for x in (-0.4, 0.4))
    above, below = (middle(marked(0.0, y, 0.15).marking_mask(2, size=96)) for y in (-0.7, -0.3))
    assert left[0] < right[0] - 0.1
    assert above[1] < below[1] - 0.05


def test_a_marking_under_the_muzzle_is_not_seen_where_the_muzzle_covers_it():
    pet = Pet.of(7)
    free = pet.marked(Marking(0.0, -0.6, 0.2, RED)).marking_mask(0, size=128).sum()
    covered = pet.marked(Marking(0.0, 0.4, 0.2, RED)).marking_mask(0, size=128).sum()
    assert covered < 0.3 * free


def test_a_pet_without_a_placed_marking_has_an_empty_mask():
    assert not Pet.of(7).marking_mask(0, size=32).any()


def test_pets_are_written_into_folders_of_their_names(tmp_path):
    written = write_pets(tmp_path, 2, 3, size=64)
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        f"{name}/{photo}.jpg" for name in ("Rex", "Luna") for photo in (1, 2, 3)
    ]
    assert all(open_image(path).shape == (64, 64, 3) for path in written)


def test_later_photos_and_individuals_are_other_ones(tmp_path):
    write_pets(tmp_path, 2, 2, size=48)
    later = write_pets(tmp_path, 1, 1, first=1, first_photo=1, size=48)
    assert [path.relative_to(tmp_path).as_posix() for path in later] == ["Luna/2.jpg"]
    assert later[0].read_bytes() == photo_bytes(Pet.of(1), 1, size=48)
    assert later[0].read_bytes() != (tmp_path / "Luna" / "1.jpg").read_bytes()


def test_every_individual_has_a_name_of_its_own():
    names = [pet_name(individual) for individual in range(500)]
    assert len(set(names)) == 500
    assert (names[0], names[60], names[120]) == ("Rex", "Rex 2", "Rex 3")


def test_a_photo_is_written_in_its_quality():
    pet = Pet.of(3)
    tables = []
    for photo in range(2):
        plain = io.BytesIO()
        Image.new("RGB", (8, 8)).save(plain, "JPEG", quality=pet.view(photo).quality)
        tables.append(Image.open(io.BytesIO(photo_bytes(pet, photo, size=64))).quantization)
        assert tables[-1] == Image.open(plain).quantization
    assert tables[0] != tables[1]


QUARTERS = [208.5, 214.7, 202.3, 213.9, 216.8, 206.9, 179.5, 190.7, 135.5, 191.2, 196.6, 152.1]
