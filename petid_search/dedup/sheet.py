"""A contact sheet of near-identical photos: one HTML page that holds all it shows, to look at before moving any."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from petid_search.dedup.duplicates import Duplicates, Labelled
from petid_search.errors import PhotoError
from petid_search.images import open_image

_SIDE: Final = 160
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Near-identical photos</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; }}
section {{ display: flex; flex-wrap: wrap; gap: .75rem; padding: .75rem 0; border-top: 1px solid #ccc; }}
figure {{ margin: 0; width: {side}px; overflow-wrap: anywhere; font-size: 12px; }}
img {{ display: block; width: {side}px; height: {side}px; object-fit: contain; background: #eee; margin-bottom: 6px; }}
.keep img {{ outline: 4px solid #0072b2; }}
b {{ display: block; }}
</style>
<h1>Near-identical photos</h1>
<p>{summary}</p>
{body}
</html>
"""


def write_sheet(duplicates: Duplicates, file: Path) -> None:
    """Write the page: first the photos that stand under two individuals, then the groups, the photo to keep framed.

    Raises:
        OSError: the file cannot be written.
    """
    conflicts = list(duplicates.conflicts())
    summary = (
        f"{len(duplicates.photos)} photos compared by SSIM, threshold {duplicates.threshold:g}; "
        f"pairs under two individuals: {len(conflicts)}; groups: {len(duplicates.groups)}."
    )
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace") as opened:
            before, after = _PAGE.format(side=_SIDE, summary=html.escape(summary), body="\0").split("\0")
            opened.write(before)
            if conflicts:
                opened.write("<h2>Under two individuals: one is probably labelled wrong</h2>\n")
            for pair in conflicts:
                opened.write(_section([(pair.first, ""), (pair.second, f"SSIM {pair.ssim:.3f}")], kept=0))
            if duplicates.groups:
                opened.write("<h2>Groups: the framed photo is the one to keep</h2>\n")
            for group in duplicates.groups:
                others = [(other.photo, f"SSIM {other.ssim:.3f}") for other in group.others]
                opened.write(_section([(group.keep, f"keep: {group.why}"), *others], kept=1))
            opened.write(after)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _section(photos: Sequence[tuple[Labelled, str]], *, kept: int) -> str:
    """A row of photos, the first `kept` of them framed."""
    return "".join(["<section>", *_figures(photos, kept), "</section>\n"])


def _figures(photos: Sequence[tuple[Labelled, str]], kept: int) -> Iterator[str]:
    for place, (photo, remark) in enumerate(photos):
        name = html.escape(photo.individual or "")
        yield (
            f'<figure{" class=keep" if place < kept else ""}><img src="{_preview(photo.path)}" alt="">'
            f"<b>{name}</b>{html.escape(str(photo.path))}<br>{html.escape(remark)}</figure>"
        )


def _preview(path: Path) -> str:
    """A small JPEG as a data URI; empty where the photo cannot be read any more."""
    try:
        picture = Image.fromarray(open_image(path))
    except PhotoError:
        return ""
    picture.thumbnail((2 * _SIDE, 2 * _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
