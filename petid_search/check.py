"""Is the gallery whole? What is damaged is named; what can be made again is."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from petid_search.errors import PetidError
from petid_search.images import read_photo
from petid_search.index import upkeep
from petid_search.index.gallery import EnrolledPhoto, Gallery
from petid_search.models.runtime import Embedder
from petid_search.reindex import reindex


@dataclass(frozen=True, slots=True)
class Findings:
    """What `check` found: `repaired` is right again, `problems` need somebody to do what they say."""

    repaired: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(gallery: Gallery, embedder: Callable[[], Embedder], *, looked: Callable[[], None] = lambda: None) -> Findings:
    """Prove that a gallery is whole: rows, photos, embeddings and index; and repair what can be.

    Every photo's bytes are read and compared with the hash that they were enrolled under. A stored photo that is lost
    or damaged is fetched from where it came, if the same bytes are still there.

    Args:
        gallery: what to check.
        embedder: gives the gallery's model; only called where embeddings have to be made again.
        looked: called after each photo, for a progress bar.
    """
    findings = Findings()
    findings.problems.extend(
        f"The database is damaged ({damage}): restore the gallery from a backup." for damage in upkeep.damage(gallery)
    )
    if findings.problems:
        return findings
    if orphans := upkeep.delete_orphans(gallery):
        findings.repaired.append(f"{orphans} stored photos that an interrupted command left behind were deleted")
    for photo in chain(gallery.photos(), gallery.removed_photos()):
        _check_photo(photo, gallery, findings)
        looked()
    _check_embeddings(gallery, embedder, findings)
    if not gallery.index.is_right():
        gallery.index.rebuild()
        findings.repaired.append("the search index was built again")
    gallery.index.save()
    return findings


def _check_photo(photo: EnrolledPhoto, gallery: Gallery, findings: Findings) -> None:
    if _hash(photo.file) == photo.sha256:
        return
    if not photo.linked and _hash(photo.source) == photo.sha256:
        gallery.put_back(photo, read_photo(photo.source))
        findings.repaired.append(f"a photo of {photo.individual!r} was fetched again from {photo.source}")
        return
    what = "is missing" if not photo.file.exists() else "is not the photo that was enrolled"
    giving_up = f"`petid remove {photo.individual!r} --photo {photo.sha256[:12]}` and `petid purge`"
    if photo.removed:
        what, giving_up = f"(removed) {what}", "`petid purge`"
    findings.problems.append(
        f"{photo.file} of {photo.individual!r} {what}: put it back (it was {photo.source}), or {giving_up}."
    )


def _check_embeddings(gallery: Gallery, embedder: Callable[[], Embedder], findings: Findings) -> None:
    model = gallery.model
    if model is None:
        return
    if bad := upkeep.bad_embeddings(gallery):
        upkeep.drop_embeddings(gallery, bad)
    missing = gallery.count_without_embedding(model)
    if not missing:
        return
    try:
        for _ in reindex(gallery, embedder()):
            pass
        findings.repaired.append(f"{missing} embeddings were made again")
    except PetidError as error:
        findings.problems.append(f"{missing} embeddings are missing and could not be made again: {error}")


def _hash(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None
