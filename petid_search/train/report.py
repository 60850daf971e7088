"""The report of a training: what every epoch measured, and how well the classifier tells the classes apart."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search import metrics
from petid_search.errors import DatasetError
from petid_search.evaluate.report import write_csv
from petid_search.images import REPORT_FILE
from petid_search.train.plots import NO_MEASURES, draw_confusion, draw_learning_curves

_TOP: Final = 5


@dataclass(frozen=True, slots=True)
class Classified:
    """What a classifier said of photos whose class is known.

    Attributes:
        names: of the classes, in the order of the scores.
        photos: (n,), as they are to stand in the report.
        labels: int, (n,), class numbers, in [0, classes).
        scores: float, (n, classes), softmax outputs, in [0, 1].

    Raises:
        ValueError: shapes do not fit.
    """

    names: Sequence[str]
    photos: Sequence[str]
    labels: NDArray[np.integer[Any]]
    scores: NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        expected = (len(self.photos), len(self.names))
        if self.scores.shape != expected or self.labels.shape != expected[:1]:
            raise ValueError(
                f"Expected scores {expected} and labels {expected[:1]}. "
                f"Received: shapes {self.scores.shape} and {self.labels.shape}."
            )

    @property
    def predicted(self) -> NDArray[np.int64]:
        """int64, (n,), the class of the highest score; the first of equals."""
        return np.asarray(self.scores.argmax(axis=1), np.int64)

    @property
    def confusion(self) -> NDArray[np.float64]:
        """float64, (classes, classes), photos; row: what it is, column: what it was called."""
        return metrics.confusion_matrix(self.labels, self.predicted, len(self.names))


def write_report(
    folder: Path,
    history: Sequence[Mapping[str, Any]],
    *,
    best_epoch: int | None = None,
    classified: Classified | None = None,
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `history.csv`, `learning-curves.png`, what write_classification writes and, last, `report.json`.

    Files of the same names are written over: a training that was taken up again reports the whole of it.

    Args:
        folder: where to; made where there is none.
        history: one entry an epoch: `epoch`, `stage`, `seconds`, `learning_rate` and whatever was measured, by name.
        best_epoch: the one whose weights were kept.
        classified: the classifier's scores of the validation photos; without a classifier there are none.
        run: what else is known of the training, in JSON values and numbers.

    Returns:
        the report as JSON values, as in `report.json`: what `run` holds, `best_epoch`, `best` (that epoch's entry),
        `history` and `classification`. What is not finite is None.

    Raises:
        DatasetError: the files cannot be written.
        ValueError: the scores are NaN, or no scores.
    """
    best = next((entry for entry in history if entry.get("epoch") == best_epoch), None)
    report = {
        **(run or {}),
        "best_epoch": best_epoch,
        "best": best,
        "history": list(history),
        "classification": None if classified is None else classification_figures(classified),
    }
    values: dict[str, Any] = _as_json(report)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_history(folder, history, best_epoch)
        if classified is not None:
            write_classification(folder, classified)
        _write_json(folder / REPORT_FILE, values)
    except OSError as error:
        raise DatasetError(
            f"The report cannot be written to {folder} ({error.strerror}): name another --output."
        ) from error
    return values


def write_history(folder: Path, history: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> None:
    """Write `history.csv` and `learning-curves.png` into a folder that exists.

    A field is empty where nothing was measured; a loss that is not finite is written as it is.

    Raises:
        OSError: they cannot be written.
    """
    columns = list(dict.fromkeys([*NO_MEASURES, *(name for entry in history for name in entry)]))
    write_csv(folder / "history.csv", columns, ([entry.get(name) for name in columns] for entry in history))
    (folder / "learning-curves.png").write_bytes(draw_learning_curves(history, best_epoch))


def write_classification(folder: Path, classified: Classified) -> None:
    """Write how well the classes are told apart into a folder that exists.

    `confusion-matrix.csv` and `.png`; `confused-pairs.csv`, most photos first; `per-class.csv`; `per-class.json`, which
    is classification_figures; `predictions.csv`, one line a photo.

    Raises:
        OSError: they cannot be written.
        ValueError: the scores are NaN, or no scores.
    """
    figures = classification_figures(classified)
    names, confusion = classified.names, classified.confusion
    counts = confusion.astype(np.int64)
    write_csv(
        folder / "confusion-matrix.csv",
        ["class", *names],
        ([name, *row.tolist()] for name, row in zip(names, counts, strict=True)),
    )
    (folder / "confusion-matrix.png").write_bytes(draw_confusion(confusion, names))
    write_csv(folder / "confused-pairs.csv", ("class", "called", "photos", "share"), _confused(counts, names))
    write_csv(folder / "per-class.csv", _PER_CLASS, ([row[key] for key in _PER_CLASS] for row in figures["classes"]))
    _write_json(folder / "per-class.json", _as_json(figures))
    predicted = classified.predicted
    write_csv(
        folder / "predictions.csv",
        ("photo", "individual", "predicted", "score"),
        (
            (photo, names[label], names[called], f"{scores[called]:.6f}")
            for photo, label, called, scores in zip(
                classified.photos, classified.labels, predicted, classified.scores, strict=True
            )
        ),
    )


_PER_CLASS: Final = ("class", "precision", "recall", "f1", "support")


def classification_figures(classified: Classified) -> dict[str, Any]:
    """Measure how well the classes are told apart.

    Returns:
        `photos`; `accuracy`; `top_5_accuracy`, None where there are five classes or fewer, for whom it says nothing;
        `expected_calibration_error` over 15 bins; `macro` and `weighted` (by support) means of precision, recall and
        F1; `classes`, each with those and its support. As in scikit-learn's classification_report, means are over the
        classes that occur, as what a photo shows or as what it was called. NaN without photos.

    Raises:
        ValueError: the scores are NaN, or outside [0, 1].
    """
    labels, scores, predicted = classified.labels, classified.scores, classified.predicted
    right = labels == predicted
    names = classified.names
    precision, recall, f1, support = metrics.per_class(labels, predicted, len(names))
    occurs = np.union1d(labels, predicted).astype(np.int64)
    sides = {"precision": precision, "recall": recall, "f1": f1}
    return {
        "photos": len(labels),
        "accuracy": _mean(right.astype(np.float64)),
        "top_5_accuracy": metrics.top_k_accuracy(scores, labels, _TOP) if len(names) > _TOP else None,
        "expected_calibration_error": metrics.expected_calibration_error(scores.max(axis=1, initial=0.0), right),
        "macro": {name: _mean(values[occurs]) for name, values in sides.items()},
        "weighted": {name: _mean(values[occurs], support[occurs]) for name, values in sides.items()},
        "classes": [
            {
                "class": name,
                "precision": float(precision[place]),
                "recall": float(recall[place]),
                "f1": float(f1[place]),
                "support": int(support[place]),
            }
            for place, name in enumerate(names)
        ],
    }


def _confused(counts: NDArray[np.int64], names: Sequence[str]) -> Iterator[tuple[str, str, int, str]]:
    """Pairs of classes that were taken for each other, by photos; equals in the order of the classes."""
    totals = counts.sum(axis=1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    rows, columns = np.nonzero(wrong)
    photos = wrong[rows, columns]
    for pair in np.argsort(-photos, kind="stable"):
        row, column = rows[pair], columns[pair]
        yield names[row], names[column], int(photos[pair]), f"{photos[pair] / totals[row]:.6f}"


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    return float(np.average(values, weights=weights)) if len(values) else math.nan


def _as_json(value: Any) -> Any:
    """The same in values that JSON knows; arrays as lists, what is not finite as None, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _write_json(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
