"""What a classifier makes of photos: scores for those whom it knows, on all cores, past photos that are none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_small_model

from petid_search.classify import Classification, classify
from petid_search.embed import Unreadable
from petid_search.errors import ModelError
from petid_search.images import open_image
from petid_search.models import home as models


def test_each_photo_is_scored_for_every_class_the_best_first(five, take_photo):
    photos = [take_photo(individual, 0) for individual in (6, 4, 8)]
    answers = list(classify(photos, five))
    assert [answer.photo for answer in answers] == photos
    assert [next(iter(answer.scores)) for answer in answers] == ["6", "4", "8"]
    for photo, answer in zip(photos, answers, strict=True):
        assert answer.model == "five"
        assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-5)
        assert list(answer.scores.values()) == sorted(answer.scores.values(), reverse=True)
        expected = five.scores(open_image(photo, 32)[None])[0]
        assert [answer.scores[name] for name in five.classes] == pytest.approx(expected.tolist(), abs=1e-6)


def test_only_the_best_classes_are_told_where_that_is_asked(five, take_photo):
    (everything,) = classify([take_photo(5)], five)
    (best,) = classify([take_photo(5)], five, top=2)
    assert list(best.scores.items()) == list(everything.scores.items())[:2]
    assert len(everything.scores) == 5


def test_a_batch_goes_on_past_a_photo_that_cannot_be_read(five, take_photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    photos = [take_photo(4 + number % 5, number) for number in range(40)]
    photos.insert(20, tmp_path / "broken.jpg")
    answers = list(classify(iter(photos), five))
    assert isinstance(answers.pop(20), Unreadable)
    assert [next(iter(answer.scores)) for answer in answers] == [str(4 + number % 5) for number in range(40)]


def test_a_model_without_a_classifier_says_how_to_get_one_with(embedder, take_photo):
    with pytest.raises(ModelError, match=r"'small' has no classifier.*`petid train FOLDER`") as raised:
        next(classify([take_photo(5)], embedder))
    assert "\n" not in str(raised.value)


def test_an_answer_is_json_with_any_name():
    answer = Classification(Path("a.jpg"), "m", {"Räx/\n": 0.75, "1": 0.25})
    assert json.loads(json.dumps(answer.to_json())) == {
        "photo": "a.jpg",
        "model": "m",
        "scores": {"Räx/\n": 0.75, "1": 0.25},
    }


def test_the_only_model_with_a_classifier_needs_no_name(classifier_home, tmp_path, monkeypatch):
    assert models.only_classifier().card.name == "five"
    monkeypatch.setenv("PETID_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"no model with a classifier yet.*petid train FOLDER"):
        models.only_classifier()
    for name in ("one", "two"):
        write_small_model(tmp_path / "models", name, seed=1, classes=("1", "2"))
    with pytest.raises(ModelError, match=r"\(one, two\): name one with --model"):
        models.only_classifier()
    (tmp_path / "models" / "one" / "card.json").write_bytes(b"{")
    assert models.only_classifier().card.name == "two"
    (tmp_path / "models" / "two" / "card.json").write_bytes(b"{")
    with pytest.raises(ModelError, match="petid models remove one"):
        models.only_classifier()


def test_the_command_prints_class_and_score_or_json(classifier_home, petid, take_photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    take_photo(6)
    done = petid("classify", "photos/6/0.png", "broken.jpg", take_photo(7), "--top", 2)
    lines = done.stdout.splitlines()
    assert lines[0] == "photos/6/0.png: the best of 5 classes of five"
    assert lines[1].split()[0::2] == ["1", "6"]
    assert lines[1].split()[1].endswith("%")
    assert len(lines) == 6
    assert done.returncode == 1
    assert "broken.jpg" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = petid("classify", "photos", "broken.jpg", "--json")
    first, second, broken = map(json.loads, done.stdout.splitlines())
    assert list(first) == ["photo", "model", "scores"]
    assert (next(iter(first["scores"])), next(iter(second["scores"])), len(first["scores"])) == ("6", "7", 5)
    assert "error" in broken
    assert done.returncode == 1


def test_the_command_names_what_is_missing_in_one_line(petid, take_photo, classifier_home, home):
    done = petid("classify", take_photo(6), "--model", "small")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("petid: Model 'small' has no classifier")
    assert len(done.stderr.splitlines()) == 1


def test_classifying_imports_no_tensorflow(classifier_home, take_photo):
    code = (
        "import sys\nfrom petid_search.cli import app\n"
        "app(['classify', sys.argv[1]], standalone_mode=False)\n"
        "sys.exit(', '.join({'tensorflow', 'keras', 'onnx', 'faiss'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, take_photo(6)], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert done.stdout
