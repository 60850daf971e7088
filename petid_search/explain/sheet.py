"""One picture of an explanation, for whoever asks: what was decided, where it comes from, and what to beware of."""

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from petid_search.explain import text
from petid_search.explain.canvas import MARGIN, Canvas
from petid_search.explain.classes import ClassExplanation
from petid_search.explain.colours import REGION_COLOURS, heated, in_regions
from petid_search.explain.explanation import Explanation
from petid_search.explain.maps import peak
from petid_search.explain.regions import Regions
from petid_search.identify import Candidate, Identification
from petid_search.images import open_image

if TYPE_CHECKING:
    from petid_search.explain.belief import Belief

_TILE: Final = 220
_GAP: Final = 8
_GROUP: Final = 28
_NAME: Final = 190
_BAR: Final = 520
_GROUPS: Final = {0: "the two photos", 2: "where they are alike", 4: "which parts agree: same colour, same letter"}
_LETTERS: Final = "ABC"
_IN_A_ROW: Final = 5
_WIDTH: Final = 2 * MARGIN + 6 * _TILE + 3 * _GAP + 2 * _GROUP
_COLUMNS: Final = tuple(MARGIN + one * _TILE + (one + 1) // 2 * _GAP + one // 2 * _GROUP for one in range(6))


def missing_signs(explanation: Explanation | ClassExplanation) -> str:
    """The signs of names on an explanation's picture that no font here has; they are written as code points."""
    if isinstance(explanation, ClassExplanation):
        named = list(explanation.scores)
    else:
        candidates = (*explanation.identification.candidates, *explanation.candidates)
        named = [candidate.individual for candidate in candidates]
    return text.missing_signs("".join((explanation.photo.name, *named)))


def draw(explanation: Explanation | ClassExplanation, belief: "Belief | None" = None) -> Image.Image:
    """Draw an explanation, and what its tests have found.

    Its heat maps are on one scale, so that weak evidence looks weak; the contrast of two candidates has its own.

    Raises:
        PhotoError: a photo can no longer be read.
    """
    canvas = Canvas(_WIDTH)
    if isinstance(explanation, ClassExplanation):
        _draw_classes(canvas, explanation)
        most = "most of the score before the activation; all maps are on one scale"
    else:
        _draw_similarities(canvas, explanation)
        most = "most of the similarity; all maps are on one scale, but for those of why the one and not the other"
    canvas.scale_bar(most)
    for warning in explanation.warnings:
        canvas.warning(warning)
    if belief is not None:
        _draw_belief(canvas, belief)
    return canvas.picture


def _draw_classes(canvas: Canvas, explanation: ClassExplanation) -> None:
    best = next(iter(explanation.scores))
    canvas.line(f"{explanation.photo.name}: {best} is the best class of {explanation.model}", 24, bold=True)
    where = "" if explanation.layer is None else f", in layer {explanation.layer}"
    canvas.line(f"Where each class's score comes from{where}", light=True)
    canvas.space(8)
    picture = Image.fromarray(open_image(explanation.photo))
    highest = peak(*explanation.maps.values())
    tiles = [(picture, "the photo", "")]
    for name, heat in explanation.maps.items():
        score = f"score {explanation.scores[name]:.1%}" + ("" if (heat > 0).any() else ", no evidence")
        tiles.append((_under(picture, heat, highest), name, score))
    for first in range(0, len(tiles), _IN_A_ROW):
        for column, (tile, name, score) in enumerate(tiles[first : first + _IN_A_ROW]):
            left = MARGIN + column * (_TILE + _GROUP)
            canvas.paste(tile, left, _TILE)
            canvas.write((left, canvas.top + _TILE + 6), name, 16, room=_TILE, bold=True)
            canvas.write((left, canvas.top + _TILE + 30), score, room=_TILE)
        canvas.space(_TILE + 66)


def _draw_similarities(canvas: Canvas, explanation: Explanation) -> None:
    answer = explanation.identification
    canvas.line(f"{answer.photo.name}: {_verdict(answer)}", 24, bold=True)
    canvas.line(_reason(explanation), light=True)
    canvas.space(8)
    _draw_bars(canvas, explanation)
    probe = Image.fromarray(open_image(answer.photo))
    highest = peak(*explanation.on_probe, *explanation.on_candidate)
    for place, candidate in enumerate(explanation.candidates):
        canvas.space(14)
        canvas.line(f"{_role(candidate, answer)}: {candidate.individual}", 20, bold=True)
        for column, words in _GROUPS.items():
            canvas.write((_COLUMNS[column], canvas.top), words, room=2 * _TILE, light=True)
        canvas.space(24)
        photo = Image.fromarray(open_image(candidate.file))
        regions = explanation.regions[place]
        tiles = (
            (probe, "the probe"),
            (photo, candidate.individual),
            (_under(probe, explanation.on_probe[place], highest), f"in the probe: like {candidate.individual}"),
            (_under(photo, explanation.on_candidate[place], highest), f"in {candidate.individual}: like the probe"),
            (_in_regions(probe, regions.on_probe), "the probe"),
            (_in_regions(photo, regions.on_candidate), candidate.individual),
        )
        for left, (tile, caption) in zip(_COLUMNS, tiles, strict=True):
            canvas.paste(tile, left, _TILE)
            canvas.write((left, canvas.top + _TILE + 4), caption, room=_TILE)
        canvas.space(_TILE + 28)
        _draw_shares(canvas, regions)
        canvas.space(28)
    _draw_contrast(canvas, explanation, probe)


def _draw_contrast(canvas: Canvas, explanation: Explanation, probe: Image.Image) -> None:
    """What in the probe is more like the first candidate than like the second, and the other way round."""
    if explanation.contrast is None:
        return
    first, second = (candidate.individual for candidate in explanation.candidates)
    canvas.space(14)
    canvas.line(f"Why {first}, and not {second}", 20, bold=True)
    highest = peak(explanation.contrast, -explanation.contrast)
    sides = ((explanation.contrast, first, second), (-explanation.contrast, second, first))
    for left, (side, name, other) in zip(_COLUMNS, sides, strict=False):
        canvas.paste(_under(probe, side, highest), left, _TILE)
        canvas.write((left, canvas.top + _TILE + 4), f"more like {name} than {other}", room=_TILE)
    words = (
        "Both maps of the probe are on one scale.",
        f"What is bright on the left speaks for {first},",
        f"what is bright on the right for {second}.",
    )
    for number, line in enumerate(words):
        canvas.write((_COLUMNS[2], canvas.top + 24 * number), line, room=3 * _TILE, light=True)
    canvas.space(_TILE + 36)


def _draw_bars(canvas: Canvas, explanation: Explanation) -> None:
    """The most similar individuals as bars, and the threshold as a line across them."""
    answer = explanation.identification
    shown = list(dict.fromkeys((*answer.candidates, *explanation.candidates)))
    left = MARGIN + _NAME
    first = canvas.top
    for candidate in shown:
        pen = canvas.pen(24)
        length = round(_BAR * min(max(candidate.similarity, 0.0), 1.0))
        reached = answer.threshold is not None and candidate.similarity >= answer.threshold
        pen.rectangle((left, canvas.top, left + length, canvas.top + 16), fill="#2a788e" if reached else "#b8b8b8")
        canvas.write((MARGIN, canvas.top), candidate.individual, room=_NAME - 12)
        short = explanation.short_of_threshold(candidate)
        words = f"{candidate.similarity:.2f}" + (f"  ({short:.2f} short of a match)" if short else "")
        canvas.write((left + _BAR + 16, canvas.top), words, room=400)
        canvas.space(24)
    if answer.threshold is not None:
        at = left + round(_BAR * answer.threshold)
        canvas.pen(30).line((at, first - 4, at, canvas.top + 2), fill="#d1495b", width=3)
        by_both = any(answer.is_of_both(candidate) for candidate in shown)
        words = f"a match{' by similarity alone' if by_both else ''} needs {answer.threshold:.2f}"
        canvas.write((at - text.width(words, 15) / 2, canvas.top + 3), words, room=400)
        canvas.space(24)


def _draw_shares(canvas: Canvas, regions: Regions) -> None:
    """The legend of the regions: how much of what agrees each pair makes up."""
    left = _COLUMNS[4]
    for letter, colour, share in zip(_LETTERS, REGION_COLOURS, regions.shares, strict=False):
        canvas.pen(20).rectangle((left, canvas.top + 1, left + 15, canvas.top + 16), fill=colour)
        canvas.write((left + 20, canvas.top), f"{letter}  {share:.0%}", room=72)
        left += 98
    if regions.shares:
        canvas.write((left, canvas.top), "of what agrees", room=160, light=True)


def _draw_belief(canvas: Canvas, belief: "Belief") -> None:
    from petid_search.explain.plots import curves

    found = belief.faithfulness
    canvas.space(14)
    canvas.line("Can the first map be believed?", 20, bold=True)
    canvas.line(_faithful(found.beats_random, found.beats_blob))
    told = ", ".join(f"{share:.0%}: {value:+.2f}" for share, value in belief.under_shuffled_weights.items())
    canvas.line("With so much of the network shuffled, the last layers first, the map should become another one.")
    canvas.line(f"Partial rank correlation with it: {told} (1: the same map, 0: another).")
    canvas.space(8)
    picture = curves(found)
    canvas.paste(picture, MARGIN)
    canvas.space(picture.height)


def _faithful(beats_random: bool, beats_blob: bool) -> str:
    if beats_random and beats_blob:
        return (
            "Yes: on balance, covering what it shows costs more, and uncovering it gains more, than with random maps "
            "or a blob in the middle."
        )
    if beats_random:
        return "In part: it is better than chance, but no better than a blob in the middle of the picture."
    return "No: covering and uncovering what it shows does no more than chance. Do not rely on it."


def _verdict(answer: Identification) -> str:
    if answer.individual is not None:
        return f"this is {answer.individual}"
    if answer.decision == "unknown":
        return "nobody known"
    return f"uncertain; it may be {answer.candidates[0].individual}"


def _reason(explanation: Explanation) -> str:
    answer = explanation.identification
    best = answer.candidates[0]
    if answer.experts is not None and answer.is_of_both(best):
        said = f"similarity {best.similarity:.2f} to {best.individual}, classifier {best.classifier_score:.1%}"
        return f"{said}: together {best.probability:.1%}; a match needs {answer.experts.threshold:.1%}"
    if answer.threshold is None:
        why = (
            "the gallery has too few photos for it"
            if answer.familiar
            else "the photos are of another kind than the model's"
        )
        return f"{best.individual} is nearest; what a match needs cannot be said: {why}"
    whose = ", by the model's calibration" if answer.calibration == "model" else ""
    needed = f"a match needs {answer.threshold:.2f}, which {answer.fpir * 100:g}% of strangers would reach{whose}"
    if answer.decision == "match":
        return f"similarity {best.similarity:.2f}; {needed}"
    short = f"falls short by {answer.threshold - best.similarity:.2f}"
    return f"{best.individual} is nearest with {best.similarity:.2f} and {short}: {needed}"


def _role(candidate: Candidate, answer: Identification) -> str:
    if candidate not in answer.candidates[:2]:
        return "Compared with"
    return "Best candidate" if candidate == answer.candidates[0] else "Runner-up"


def _under(picture: Image.Image, heat: NDArray[np.float32], highest: float) -> Image.Image:
    """A photo under its heat map; made small first, since a photo has a hundred times as many pixels."""
    return heated(ImageOps.contain(picture, (_TILE, _TILE)), heat, highest)


def _in_regions(picture: Image.Image, regions: NDArray[np.float32]) -> Image.Image:
    """A photo with its regions in their colours, each with its letter where it is strongest."""
    painted = in_regions(ImageOps.contain(picture, (_TILE, _TILE)), regions)
    pen = ImageDraw.Draw(painted)
    for letter, region in zip(_LETTERS, regions, strict=False):
        row, column = np.unravel_index(int(region.argmax()), region.shape)
        x = (column + 0.5) / region.shape[1] * painted.width
        y = (row + 0.5) / region.shape[0] * painted.height
        pen.ellipse((x - 10, y - 10, x + 10, y + 10), fill="white", outline="black")
        text.write(pen, (x - text.width(letter, 14, bold=True) / 2, y - 9), letter, 14, bold=True)
    return painted
