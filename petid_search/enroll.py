"""Photos into the gallery: which photo shows whom, and the batches that put them there."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from petid_search.dataset import labelled_photos
from petid_search.embed import Embedded, Result, Skipped, Unreadable, embed_photos
from petid_search.errors import GalleryError, PetidError, PhotoError
from petid_search.images import is_folder, shortened
from petid_search.index.gallery import Enrolment, Gallery, Standing, individual_name
from petid_search.likeness import Likeness, NearIdentical
from petid_search.models.runtime import Embedder

_BATCH: Final = 64
_BATCH_BYTES: Final = 64 * 2**20
_PATIENCE_S: Final = 2.0
"""Photos are committed when so many, or so many bytes, are ready, or when the first has waited so long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one photo; told only once it is true on the disk.

    `enrolled`: it is in the gallery now. `known`: it was there already, and nothing changed.
    `removed`: it was removed once, and stays out. `failed`: it is not
    there, for the reason given. `near` are the photos in the gallery that a newly enrolled one is nearly identical to,
    the most alike first: if one of them shows another individual, one of the two is probably labelled wrong.
    """

    path: Path
    individual: str
    status: Literal["enrolled", "known", "removed", "failed"]
    reason: PetidError | None = None
    near: tuple[NearIdentical, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Photos and the individual that each shows, and what cannot be enrolled, with the reason."""

    photos: list[tuple[Path, str]] = field(default_factory=list)
    problems: list[PetidError] = field(default_factory=list)


def plan_enrolment(paths: Sequence[Path], name: str | None = None) -> Plan:
    """Tell from where photos lie whom they show.

    With a name, all photos show that individual. Without, a folder's sub-folders are individuals, by their names;
    a folder without sub-folders that hold photos is one individual itself.

    Args:
        paths: photos, or folders of them.
        name: the individual that all of them show.

    Raises:
        GalleryError: the name is not fit to be one.
    """
    plan = Plan()
    if name is not None:
        name = individual_name(name)
    for path in paths:
        if is_folder(path):
            _plan_folder(path, name, plan)
        elif name is None:
            plan.problems.append(_nobody_named(path))
        else:
            plan.photos.append((path, name))
    return plan


def enroll(
    gallery: Gallery,
    photos: Iterable[tuple[Path, str]],
    embedder: Embedder,
    *,
    link: bool = False,
    corrected: bool = False,
) -> Iterator[Outcome]:
    """Enroll photos, batch after batch; whatever happens on the way, what was told as enrolled stays.

    All that one call enrolls is one change to `Gallery.undo`.

    Args:
        gallery: where to.
        photos: each photo and its individual's name, as `individual_name` gives it; read lazily.
        embedder: the gallery's model; an empty gallery takes this one.
        link: leave the photos where they are, instead of copying them into the gallery.
        corrected: the names are those of folders that do not know of corrections made since: follow renames and
            merges, and leave out what was removed. Else names are meant as they are, and a removed photo comes back.

    Raises:
        ModelMismatch: the gallery holds embeddings of another model.
        GalleryError: the gallery cannot be written.
        ModelError: the model cannot be used.
    """
    if gallery.model is not None:
        gallery.require_model(embedder.name, embedder.fingerprint)
    names: deque[str] = deque()
    # Workers ask what is known through a connection of their own: the writer's is busy with its transactions.
    with Gallery(gallery.folder) as lookup:
        asking = threading.Lock()

        def known(hashes: Sequence[str]) -> dict[str, str]:
            with asking:
                return lookup.known(hashes)

        def paths() -> Iterator[Path]:
            for path, name in photos:
                names.append(name)
                yield path

        committer = _Committer(gallery, embedder, link, corrected)
        ready: list[Result] = []
        since, size = time.monotonic(), 0
        for result in embed_photos(paths(), embedder, skip=known, keep_bytes=not link, thumbnails=True):
            ready.append(result)
            size += 0 if isinstance(result, Unreadable) else len(result.photo.data)
            if len(ready) >= _BATCH or size > _BATCH_BYTES or time.monotonic() - since > _PATIENCE_S:
                yield from committer.commit(ready, [names.popleft() for _ in ready])
                ready, since, size = [], time.monotonic(), 0
        yield from committer.commit(ready, [names.popleft() for _ in ready])
    gallery.index.save()


class _Committer:
    """What one command enrolls, batch after batch, as one change to undo."""

    def __init__(self, gallery: Gallery, embedder: Embedder, link: bool, corrected: bool) -> None:
        self._gallery = gallery
        self._model = (embedder.name, embedder.fingerprint)
        self._link = link
        self._corrected = corrected
        self._entry: int | None = None
        self._likeness: Likeness | None = None

    def commit(self, results: Sequence[Result], owners: Sequence[str]) -> list[Outcome]:
        results = [_storable(result) for result in results]
        batch = [
            Enrolment(result.photo, owner, result.vector)
            for result, owner in zip(results, owners, strict=True)
            if isinstance(result, Embedded)
        ]
        standings, self._entry = self._gallery.enroll(
            batch, model=self._model, link=self._link, corrected=self._corrected, entry=self._entry
        )
        told = iter(standings)
        near = self._near_identical(results, standings)
        known = self._gallery.known([result.photo.sha256 for result in results if isinstance(result, Skipped)])
        outcomes = []
        for result, owner in zip(results, owners, strict=True):
            match result:
                case Unreadable(path=path, error=error):
                    outcomes.append(Outcome(path, owner, "failed", error))
                case Embedded(photo=photo):
                    outcomes.append(_outcome(photo.path, owner, next(told), near.get(photo.sha256, [])))
                case Skipped(photo=photo):
                    outcomes.append(_outcome(photo.path, owner, self._standing(owner, known.get(photo.sha256))))
        return outcomes

    def _near_identical(
        self, results: Sequence[Result], standings: Sequence[Standing]
    ) -> dict[str, list[NearIdentical]]:
        embedded = [result for result in results if isinstance(result, Embedded)]
        news = {
            result.photo.sha256: result.thumbnail
            for result, standing in zip(embedded, standings, strict=True)
            if standing.status == "enrolled" and result.thumbnail is not None
        }
        if not news:
            return {}
        if self._likeness is None:
            self._likeness = Likeness(self._gallery)
        return self._likeness.add(news)

    def _standing(self, owner: str, holder: str | None) -> Standing:
        name = self._gallery.corrected_name(owner) if self._corrected else owner
        return Standing("known" if holder in (name, None) else "refused", holder or name)


def _outcome(path: Path, owner: str, standing: Standing, near: Sequence[NearIdentical] = ()) -> Outcome:
    if standing.status == "refused":
        return Outcome(path, owner, "failed", _two_names(path, owner, standing.individual))
    return Outcome(path, standing.individual, standing.status, near=tuple(near))


def _storable(result: Result) -> Result:
    """The result, unless where the photo lies cannot be written down."""
    if isinstance(result, Embedded):
        path = result.photo.path
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError:
            return Unreadable(path, PhotoError(f"{path} has a name that is not UTF-8: rename it."))
    return result


def _nobody_named(path: Path) -> PhotoError:
    try:
        if not path.exists():
            return PhotoError(f"There is no photo or folder {shortened(path)}: check the name.")
    except OSError as error:
        return PhotoError(f"{shortened(path)} cannot be looked at ({error.strerror}): check the name and the rights.")
    return PhotoError(f"{shortened(path)} does not say whom it shows: give --as NAME, or a folder.")


def _two_names(path: Path, name: str, holder: str) -> GalleryError:
    return GalleryError(
        f"{path} is enrolled as {holder!r} and cannot be {name!r} too: "
        f"if the two are one, use `petid merge`; if it is {name!r}, `petid remove` it from {holder!r} first."
    )


def _plan_folder(folder: Path, name: str | None, plan: Plan) -> None:
    for photo, shown in labelled_photos(folder, plan.problems.append):
        try:
            if name is not None:
                plan.photos.append((photo, name))
            elif shown is None:
                plan.problems.append(
                    PhotoError(f"{photo} lies beside the individuals' folders: give it with --as NAME, or move it.")
                )
            else:
                plan.photos.append((photo, individual_name(shown)))
        except GalleryError as error:
            plan.problems.append(PhotoError(f"{photo}: {error}"))
