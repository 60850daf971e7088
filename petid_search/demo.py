"""The whole job on drawn pets, offline: enroll, identify, verify, explain, train, and go over to what was trained."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import Image, ImageDraw, ImageFont

from petid_search.calibrate import current_calibration
from petid_search.embed import Unreadable
from petid_search.enroll import enroll, plan_enrolment
from petid_search.errors import DatasetError, ModelError
from petid_search.explain import draw, explain
from petid_search.identify import Identification, identify, verify
from petid_search.index.gallery import Gallery
from petid_search.models.backbones import BACKBONES
from petid_search.models.bundle import Bundle
from petid_search.models.runtime import Embedder
from petid_search.reindex import reindex
from petid_search.synthetic import write_pets
from petid_search.train.config import TrainConfig
from petid_search.train.training import Trained, train

FPIR: Final = 0.1
"""What so few animals can promise; 1 % takes 99 of them."""
MODEL: Final = "drawn"
"""What the model is called that is trained, in the demo's own folder."""

_ABOUT: Final = "README.txt"
_MARK: Final = "What `petid demo` has written; it is written anew each time."
_ABOUT_TEXT: Final = f"""{_MARK}

pets/            the drawn pets' photos, enrolled
probes/          the photos that were asked about: of enrolled pets, and of strangers
others/          photos of other pets, which the model was trained on
index/           the gallery
models/          the model that was trained
training/        what the training reports
pets.png         who was enrolled
identified.png   the probes, whom the gallery was most like, and what was decided, before and after the training
explained.png    where a probe and its candidates are alike
"""
_WRITTEN: Final = tuple(line.split()[0] for line in _ABOUT_TEXT.splitlines()[2:])

_PHOTO_SIDE: Final = 224
_TILE: Final = 168
_GAP: Final = 10
_LINE: Final = 20


@dataclass(frozen=True, slots=True)
class Size:
    """How much is drawn.

    Attributes:
        pets: how many are enrolled, at least 9, so that FPIR can be promised.
        photos: how many of each.
        probes: of how many of them one photo more is asked about.
        strangers: of how many others one photo is asked about.
        others: how many others the model is trained on.
        epochs: of the training; what a frozen network sees is computed once, so that an epoch takes no time.
    """

    pets: int = 30
    photos: int = 4
    probes: int = 8
    strangers: int = 4
    others: int = 40
    epochs: int = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A line for who watches: the heading of a step, the command that does it on one's own photos, or what came out."""

    kind: Literal["heading", "command", "result"]
    text: str


def demo(output: Path, bundle: Bundle, *, size: Size | None = None) -> Iterator[Line]:
    """Do everything that petid is for, in a folder, and tell of it as it happens.

    The model that is trained goes into the folder, too. Elsewhere, only petid's cache of thumbnails gains by it.

    Args:
        output: the folder; a new one, an empty one, or that of an earlier demo, whose files are replaced.
        bundle: the model to begin with, one of petid's models.
        size: how much is drawn.

    Raises:
        DatasetError: the folder is not a demo's, or cannot be written.
        ModelError: the model cannot be used, or has a network's name, which a training would download in its place.
    """
    size = size or Size()
    if (name := bundle.card.name) in BACKBONES:
        raise ModelError(
            f"The model {name!r} has the name of a network, which training would take in its place: "
            "add it by another name with `petid models add`, and name that by --model."
        )
    started = time.monotonic()
    try:
        _claim(output)
        yield from _steps(output, bundle, size)
    except OSError as error:
        raise DatasetError(f"{output} cannot be written ({error.strerror or error}): name another --output.") from error
    yield Line("heading", f"Done in {time.monotonic() - started:.0f} s. All of it lies in {output}; go on there:")
    yield Line("command", f"petid identify {output / 'probes'} --fpir {FPIR:g} --gallery {output / 'index'}")
    yield Line("result", f"The model {MODEL} is not among yours: set PETID_HOME to {output} for that.")
    yield Line("heading", "With your own photos, a sub-folder for each animal:")
    yield Line("command", "petid enroll FOLDER")


def _steps(output: Path, bundle: Bundle, size: Size) -> Iterator[Line]:
    pets, probes, index = output / "pets", output / "probes", output / "index"
    yield Line("heading", "1. Pets are drawn: their faces stay, and pose, light and background change")
    enrolled = write_pets(pets, size.pets, size.photos, size=_PHOTO_SIDE)
    asked = write_pets(probes / "enrolled", size.probes, 1, first_photo=size.photos, size=_PHOTO_SIDE)
    asked += write_pets(probes / "strangers", size.strangers, 1, first=size.pets, size=_PHOTO_SIDE)
    _contact_sheet([(photo, photo.parent.name) for photo in enrolled[:: size.photos]], 6).save(output / "pets.png")
    yield Line(
        "result",
        f"{len(enrolled)} photos of {size.pets} pets to enroll, and {len(asked)} to ask about: {size.probes} show "
        f"enrolled pets, {size.strangers} strangers.",
    )
    yield _picture(output / "pets.png")

    yield Line("heading", "2. They are enrolled: the sub-folder's name is the animal's name")
    yield Line("command", "petid enroll FOLDER")
    started = time.monotonic()
    embedder = Embedder(bundle)
    with Gallery(index, create=True) as gallery:
        outcomes = list(enroll(gallery, plan_enrolment([pets]).photos, embedder))
        calibration = current_calibration(gallery)
        seconds = time.monotonic() - started
        yield Line("result", f"{len(outcomes)} photos enrolled with the model {embedder.name} in {seconds:.1f} s.")

        yield Line("heading", "3. Who is it, or is it none of them?")
        yield Line("command", f"petid identify PHOTO --fpir {FPIR:g}")
        before = _identified(asked, gallery, embedder)
        yield from map(_told, before)
        yield _summary(before, size)
        yield Line(
            "result",
            f"The threshold comes from the gallery's own photos: at most {FPIR:.0%} of strangers are to be called by a "
            f"name (FPIR), at the cost of pets that stay uncertain. {size.pets} animals can promise no less than "
            f"{calibration.smallest_fpir():.1%}; 1% takes 99.",
        )

        yield Line("heading", "4. Do two photos show the same animal?")
        yield Line("command", f"petid verify PHOTO PHOTO --far {FPIR:g}")
        for second in (enrolled[1], enrolled[size.photos]):
            answer = verify(enrolled[0], second, gallery, embedder, far=FPIR)
            limit = (
                answer.note if answer.threshold is None else f"threshold {answer.threshold:.3f} at FAR {answer.far:g}"
            )
            both = f"{_short(enrolled[0])} and {_short(second)}"
            yield Line("result", f"{both}: {answer.decision}, similarity {answer.similarity:.3f} ({limit})")

        yield Line("heading", "5. Why this one?")
        yield Line("command", "petid explain PHOTO")
        explanation = explain(asked[0], gallery, embedder, fpir=FPIR)
        draw(explanation).save(output / "explained.png")
        best, runner_up = explanation.candidates[:2]
        yield Line(
            "result",
            f"{_short(asked[0])} beside {best.individual} ({best.similarity:.3f}) and the runner-up "
            f"{runner_up.individual} ({runner_up.similarity:.3f}), each with a map of where they are alike.",
        )
        yield _picture(output / "explained.png")

        yield Line("heading", "6. A model learns to tell such pets apart, from other ones: half a minute without news")
        yield Line("command", f"petid train FOLDER --backbone {embedder.name} --loss none --metric-loss supcon")
        trained = _train(output, embedder.name, size)
        told, was = trained.report["figures"], trained.report["before"]
        yield Line(
            "result",
            f"Of {trained.report['individuals_held_out']} pets that it has never seen, {told['rank_1']:.0%} of photos "
            f"have one of the same pet as their most similar ({was['rank_1']:.0%} before); mAP {told['mAP']:.3f} "
            f"({was['mAP']:.3f} before). The best epoch was chosen by these same pets, which flatters.",
        )
        yield Line("result", f"Its report, with curves for TensorBoard: {trained.output}")

        yield Line("heading", "7. The gallery goes over to it, and the same photos are asked about again")
        yield Line("command", "petid reindex --model MODEL")
        embedder = Embedder(trained.bundle)
        for problem in reindex(gallery, embedder):
            if problem is not None:
                raise problem
        after = _identified(asked, gallery, embedder)
        yield from map(_told, after)
        yield _summary(after, size)
        if sum(map(_is_wrong, after)) > sum(map(_is_wrong, before)):
            yield Line(
                "result",
                f"More are called by a wrong name than before: {size.others} pets are too few to learn from, for "
                "a network that knew more. On your own photos, `petid evaluate` tells which model is better, before "
                "you go over.",
            )
        _before_and_after(before, after).save(output / "identified.png")
        yield _picture(output / "identified.png")


def _train(output: Path, backbone: str, size: Size) -> Trained:
    """A new head on the frozen network, from photos of pets that are neither enrolled nor asked about."""
    others = output / "others"
    write_pets(others, size.others, 4, first=size.pets + size.strangers, size=_PHOTO_SIDE)
    config = TrainConfig(
        folder=str(others), name=MODEL, backbone=backbone, loss="none", metric_loss="supcon", epochs=size.epochs
    )
    return train(config, output=output / "training", models=output / "models")


def _identified(photos: Sequence[Path], gallery: Gallery, embedder: Embedder) -> list[Identification]:
    answers = []
    for answer in identify(photos, gallery, embedder, fpir=FPIR):
        if isinstance(answer, Unreadable):
            raise answer.error
        answers.append(answer)
    return answers


def _is_stranger(answer: Identification) -> bool:
    return answer.photo.parent.parent.name == "strangers"


def _is_right(answer: Identification) -> bool:
    return answer.individual == answer.photo.parent.name and not _is_stranger(answer)


def _is_wrong(answer: Identification) -> bool:
    return answer.decision == "match" and not _is_right(answer)


def _told(answer: Identification) -> Line:
    who = f"{answer.photo.parent.name}{', a stranger' if _is_stranger(answer) else ''}"
    return Line("result", f"{who:20s} {_verdict(answer)}")


def _verdict(answer: Identification) -> str:
    best = answer.candidates[0]
    probability = "" if best.probability is None else f", probability {best.probability:.0%}"
    likest = f"similarity {best.similarity:.3f}{probability}"
    return (
        f"match {best.individual}: {likest}" if answer.individual else f"{answer.decision}: {best.individual} {likest}"
    )


def _summary(answers: Sequence[Identification], size: Size) -> Line:
    mated = [answer for answer in answers if not _is_stranger(answer)]
    right = sum(map(_is_right, mated))
    wrong = sum(answer.decision == "match" for answer in mated) - right
    first = sum(answer.candidates[0].individual == answer.photo.parent.name for answer in mated)
    called = sum(answer.decision == "match" for answer in answers) - right - wrong
    return Line(
        "result",
        f"Of {size.probes} enrolled pets {right} are called by their name, {wrong} by another's, and {first} are first "
        f"among the candidates. Of {size.strangers} strangers {called} are called by a name.",
    )


def _picture(file: Path) -> Line:
    return Line("result", f"Look at {file}")


def _short(photo: Path) -> str:
    return f"{photo.parent.name}/{photo.name}"


# The folder.


def _claim(output: Path) -> None:
    """Make the folder the demo's, without what an earlier one has left.

    Raises:
        DatasetError: it holds something else.
        OSError: it cannot be written.
    """
    about = output / _ABOUT
    if output.exists() and not (output.is_dir() and (_is_ours(about) or not any(output.iterdir()))):
        raise DatasetError(f"{output} is there and is not a demo's folder: name another --output.")
    models = output / "models"
    if models.is_dir() and any(one.name != MODEL for one in models.iterdir()):
        raise DatasetError(f"{models} holds a model of yours, which a new demo would delete: name another --output.")
    output.mkdir(parents=True, exist_ok=True)
    about.write_text(_ABOUT_TEXT, encoding="utf-8")
    for name in _WRITTEN:  # nothing else: somebody may have put photos of their own beside it
        path = output / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _is_ours(about: Path) -> bool:
    return about.is_file() and about.read_text(encoding="utf-8", errors="replace").startswith(_MARK)


# The pictures.


def _contact_sheet(photos: Sequence[tuple[Path, str]], columns: int) -> Image.Image:
    """Photos in rows, each over its caption."""
    rows = -(-len(photos) // columns)
    step = _TILE + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, rows * (step + _LINE) + _GAP), "white")
    for place, (photo, caption) in enumerate(photos):
        down, across = divmod(place, columns)
        _paste(sheet, photo, (_GAP + across * step, _GAP + down * (step + _LINE)), [(caption, "black")])
    return sheet


def _before_and_after(before: Sequence[Identification], after: Sequence[Identification]) -> Image.Image:
    """For each probe, in two columns: the probe, and whom the gallery was most like before and after the training."""
    step, high = _TILE + _GAP, _TILE + 3 * _LINE + _GAP
    block = 3 * step + 2 * _GAP
    rows = -(-len(before) // 2)
    sheet = Image.new("RGB", (2 * block, rows * high + _GAP), "white")
    for place, (first, second) in enumerate(zip(before, after, strict=True)):
        across, down = divmod(place, rows)
        left, top = _GAP + across * block, _GAP + down * high
        about = "a stranger" if _is_stranger(first) else "an enrolled pet"
        _paste(sheet, first.photo, (left, top), [(f"{first.photo.parent.name}, {about}", "black")])
        for column, (when, answer) in enumerate((("before", first), ("after", second)), start=1):
            best = answer.candidates[0]
            good = _is_right(answer) or (_is_stranger(answer) and answer.decision != "match")
            colour = "black" if answer.decision == "uncertain" else "darkgreen" if good else "firebrick"
            captions = [
                (f"{when}: {answer.decision}", colour),
                (f"{best.individual} {best.similarity:.2f}, from {answer.threshold:.2f}", "black")
                if answer.threshold is not None
                else (f"{best.individual} {best.similarity:.2f}", "black"),
            ]
            _paste(sheet, best.file, (left + column * step, top), captions)
    return sheet


def _paste(sheet: Image.Image, photo: Path, place: tuple[int, int], captions: Sequence[tuple[str, str]]) -> None:
    left, top = place
    with Image.open(photo) as picture:
        sheet.paste(picture.convert("RGB").resize((_TILE, _TILE), Image.Resampling.LANCZOS), place)
    pen = ImageDraw.Draw(sheet)
    for line, (text, colour) in enumerate(captions):
        pen.text((left, top + _TILE + 2 + line * _LINE), text, fill=colour, font=ImageFont.load_default(14))
