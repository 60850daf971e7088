"""Thumbnails and qualities of photos, kept by the hash of their bytes: what was decoded once is not decoded again.

They lie in a SQLite file in petid's home, which may be deleted at any time and is done without where it cannot be used.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from petid_search.cores import usable_cores
from petid_search.dedup.choice import Quality, measure_quality
from petid_search.dedup.ssim import SIZE
from petid_search.disk import petid_home
from petid_search.errors import PhotoError
from petid_search.images import decode_grey, read_photo

_VERSION: Final = 1
"""Of how a thumbnail is made and a quality measured; a file of another version is begun anew."""
_CHUNK: Final = 512
_PART: Final = 16
_PATIENCE_S: Final = 10.0
_SETTLED_NS: Final = 2 * 10**9
"""A file that changed so shortly before it was read may change again within one tick of its file system's clock."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A photo as it was read: where it lies, the hash of its bytes, and its thumbnail, uint8, (32, 32)."""

    path: Path
    sha256: str
    thumbnail: NDArray[np.uint8]


class ThumbnailStore:
    """Thumbnails and qualities by hash, and hashes by where a file lies and when it changed. For one thread.

    Args:
        file: the SQLite file; None for `thumbnails.db` in petid's home. Where it is damaged it is begun anew; where it
            cannot be written, what is made is forgotten afterwards.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._db = _open(petid_home() / "thumbnails.db" if file is None else file)
        self._asking = threading.Lock()

    def close(self) -> None:
        """Close the file. The object is of no use afterwards."""
        self._db.close()

    def __enter__(self) -> "ThumbnailStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, paths: Sequence[Path], advance: Callable[[int], object] | None = None) -> list[Picture | PhotoError]:
        """Thumbnails of photos, in their order; in place of one that cannot be read, the reason.

        All cores read and decode. A photo whose file is as it was last time is not read again.

        Args:
            paths: the photos.
            advance: told how many more are done.
        """
        results: list[Picture | PhotoError] = []
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="petid-thumbnail") as pool:
            for start in range(0, len(paths), _CHUNK):
                chunk = paths[start : start + _CHUNK]
                stamps = [_stamp(path) for path in chunk]
                found = self._known(chunk, stamps)
                unknown = [place for place, picture in enumerate(found) if picture is None]
                read_at = time.time_ns()
                parts = [unknown[part : part + _PART] for part in range(0, len(unknown), _PART)]
                made = chain.from_iterable(
                    pool.map(lambda part, chunk=chunk: [self._make(chunk[i]) for i in part], parts)
                )
                news = []
                for place, result in zip(unknown, made, strict=True):
                    found[place] = result
                    if isinstance(result, Picture):
                        stamp = stamps[place]
                        settled = stamp is not None and read_at - max(stamp[2:4]) > _SETTLED_NS
                        news.append((result, stamp if settled else None))
                self._keep(news)
                results += [result for result in found if result is not None]
                if advance is not None:
                    advance(len(chunk))
        return results

    def measure(
        self, pictures: Sequence[Picture], advance: Callable[[int], object] | None = None
    ) -> list[Quality | PhotoError]:
        """Qualities of pictures, in their order; in place of one whose photo cannot be read any more, the reason.

        Args:
            pictures: as `read` gave them.
            advance: told how many more are done.
        """
        results: list[Quality | PhotoError] = []
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="petid-quality") as pool:
            for start in range(0, len(pictures), _CHUNK):
                chunk = pictures[start : start + _CHUNK]
                known: dict[str, Quality] = {}
                with suppress(sqlite3.Error):
                    for sha256, *quality in self._db.execute(
                        "SELECT * FROM qualities WHERE sha256 IN (SELECT value FROM json_each(?))",
                        [json.dumps([picture.sha256 for picture in chunk])],
                    ):
                        known[sha256] = Quality(*quality)
                done = pool.map(lambda one, known=known: known.get(one.sha256) or _measure(one.path), chunk)
                for picture, result in zip(chunk, done, strict=True):
                    results.append(result)
                    if isinstance(result, Quality) and picture.sha256 not in known:
                        with suppress(sqlite3.Error), self._db.conn:
                            self._db.execute(
                                "INSERT OR IGNORE INTO qualities VALUES (?, ?, ?, ?, ?, ?)",
                                [picture.sha256, *astuple(result)],
                            )
                    if advance is not None:
                        advance(1)
        return results

    def _known(self, paths: Sequence[Path], stamps: "Sequence[_Stamp | None]") -> list[Picture | PhotoError | None]:
        """The pictures of files that are as they were; None for the others."""
        rows: dict[_Stamp | None, tuple[str, bytes]] = {}
        with suppress(sqlite3.Error):
            for *stamp, sha256, pixels in self._db.execute(
                "SELECT f.path, f.size, f.modified_ns, f.changed_ns, f.inode, t.sha256, t.pixels FROM json_each(?) j "
                "CROSS JOIN files f ON f.path = j.value CROSS JOIN thumbnails t ON t.sha256 = f.sha256",
                [json.dumps([stamp[0] for stamp in stamps if stamp is not None])],
            ):
                rows[tuple(stamp)] = sha256, pixels
        return [
            Picture(path, rows[stamp][0], _pixels(rows[stamp][1])) if stamp in rows else None
            for path, stamp in zip(paths, stamps, strict=True)
        ]

    def _make(self, path: Path) -> Picture | PhotoError:
        try:
            photo = read_photo(path)
            row = None
            with self._asking, suppress(sqlite3.Error):
                row = self._db.execute("SELECT pixels FROM thumbnails WHERE sha256 = ?", [photo.sha256]).fetchone()
            return Picture(path, photo.sha256, decode_grey(photo, SIZE) if row is None else _pixels(row[0]))
        except PhotoError as error:
            return error

    def _keep(self, pictures: "Sequence[tuple[Picture, _Stamp | None]]") -> None:
        # What cannot be kept, since the disk is full or another process is writing, is made again next time.
        with suppress(sqlite3.Error), self._db.conn:
            for picture, stamp in pictures:
                self._db.execute(
                    "INSERT OR IGNORE INTO thumbnails VALUES (?, ?)", [picture.sha256, picture.thumbnail.tobytes()]
                )
                if stamp is not None:
                    self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", [*stamp, picture.sha256])


_Stamp = tuple[str, int, int, int, int]
"""A file's absolute path, size in bytes, times of change of its bytes and of its inode in nanoseconds, and inode.

Programs that copy a photo's time of change along cannot do so with the inode's.
"""


def _stamp(path: Path) -> _Stamp | None:
    """What tells whether a file is as it was; None where that cannot be told or written down."""
    try:
        name = str(path.absolute())
        name.encode()
        status = path.stat()
    except (OSError, ValueError):
        return None
    # SQLite's integers have a sign, and some file systems' inodes 64 bits.
    return name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino % 2**63


def _measure(path: Path) -> Quality | PhotoError:
    try:
        return measure_quality(read_photo(path))
    except PhotoError as error:
        return error


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).reshape(SIZE, SIZE)


def _open(file: Path) -> Database:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _prepared(file)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            for suffix in ("", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
            return _prepared(file)
    except (OSError, sqlite3.Error):
        return _prepared(":memory:")


def _prepared(file: Path | str) -> Database:
    connection = sqlite3.connect(file, timeout=_PATIENCE_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            for table in ("files", "thumbnails", "qualities"):
                connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute("CREATE TABLE thumbnails (sha256 TEXT PRIMARY KEY, pixels BLOB NOT NULL)")
            connection.execute(
                "CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, "
                "changed_ns INTEGER NOT NULL, inode INTEGER NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID"
            )
            connection.execute(
                "CREATE TABLE qualities (sha256 TEXT PRIMARY KEY, width INTEGER NOT NULL, height INTEGER NOT NULL, "
                "sharpness REAL NOT NULL, format TEXT NOT NULL, frames INTEGER NOT NULL) WITHOUT ROWID"
            )
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return Database(connection)
