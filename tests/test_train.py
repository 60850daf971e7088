"""Training as a whole: the same for the same config, however often it is broken off; and what comes of it is used."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_animal
from PIL import Image
from tiny_network import registered

from petid_search.calibrate import Carried
from petid_search.dataset import read_manifest
from petid_search.dataset.split_file import read_split
from petid_search.errors import DatasetError, ModelError, RecipeError
from petid_search.evaluate import evaluate
from petid_search.images import open_image
from petid_search.models.backbones import import_keras
from petid_search.models.runtime import Embedder
from petid_search.train.checkpoint import load
from petid_search.train.config import Stage, TrainConfig
from petid_search.train.training import Trained, Watch, train
from petid_search.train.validation import Kept, retrieval

keras = import_keras()

STAGES = (Stage(epochs=3), Stage(epochs=3, freeze="all-but-last-6", learning_rate=0.002))


def draw_photos(folder, individuals=6, photos=6, size=48):
    for individual in range(individuals):
        (folder / f"animal {individual}").mkdir(parents=True)
        for photo in range(photos):
            Image.fromarray(draw_animal(individual, photo, size)).save(folder / f"animal {individual}" / f"{photo}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """36 photos of 6 animals."""
    return draw_photos(tmp_path_factory.mktemp("drawn") / "photos")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PETID_HOME", str(tmp_path / "home"))
    with registered():
        yield tmp_path / "home"


@pytest.fixture
def trained(photos, tmp_path):
    """Trains the tiny network, as it is told."""

    def run(name="model", *, watch=None, output=None, **config) -> Trained:
        about = {"backbone": "tiny", "weights": "random", "projection": 8, "batch_size": 8, "learning_rate": 0.01}
        about |= {"folder": str(photos), "name": name, **config}
        about |= {} if "stages" in about else {"epochs": about.get("epochs", 3)}
        return train(
            TrainConfig(**about), output=output or tmp_path / name, watch=watch, seconds_between_checkpoints=0.0
        )

    return run


class BrokenOff(Exception):
    pass


def breaking_off_after(epoch):
    def told(entry):
        if entry["epoch"] == epoch:
            raise BrokenOff

    return Watch(epoch=told)


def measured(result: Trained):
    """The history without what depends on the clock."""
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in result.report["history"]]


def weights(result: Trained):
    from petid_search.models.bundle import load_keras

    return load_keras(result.bundle).get_weights()


def are_equal(some, others):
    return all(np.array_equal(*pair) for pair in zip(some, others, strict=True))


def assert_near(history, other, tolerance=1e-4):
    assert len(history) == len(other)
    for entry, twin in zip(history, other, strict=True):
        assert entry.keys() == twin.keys()
        for name, value in entry.items():
            assert twin[name] == (value if isinstance(value, str) else pytest.approx(value, abs=tolerance)), name


def test_the_cached_way_gives_what_the_uncached_gives(trained):
    told = []
    cached = trained("cached", watch=Watch(doing=lambda what, *_: told.append(what)))
    assert "Passing photos through the backbone" in told
    told.clear()
    uncached = trained("uncached", cache=False, watch=Watch(doing=lambda what, *_: told.append(what)))
    assert "Passing photos through the backbone" not in told
    assert_near(measured(cached), measured(uncached))
    for some, other in zip(weights(cached), weights(uncached), strict=True):
        assert np.allclose(some, other, atol=1e-4)


def test_the_same_config_gives_the_same_weights_and_another_seed_others(trained):
    config = {"rotation": 15.0, "flip": True, "freeze": "all-but-last-6", "dropout": 0.3}
    config |= {"loss": "categorical_crossentropy", "metrics": ("top_k_categorical_accuracy(k=2)",), "epochs": 2}
    first, again, other = trained("first", **config), trained("again", **config), trained("other", seed=1, **config)
    assert measured(first) == measured(again)
    assert are_equal(weights(first), weights(again))
    assert not are_equal(weights(first), weights(other))
    assert {"loss", "val_loss", "val_accuracy", "val_TopKCategoricalAccuracy"} <= measured(first)[0].keys()
    assert first.bundle.card.fingerprint == again.bundle.card.fingerprint


def test_an_epochs_loss_is_the_mean_over_its_photos(trained):
    steps = []
    result = trained(epochs=2, learning_rate=1e-12, sampler="shuffled", watch=Watch(step=steps.append))
    first, second = (entry["loss"] for entry in result.report["history"])
    assert first == pytest.approx(second, rel=1e-4), "the photos are the same, in another order"
    assert steps[0].measured["loss"] != pytest.approx(first, rel=1e-3)


def test_broken_off_after_any_epoch_it_ends_with_the_same(trained, tmp_path):
    config = {"stages": STAGES, "patience": 2, "monitor": "mAP", "rotation": 10.0, "variants": 2}
    whole = trained("whole", **config)
    expected = measured(whole)
    for epoch in range(1, len(expected) + 1):
        with pytest.raises(BrokenOff):
            trained("broken", watch=breaking_off_after(epoch), **config)
    again = trained("broken", **config)
    assert measured(again) == expected
    assert are_equal(weights(again), weights(whole))
    assert not (tmp_path / "broken" / "checkpoint.npz").exists()
    assert not (tmp_path / "broken" / "cache").exists()


def test_a_stage_that_was_stopped_early_is_over_after_a_resume_too(trained):
    # The accuracy on photos of one colour is 1 from the first epoch on: the first stage is stopped after two.
    config = {"stages": (Stage(epochs=6), Stage(epochs=2, freeze="none")), "patience": 1, "learning_rate": 1e-9}
    whole = trained("whole", **config)
    stages = [entry["stage"][0] for entry in whole.report["history"]]
    assert "2" in stages
    assert stages.count("1") < 6
    for epoch in (stages.count("1"), stages.count("1") + 1):
        with pytest.raises(BrokenOff):
            trained("broken", watch=breaking_off_after(epoch), **config)
    again = trained("broken", **config)
    assert measured(again) == measured(whole)
    assert are_equal(weights(again), weights(whole))


LEARNS = Stage(epochs=2, freeze="all-but-last-6", learning_rate=0.002)
AVERAGES = replace(LEARNS, average=True)
ANEW = replace(AVERAGES, anew=True)


def weights_after_each_stage(trained, name, stages):
    """What the checkpoint holds at the end of each stage: what the next one begins with where nothing is monitored."""
    ends = set(np.cumsum([stage.epochs for stage in stages]))
    kept = []

    def keep(entry):
        if entry["epoch"] in ends:
            kept.append(load(output / "checkpoint.npz").weights)

    output = Path(os.environ["PETID_HOME"]).parent / name
    trained(name, watch=Watch(epoch=keep), output=output, stages=stages, freeze_norm=True, monitor="none")
    return kept


def test_a_stage_that_averages_ends_with_the_mean_of_its_weights_and_those_it_began_with(trained):
    start, mean = weights_after_each_stage(trained, "averaged", (LEARNS, AVERAGES))
    twin, reached = weights_after_each_stage(trained, "not", (LEARNS, LEARNS))
    assert are_equal(start, twin)
    assert not are_equal(mean, reached)
    for one, other, expected in zip(start, reached, mean, strict=True):
        np.testing.assert_allclose((one + other) / 2, expected, atol=1e-6)


def test_where_several_stages_average_each_has_the_same_weight(trained):
    first, second, third = weights_after_each_stage(trained, "thrice", (LEARNS, AVERAGES, AVERAGES))
    *same, reached = weights_after_each_stage(trained, "twice", (LEARNS, AVERAGES, LEARNS))
    assert are_equal([*first, *second], [*same[0], *same[1]])
    for one, other, expected in zip(second, reached, third, strict=True):
        np.testing.assert_allclose((2 * one + other) / 3, expected, atol=1e-6)


def test_a_stage_begins_anew_with_the_network_of_the_start_and_each_such_run_has_the_same_weight(trained):
    still = {"learning_rate": 1e-20}  # so little that no weight changes
    (start,) = weights_after_each_stage(trained, "start", (replace(LEARNS, **still),))
    _, before, mean, last = weights_after_each_stage(
        trained, "anew", (LEARNS, AVERAGES, replace(ANEW, **still), replace(ANEW, **still))
    )
    head = len(start) - 3  # the projection's two and the class centres go on from where they were
    moved = 0
    for place, (one, two, three, four) in enumerate(zip(start, before, mean, last, strict=True)):
        if place >= head:
            np.testing.assert_array_equal(two, three)
        else:
            moved += not np.array_equal(one, two)
            np.testing.assert_allclose(three, (one + two) / 2, atol=1e-6)
            np.testing.assert_allclose(four, (one + 2 * three) / 3, atol=1e-6)
    assert moved


def test_what_averages_is_measured_and_chosen_by_its_mean_and_learns_on_from_where_it_was(trained):
    config = {"freeze_norm": True, "monitor": "mAP"}
    longer = replace(AVERAGES, epochs=3)
    averaged, plain = (
        trained(f"{one.average}", stages=(LEARNS, one), **config) for one in (longer, replace(longer, average=False))
    )
    losses = [[entry["loss"] for entry in measured(result)] for result in (averaged, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4), "each epoch begins where the one before ended"
    figures = [[entry["mAP"] for entry in measured(result)] for result in (averaged, plain)]
    assert figures[0] != figures[1], "what is measured is the mean"
    best = max(entry["mAP"] for entry in measured(averaged))
    assert averaged.report["figures"]["mAP"] == pytest.approx(best, abs=1e-6)


def test_broken_off_while_it_averages_it_ends_with_the_same(trained):
    for monitor in ("mAP", "none"):
        config = {"stages": (LEARNS, AVERAGES, ANEW), "freeze_norm": True, "monitor": monitor, "cache": False}
        whole = trained(f"whole-{monitor}", **config)
        for epoch in (3, 4, 5):
            with pytest.raises(BrokenOff):
                trained(f"broken-{monitor}", watch=breaking_off_after(epoch), **config)
        again = trained(f"broken-{monitor}", **config)
        assert measured(again) == measured(whole)
        assert are_equal(weights(again), weights(whole))
    stages = [entry["stage"] for entry in whole.report["history"]]
    how = "freeze all-but-last-6"
    assert stages[::2] == [f"1: {how}", f"2: {how}, average", f"3: {how}, average, anew"]


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        ("all", "Stage 2 begins anew, and its freeze = 'all' leaves nothing"),
        ("all-but-last-0", "Stage 2 begins anew"),
        ("first-999", "tiny has 14 layers: freeze cannot be first-999"),
    ],
)
def test_a_freeze_that_no_later_stage_can_have_is_told_before_anything_is_trained(trained, freeze, said):
    epochs = []
    with pytest.raises(RecipeError, match=said):
        trained(watch=Watch(epoch=epochs.append), stages=(LEARNS, replace(ANEW, freeze=freeze)), freeze_norm=True)
    assert not epochs


def test_what_was_frozen_moves_in_the_second_stage_only_at_its_own_rate(trained, tmp_path):
    kept = {}

    def keep(entry):
        kept[entry["epoch"]] = load(tmp_path / "model" / "checkpoint.npz").weights

    result = trained(stages=STAGES, watch=Watch(epoch=keep), monitor="none", schedule="constant", warmup=0.0)
    names = [weight.path for weight in _model(result).weights]

    def moved(before, after):
        pairs = zip(names, kept[before], kept[after], strict=True)
        return {
            name.rpartition("/")[0].rpartition("/")[2] for name, one, other in pairs if not np.array_equal(one, other)
        }

    assert moved(1, 3) == {"projection", "cosines"}
    assert moved(3, 5) == {"projection", "cosines", "conv_3", "conv_3_bn", "conv_4", "conv_4_bn"}
    assert [entry["learning_rate"] for entry in result.report["history"]] == [0.01] * 3 + [0.002] * 3


def found_by(result: Trained, photos: Path) -> dict[str, float]:
    """Retrieval of those held out by the bundle itself, from their photos."""
    split = read_split(result.output / "split.csv")
    held_out = [one for one in split.photos if one.role == "held out"]
    size = result.bundle.card.input_size
    images = np.stack([open_image(photos / one.photo, size) for one in held_out])
    _, owners = np.unique([one.individual for one in held_out], return_inverse=True)
    everyone = np.arange(len(held_out))
    kept = Kept(np.empty(0, np.int64), np.empty(0, np.int64), everyone, owners, everyone)
    return retrieval(Embedder(result.bundle).embed(images), kept)


def _model(result):
    from petid_search.models.bundle import load_keras

    return load_keras(result.bundle)


def test_early_stopping_gives_back_the_best_epoch(trained, photos):
    result = trained("model", epochs=40, patience=3, learning_rate=0.3, freeze="none", schedule="constant", warmup=0.0)
    report = result.report
    values = [entry["mAP"] for entry in report["history"]]
    assert len(values) < 40
    best = report["best_epoch"]
    assert values[best - 1] == max(values)
    assert len(values) >= best + 3 or values[best:] == [max(values)] * (len(values) - best)
    assert report["figures"]["mAP"] == pytest.approx(values[best - 1])
    found = found_by(result, photos)
    assert found["mAP"] == pytest.approx(values[best - 1], abs=1e-3)


def test_the_model_carries_a_calibration_measured_on_those_held_out(trained, photos, petid):
    result = trained("carrying", hold_out_individuals=0.5)
    split = read_split(result.output / "split.csv")
    held_out = [one for one in split.photos if one.role == "held out"]
    embeddings = Embedder(result.bundle).embed(np.stack([open_image(photos / one.photo, 48) for one in held_out]))
    _, owners = np.unique([one.individual for one in held_out], return_inverse=True)
    expected = Carried.measure(embeddings, owners, np.arange(len(owners)), data="photos")
    carried = Carried.from_json(result.bundle.card.calibration)
    assert (carried.data, carried.individuals, carried.photos) == ("photos", 3, 18)
    assert carried.rates == expected.rates == (0.25, 0.3, 0.5)
    assert carried.thresholds == pytest.approx(expected.thresholds, abs=2e-3)
    assert petid("enroll", photos / "animal 1" / "0.png", "--as", "Rex", "--model", "carrying").returncode == 0
    said = petid("identify", photos / "animal 1" / "1.png", "--fpir", "0.25", "--json")
    answer = json.loads(said.stdout)
    assert (answer["calibration"], answer["calibrated_on"], answer["gallery_size"]) == ("model", 3, 1)
    assert answer["threshold"] == carried.threshold(0.25, size=1, photos_each=1.0)


def test_a_blend_lies_between_what_the_network_was_and_what_it_learnt(trained):
    config = {"freeze": "none", "freeze_norm": True, "monitor": "none"}
    before = trained("before", blend=0.0, **config)
    half = trained("half", blend=0.5, **config)
    learnt = trained("learnt", **config)
    names = [weight.path for weight in _model(learnt).weights]
    for name, start, middle, end in zip(names, *map(weights, (before, half, learnt)), strict=True):
        head = name.startswith(("projection", "cosines"))
        assert np.allclose(middle, end if head else (start + end) / 2, atol=1e-6), name
    assert not are_equal(weights(before), weights(learnt))
    with pytest.raises(RecipeError, match="add freeze-norm"):
        trained("refused", blend=0.5)


def test_the_finished_model_takes_larger_photos_and_is_measured_on_them(trained, photos):
    same = trained("same")
    larger = trained("larger", embed_size=64)
    assert not (larger.output / "cache").exists()
    with pytest.raises(RecipeError, match="leave out embed-size"):
        trained("flat", loss="categorical_crossentropy", pooling="flatten", projection=None, embed_size=64)
    assert larger.bundle.card.input_size == 64
    assert are_equal(weights(same), weights(larger))
    found = found_by(larger, photos)
    assert larger.report["figures"]["mAP"] == pytest.approx(found["mAP"], abs=1e-3)


def test_a_plateau_brings_the_learning_rate_down(trained):
    result = trained(epochs=6, schedule="plateau", warmup=0.0, patience=4, monitor="rank_1", learning_rate=1e-9)
    rates = [entry["learning_rate"] for entry in result.report["history"]]
    assert rates[0] == 1e-9
    assert rates[-1] == pytest.approx(0.3e-9)


def test_of_equally_good_epochs_the_last_is_kept(trained):
    # Retrieval stands still where nothing moves enough to be seen, the classifier learns on.
    result = trained(learning_rate=1e-9)
    assert len({entry["mAP"] for entry in result.report["history"]}) == 1
    assert result.report["best_epoch"] == 3


def test_an_embedding_that_learns_has_a_projection_to_learn_by(trained):
    assert trained(projection=None).bundle.card.head.projection == 512


def test_features_belong_to_the_weights_that_made_them(trained):
    stages = (Stage(epochs=1), Stage(epochs=1, freeze="none"), Stage(epochs=1))
    config = {"stages": stages, "learning_rate": 0.05, "monitor": "none"}
    assert_near(measured(trained("cached", **config)), measured(trained("uncached", cache=False, **config)))


def test_classes_of_one_photo_are_trained_on_and_said(trained, tmp_path):
    folder = draw_photos(tmp_path / "few", 5, 3)
    for number in (0, 1):
        for photo in (1, 2):
            (folder / f"animal {number}" / f"{photo}.png").unlink()
    notes = []
    config = {"folder": str(folder), "loss": "none", "metric_loss": "triplet-hard", "photos_per_individual": 2}
    trained(watch=Watch(note=notes.append), epochs=1, hold_out_individuals=0.4, **config)
    assert any("2 of 3 individuals have fewer" in note or "(2 have one)" in note for note in notes)
    scores = trained("scores", folder=str(folder), loss="categorical_crossentropy", projection=None, epochs=1)
    assert scores.bundle.card.classes == tuple(f"animal {number}" for number in range(5))


def test_photos_that_cannot_be_decoded_are_named_and_left_out(trained, tmp_path):
    folder = draw_photos(tmp_path / "broken photos", 4, 5)
    broken = folder / "animal 1" / "2.png"
    broken.write_bytes(broken.read_bytes()[:300])
    problems = []
    result = trained(
        folder=str(folder), loss="categorical_crossentropy", epochs=1, watch=Watch(problem=problems.append)
    )
    assert [str(broken) in str(one) for one in problems] == [True]
    assert result.bundle.card.classes == tuple(f"animal {number}" for number in range(4))


def test_a_training_goes_on_from_a_model_and_inherits_its_head(trained, tmp_path):
    first = trained("first", pooling="max", epochs=2, loss="categorical_crossentropy", hold_out_individuals=0.0)
    same = {"backbone": "first", "weights": None, "projection": None, "hold_out_individuals": 0.0}
    second = trained("second", epochs=1, loss="categorical_crossentropy", learning_rate=1e-12, **same)
    assert second.bundle.card.head == first.bundle.card.head
    for one, other in zip(weights(second), weights(first), strict=True):
        assert np.allclose(one, other, atol=1e-6)
    assert "the model first" in second.bundle.card.origin
    assert first.bundle.card.data in second.bundle.card.data
    folder = draw_photos(tmp_path / "others", 4, 5)
    (folder / "animal 3").rename(folder / "new animal")
    third = trained("third", folder=str(folder), epochs=1, loss="categorical_crossentropy", learning_rate=1e-12, **same)
    by_name = {weight.path: np.asarray(weight) for weight in _model(third).weights}
    for weight in _model(first).weights:
        if weight.path.startswith("classifier"):  # of four others
            assert by_name[weight.path].shape[-1] == 4
        else:
            assert np.allclose(by_name[weight.path], weight, atol=1e-6), weight.path


def test_what_was_trained_is_used_at_once(trained, photos, petid):
    result = trained("herd", loss="categorical_crossentropy", epochs=30)
    card = result.bundle.card
    paths = {"folder": photos.name}  # where the photos lay stays at home
    assert card.recipe == result.report["recipe"] | paths
    split = read_split(result.output / "split.csv")
    assert {one.photo for one in split.photos} == {one.name for one in read_manifest(photos)}
    assert "photos of 6 individuals in photos" in card.data
    assert "CC0-1.0" in card.licence or "what it was trained on" in card.licence
    assert card.metrics["photos_validation"] == sum(one.role == "validation" for one in split.photos)
    said = petid("enroll", photos, "--model", "herd", "--gallery", "herd")
    assert (said.returncode, said.stderr) == (0, "")
    probe = photos / "animal 2" / "3.png"
    said = petid("identify", probe, "--gallery", "herd", "--json")
    assert json.loads(said.stdout)["candidates"][0]["individual"] == "animal 2"
    said = petid("classify", probe, "--model", "herd", "--json")
    assert said.returncode == 0, said.stderr
    assert "animal 2" in said.stdout


@pytest.fixture
def petid(home, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "petid_search", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120)

    return run


def test_mixed_precision_trains_and_ships_float32(trained):
    result = trained(precision="mixed_float16", freeze="none", epochs=2)
    assert keras.config.dtype_policy().name == "float32"
    model = _model(result)
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert np.isfinite([entry["loss"] for entry in result.report["history"]]).all()
    with pytest.raises(BrokenOff):
        trained("broken", precision="mixed_float16", freeze="none", epochs=2, watch=breaking_off_after(2))
    assert keras.config.dtype_policy().name == "float32"
    again = trained("broken", precision="mixed_float16", freeze="none", epochs=2)
    assert measured(again) == measured(result)
    assert are_equal(weights(again), weights(result))


def test_another_training_does_not_take_a_folder_over(trained, tmp_path):
    with pytest.raises(BrokenOff):
        trained("model", watch=breaking_off_after(2))
    with pytest.raises(DatasetError, match="holds another training, with another seed: go on with that one"):
        trained("model", seed=1)
    trained("model")
    with pytest.raises(ModelError, match="There is a model 'model' already"):
        trained("model", output=tmp_path / "elsewhere")


def test_what_the_network_was_before_is_measured_and_who_is_held_out_is_said(trained, photos):
    notes = []
    result = trained(watch=Watch(note=notes.append), learning_rate=1e-9, epochs=1)
    assert any("held out to measure on; the classifier does not know those" in note for note in notes)
    report = json.loads((result.output / "report.json").read_text())
    assert report["before"].keys() == {"rank_1", "mAP"}

    # A training that goes on from it starts where it ended.
    again = trained("again", backbone="model", weights=None, epochs=1, learning_rate=1e-9)
    assert again.report["before"]["mAP"] == pytest.approx(result.report["figures"]["mAP"], abs=1e-6)


def test_an_evaluation_takes_a_trainings_split_and_measures_who_was_held_out(trained, photos, tmp_path):
    result = trained(hold_out_individuals=0.4)
    done = evaluate(read_manifest(photos), [Embedder(result.bundle)], split=result.output / "split.csv", replicates=5)
    assert done.results[0].figures["mAP"].value == pytest.approx(result.report["figures"]["mAP"], abs=1e-6)
    assert done.results[0].known.photos == 0
    everyone = trained("everyone", hold_out_individuals=0.0)
    with pytest.raises(DatasetError, match="holds no individual out"):
        evaluate(read_manifest(photos), [Embedder(everyone.bundle)], split=everyone.output / "split.csv")


def test_a_loss_that_is_no_number_is_told(trained):
    with pytest.raises(RecipeError, match="take a lower learning-rate"):
        trained(loss="mean_squared_error", learning_rate=1e30, optimizer="sgd", epochs=3, freeze="none")
    with pytest.raises(RecipeError, match="monitor is 'val_recall', which is not measured here; there are loss"):
        trained("other", monitor="val_recall")


# What follows runs in processes of their own, all forked from one that has imported Keras but not used it.

_SERVER = """
import json, os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from petid_search.models.backbones import import_keras
import_keras()
from tiny_network import registered
from petid_search.train.config import Stage, TrainConfig
from petid_search.train.training import Watch, train

def work(job):
    def kill():
        os.kill(os.getpid(), signal.SIGKILL)
    def at(*moment):
        if list(moment) == job["moment"]:
            kill()
    def while_written():
        while not list(Path(os.environ["PETID_HOME"], "models").glob(".*.partial")):
            time.sleep(0.001)
        time.sleep(job["moment"][1])
        kill()
    import tensorflow
    if job["devices"] > 1:
        cpu = tensorflow.config.list_physical_devices("CPU")[0]
        tensorflow.config.set_logical_device_configuration(
            cpu, [tensorflow.config.LogicalDeviceConfiguration()] * job["devices"]
        )
    if job["moment"][0] == "bundle":
        threading.Thread(target=while_written, daemon=True).start()
    if job["moment"][0] == "seconds":
        threading.Timer(job["moment"][1], kill).start()
    epochs = [0]
    def step(told):
        at("step", epochs[0] + 1, told.step)
    def epoch(entry):
        epochs[0] = entry["epoch"]
        at("epoch", epochs[0])
    watch = Watch(step=step, epoch=epoch, doing=lambda what, done, _: at(what, done))
    stages = tuple(Stage(**one) for one in job["config"].pop("stages"))
    devices = [f"CPU:{number}" for number in range(job["devices"])] if job["devices"] > 1 else None
    with registered():
        train(TrainConfig(**job["config"], stages=stages), output=Path(job["output"]), watch=watch, devices=devices,
              seconds_between_checkpoints=0.0)

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            work(json.loads(line))
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("forked") / "home"
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(Path(__file__).parent)],
        env={**os.environ, "PETID_HOME": str(home), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield home, process
    process.stdin.close()
    process.wait(60)


@pytest.fixture
def forked(server, photos, tmp_path):
    """Trains in a process of its own, killed at a moment; returns how that ended."""
    home, process = server

    def run(name, *moment, devices=1, **config):
        about = {"backbone": "tiny", "weights": "random", "projection": 8, "batch_size": 8, "learning_rate": 0.01}
        about |= {"folder": str(photos), "name": name, "rotation": 10.0, "variants": 2, "seed": 5}
        about["stages"] = [{"epochs": 2}, {"epochs": 2, "freeze": "all-but-last-6"}]
        job = {
            "config": about | config,
            "output": str(tmp_path / name),
            "moment": moment or ["never"],
            "devices": devices,
        }
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield run
    shutil.rmtree(home, ignore_errors=True)


def outcome(home, output):
    """History and weights of a training that is done."""
    from petid_search.models.bundle import Bundle, load_keras

    report = json.loads((output / "report.json").read_text())
    history = [{name: value for name, value in one.items() if name != "seconds"} for one in report["history"]]
    return history, load_keras(Bundle.open(home / "models" / output.name)).get_weights()


MOMENTS = [
    ("Passing photos through the backbone", 32),
    ("epoch", 2),
    ("step", 4, 2),
    ("bundle", 0.05),
]


@pytest.mark.timeout(300)
def test_killed_at_several_moments_it_ends_with_the_same(forked, server, tmp_path):
    home, _ = server
    assert forked("whole") == 0
    for moment in MOMENTS:
        assert forked("killed", *moment) == -signal.SIGKILL, moment
    assert forked("killed") == 0
    history, ended = outcome(home, tmp_path / "killed")
    expected, whole = outcome(home, tmp_path / "whole")
    assert history == expected
    assert are_equal(ended, whole)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_any_moment_it_ends_with_the_same(forked, server, tmp_path):
    home, _ = server
    assert forked("first") == 0  # which waits for the server to be ready
    started = time.monotonic()
    assert forked("whole") == 0
    lasted = time.monotonic() - started
    expected, whole = outcome(home, tmp_path / "whole")
    draw = np.random.default_rng(0)
    kills = 0
    for number in range(10):
        name = f"killed-{number}"
        while (ended := forked(name, "seconds", float(draw.uniform(0.1, 0.9) * lasted))) == -signal.SIGKILL:
            kills += 1
            if kills % 4 == 0:
                ended = forked(name)
                break
        if ended == 1:  # killed after the model was whole: it is there
            assert (home / "models" / name / "card.json").exists()
        history, those = outcome(home, tmp_path / name)
        assert history == expected
        assert are_equal(those, whole)
    assert kills >= 8


@pytest.mark.timeout(300)
def test_two_devices_share_a_batch_and_learn_what_one_learns(forked, server, tmp_path):
    home, _ = server
    config = {"loss": "categorical_crossentropy", "rotation": 0.0, "stages": [{"epochs": 3, "freeze": "all"}]}
    assert forked("one", cache=False, **config) == 0
    assert forked("two", cache=False, devices=2, **config) == 0
    (one, weights_1), (two, weights_2) = outcome(home, tmp_path / "one"), outcome(home, tmp_path / "two")
    assert_near(one, two, 1e-3)
    for some, other in zip(weights_1, weights_2, strict=True):
        assert np.allclose(some, other, atol=1e-3)
    assert forked("deep", devices=2, loss="none", metric_loss="triplet-hard", photos_per_individual=2) == 0
    for entry in outcome(home, tmp_path / "deep")[0]:
        assert np.isfinite(entry["loss"])


def test_a_folder_called_cache_in_the_output_keeps_what_is_not_the_trainings(trained, tmp_path):
    mine = tmp_path / "project" / "cache" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    trained(output=tmp_path / "project", epochs=1)
    assert [file.name for file in mine.parent.iterdir()] == ["mine.txt"]
    assert not (trained("other", epochs=1).output / "cache").exists()


def test_going_on_from_a_model_that_knows_what_is_measured_is_said_and_stands_in_the_card(trained):
    trained("first", loss="categorical_crossentropy", epochs=1)
    split = {"split": str(trained("second", epochs=1).output / "split.csv")}
    told = []
    on = {"backbone": "first", "weights": None, "epochs": 1, "watch": Watch(note=told.append)}
    leaky = trained("leaky", **on)
    assert leaky.bundle.card.metrics["known_before"]["individuals"] == 2
    assert leaky.report["known_before"]["photos"] > 0
    assert any("figures flatter" in note for note in told)
    # Those whom the network knows are told from strangers too well to measure a threshold by.
    assert leaky.bundle.card.calibration is None
    assert any("carries no calibration" in note for note in told)
    told.clear()
    clean = trained("clean", **{**on, "backbone": "second"}, **split)
    assert clean.bundle.card.calibration is not None
    assert clean.report["known_before"] == {"photos": 0, "individuals": 0}
    assert not any("figures flatter" in note for note in told)


def test_a_model_that_flattens_is_gone_on_from_in_its_own_size_only(trained):
    trained("flat", pooling="flatten", loss="categorical_crossentropy", epochs=1)
    with pytest.raises(ModelError, match="leave out --size"):
        trained("other", backbone="flat", weights=None, size=64, epochs=1)
    assert trained("same", backbone="flat", weights=None, epochs=1).bundle.card.input_size == 48


def test_a_folder_whose_name_is_blank_is_told_of_before_anything_is_trained(trained, tmp_path):
    folder = draw_photos(tmp_path / "photos", 4, 3)
    (folder / "animal 3").rename(folder / " ")
    epochs = []
    with pytest.raises(DatasetError, match="blank"):
        trained(folder=str(folder), loss="categorical_crossentropy", watch=Watch(epoch=epochs.append))
    assert not epochs
