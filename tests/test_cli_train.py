"""What a person meets who trains with `petid train` and gets it wrong: one line, and the next try is free."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from petid_search.cli import app
from petid_search.models.backbones import create_backbone

SMALL = ("--weights", "random", "--size", "32", "--epochs", "1", "--quiet")
SOFTMAX = ("--loss", "categorical_crossentropy")


@pytest.fixture
def train(models_folder, tmp_path, monkeypatch):
    """Runs `petid train …` in the test's folder, with a home of its own that has the models `small` and `other`."""
    shutil.copytree(models_folder, tmp_path / "home")
    monkeypatch.setenv("PETID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("petid_search.models.bundle.SHIPPED", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["train", *arguments])


def refused(done) -> str:
    """The one line of a training that ended by an error of its user."""
    assert done.exit_code == 1, (done.stdout, done.stderr, done.exception)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("petid: ")
    return line.removeprefix("petid: ")


def left_behind(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} - {"photos", "home"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "There are no photos to train on: name their folder."),
        (["nowhere"], "There is no folder nowhere: name one with a sub-folder for each class."),
        (["photos", "--loss", "arcfase"], "Unknown loss 'arcfase'. Did you mean 'arcface'?"),
        (["photos", "--freeze", "half"], "the command line: freeze is none, all, first-N or all-but-last-N"),
        (["photos", "--dense", "many"], "--dense is a list such as 512,256; 'many' is not."),
        (["photos", "--name", "a/b"], "'a/b' cannot name a model"),
        (["photos", "--recipe", "none.toml"], "The recipe none.toml cannot be read (No such file or directory)"),
        (["photos", "--sampler", "p-k", "--batch-size", "4"], "A batch of 4 holds no two individuals with 4 photos"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_before_anything_is_written(arguments, expected, train, take_photos, tmp_path):
    take_photos(2, 2)
    assert refused(train(*arguments)).startswith(expected)
    assert left_behind(tmp_path) == set()


def test_a_value_that_the_options_help_rules_out_is_wrong_usage(train, tmp_path):
    for arguments in (["--pooling", "average"], ["--epochs", "0"], ["--epochz", "1"], ["--dropout", "x"]):
        done = train("photos", *arguments)
        assert done.exit_code == 2
        assert "Traceback" not in done.stderr
    assert left_behind(tmp_path) == set()


def test_a_network_that_there_is_not_is_named_beside_the_nearest(train, take_photos):
    take_photos(2, 4)
    line = refused(train("photos", *SOFTMAX, "--backbone", "mobilnet"))
    assert line == "'mobilnet' is neither a network nor a model. Did you mean 'mobilenetv2'?"
    line = refused(train("photos", *SOFTMAX, "--backbone", "smal"))
    assert line == "'smal' is neither a network nor a model. Did you mean 'small'?"
    line = refused(train("photos", *SOFTMAX, "--backbone", "qqqqq"))
    assert "Expected one of: other, small, vggface-vgg16, " in line


def test_an_error_is_a_line_in_a_process_of_its_own_too(petid):
    done = petid("train", "photos", "--recipe", "none.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "petid: The recipe none.toml cannot be read (No such file or directory): check the name.\n"


def test_photos_that_came_after_a_training_that_failed_are_trained_on(train, take_photos, tmp_path):
    command = ("photos", *SOFTMAX, *SMALL, "--weights", "w.weights.h5", "--name", "m")
    take_photos(1, 4)
    assert "one individual only, and it takes two" in refused(train(*command))
    take_photos(2, 4)
    assert "There is no file of weights w.weights.h5" in refused(train(*command))
    create_backbone("mobilenetv2", size=32).save_weights(tmp_path / "w.weights.h5")
    take_photos(3, 5)
    done = train(*command)
    assert done.exit_code == 0, (done.stderr, done.exception)
    report = json.loads((tmp_path / "runs" / "m" / "report.json").read_text())
    assert (report["classes"], sum(report["photos"].values())) == (3, 15)


def test_after_wrong_weights_and_a_wrong_monitor_the_right_ones_train_in_the_same_place(train, take_photos, tmp_path):
    take_photos(2, 4)
    line = refused(train("photos", *SOFTMAX, "--weights", "none.h5"))
    assert line == "There is no file of weights none.h5: check the name."
    (tmp_path / "bad.h5").write_bytes(b"no weights")
    assert "bad.h5" in refused(train("photos", *SOFTMAX, "--weights", "bad.h5"))
    line = refused(train("photos", *SOFTMAX, *SMALL, "--monitor", "val_acuracy"))
    assert "monitor is 'val_acuracy', which is not measured here; there are loss, val_loss, val_accuracy" in line

    done = train("photos", *SOFTMAX, *SMALL, "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert json.loads(done.stdout)["model"] == "photos"
    report = json.loads((tmp_path / "runs" / "photos" / "report.json").read_text())
    assert "monitor" not in report["recipe"]

    assert left_behind(tmp_path / "runs" / "photos").isdisjoint({"cache", "checkpoint.npz"})
    line = refused(train("photos", *SOFTMAX, *SMALL))
    assert line.startswith("There is a model 'photos' already: choose another name, or `petid models remove photos`.")
    line = refused(train("photos", *SOFTMAX, *SMALL, "--name", "b", "--output", "runs/photos"))
    assert line.startswith("runs/photos holds another training, with another name: go on with that one, or name ")
    assert json.loads((tmp_path / "runs" / "photos" / "report.json").read_text()) == report


def test_an_output_that_is_a_file_is_said(train, take_photos, tmp_path):
    take_photos(2, 4)
    (tmp_path / "other").write_text("a file")
    line = refused(train("photos", *SOFTMAX, *SMALL, "--output", "other"))
    assert line.startswith("other cannot be written (File exists)")


def test_show_augmented_draws_a_sheet_and_trains_nothing(train, take_photos, tmp_path):
    take_photos(2, 4)
    done = train("photos", "--size", "32", "--rotation", "15", "--flip", "--show-augmented", "sheet.png", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert Image.open(tmp_path / "sheet.png").size == (8 * 36 + 4, 6 * 36 + 4)
    assert left_behind(tmp_path) == {"sheet.png"}
    assert "Nothing is augmented" in refused(train("photos", "--show-augmented", "sheet-2.png"))
