"""A split as a file: written beside a report, read again, and audited for leaks before it is believed."""

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from petid_search.dataset.folder import tidy_name
from petid_search.dataset.manifest import LabelledPhoto
from petid_search.dataset.splits import PROTOCOLS, ROLES, Assigned, Protocol, Role, Split, is_later
from petid_search.errors import DatasetError, LeakError

_COLUMNS: Final = ("photo", "sha256", "individual", "role", "near_duplicates", "reason", "protocol")
_NEEDED: Final = _COLUMNS[:4]
_TRAINING_ROLES: Final[tuple[Role, ...]] = ("train", "validation", "held out")
_NAMED: Final = 3
"""Leaks that are named one by one; of more, the number is told."""


def write_split(split: Split, file: Path) -> None:
    """Write a split as CSV, one photo a line; photos by their paths from the folder on.

    Raises:
        OSError: the file cannot be written.
    """
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for one in split.photos:
            group = "" if one.group is None else one.group
            writer.writerow([one.photo, one.sha256, one.individual, one.role, group, one.reason, split.protocol])


def read_split(file: Path) -> Split:
    """Read what `write_split` wrote, or another program: `photo`, `sha256`, `individual` and `role` are needed.

    Without a column `protocol`, the roles tell: `train` means `training`, `stranger` means `open-set`, `probe` means
    `gallery-probe`.

    Raises:
        DatasetError: the file cannot be read, or is no split.
    """
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            heading = stream.readline()
            stream.seek(0)
            # Spreadsheets of half the world write semicolons.
            lines = csv.DictReader(stream, delimiter=";" if heading.count(";") > heading.count(",") else ",")
            rows = [(lines.line_num, row) for row in lines]
            columns = lines.fieldnames or ()
    except OSError as error:
        raise DatasetError(f"The split {file} cannot be read ({error.strerror}): check the name.") from None
    except csv.Error as error:
        raise DatasetError(f"The split {file} is not CSV ({error}): take one that petid wrote as split.csv.") from None
    if missing := [column for column in _NEEDED if column not in columns]:
        raise DatasetError(f"The split {file} has no column {missing[0]!r}: it needs {', '.join(_NEEDED)}.")
    photos = tuple(_assigned(row, f"{file}, line {number}") for number, row in rows)
    for photo, times in Counter(one.photo for one in photos).items():
        if times > 1:
            raise LeakError(f"The split {file} names {photo} {times} times: leave one line for it.")
    return Split(_protocol(file, photos, {row.get("protocol") or "" for _, row in rows}), photos)


def fit_split(split: Split, photos: Sequence[LabelledPhoto], *, source: Path) -> Split:
    """A split's photos in the order of the manifest; each that is used is there, and its bytes are the same.

    Whom a photo shows is what the split says, not where the photo lies now. Those left out need not be there any more.

    Args:
        split: as it was read.
        photos: the folder's manifest.
        source: the file that it was read from, for messages.

    Raises:
        DatasetError: a photo is missing, or has changed since the split was made.
    """
    by_name = {photo.name: photo for photo in photos}
    used = [one for one in split.photos if one.role != "left out"]
    missing = [one.photo for one in used if one.photo not in by_name]
    if missing:
        raise DatasetError(
            f"The split {source} names {_some(missing)}, which the folder does not hold or which cannot be read: "
            "put back the photos, or take a split of this folder."
        )
    changed = [one.photo for one in used if one.sha256.lower() != by_name[one.photo].sha256]
    if changed:
        raise DatasetError(
            f"Since the split {source} was made, {_some(changed)} changed: put back the photos, or make a new split."
        )
    place = {photo.name: number for number, photo in enumerate(photos)}
    ordered = sorted(split.photos, key=lambda one: place.get(one.photo, len(place)))
    return Split(split.protocol, tuple(replace(one, sha256=one.sha256.lower()) for one in ordered))


def used_photos(split: Split) -> Split:
    """The split without the photos that are left out."""
    return Split(split.protocol, tuple(one for one in split.photos if one.role != "left out"))


def lacks(split: Split) -> str:
    """What the used photos of a split lack to serve their purpose, as a clause; empty where they lack nothing."""
    roles = {one.role for one in split.photos}
    if missing := sorted(_expected(split.protocol) - roles):
        return f"there is no photo with the role {missing[0]}"
    trained = {one.individual for one in split.photos if one.role == "train"}
    for one in split.photos:
        if one.role == "validation" and one.individual not in trained:
            return f"no photo of {one.individual} has the role train"
    enrolled = {one.individual for one in split.photos if one.role == "gallery"}
    for one in split.photos:
        if one.role == "probe" and one.individual not in enrolled:
            return f"nothing of {one.individual} is enrolled"
    return ""


def refuse_lacking(split: Split, lost: Sequence[str], source: Path) -> None:
    """Raise a DatasetError that names the photos that a split lost, if it can no longer be used without them."""
    if lost and (lacking := lacks(split)):
        raise DatasetError(
            f"The split {source} cannot be used without {_some(lost)}, which cannot be read: {lacking}. "
            "Put back the photos, or make a new split."
        )


def leaks(split: Split, photos: Sequence[LabelledPhoto], groups: NDArray[np.int64]) -> list[str]:
    """What a split has on two sides that belongs on one, each leak with its photos.

    Args:
        split: its used photos, as `used_photos` gives them.
        photos: of each photo of the split, its entry in the manifest.
        groups: int64, (photos,), the group of near-duplicates of each.

    Returns:
        a part of a sentence for each leak: the same bytes, or near-duplicates, in the gallery and among the probes; an
        individual both enrolled and a stranger; a probe whose individual is not enrolled; where the protocol is
        `by-time`, a photo without a time, and a probe that is not of a later session than the gallery's photos of its
        individual; the same bytes twice on one side or under two names. Where the protocol is `training`: the same
        bytes, or near-duplicates, with two roles; an individual both held out and trained on; a validation photo whose
        individual is not trained on.
    """
    found = _repeated(split)
    if split.protocol == "training":
        return found + _of_two_roles(split, groups) + _of_two_lives(split)
    gallery = [place for place, one in enumerate(split.photos) if one.role == "gallery"]
    others = [place for place, one in enumerate(split.photos) if one.role in ("probe", "stranger")]

    enrolled_bytes = {split.photos[place].sha256: split.photos[place].photo for place in reversed(gallery)}
    enrolled_groups = {int(groups[place]): split.photos[place].photo for place in reversed(gallery)}
    enrolled_photo = {split.photos[place].individual: split.photos[place].photo for place in reversed(gallery)}
    by_time = split.protocol == "by-time"
    for place in (*gallery, *others) if by_time else ():
        if photos[place].taken is None:
            found.append(f"{split.photos[place].role} {split.photos[place].photo} carries no time")
    newest = _newest(split, photos, gallery) if by_time else {}
    for place in others:
        one, taken = split.photos[place], photos[place].taken
        if (twin := enrolled_bytes.get(one.sha256)) is not None:
            found.append(f"{one.role} {one.photo} has the same bytes as {twin} of the gallery")
        elif (twin := enrolled_groups.get(int(groups[place]))) is not None:
            found.append(f"{one.role} {one.photo} is a near-duplicate of {twin} of the gallery")
        if one.role == "stranger" and one.individual in enrolled_photo:
            found.append(
                f"{one.individual} is a stranger with {one.photo} and enrolled with {enrolled_photo[one.individual]}"
            )
        if one.role == "probe" and one.individual not in enrolled_photo:
            found.append(f"probe {one.photo} shows {one.individual}, of whom nothing is enrolled")
        for latest, enrolled in newest.get(one.individual, ()):
            if taken is not None and not is_later(taken, latest):
                found.append(
                    f"probe {one.photo} is not younger than {enrolled} of the gallery, or of one session with it"
                )
                break
    return found


def _repeated(split: Split) -> list[str]:
    """The same bytes twice on one side or under two names."""
    found = []
    first_of_bytes: dict[str, int] = {}
    for place, one in enumerate(split.photos):
        first = split.photos[first_of_bytes.setdefault(one.sha256, place)]
        if first is not one and first.individual != one.individual:
            found.append(f"{first.photo} and {one.photo} are the same bytes under two names")
        elif first is not one and first.role == one.role:
            found.append(f"{first.photo} and {one.photo} are the same bytes and would be counted twice")
    return found


def _of_two_roles(split: Split, groups: NDArray[np.int64]) -> list[str]:
    """The same bytes, or near-duplicates, with two of the roles of training."""
    found = []
    bytes_of: dict[str, Assigned] = {}
    group_of: dict[int, Assigned] = {}
    for role in _TRAINING_ROLES:
        mine = [(place, one) for place, one in enumerate(split.photos) if one.role == role]
        for place, one in mine:
            if (twin := bytes_of.get(one.sha256)) is not None:
                found.append(f"{one.photo} ({role}) has the same bytes as {twin.photo} ({twin.role})")
            elif (twin := group_of.get(int(groups[place]))) is not None:
                found.append(f"{one.photo} ({role}) is a near-duplicate of {twin.photo} ({twin.role})")
        for place, one in mine:
            bytes_of.setdefault(one.sha256, one)
            group_of.setdefault(int(groups[place]), one)
    return found


def _of_two_lives(split: Split) -> list[str]:
    """Individuals that are both held out and trained on, or validated without being trained on."""
    first: dict[Role, dict[str, str]] = {role: {} for role in _TRAINING_ROLES}
    for one in split.photos:
        first[one.role].setdefault(one.individual, one.photo)
    found = []
    for individual, photo in first["held out"].items():
        if (other := first["train"].get(individual) or first["validation"].get(individual)) is not None:
            found.append(f"{individual} is held out with {photo} and trained on with {other}")
    for individual, photo in first["validation"].items():
        if individual not in first["train"] and individual not in first["held out"]:
            found.append(f"{photo} (validation) shows {individual}, who is not trained on")
    return found


def _newest(
    split: Split, photos: Sequence[LabelledPhoto], gallery: Sequence[int]
) -> dict[str, list[tuple[datetime | date, str]]]:
    """Of each individual's enrolled photos the latest, and of those with no time of day the latest as well."""
    latest: dict[str, dict[bool, tuple[datetime | date, str]]] = defaultdict(dict)
    for place in gallery:
        if (taken := photos[place].taken) is not None:
            one, exact = split.photos[place], isinstance(taken, datetime)
            this = (taken, one.photo)
            latest[one.individual][exact] = max(latest[one.individual].get(exact, this), this)
    return {individual: list(those.values()) for individual, those in latest.items()}


def refuse_leaks(found: Sequence[str], source: Path | None) -> None:
    """Raise a LeakError that names the leaks, if there are any; without a file, it was petid that divided so."""
    if found:
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        if source is None:
            raise LeakError(
                f"petid divided the photos so that they leak, which is a fault of petid: {'; '.join(found[:_NAMED])}"
                f"{more}. Please report it, with this line."
            )
        raise LeakError(
            f"The split {source} leaks: {'; '.join(found[:_NAMED])}{more}. Leave one of each out (role `left out`)."
        )


def _expected(protocol: Protocol | Literal["training"]) -> set[str]:
    """The roles that a protocol needs."""
    if protocol == "training":
        return {"train"}
    if protocol in ("leave-one-out", "verification"):
        return {"both"}
    return {"gallery", "probe", "stranger"} if protocol == "open-set" else {"gallery", "probe"}


def _assigned(row: dict[str, str | None], where: str) -> Assigned:
    photo, sha256, individual, role = (row[column] or "" for column in _NEEDED)
    individual = tidy_name(individual)
    if not (photo and sha256 and individual):
        raise DatasetError(f"{where}: a photo needs its path, its sha256 and its individual.")
    if role not in ROLES:
        raise DatasetError(f"{where}: the role {role!r} is unknown; it is one of {', '.join(ROLES)}.")
    group = row.get("near_duplicates") or ""
    if group and not (group.isascii() and group.isdigit() and len(group) < 16):
        raise DatasetError(f"{where}: near_duplicates is the number of a group, or empty; it is {group!r}.")
    return Assigned(photo, sha256, individual, role, int(group) if group else None, row.get("reason") or "")


def _protocol(file: Path, photos: Sequence[Assigned], named: set[str]) -> Protocol | Literal["training"]:
    roles = {one.role for one in photos} - {"left out"}
    if len(named - {""}) > 1:
        raise DatasetError(f"The split {file} names several protocols: take one of them.")
    telling = {"train": "training", "both": "leave-one-out", "stranger": "open-set"}
    guessed = next((name for role, name in telling.items() if role in roles), "gallery-probe")
    protocol = next(iter(named - {""}), guessed)
    if protocol == "training":
        if "train" not in roles or not roles <= set(_TRAINING_ROLES):
            raise DatasetError(
                f"The split {file} has the roles {', '.join(sorted(roles)) or 'none'}; for training they are "
                "train, and maybe validation and held out."
            )
        return "training"
    if protocol not in PROTOCOLS:
        raise DatasetError(
            f"The split {file} has the protocol {protocol!r}: it is one of {', '.join(PROTOCOLS)}, training."
        )
    expected = _expected(protocol)
    if roles != expected:
        raise DatasetError(
            f"The split {file} has the roles {', '.join(sorted(roles)) or 'none'}; for the protocol {protocol} "
            f"they are {', '.join(sorted(expected))}."
        )
    return protocol


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
