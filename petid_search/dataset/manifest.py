"""The manifest of a folder: every photo with its hash, whom it shows and when it was taken."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

from petid_search.cores import usable_cores
from petid_search.dataset.folder import labelled_photos
from petid_search.errors import PhotoError
from petid_search.images import read_photo, time_taken

_DATE: Final = r"((?:19|20)\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])"
_CLOCK: Final = r"(?:(?: at |[-_. T])?([01]\d|2[0-3])[-_.:h]?([0-5]\d)[-_.:m]?([0-5]\d)(?:\d{3})?)?"
"""The time of day, maybe with milliseconds behind it, as telephones write them."""
_TIME_IN_NAME: Final = re.compile(rf"(?<!\d){_DATE}{_CLOCK}(?!\d)")


@dataclass(frozen=True, slots=True)
class LabelledPhoto:
    """A photo of a folder.

    Attributes:
        path: where it is.
        name: its path from the folder on, with `/` on every system.
        sha256: of its bytes.
        individual: whom it shows, in Unicode's composed form (NFC).
        taken: when, by its EXIF or by its file's name, without a time zone; a date where only the day is known; None
            where neither tells.
    """

    path: Path
    name: str
    sha256: str
    individual: str
    taken: datetime | date | None


def read_manifest(folder: Path, problem: Callable[[PhotoError], object] | None = None) -> list[LabelledPhoto]:
    """Read every photo of a folder of individuals' folders, in the order of `labelled_photos`; none is decoded.

    Args:
        folder: a folder of individuals' folders.
        problem: told of each photo or folder that cannot be used, and is passed over.
    """
    tell = problem or (lambda _: None)
    photos: list[tuple[Path, str]] = []
    for path, individual in labelled_photos(folder, tell):
        if individual is None:
            tell(PhotoError(f"Whom does {path} show? It lies beside the individuals' folders: move it into one."))
        else:
            photos.append((path, individual))

    def read(photo: tuple[Path, str]) -> LabelledPhoto | PhotoError:
        path, individual = photo
        try:
            data = read_photo(path)
        except PhotoError as error:
            return error
        taken = time_taken(data) or time_in_name(path.name)
        return LabelledPhoto(path, path.relative_to(folder).as_posix(), data.sha256, individual, taken)

    manifest = []
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="petid-manifest") as pool:
        for result in pool.map(read, photos):
            if isinstance(result, PhotoError):
                tell(result)
            else:
                manifest.append(result)
    return manifest


def time_in_name(name: str) -> datetime | date | None:
    """The first date in a file's name, as a datetime where the time of day follows it; None where there is no date.

    `20250401093214_20250401093754_0018.jpg` was taken at 2025-04-01 09:32:14, `IMG-20250401-WA0007.jpg` on that day.
    """
    for found in _TIME_IN_NAME.finditer(name):
        try:
            year, month, day, *clock = (None if part is None else int(part) for part in found.groups())
            if clock[0] is None:
                return date(year, month, day)  # type: ignore[arg-type]
            return datetime(year, month, day, *clock)  # type: ignore[arg-type]
        except ValueError:  # the 30th of February
            continue
    return None
