"""Published weight files: downloaded once, checked, and kept.

A download goes into `NAME.part`, goes on where it was cut off, and becomes `NAME` only when it is whole, so a file
under its own name is never half a file.

keras-vggface publishes no checksums of its files, and none were found elsewhere. So they are trusted on first use:
the sha256 of the first whole download (as long as the server said, and no web page) is written to `NAME.sha256`, and
the file must match it ever after. That shows damage and later exchange, not a file that was wrong from the start.
A file put into the folder by hand is taken in the same way.
"""

import hashlib
import http.client
import os
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from petid_search.disk import petid_home
from petid_search.errors import ModelError

Progress = Callable[[int, int | None], None]
"""Called while a download goes on: bytes that are here, and bytes there will be, or None if nobody said."""

_SECONDS_OF_SILENCE: Final = 30
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class WeightsFile:
    """A weight file that somebody publishes.

    Attributes:
        name: the file's name, in the cache too.
        url: where it is published.
        sha256: of the whole file, 64 hexadecimal digits; None if nobody published one: trusted on first use.
        size: of the whole file, in bytes; None if not known.
    """

    name: str
    url: str
    sha256: str | None = None
    size: int | None = None


def _vggface_file(network: str, *, top: bool, size: int | None = None) -> WeightsFile:
    name = f"rcmalli_vggface_tf_{'' if top else 'notop_'}{network}.h5"
    return WeightsFile(name, f"https://github.com/rcmalli/keras-vggface/releases/download/v2.0/{name}", size=size)


VGGFACE: Final[dict[tuple[Literal["vgg16", "resnet50", "senet50"], bool], WeightsFile]] = {
    ("vgg16", False): _vggface_file("vgg16", top=False),
    ("vgg16", True): _vggface_file("vgg16", top=True),
    # The one size on record: https://github.com/shaoanlu/faceswap-GAN/issues/181 quotes the server's.
    ("resnet50", False): _vggface_file("resnet50", top=False, size=94_694_792),
    ("resnet50", True): _vggface_file("resnet50", top=True),
    ("senet50", False): _vggface_file("senet50", top=False),
    ("senet50", True): _vggface_file("senet50", top=True),
}
"""The original files of keras-vggface by network and whether they hold its top.

Trained by the Visual Geometry Group, University of Oxford, on VGGFace (vgg16: Parkhi et al., BMVC 2015) and
VGGFace2 (resnet50, senet50: Cao et al., FG 2018, arXiv:1710.08092), converted from Caffe by R. C. Malli. The code of
keras-vggface is MIT; of the weights its README says that the original models are for non-commercial research
purposes under a Creative Commons Attribution licence. Oxford's own pages are what counts:
https://www.robots.ox.ac.uk/~vgg/software/vgg_face/ and https://github.com/ox-vgg/vgg_face2.
"""


def weights_folder() -> Path:
    """Where weight files are kept: `weights` in petid's home."""
    return petid_home() / "weights"


def fetch(spec: WeightsFile, *, directory: Path | None = None, progress: Progress | None = None) -> Path:
    """Return a weight file that is whole and checked, downloading it unless it is there already.

    Any number of processes may ask for the same file at the same time: one downloads, the others wait for it.

    Args:
        spec: which file.
        directory: where it is kept; `weights_folder()` by default. Made if need be.
        progress: told after each piece of a download.

    Returns:
        The path of the file.

    Raises:
        ModelError: the file cannot be downloaded or written, or is not the file it should be.
    """
    folder = weights_folder() if directory is None else directory
    path = folder / spec.name
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder / f".{spec.name}.lock"):
                if not path.exists():
                    _download(spec, path, progress)
        if problem := _problem(path, spec, record=_record(path)):
            raise ModelError(f"{path} {problem}: delete it and run the command again.")
    except (OSError, sqlite3.Error) as error:
        raise ModelError(
            f"{folder} cannot be used ({_one_line(error)}): "
            "make it writable and make room there, or set PETID_HOME to a folder that can be."
        ) from error
    return path


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is in here with the same lock file, which stays behind, empty.

    It is SQLite's lock: alike on every platform, and released by the system however the process ends.
    """
    with closing(sqlite3.connect(lock, timeout=1, isolation_level=None)) as connection:
        while not connection.in_transaction:
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
        yield


def _download(spec: WeightsFile, path: Path, progress: Progress | None) -> None:
    """Bring `path` into being: whole, checked, and at once.

    Raises:
        ModelError: the server could not be reached, refused, went silent, or served another file.
    """
    part = path.with_name(f"{path.name}.part")
    otherwise = f"Get it by other means and put it at {path}, or name it with `--weights FILE`."
    whole = False
    while not whole:
        before = _length(part)
        try:
            whole = _attempt(spec, part, progress)
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
        except _NetworkError as error:
            reason = _one_line(error.__cause__ or error)
        kept = _length(part)
        if not whole and kept <= before:  # as long as each attempt brings more, another is worth it
            goes_on = f" ({kept:,} bytes are kept: run the command again to go on from there)" if kept else ""
            raise ModelError(f"Could not download {spec.url}: {reason}{goes_on}. {otherwise}")
    if problem := _problem(part, spec, record=_record(path)):
        part.unlink()
        raise ModelError(f"What {spec.url} serves {problem}; it was not kept. {otherwise}")
    part.replace(path)


class _NetworkError(Exception):
    """The network failed, as opposed to the disk: both raise OSError."""


def _attempt(spec: WeightsFile, part: Path, progress: Progress | None) -> bool:
    """Ask for what `part` lacks and add it; whether `part` is whole then, as far as the server told its length."""
    have = _length(part)
    request = urllib.request.Request(spec.url, headers={"User-Agent": "petid"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS_OF_SILENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return True  # cut off after the last byte, before the file got its name
            part.unlink()
            return _attempt(spec, part, progress)
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise _NetworkError("it answered with a web page")
        start, total = _extent(response)
        if start not in (0, have):
            raise _NetworkError(f"it answered from byte {start} where {have} was asked for")
        total = spec.size if total is None else total
        with part.open("r+b" if start else "wb") as file:
            done = file.seek(start)
            while True:
                if progress:
                    progress(done, total)
                try:
                    piece = response.read(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise _NetworkError from error
                if not piece:
                    break
                done += file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    return total is None or done >= total


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where in the file the answer starts, and how long the whole file is, in bytes."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found:
            raise _NetworkError("it answered with a part of the file, and did not say which")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _problem(file: Path, spec: WeightsFile, *, record: Path) -> str | None:
    """How a file differs from what was published or, where that is not known, from what was first used."""
    size = file.stat().st_size
    if spec.size is not None and size != spec.size:
        return f"has {size:,} bytes where {spec.size:,} are right"
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if spec.sha256 is not None:
        wanted = spec.sha256.lower()
        return None if found == wanted else f"has the sha256 {found} where {wanted} is right"
    first_used = record.read_text().split() if record.exists() else []
    if not first_used:
        record.write_text(f"{found}  {spec.name}\n")  # as sha256sum writes it, and can check it
        return None
    if found == first_used[0]:
        return None
    return f"has the sha256 {found} where {record}, made when it was first used, has {first_used[0]}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
