import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import draw_animal
from PIL import Image
from typer.testing import CliRunner

from petid_search.cli import app
from petid_search.errors import RecipeError
from petid_search.train.config import Stage, TrainConfig, limits, make_config, nearest, parse_call, word
from petid_search.train.options import given, with_training_options
from petid_search.train.recipe import read_recipe, write_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
FIELDS = {one.name: one for one in dataclasses.fields(TrainConfig)}
OPTIONS = [one for name, one in FIELDS.items() if name not in ("folder", "stages")]
WIDE = {"COLUMNS": "300", "TERMINAL_WIDTH": "300"}
ORIGIN = {
    "name": "VGG16",
    "model_save_path": "out/zoo.h5",
    "dropout": 0.25,
    "activation": "softmax",
    "epochs": 7,
    "batch_size": 16,
    "verbose": 1,
    "loss_type": "categorical_crossentropy",
    "optimizer": "adam",
    "metrics": ["accuracy"],
    "include_top": False,
}


@pytest.fixture
def write(tmp_path):
    """Writes a recipe: text as TOML, a dictionary as the configurable trainer's JSON."""

    def write(content) -> Path:
        file = tmp_path / ("recipe.toml" if isinstance(content, str) else "recipe.json")
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return file

    return write


@pytest.fixture
def petid(tmp_path, monkeypatch):
    """Runs the command, in a process of its own, where `photos` holds 20 of 5 cats; what it printed."""
    monkeypatch.setenv("PETID_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PETID_GALLERY", raising=False)
    for individual in range(5):
        for photo in range(4):
            file = tmp_path / "photos" / f"cat-{individual}" / f"{photo}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_animal(individual, photo)).save(file)

    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", "petid_search", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def message(function, *arguments, **keywords) -> str:
    with pytest.raises(RecipeError) as caught:
        function(*arguments, **keywords)
    text = str(caught.value)
    assert "\n" not in text
    return text


def drawn_config(seed: int) -> TrainConfig:
    """A config with every field drawn within its bounds."""
    rng = np.random.default_rng(seed)
    number = float(rng.uniform(0.1, 0.85))
    values = {
        "folder": '/photos/Hünde\'s "best"',
        "name": "a-model",
        "weights": "random",
        "size": 64,
        "pooling": str(rng.choice(["avg", "max", "gem", "flatten"])),
        "projection": None if seed % 2 else 32,
        "dense": tuple(int(one) for one in rng.integers(1, 600, seed % 4)),
        "dropout": number,
        "batch_norm": bool(seed % 2),
        "loss": "arcface(margin=0.3, scale=20)",
        "metric_loss": "triplet-semi-hard(distance=L2)",
        "optimizer": "sgd(momentum=0.9,nesterov=true)",
        "learning_rate": number / 100,
        "metrics": ("accuracy", "top-k-categorical-accuracy(k=2)")[: seed % 3],
        "batch_size": int(rng.integers(1, 99)),
        "cache": bool(seed % 3),
        "zoom": (0.8, 1.25) if seed % 2 else (),
        "hold_out_individuals": None if seed % 2 else 0.0,
        "patience": None if seed % 2 else 3,
        "seed": 2**32 - 1 - seed,
    }
    if seed % 2:
        last = Stage(epochs=3, freeze="all-but-last-20", learning_rate=1e-5)
        stages = (
            Stage(epochs=2),
            last,
            dataclasses.replace(last, average=True),
            dataclasses.replace(last, average=True, anew=True),
        )
        values |= {"stages": stages, "freeze_norm": True, "batch_norm": False}
    else:
        values |= {"epochs": 12, "freeze": "first-7"}
    return TrainConfig(**values)


@pytest.mark.parametrize("seed", range(12))
def test_a_recipe_that_was_written_is_read_as_the_same_training(seed, tmp_path):
    config = drawn_config(seed)
    write_recipe(config, tmp_path / "recipe.toml")
    values, notes = read_recipe(tmp_path / "recipe.toml")
    assert make_config(values) == config
    assert notes == []


def test_a_recipe_that_was_written_elsewhere_still_finds_its_photos_split_and_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    paths = {"folder": "photos", "split": "earlier/split.csv", "weights": "some.npz"}
    write_recipe(TrainConfig(**paths), tmp_path / "run" / "recipe.toml")
    values, _ = read_recipe(tmp_path / "run" / "recipe.toml")
    assert values == {name: str(tmp_path / path) for name, path in paths.items()}


def test_an_empty_recipe_is_the_defaults_and_the_defaults_are_an_empty_recipe(write):
    assert make_config(read_recipe(write(""))[0]) == TrainConfig()
    assert TrainConfig().to_json() == {}


def test_words_are_written_with_hyphens_or_underscores(write):
    values, _ = read_recipe(write("batch_size = 8\nlearning-rate = 1\nmetrics = 'accuracy'"))
    config = make_config(values)
    assert (config.batch_size, config.learning_rate, config.metrics) == (8, 1.0, ("accuracy",))
    assert isinstance(config.learning_rate, float)


def test_paths_in_a_recipe_start_from_its_own_folder_and_those_of_options_from_here(write, tmp_path):
    file = write('folder = "dogs"\nweights = "w.h5"\nsplit = "/elsewhere/split.csv"')
    assert read_recipe(file)[0] == {
        "folder": str(tmp_path / "dogs"),
        "weights": str(tmp_path / "w.h5"),
        "split": "/elsewhere/split.csv",
    }
    assert read_recipe(write('weights = "random"'))[0]["weights"] == "random"
    assert make_config({"weights": "w.h5"}).weights == "w.h5"


def test_an_option_overrides_a_recipe_also_where_it_says_the_default(write):
    file = write('dropout = 0.5\npooling = "max"\ndense = [64]\nflip = true\nepochs = 3\nmetrics = ["auc"]')
    base, _ = read_recipe(file)
    unsaid = dict.fromkeys(FIELDS)
    said = {"dropout": 0.0, "pooling": "avg", "dense": "", "flip": False, "epochs": 30}
    config = make_config({**base, **given({**unsaid, **said})})
    assert config == TrainConfig(metrics=("auc",), pooling="avg")


def test_options_hold_lists_as_text_taken_apart_at_commas_outside_of_brackets():
    assert given({"dense": "512, 256,128"}) == {"dense": [512, 256, 128]}
    assert given({"zoom": "0.8,1.25"}) == {"zoom": [0.8, 1.25]}
    assert given({"metrics": "auc(curve=PR, num_thresholds=50),accuracy"}) == {
        "metrics": ["auc(curve=PR, num_thresholds=50)", "accuracy"]
    }
    assert "--dense is a list such as 512,256; '512,wide' is not." in message(given, {"dense": "512,wide"})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"bach-size": 3}, "an unknown word 'bach-size'. Did you mean 'batch-size'?"),
        ({"Learning_Rat": 3}, "Did you mean 'learning-rate'?"),
        ({"xyz": 3}, "Expected one of: folder, name, backbone, "),
        ({"pooling": "average"}, "pooling is 'average'. Did you mean 'avg'?"),
        ({"padding": "mirror"}, "padding is 'mirror'."),
        ({"sampler": "P-K"}, "Did you mean 'p-k'?"),
        ({"epochs": "many"}, "epochs must be a whole number; it is 'many'"),
        ({"epochs": 1.5}, "epochs must be a whole number; it is 1.5"),
        ({"epochs": True}, "epochs must be a whole number; it is True"),
        ({"flip": 1}, "flip must be true or false; it is 1"),
        ({"dropout": "half"}, "dropout must be a number"),
        ({"dense": [1, "x"]}, "dense must be a whole number; it is 'x'"),
        ({"name": 7}, "name must be text; it is 7"),
        ({"epochs": 0}, "epochs must be 1 or more; it is 0"),
        ({"dropout": 1.0}, "dropout must be between 0.0 and 0.95; it is 1.0"),
        ({"dropout": float("nan")}, "dropout must be between 0.0 and 0.95; it is nan"),
        ({"metric-weight": float("inf")}, "metric-weight must be 0.0 or more; it is inf"),
        ({"dense": [128, 0]}, "dense must be 1 or more; it is 0"),
        ({"seed": 2**32}, "seed must be between 0 and 4294967295"),
        ({"learning-rate": 0}, "learning-rate must be over 0"),
        ({"zoom": [1.0]}, "zoom is two factors, the smaller one first, as in 0.8,1.25; it is [1.0]"),
        ({"zoom": [1.2, 0.8]}, "zoom is two factors, the smaller one first"),
        ({"zoom": [0.0, 1.0]}, "zoom must be between 0.1 and 10.0; it is 0.0"),
        ({"freeze": "half"}, "freeze is none, all, first-N or all-but-last-N with a number for N; it is 'half'"),
        ({"freeze": "first--3"}, "freeze is none, all, first-N"),
        ({"loss": "none"}, "There is no loss to train with: name a loss or a metric-loss."),
        ({"keep-share": 0.4}, "keep-share goes with keep: name a layer"),
        ({"stages": 3}, "stages must be a list"),
        ({"stages": [3]}, "each of the stages is a table: epochs, and freeze, learning-rate, average or anew"),
        ({"stages": [{"freeze": "all"}]}, "a stage lacks its epochs"),
        ({"stages": [{"epochs": 0}]}, "A stage needs 1 epoch or more"),
        ({"stages": [{"epochs": 1, "learning-rate": 0}]}, "a learning-rate over 0"),
        ({"stages": [{"epochs": 1, "learning-rate": float("inf")}]}, "a learning-rate over 0"),
        ({"stages": [{"epochs": 1, "freeze": "some"}]}, "it is 'some'"),
        ({"stages": [{"epochs": 1, "freez": "all"}]}, "a stage has an unknown word 'freez'. Did you mean 'freeze'?"),
        ({"stages": [{"epochs": 1, "average": True}], "freeze-norm": True}, "the first has none: leave it out there"),
        ({"stages": [{"epochs": 1}, {"epochs": 1, "average": True}]}, "add freeze-norm"),
        (
            {
                "stages": [{"epochs": 1}, {"epochs": 1, "average": True}],
                "freeze-norm": True,
                "batch-norm": True,
                "dense": [8],
            },
            "add freeze-norm, no batch-norm",
        ),
        ({"stages": [{"epochs": 1, "average": 1}]}, "average must be true or false"),
        (
            {"stages": [{"epochs": 1}, {"epochs": 1, "freeze": "none", "anew": True}]},
            "so not of the first: add average",
        ),
        ({"stages": [{"epochs": 1}], "epochs": 30}, "leave out epochs, or the stages"),
        ({"stages": [{"epochs": 1}], "freeze": "none"}, "leave out freeze, or the stages"),
    ],
)
def test_a_wrong_word_or_value_is_refused_in_a_line_that_names_the_right_one(values, expected):
    text = message(make_config, values, source="my.toml")
    assert text.startswith("my.toml")
    assert expected in text


def test_a_config_made_in_python_keeps_epochs_and_stages_apart_too():
    text = message(TrainConfig, stages=(Stage(epochs=1),), epochs=3)
    assert text == "Each of the stages has epochs and freeze of its own: leave out epochs, or the stages."


def test_a_training_without_stages_is_one_stage():
    assert TrainConfig(epochs=4, freeze="none").plan == (Stage(epochs=4, freeze="none"),)
    stages = (Stage(epochs=1), Stage(epochs=2, freeze="none"))
    assert TrainConfig(stages=stages).plan == stages


def test_the_nearest_word_is_found_whatever_its_case():
    assert nearest("VGG_17", ["VGG16", "Xception"]) == "Did you mean 'VGG16'?"
    assert nearest("qqq", ["VGG16", "Xception"]) == "Expected one of: VGG16, Xception."


def test_a_name_with_parameters_is_taken_apart():
    assert parse_call("adam") == ("adam", {})
    assert parse_call(" sgd( momentum = 0.9, nesterov=True ) ") == ("sgd", {"momentum": 0.9, "nesterov": True})
    assert parse_call("x(a=1, b=1e-3, c=None, d='L2', e=squared-L2)") == (
        "x",
        {"a": 1, "b": 0.001, "c": None, "d": "L2", "e": "squared-L2"},
    )
    for text, expected in (
        ("sgd(0.9)", "'0.9' is not a parameter: write it as key=value"),
        ("sgd(=0.9)", "is not a parameter"),
        ("sgd(momentum=0.9", "is not a name, or a name with parameters in brackets"),
        ("sgd(momentum=0.9))", "is not a name, or a name with parameters in brackets"),
        ("sgd(momentum=0.9, momentum=0.5)", "momentum is given twice: leave one out"),
        ("", "is not a name"),
    ):
        assert expected in message(parse_call, text)


def test_a_file_that_is_no_recipe_is_refused_in_a_line(write, tmp_path):
    assert "cannot be read (No such file or directory): check the name" in message(read_recipe, tmp_path / "no.toml")
    assert "cannot be read" in message(read_recipe, tmp_path)
    assert "is not TOML" in message(read_recipe, write("epochs: 3"))
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"\xff\xfe")
    assert "it is not UTF-8" in message(read_recipe, broken)
    assert "unknown word 'epoch'. Did you mean 'epochs'?" in message(read_recipe, write("epoch = 3"))
    file = write({})
    file.write_text("{")
    assert "is not JSON" in message(read_recipe, file)
    file.write_text("[]")
    assert "is not a JSON object" in message(read_recipe, file)


def test_the_json_of_the_configurable_trainer_is_read_as_it_is(write):
    values, notes = read_recipe(write(ORIGIN))
    assert make_config(values) == TrainConfig(
        name="zoo",
        backbone="vgg16",
        dropout=0.25,
        epochs=7,
        batch_size=16,
        loss="categorical_crossentropy",
        metrics=("accuracy",),
        schedule="constant",
        warmup=0.0,
    )
    assert [note.split()[0] for note in notes] == ["verbose", "model_save_path"]


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"name": "vgg16"}, "backbone", "vgg16"),
        ({"name": "InceptionResNetV2"}, "backbone", "inceptionresnetv2"),
        ({"name": "resnet50.ResNet50"}, "backbone", "resnet50"),
        ({"name": "EfficientNetV2B0"}, "backbone", "efficientnetv2-b0"),
        ({"name": "efficientnetv2-b0"}, "backbone", "efficientnetv2-b0"),
        ({"metrics": "accuracy"}, "metrics", ("accuracy",)),
        ({"metrics": []}, "metrics", ()),
        ({"metrics": None}, "metrics", ()),
        ({"loss_type": "SparseCategoricalCrossentropy"}, "loss", "SparseCategoricalCrossentropy"),
        ({"optimizer": "RMSprop"}, "optimizer", "RMSprop"),
        ({"activation": "sigmoid"}, "output_activation", "sigmoid"),
        ({"dropout": 0}, "dropout", 0.0),
        ({"model_save_path": "saved/models"}, "name", "models"),
        ({"model_save_path": ""}, "name", None),
    ],
)
def test_the_trainers_json_is_understood_in_its_odd_spellings(change, field, expected, write):
    values, _ = read_recipe(write({**ORIGIN, **change}))
    assert getattr(make_config(values), field) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "ResNet50V2"}, "the network 'ResNet50V2', which petid does not have. Did you mean 'ResNet50'?"),
        ({"name": "xceptoin"}, "Did you mean 'Xception'?"),
        ({"name": 3}, "Expected one of: VGG16, "),
        ({"lose_type": "mse"}, "unknown word 'lose_type'. Did you mean 'loss_type'?"),
        ({"epochs": "7"}, "epochs must be a whole number; it is '7'"),
        ({"dropout": 1.5}, "dropout must be between 0.0 and 0.95"),
        ({"metrics": {"a": 1}}, "metrics must be text"),
    ],
)
def test_what_is_wrong_in_the_trainers_json_is_said(change, expected, write):
    assert expected in message(read_recipe, write({**ORIGIN, **change}))


def test_the_trainers_own_top_is_not_taken_and_that_is_said(write):
    _, notes = read_recipe(write({**ORIGIN, "include_top": True}))
    assert any(note.startswith("include_top is true") for note in notes)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"loss": "arcfase"}, "Did you mean 'arcface'?"),
        ({"loss": "categorical_crossentropi"}, "Did you mean 'CategoricalCrossentropy'?"),
        ({"loss": "triplet-hard"}, "triplet-hard is a loss of embeddings: give it as metric-loss."),
        ({"metric-loss": "arcface"}, "arcface is a loss of cosines: give it as loss."),
        ({"loss": "arcface(name=a)"}, "arcface has no parameter 'name'"),
        ({"metric-loss": "triplet-hard(margn=1)"}, "Did you mean 'margin'?"),
        ({"optimizer": "adamm"}, "Did you mean 'Adam'?"),
        ({"optimizer": "sgd(learning_rate=0.1)"}, "it has a word of its own, learning-rate"),
        ({"loss": "mse", "activation": "relo"}, "Did you mean 'relu'?"),
        ({"loss": "mse", "output-activation": "relu"}, "A classifier ends with softmax, sigmoid or hard_sigmoid"),
        ({"loss": "mse", "metrics": ["acuracy"]}, "Did you mean 'accuracy'?"),
        ({"loss": "mse", "metrics": ["top-k-categorical-accuracy(q=5)"]}, "has no parameter 'q'"),
        ({"loss": "mse", "metrics": ["mean-iou(classes=3)"]}, "leave out classes: the photos tell"),
        ({"loss": "none", "metric-loss": "supcon", "metrics": ["accuracy"]}, "metrics are of a classifier's scores"),
        ({"dense": [64]}, "arcface trains a classifier that stands on the embedding itself"),
        ({"loss": "none", "metric-loss": "supcon", "dense": [64]}, "belong to a classifier: name a loss for it"),
        ({"loss": "mse", "batch-norm": True}, "Batch normalisation stands behind a dense layer"),
    ],
)
def test_names_of_keras_are_checked_before_the_training_and_the_nearest_is_named(words, expected):
    from petid_search.train.objective import make_objective

    config = make_config(words)
    assert expected in message(make_objective, config)


def options_of_train() -> dict[str, object]:
    command = typer.main.get_command(app).commands["train"]
    return {one.name: one for one in command.params}


@pytest.mark.parametrize("one", OPTIONS, ids=lambda one: one.name)
def test_every_field_is_an_option_of_the_same_word_with_its_help_and_bounds(one):
    option = options_of_train()[one.name]
    assert f"--{word(one.name)}" in option.opts
    assert option.default is None
    assert option.help.startswith(one.metadata["help"])
    if one.name in ("dense", "zoom"):
        assert limits(one) in option.help
        return
    beyond = [one.metadata[end] + step for end, step in (("min", -1), ("max", 1)) if end in one.metadata]
    for value in beyond:
        result = CliRunner().invoke(app, ["train", f"--{word(one.name)}={value}"], env=WIDE)
        assert result.exit_code == 2
        assert f"Invalid value for '--{word(one.name)}'" in result.output


def test_the_help_of_train_lists_every_option_and_its_bounds():
    text = CliRunner().invoke(app, ["train", "--help"], env=WIDE).output
    for one in OPTIONS:
        assert f"--{word(one.name)}" in text
    assert "0.0<=x<=0.95" in text
    assert "Each between 0.1 and 10.0." in text


def test_options_arrive_by_the_names_of_fields_and_those_not_given_not_at_all():
    caught = {}
    probe = typer.Typer()

    @probe.command()
    @with_training_options
    def command(folder: str | None = None, **options):
        caught.update(given(options), folder=folder)

    arguments = ["--folder", "x", "--no-flip", "--dropout", "0", "--pooling", "gem", "--dense", "8,4", "--seed", "0"]
    result = CliRunner().invoke(probe, arguments)
    assert result.exit_code == 0, result.output
    assert caught == {"folder": "x", "flip": False, "dropout": 0.0, "pooling": "gem", "dense": [8, 4], "seed": 0}


# The recipes that petid brings.

TOML = sorted(RECIPES.glob("*.toml"))
SMALL = {"vgg16": 48, "vggface-vgg16": 48, "inceptionv3": 75, "mobilenetv2": 64}
"""Sides at which networks are trained here, in pixels; of the others 64."""


def test_there_is_a_recipe_for_each_origin_system():
    assert {file.name for file in RECIPES.iterdir()} >= {
        *(f"dog-identifier-{one}.toml" for one in ("vgg16", "resnet50", "senet50", "triplet")),
        *("cat-breeds.toml", "cats-and-dogs.toml", "zoo-trainer.json", "zoo-trainer.toml"),
    }


@pytest.mark.parametrize("file", TOML, ids=lambda file: file.stem)
def test_a_recipes_first_line_is_a_command_that_is_understood(file, monkeypatch, tmp_path):
    first = file.read_text().splitlines()[0].removeprefix("# ")
    arguments = shlex.split(first)
    assert arguments[:2] == ["petid", "train"]
    assert arguments[-1] == f"recipes/{file.name}"
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.setenv("PETID_HOME", str(tmp_path))
    # The folder of the line is only a word: that it is missing is found last, after all that the recipe says.
    result = CliRunner().invoke(app, [*arguments[1:], "--output", str(tmp_path / "run")])
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1,
        "petid: There is no folder FOLDER: name one with a sub-folder for each class.",
    )


@pytest.mark.parametrize("file", TOML, ids=lambda file: file.stem)
def test_a_recipe_names_no_folder_and_says_what_it_repeats_and_where_it_departs(file):
    values, notes = read_recipe(file)
    assert not {"folder", "weights", "split"} & values.keys()
    assert notes == []
    comment = "".join(re.findall(r"^# .*\n", file.read_text(), re.MULTILINE))
    assert "Repeats" in comment
    assert "Departs on purpose" in comment


def test_the_zoo_trainer_is_the_same_in_its_json_and_in_petids_words():
    json_values, _ = read_recipe(RECIPES / "zoo-trainer.json")
    toml_values, _ = read_recipe(RECIPES / "zoo-trainer.toml")
    assert json_values == toml_values


@pytest.mark.parametrize(
    "recipe",
    [
        "zoo-trainer.json",
        *(
            pytest.param(file.name, marks=pytest.mark.slow)
            for file in TOML
            # The JSON's values, see above; and a model that is stored without its classifier, see below.
            if file.stem not in ("zoo-trainer", "petid-dogs")
        ),
    ],
)
def test_a_recipe_trains_a_model_that_classifies_and_enrolls(recipe, petid, tmp_path):
    """The real network, the real command, a process of its own: what a large one takes of memory ends with it."""
    values, _ = read_recipe(RECIPES / recipe)
    size = SMALL.get(values.get("backbone", "mobilenetv2"), 64)
    used, options = RECIPES / recipe, ["--epochs", "1"]
    if "stages" in values:
        used, options = tmp_path / recipe, []
        used.write_text(re.sub(r"^epochs = \d+$", "epochs = 1", (RECIPES / recipe).read_text(), flags=re.MULTILINE))

    trained = json.loads(
        petid("train", "photos", "--recipe", used, "--weights", "random", "--size", size, "--name", "m", "--json",
              *options)
    )  # fmt: skip
    assert 0 <= trained["val_accuracy"] <= 1
    answer = json.loads(petid("classify", "photos/cat-0/0.png", "--json"))
    classes = {f"cat-{individual}" for individual in range(5)}
    if "hold-out-individuals" in values:
        assert 0 <= trained["mAP"] <= 1
        assert len(answer["scores"]) == 3
        assert set(answer["scores"]) < classes
    else:
        assert set(answer["scores"]) == classes
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-4)
    petid("enroll", "photos", "--model", "m", "--quiet")
    assert "cat-4" in petid("list")
    report = json.loads((tmp_path / trained["output"] / "report.json").read_text())
    assert report["recipe"]["loss"] == values["loss"]


@pytest.mark.slow
def test_the_recipe_of_petid_dogs_trains_a_model_that_enrolls_and_identifies(petid, tmp_path):
    used = tmp_path / "petid-dogs.toml"
    text = (RECIPES / "petid-dogs.toml").read_text()
    used.write_text(re.sub(r"^epochs = \d+$", "epochs = 1", text, flags=re.MULTILINE))

    trained = json.loads(
        petid("train", "photos", "--recipe", used, "--weights", "random", "--size", 64, "--embed-size", 96,
              "--projection", 6, "--name", "m", "--json")
    )  # fmt: skip
    assert 0 <= trained["mAP"] <= 1
    card = json.loads(petid("models", "show", "m", "--json"))
    assert (card["input_size"], card["classes"], card["dimension"]) == (96, [], 12)
    assert card["head"]["kept"]["after"] == "block_5_add"  # the last layer of those frozen that all others stand on
    petid("enroll", "photos/cat-0", "--model", "m")
    (answer,) = map(json.loads, petid("identify", "photos/cat-0/0.png", "--json").splitlines())
    assert answer["candidates"][0]["individual"] == "cat-0"
