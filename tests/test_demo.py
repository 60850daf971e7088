"""The demo: everything petid is for, run for real on a few drawn pets with a small model."""

import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rights import run_petid_bound_by_rights
from tiny_network import registered
from typer.testing import CliRunner

from petid_search import demo as library
from petid_search.cli import app
from petid_search.demo import FPIR, MODEL, Line, Size, demo
from petid_search.errors import DatasetError, ModelError
from petid_search.images import FIT
from petid_search.index.gallery import Gallery
from petid_search.models.architecture import Head
from petid_search.models.backbones import create_backbone, import_keras
from petid_search.models.bundle import Bundle, write_bundle

keras = import_keras()
from petid_search.models.heads import create_model  # noqa: E402 - Keras is imported as petid does it, first

SMALL = Size(pets=10, photos=3, probes=3, strangers=2, others=6, epochs=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """PETID_HOME has one model, `start`, of the tiny network, as long as the module's tests run."""
    folder = tmp_path_factory.mktemp("demo") / "home"
    with pytest.MonkeyPatch.context() as patch, registered():
        patch.setenv("PETID_HOME", str(folder))
        patch.delenv("PETID_GALLERY", raising=False)
        about = {"backbone": "tiny", "fit": FIT, "origin": "drawn", "licence": "CC0-1.0", "data": "none"}
        keras.utils.set_random_seed(1)
        model = create_model(create_backbone("tiny", weights=None), Head())
        write_bundle(model, folder / "models" / "start", name="start", head=Head(), **about)
        yield folder


@pytest.fixture(scope="module")
def start(home) -> Bundle:
    return Bundle.open(home / "models" / "start")


@pytest.fixture(scope="module")
def run(start, tmp_path_factory) -> tuple[Path, list[Line]]:
    """The folder of one demo, and what it told."""
    output = tmp_path_factory.mktemp("demo") / "petid-demo"
    return output, list(demo(output, start, size=SMALL))


def texts(lines: list[Line], kind: str) -> list[str]:
    return [line.text for line in lines if line.kind == kind]


def results_after(lines: list[Line], command: str) -> list[str]:
    """What came out of the step that shows a command."""
    (at,) = (place for place, line in enumerate(lines) if line.kind == "command" and line.text.startswith(command))
    rest = lines[at + 1 :]
    end = next(place for place, line in enumerate(rest) if line.kind == "heading")
    return texts(rest[:end], "result")


def test_every_step_names_the_command_that_does_it(run):
    commands = [" ".join(text.split()[:2]) for text in texts(run[1], "command")]
    steps = ["enroll", "identify", "verify", "explain", "train", "reindex"]
    assert commands == [f"petid {step}" for step in [*steps, "identify", "enroll"]]


def test_the_commands_are_ones_that_petid_understands(run):
    for command in texts(run[1], "command"):
        _, name, *words = command.split()
        options = [word for word in words if word.startswith("--")]
        shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
        assert shown.exit_code == 0
        assert all(option in shown.stdout for option in options), command


def test_every_probe_gets_an_answer_before_and_after_the_training(run):
    for command in (f"petid identify PHOTO --fpir {FPIR:g}", "petid reindex"):
        told = results_after(run[1], command)[:5]
        assert [line.split(":")[0].split("  ")[0] for line in told] == [
            *("Rex", "Luna", "Bella"),
            *("Felix, a stranger", "Ruby, a stranger"),
        ]
        assert all(any(word in line for word in ("match", "uncertain", "unknown")) for line in told)


def test_the_sums_are_those_of_the_answers(run):
    told = results_after(run[1], "petid identify PHOTO")
    named = [line for line in told[:3] if "match" in line]
    right = sum(line.split()[0] == line.split("match ")[1].split(":")[0] for line in named)
    assert told[5].startswith(f"Of 3 enrolled pets {right} are called by their name, {len(named) - right} by another's")
    assert told[5].endswith(f"Of 2 strangers {sum('match' in line for line in told[3:5])} are called by a name.")


def test_the_gallery_holds_the_pets_and_uses_the_trained_model(run):
    with Gallery(run[0] / "index") as gallery:
        assert gallery.count_individuals() == 10
        assert gallery.count_photos() == 30
        assert gallery.model.name == MODEL
        assert gallery.model.fingerprint == Bundle.open(run[0] / "models" / MODEL).card.fingerprint


def test_the_model_has_learnt_from_pets_that_are_neither_enrolled_nor_asked_about(run):
    names = {folder: {path.name for path in (run[0] / folder).iterdir()} for folder in ("pets", "others")}
    names["strangers"] = {path.name for path in (run[0] / "probes" / "strangers").iterdir()}
    assert [len(names[folder]) for folder in ("pets", "others", "strangers")] == [10, 6, 2]
    assert not names["others"] & (names["pets"] | names["strangers"])
    assert not names["pets"] & names["strangers"]


def test_no_probe_is_an_enrolled_photo(run):
    enrolled = {path.read_bytes() for path in (run[0] / "pets").rglob("*.jpg")}
    probes = [path.read_bytes() for path in (run[0] / "probes").rglob("*.jpg")]
    assert len(probes) == 5
    assert not enrolled & set(probes)


def test_no_model_is_left_in_the_users_home(run, home):
    assert {path.name for path in home.iterdir()} <= {"models", "thumbnails.db"}  # the cache of every training
    assert [path.name for path in (home / "models").iterdir()] == ["start"]


def test_every_picture_is_named_and_shows_something(run):
    said = [text.removeprefix("Look at ") for text in texts(run[1], "result") if text.startswith("Look at ")]
    assert [Path(text).name for text in said] == ["pets.png", "explained.png", "identified.png"]
    for text in said:
        assert np.asarray(Image.open(text)).std() > 20


def test_the_folder_says_what_lies_in_it(run):
    about = (run[0] / "README.txt").read_text()
    there = {f"{path.name}/" if path.is_dir() else path.name for path in run[0].iterdir()}
    assert there == {"README.txt", *(line.split()[0] for line in about.splitlines()[2:])}


def test_what_it_says_at_the_end_works(run, monkeypatch):
    (command,) = (text for text in texts(run[1], "command") if text.startswith("petid identify") and "index" in text)
    monkeypatch.setenv("PETID_HOME", str(run[0]))
    done = CliRunner().invoke(app, command.split()[1:])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("FPIR 0.1") == done.stdout.count("N = 10)") == 5


def test_the_command_prints_it_all(run, home, monkeypatch, tmp_path):
    told = [Line("heading", "1. A step"), Line("command", "petid enroll FOLDER"), Line("result", "It is done.")]
    asked = []
    monkeypatch.setattr(library, "demo", lambda output, bundle: asked.append((output, bundle.card.name)) or told)
    done = CliRunner().invoke(app, ["demo", "--output", str(tmp_path / "here"), "--model", "start"])
    assert done.stdout.split("\n") == ["", "1. A step", "   $ petid enroll FOLDER", "   It is done.", ""]
    assert asked == [(tmp_path / "here", "start")]


def test_a_folder_that_is_not_a_demos_is_refused(start, tmp_path):
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "mine.jpg").write_bytes(b"photo")
    (tmp_path / "README.txt").write_text("My pets.")
    with pytest.raises(DatasetError, match="is not a demo's folder: name another --output"):
        next(demo(tmp_path, start))
    assert (tmp_path / "pets" / "mine.jpg").exists()
    assert (tmp_path / "README.txt").read_text() == "My pets."


def test_a_folder_that_holds_a_model_of_the_users_own_is_not_drawn_anew(start, tmp_path):
    output = tmp_path / "demo"
    next(iter(demo(output, start, size=SMALL)))
    (output / "models" / "my-cats").mkdir(parents=True)
    with pytest.raises(DatasetError, match="a model of yours"):
        next(iter(demo(output, start, size=SMALL)))
    assert (output / "models" / "my-cats").is_dir()


def test_a_file_in_its_place_is_refused(start, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match="is not a demo's folder"):
        next(demo(tmp_path / "file", start))


def test_an_earlier_demo_is_replaced_and_what_lies_beside_it_stays(run, start, tmp_path):
    output = tmp_path / "again"
    shutil.copytree(run[0], output)
    (output / "my notes.txt").write_text("mine")
    (output / "pets" / "Old").mkdir()
    steps = demo(output, start, size=SMALL)
    assert next(steps).kind == "heading"
    steps.close()
    assert {path.name for path in output.iterdir()} == {"README.txt", "my notes.txt"}


def test_a_link_in_an_earlier_demo_is_removed_and_what_it_leads_to_stays(start, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.jpg").write_bytes(b"photo")
    output = tmp_path / "demo"
    next(demo(output, start))
    (output / "pets").symlink_to(elsewhere)
    next(demo(output, start))
    assert not (output / "pets").exists()
    assert (elsewhere / "mine.jpg").exists()


def test_a_folder_that_cannot_be_written_is_named(home, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = run_petid_bound_by_rights(tmp_path, "demo", "--output", "locked/demo")
    assert done.returncode == 1
    assert done.stderr == "petid: locked/demo cannot be written (Permission denied): name another --output.\n"


def test_a_model_by_the_name_of_a_network_is_refused_before_anything_is_written(start, tmp_path):
    namesake = replace(start, card=replace(start.card, name="tiny"))
    with pytest.raises(ModelError, match="'tiny' has the name of a network"):
        next(demo(tmp_path / "demo", namesake))
    assert not (tmp_path / "demo").exists()
