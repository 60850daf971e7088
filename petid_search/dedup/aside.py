"""Duplicates out of the way: moved aside, so that they can be brought back, or deleted; written down beforehand.

What is about to be done stands in `list.jsonl`, on the disk, before the first photo is touched: one JSON object a
line. Whatever happens on the way, `restore` brings back what was moved by then.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Final, Literal

from petid_search.dedup.duplicates import Group
from petid_search.disk import sync
from petid_search.errors import DedupError

LIST: Final = "list.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """One photo to be moved or deleted.

    Attributes:
        action: what is done with it.
        photo: where it lies, absolute.
        sha256: of its bytes, when it was compared.
        aside: where it goes, relative to the list's folder; None where it is deleted.
        keep: the photo that stays in its stead, absolute.
        keep_sha256: of that one's bytes.
        ssim: of the two, in [-1, 1].
    """

    action: Literal["move", "delete"]
    photo: str
    sha256: str
    aside: str | None
    keep: str
    keep_sha256: str
    ssim: float


def free_folder(searched: Path) -> Path:
    """A folder that is not there yet, beside the one that was searched: its name with `-duplicates`, and a number."""
    base = searched.resolve()
    names = chain([f"{base.name}-duplicates"], (f"{base.name}-duplicates-{number}" for number in count(2)))
    return next(folder for folder in map(base.with_name, names) if not folder.exists())


def plan_steps(groups: Sequence[Group], roots: Sequence[Path], *, delete: bool) -> list[Step]:
    """What to do with the others of each group: all but those that show another individual than the one kept.

    Args:
        groups: as `find_duplicates` gives them.
        roots: the folders that were searched; a photo's place below its root is kept when it is moved aside.
        delete: delete instead.
    """
    taken: set[str] = set()
    return [
        Step(
            action="delete" if delete else "move",
            photo=str(other.photo.path.absolute()),
            sha256=other.sha256,
            aside=None if delete else _place(other.photo.path, roots, taken),
            keep=str(group.keep.path.absolute()),
            keep_sha256=group.sha256,
            ssim=other.ssim,
        )
        for group in groups
        for other in group.others
        if not group.is_conflict(other)
    ]


def carry_out(steps: Sequence[Step], folder: Path) -> Iterator[DedupError | None]:
    """Write down what will be done, then do it: for each step None, or why it was left.

    A photo is only touched while it, and the one that stays in its stead, are as they were when they were compared.

    Args:
        steps: as `plan_steps` gives them.
        folder: where the list goes, and what is moved aside; made here, or empty.

    Raises:
        DedupError: the folder is not empty, or cannot be written.
    """
    _write_list(steps, folder)
    kept: dict[str, bool] = {}
    for step in steps:
        photo, keep = Path(step.photo), Path(step.keep)
        try:
            if step.keep not in kept:
                kept[step.keep] = _hash(keep) == step.keep_sha256
            if not kept[step.keep] or keep.samefile(photo):
                yield DedupError(f"{photo} stays: {keep}, which it is like, has changed meanwhile. Run again.")
            elif _hash(photo) != step.sha256:
                yield DedupError(f"{photo} stays: it has changed meanwhile. Run again.")
            elif step.aside is None:
                photo.unlink()
                yield None
            else:
                _move(photo, folder / step.aside)
                yield None
        except OSError as error:
            yield DedupError(f"{photo} stays: it cannot be {step.action}d ({error.strerror}): check the rights to it.")


def restore(folder: Path) -> Iterator[DedupError | None]:
    """Bring back what was moved aside: for each photo None, or why it was left where it is.

    Once all are back, the list and the empty folders are deleted.

    Args:
        folder: what `carry_out` wrote.

    Raises:
        DedupError: there is no list in the folder, it is damaged, or what it names was deleted.
    """
    left = False
    for step in _read_list(folder):
        if step.aside is None:
            raise DedupError(f"What {folder / LIST} names was deleted, not moved: it cannot be brought back.")
        aside, photo = folder / step.aside, Path(step.photo)
        try:
            if not aside.exists():
                continue  # it is back already, or was never moved
            if not photo.exists():
                _move(aside, photo)
            elif _hash(photo) == step.sha256:
                aside.unlink()  # killed after it was copied to another disk, and before it was deleted here
            else:
                left = True
                yield DedupError(f"{aside} stays: there is another photo at {photo} now. Move one of the two.")
                continue
            yield None
        except OSError as error:
            left = True
            yield DedupError(f"{aside} stays: it cannot be moved to {photo} ({error.strerror}): check the rights.")
    if not left:
        (folder / LIST).unlink()
        for parent, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):  # somebody has put something else there
                Path(parent).rmdir()


def _place(photo: Path, roots: Sequence[Path], taken: set[str]) -> str:
    """Where below the list's folder a photo goes: as it lay below its root, with a number where that is taken."""
    root = next((root for root in roots if photo.is_relative_to(root)), photo.parent)
    place = photo.relative_to(root)
    names = chain([place], (place.with_name(f"{place.stem}-{number}{place.suffix}") for number in count(2)))
    # Two names that differ by case alone are one on some disks, and the list's own name is taken.
    free = next(name for name in map(Path.as_posix, names) if name.casefold() not in taken | {LIST})
    taken.add(free.casefold())
    return free


def _write_list(steps: Sequence[Step], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DedupError(f"{folder} is not empty: name another folder.")
        part = folder / f".{LIST}.part"
        # ASCII, since names of files need not be UTF-8: JSON then escapes what is not.
        part.write_text("".join(json.dumps(asdict(step)) + "\n" for step in steps), encoding="ascii")
        sync(part)
        part.replace(folder / LIST)
        sync(folder)
        sync(folder.parent)
    except OSError as error:
        raise DedupError(f"{folder} cannot be written ({error.strerror}): name another folder.") from error


def _read_list(folder: Path) -> list[Step]:
    try:
        steps = [Step(**json.loads(line)) for line in (folder / LIST).read_text(encoding="ascii").splitlines()]
    except FileNotFoundError:
        raise DedupError(f"There is no {LIST} in {folder}: name a folder that duplicates were moved to.") from None
    except OSError as error:
        raise DedupError(f"{folder / LIST} cannot be read ({error.strerror}): check the rights to it.") from error
    except (ValueError, TypeError) as error:
        raise DedupError(f"{folder / LIST} is damaged: move the photos beside it back by hand.") from error
    for step in steps:
        if step.aside is not None and not (folder / step.aside).resolve().is_relative_to(folder.resolve()):
            raise DedupError(f"{folder / LIST} names {step.aside!r}, which lies outside: it was not written by petid.")
    return steps


def _move(source: Path, target: Path) -> None:
    """Move a file to where there is none, to another disk too; at each moment it is whole in one of the two places."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = target.with_name(f".{target.name}.part")
        shutil.copy2(source, part)
        sync(part)
        part.replace(target)
        sync(target.parent)
        source.unlink()


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
