"""The command line: read arguments, call the library, print. Heavy imports wait inside the commands."""

import json
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import typer
from typer.core import TyperGroup

from petid_search import __version__
from petid_search.errors import CalibrationError, GalleryError, ModelError, PetidError, PhotoError
from petid_search.train.options import given, with_training_options

if TYPE_CHECKING:
    from petid_search.calibrate import Limits
    from petid_search.dedup.duplicates import Duplicates, Labelled
    from petid_search.index.gallery import Gallery
    from petid_search.models.runtime import Embedder
    from petid_search.train.loop import Step

T = TypeVar("T")
_SHOW_PROGRESS_AFTER_S: Final = 2.0
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class RuleName(StrEnum):
    """The rules of index.rule, which would have to be imported; Typer takes several values of nothing but an Enum."""

    BEST_PHOTO = "best-photo"
    BEST_3 = "best-3"
    MEAN = "mean"
    QUALITY_MEAN = "quality-mean"
    MEDOIDS = "medoids"


class _Group(TyperGroup):
    """The one place where petid's errors become a line on stderr and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PetidError as error:
            _complain(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which individual animal does a photo show, or is it none of those known?",
)
models_app = typer.Typer(no_args_is_help=True, help="The models that turn photos into embeddings.")
app.add_typer(models_app, name="models")

# What cannot be read is not wrong usage: a batch goes on past it, and the library says what to do about it.
GalleryOption = Annotated[
    Path, typer.Option("--gallery", envvar="PETID_GALLERY", help="The gallery's folder.", readable=False)
]
OnePhoto = Annotated[Path, typer.Argument(metavar="PHOTO", readable=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but results and errors.")]
Fpir = Annotated[float, typer.Option(min=0.0001, max=0.5, help="Share of strangers that may be called by a name.")]
ProtocolName = Literal["leave-one-out", "gallery-probe", "open-set", "verification", "by-time"]
_GALLERY: Final = Path("index")
_FPIR: Final = 0.01


def main() -> None:
    """Run the command line."""
    # Pillow warns of odd metadata and of large pictures: of no use to who runs petid, and it breaks progress bars.
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"petid {__version__}")
        raise typer.Exit


def _named_folder(text: str) -> Path:
    if not text:  # which a Path takes for the current folder
        raise typer.BadParameter("name a folder.")
    return Path(text)


@app.callback()
def _petid(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where everything goes: a new folder, or an earlier demo's.")
    ] = Path("petid-demo"),
    model: Annotated[
        str | None, typer.Option("--model", help="A model's name; by default petid-dogs.", show_default=False)
    ] = None,
) -> None:
    """See everything below done on drawn pets, offline, in under a minute."""
    from petid_search import demo as library
    from petid_search.models.home import DEFAULT, open_model

    for line in library.demo(output, open_model(model or DEFAULT)):
        match line.kind:
            case "heading":
                _print("")
                typer.secho(_one_line(line.text), bold=True)
            case "command":
                _print(f"   $ {line.text}")
            case "result":
                _print(f"   {line.text}")


@app.command()
def enroll(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Folders of individuals' folders, or photos.", readable=False),
    ],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Whom all of the photos show.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Leave the photos where they are; do not copy them.")] = False,
    model: Annotated[
        str | None, typer.Option(help="A model's name.", show_default="the gallery's; for a new gallery petid-dogs")
    ] = None,
    gallery: GalleryOption = _GALLERY,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put photos into the gallery; a sub-folder's name is its individual's name."""
    from petid_search import enroll as library
    from petid_search.calibrate import count_of_another_kind, speaking
    from petid_search.index.gallery import Gallery

    plan = library.plan_enrolment(paths, name)
    counts = {"enrolled": 0, "known": 0, "removed": 0, "failed": len(plan.problems)}
    burst = 0
    started = time.monotonic()
    with _named_at_the_end() as problems:
        problems.extend(plan.problems)
        if not plan.photos:
            return
        # The model is found before the gallery is made: without one, no empty gallery is left behind.
        embedder = _embedder_for(gallery, model)
        with Gallery(gallery, create=True) as herd_book:
            names = {shown for _, shown in plan.photos}
            is_one = name is None and len(names) == 1 < len(plan.photos) and not names & herd_book.individuals().keys()
            outcomes = library.enroll(herd_book, plan.photos, embedder, link=link, corrected=name is None)
            for outcome in _with_progress(outcomes, len(plan.photos), "Enrolling", quiet):
                counts[outcome.status] += 1
                if outcome.reason is not None:
                    problems.append(outcome.reason)
                burst += any(near.individual == outcome.individual for near in outcome.near)
                for near in outcome.near:
                    if near.individual != outcome.individual:
                        _warn(
                            f"{outcome.path} ({outcome.individual}) is nearly the same picture as {near.photo} "
                            f"({near.individual}; SSIM {near.ssim:.3f}): one of the two is probably labelled wrong."
                        )
                if as_json:
                    _print_json(
                        {
                            "photo": str(outcome.path),
                            "individual": outcome.individual,
                            "status": outcome.status,
                            "reason": None if outcome.reason is None else str(outcome.reason),
                            "near_identical": [
                                {"photo": str(near.photo), "individual": near.individual, "ssim": near.ssim}
                                for near in outcome.near
                            ],
                        }
                    )
            limits = None
            if counts["enrolled"]:
                limits = speaking(herd_book, embedder.bundle.card, _FPIR)
                strange, newest = count_of_another_kind(herd_book, limits, counts["enrolled"])
            size = f"{herd_book.count_photos()} photos of {herd_book.count_individuals()} individuals"
        if not as_json:
            removed = f"{counts['removed']} stay removed (--as NAME brings one back), " if counts["removed"] else ""
            _say(
                f"Enrolled {counts['enrolled']} photos in {time.monotonic() - started:.1f} s; {counts['known']} were "
                f"enrolled before, {removed}{counts['failed']} failed. The gallery {gallery} has {size}.",
                quiet,
            )
            if is_one and counts["enrolled"] == len(plan.photos):
                _say(
                    f"All of them are one animal, {names.pop()}, as their folder is called. If they show several: "
                    "`petid undo`, then a sub-folder for each.",
                    quiet,
                )
            if burst:
                _say(
                    f"{burst} photos are nearly identical to another of the same individual: see `petid dedup`.", quiet
                )
            if limits is not None:
                _say(f"`petid identify` goes by {_told_of(limits, _FPIR)}.", quiet)
                if strange > newest / 2:
                    _say(
                        f"But {strange} of {newest} photos just enrolled are of another kind than it was measured "
                        "on: of such it promises nothing, and `petid identify` answers `uncertain`.",
                        quiet,
                    )


@app.command()
def identify(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Photos, or folders of them.", readable=False)],
    top: Annotated[int, typer.Option(min=1, help="How many candidates.")] = 5,
    fpir: Fpir = _FPIR,
    gallery: GalleryOption = _GALLERY,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say who is on each photo: match, uncertain or unknown, with the most similar individuals."""
    from petid_search import identify as library

    with _named_at_the_end() as problems, _open(gallery) as herd_book:
        paths = _photos_of(photos, problems)
        answers = library.identify(paths, herd_book, _embedder_of(herd_book), top=top, fpir=fpir)
        whose = ""
        for answer in _to_be_printed(_with_progress(answers, len(paths), "Identifying", quiet), problems, as_json):
            whose = _print_identification(answer, whose)


@app.command()
def classify(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Photos, or folders of them.", readable=False)],
    model: Annotated[
        str | None,
        typer.Option("--model", help="A model's name; needed where several have a classifier.", show_default=False),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="How many classes, the best.", show_default="5; all with --json")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score each photo for every individual that a model was trained on; it knows no strangers, see identify."""
    from petid_search import classify as library
    from petid_search.models.home import only_classifier, open_model
    from petid_search.models.runtime import Embedder

    embedder = Embedder(only_classifier() if model is None else open_model(model))
    with _named_at_the_end() as problems:
        embedder.require_classifier()
        paths = _photos_of(photos, problems)
        answers = library.classify(paths, embedder, top=top if top or as_json else 5)
        for answer in _to_be_printed(_with_progress(answers, len(paths), "Classifying", quiet), problems, as_json):
            _print(f"{answer.photo}: the best of {len(embedder.classes)} classes of {answer.model}")
            for place, (name, score) in enumerate(answer.scores.items(), start=1):
                _print(f"{place:4d}  {score:6.1%}  {name}")


@app.command()
def verify(
    first: OnePhoto,
    second: OnePhoto,
    far: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Share of pairs of different animals that may match.")
    ] = 0.01,
    gallery: GalleryOption = _GALLERY,
    as_json: Json = False,
) -> None:
    """Say whether two photos show the same animal, by a threshold from the gallery's own photos."""
    from petid_search import identify as library

    with _open(gallery) as herd_book:
        answer = library.verify(first, second, herd_book, _embedder_of(herd_book), far=far)
    if as_json:
        _print_json(answer.to_json())
        return
    said = {"match": "the same animal", "different": "different animals", "uncertain": "uncertain"}[answer.decision]
    limits = [] if answer.threshold is None else [f"threshold {answer.threshold:.3f} at FAR {answer.far:g}"]
    limits += [f"measured on {answer.calibrated_on} individuals here"] if answer.calibration == "gallery" else []
    limits += [answer.note] if answer.note else []
    _print(f"{said}: similarity {answer.similarity:.3f} ({'; '.join(limits)})")


@app.command()
def explain(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Photos, or folders of them.", readable=False)],
    against: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare with this individual in place of the runner-up.")
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", metavar="NAME", help="Explain a classifier's score for NAME, beside its best; may be repeated."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Explain the best classes of this model; no gallery needed.", show_default=False),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="LAYER", help="Of a classifier: the layer whose map to show, not the last.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png|DIR",
            help="Where the picture goes; into a folder go pictures, raw maps (NPZ), JSON and a page of all.",
            show_default="PHOTO-explained.png, here; of several the folder explained",
        ),
    ] = None,
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness", help="Test whether the map can be believed: deletion, insertion, shuffled weights."
        ),
    ] = False,
    fpir: Fpir = _FPIR,
    gallery: GalleryOption = _GALLERY,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw why: the probe, its match and the runner-up, with maps of where they are alike; or a classifier's best."""
    from petid_search import explain as library
    from petid_search.disk import free_name
    from petid_search.images import is_folder
    from petid_search.models.home import only_classifier, open_model
    from petid_search.models.runtime import Embedder

    of_classes = bool(classes) or model is not None or layer is not None
    if of_classes and against is not None:
        raise typer.BadParameter(
            "it compares with the gallery, but --class, --model and --layer ask a classifier.", param_hint="--against"
        )
    with _named_at_the_end() as problems, ExitStack() as stack:
        paths = _photos_of(photos, problems)
        if of_classes:
            embedder = Embedder(only_classifier() if model is None else open_model(model))
            explainer = library.ClassExplainer(embedder, classes or (), layer)
            explanations: Iterable[Any] = explainer.explain_photos(paths)
        else:
            herd_book = stack.enter_context(_open(gallery))
            embedder = _embedder_of(herd_book)
            explanations = library.explain_photos(paths, herd_book, embedder, against=against, fpir=fpir)
        folder: library.Folder | None = None
        is_one = len(photos) == 1 and not is_folder(photos[0])
        if not is_one or (output is not None and (is_folder(output) or not output.suffix)):
            folder = stack.enter_context(library.Folder(output or free_name("explained", ""), photos))
        examiner = library.Examiner(embedder, layer) if faithfulness and paths else None
        for explanation in _explained(_with_progress(explanations, len(paths), "Explaining", quiet), problems, as_json):
            belief = None if examiner is None else examiner.examine(explanation)
            picture = library.draw(explanation, belief)
            if folder is not None:
                told = folder.add(explanation, picture, belief)
            else:
                file = output or free_name(f"{explanation.photo.stem}-explained", ".png")
                library.write_picture(picture, file, explanation.photo)
                told = {**library.to_json(explanation, belief), "picture": str(file)}
            if lacking := library.missing_signs(explanation):
                _warn(f"No font here has {lacking}, drawn as code points: install one, such as Noto Sans.")
            if as_json:
                _print_json(told)
            elif not quiet:
                _print_explanation(explanation, told)
        if folder and not as_json:  # one that holds something
            _say(f"All of it is on the page {folder.page}", quiet)


@app.command("list")
def list_individuals(gallery: GalleryOption = _GALLERY, as_json: Json = False) -> None:
    """List every enrolled individual and its number of photos."""
    with _open(gallery) as herd_book:
        individuals = herd_book.individuals()
    for name, photos in individuals.items():
        if as_json:
            _print_json({"individual": name, "photos": photos})
        else:
            _print(f"{photos:6d}  {name}")


@app.command()
def show(name: str, gallery: GalleryOption = _GALLERY, as_json: Json = False) -> None:
    """Show one individual's photos: hash, date, and where each came from."""
    with _open(gallery) as herd_book:
        for photo in herd_book.photos(name):
            if as_json:
                _print_json(
                    {
                        "individual": photo.individual,
                        "photo": str(photo.source),
                        "file": str(photo.file),
                        "sha256": photo.sha256,
                        "enrolled_at": photo.enrolled_at,
                        "linked": photo.linked,
                    }
                )
            else:
                _print(f"{photo.sha256[:12]}  {photo.enrolled_at[:10]}  {photo.source}")


@app.command()
def rename(old: str, new: str, gallery: GalleryOption = _GALLERY, quiet: Quiet = False) -> None:
    """Give an individual another name."""
    with _open(gallery) as herd_book:
        count = herd_book.rename(old, new)
    _say(f"{old} is {new} now ({count} photos).", quiet)


@app.command()
def merge(name: str, into: str, gallery: GalleryOption = _GALLERY, quiet: Quiet = False) -> None:
    """Put all photos of NAME under INTO, since the two are one animal."""
    with _open(gallery) as herd_book:
        count = herd_book.merge(name, into)
    _say(f"{count} photos of {name} are {into}'s now.", quiet)


@app.command()
def remove(
    name: str,
    photo: Annotated[str | None, typer.Option(help="Only the photo whose hash begins so (see `petid show`).")] = None,
    gallery: GalleryOption = _GALLERY,
    quiet: Quiet = False,
) -> None:
    """Take an individual, or one photo of it, out of the gallery; `petid undo` brings it back."""
    with _open(gallery) as herd_book:
        count = herd_book.remove(name, photo=photo)
    _say(f"{count} photos of {name} removed; `petid undo` brings them back, `petid purge` deletes them.", quiet)


@app.command()
def undo(gallery: GalleryOption = _GALLERY, quiet: Quiet = False) -> None:
    """Take back the latest change of the gallery; again, the one before it."""
    with _open(gallery) as herd_book:
        action, count = herd_book.undo()
    _say(f"Undone: {action} ({count} photos).", quiet)


@app.command()
def purge(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    gallery: GalleryOption = _GALLERY,
    quiet: Quiet = False,
) -> None:
    """Delete for good what was removed, and the embeddings of models no longer used."""
    with _open(gallery) as herd_book:
        if not yes:
            typer.confirm(f"Delete what was removed from {gallery} for good? It cannot be undone", abort=True)
        count = herd_book.purge()
    _say(f"{count} photos deleted.", quiet)


@app.command()
def embed(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Photos, or folders of them.", readable=False)],
    output: Annotated[
        Path,
        typer.Option(metavar="FILE.npz", help="Arrays `paths` (n,) and `embeddings` (n, d).", dir_okay=False),
    ],
    model: Annotated[str, typer.Option(help="A model's name.")] = "petid-dogs",
    quiet: Quiet = False,
) -> None:
    """Write the embeddings of photos to a file, for use elsewhere."""
    import numpy as np

    from petid_search.embed import Embedded, Unreadable, embed_photos
    from petid_search.models.home import open_model
    from petid_search.models.runtime import Embedder

    with _named_at_the_end() as problems:
        embedder = Embedder(open_model(model))
        photos = _photos_of(paths, problems)
        names: list[str] = []
        vectors = np.empty((len(photos), embedder.dimension), np.float32)
        for result in _with_progress(embed_photos(photos, embedder), len(photos), "Embedding", quiet):
            if isinstance(result, Unreadable):
                problems.append(result.error)
            elif isinstance(result, Embedded):
                vectors[len(names)] = result.vector
                names.append(str(result.photo.path))
        part = output.with_name(f".{output.name}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, paths=np.array(names, np.str_), embeddings=vectors[: len(names)])
            part.replace(output)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise PetidError(f"{output} cannot be written ({error.strerror}): name another --output.") from error
        _say(f"{len(names)} embeddings of {embedder.dimension} numbers written to {output}.", quiet)


@app.command()
def reindex(
    model: Annotated[
        str | None,
        typer.Option(help="A model's name.", show_default="the gallery's, as it is now; or else petid-dogs"),
    ] = None,
    gallery: GalleryOption = _GALLERY,
    quiet: Quiet = False,
) -> None:
    """Embed the whole gallery with another model; goes on where it was stopped, then switches over at once."""
    from petid_search import reindex as library
    from petid_search.calibrate import current_calibration
    from petid_search.models.home import DEFAULT, has_model, open_model
    from petid_search.models.runtime import Embedder

    with _named_at_the_end() as problems, _open(gallery) as herd_book:
        if model is None:  # the one there was may have been trained anew, or come anew with petid
            own = herd_book.model
            model = own.name if own is not None and has_model(own.name) else DEFAULT
        embedder = Embedder(open_model(model))
        missing = library.count_missing(herd_book, embedder)
        for problem in _with_progress(library.reindex(herd_book, embedder), missing, "Embedding", quiet):
            if problem is not None:
                problems.append(problem)
        current_calibration(herd_book)
        _say(f"The gallery {gallery} uses model {embedder.name} now ({missing} photos embedded).", quiet)


@app.command()
def calibrate(
    fpir: Fpir = _FPIR,
    extrapolate: Annotated[
        bool,
        typer.Option("--extrapolate", help="Where there are too few animals for this FPIR, go by a fit of the tail."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Draw the reliability of the probabilities and FNIR by FPIR into this folder."
        ),
    ] = None,
    gallery: GalleryOption = _GALLERY,
    as_json: Json = False,
) -> None:
    """Find the thresholds and probabilities from the gallery's own photos, and say what they can promise."""
    from petid_search import calibrate as library

    with _open(gallery) as herd_book:
        calibration = library.calibrate(herd_book)
        limits = None
        with suppress(ModelError):  # the gallery's own photos can be measured without the model
            limits = library.speaking(herd_book, _embedder_of(herd_book).bundle.card, fpir)
    promise, lower, notes = None, None, []
    try:
        promise = calibration.promise(fpir, extrapolate=extrapolate)
        lower = None if promise.extrapolated else calibration.lower_threshold(fpir)
    except CalibrationError as error:
        notes.append(str(error))
    pictures = []
    if output is not None:
        from petid_search.calibrate.plots import write

        pictures = write(calibration, promise, output)
    samples, smallest = calibration.samples, calibration.smallest_fpir()
    missed = None if promise is None else calibration.missed(promise.threshold)
    error_of_probabilities = calibration.calibration_error()
    if as_json:
        _print_json(
            {
                "fpir": fpir,
                "threshold": None if promise is None else promise.threshold,
                "lower_threshold": lower,
                "missed_at_threshold": missed,
                "fpir_measured": None if promise is None else promise.measured,
                "fpir_low": None if promise is None else promise.low,
                "fpir_high": None if promise is None else promise.high,
                "smallest_fpir": smallest,
                "extrapolated": promise is not None and promise.extrapolated,
                "individuals": calibration.strangers.count,
                "mated_probes": len(samples.mated),
                "non_mated_probes": len(samples.non_mated),
                "gallery_size": samples.gallery_size,
                "left_out_near_duplicates": samples.left_out,
                "expected_calibration_error": error_of_probabilities,
                "note": "; ".join(notes),
                "identify_goes_by": None if limits is None else limits.source,
                "pictures": [str(file) for file in pictures],
            }
        )
        return
    if promise is None:
        _print(f"no threshold: {notes[0]}{'' if extrapolate else ' (--extrapolate goes by a fit of the tail)'}")
    else:
        how = "extrapolated, not promised" if promise.extrapolated else "promised"
        reached = "" if missed is None else f", and {1 - missed:.1%} of enrolled animals"
        _print(
            f"match from similarity {promise.threshold:.3f} on: FPIR {fpir:.2%} {how}; "
            f"{promise.measured:.2%} of strangers reached it here{reached}"
        )
        _print(
            f"of {promise.individuals} new strangers {promise.low:.2%} to {promise.high:.2%} reach it, "
            "in 95 of 100 cases"
        )
        if lower is not None:
            _print(f"unknown under {lower:.3f}: {library.MISS:.0%} of enrolled animals fall there; uncertain between")
        else:
            _print("uncertain under it" + (f": {notes[0]}" if notes else ""))
    if limits is not None and limits.source == "model":
        _print(f"until the gallery can promise it, `petid identify` goes by {_told_of(limits, fpir)}")
    if error_of_probabilities is not None:
        _print(f"probabilities are off by {error_of_probabilities:.3f} on average (ECE, on animals held out)")
    if samples.left_out:
        _print(
            f"{samples.left_out} pairs under two names are one picture and were left out: "
            "one of each two labels is wrong; `petid dedup` finds them"
        )
    _print(
        f"measured on {len(samples.mated)} mated and {len(samples.non_mated)} non-mated probes of "
        f"{calibration.strangers.count} individuals, N = {samples.gallery_size}"
    )
    for file in pictures:
        _print(f"drawn to {file}")


@app.command()
def dedup(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Folders of individuals' folders, or of photos.", readable=False),
    ],
    threshold: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="SSIM from which on two photos are near-identical.")
    ] = 0.95,
    scope: Annotated[
        Literal["all", "within", "across"],
        typer.Option(help="Compare any two photos, only those within one individual's folder, or only across two."),
    ] = "all",
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A gallery or a folder: look there, too, for photos like those of FOLDER.",
            readable=False,
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Move all but the photo to keep aside.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete all but the photo to keep.")] = False,
    aside: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where photos are moved, and the list goes.", show_default="FOLDER-duplicates"
        ),
    ] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Bring back what was moved aside; FOLDER is where it was moved.")
    ] = False,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="The folders' names are not those of individuals.")
    ] = False,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE.csv", help="Write a line for each pair.")] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE.html", help="Write a page to look at them on.")
    ] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Compare every pair exactly: slow, with the same result.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Quiet = False,
) -> None:
    """Find near-identical photos; report them, move them aside or delete them."""
    if apply + delete + restore > 1:
        raise typer.BadParameter("take one of --apply, --delete and --restore")
    if aside is not None and not (apply or delete):
        raise typer.BadParameter("--aside goes with --apply or --delete")
    if restore and (against or csv or sheet):
        raise typer.BadParameter("--restore takes the folder that photos were moved to, and nothing else")
    for file, suffix in ((csv, ".csv"), (sheet, ".html")):
        if file is not None and file.suffix.lower() != suffix:
            raise typer.BadParameter(f"the name must end in {suffix}: {file}")
    if restore:
        _restore(folders, as_json, quiet)
        return
    from petid_search.dedup import aside as moving
    from petid_search.dedup.duplicates import find_duplicates
    from petid_search.dedup.sheet import write_sheet
    from petid_search.dedup.thumbnails import ThumbnailStore
    from petid_search.images import MOVED_LIST

    started = time.monotonic()
    with _named_at_the_end() as problems:
        photos = _labelled(folders, against, unlabelled, problems)
        if (apply or delete) and problems:
            problems.append(PetidError("Nothing was changed: mend this first, or leave it out."))
            return
        if (apply or delete) and aside is not None:
            moving.refuse_inside(aside, [*folders, *([] if against is None else [against])])
        with ThumbnailStore() as store, _stages(quiet) as advance:
            found = find_duplicates(
                photos, store=store, threshold=threshold, scope=scope, exhaustive=exhaustive, advance=advance
            )
        problems.extend(found.problems)
        for file, write in ((csv, found.write_csv), (sheet, lambda file: write_sheet(found, file))):
            if file is not None:
                try:
                    write(file)
                except OSError as error:
                    raise PetidError(f"{file} cannot be written ({error.strerror}): name another file.") from error
        steps = moving.plan_steps(found.groups, folders, delete=delete)
        done, folder = 0, None
        if (apply or delete) and steps:
            folder = aside or moving.free_folder(folders[0])
            for problem in moving.carry_out(steps, folder):
                done += problem is None
                problems.extend([] if problem is None else [problem])
        if as_json:
            result = {"list": None if folder is None else str(folder / MOVED_LIST), "moved": 0, "deleted": 0}
            result["deleted" if delete else "moved"] = done
            _print_json({**found.to_json(), "done": result, "failed": [str(problem) for problem in problems]})
            return
        _print_duplicates(found)
        seconds = f"{len(found.photos)} photos compared in {time.monotonic() - started:.1f} s"
        if folder is None:
            advice = f"; --apply moves {len(steps)} aside" if steps else ""
            _say(f"{seconds}: nothing was changed{advice}.", quiet)
        elif delete:
            _say(f"{seconds}: {done} deleted; what they were stands in {folder / MOVED_LIST}.", quiet)
        else:
            back = shlex.join(["petid", "dedup", "--restore", str(folder)])
            _say(f"{seconds}: {done} moved to {folder}; `{back}` brings them back.", quiet)


@app.command()
@with_training_options
def train(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Photos, a sub-folder a class.", show_default=False, readable=False),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A recipe, TOML or the trainer's JSON; other options change it.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where report and log go.", show_default="runs/NAME")
    ] = None,
    show_augmented: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Only draw photos as they are augmented.", show_default=False),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Train a model on a folder's photos: a classifier, an embedding, or both. Run again, it goes on."""
    from petid_search.train.config import make_config
    from petid_search.train.recipe import read_recipe

    base, notes = ({}, []) if recipe is None else read_recipe(recipe)
    for note in notes:
        _warn(note)
    changed = given(options) if folder is None else {**given(options), "folder": str(folder)}
    # The recipe was found right by itself: what is wrong now, an option has brought.
    config = make_config({**base, **changed}, source="the command line")
    if show_augmented is not None:
        from petid_search.train.samples import draw_samples

        draw_samples(config, show_augmented)
        _say(f"Drawn to {show_augmented}", quiet)
        return
    from petid_search.train.training import Watch, train

    with _named_at_the_end() as problems, _training_bar(quiet) as (step, doing), _download_bar(quiet) as download:
        watch = Watch(
            problem=problems.append,
            note=lambda text: None if quiet else _warn(text),
            step=step,
            epoch=lambda entry: _say(_epoch_line(entry), quiet or as_json),
            doing=doing,
            download=download,
        )
        try:
            trained = train(config, output=output, watch=watch)
        except KeyboardInterrupt:
            _complain("Broken off: run the same command again to go on from the last checkpoint.")
            raise typer.Exit(130) from None
        report, name = trained.report, trained.bundle.card.name
        if as_json:
            _print_json({"model": name, "output": str(trained.output), **report["figures"]})
        else:
            before = {key: f" (before: {value:.4f})" for key, value in report["before"].items()}
            figures = ", ".join(f"{key} {value:.4f}{before.get(key, '')}" for key, value in report["figures"].items())
            _say(f"Model {name} is ready{f': {figures}' if figures else ''}.", quiet)
            _say(f"Report, split and TensorBoard's log: {trained.output}", quiet)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of individuals' folders.", readable=False)],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A model's name; several are compared, each named by its own --model.",
            show_default="petid-dogs",
        ),
    ] = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="Compare all models there are.")] = False,
    rule: Annotated[
        list[RuleName] | None,
        typer.Option(
            "--rule",
            help="How several photos of one individual become one similarity; several are compared.",
            show_default="best-photo",
        ),
    ] = None,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(help="Which photos are searched for among which.", show_default="leave-one-out"),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Use this split again, a report's split.csv.", readable=False, dir_okay=False
        ),
    ] = None,
    enrolled: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.99, help="Share of individuals that `open-set` enrolls.", show_default="0.5"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and of the intervals.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=_named_folder,
            help="Where the report goes: a new folder, or an empty one, outside FOLDER.",
            show_default="evaluation-FOLDER, here or beside FOLDER",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how well a model tells the individuals of a folder apart; writes a report with plots."""
    from petid_search import evaluate as library
    from petid_search.dataset import read_manifest
    from petid_search.disk import free_name
    from petid_search.errors import DatasetError
    from petid_search.evaluate.page import warnings as warnings_of
    from petid_search.evaluate.report import output_folder
    from petid_search.images import is_folder, shortened
    from petid_search.models.home import DEFAULT, list_models, open_model
    from petid_search.models.runtime import Embedder

    rules = list(dict.fromkeys(one.value for one in rule or [RuleName.BEST_PHOTO]))
    if enrolled is not None and (split is not None or protocol != "open-set"):
        raise typer.BadParameter("--enrolled is for --protocol open-set alone, and a --split says who is enrolled.")
    if model and all_models:
        raise typer.BadParameter("name models by --model, or take --all-models.")
    if protocol == "verification" and len(rules) > 1:
        raise typer.BadParameter(
            "--protocol verification compares photos, for which no --rule matters: leave them out."
        )
    with _named_at_the_end() as problems:
        if not is_folder(folder):
            raise DatasetError(f"There is no folder {shortened(folder)}: check the name.")
        if output is None:
            inside = Path.cwd().resolve().is_relative_to(folder.resolve())
            place = folder.resolve().parent if inside else Path()
            output = free_name(f"evaluation-{folder.resolve().name}", "", place)
        with output_folder(output, folder):
            names = list(dict.fromkeys(model or [DEFAULT]))
            bundles = list_models() if all_models else [open_model(name) for name in names]
            embedders = [Embedder(bundle) for bundle in bundles]
            photos = read_manifest(folder, problems.append)
            if problems and not photos:
                return
            with _progress_bar(len(photos) * len(embedders), "Embedding", quiet) as advance:
                evaluation = library.evaluate(
                    photos,
                    embedders,
                    rules=rules,
                    protocol=protocol,
                    split=split,
                    enrolled=0.5 if enrolled is None else enrolled,
                    seed=seed,
                    problem=problems.append,
                    advance=advance,
                )
            report = library.write_report(evaluation, folder, output)
            for warning in warnings_of(evaluation):
                _warn(warning)
            if as_json:
                _print_json(report)
                return
            for result in evaluation.results:
                _print_result(result, evaluation.results)
            _say(f"The report is in {output}: open {output / 'report.html'}.", quiet)


@app.command()
def check(gallery: GalleryOption = _GALLERY, quiet: Quiet = False) -> None:
    """Prove that the gallery is whole, and repair what can be made again."""
    from petid_search import check as library

    with _open(gallery) as herd_book:
        photos = herd_book.count_photos()
        with _progress_bar(photos, "Checking", quiet) as advance:
            findings = library.check(herd_book, lambda: _embedder_of(herd_book), looked=advance)
        size = f"{photos} photos of {herd_book.count_individuals()} individuals"
    for repair in findings.repaired:
        _say(f"Repaired: {repair}.", quiet)
    for problem in findings.problems:
        _complain(problem)
    if findings.problems:
        raise typer.Exit(1)
    _say(f"The gallery {gallery} is whole: {size}.", quiet)


@models_app.command("add")
def models_add(
    name: Annotated[str, typer.Argument(help="What it will be called.")],
    backbone: Annotated[str, typer.Option(help="The network, as in `petid models backbones`.")],
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its weights; downloaded where none are named.", exists=True, dir_okay=False),
    ] = None,
    pooling: Annotated[
        Literal["avg", "max", "gem"], typer.Option(help="From feature map to vector; gem is the generalised mean.")
    ] = "avg",
    size: Annotated[
        int | None, typer.Option(min=32, help="Side of the input in pixels.", show_default="its own")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make a model of a backbone and its weights."""
    from petid_search.models.home import add_model

    with _download_bar(quiet) as progress:
        bundle = add_model(name, backbone=backbone, weights=weights, pooling=pooling, size=size, progress=progress)
    _say(f"Model {name} is ready: embeddings of {bundle.card.dimension} numbers.", quiet)
    _say(f"Licence of its weights: {bundle.card.licence}", quiet)


@models_app.command("backbones")
def models_backbones(as_json: Json = False) -> None:
    """List the networks a model can be made of."""
    from petid_search.models.backbones import BACKBONES

    for name, backbone in BACKBONES.items():
        if as_json:
            _print_json(
                {
                    "backbone": name,
                    "input_size": backbone.size,
                    "channels": backbone.channels,
                    "source": backbone.source,
                    "licence": backbone.weights_licence,
                }
            )
        else:
            typer.echo(f"{name:20s} {backbone.size:4d} px  {backbone.channels:5d} channels  {backbone.weights_licence}")


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """List the models there are: your own, and those that come with petid."""
    from petid_search.models import home

    for bundle in home.list_models():
        card, is_default = bundle.card, bundle.card.name == home.DEFAULT
        if as_json:
            _print_json(
                {
                    "model": card.name,
                    "backbone": card.backbone,
                    "dimension": card.dimension,
                    "shipped": bundle.is_shipped,
                    "default": is_default,
                }
            )
            continue
        standing = [*(["comes with petid"] if bundle.is_shipped else []), *(["the default"] if is_default else [])]
        _print(
            f"{card.name:20s} {card.backbone:20s} {card.input_size} px, {card.dimension} numbers"
            + (f" ({', '.join(standing)})" if standing else "")
        )
    with _named_at_the_end() as problems:
        problems.extend(home.damaged_models().values())


@models_app.command("show")
def models_show(name: str, as_json: Json = False) -> None:
    """Show a model's card: what it is for and not for, what it was trained on, how well it does, its licence."""
    from dataclasses import asdict

    from petid_search.models.home import open_model
    from petid_search.models.model_card import write

    card = open_model(name).card
    if as_json:
        _print_json(asdict(card))
        return
    for line in write(card):
        _print(line)


@models_app.command("export")
def models_export(
    name: str,
    output: Annotated[Path, typer.Option(help="Where to: a folder for saved-model, else a file.", show_default=False)],
    kind: Annotated[
        Literal["saved-model", "litert", "litert-int8"], typer.Option("--format", help="What for.", show_default=False)
    ],
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Photos to check it on, as the model is for; int8 needs some.", readable=False
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a model for TensorFlow or LiteRT, checked against Keras on photos; PATH.json says what goes in and out."""
    from petid_search.images import find_photos
    from petid_search.models import export
    from petid_search.models.home import open_model

    bundle = open_model(name)
    with _named_at_the_end() as problems:
        paths = [] if photos is None else list(find_photos(photos, problems.append))
        if photos is not None and not paths:
            raise PhotoError(f"There is no photo in {photos}: name a folder that holds some.")
        if not paths and kind != "litert-int8":
            _warn("Without --photos, it is checked on drawn images only.")
        told = export.export_model(bundle, kind, output, paths, problems.append)
        check = told["check"]
        if kind == "litert-int8" and check["photos"] + told["calibrating_photos"] < export.ENOUGH_PHOTOS:
            _warn(f"So few photos set ranges badly and check little: {export.ENOUGH_PHOTOS} are better.")
        alike = "" if check["same_class"] is None else f", the same class for {check['same_class']:.1%}"
        _say(f"{output}: {told['bytes'] / 1e6:.1f} MB.", quiet)
        _say(
            f"Against Keras on {check['photos']} {'drawn images' if check['drawn'] else 'photos'}: "
            f"cosine {check['cosine_mean']:.4f}, at least {check['cosine_min']:.4f}{alike}.",
            quiet,
        )


@models_app.command("remove")
def models_remove(name: str, quiet: Quiet = False) -> None:
    """Delete a model. Galleries made with it cannot be searched until it is added again."""
    from petid_search.models.home import remove_model

    remove_model(name)
    _say(f"Model {name} removed.", quiet)


def _restore(folders: list[Path], as_json: bool, quiet: bool) -> None:
    from petid_search.dedup.aside import restore

    with _named_at_the_end() as problems:
        for folder in folders:
            back = 0
            failed: list[PetidError] = []
            try:
                for problem in restore(folder):
                    back += problem is None
                    failed.extend([] if problem is None else [problem])
            except PetidError as error:
                failed.append(error)
            problems.extend(failed)
            if as_json:
                _print_json({"folder": str(folder), "back": back, "failed": [str(problem) for problem in failed]})
            elif back:
                _say(f"{back} photos are back from {folder}.", quiet)


def _labelled(
    folders: list[Path], against: Path | None, unlabelled: bool, problems: list[PetidError]
) -> "list[Labelled]":
    """The photos of folders, and those of an archive, each with the name of its individual."""
    from petid_search.dataset import labelled_photos
    from petid_search.dedup.duplicates import Labelled
    from petid_search.errors import PhotoError
    from petid_search.images import is_folder, is_set_apart
    from petid_search.index.records import DATABASE

    def read(folder: Path) -> list[tuple[Path, str | None]]:
        if not is_folder(folder):
            problems.append(PhotoError(f"{folder} is not a folder: name one that holds photos."))
        elif (folder / DATABASE).exists() or is_set_apart(folder.resolve()):
            problems.append(PhotoError(f"{folder} is a gallery, or what was moved aside: compare it by --against."))
        else:
            return list(labelled_photos(folder, problems.append))
        return []

    # Outer folders first: below them the sub-folders' names tell the individual.
    ordered = sorted(folders, key=lambda folder: len(folder.resolve().parts))
    searched = [(folder, photo, name) for folder in ordered for photo, name in read(folder)]
    archive: list[Labelled] = []
    renamed: dict[str, str] = {}
    if against is not None and (against / DATABASE).exists():
        with _open(against) as herd_book:
            archive = [Labelled(photo.file, photo.individual, True) for photo in herd_book.photos()]
            renamed = {name: herd_book.corrected_name(name) for _, _, name in searched if name is not None}
    elif against is not None:
        if not is_folder(against):
            raise PetidError(f"There is no gallery and no folder {against}: check the name given to --against.")
        archive = [Labelled(photo, name, True) for photo, name in labelled_photos(against, problems.append)]
    known = {photo.individual for photo in archive}
    photos = []
    for folder, photo, said in searched:
        name = None if said is None or unlabelled else renamed.get(said, said)
        # An inbox is nobody's folder: one that is compared with others shows whom they know by its name.
        is_inbox = against is not None and photo.parent == folder and name not in known
        photos.append(Labelled(photo, None if is_inbox else name))
    return photos + archive


def _print_duplicates(found: "Duplicates") -> None:
    conflicts = list(found.conflicts())
    if conflicts:
        _print(f"Pairs under two individuals, one of each probably labelled wrong: {len(conflicts)}")
    for pair in conflicts:
        for one, ssim in ((pair.first, f"{pair.ssim:.3f}"), (pair.second, "")):
            _print(f"  {ssim:5s}  {one.individual}  {one.path}")
    _print(f"Groups of near-identical photos (SSIM ≥ {found.threshold:g}): {len(found.groups)}")
    for group in found.groups:
        _print(f"  keep   {group.keep.path}  ({group.why})")
        for other in group.others:
            _print(f"  {other.ssim:.3f}  {other.photo.path}")


def _open(folder: Path) -> "Gallery":
    from petid_search.index.gallery import Gallery

    return Gallery(folder)


def _embedder_for(folder: Path, model: str | None) -> "Embedder":
    """The model named, else that of the gallery, else the default."""
    from petid_search.index.gallery import Gallery
    from petid_search.index.records import DATABASE
    from petid_search.models.home import open_model
    from petid_search.models.runtime import Embedder

    if model is not None:
        return Embedder(open_model(model))
    is_there = False
    with suppress(OSError):  # where one may not even look, making the gallery will say why
        is_there = (folder / DATABASE).exists()
    if is_there:
        with Gallery(folder) as gallery:
            if gallery.model is not None:
                return _embedder_of(gallery)
    return Embedder(open_model())


def _embedder_of(gallery: "Gallery") -> "Embedder":
    """The model that made the gallery's embeddings, found by its fingerprint: its name may have changed."""
    from petid_search.models.home import damaged_models, find_fingerprint, has_model
    from petid_search.models.runtime import Embedder

    model = gallery.model
    if model is None:
        raise GalleryError(f"The gallery {gallery.folder} is empty: fill it with `petid enroll PHOTOS`.")
    if bundle := find_fingerprint(model.fingerprint):
        return Embedder(bundle)
    if damage := damaged_models().get(model.name):
        raise damage
    needs = f"The gallery {gallery.folder} needs model {model.name!r} ({model.fingerprint[:12]}), which is not here"
    if has_model(model.name):
        raise ModelError(f"{needs}; another is called so now: go over to it with `petid reindex`.")
    raise ModelError(
        f"{needs}: add it again with `petid models add`, or go over to another with `petid reindex --model NAME`."
    )


def _photos_of(paths: list[Path], problems: list[PetidError]) -> list[Path]:
    """Photos as named, and those in folders."""
    from petid_search.errors import PhotoError
    from petid_search.images import find_photos, is_folder

    photos: list[Path] = []
    for path in paths:
        if not is_folder(path):
            photos.append(path)
            continue
        unread = len(problems)
        found = list(find_photos(path, problems.append))
        photos.extend(found)
        if not found and len(problems) == unread:
            problems.append(PhotoError(f"There is no photo in {path}: name a folder that holds some."))
    return photos


def _with_progress(results: Iterable[T], total: int, what: str, quiet: bool) -> Iterator[T]:
    """The results as they come, under a progress bar."""
    with _progress_bar(total, what, quiet) as advance:
        for result in results:
            advance()
            yield result


def _to_be_printed(answers: Iterable[Any], problems: list[PetidError], as_json: bool) -> Iterator[Any]:
    """The answers for photos that could be read; as JSON, each is printed here already, and so is what failed."""
    from petid_search.embed import Unreadable

    for answer in answers:
        if isinstance(answer, Unreadable):
            problems.append(answer.error)
            if as_json:
                _print_json({"photo": str(answer.path), "error": str(answer.error)})
        elif as_json:
            _print_json(answer.to_json())
        else:
            yield answer


@contextmanager
def _progress_bar(total: int, what: str, quiet: bool) -> Iterator[Callable[[], None]]:
    """What advances a progress bar by one."""
    with _stages(quiet) as advance:
        yield lambda: advance(what, 1, total)


@contextmanager
def _stages(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """What advances a progress bar on stderr, shown once it takes longer than two seconds and only on a terminal.

    It is told what is being done, how many more are done, and how many there are; each new stage has its own line.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started = time.monotonic()
    # On a terminal, results are printed above the bar; results that go to a file must not be drawn into it.
    above = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=above) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, more: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, visible=False)
            is_long = time.monotonic() - started > _SHOW_PROGRESS_AFTER_S
            progress.update(tasks[what], advance=more, visible=is_long)

        yield advance


@contextmanager
def _training_bar(quiet: bool) -> "Iterator[tuple[Callable[[Step], None], Callable[[str, int, int], None]]]":
    """What draws a training on stderr: the steps of the epoch under way with its loss, or what else is being done."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None, lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    above = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=above) as bar:
        task = bar.add_task("Getting ready", total=None)

        def step(now: "Step") -> None:
            measured = "  ".join(f"{name} {value:.4f}" for name, value in now.measured.items())
            bar.update(
                task,
                description=f"Epoch {now.epoch}/{now.epochs}  {measured}",
                completed=now.step,
                total=now.steps,
            )

        def doing(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield step, doing


def _epoch_line(entry: Mapping[str, Any]) -> str:
    """An epoch in a line: its losses and what it measured."""
    apart = ("epoch", "stage", "seconds", "learning_rate")
    measured = "  ".join(f"{name} {value:.4f}" for name, value in entry.items() if name not in apart)
    return f"epoch {entry['epoch']:3d}  {measured}  ({entry['seconds']:.1f} s)"


@contextmanager
def _download_bar(quiet: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """What draws a download on stderr, told of bytes had and of all there are; nothing where nobody sees it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Downloading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda had, total: bar.update(task, completed=had, total=total, visible=True)


def _print_identification(answer: Any, said: str = "") -> str:
    """Who is on a photo, and the candidates.

    Args:
        answer: the Identification.
        said: whose threshold it was, as told of the photo before, which is not told a second time.

    Returns:
        whose threshold it is.
    """
    named = answer.decision if answer.individual is None else f"{answer.decision} {answer.individual}"
    limits = [] if answer.threshold is None else [f"threshold {answer.threshold:.3f}, FPIR {answer.fpir:g}"]
    about = [f"measured on {answer.calibrated_on} individuals here"] if answer.calibration == "gallery" else []
    about += [answer.note] if answer.note else []
    if answer.candidates and answer.is_of_both(answer.candidates[0]):  # whose threshold stands in the last line
        limits, about = [f"by index and classifier, FPIR {answer.fpir:g}"], []
    whose = "; ".join(about)
    limits += ["as above" if whose == said else whose] if whose else []
    _print(f"{answer.photo}: {named} ({'; '.join(limits)}, N = {answer.gallery_size})")
    for place, candidate in enumerate(answer.candidates, start=1):
        probability = "" if candidate.probability is None else f"{candidate.probability:6.1%}"
        score = "" if candidate.classifier_score is None else f"  (classifier {candidate.classifier_score:.1%})"
        named = f"{candidate.individual}{score}"
        _print(f"{place:4d}  {candidate.similarity:6.3f}  {probability}  {named}  {candidate.photo}")
    if answer.experts is not None:
        _print(f"      {_what_experts_say(answer)}")
    return whose


def _what_experts_say(answer: Any) -> str:
    """Which expert said what, and what they decide together, in one line."""
    experts = answer.experts
    index, classifier = f"{experts.index} {experts.similarity:.3f}", f"{experts.classifier} {experts.score:.1%}"
    agree = experts.index == experts.classifier
    said = f"index: {index}; classifier: {classifier}" if agree else f"index says {index}, classifier says {classifier}"
    note = f" ({experts.note})" if experts.note else ""
    if not experts.together:
        return f"{said}; the index decides{note}"
    decided = answer.decision if answer.individual is None else f"{answer.decision} {answer.individual}"
    return (
        f"{said}; together: {decided} (a match takes {experts.threshold:.1%}, "
        f"measured on {experts.strangers} strangers){note}"
    )


def _told_of(limits: "Limits", fpir: float) -> str:
    """By what the thresholds are stated, in words."""
    if limits.threshold is None:
        return f"no threshold: {limits.note}"
    whose = limits.note if limits.source == "model" else f"measured on {limits.individuals} individuals here"
    return f"threshold {limits.threshold:.3f} for FPIR {fpir:g}, {whose}"


def _explained(answers: Iterable[Any], problems: list[PetidError], as_json: bool) -> Iterator[Any]:
    """The explanations of photos that could be read; what failed is kept for the end, and told as JSON at once."""
    from petid_search.embed import Unreadable

    for answer in answers:
        if not isinstance(answer, Unreadable):
            yield answer
            continue
        problems.append(answer.error)
        if as_json:
            _print_json({"photo": str(answer.path), "error": str(answer.error)})


def _print_explanation(explanation: Any, told: Mapping[str, Any]) -> None:
    """An explanation in words: who was decided on or which class, what its tests found, and where it was drawn to."""
    if "scores" in told:
        _print(f"{told['photo']}: classes of {told['model']}")
        for name, score in told["scores"].items():
            _print(f"      {score:6.1%}  {name}")
    else:
        _print_identification(replace(explanation.identification, candidates=explanation.candidates))
    if found := told.get("faithfulness"):
        for name in ("deletion", "insertion"):
            better = "lower" if name == "deletion" else "higher"
            values = {order: found[order][name] for order in ("map", "random", "blob")}
            _print(
                f"{name}: {values['map']:.3f} ({better} is better; random maps {values['random']:.3f}, "
                f"a blob in the middle {values['blob']:.3f})"
            )
        shuffled = told["rank_correlation_under_shuffled_weights"].items()
        correlations = ", ".join(f"{float(share):.0%} of kernels {value:+.2f}" for share, value in shuffled)
        _print(f"partial rank correlation with the map of shuffled weights: {correlations}")
    for warning in told["warnings"]:
        _print(warning)
    _print(f"Drawn to {told['picture']}")


def _print_result(result: Any, results: tuple[Any, ...]) -> None:
    """The figures of one model and rule; after the first, each as its difference from the first."""
    first, size = results[0], f"N = {result.found.individuals}"
    if len(results) > 1:
        _print(f"{result.model}, {result.rule}{'' if result is first else f', less {first.model}, {first.rule}'}")
    for name, figure in (result.figures if result is first else result.minus(first)).items():
        if figure.value is None:
            _print(f"{name:16s} -        {figure.reason} ({size}, {figure.of})")
        else:
            sign = "" if result is first else "+"
            interval = f"{figure.low:{sign}.4f} to {figure.high:{sign}.4f}" if figure.low is not None else "-"
            measured = "" if result is first else f"{result.figures[name].value:.4f}  "
            reason = f" ({figure.reason})" if figure.reason else ""
            _print(f"{name:16s} {measured}{figure.value:{sign}.4f}  {interval:18s}  {size}, {figure.of}{reason}")


def _print_json(value: dict[str, Any], indent: int | None = None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a name that is not UTF-8, or a terminal that is not
        text = json.dumps(value, indent=indent)
    typer.echo(text)


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"  # None where a program has put its own in its place
    typer.echo(_one_line(text).encode(encoding, "backslashreplace").decode(encoding))


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        _print(text)


def _complain(problem: object) -> None:
    typer.secho(f"petid: {_one_line(str(problem))}", fg="red", err=True)


def _warn(text: str) -> None:
    typer.secho(f"petid: {_one_line(text)}", fg="yellow", err=True)


def _one_line(text: str) -> str:
    """The text with control characters escaped, as names of files may hold them."""
    return _CONTROL.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


@contextmanager
def _named_at_the_end() -> Iterator[list[PetidError]]:
    """A list of what failed in a batch that goes on without it; named when the batch is done or broken off."""
    problems: list[PetidError] = []
    try:
        yield problems
    except PetidError as error:
        problems.append(error)
    for problem in problems:
        _complain(problem)
    if problems:
        raise typer.Exit(1)
