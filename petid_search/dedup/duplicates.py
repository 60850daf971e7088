"""Near-identical photos of folders: pairs, groups of one to keep and others, and photos that stand under two names."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from petid_search.dedup.choice import Contender, best_of
from petid_search.dedup.pairs import Pairs, find_pairs
from petid_search.dedup.ssim import SIZE, WINDOW
from petid_search.dedup.thumbnails import Picture, ThumbnailStore
from petid_search.errors import PhotoError

THRESHOLD: Final = 0.95
"""SSIM from which on two photos are near-identical, where nothing else is said."""

MEASURE: Final[dict[str, Any]] = {
    "name": "SSIM",
    "function": "skimage.metrics.structural_similarity",
    "size": [SIZE, SIZE],
    "window": WINDOW,
    "gaussian_weights": False,
    "use_sample_covariance": True,
    "K1": 0.01,
    "K2": 0.03,
    "data_range": 255,
    "greyscale": "Pillow convert('L') of the upright RGB picture (ITU-R BT.601 luma)",
    "resize": f"Pillow resize(({SIZE}, {SIZE}), BILINEAR)",
    "large photos": "a shorter side of 512 pixels or more is first brought to at least 256 by whole steps: "
    "a JPEG by draft(), another picture by reduce()",
    "thumbnail": f"petid_search.images.decode_grey(read_photo(path), {SIZE})",
}
"""What is compared, so that anybody can compute the same values."""

Scope = Literal["all", "within", "across"]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A photo and whom it shows, as far as one knows.

    Attributes:
        path: where it lies.
        individual: whom it shows; None where that is not told.
        archived: it belongs to what is compared against: its like are looked for, not others like it there, and it
            always stays.
    """

    path: Path
    individual: str | None = None
    archived: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """Two near-identical photos and their SSIM, in [-1, 1]."""

    first: Labelled
    second: Labelled
    ssim: float

    @property
    def is_conflict(self) -> bool:
        """Whether one picture stands under two individuals."""
        return not _may_be_one(self.first, self.second)


@dataclass(frozen=True, slots=True)
class Other:
    """A photo that is near-identical to the one kept: with its hash, and its SSIM to that one."""

    photo: Labelled
    sha256: str
    ssim: float


@dataclass(frozen=True, slots=True)
class Group:
    """A photo to keep, why, and its others: near-identical to it, each directly, not by way of another.

    None of the others shows another individual than the one kept, is archived, is a link, or moves (of an animation,
    only the first frame was compared): these always stay.
    """

    keep: Labelled
    sha256: str
    why: str
    others: tuple[Other, ...]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What was found.

    Attributes:
        photos: those that could be read, each file once, however many names lead to it; those archived last.
        threshold: SSIM, in (0, 1].
        scope: which pairs were looked for.
        found: the pairs, as places among the photos.
        groups: a photo is in one group at most; of a pair that no group holds, both stay.
        problems: photos that could not be read.
    """

    photos: list[Labelled]
    threshold: float
    scope: Scope
    found: Pairs
    groups: list[Group] = field(default_factory=list)
    problems: list[PhotoError] = field(default_factory=list)

    def pairs(self) -> Iterator[Pair]:
        """All pairs, the most alike first."""
        for place in np.argsort(-self.found.ssim, kind="stable"):
            first, second = self.photos[self.found.first[place]], self.photos[self.found.second[place]]
            yield Pair(first, second, float(self.found.ssim[place]))

    def conflicts(self) -> Iterator[Pair]:
        """The pairs whose photos show two individuals by their folders: usually one is labelled wrong."""
        return (pair for pair in self.pairs() if pair.is_conflict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: paths as text."""
        return {
            "measure": MEASURE,
            "threshold": self.threshold,
            "scope": self.scope,
            "photos": len(self.photos),
            "conflicts": [
                {
                    "photos": [str(pair.first.path), str(pair.second.path)],
                    "individuals": [pair.first.individual, pair.second.individual],
                    "ssim": pair.ssim,
                }
                for pair in self.conflicts()
            ],
            "groups": [
                {
                    "keep": str(group.keep.path),
                    "why": group.why,
                    "others": [str(other.photo.path) for other in group.others],
                }
                for group in self.groups
            ],
            "pairs": [[str(pair.first.path), str(pair.second.path), pair.ssim] for pair in self.pairs()],
            "failed": [str(problem) for problem in self.problems],
        }

    def write_csv(self, file: Path) -> None:
        """Write a line for each pair: SSIM, both photos, whom they show, their parts in a group (`keep` or `other`).

        Raises:
            OSError: the file cannot be written.
        """
        part = {group.keep.path: "keep" for group in self.groups}
        part |= {other.photo.path: "other" for group in self.groups for other in group.others}
        unfinished = file.with_name(f".{file.name}.part")
        try:
            with unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="") as opened:
                writer = csv.writer(opened)
                writer.writerow(["ssim", "photo_1", "individual_1", "part_1", "photo_2", "individual_2", "part_2"])
                for pair in self.pairs():
                    sides = [[one.path, one.individual, part.get(one.path, "")] for one in (pair.first, pair.second)]
                    writer.writerow([f"{pair.ssim:.7f}", *sides[0], *sides[1]])
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)


Advance = Callable[[str, int, int], object]
"""Told what is being done, how many more are done, and how many there are in all."""


def find_duplicates(
    photos: Sequence[Labelled],
    *,
    store: ThumbnailStore,
    threshold: float = THRESHOLD,
    scope: Scope = "all",
    exhaustive: bool = False,
    advance: Advance = lambda *_: None,
) -> Duplicates:
    """Find all pairs of near-identical photos, and in each group of them the one to keep.

    Args:
        photos: what to compare: any two of them, but no two that are archived.
        store: where their thumbnails are kept.
        threshold: SSIM, in (0, 1].
        scope: `all` pairs, only those `within` one individual, or only those `across` two.
        exhaustive: compare every pair exactly, without leaving out those that an upper bound rules out.
        advance: for a progress bar.
    """
    listed = _each_once(photos)
    read = store.read([photo.path for photo in listed], lambda more: advance("Reading", more, len(listed)))
    problems = [result for result in read if isinstance(result, PhotoError)]
    known = [(photo, one) for photo, one in zip(listed, read, strict=True) if isinstance(one, Picture)]
    searched = sum(not photo.archived for photo, _ in known)
    pairs = find_pairs(
        np.stack([picture.thumbnail for _, picture in known]) if known else np.empty((0, SIZE, SIZE), np.uint8),
        threshold,
        searched=searched,
        wanted=_wanted(scope, [photo.individual for photo, _ in known]),
        exhaustive=exhaustive,
        advance=lambda more: advance("Comparing", more, searched),
    )
    involved = np.unique(np.concatenate([pairs.first, pairs.second])).tolist()
    qualities = store.measure(
        [known[place][1] for place in involved], lambda more: advance("Measuring", more, len(involved))
    )
    contenders: dict[int, Contender] = {}
    for place, quality in zip(involved, qualities, strict=True):
        try:
            if isinstance(quality, PhotoError):
                raise quality
            status = known[place][0].path.stat()
            contenders[place] = Contender(known[place][0].path, quality, status.st_size, status.st_mtime_ns)
        except PhotoError as error:
            problems.append(error)
        except OSError as error:
            problems.append(PhotoError(f"{known[place][0].path} cannot be looked at any more ({error.strerror})."))
    groups = list(_groups(known, pairs, contenders)) if contenders else []
    return Duplicates([photo for photo, _ in known], threshold, scope, pairs, groups, problems)


def _each_once(photos: Sequence[Labelled]) -> list[Labelled]:
    """The photos without those that are the same file by another name (a link, a folder named twice).

    Those archived come last, and a file that is archived by any of its names is. Of a file and links to it, the file
    is taken.
    """
    seen: set[tuple[int, int]] = set()
    listed = []
    for photo in sorted(photos, key=lambda photo: (not photo.archived, photo.path.is_symlink())):
        try:
            status = photo.path.stat()
        except (OSError, ValueError):
            listed.append(photo)  # reading it will tell what is wrong
            continue
        # Some network disks number no files: there, each name counts as a file.
        if status.st_ino == 0 or (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            listed.append(photo)
    return sorted(listed, key=lambda photo: photo.archived)


def _wanted(
    scope: Scope, individuals: Sequence[str | None]
) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]] | None:
    if scope == "all":
        return None
    # Of whom nothing is told, a photo is within nobody's and across nobody's.
    numbers = {name: number for number, name in enumerate(dict.fromkeys(individuals))}
    owner = np.array([numbers[name] for name in individuals], np.int64)
    named = np.array([name is not None for name in individuals], np.bool_)
    within = scope == "within"
    return lambda first, second: ((owner[first] == owner[second]) == within) & named[first] & named[second]


def _may_be_one(one: Labelled, other: Labelled) -> bool:
    """Whether two photos may show one individual, as far as is told."""
    return None in (one.individual, other.individual) or one.individual == other.individual


def _groups(
    known: Sequence[tuple[Labelled, Picture]], pairs: Pairs, contenders: dict[int, Contender]
) -> Iterator[Group]:
    """Around the best photo of all that hang together, those near-identical to it; then around the best of the rest."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = (np.concatenate([pairs.first, pairs.second]), np.concatenate([pairs.second, pairs.first]))
    near = coo_array((np.concatenate([pairs.ssim, pairs.ssim]), ends), shape=(len(known), len(known))).tocsr()
    _, component = connected_components(near, directed=False)
    involved = np.unique(ends[0])
    by_component = involved[np.argsort(component[involved], kind="stable")]
    for together in np.split(by_component, np.flatnonzero(np.diff(component[by_component])) + 1):
        left = [place for place in together.tolist() if place in contenders]
        while left:
            place, why = _best(left, known, contenders)
            row = slice(near.indptr[place], near.indptr[place + 1])
            ssim = dict(zip(near.indices[row].tolist(), near.data[row].tolist(), strict=True))
            keep, picture = known[place]
            others = [
                one
                for one in left
                if one in ssim and _may_go(known[one][0], contenders[one]) and _may_be_one(keep, known[one][0])
            ]
            if others:
                best, reason = _best([place, *others], known, contenders)
                why = reason if best == place else why  # what it has over these, not over photos of other groups
                told = (Other(known[one][0], known[one][1].sha256, float(ssim[one])) for one in others)
                yield Group(keep, picture.sha256, why, tuple(told))
            gone = {place, *others}
            left = [one for one in left if one not in gone]


def _may_go(photo: Labelled, contender: Contender) -> bool:
    return not photo.archived and not photo.path.is_symlink() and contender.quality.frames == 1


def _best(
    places: Sequence[int], known: Sequence[tuple[Labelled, Picture]], contenders: dict[int, Contender]
) -> tuple[int, str]:
    """The photo to keep, and why."""
    standings: dict[str, Callable[[int], bool]] = {
        "in the archive": lambda place: known[place][0].archived,
        "its individual is told": lambda place: known[place][0].individual is not None,
        "no link and no animation": lambda place: _may_go(known[place][0], contenders[place]),
    }
    for why, stands in standings.items():
        chosen = [place for place in places if stands(place)]
        if len(chosen) == 1 < len(places):
            return chosen[0], why
        places = chosen or places
    best, why = best_of([contenders[place] for place in places])
    return places[best], why
