"""Where petid keeps its user's files, and bringing what was written to the disk itself, to outlast a power cut."""

import itertools
import os
from pathlib import Path

import platformdirs


def petid_home() -> Path:
    """The folder of models, weights and thumbnails: PETID_HOME, or else the platform's data folder."""
    home = os.environ.get("PETID_HOME")
    return Path(home).expanduser() if home else platformdirs.user_data_path("petid")


def free_name(stem: str, suffix: str, folder: Path = Path()) -> Path:
    """A file in a folder that is not there yet: two dogs' photos are often both called 1.jpg."""
    names = itertools.chain([f"{stem}{suffix}"], (f"{stem}-{number}{suffix}" for number in itertools.count(2)))
    return next(path for name in names if not (path := folder / name).exists())


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names after a rename, written to the disk before this returns.

    Windows keeps folders safe by itself and cannot open them: there, nothing is done for one.

    Raises:
        OSError: the disk is full or failing.
    """
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
