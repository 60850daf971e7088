"""A sheet of photos as a training would see them, to look at before hours of it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petid_search.dataset import read_manifest
from petid_search.errors import DatasetError, PhotoError, RecipeError
from petid_search.images import open_image
from petid_search.models.backbones import BACKBONES
from petid_search.models.home import open_model
from petid_search.train.augment import Augmentation, Augmenter, draw_augmented
from petid_search.train.config import TrainConfig
from petid_search.train.material import photos_folder
from petid_search.train.training import augmentation_of

_PHOTOS = 6


def draw_samples(config: TrainConfig, file: Path) -> None:
    """Draw a few photos of a config's folder, each beside augmented variants of it.

    Raises:
        RecipeError: nothing is augmented, or no folder is named.
        ModelError: there is neither such a network nor such a model.
        DatasetError: there is no folder or no photo, or the sheet cannot be written.
    """
    augmentation = augmentation_of(config)
    if augmentation == Augmentation():
        raise RecipeError("Nothing is augmented: give --rotation, --shift, --flip, --zoom or another of the kind.")
    manifest = read_manifest(photos_folder(config))
    known = BACKBONES.get(config.backbone)
    own = known.size if known is not None else open_model(config.backbone).card.input_size
    size = config.size or own
    images: list[NDArray[np.uint8]] = []
    for place in np.random.default_rng(config.seed).permutation(len(manifest)):
        if len(images) < _PHOTOS:
            try:
                images.append(open_image(manifest[place].path, size))
            except PhotoError:
                continue
    if not images:
        raise DatasetError(f"There is no photo in {config.folder} that can be drawn: name another folder.")
    sheet = draw_augmented(np.stack(images), Augmenter(augmentation, size), seed=config.seed)
    try:
        sheet.save(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"The sheet cannot be written to {file} ({error}): name another file.") from error
