"""The report of an evaluation: JSON, CSV, pictures, and one page that holds them all."""

import csv
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import petid_search
from petid_search.dataset.split_file import write_split
from petid_search.errors import DatasetError
from petid_search.evaluate.evaluation import Evaluation, Result
from petid_search.evaluate.figures import LEVEL, Figure
from petid_search.evaluate.page import page
from petid_search.evaluate.plots import draw
from petid_search.images import REPORT_FILE, SPLIT_FILE


def to_json(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """The report as plain JSON values; nothing in it is NaN.

    `trained_on` is how many of the photos and individuals measured the model was trained on; null where its bundle
    does not say. `metrics` are those of the first model and rule; where there are several, `compared` holds all, each
    but the first with its differences from the first.
    """
    first = evaluation.results[0]
    split = evaluation.split
    left_out = sum(one.role == "left out" for one in split.photos)
    report: dict[str, Any] = {
        "petid": petid_search.__version__,
        "folder": str(folder),
        "protocol": split.protocol,
        "model": first.model,
        "fingerprint": first.fingerprint,
        "rule": first.rule,
        "trained_on": _trained_on(first),
        "N": first.found.individuals,
        "photos": len(evaluation.photos),
        "individuals": len(evaluation.individuals),
        "gallery_photos": len(evaluation.sides.gallery),
        "probes": len(evaluation.sides.probes),
        "mated_probes": int((first.ranked.ranks > 0).sum()),
        "stranger_probes": int(evaluation.strangers.sum()),
        "genuine_pairs": first.found.pairs.counts[0],
        "impostor_pairs": first.found.pairs.counts[1],
        "near_duplicates": sum(one.group is not None for one in split.photos),
        "left_out": left_out,
        "metrics": _metrics(first.figures, first),
        "thresholds": first.thresholds,
        "interval": {"level": LEVEL, "over": "individuals", "replicates": evaluation.replicates},
        "seed": evaluation.seed,
        "split": SPLIT_FILE,
        "split_given": None if evaluation.given is None else str(evaluation.given),
        "failed": [str(error) for error in evaluation.failed],
    }
    if len(evaluation.results) > 1:
        report["compared"] = [_compared(result, first) for result in evaluation.results]
    return report


@contextmanager
def output_folder(output: Path, folder: Path) -> Iterator[None]:
    """Make the folder of a report before the work; what was made is removed again where nothing came into it.

    Args:
        output: where the report is to go: a folder that is not there yet, or an empty one.
        folder: the photos' folder, in which no report may lie: its pictures would be taken for an animal's.

    Raises:
        DatasetError: it is a file, holds something, lies in the photos' folder, or cannot be made.
    """
    if output.resolve().is_relative_to(folder.resolve()):
        raise DatasetError(f"{output} lies in {folder}, among the photos: name another --output.")
    _check_empty(output)
    made = [parent for parent in (output, *output.parents) if not parent.exists()]
    try:
        try:
            output.mkdir(parents=True, exist_ok=True)
            # Whether it may be written to is only known once something was.
            with tempfile.TemporaryFile(dir=output):
                pass
        except OSError as error:
            raise DatasetError(f"{output} cannot be written to ({error.strerror}): name another --output.") from error
        yield
    finally:
        with suppress(OSError):  # the first that holds something ends it
            for parent in made:
                parent.rmdir()


def _check_empty(output: Path) -> None:
    try:
        if output.exists() and not output.is_dir():
            raise DatasetError(f"{output} is a file: name another --output.")
        if (output / REPORT_FILE).exists():
            raise DatasetError(f"There is a report in {output} already: name another --output.")
        if output.is_dir() and any(output.iterdir()):
            raise DatasetError(f"{output} is not empty, and no file is overwritten: name another --output.")
    except OSError as error:
        raise DatasetError(f"{output} cannot be looked at ({error.strerror}): name another --output.") from error


def write_report(evaluation: Evaluation, folder: Path, output: Path) -> dict[str, Any]:
    """Write the report: `split.csv`, `metrics.csv`, `probes.csv`, pictures, `report.html` and, last, `report.json`.

    Args:
        evaluation: what was measured.
        folder: the photos' folder.
        output: where to, a folder that is not there yet or an empty one.

    Returns:
        the report as JSON values, as in `report.json`.

    Raises:
        DatasetError: something is there already, or it cannot be written.
    """
    _check_empty(output)
    report = to_json(evaluation, folder)
    pictures = draw(evaluation)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_split(evaluation.split, output / SPLIT_FILE)
        write_csv(output / "metrics.csv", _METRICS, _metric_rows(evaluation))
        write_csv(output / "probes.csv", _PROBES, _probe_rows(evaluation))
        for name, picture in pictures.items():
            (output / f"{name}.png").write_bytes(picture)
        text = page(evaluation, report, pictures)
        (output / "report.html").write_text(text, encoding="utf-8", errors="backslashreplace")
        (output / REPORT_FILE).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DatasetError(
            f"The report cannot be written to {output} ({error.strerror}): name another --output."
        ) from error
    return report


_METRICS: Final = ("model", "rule", "metric", "value", "low", "high", "N", "count", "of", "note")
_PROBES: Final = (
    *("model", "rule", "photo", "individual", "role", "rank", "first_candidate", "own_similarity"),
    *("nearest_other", "other_similarity", "nearest_other_photo", "average_precision", "inverse_negative_penalty"),
)


def _metric_rows(evaluation: Evaluation) -> Iterable[Sequence[Any]]:
    for result in evaluation.results:
        for name, figure in result.figures.items():
            yield (
                *(result.model, result.rule, name, figure.value, figure.low, figure.high),
                *(result.found.individuals, figure.count, figure.of, figure.reason),
            )


def _probe_rows(evaluation: Evaluation) -> Iterable[Sequence[Any]]:
    """One line a probe and result; a field is empty where there is nothing to tell."""
    sides, names, photos = evaluation.sides, evaluation.individuals, evaluation.photos
    for result in evaluation.results:
        found, ranked = result.found, result.ranked
        for place, probe in enumerate(sides.probes):
            rank, nearest, photo = (
                int(ranked.ranks[place]),
                int(ranked.nearest_other[place]),
                int(ranked.nearest_photo[place]),
            )
            individual = names[sides.owners[probe]]
            mated = rank > 0
            other = "" if nearest < 0 else names[nearest]
            role = "stranger" if evaluation.strangers[place] else "probe"
            yield (
                *(result.model, result.rule, photos[probe].name, individual, role, rank if mated else ""),
                *(individual if rank == 1 else other, _rounded(ranked.own[place]) if mated else ""),
                *(other, "" if nearest < 0 else _rounded(ranked.other[place])),
                "" if photo < 0 else photos[photo].name,
                *(
                    _rounded(found.precisions[place]) if mated else "",
                    _rounded(found.penalties[place]) if mated else "",
                ),
            )


def _rounded(value: float) -> str:
    return f"{value:.6f}"


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV; names of files that are no Unicode keep their bytes."""
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def _compared(result: Result, first: Result) -> dict[str, Any]:
    report: dict[str, Any] = {
        "model": result.model,
        "fingerprint": result.fingerprint,
        "rule": result.rule,
        "trained_on": _trained_on(result),
        "N": result.found.individuals,
        "metrics": _metrics(result.figures, result),
        "thresholds": result.thresholds,
    }
    if result is not first:
        report["differences"] = _metrics(result.minus(first), result)
    return report


def _trained_on(result: Result) -> dict[str, int] | None:
    return None if result.known is None else {"photos": result.known.photos, "individuals": result.known.individuals}


def _metrics(figures: dict[str, Figure], result: Result) -> dict[str, dict[str, Any]]:
    return {name: _figure(figure, result.found.individuals) for name, figure in figures.items()}


def _figure(figure: Figure, individuals: int) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "N": individuals,
        "count": figure.count,
        "of": figure.of,
    }
    return {**entry, "reason": figure.reason} if figure.reason else entry
