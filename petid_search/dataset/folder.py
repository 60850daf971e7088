"""Which photo of a folder shows whom, told by where it lies."""

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from petid_search.errors import PhotoError
from petid_search.images import find_photos


def labelled_photos(
    folder: Path, problem: Callable[[PhotoError], object] | None = None
) -> Iterator[tuple[Path, str | None]]:
    """The photos of a folder and the individual that each shows: the sub-folder's name, at any depth below it.

    A folder without sub-folders that hold photos is one individual itself, by its own name.

    Args:
        folder: a folder of individuals' folders, or one individual's folder.
        problem: told of each folder that cannot be read, and of a folder without any photo.

    Yields:
        each photo and its individual's name, in Unicode's composed form (NFC) and without blanks around it; None for a
        photo that lies beside the individuals' folders.
    """
    problems: list[PhotoError] = []
    photos = list(find_photos(folder, problems.append))
    if not photos and not problems:
        problems.append(PhotoError(f"There is no photo in {folder}: name a folder that holds some."))
    if problem is not None:
        for one in problems:
            problem(one)
    flat = all(photo.parent == folder for photo in photos)
    for photo in photos:
        if flat:
            yield photo, tidy_name(folder.resolve().name)
        elif photo.parent == folder:
            yield photo, None
        else:
            yield photo, tidy_name(photo.relative_to(folder).parts[0])


def tidy_name(text: str) -> str:
    """An individual's name in Unicode's composed form (NFC) and without blanks around it."""
    return unicodedata.normalize("NFC", text).strip()
