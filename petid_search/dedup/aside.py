"""Duplicates out of the way: moved aside, so that they can be brought back, or deleted; written down beforehand.

What is about to be done stands in a list, on the disk, before the first photo is touched: one JSON object a line.
Whatever happens on the way, `restore` brings back what was moved by then. By the list, too, the folder is known as one
whose photos are not to be looked at again.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Literal

from petid_search.dedup.duplicates import Group
from petid_search.disk import sync
from petid_search.errors import DedupError
from petid_search.images import MOVED_LIST


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
    if not base.name:
        raise DedupError(f"There is no place beside {searched}: name one with --aside DIR.")
    names = chain([f"{base.name}-duplicates"], (f"{base.name}-duplicates-{number}" for number in count(2)))
    return next(folder for folder in map(base.with_name, names) if not folder.exists())


def refuse_inside(aside: Path, folders: Sequence[Path]) -> None:
    """Refuse a folder that lies in one of those that are searched, where its photos would be somebody's again.

    Raises:
        DedupError: it does.
    """
    for folder in folders:
        if aside.resolve().is_relative_to(folder.resolve()):
            raise DedupError(f"{aside} lies in {folder}: name a folder outside with --aside.")


def plan_steps(groups: Sequence[Group], roots: Sequence[Path], *, delete: bool) -> list[Step]:
    """What to do with the others of each group.

    Args:
        groups: as `find_duplicates` gives them; what is in one is no conflict.
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
            if not kept[step.keep] or not keep.exists() or keep.samefile(photo):
                yield DedupError(f"{photo} stays: {keep}, which it is like, has changed meanwhile. Run again.")
            elif _hash(photo) != step.sha256:
                yield DedupError(f"{photo} stays: it has changed meanwhile. Run again.")
            elif step.aside is None:
                photo.unlink()
                yield None
            else:
                _move(photo, folder / step.aside)
                yield None
        except FileNotFoundError as error:
            yield DedupError(f"{error.filename} is gone since the photos were compared. Run again.")
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
    steps = _read_list(folder)
    if any(step.aside is None for step in steps):
        raise DedupError(f"What {folder / MOVED_LIST} names was deleted, not moved: it cannot be brought back.")
    left = False
    for step in steps:
        aside, photo = folder / str(step.aside), Path(step.photo)
        try:
            problem = _bring_back(aside, photo, step.sha256)
        except OSError as error:
            problem = f"{aside} stays: it cannot be moved to {photo} ({error.strerror}): check the rights."
        left |= problem is not None
        yield None if problem is None else DedupError(problem)
    if not left:
        (folder / MOVED_LIST).unlink()
        for parent, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):  # somebody has put something else there
                Path(parent).rmdir()


def _bring_back(aside: Path, photo: Path, sha256: str) -> str | None:
    """Have a photo at its place again; else tell why not."""
    is_there = photo.is_file() and _hash(photo) == sha256
    if not os.path.lexists(aside):
        if is_there:
            return None  # it is back already, or was never moved
        return f"{aside} is gone, and {photo} is not as it was: look for it, and put it back."
    if is_there:
        aside.unlink()  # killed after it was copied to another disk, and before it was deleted here
    elif os.path.lexists(photo):
        return f"{aside} stays: there is something else at {photo} now. Move one of the two."
    else:
        _move(aside, photo)
    return None


def _place(photo: Path, roots: Sequence[Path], taken: set[str]) -> str:
    """Where below the list's folder a photo goes: as it lay below its root, with a number where that is taken."""
    root = next((root for root in roots if photo.is_relative_to(root)), photo.parent)
    place = photo.relative_to(root)
    names = chain([place], (place.with_name(f"{place.stem}-{number}{place.suffix}") for number in count(2)))
    # Two names that differ by case or by how accents are written are one on some disks.
    free = next(name for name in map(Path.as_posix, names) if _alike(name) not in taken | {_alike(MOVED_LIST)})
    taken.add(_alike(free))
    return free


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _write_list(steps: Sequence[Step], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DedupError(f"{folder} is not empty: name another folder.")
        part = folder / f".{MOVED_LIST}.part"
        # ASCII, since names of files need not be UTF-8: JSON then escapes what is not.
        part.write_text("".join(json.dumps(asdict(step)) + "\n" for step in steps), encoding="ascii")
        sync(part)
        part.replace(folder / MOVED_LIST)
        sync(folder)
        sync(folder.parent)
    except OSError as error:
        raise DedupError(f"{folder} cannot be written ({error.strerror}): name another folder.") from error


def _read_list(folder: Path) -> list[Step]:
    file = folder / MOVED_LIST
    try:
        steps = [_step(line) for line in file.read_text(encoding="ascii").splitlines()]
    except FileNotFoundError:
        raise DedupError(f"There is no {MOVED_LIST} in {folder}: name a folder that photos were moved to.") from None
    except OSError as error:
        raise DedupError(f"{file} cannot be read ({error.strerror}): check the rights to it.") from error
    except (ValueError, TypeError) as error:
        raise DedupError(f"{file} is damaged: move the photos beside it back by hand.") from error
    if not steps:
        raise DedupError(f"{file} is empty: move the photos beside it back by hand.")
    return steps


def _step(line: str) -> Step:
    """A line of the list.

    Raises:
        ValueError: it was not written by petid, and might have files moved to where they do not belong.
        TypeError: likewise.
    """
    step = Step(**json.loads(line))
    texts = (step.photo, step.sha256, step.keep, step.keep_sha256, *([] if step.aside is None else [step.aside]))
    if not all(isinstance(text, str) for text in texts) or not Path(step.photo).is_absolute():
        raise ValueError(line)
    if step.aside is not None:
        place = PurePosixPath(step.aside)
        if place.is_absolute() or ".." in place.parts or place.as_posix() in (".", MOVED_LIST):
            raise ValueError(line)
    return step


def _move(source: Path, target: Path) -> None:
    """Move a file to where there is none, to another disk too; at each moment it is whole in one of the two places.

    Raises:
        OSError: something is there, or the file cannot be moved.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):  # on POSIX systems, renaming would replace it
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            shutil.copy2(source, part)
            sync(part)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        sync(target.parent)
        source.unlink()


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
