"""Which photo is searched for among which: protocols that keep near-duplicates on one side, the same for a seed.

Each photo is counted once: of files with the same bytes, the first stands for all; where they lie under two names, none
is used, since one of the names is wrong.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from petid_search.dataset.manifest import LabelledPhoto
from petid_search.errors import DatasetError

Protocol: TypeAlias = Literal["leave-one-out", "gallery-probe", "open-set", "verification", "by-time"]
PROTOCOLS: Final[tuple[Protocol, ...]] = get_args(Protocol)

Role: TypeAlias = Literal["gallery", "probe", "stranger", "both", "train", "validation", "held out", "left out"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""To evaluate, `gallery`: enrolled. `probe`: searched for, its individual being enrolled. `stranger`: searched for, its
individual being none of the enrolled. `both`: a probe, and enrolled for every other probe. To train, `train`: learnt
from. `validation`: another photo of an individual that is learnt from. `held out`: of an individual of whom nothing is
learnt. `left out`: not used."""

SESSION_GAP: Final = timedelta(hours=1)
"""Photos of one individual that follow each other within this time are one session, which time does not part."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A photo and its role.

    Attributes:
        photo: its name in the manifest.
        sha256: of its bytes.
        individual: whom it shows.
        role: what it is used for.
        group: number of its group of near-duplicates; None where it has none.
        reason: why it is left out; else empty.
    """

    photo: str
    sha256: str
    individual: str
    role: Role
    group: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """A folder's photos with their roles, in the order of the manifest.

    Attributes:
        protocol: what the roles are for: an evaluation by this protocol, or `training`.
        photos: each photo that has a role.
    """

    protocol: Protocol | Literal["training"]
    photos: tuple[Assigned, ...]


def near_duplicate_groups(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the groups of photos that are linked by near-duplicate pairs, one after the other.

    Args:
        count: how many photos there are.
        pairs: int64, (m, 2), photo numbers in [0, count).

    Returns:
        int64, (count,), the group of each photo, by first appearance; one without near-duplicates is a group itself.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = connected_components(links, directed=False)
    _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int64)[numbers]


def make_split(
    photos: Sequence[LabelledPhoto],
    groups: NDArray[np.int64],
    protocol: Protocol,
    *,
    seed: int = 0,
    enrolled: float = 0.5,
) -> Split:
    """Divide the photos of a folder. The same photos, groups and seed are divided the same.

    Args:
        photos: the manifest.
        groups: int64, (photos,), the group of near-duplicates of each, as `near_duplicate_groups` numbers them.
        protocol: `leave-one-out` and `verification` use every photo as `both`. `gallery-probe` enrolls about half of
            each individual's photos; `open-set` does so for a share of the individuals, and the rest are strangers.
            `by-time` enrolls each individual's earlier sessions, about half of its photos; the later ones are probes.
        seed: of what is drawn.
        enrolled: share of the individuals that `open-set` enrolls, in (0, 1).

    Raises:
        DatasetError: there is nothing to compare: one individual only, nobody with two photos that are not
            near-duplicates, no photo that carries a time.
    """
    reasons = repeated_bytes(photos)
    usable = [place for place in range(len(photos)) if place not in reasons]
    by_individual: dict[str, list[int]] = defaultdict(list)
    for place in usable:
        by_individual[photos[place].individual].append(place)
    check_comparable(by_individual, groups)
    roles: dict[int, Role]
    if protocol in ("leave-one-out", "verification"):
        roles = dict.fromkeys(usable, "both")
    else:
        roles = _divide(photos, groups, by_individual, protocol, np.random.default_rng(seed), enrolled, reasons)
    return Split(protocol, assign(photos, groups, roles, reasons))


def assign(
    photos: Sequence[LabelledPhoto], groups: NDArray[np.int64], roles: Mapping[int, Role], reasons: Mapping[int, str]
) -> tuple[Assigned, ...]:
    """Photos with their roles and reasons, given by place; one without a role is left out.

    Args:
        photos: the manifest.
        groups: int64, (photos,), the group of near-duplicates of each; a group of one is not told.
        roles: by place.
        reasons: why photos are left out, by place.
    """
    _, numbers, members = np.unique(groups, return_inverse=True, return_counts=True)
    several = members[numbers] > 1
    return tuple(
        Assigned(
            photo.name,
            photo.sha256,
            photo.individual,
            roles.get(place, "left out"),
            int(groups[place]) if several[place] else None,
            reasons.get(place, ""),
        )
        for place, photo in enumerate(photos)
    )


def check_comparable(by_individual: Mapping[str, Sequence[int]], groups: NDArray[np.int64]) -> None:
    """Refuse photos in which there is nothing to compare.

    Args:
        by_individual: places of each individual's photos that are used.
        groups: int64, (photos,), the group of near-duplicates of each.

    Raises:
        DatasetError: they show one individual only, or nobody with two photos that are not near-duplicates.
    """
    if len(by_individual) < 2:
        only = "one individual only" if by_individual else "nobody"
        raise DatasetError(
            f"The photos that can be used show {only}, and it takes two to be told apart: "
            "name the folder that holds the individuals' folders."
        )
    if all(len({int(groups[place]) for place in places}) < 2 for places in by_individual.values()):
        raise DatasetError(
            "No individual has two photos that are not near-duplicates: nobody can be found again. Add other photos."
        )


def _divide(
    photos: Sequence[LabelledPhoto],
    groups: NDArray[np.int64],
    by_individual: Mapping[str, list[int]],
    protocol: Protocol,
    rng: np.random.Generator,
    enrolled: float,
    reasons: dict[int, str],
) -> dict[int, Role]:
    """Roles of the photos, without a leak; why a photo is left out is added to the reasons."""
    roles: dict[int, Role] = {}
    shared = shared_groups(groups, by_individual)
    known = set(by_individual)
    if protocol == "open-set":
        known = _draw_enrolled(families_of(groups, by_individual, shared), len(by_individual), enrolled, rng)
    for individual, places in by_individual.items():
        if individual not in known:
            roles.update(dict.fromkeys(places, "stranger"))
        elif protocol == "by-time":
            roles.update(_earlier_and_later(photos, places, reasons))
        else:
            roles.update(_half_and_half(groups, places, shared, rng))
    # What time puts on two sides, near-duplicates keep on one: the later photo says nothing that the earlier does not.
    standing = {int(groups[place]): photos[place].name for place, role in roles.items() if role == "gallery"}
    for place, role in list(roles.items()):
        if role == "probe" and (twin := standing.get(int(groups[place]))) is not None:
            del roles[place]
            reasons[place] = f"a near-duplicate of {twin}, which is enrolled"
    if "probe" not in roles.values():
        raise DatasetError(
            _nothing_later(photos)
            if protocol == "by-time"
            else "None of the enrolled individuals has a second photo to find it by: use another --seed or --enrolled."
        )
    return roles


def repeated_bytes(photos: Sequence[LabelledPhoto]) -> dict[int, str]:
    """Why photos are left out whose bytes occur more than once."""
    by_bytes: dict[str, list[int]] = defaultdict(list)
    for place, photo in enumerate(photos):
        by_bytes[photo.sha256].append(place)
    reasons = {}
    for places in by_bytes.values():
        if len({photos[place].individual for place in places}) > 1:
            for place in places:
                other = next(photos[one] for one in places if photos[one].individual != photos[place].individual)
                reasons[place] = f"the same bytes as {other.name}, which is under another name"
        else:
            reasons.update(dict.fromkeys(places[1:], f"the same bytes as {photos[places[0]].name}"))
    return reasons


def shared_groups(groups: NDArray[np.int64], by_individual: Mapping[str, list[int]]) -> set[int]:
    """Groups of near-duplicates that lie under several names."""
    owner: dict[int, str] = {}
    shared = set()
    for individual, places in by_individual.items():
        for place in places:
            if owner.setdefault(int(groups[place]), individual) != individual:
                shared.add(int(groups[place]))
    return shared


def families_of(groups: NDArray[np.int64], by_individual: Mapping[str, list[int]], shared: set[int]) -> list[list[str]]:
    """Individuals, together with those of whom they share near-duplicates: they are enrolled or strangers together."""
    names = list(by_individual)
    holders: dict[int, int] = {}
    links = []
    for number, name in enumerate(names):
        for group in {int(groups[place]) for place in by_individual[name]} & shared:
            links.append((holders.setdefault(group, number), number))
    families: dict[int, list[str]] = defaultdict(list)
    of_name = near_duplicate_groups(len(names), np.array(links, np.int64).reshape(-1, 2))
    for name, family in zip(names, of_name, strict=True):
        families[int(family)].append(name)
    return list(families.values())


def _draw_enrolled(families: Sequence[list[str]], individuals: int, share: float, rng: np.random.Generator) -> set[str]:
    """About the wanted share of the individuals; some, and not all."""
    if len(families) < 2:
        raise DatasetError(
            "All individuals share near-duplicates: none can be enrolled while another is a stranger. "
            "Look at the photos: are they of one animal?"
        )
    known: set[str] = set()
    for family in rng.permutation(len(families))[:-1]:
        if known and len(known) + len(families[family]) / 2 > share * individuals:
            break
        known.update(families[family])
    return known


def _half_and_half(
    groups: NDArray[np.int64], places: Sequence[int], shared: set[int], rng: np.random.Generator
) -> dict[int, Role]:
    """Half of an individual's photos enrolled, by whole groups of near-duplicates; one shared with others always."""
    members: dict[int, list[int]] = defaultdict(list)
    for place in places:
        members[int(groups[place])].append(place)
    gallery = [place for group, those in members.items() if group in shared for place in those]
    own = [those for group, those in members.items() if group not in shared]
    probes: list[int] = []
    for drawn, place in enumerate(rng.permutation(len(own)), start=1):
        if not gallery or (len(gallery) < len(places) / 2 and drawn < len(own)):
            gallery.extend(own[place])
        else:
            probes.extend(own[place])
    return _roles(gallery, probes)


def _earlier_and_later(
    photos: Sequence[LabelledPhoto], places: Sequence[int], reasons: dict[int, str]
) -> dict[int, Role]:
    """An individual's earlier sessions enrolled, as near to half of its photos as can be; the later ones are probes."""
    timed: list[tuple[datetime | date, int]] = []
    for place in places:
        if (taken := photos[place].taken) is None:
            reasons[place] = "carries no time, in its EXIF or its file's name"
        else:
            timed.append((taken, place))
    # Days first, and of a day what has no time of day: it parts no day, and other days it parts as any photo does.
    timed.sort(key=lambda one: (_midnight(one[0]), isinstance(one[0], datetime), one))
    begins = _partings([taken for taken, _ in timed]) or [len(timed)]
    cut = min(begins, key=lambda begin: abs(begin - len(timed) / 2))
    return _roles([place for _, place in timed[:cut]], [place for _, place in timed[cut:]])


def is_later(taken: datetime | date, earlier: datetime | date) -> bool:
    """Whether a photo is of a later session than another; within a day not, where one has no time of day."""
    if isinstance(taken, datetime) and isinstance(earlier, datetime):
        return taken - earlier > SESSION_GAP
    return _midnight(taken) > _midnight(earlier)


def _partings(times: Sequence[datetime | date]) -> list[int]:
    """Places from which on all times are of later sessions than all before; the times come sorted by days."""
    first: dict[bool, datetime | date] = {}
    firsts = []  # from each place on: the earliest with a time of day, and the earliest without
    for taken in reversed(times):
        first = {**first, isinstance(taken, datetime): taken}
        firsts.append(first)
    firsts.reverse()
    last: dict[bool, datetime | date] = {}
    partings = []
    for later in range(1, len(times)):
        last[isinstance(times[later - 1], datetime)] = times[later - 1]
        if all(is_later(one, other) for one in firsts[later].values() for other in last.values()):
            partings.append(later)
    return partings


def _midnight(taken: datetime | date) -> datetime:
    return datetime(taken.year, taken.month, taken.day)


def _roles(gallery: Iterable[int], probes: Iterable[int]) -> dict[int, Role]:
    roles: dict[int, Role] = dict.fromkeys(gallery, "gallery")
    return roles | dict.fromkeys(probes, "probe")


def _nothing_later(photos: Sequence[LabelledPhoto]) -> str:
    if all(photo.taken is None for photo in photos):
        return "No photo carries a time, in its EXIF or its file's name: use another --protocol."
    return (
        "No individual has photos that were taken more than an hour apart, and without near-duplicates among the "
        "earlier ones: use another --protocol."
    )
