"""A report says what scikit-learn says of the same scores, and can be read whatever the classes are called."""

import csv
import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import classification_report, confusion_matrix

from petid_search import metrics
from petid_search.errors import DatasetError
from petid_search.train.plots import draw_confusion, draw_learning_curves
from petid_search.train.report import Classified, classification_figures, write_classification, write_report

STRANGE = ("a,b", 'say "hi"', "$x^{", "line\nbreak", "犬🐕", "_hidden", "caf\udce9", "-")


def classified(classes=8, photos=200, *, names=STRANGE, seed=0, only=None):
    """Scores of a classifier that is often right; with `only`, the photos are of so many classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, only or classes, photos)
    raised = rng.random((photos, classes))
    raised[np.arange(photos), labels] += rng.random(photos)
    scores = np.exp(4 * raised)
    scores = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    names = names if names and classes <= len(names) else [f"dog {number}" for number in range(classes)]
    return Classified(names[:classes], [f"{label}/{place}.jpg" for place, label in enumerate(labels)], labels, scores)


def epoch(number, **measured):
    return {"epoch": number, "stage": "head", "seconds": 0.5, "learning_rate": 1e-3, **measured}


HISTORY = [
    epoch(0, loss=2.0, val_loss=2.5, val_accuracy=0.1, rank_1=None),
    epoch(1, loss=math.nan, val_loss=2.0, val_accuracy=0.4, rank_1=0.5),
    epoch(2, loss=1.0, val_loss=1.5, val_accuracy=0.6) | {"stage": "last 20"},
]


def rows(file):
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.reader(stream))


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("only", [None, 5])
def test_figures_are_those_of_scikit_learn(only):
    told = classified(only=only)
    numbers = [str(place) for place in range(8)]
    expected = classification_report(
        [numbers[label] for label in told.labels],
        [numbers[label] for label in told.predicted],
        output_dict=True,
        zero_division=0,
    )
    figures = classification_figures(told)
    assert figures["photos"] == 200
    assert figures["accuracy"] == pytest.approx(np.mean(told.labels == told.predicted))
    assert 0.5 < figures["accuracy"] < 1
    for side in ("macro", "weighted"):
        for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert figures[side][name] == pytest.approx(expected[f"{side} avg"][key])
    for place, row in enumerate(figures["classes"]):
        assert row["class"] == STRANGE[place]
        if str(place) in expected:
            assert row["f1"] == pytest.approx(expected[str(place)]["f1-score"])
            assert row["support"] == expected[str(place)]["support"]
    assert figures["top_5_accuracy"] == metrics.top_k_accuracy(told.scores, told.labels, 5)
    assert figures["expected_calibration_error"] == metrics.expected_calibration_error(
        told.scores.max(axis=1), told.labels == told.predicted
    )


def test_the_best_five_of_five_classes_say_nothing():
    assert classification_figures(classified(5))["top_5_accuracy"] is None


def test_a_report_holds_every_number_of_the_run(tmp_path):
    told = classified()
    report = write_report(
        tmp_path / "report",
        HISTORY,
        best_epoch=2,
        classified=told,
        run={"seed": np.int64(7), "folder": tmp_path, "rates": np.array([0.5, np.inf])},
    )
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    assert report["seed"] == 7
    assert report["rates"] == [0.5, None]
    assert report["best"]["val_loss"] == 1.5
    assert [entry["loss"] for entry in report["history"]] == [2.0, None, 1.0]
    assert report["classification"]["accuracy"] == pytest.approx(np.mean(told.labels == told.predicted))
    assert json.loads((tmp_path / "report" / "per-class.json").read_text()) == report["classification"]


def test_a_history_keeps_its_gaps(tmp_path):
    write_report(tmp_path, HISTORY)
    written = rows(tmp_path / "history.csv")
    assert written[0] == [*("epoch", "stage", "seconds", "learning_rate", "loss", "val_loss", "val_accuracy", "rank_1")]
    assert written[1] == ["0", "head", "0.5", "0.001", "2.0", "2.5", "0.1", ""]
    assert written[2][4] == "nan"
    assert written[3] == ["2", "last 20", "0.5", "0.001", "1.0", "1.5", "0.6", ""]


def test_a_report_without_a_classifier_has_no_confusion_matrix(tmp_path):
    report = write_report(tmp_path, HISTORY)
    assert report["classification"] is None
    assert report["best"] is None
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"history.csv", "learning-curves.png", "report.json"}


def test_tables_agree_with_each_other_whatever_the_classes_are_called(tmp_path):
    told = classified()
    write_classification(tmp_path, told)
    matrix = rows(tmp_path / "confusion-matrix.csv")
    assert matrix[0] == ["class", *STRANGE]
    assert [row[0] for row in matrix[1:]] == list(STRANGE)
    counts = np.array([row[1:] for row in matrix[1:]], int)
    np.testing.assert_array_equal(counts, confusion_matrix(told.labels, told.predicted))

    pairs = rows(tmp_path / "confused-pairs.csv")[1:]
    photos = [int(row[2]) for row in pairs]
    assert photos == sorted(photos, reverse=True)
    assert sum(photos) == counts.sum() - np.trace(counts)
    for name, called, number, share in pairs:
        place, other = STRANGE.index(name), STRANGE.index(called)
        assert place != other
        assert int(number) == counts[place, other]
        assert float(share) == pytest.approx(counts[place, other] / counts[place].sum(), abs=1e-6)

    predictions = rows(tmp_path / "predictions.csv")
    assert predictions[0] == ["photo", "individual", "predicted", "score"]
    assert len(predictions) == 201
    for row, label, scores in zip(predictions[1:], told.labels, told.scores, strict=True):
        assert row[1] == STRANGE[label]
        assert row[2] == STRANGE[scores.argmax()]
        assert float(row[3]) == pytest.approx(scores.max(), abs=1e-6)

    per_class = rows(tmp_path / "per-class.csv")
    assert per_class[0] == ["class", "precision", "recall", "f1", "support"]
    for place, row in enumerate(per_class[1:]):
        assert row[0] == STRANGE[place]
        assert float(row[1]) == pytest.approx(counts[place, place] / max(counts[:, place].sum(), 1))
        assert float(row[2]) == pytest.approx(counts[place, place] / counts[place].sum())


@pytest.mark.parametrize("classes", [2, 8, 61, 1000])
def test_a_confusion_matrix_is_drawn_for_few_classes_and_for_many_without_a_warning(classes, recwarn):
    told = classified(classes, 300)
    picture = pixels(draw_confusion(told.confusion, told.names))
    assert max(picture.shape) <= 1440
    assert not [str(warning.message) for warning in recwarn]


def orange(picture):
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    return int(np.count_nonzero((red > 200) & (green < 190) & (blue < 150)))


def test_a_single_confusion_among_a_thousand_classes_is_seen():
    right = np.eye(1000)
    one_wrong = right.copy()
    one_wrong[200, 200], one_wrong[200, 800] = 0, 1
    names = [str(place) for place in range(1000)]
    without, seen = (orange(pixels(draw_confusion(matrix, names))) for matrix in (right, one_wrong))
    assert seen > without + 20


def test_learning_curves_mark_the_best_epoch_and_where_a_stage_begins():
    plain = [{**entry, "stage": "head"} for entry in HISTORY]
    without = pixels(draw_learning_curves(plain))
    assert not np.array_equal(pixels(draw_learning_curves(HISTORY)), without)
    black = [
        np.count_nonzero((picture < 40).all(axis=2)) for picture in (without, pixels(draw_learning_curves(plain, 1)))
    ]
    assert black[1] > black[0] + 100


@pytest.mark.parametrize("history", [[], [epoch(0)], [epoch(0, loss=math.nan)], [epoch(3, mAP=0.5)], HISTORY[:1]])
def test_learning_curves_are_drawn_whatever_was_measured(history, recwarn):
    assert pixels(draw_learning_curves(history)).size
    assert not [str(warning.message) for warning in recwarn]


def test_a_measure_taken_now_and_then_is_drawn_through_the_gaps():
    gaps = [epoch(number, mAP=number / 10 if number % 3 == 0 else None) for number in range(7)]
    ends = [gaps[0], gaps[6]]
    blue = [
        np.count_nonzero((pixels(draw_learning_curves(history)) == (0, 114, 178)).all(axis=2))
        for history in (gaps, ends)
    ]
    assert min(blue) > 500
    assert blue[0] == pytest.approx(blue[1], rel=0.1)


def test_no_photos_are_no_numbers(tmp_path):
    none = Classified(["a", "b"], [], np.zeros(0, int), np.zeros((0, 2)))
    report = write_report(tmp_path, HISTORY, classified=none)
    assert report["classification"]["accuracy"] is None
    assert report["classification"]["macro"]["f1"] is None


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    told = classified(3)
    told.scores[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        write_report(tmp_path, HISTORY, classified=told)


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Expected scores \(1, 2\)"):
        Classified(["a", "b"], ["x.jpg"], np.zeros(1, int), np.zeros((1, 3)))


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        write_report(tmp_path / "file" / "report", HISTORY)
