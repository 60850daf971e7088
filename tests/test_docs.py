"""The documents say what is true: their code runs, their commands exist, their list of options is today's."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import draw_animal, write_small_model
from PIL import Image

from petid_search.cli import app
from petid_search.train.config import make_config
from petid_search.train.objective import make_objective
from petid_search.train.options import given
from petid_search.train.recipe import read_recipe

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "how-to.md"]
ELSEWHERE = (
    "python3 -m venv",
    "petid models add",
    "petid models export",
    "petid train",
    "petid explain found.jpg --faith",
)
"""Commands that set up an environment, fetch weights, or take a network of the registry: `.ci/run` and other tests are
there for them, and for the options of trainings a test below."""


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def daily_life(tmp_path, monkeypatch) -> Path:
    """A folder as the documents take it for granted: dogs, a found one, two models, and the gallery."""
    for name in ("imagenet", "faces"):
        write_small_model(tmp_path / "home" / "models", name, seed=len(name))
    write_small_model(tmp_path / "home" / "models", "our-dogs", seed=5, classes=("0", "1", "2"))
    work = tmp_path / "work"
    # A hundred individuals can promise an FPIR of 1 %, as the documents ask for.
    for individual, dog in enumerate(("Rex", "Max", "Maxi", *map(str, range(97)))):
        for photo in range(3 if individual < 33 else 1):
            save(work / "dogs" / dog / f"{photo}.jpg", individual, photo)
    for place, name in enumerate(("found.jpg", "a.jpg", "b.jpg", "inbox/1.jpg")):
        save(work / name, 0, 100 + place)
    save(work / "IMG_1.jpg", 0, 200)
    shutil.copy(work / "dogs" / "Rex" / "0.jpg", work / "dogs" / "Rex" / "0-copy.jpg")
    monkeypatch.setenv("PETID_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PETID_GALLERY", raising=False)
    monkeypatch.chdir(work)
    return work


def save(file: Path, individual: int, photo: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_animal(individual, photo)).save(file)


def run(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'petid() {{ {shlex.quote(sys.executable)} -m petid_search "$@"; }}; {command}'],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ,
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_the_documents_runs(document, daily_life):
    commands = [
        line.split("#")[0].strip().removesuffix("…").strip()
        for block in blocks(document, "sh")
        for line in block.replace("&&\n", "\n").splitlines()
    ]
    commands = [command for command in commands if command.startswith("petid ") and not command.startswith(ELSEWHERE)]
    assert len(commands) >= 5
    assert run("petid enroll dogs --model imagenet").returncode == 0
    photo = run("petid show Rex").stdout.split()[0]
    shutil.copytree("index", "as-enrolled")
    for command in commands:
        if re.match(r"petid (show|rename|merge|remove|undo|purge)", command):  # each of these stands for itself
            shutil.rmtree("index")
            shutil.copytree("as-enrolled", "index")
        command = command.replace("2c677e9ba3d7", photo).replace("petid purge", "petid purge --yes")
        done = run(command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_training_of_the_documents_is_one_that_can_be_followed(document, monkeypatch):
    monkeypatch.chdir(ROOT)
    trainings = [
        line.split("#")[0].strip()
        for block in blocks(document, "sh")
        for line in block.splitlines()
        if line.startswith("petid train")
    ]
    assert trainings
    command = typer.main.get_command(app).commands["train"]
    for training in trainings:
        words = shlex.split(training)[2:]
        given_here = command.make_context("train", words).params
        recipe, folder = given_here.pop("recipe"), given_here.pop("folder")
        for other in ("output", "show_augmented", "as_json", "quiet"):
            given_here.pop(other)
        base = {} if recipe is None else read_recipe(recipe)[0]
        make_objective(make_config({**base, **given(given_here), "folder": str(folder)}))


def test_recipes_of_the_documents_are_right():
    recipes = [block for document in DOCUMENTS for block in blocks(document, "toml")]
    assert recipes
    for recipe in recipes:
        make_objective(make_config(tomllib.loads(recipe)))


def test_the_python_of_the_documents_runs(daily_life, capsys):
    # In place of the model that comes with petid: one that tells the drawn blots apart, which are no dogs.
    write_small_model(daily_life.parent / "home" / "models", "petid-dogs", seed=len("imagenet"))
    assert run("petid embed dogs --model imagenet --output dogs.npz").returncode == 0
    for document in DOCUMENTS:
        for block in blocks(document, "python"):
            namespace: dict[str, object] = {}
            exec(compile(block, str(document), "exec"), namespace)
    assert "match Rex" in capsys.readouterr().out
    similarity = namespace["similarity"]
    assert similarity.shape == (167, 167)
    np.testing.assert_allclose(np.diag(similarity), 1.0, atol=1e-5)


def test_the_list_of_options_is_what_typer_writes_today(tmp_path):
    written = tmp_path / "cli.md"
    command = ["typer", "petid_search.cli", "utils", "docs", "--name", "petid", "--output"]
    subprocess.run([sys.executable, "-m", *command, written], check=True, capture_output=True, cwd=ROOT)
    same = (ROOT / "docs" / "cli.md").read_text() == written.read_text()
    assert same, f"run: {shlex.join(command)} docs/cli.md"


def test_links_between_the_documents_lead_somewhere():
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_number_of_networks_in_the_readme_is_right():
    from petid_search.models.backbones import BACKBONES

    vggface = sum(name.startswith("vggface") for name in BACKBONES)
    assert f"Any of {len(BACKBONES)} networks" in (ROOT / "README.md").read_text().replace("\n", " ")
    assert vggface == 3


def test_every_module_is_in_the_architecture_and_every_public_name_exists():
    import petid_search

    text = (ROOT / "docs" / "architecture.md").read_text()
    for module in (ROOT / "petid_search").rglob("*.py"):
        if not module.stem.startswith("__"):
            assert f"`{module.stem}`" in text, f"docs/architecture.md does not name {module.stem}"
    assert list(petid_search.__all__) == sorted(petid_search.__all__)
    assert all(hasattr(petid_search, name) for name in petid_search.__all__)


def test_a_wheel_installs_one_name_only_and_brings_its_types(tmp_path):
    if shutil.which("hatchling") is None and not (Path(sys.executable).parent / "hatchling").exists():
        pytest.skip("hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {name.split("/")[0] for name in names} == {"petid_search", "petid_search-0.1.0.dist-info"}
    assert "petid_search/py.typed" in names
    assert "petid_search/index/gallery.py" in names
    shipped = (ROOT / "petid_search" / "models" / "shipped").rglob("*")
    assert {file.relative_to(ROOT).as_posix() for file in shipped if file.is_file()} <= set(names)
