"""The gallery's own copies of its photos, each under the hash of its bytes."""

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from petid_search.disk import sync
from petid_search.errors import GalleryError
from petid_search.images import PHOTO_SUFFIXES, Photo

STALE_S: Final = 3600.0
_NAME: Final = re.compile(r"photos/[0-9a-f]{2}/[0-9a-f]{64}(\.[a-z0-9]{1,5})?")


class PhotoStore:
    """Photos in `photos/ab/abcd….jpg`, put there in two steps, so that a crash leaves nothing half written.

    `stage` writes bytes to `photos/incoming` and brings them to the disk; `settle`, called inside the transaction
    that enrols them, renames them to their place. A file in its place that no committed row names is an orphan of a
    killed process, and may be deleted by whoever holds SQLite's write lock.
    """

    def __init__(self, gallery: Path) -> None:
        self._gallery = gallery
        self._incoming = gallery / "photos" / "incoming"

    def name_of(self, photo: Photo) -> str:
        """The place of a photo, relative to the gallery; its own suffix is kept where it is one of a photo."""
        suffix = photo.path.suffix.lower()
        return f"photos/{photo.sha256[:2]}/{photo.sha256}{suffix if suffix in PHOTO_SUFFIXES else ''}"

    def place_of(self, name: str) -> Path:
        """Where a photo of the gallery lies.

        Raises:
            GalleryError: the name is none that `name_of` gave, and might lead out of the gallery.
        """
        if not _NAME.fullmatch(name):
            raise GalleryError(f"The gallery {self._gallery} is damaged (it names {name!r}): restore it from a backup.")
        return self._gallery / name

    def stage(self, photos: Sequence[Photo]) -> list[Path]:
        """Write photos to the disk, not yet in their place. Returns a file for each.

        Raises:
            OSError: a file cannot be written; none is left then.
        """
        self._incoming.mkdir(parents=True, exist_ok=True)
        files = [self._incoming / secrets.token_hex(16) for _ in photos]
        try:
            for photo, file in zip(photos, files, strict=True):
                file.write_bytes(photo.data)
            # All are written before the first is synced: one flush of the disk then serves the batch.
            for file in files:
                sync(file)
        except OSError:
            for file in files:
                file.unlink(missing_ok=True)
            raise
        return files

    def settle(self, staged: Sequence[tuple[Path, str]]) -> None:
        """Rename staged files to their places. Only inside the transaction that enrols them."""
        folders = set()
        for file, name in staged:
            place = self.place_of(name)
            if not place.parent.is_dir():
                place.parent.mkdir(parents=True, exist_ok=True)
                folders |= {place.parent.parent, self._gallery}
            file.replace(place)
            folders.add(place.parent)
        for folder in folders:
            sync(folder)

    def files(self) -> Iterator[str]:
        """The places of all files that are settled, relative to the gallery."""
        for folder in sorted((self._gallery / "photos").glob("[0-9a-f][0-9a-f]")):
            for file in sorted(folder.iterdir()):
                name = f"photos/{folder.name}/{file.name}"
                if file.is_file() and _NAME.fullmatch(name):
                    yield name

    def delete(self, name: str) -> None:
        """Delete a settled file, if it is there."""
        self.place_of(name).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Delete what killed processes left in `incoming`; returns how many files.

        A living one settles its files within seconds; what is older than STALE_S belongs to nobody.
        """
        stale = 0
        for file in self._incoming.glob("*"):
            with suppress(FileNotFoundError):  # settled by its process this very moment
                if time.time() - file.stat().st_mtime > STALE_S:
                    file.unlink()
                    stale += 1
        return stale
