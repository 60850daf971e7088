"""The folder of a training: whose it is, what is kept there while it goes on, and what is cleared away afterwards."""

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Final

from petid_search.dataset import write_split
from petid_search.dataset.splits import Split
from petid_search.disk import sync
from petid_search.errors import DatasetError
from petid_search.images import REPORT_FILE, SPLIT_FILE
from petid_search.train.config import TrainConfig
from petid_search.train.recipe import write_recipe

RECIPE_FILE: Final = "recipe.toml"
CHECKPOINT_FILE: Final = "checkpoint.npz"
CACHE: Final = "cache"
"""The folder, in that of the training, of decoded photos and features."""


def claim(output: Path, config: TrainConfig) -> bool:
    """Make the output's folder this training's; whether it is already, and the training goes on.

    Another training is in nobody's way if it stopped before its first checkpoint, as by a wrong name of weights.

    Raises:
        DatasetError: it holds another training, or cannot be written.
    """
    file = output / RECIPE_FILE
    try:
        output.mkdir(parents=True, exist_ok=True)
        fresh = output / f".{RECIPE_FILE}"
        write_recipe(config, fresh)
        begun = (output / CHECKPOINT_FILE).exists()
        if begun or (output / REPORT_FILE).exists():
            same = file.exists() and file.read_bytes() == fresh.read_bytes()
            apart = _apart(file, fresh)
            fresh.unlink()
            if not same:
                raise DatasetError(
                    f"{output} holds another training{apart}: go on with that one, or name another "
                    "--output or --name, or delete it."
                )
            return begun
        fresh.replace(file)
    except OSError as error:
        raise _unwritable(output, error) from error
    return False


def _apart(file: Path, fresh: Path) -> str:
    """In which words two recipes differ, as a clause; empty where one of them cannot be read."""
    try:
        one, other = (tomllib.loads(recipe.read_text(encoding="utf-8")) for recipe in (file, fresh))
    except (OSError, ValueError):
        return ""
    words = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
    return f", with another {', '.join(words[:3])}{' and more' if len(words) > 3 else ''}" if words else ""


def keep(split: Split, output: Path) -> None:
    """Write the split, whole or not at all: a training that is taken up again goes by it.

    Raises:
        DatasetError: it cannot be written.
    """
    partial = output / f".{SPLIT_FILE}"
    try:
        write_split(split, partial)
        sync(partial)
        partial.replace(output / SPLIT_FILE)
    except OSError as error:
        raise _unwritable(output, error) from error


def _unwritable(output: Path, error: OSError) -> DatasetError:
    return DatasetError(f"{output} cannot be written ({error.strerror}): make room, or name another --output.")


def clear(cache: Path) -> None:
    """Delete what a training has written there, and the folder if it was its own: a name as common may be another's."""
    for kind in ("decoded.npy", "decoded.done", "decoded.json", "features.npy", "features.json"):
        with suppress(OSError):
            (cache / kind).unlink()
    with suppress(OSError):
        cache.rmdir()
