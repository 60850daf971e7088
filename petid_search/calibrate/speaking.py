"""Which calibration speaks: the gallery's own where it can promise the FPIR asked for, else its model's."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from petid_search.calibrate.calibration import Calibration
from petid_search.calibrate.carried import Carried
from petid_search.calibrate.combined import Combined, Weights
from petid_search.calibrate.familiar import Familiar
from petid_search.calibrate.keeping import current_calibration, renewed_calibration
from petid_search.errors import CalibrationError
from petid_search.index.gallery import Gallery
from petid_search.models.bundle import Card

Source = Literal["gallery", "model"]

_BY_CHANCE: Final = 2.0
"""So many of a small gallery's animals may reach a model's threshold for each other: one animal under two names, or
twins, are no reason to raise it for all."""

_MOST_ASKED: Final = 200
"""Photos that tell of what kind all are."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Two thresholds, whose they are, and the probabilities beside them.

    Attributes:
        threshold: the similarity from which on a candidate is a match; None where nobody can state one.
        lower: the similarity under which a probe is `unknown`; minus infinity where nobody can state one.
        source: whose calibration the threshold is of; None without one.
        individuals: how many individuals it was measured on; 0 without one.
        note: whatever there is to know of them; else empty.
        probability: from similarity to the probability that a candidate is the probe's individual, were half of all
            probes mated, in (0, 1); None where it cannot be told.
        familiar: of what kind the photos are that all this was measured on, and for which alone it holds; None where
            that is the gallery's own, or not known.
    """

    threshold: float | None
    lower: float
    source: Source | None
    individuals: int
    note: str
    probability: Callable[[float], float | None]
    familiar: Familiar | None = None


@dataclass(frozen=True, slots=True)
class Together:
    """Index and classifier as they decide together of the individuals that both know.

    Attributes:
        weights: what makes the evidence of a candidate.
        threshold: the evidence from which on such a candidate is a match.
        lower: the evidence under which a probe may be `unknown`; minus infinity where that cannot be stated.
        strangers: how many individuals the threshold was measured on.
        note: whom the classifier does not know, and that the index alone decides of; else empty.
        familiar: as in Limits.
    """

    weights: Weights
    threshold: float
    lower: float
    strangers: int
    note: str
    familiar: Familiar | None = None


def of_another_kind(individuals: int, model: str, fpir: float) -> Limits:
    """The limits for photos of another kind than those of the individuals that a model carries its own of: none."""
    note = (
        f"these two photos are of another kind than those of {individuals} individuals that the calibration carried by "
        f"model {model} was measured on, so it does not hold; {_measured_on_yours(fpir)}"
    )
    return Limits(None, -math.inf, None, 0, note, lambda _: None)


def speaking(gallery: Gallery, card: Card, fpir: float) -> Limits:
    """The limits for a wanted FPIR, in a gallery as it is now.

    What the speaker cannot tell, as a gallery of single photos cannot tell what enrolled animals reach, the other one
    tells, if it can.

    Args:
        gallery: who is known.
        card: that of its model.
        fpir: in (0, 1).

    Raises:
        GalleryError: nothing is enrolled.
    """
    size, photos = gallery.count_individuals(), gallery.count_photos()
    measured = current_calibration(gallery)
    own = _own(measured, gallery, fpir, size)
    calibration = Carried.from_json(card.calibration)
    if calibration is None or not size:
        return own
    theirs = _carried(calibration, card.name, fpir, size, photos / size)
    if theirs.threshold is not None and measured.strangers.contradict(theirs.threshold, fpir):
        theirs = _contradicted(card.name, measured, theirs.threshold)
    limits = _together(own, theirs, card.name, "unknown")
    return _not_below(limits, measured, fpir, size) if limits.source == "model" else limits


def count_of_another_kind(gallery: Gallery, limits: Limits, newest: int) -> tuple[int, int]:
    """How many of the gallery's newest photos the limits hardly hold for, being of another kind; and of how many.

    Args:
        gallery: who is known.
        limits: as stated for it.
        newest: how many photos are asked about, at least 1; of more than a few hundred, the last.

    Returns:
        Both counts; (0, 0) where the limits hold for photos of any kind, or there are none.
    """
    if limits.threshold is None or limits.familiar is None:
        return 0, 0
    asked = np.sort(gallery.owners()[0])[-min(newest, _MOST_ASKED) :]
    distances = limits.familiar.distances(gallery.embeddings(asked))
    return int((distances > limits.familiar.limit).sum()), len(asked)


def speaking_together(gallery: Gallery, card: Card, fpir: float) -> tuple[Together | None, str]:
    """How index and classifier decide together, and why they do not where they could: a note, or an empty one.

    They do where a model carries how, since together they were no worse than the better of them when it was trained,
    where its classifier knows somebody of an enrolled name, and where they can promise the FPIR asked for.

    A stranger is called by a name that the classifier knows if the evidence reaches the threshold, and by another one
    if the similarity reaches that of `speaking`. Each threshold holds the FPIR for a gallery of this size, and each
    meets a part of it only; as FPIR grows with the individuals (see `promise.grown`), both parts make up no more than
    what was asked for.

    Args:
        gallery: who is known.
        card: that of its model.
        fpir: in (0, 1).
    """
    combined = Combined.from_json((card.calibration or {}).get("combined"))
    carried = Carried.from_json(card.calibration)
    enrolled = gallery.individuals()
    known = len(enrolled.keys() & set(card.classes))
    if combined is None or not known:
        return None, ""
    size = len(enrolled)
    try:
        threshold = combined.threshold(fpir, size=size, photos_each=sum(enrolled.values()) / size)
    except CalibrationError as error:
        return None, f"{error}; so the index decides alone"
    lower = -math.inf if combined.lower is None else min(threshold, combined.lower)
    note = f"the classifier knows {known} of {size} enrolled; of the others the index decides" if known < size else ""
    familiar = None if carried is None else carried.familiar
    return Together(combined.weights, threshold, lower, combined.individuals, note, familiar), ""


def speaking_of_pairs(gallery: Gallery, card: Card, far: float) -> Limits:
    """The limits for two photos to show one individual, or two: `lower` is that under which they are `different`.

    Two photos are a probe, and a gallery of one photo: so the model's calibration is that of such a gallery.

    Args:
        gallery: whose photos are measured.
        card: that of its model.
        far: false accept rate to hold among pairs of different individuals, in (0, 1).

    Raises:
        GalleryError: nothing is enrolled.
    """
    measured = current_calibration(gallery)
    own = _limits(
        measured, lambda: measured.verification_threshold(far), lambda: measured.verification_lower_threshold(far)
    )
    own = replace(own, probability=lambda _: None)
    calibration = Carried.from_json(card.calibration)
    if calibration is None:
        return own
    theirs = _carried(calibration, card.name, far, 1, 1.0)
    size = measured.samples.gallery_size
    try:
        among = calibration.threshold(far, size=size, photos_each=max(1.0, measured.samples.photos / max(size, 1)))
    except CalibrationError:
        return _together(own, theirs, card.name, "different")
    if measured.strangers.contradict(among, far):
        theirs = _contradicted(card.name, measured, among)
    return _together(own, theirs, card.name, "different")


def _together(own: Limits, theirs: Limits, model: str, other: str) -> Limits:
    """Who speaks of a gallery and its model; `other` is the decision under the lower threshold."""
    if own.threshold is None and theirs.threshold is None:
        familiar = theirs.familiar if own.probability(0.0) is None else None
        note = f"{own.note}; {theirs.note}"
        return replace(own, note=note, probability=_first_of(own, theirs), familiar=familiar)
    if own.threshold is None:
        return replace(theirs, probability=_first_of(theirs, own))
    if own.lower > -math.inf or theirs.lower == -math.inf:
        return replace(own, probability=_first_of(own, theirs))
    return replace(
        own,
        lower=min(own.threshold, theirs.lower),
        note=f"{own.note}; so `{other}` goes by the calibration that model {model} carries",
        probability=_first_of(own, theirs),
    )


def _contradicted(model: str, calibration: Calibration, threshold: float) -> Limits:
    """A model's limits where the gallery's own animals show that they are of photos of another kind."""
    count = calibration.strangers.count
    taken = round(calibration.strangers.measured(threshold) * count)
    note = (
        f"the calibration that model {model} carries does not hold for such photos: by it {taken} of your {count} "
        "animals would be taken for another"
    )
    return Limits(None, -math.inf, None, 0, note, lambda _: None)


def _not_below(limits: Limits, calibration: Calibration, fpir: float, size: int) -> Limits:
    """A model's limits, raised to what the gallery itself needs for the lowest FPIR that it can promise.

    Fewer strangers cannot be let through by a lower threshold, whoever states it.
    """
    try:
        smallest = calibration.smallest_fpir(size)
        least = calibration.threshold(smallest, size=size)
    except CalibrationError:
        return limits
    if limits.threshold is None or smallest <= fpir or least <= limits.threshold:
        return limits
    strangers = calibration.strangers
    if strangers.measured(limits.threshold) * strangers.count <= _BY_CHANCE:
        return limits
    raised = f"raised to {least:.3f}, which your animals need for FPIR {smallest:.3g} already"
    return replace(limits, threshold=least, note=f"{limits.note}; {raised}")


def _own(calibration: Calibration, gallery: Gallery, fpir: float, size: int) -> Limits:
    limits = _of_identification(calibration, fpir, size)
    if limits.lower == -math.inf and size > calibration.samples.gallery_size:
        # What was enough for fewer individuals may not be for those that have come since, and these tell as well.
        limits = _of_identification(renewed_calibration(gallery), fpir, size)
    return limits


def _of_identification(calibration: Calibration, fpir: float, size: int) -> Limits:
    measured_at, note = calibration.samples.gallery_size, ""
    if size > measured_at:
        note = _grown(measured_at, calibration.rate_when_measured(fpir, size))
    return _limits(
        calibration,
        lambda: calibration.threshold(fpir, size=size),
        lambda: calibration.lower_threshold(fpir, size=size),
        note,
    )


def _limits(calibration: Calibration, upper: Callable[[], float], lower: Callable[[], float], note: str = "") -> Limits:
    """A gallery's own limits, as far as they can be stated; the note is for where there is a threshold."""
    count = calibration.strangers.count
    try:
        threshold = upper()
    except CalibrationError as error:
        return Limits(None, -math.inf, None, 0, str(error), calibration.probability)
    try:
        return Limits(threshold, lower(), "gallery", count, note, calibration.probability)
    except CalibrationError as error:
        notes = [*([note] if note else []), str(error)]
        return Limits(threshold, -math.inf, "gallery", count, "; ".join(notes), calibration.probability)


def _carried(calibration: Carried, model: str, fpir: float, size: int, photos_each: float) -> Limits:
    def probability(similarity: float) -> float | None:
        return calibration.probability(similarity, size=size, photos_each=photos_each)

    try:
        threshold = calibration.threshold(fpir, size=size, photos_each=photos_each)
    except CalibrationError as error:
        lower = calibration.lower_threshold(photos_each=photos_each)
        floor = -math.inf if lower is None else lower
        return Limits(None, floor, None, 0, str(error), probability, calibration.familiar)
    note = (
        f"carried by model {model}, measured on {calibration.individuals} individuals of {calibration.data}: it holds "
        f"for such photos; {_measured_on_yours(fpir)}"
    )
    rate = calibration.rate_when_measured(fpir, size=size, photos_each=photos_each)
    if rate < fpir:
        note += f"; {_grown(calibration.sizes[-1], rate)}"
    lower = calibration.lower_threshold(photos_each=photos_each)
    if lower is None:
        lower = -math.inf
        note += "; too few of those have several photos for saying `unknown`"
    own = min(threshold, lower)
    return Limits(threshold, own, "model", calibration.individuals, note, probability, calibration.familiar)


def _measured_on_yours(fpir: float) -> str:
    needed = math.ceil(1 / fpir - 1e-9) - 1
    return f"with {needed} animals or more, `petid calibrate` measures it on yours"


def _grown(measured_at: int, rate: float) -> str:
    return (
        f"measured at N = {measured_at}; since FPIR grows about with N, the threshold is that of FPIR {rate:.3g} there"
    )


def _first_of(speaker: Limits, other: Limits) -> Callable[[float], float | None]:
    """What the speaker says a probability is, or else the other one."""

    def probability(similarity: float) -> float | None:
        told = speaker.probability(similarity)
        return other.probability(similarity) if told is None else told

    return probability
