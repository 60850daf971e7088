"""Near-identical photos of folders: pairs, groups of one to keep and others, and photos that stand under two names."""

import csv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from petid_search.cores import usable_cores
from petid_search.dedup.choice import Quality, best_of, measure_quality
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
        return _differ(self.first, self.second)


@dataclass(frozen=True, slots=True)
class Other:
    """A photo that is near-identical to the one kept: with its hash, and its SSIM to that one."""

    photo: Labelled
    sha256: str
    ssim: float


@dataclass(frozen=True, slots=True)
class Group:
    """A photo to keep, why, and the photos that are near-identical to it, each directly, not by way of another."""

    keep: Labelled
    sha256: str
    why: str
    others: tuple[Other, ...]

    def is_conflict(self, other: Other) -> bool:
        """Whether one of its others shows another individual than the one kept: then it is no duplicate to move."""
        return _differ(self.keep, other.photo)


def _differ(one: Labelled, other: Labelled) -> bool:
    return None is not one.individual != other.individual is not None


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What was found.

    Attributes:
        photos: those that could be read, each file once, however many names lead to it; those archived last.
        threshold: SSIM, in (0, 1].
        scope: which pairs were looked for.
        found: the pairs, as places among the photos.
        groups: a photo is in one group at most, and of a pair that no group holds, both are kept.
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
        """Write a line for each pair: both photos, whom they show, their parts (`keep` or `other`), and SSIM.

        Raises:
            OSError: the file cannot be written.
        """
        part = {group.keep.path: "keep" for group in self.groups}
        part |= {other.photo.path: "other" for group in self.groups for other in group.others}
        with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["ssim", "photo_1", "individual_1", "part_1", "photo_2", "individual_2", "part_2"])
            for pair in self.pairs():
                sides = [[one.path, one.individual, part.get(one.path, "keep")] for one in (pair.first, pair.second)]
                writer.writerow([f"{pair.ssim:.7f}", *sides[0], *sides[1]])


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
    groups = list(_groups(known, pairs, problems))
    return Duplicates([photo for photo, _ in known], threshold, scope, pairs, groups, problems)


def _each_once(photos: Sequence[Labelled]) -> list[Labelled]:
    """The photos without those that are the same file by another name (a link, a folder named twice).

    Those archived come last, and a file that is archived by any of its names is.
    """
    seen: set[tuple[int, int]] = set()
    listed = []
    for photo in sorted(photos, key=lambda photo: not photo.archived):
        try:
            status = photo.path.stat()
        except (OSError, ValueError):
            listed.append(photo)  # reading it will tell what is wrong
            continue
        if (status.st_dev, status.st_ino) not in seen:
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


def _groups(known: Sequence[tuple[Labelled, Picture]], pairs: Pairs, problems: list[PhotoError]) -> Iterator[Group]:
    """Around the best photo of all that hang together, those near-identical to it; then around the best of the rest."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs.first):
        return
    places = (np.concatenate([pairs.first, pairs.second]), np.concatenate([pairs.second, pairs.first]))
    near = coo_array((np.concatenate([pairs.ssim, pairs.ssim]), places), shape=(len(known), len(known))).tocsr()
    involved = np.unique(places[0])
    qualities = dict(zip(involved.tolist(), _measured([known[i][0].path for i in involved], problems), strict=True))
    _, component = connected_components(near, directed=False)
    by_component = involved[np.argsort(component[involved], kind="stable")]
    for together in np.split(by_component, np.flatnonzero(np.diff(component[by_component])) + 1):
        left = [place for place in together.tolist() if qualities[place] is not None]
        while left:
            place, why = _best(left, known, qualities)
            row = slice(near.indptr[place], near.indptr[place + 1])
            ssim = dict(zip(near.indices[row].tolist(), near.data[row].tolist(), strict=True))
            # What is archived stays in any case.
            others = [one for one in left if one in ssim and not known[one][0].archived]
            if others:
                yield Group(
                    known[place][0],
                    known[place][1].sha256,
                    why,
                    tuple(Other(known[one][0], known[one][1].sha256, float(ssim[one])) for one in others),
                )
            gone = {place, *others}
            left = [one for one in left if one not in gone]


def _measured(paths: Sequence[Path], problems: list[PhotoError]) -> Iterator[Quality | None]:
    """The photos' qualities; None for one that cannot be read any more, which is told."""

    def measure(path: Path) -> Quality | PhotoError:
        try:
            return measure_quality(path)
        except PhotoError as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:
        for result in pool.map(measure, paths):
            if isinstance(result, PhotoError):
                problems.append(result)
                yield None
            else:
                yield result


def _best(
    places: Sequence[int], known: Sequence[tuple[Labelled, Picture]], qualities: dict[int, Quality | None]
) -> tuple[int, str]:
    """The photo to keep, and why: one that is archived, else one whose individual is told, else the best."""
    standings: list[tuple[str, Callable[[Labelled], bool]]] = [
        ("in the archive", lambda photo: photo.archived),
        ("its individual is told", lambda photo: photo.individual is not None),
    ]
    for why, stands in standings:
        chosen = [place for place in places if stands(known[place][0])]
        if len(chosen) == 1 < len(places):
            return chosen[0], why
        places = chosen or places
    compared = [(place, quality) for place in places if (quality := qualities[place]) is not None]
    best, why = best_of([quality for _, quality in compared], [known[place][0].path for place, _ in compared])
    return compared[best][0], why
