"""Photos become images here and nowhere else: opened, turned upright, decoded, brought to a size.

An *image* is an upright RGB array, uint8, (height, width, 3). Whatever a camera, a scanner or a website
may have written comes out of here as one, or as a PhotoError whose single line says what is wrong with it.
"""

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from petid_search.errors import PhotoError

FIT: Final = "stretch"
"""How a photo is brought to a network's square input; part of what a model's fingerprint stands for."""

PHOTO_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm"}
)
"""What counts as a photo when a folder is read. A photo named by itself may have any suffix, or a wrong one."""

GALLERY_FILE: Final = "gallery.db"
"""The file by which a folder is known as a gallery; its photos lie in `photos` beside it."""
MOVED_LIST: Final = "moved-by-petid.jsonl"
"""The file by which a folder is known as one that `dedup` moved photos to."""
REPORT_FILE: Final = "report.json"
SPLIT_FILE: Final = "split.csv"
"""The two files by which a folder is known as the report of an evaluation."""

MAX_BYTES: Final = 256 * 2**20
MAX_PIXELS: Final = 250_000_000
"""Limits of one photo: past them a single file could take the machine's memory (a decompression bomb)."""

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of what is decoded. It knows more, and would hand PostScript, for one, to Ghostscript to run."""

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by its EXIF orientation (Exif 2.32, table 6); 1 is upright."""

_LARGE: Final = 20_000_000
_one_large_at_a_time: Final = threading.Lock()
"""Decoded pictures of more pixels than this take their turn: else each core would hold one in memory."""

# Pillow refuses at twice its limit, which stands at 179 million pixels: today's telephones take 200.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2


@dataclass(frozen=True, slots=True)
class Photo:
    """The bytes of a photo, read once, so that what is hashed is what is decoded and what is stored.

    `data` is empty once nobody needs the bytes any more.
    """

    path: Path
    data: bytes
    sha256: str


def read_photo(path: Path) -> Photo:
    """Read a photo's bytes and their hash; nothing is decoded yet.

    Raises:
        PhotoError: there is no such file, it is not a file, it may not be read, it is empty or over MAX_BYTES.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise PhotoError(f"{path} is not a photo but a folder or a device: name the photos in it.")
        if size > MAX_BYTES:
            raise PhotoError(
                f"{path} has {size / 2**20:.0f} MB, more than the {MAX_BYTES // 2**20} MB of a photo: "
                "save it smaller and try again."
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise PhotoError(f"There is no photo {path}: check the name.") from None
    except PermissionError:
        raise PhotoError(f"{path} may not be read: give yourself the right to read it.") from None
    except (OSError, ValueError) as error:  # ValueError: there is a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise PhotoError(f"{shortened(path)} cannot be read ({reason}): check the name and the disk.") from None
    if not data:
        raise PhotoError(f"{path} is empty: copy it again from where it came.")
    return Photo(path, data, hashlib.sha256(data).hexdigest())


def decode(photo: Photo, size: int | None = None) -> NDArray[np.uint8]:
    """Turn a photo's bytes into an upright RGB image.

    The first frame of an animation is taken; transparency is laid over white; CMYK, palette and 16-bit
    pictures are brought to 8-bit RGB; the turn that EXIF tells of is made.

    Args:
        photo: the bytes, as read by `read_photo`.
        size: side in pixels of the square to fit the photo to (see FIT); None keeps its own size.

    Returns:
        uint8, (size, size, 3), or (height, width, 3) where size is None; values in [0, 255].

    Raises:
        PhotoError: the bytes are no picture, are damaged or cut short, or hold more than MAX_PIXELS.
    """
    upright = _upright(photo, size)
    if size is not None and upright.size != (size, size):
        # reducing_gap lets Pillow shrink by whole steps first: 2 to 4 times faster on large photos.
        upright = upright.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(upright, dtype=np.uint8)


def decode_grey(photo: Photo, size: int) -> NDArray[np.uint8]:
    """Turn a photo's bytes into a small upright grey image, to tell whether two photos are one picture.

    It is what Pillow's `convert("L")` and `resize((size, size), BILINEAR)` make of the upright RGB picture. A picture
    whose shorter side has 16 times the size or more is first brought to at least 8 times by whole steps (a JPEG as it
    is decoded, another by averaging), which changes a grey level by 2 at most, and most of them not.

    Args:
        photo: the bytes, as read by `read_photo`.
        size: side in pixels of the square to fit the photo to.

    Returns:
        uint8, (size, size), values in [0, 255]: luma of ITU-R BT.601.

    Raises:
        PhotoError: the bytes are no picture, are damaged or cut short, or hold more than MAX_PIXELS.
    """
    grey = _upright(photo, 4 * size).convert("L")
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)


def open_image(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    """Read and decode one photo: `read_photo`, then `decode`."""
    return decode(read_photo(path), size)


def time_taken(photo: Photo) -> datetime | None:
    """When the photo was taken, by the clock of its camera, as its EXIF says; None where it does not.

    Source: Exif 2.32, DateTimeOriginal, else DateTimeDigitized.
    """
    # Searching bytes is a hundred times faster than opening a picture, and most pictures from the web carry no EXIF.
    if not any(mark in photo.data for mark in (b"Exif", b"eXIf", b"EXIF")):
        return None
    try:
        with Image.open(io.BytesIO(photo.data), formats=_formats(photo.data)) as opened:
            details = opened.getexif().get_ifd(ExifTags.IFD.Exif)
        for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized):
            if tag in details:
                return datetime.strptime(str(details[tag])[:19], "%Y:%m:%d %H:%M:%S")
    except Exception:  # broken metadata is no reason to refuse a whole picture
        return None
    return None


@dataclass(frozen=True, slots=True)
class Header:
    """What a photo's file says before it is decoded: size in pixels, upright; Pillow's name of its format; frames."""

    width: int
    height: int
    format: str
    frames: int


def read_header(photo: Photo) -> Header:
    """Read a photo's size, format and number of frames, without decoding it.

    Raises:
        PhotoError: the bytes are no picture, or damaged.
    """
    with _opened(photo) as picture:
        width, height = picture.size
        if _turn(picture) in (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]):
            width, height = height, width
        return Header(width, height, picture.format or "", int(getattr(picture, "n_frames", 1)))


def is_folder(path: Path) -> bool:
    """Whether there is a folder; not, where one cannot even look: `read_photo` tells why."""
    try:
        return path.is_dir()
    except OSError:
        return False


def find_photos(folder: Path, unread: Callable[[PhotoError], object] | None = None) -> Iterator[Path]:
    """The photos of a folder and of all folders below it, by suffix; a folder's own first, each kind by name.

    Hidden files and folders (a leading dot) are passed over, and so are the photos of a gallery, those that `dedup`
    moved aside and the plots of an evaluation, unless they are what is asked for; links to folders are followed once.

    Args:
        folder: where to look.
        unread: told of each folder that cannot be read, and is passed over.
    """

    def tell(error: OSError) -> None:
        if unread is not None:
            unread(
                PhotoError(f"The folder {error.filename} cannot be read ({error.strerror}): check the rights to it.")
            )

    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=tell, followlinks=True):
        here = Path(parent).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(
            name
            for name in folders
            if not (name.startswith(".") or is_set_apart(Path(parent, name)) or is_report(Path(parent, name)))
        )
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in PHOTO_SUFFIXES:
                yield Path(parent, name)


def is_set_apart(folder: Path) -> bool:
    """Whether a folder holds a gallery's own photos, or what `dedup` moved aside."""
    try:
        is_store = folder.name == "photos" and (folder.parent / GALLERY_FILE).exists()
        return is_store or (folder / MOVED_LIST).exists()
    except OSError:  # reading it will tell what is wrong
        return False


def is_report(folder: Path) -> bool:
    """Whether a folder holds the report of an evaluation."""
    try:
        return (folder / REPORT_FILE).exists() and (folder / SPLIT_FILE).exists()
    except OSError:  # reading it will tell what is wrong
        return False


def shortened(path: Path) -> str:
    """A path for a message: one that is much too long to be right is told by its beginning and its end."""
    text = str(path)
    return text if len(text) <= 300 else f"{text[:99]}…{text[-199:]}"


def _upright(photo: Photo, size: int | None) -> Image.Image:
    with _opened(photo) as opened:
        if size is not None:
            # A JPEG is then decoded at a half, a quarter or an eighth: 5 times faster, 0.4 grey levels off.
            opened.draft("RGB", (2 * size, 2 * size))
        with _one_large_at_a_time if opened.width * opened.height > _LARGE else nullcontext():
            opened.load()
            turn = _turn(opened)
            upright = _to_rgb(opened if size is None else _reduced(opened, size))
        return upright if turn is None else upright.transpose(turn)


@contextmanager
def _opened(photo: Photo) -> Iterator[Image.Image]:
    """The picture of a photo's bytes; whatever is wrong with it, while it is open, is said in a line."""
    try:
        with Image.open(io.BytesIO(photo.data), formats=_formats(photo.data)) as opened:
            yield opened
    except UnidentifiedImageError:
        raise PhotoError(f"{photo.path} is not a photo that petid can read: save it as JPEG or PNG.") from None
    except Image.DecompressionBombError:
        raise PhotoError(
            f"{photo.path} has more than the {MAX_PIXELS // 10**6} million pixels that petid reads: save it smaller."
        ) from None
    except MemoryError:
        raise PhotoError(f"{photo.path} does not fit in memory: save it smaller.") from None
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more on damage.
        reason = " ".join(str(error).split())
        raise PhotoError(
            f"{photo.path} is damaged or cut short ({reason}): copy it again from where it came."
        ) from error


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What brings a picture upright, as its EXIF says; broken metadata is no reason to refuse a whole picture."""
    # Not ImageOps.exif_transpose: it writes the metadata again, and fails where any of it is broken.
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None


def _reduced(picture: Image.Image, size: int) -> Image.Image:
    """The picture shrunk by a whole step to no less than twice the size, before it is copied from mode to mode."""
    step = min(picture.size) // (2 * size)
    # Palettes cannot be averaged, nor can the one colour of an RGB picture that stands for transparent.
    if step < 2 or picture.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") or "transparency" in picture.info:
        return picture
    return picture.reduce(step)


def _to_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB of any mode that Pillow opens."""
    if picture.mode.startswith(("I", "F")):
        return _scaled_to_8_bits(picture).convert("RGB")
    if picture.has_transparency_data:
        whole = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _scaled_to_8_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floating point, brought to 8 bits; Pillow's own conversion clips at 255."""
    grey = np.asarray(picture, dtype=np.float32)
    brightest = float(grey.max(initial=0.0, where=np.isfinite(grey)))
    if picture.mode.startswith("I;16"):
        white = 65535.0
    elif picture.mode == "F" and brightest <= 1.0:
        white = 1.0
    else:
        white = max(255.0, brightest)
    grey = np.nan_to_num(grey, posinf=white)
    return Image.fromarray(np.rint(np.clip(grey / white, 0.0, 1.0) * 255.0).astype(np.uint8))


def _formats(data: bytes) -> tuple[str, ...]:
    """What the bytes may be. Telephones write HEIC; its decoder is only imported for a file that looks like one."""
    if data[4:8] != b"ftyp" or data[8:12] in (b"avif", b"avis"):
        return _FORMATS
    if "HEIF" not in Image.OPEN:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return (*_FORMATS, "HEIF")
