import numpy as np
import pytest
from PIL import Image

from petid_search.errors import DatasetError, RecipeError
from petid_search.train.config import TrainConfig
from petid_search.train.samples import draw_samples

SIZE, GAP, VARIANTS = 32, 4, 7


def cells(file) -> np.ndarray:
    """The pictures of a sheet, (rows, columns, SIZE, SIZE, 3), the photo itself in the first column."""
    sheet = np.asarray(Image.open(file).convert("RGB"))
    rows = (sheet.shape[0] - GAP) // (SIZE + GAP)
    starts = [GAP + number * (SIZE + GAP) for number in range(max(rows, VARIANTS + 1))]
    return np.stack([[sheet[y : y + SIZE, x : x + SIZE] for x in starts[: VARIANTS + 1]] for y in starts[:rows]])


def config(folder, **changes) -> TrainConfig:
    return TrainConfig(folder=str(folder), size=SIZE, **{"rotation": 15.0, "shift": 0.05, "flip": True, **changes})


def test_a_sheet_shows_photos_beside_variants_of_themselves(take_photos, tmp_path):
    draw_samples(config(take_photos(4, 3)), tmp_path / "sheet.png")
    pictures = cells(tmp_path / "sheet.png").astype(float)
    assert pictures.shape[:2] == (6, VARIANTS + 1)
    for photo, *variants in pictures:
        for variant in variants:
            assert np.abs(variant - photo).mean() > 1
            # Varied and not exchanged: its colours remain nearly those of its photo.
            assert np.abs(variant.mean((0, 1)) - photo.mean((0, 1))).max() < 30


def test_a_sheet_shows_what_the_config_says_and_no_more(take_photos, tmp_path):
    folder = take_photos(2, 2)
    draw_samples(config(folder, rotation=0.0, shift=0.0), tmp_path / "flipped.png")
    for photo, *variants in cells(tmp_path / "flipped.png").astype(int):
        same = [np.abs(variant - photo).max() <= 1 for variant in variants]
        mirrored = [np.abs(variant - photo[:, ::-1]).max() <= 1 for variant in variants]
        assert all(np.logical_xor(same, mirrored))


def test_the_same_seed_draws_the_same_sheet(take_photos, tmp_path):
    folder = take_photos(3, 3)
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        draw_samples(config(folder, seed=seed), tmp_path / name)
    first, again, other = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert first == again
    assert first != other


def test_a_photo_that_cannot_be_read_is_passed_over(take_photos, tmp_path):
    folder = take_photos(2, 2)
    (folder / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    draw_samples(config(folder), tmp_path / "sheet.png")
    assert len(cells(tmp_path / "sheet.png")) == 4


def test_what_cannot_be_drawn_is_said_in_a_line(take_photos, tmp_path):
    folder = take_photos(2, 2)
    with pytest.raises(RecipeError, match="Nothing is augmented: give --rotation"):
        draw_samples(config(folder, rotation=0.0, shift=0.0, flip=False), tmp_path / "sheet.png")
    for name in ("sheet.txt", "no-folder/sheet.png"):
        with pytest.raises(DatasetError, match=r"The sheet cannot be written to .*: name another file"):
            draw_samples(config(folder), tmp_path / name)
    assert not (tmp_path / "sheet.txt").exists()
    with pytest.raises(DatasetError, match="There is no folder"):
        draw_samples(config(tmp_path / "nowhere"), tmp_path / "sheet.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match=r"There is no photo in .* that can be drawn"):
        draw_samples(config(empty), tmp_path / "sheet.png")
