"""Whatever a camera, a scanner or a website wrote becomes an upright RGB image, or an error in one line."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, features
from rights import run_bound_by_rights

from petid_search.errors import PhotoError
from petid_search.images import (
    GALLERY_FILE,
    MAX_BYTES,
    MOVED_LIST,
    PHOTO_SUFFIXES,
    decode,
    find_photos,
    open_image,
    read_header,
    read_photo,
)

# Four corners of four colours, half as high as it is wide: no turn and no mirror image of it looks the same.
CORNERS = np.kron(
    np.array([[[220, 30, 30], [30, 200, 40]], [[40, 60, 210], [230, 220, 40]]], np.uint8),
    np.ones((16, 32, 1), np.uint8),
)


def real_like(height: int, width: int) -> np.ndarray:
    """An image with the spectrum of a photograph (amplitude falls as 1/f), in colour, with a hard edge in it."""
    rng = np.random.default_rng(5)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width) + 1.0
    planes = []
    for _ in range(3):
        spectrum = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        plane = np.fft.irfft2(spectrum / frequency, s=(height, width))
        planes.append(128 + 45 * (plane - plane.mean()) / plane.std())
    image = np.stack(planes, axis=-1)
    image[height // 3 : height // 2, width // 4 : width // 2] *= 0.4
    return np.clip(image, 0, 255).astype(np.uint8)


def encode(picture: Image.Image | np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(picture: np.ndarray) -> bytes:
    """With all of its colour, as a camera's best setting keeps it."""
    return encode(picture, "JPEG", quality=95, subsampling=0)


def heic(picture: np.ndarray, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    try:
        return encode(picture, "HEIF", quality=95, **options)
    except (KeyError, RuntimeError, ValueError) as error:
        pytest.skip(f"this pillow_heif cannot write HEIC: {error}")


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG, written by hand as ISO/IEC 15948 says: Pillow cannot write 16-bit colour, nor a picture without pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_exif(picture: bytes, tiff: bytes) -> bytes:
    """A JPEG with these bytes as its EXIF block."""
    block = b"Exif\0\0" + tiff
    return picture[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + picture[2:]


def exif(*entries: bytes) -> bytes:
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + b"".join(entries) + b"\0\0\0\0"


def orientation(value: int) -> bytes:
    return struct.pack(">HHIHH", 0x0112, 3, 1, value, 0)


@pytest.fixture
def photo(tmp_path):
    """Writes bytes to a file of the test's own and gives its path."""

    def write(data: bytes, name: str = "photo.jpg") -> Path:
        file = tmp_path / name
        file.write_bytes(data)
        return file

    return write


def difference(image: np.ndarray, expected: np.ndarray) -> float:
    assert image.shape == expected.shape
    assert image.dtype == np.uint8
    return float(np.abs(image.astype(float) - expected).mean())


def refused(path: Path, *words: str) -> str:
    """The one line that says why a photo cannot be used."""
    with pytest.raises(PhotoError) as caught:
        open_image(path, 32)
    line = str(caught.value)
    assert "\n" not in line
    for word in (path.name if len(path.name) < 200 else "…", *words):
        assert word in line
    return line


# Formats


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_a_lossless_photo_is_decoded_to_its_very_pixels(photo, form):
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(open_image(photo(encode(CORNERS, form, **options))), CORNERS)


@pytest.mark.parametrize(("options", "limit"), [({"subsampling": 0}, 1.0), ({}, 4.0), ({"progressive": True}, 4.0)])
def test_a_jpeg_is_decoded_to_about_its_pixels(photo, options, limit):
    assert difference(open_image(photo(encode(CORNERS, "JPEG", quality=95, **options))), CORNERS) < limit


def test_a_heic_of_a_telephone_is_decoded_and_turned_once(photo):
    assert difference(open_image(photo(heic(CORNERS))), CORNERS) < 4.0
    turned = heic(CORNERS.transpose(1, 0, 2)[::-1].copy(), exif=b"Exif\0\0" + exif(orientation(6)))
    assert difference(open_image(photo(turned)), CORNERS) < 4.0


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_an_avif_is_decoded_and_turned_once(photo):
    assert difference(open_image(photo(encode(CORNERS, "AVIF", quality=95))), CORNERS) < 4.0
    turned = encode(CORNERS.transpose(1, 0, 2)[::-1].copy(), "AVIF", quality=95, exif=exif(orientation(6)))
    assert difference(open_image(photo(turned)), CORNERS) < 4.0


def test_a_wrong_suffix_does_not_matter(photo):
    assert np.array_equal(open_image(photo(encode(CORNERS, "PNG"), "dog.jpg")), CORNERS)
    assert np.array_equal(open_image(photo(encode(CORNERS, "BMP"), "dog.txt")), CORNERS)
    assert np.array_equal(open_image(photo(encode(CORNERS, "TIFF"), "dog")), CORNERS)


# Kinds of pixels


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(photo, form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(io.BytesIO(data)) as animation:
        assert animation.n_frames == 3
    assert (open_image(photo(data)) == (255, 0, 0)).all()


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_becomes_the_colours_it_stands_for(photo, form):
    inks = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 255, 255, 0): (255, 0, 0)}
    inks |= {(0, 0, 0, 255): (0, 0, 0), (0, 0, 255, 0): (255, 255, 0)}
    for ink, colour in inks.items():
        image = open_image(photo(encode(Image.new("CMYK", (16, 16), ink), form)))
        assert difference(image, np.broadcast_to(colour, (16, 16, 3))) < 2.0


@pytest.mark.parametrize(("form", "order"), [("PNG", "<"), ("TIFF", "<"), ("TIFF", ">"), ("PPM", "<")])
def test_16_bit_grey_keeps_its_shades(photo, form, order):
    shades = np.linspace(0, 65535, 64).astype(np.uint16).reshape(4, 16)
    mode = {"<": "I;16", ">": "I;16B"}[order]
    picture = Image.frombytes(mode, (16, 4), shades.astype(f"{order}u2").tobytes())
    expected = np.rint(shades / 257.0)[..., None].repeat(3, axis=-1)
    assert difference(open_image(photo(encode(picture, form))), expected) == 0.0


def test_a_dark_16_bit_photo_stays_dark(photo):
    dark = np.full((4, 4), 2570, np.uint16)
    assert (open_image(photo(encode(dark, "PNG"))) == 10).all()
    assert (open_image(photo(encode(dark, "TIFF"))) == 10).all()


def test_16_bit_colour_keeps_its_colours(photo):
    row = b"\0" + np.full((5, 3), (65535, 25700, 0), ">u2").tobytes()
    assert (open_image(photo(png(5, 2, 16, 2, row * 2))) == (255, 100, 0)).all()


def test_a_float_tiff_is_read_in_shares_of_one_and_in_grey_levels(photo):
    ramp = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    expected = np.rint(ramp * 255)[..., None].repeat(3, axis=-1)
    assert difference(open_image(photo(encode(ramp, "TIFF"))), expected) == 0.0
    assert difference(open_image(photo(encode(ramp * 255, "TIFF"))), expected) == 0.0
    assert difference(open_image(photo(encode(ramp * 65535, "TIFF"))), expected) == 0.0


def test_what_is_no_number_in_a_float_tiff_spoils_no_other_pixel(photo):
    odd = np.array([[0.0, 0.2, 1.0], [np.nan, np.inf, -np.inf]], np.float32)
    image = open_image(photo(encode(odd, "TIFF")))
    assert image[..., 0].tolist() == [[0, 51, 255], [0, 255, 0]]


def test_32_bit_grey_is_not_clipped(photo):
    grey = np.array([[0, 32768, 65535]], np.int32)
    assert open_image(photo(encode(grey, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_is_laid_over_white(photo):
    half_red = Image.new("RGBA", (4, 4), (255, 0, 0, 51))
    assert (open_image(photo(encode(half_red, "PNG"))) == (255, 204, 204)).all()
    assert (open_image(photo(encode(half_red, "WEBP", lossless=True))) == (255, 204, 204)).all()
    half_black = Image.new("LA", (4, 4), (0, 51))
    assert (open_image(photo(encode(half_black, "PNG"))) == 204).all()
    # What is behind full transparency is no part of the picture, whatever colour an editor left there.
    assert (open_image(photo(encode(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "PNG"))) == 255).all()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_palette_keeps_its_colours_and_its_transparent_one_is_white(photo, form):
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    picture.putdata([0, 1, 2])
    plain = open_image(photo(encode(picture, form)))
    assert plain[0].tolist() == [[10, 20, 30], [200, 100, 50], [0, 0, 0]]
    holed = open_image(photo(encode(picture, form, transparency=2)))
    assert holed[0].tolist() == [[10, 20, 30], [200, 100, 50], [255, 255, 255]]


def test_one_bit_is_black_and_white(photo):
    picture = Image.fromarray(np.array([[True, False, True]]))
    assert picture.mode == "1"
    for form in ("PNG", "TIFF"):
        assert open_image(photo(encode(picture, form)))[0].tolist() == [[255] * 3, [0] * 3, [255] * 3]


def test_grey_has_three_equal_channels(photo):
    assert (open_image(photo(encode(Image.new("L", (9, 5), 77), "PNG"))) == np.full((5, 9, 3), 77)).all()


# Upright


# How rows and columns of the file lie on the upright picture: Exif 2.32, table 6.
STORED = {
    1: CORNERS,  # first row: top, first column: left
    2: CORNERS[:, ::-1],  # top, right
    3: CORNERS[::-1, ::-1],  # bottom, right
    4: CORNERS[::-1],  # bottom, left
    5: CORNERS.transpose(1, 0, 2),  # left, top
    6: CORNERS.transpose(1, 0, 2)[::-1],  # right, top
    7: CORNERS.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: CORNERS.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("turn", STORED)
def test_every_exif_turn_is_undone(photo, turn):
    stored = np.ascontiguousarray(STORED[turn])
    file = photo(with_exif(jpeg(stored), exif(orientation(turn))))
    assert difference(open_image(file), CORNERS) < 2.0
    assert difference(open_image(file, 4)[::3, ::3], CORNERS[::31, ::63]) < 2.0
    other = Image.Exif()
    other[0x0112] = turn
    for form in ("PNG", "TIFF"):
        assert np.array_equal(open_image(photo(encode(stored, form, exif=other))), CORNERS)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_turn_that_does_not_exist_is_none(photo, value):
    file = photo(with_exif(jpeg(CORNERS), exif(orientation(value))))
    assert difference(open_image(file), CORNERS) < 2.0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"no EXIF at all",
        bytes(range(256)),
        exif(orientation(1))[:12],  # cut short
        b"MM\0*\xff\xff\xff\xff",  # its table lies past its end
        b"MM\0*\0\0\0\x08\0\0\0\0\0\x08",  # its next table is itself
    ],
)
def test_a_broken_exif_block_does_not_spoil_the_photo(photo, block):
    assert difference(open_image(photo(with_exif(jpeg(CORNERS), block))), CORNERS) < 2.0
    for form in ("PNG", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        assert np.array_equal(open_image(photo(encode(CORNERS, form, exif=b"Exif\0\0" + block, **options))), CORNERS)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_entry_beside_it_does_not_keep_the_photo_from_being_turned(photo):
    # A resolution written as text, as some programs do; Pillow's exif_transpose gives up at that.
    broken = exif(orientation(3), struct.pack(">HHI4s", 0x011A, 2, 4, b"300\0"))
    file = photo(with_exif(jpeg(np.ascontiguousarray(CORNERS[::-1, ::-1])), broken))
    assert difference(open_image(file), CORNERS) < 2.0


# Size


def test_a_photo_is_stretched_to_the_square_asked_for(photo):
    image = open_image(photo(encode(CORNERS, "PNG")), 24)
    assert image.shape == (24, 24, 3)
    assert difference(image[::23, ::23], CORNERS[::31, ::63]) < 1.0
    exact = open_image(photo(encode(CORNERS[:, :32].copy(), "PNG")), 32)
    assert np.array_equal(exact, CORNERS[:, :32])


def test_a_jpeg_decoded_at_a_fraction_looks_like_the_whole_one_made_small(photo):
    file = photo(encode(real_like(1200, 1600), "JPEG", quality=90))
    whole = Image.fromarray(open_image(file)).resize((224, 224), Image.Resampling.BILINEAR, reducing_gap=3.0)
    assert difference(open_image(file, 224), np.asarray(whole)) < 1.5


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_big_but_fine_jpeg_is_read(photo):
    big = photo(encode(Image.new("L", (14_000, 10_000), 77), "JPEG"))
    assert (open_image(big, 32) == 77).all()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF"])
def test_a_decompression_bomb_is_refused_unopened(photo, form):
    data = bytearray(encode(Image.new("L", (8, 8)), form))
    match form:
        case "PNG":
            data[:] = png(100_000, 100_000, 8, 2, b"\0" * 100)
        case "JPEG":
            start = data.index(b"\xff\xc0") + 5
            data[start : start + 4] = b"\xff\xff\xff\xff"
        case "GIF":
            data[6:10] = b"\xff\xff\xff\xff"
    refused(photo(bytes(data)), "million pixels", "save it smaller")


def test_a_file_larger_than_any_photo_is_refused_unread(tmp_path):
    file = tmp_path / "film.jpg"
    with file.open("wb") as sparse:
        sparse.truncate(MAX_BYTES + 1)
    refused(file, "256 MB", "save it smaller")


# What is no photo


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("form", ["JPEG", "progressive", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIC"])
def test_a_photo_cut_short_is_refused(photo, form, share):
    image = real_like(60, 80)
    if form == "HEIC":
        data = heic(image)
    elif form == "progressive":
        data = encode(image, "JPEG", progressive=True)
    else:
        data = encode(image, form)
    refused(photo(data[: int(len(data) * share)]))
    if form in ("JPEG", "PNG") and share >= 0.5:
        refused(photo(data[: int(len(data) * share)]), "damaged or cut short", "copy it again")


@pytest.mark.parametrize("width", [0, 5])
def test_a_picture_without_pixels_is_refused(photo, width):
    refused(photo(png(width, 0, 8, 2, b"")), "not a photo")
    flat = bytearray(jpeg(CORNERS))
    start = flat.index(b"\xff\xc0") + 5
    flat[start : start + 4] = struct.pack(">HH", 0, width)
    refused(photo(bytes(flat)))
    refused(photo(b"GIF89a" + struct.pack("<HH", width, 0) + b"\0\0\0;"))


@pytest.mark.parametrize("data", [b"not a photo", b"\0" * 5000, b"%PDF-1.7\n", b"<svg/>", b"\xff\xd8\xff"])
def test_what_is_no_photo_is_refused(photo, data):
    refused(photo(data), "not a photo that petid can read", "save it as JPEG or PNG")


def test_postscript_is_never_run(photo):
    refused(photo(encode(CORNERS, "EPS")), "not a photo that petid can read")


def test_an_empty_file_is_refused(photo):
    refused(photo(b""), "is empty")


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "nowhere.jpg", "There is no photo")
    refused(tmp_path / "no folder" / "dog.jpg", "There is no photo")


def test_a_folder_is_refused(tmp_path):
    folder = tmp_path / "dogs.jpg"
    folder.mkdir()
    refused(folder, "a folder", "name the photos in it")


def test_a_name_of_10000_letters_is_refused_in_a_short_line(tmp_path):
    assert len(refused(tmp_path / ("x" * 10_000), "cannot be read")) < 600
    assert len(refused(Path("x/" * 5_000), "cannot be read")) < 600


def test_a_name_with_a_null_character_is_refused(tmp_path):
    with pytest.raises(PhotoError, match="cannot be read"):
        read_photo(tmp_path / "a\0b.jpg")


def test_a_photo_that_may_not_be_read_is_refused(photo):
    file = photo(encode(CORNERS, "PNG"), "secret.png")
    file.chmod(0)
    program = "import sys, pathlib; from petid_search.images import read_photo; read_photo(pathlib.Path(sys.argv[1]))"
    done = run_bound_by_rights("-c", program, file)
    assert done.stderr.splitlines()[-1].startswith("petid_search.errors.PhotoError: ")
    assert "secret.png may not be read: give yourself the right" in done.stderr


def test_what_is_hashed_is_what_is_decoded(photo):
    file = photo(encode(CORNERS, "PNG"))
    read = read_photo(file)
    file.write_bytes(b"changed meanwhile")
    assert np.array_equal(decode(read), CORNERS)
    assert read.sha256 != read_photo(file).sha256


# Folders


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.jpg",
        "a.PNG",
        "c.txt",
        ".hidden.jpg",
        "Rex/2.JPG",
        "Rex/10.heic",
        "Rex/deep/er/1.webp",
        "Ada/1.jpeg",
        ".cache/1.jpg",
    ):
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "pets"


def test_the_photos_of_a_folder_are_found_by_suffix_in_a_fixed_order(folder):
    found = [str(path.relative_to(folder)) for path in find_photos(folder)]
    assert found == ["a.PNG", "b.jpg", "Ada/1.jpeg", "Rex/10.heic", "Rex/2.JPG", "Rex/deep/er/1.webp"]


def test_every_suffix_of_a_photo_is_found_in_capitals_too(tmp_path):
    for suffix in PHOTO_SUFFIXES:
        (tmp_path / f"small{suffix}").touch()
        (tmp_path / f"LARGE{suffix.upper()}").touch()
    assert len(list(find_photos(tmp_path))) == 2 * len(PHOTO_SUFFIXES)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_once_and_never_in_a_circle(folder, tmp_path):
    (folder / "Rex" / "again").symlink_to(folder)
    (folder / "itself").symlink_to(folder / "itself")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.jpg").touch()
    (folder / "link").symlink_to(elsewhere)
    (folder / "link2").symlink_to(elsewhere)
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere")
    found = [str(path.relative_to(folder)) for path in find_photos(folder)]
    assert found == [
        "a.PNG",
        "b.jpg",
        "gone.jpg",
        "Ada/1.jpeg",
        "Rex/10.heic",
        "Rex/2.JPG",
        "Rex/deep/er/1.webp",
        "link/far.jpg",
    ]


def test_a_folder_that_may_not_be_read_is_told_of(folder):
    (folder / "Rex").chmod(0)
    program = (
        "import sys, pathlib; from petid_search.images import find_photos\n"
        "print(*find_photos(pathlib.Path(sys.argv[1]), print), sep='\\n')"
    )
    done = run_bound_by_rights("-c", program, folder)
    (folder / "Rex").chmod(0o755)
    assert done.stdout.splitlines() == [
        f"The folder {folder / 'Rex'} cannot be read (Permission denied): check the rights to it.",
        str(folder / "a.PNG"),
        str(folder / "b.jpg"),
        str(folder / "Ada" / "1.jpeg"),
    ]


def test_a_gallerys_own_photos_and_those_moved_aside_are_passed_over(tmp_path):
    for name in ("dogs/Rex/1.jpg", "index/photos/ab/abc.jpg", "dogs-duplicates/Rex/2.jpg", "holiday/photos/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "index" / GALLERY_FILE).touch()
    (tmp_path / "dogs-duplicates" / MOVED_LIST).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_photos(tmp_path)]
    assert found == ["dogs/Rex/1.jpg", "holiday/photos/3.jpg"]
    assert len(list(find_photos(tmp_path / "index" / "photos"))) == 1  # asked for by name


@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 30)), (3, (40, 30)), (6, (30, 40)), (8, (30, 40))])
def test_a_header_tells_the_size_upright_the_format_and_the_frames(orientation, size, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    header = read_header(read_photo(tmp_path / "a.jpg"))
    assert ((header.width, header.height), header.format, header.frames) == (size, "JPEG", 1)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    assert read_header(read_photo(tmp_path / "b.gif")).frames == 3
