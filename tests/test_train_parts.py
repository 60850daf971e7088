"""The small parts of a training: batches, features, checkpoints, learning rates, freezing, losses, validation."""

import itertools
import math
import random
import resource
import threading
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import SHARED, draw_animal, needs_shared
from tiny_network import registered

from petid_search.errors import DatasetError, RecipeError
from petid_search.models.backbones import create_backbone, import_keras
from petid_search.models.by_name import find_metric, loss_kind, loss_names, metric_kind, metric_names
from petid_search.train.batches import FeatureInputs, ahead
from petid_search.train.checkpoint import Checkpoint, Standing, load, save
from petid_search.train.config import TrainConfig
from petid_search.train.freezing import freeze, unfold
from petid_search.train.objective import compile_for, follow, loss_of, make_objective, one_hot, targets
from petid_search.train.process import settled, strategy_for
from petid_search.train.schedule import learning_rate
from petid_search.train.validation import Kept, is_better, retrieval

keras = import_keras()


@contextmanager
def a_disk_of(size):
    """No file may grow beyond so many bytes: writing fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def preparing():
    return [thread for thread in threading.enumerate() if thread.name == "petid-batches"]


def test_items_prepared_ahead_come_in_order_and_no_thread_is_left():
    assert list(ahead(iter(range(50)))) == list(range(50))
    assert not preparing()


def test_an_error_in_preparing_comes_where_its_item_would():
    def items():
        yield from (1, 2, 3)
        raise DatasetError("the disk is gone")

    came = []

    def consume():
        for one in ahead(items()):
            came.append(one)

    with pytest.raises(DatasetError, match="the disk is gone"):
        consume()
    assert came == [1, 2, 3]
    assert not preparing()


def test_no_thread_is_left_when_the_consumer_stops_or_fails():
    for one in ahead(itertools.count()):
        if one == 5:
            break
    del one
    assert not preparing()

    def fail():
        for _ in ahead(itertools.count()):
            raise RecipeError("the loss is no number")

    with pytest.raises(RecipeError):
        fail()
    assert not preparing()


class Pixels:
    """Inputs whose variants are drawn: photo n is full of n."""

    def __init__(self):
        self.asked = []

    def plain(self, places):
        self.asked.append(len(places))
        return np.repeat(places.astype(np.float32), 64).reshape(-1, 64)

    def training(self, places, seed):
        return self.plain(places) + np.random.default_rng(seed).uniform(0.1, 0.4, (len(places), 1)).astype(np.float32)


def network(images):
    return images * np.float32(2)


def features(tmp_path, photos=None, **changed):
    about = {
        "places": np.arange(100),
        "trained": np.arange(0, 100, 2),
        "variants": 3,
        "seed": 0,
        "key": "key",
        "photos": photos,
    }
    about |= {"network": network, "advance": lambda done, total: None} | changed
    photos = about.pop("photos") or Pixels()
    return FeatureInputs(tmp_path / "features.npy", photos, about.pop("network"), **about)


def test_features_are_what_the_network_makes_of_the_photos(tmp_path):
    made, places = features(tmp_path), np.array([7, 0, 99, 7])
    assert made.shape == (64,)
    assert np.array_equal(made.plain(places), network(Pixels().plain(places)))


def test_variants_are_drawn_by_the_seed_each_as_often(tmp_path):
    made, places = features(tmp_path), np.arange(0, 100, 2)
    drawn = np.stack([made.training(places, (0, step))[:, 0] for step in range(200)])
    assert np.array_equal(made.training(places, (0, 3)), made.training(places, (0, 3)))
    assert np.array_equal(np.floor(drawn / 2), np.tile(places, (200, 1))), "each is a variant of its own photo"
    for place, column in zip(places, drawn.T, strict=True):
        values, counts = np.unique(column, return_counts=True)
        assert len(values) == 3
        assert values[0] == 2 * place, "the photo itself is one"
        assert counts.min() > 30
    other = features(tmp_path / "other", seed=1)
    assert not np.array_equal(other.training(places, (0, 3)), made.training(places, (0, 3)))


def test_features_are_made_again_only_where_they_depend_on_something_else(tmp_path):
    photos = Pixels()
    features(tmp_path, photos)
    assert sum(photos.asked) == 100 + 2 * 50
    assert max(photos.asked) <= 32
    features(tmp_path, photos)
    assert sum(photos.asked) == 200
    for changed in ({"key": "other"}, {"variants": 2}, {"seed": 5}, {"trained": np.arange(50)}):
        before = sum(photos.asked)
        features(tmp_path, photos, **changed)
        assert sum(photos.asked) > before


def test_features_broken_off_are_begun_anew(tmp_path):
    def tell(done, total):
        if done > 60:
            raise KeyboardInterrupt

    features(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        features(tmp_path, key="other", advance=tell)
    assert not preparing()
    made = features(tmp_path, key="other")
    assert np.array_equal(made.plain(np.array([99])), network(Pixels().plain(np.array([99]))))


def test_features_on_a_full_disk_are_told_in_a_line(tmp_path):
    with a_disk_of(10_000), pytest.raises(DatasetError, match=r"File too large.*make room"):
        features(tmp_path)


def test_features_are_made_in_little_memory(tmp_path):
    tracemalloc.start()
    try:
        made = features(tmp_path, places=np.arange(40_000), trained=np.arange(10), variants=1)
        made.plain(np.array([39_999]))
        assert tracemalloc.get_traced_memory()[1] < 8_000_000  # the features are 10 MB
    finally:
        tracemalloc.stop()


def checkpoint(seed=0):
    rng = np.random.default_rng(seed)
    history = [{"epoch": 1, "stage": "1: freeze all", "loss": 0.1 + seed, "mAP": 0.5}]
    return Checkpoint(
        Standing(1, 3, history, 0.5, 1, 2, 0.3),
        [rng.normal(size=(3, 4)).astype(np.float32), np.float32([seed])],
        [np.array(7), rng.normal(size=5)],
        [rng.normal(size=(3, 4)).astype(np.float32), np.float32([1])],
        [rng.normal(size=(3, 4)).astype(np.float32), np.float32([2])],
    )


def assert_same_checkpoint(one, other):
    assert one.standing == other.standing
    for part in ("weights", "optimizer", "best", "began"):
        for array, twin in zip(getattr(one, part), getattr(other, part), strict=True):
            assert array.dtype == twin.dtype
            assert np.array_equal(array, twin)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    for seed in (0, 1):
        save(checkpoint(seed), tmp_path / "checkpoint.npz")
        assert_same_checkpoint(load(tmp_path / "checkpoint.npz"), checkpoint(seed))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_damaged_checkpoint_is_told_as_such(tmp_path):
    file = tmp_path / "checkpoint.npz"
    save(checkpoint(), file)
    whole = file.read_bytes()
    draw = random.Random(0)
    damaged = [whole[:cut] for cut in (0, 10, len(whole) // 2, len(whole) - 1)]
    for _ in range(400):
        place = draw.randrange(len(whole))
        damaged.append(whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :])
    told = 0
    for content in damaged:
        file.write_bytes(content)
        try:
            read = load(file)
        except DatasetError:
            told += 1
        else:  # dates and the like, which nobody reads
            assert_same_checkpoint(read, checkpoint())
    assert told > 300
    file.write_bytes(whole[:50])
    with pytest.raises(DatasetError, match="is damaged: delete it"):
        load(file)


def test_on_a_full_disk_the_checkpoint_before_stays_whole(tmp_path):
    save(checkpoint(0), tmp_path / "checkpoint.npz")
    with a_disk_of(500), pytest.raises(DatasetError, match="run the command again to go on"):
        save(checkpoint(1), tmp_path / "checkpoint.npz")
    assert_same_checkpoint(load(tmp_path / "checkpoint.npz"), checkpoint(0))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_the_learning_rate_rises_and_falls_as_the_papers_have_it():
    rates = [learning_rate(step, 100, peak=0.2, schedule="cosine", warmup=0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 90)) for step in range(90)])
    cosine = keras.optimizers.schedules.CosineDecay(0.2, 100)
    without = [learning_rate(step, 100, peak=0.2, schedule="cosine", warmup=0.0) for step in range(100)]
    assert without == pytest.approx([float(cosine(step)) for step in range(100)], abs=1e-7)


def test_a_constant_learning_rate_stays_and_a_plateau_reduces_it():
    for schedule in ("constant", "plateau"):
        rates = [learning_rate(step, 10, peak=0.5, schedule=schedule, warmup=0.2, reduced=0.3) for step in range(10)]
        assert rates == pytest.approx([0.075] + [0.15] * 9)
    assert learning_rate(0, 1, peak=1.0, schedule="cosine", warmup=0.05) > 0


@pytest.fixture
def tiny():
    keras.utils.set_random_seed(0)
    with registered():
        yield create_backbone("tiny", size=48)


def test_layers_are_frozen_as_keras_counts_them(tiny):
    layers = tiny.layers
    with_weights = [bool(layer.weights) for layer in layers]
    for which, frozen in (("none", 0), ("all", len(layers)), ("first-5", 5), ("all-but-last-4", len(layers) - 4)):
        assert freeze(tiny, which) == sum(with_weights[frozen:])
        assert [layer.trainable for layer in layers] == [False] * frozen + [True] * (len(layers) - frozen)
    freeze(tiny, "first-5")
    assert all(layer.trainable_weights == [] for layer in layers[:5])
    with pytest.raises(RecipeError, match="has 14 layers"):
        freeze(tiny, "first-15")


def animals(count=16, size=48):
    return np.stack([draw_animal(place % 4, place, size) for place in range(count)]).astype(np.float32)


def classifier_on(network, **config):
    from petid_search.models.heads import create_model

    objective = make_objective(TrainConfig(loss="categorical_crossentropy", learning_rate=0.01, **config))
    return objective, compile_for(objective, create_model(network, objective.head, 4))


def train_a_while(network, steps=8):
    objective, training = classifier_on(network)
    wanted = targets(objective, np.arange(16) % 4, 4)
    return [training.train_on_batch(animals(), wanted, return_dict=True)["loss"] for _ in range(steps)]


def test_frozen_batch_normalisation_does_not_move(tiny):
    freeze(tiny, "all-but-last-3")
    before = {layer.name: layer.get_weights() for layer in tiny.layers}
    train_a_while(tiny, 2)
    moved = {
        layer.name
        for layer in tiny.layers
        if any(not np.array_equal(*pair) for pair in zip(layer.get_weights(), before[layer.name], strict=True))
    }
    assert moved == {"conv_4", "conv_4_bn"}


def test_normalisation_is_held_fast_where_all_else_learns(tiny):
    freeze(tiny, "none", norm=True)
    before = {layer.name: layer.get_weights() for layer in tiny.layers}
    train_a_while(tiny, 2)
    for layer in tiny.layers:
        moved = any(not np.array_equal(*pair) for pair in zip(layer.get_weights(), before[layer.name], strict=True))
        assert moved == (bool(layer.weights) and not isinstance(layer, keras.layers.BatchNormalization)), layer.name


def folded(network):
    """Give it weights as if its normalisations were folded into the convolutions."""
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            bias = rng.normal(0, 0.3, beta.shape)
            layer.set_weights([np.ones_like(gamma), bias, np.zeros_like(mean), np.ones_like(variance) - layer.epsilon])
    return network


def test_unfolding_keeps_the_function_and_lets_normalisation_learn(tiny):
    photos = animals()
    answered = folded(tiny).predict_on_batch(photos)
    assert unfold(tiny, [photos[:10], photos[10:]]) == 4
    assert np.allclose(tiny.predict_on_batch(photos), answered, rtol=1e-4, atol=1e-5)
    # Normalised by the batch that was measured, it computes the same: that is what makes it fit to learn.
    assert np.allclose(np.asarray(tiny(photos, training=True)), answered, rtol=1e-3, atol=1e-3)
    assert unfold(tiny, [photos]) == 0, "once is enough"
    losses = train_a_while(tiny, 20)
    assert losses[-1] < 0.6 * losses[0]


def test_a_network_that_was_never_folded_is_left_alone(tiny):
    assert unfold(tiny, [animals()]) == 0


@needs_shared
def test_the_folded_mobilenet_is_unfolded_to_the_same_function():
    weights = SHARED / "weights" / "mobilenetv2-imagenet" / "mobilenetv2_imagenet.npz"
    network, photos = create_backbone("mobilenetv2", size=96, weights=weights), animals(8, 96)
    answered = network.predict_on_batch(photos)
    assert unfold(network, [photos]) == 52
    assert np.abs(network.predict_on_batch(photos) - answered).max() < 1e-3 * np.abs(answered).max()


def head_of(**config):
    from petid_search.models.heads import create_head

    keras.utils.set_random_seed(0)
    objective = make_objective(TrainConfig(learning_rate=0.05, **config))
    classes = 3 if objective.classifier is not None else 0
    part = create_head(objective.head, classes, (12,))
    return objective, part, compile_for(objective, part)


def steps_of(steps=1, **config):
    objective, part, training = head_of(**config)
    training.run_eagerly = True
    labels = np.repeat(np.arange(3), 4)
    rng = np.random.default_rng(0)
    inputs = (np.eye(12, dtype=np.float32)[labels] + rng.normal(0, 0.2, (12, 12))).astype(np.float32)
    wanted = targets(objective, labels, 3)
    before = part.get_weights()
    losses = [training.train_on_batch(inputs, wanted, return_dict=True)["loss"] for _ in range(steps)]
    assert any(not np.array_equal(*pair) for pair in zip(before, part.get_weights(), strict=True)), "it learnt"
    assert np.isfinite(losses).all()
    if objective.classifier is not None and objective.metric is None:
        taken = objective.classifier.takes
        output = part.output["scores"] if taken == "scores" else part.get_layer("cosines").output
        answers = {taken: keras.Model(part.input, output).predict_on_batch(inputs)}
        training.run_eagerly = False
        measured = training.test_on_batch(inputs, wanted, return_dict=True)["loss"]
        assert loss_of(objective, answers, labels, 3) == pytest.approx(measured, rel=1e-4, abs=1e-5)
    return losses


KERAS_LOSSES = [name for name in loss_names() if loss_kind(name).takes == "scores"]


@pytest.mark.parametrize("name", KERAS_LOSSES)
def test_every_loss_of_keras_trains_a_classifier(name):
    two_kinds = {"output_activation": "sigmoid"} if name.startswith("Binary") else {}
    steps_of(loss=name, **two_kinds)


@pytest.mark.parametrize("name", ["arcface", "cosface(margin=0.2)", "subcenter-arcface"])
def test_margin_losses_train_a_cosine_classifier(name):
    losses = steps_of(5, loss=name, projection=6)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["triplet-semi-hard", "triplet-hard", "triplet-hard-soft", "supcon", "circle"])
def test_metric_losses_train_an_embedding_alone_and_beside_a_classifier(name):
    steps_of(2, loss="none", metric_loss=name, projection=6)
    steps_of(2, loss="categorical_crossentropy", metric_loss=name, projection=6)


def test_a_loss_in_the_wrong_place_is_told_where_it_belongs():
    with pytest.raises(RecipeError, match="give it as metric-loss"):
        make_objective(TrainConfig(loss="triplet-hard"))
    with pytest.raises(RecipeError, match="give it as loss"):
        make_objective(TrainConfig(metric_loss="arcface"))
    with pytest.raises(RecipeError, match="leave out dense"):
        make_objective(TrainConfig(loss="arcface", dense=(8,)))


def test_metrics_are_followed_by_their_names():
    labels = np.array([0, 1, 2, 0])
    scores = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2]], np.float32)
    wanted = ("accuracy", "sparse_top_k_categorical_accuracy(k=2)", "CategoricalCrossentropy", "F1Score")
    objective = make_objective(TrainConfig(loss="categorical_crossentropy", metrics=wanted))
    followed = follow(objective, scores, labels)
    entropy = -np.log([0.8, 0.7, 0.1, 0.5]).mean()
    assert list(followed.values()) == pytest.approx([0.75, 0.75, entropy, (0.8 + 1.0 + 0.0) / 3], abs=1e-5)


def test_every_metric_that_needs_no_parameter_can_be_followed():
    rng = np.random.default_rng(0)
    labels, scores = np.arange(30) % 3, rng.dirichlet(np.ones(3), 30).astype(np.float32)
    for name in metric_names():
        try:
            find_metric(name, classes=3)
        except RecipeError:
            continue  # a recall at some precision, which must be given
        objective = make_objective(TrainConfig(loss="categorical_crossentropy", metrics=(name,)))
        assert np.isfinite(follow(objective, scores, labels)[metric_kind(name).name])


def test_class_numbers_become_rows_with_a_one():
    assert np.array_equal(one_hot(np.array([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])


def test_retrieval_is_what_a_plain_loop_finds():
    rng = np.random.default_rng(0)
    owners = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3])
    groups = np.array([0, 0, 2, 3, 4, 5, 6, 7, 8, 9])  # the first two are near-duplicates
    vectors = rng.normal(size=(10, 4)) + np.eye(4)[owners]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    firsts, precisions = [], []
    for probe in range(10):
        others = [one for one in range(10) if groups[one] != groups[probe]]
        if not any(owners[one] == owners[probe] for one in others):
            continue
        others.sort(key=lambda one: -float(vectors[one] @ vectors[probe]))
        right = [owners[one] == owners[probe] for one in others]
        firsts.append(right[0])
        places = np.flatnonzero(right)
        precisions.append(np.mean([(number + 1) / (place + 1) for number, place in enumerate(places)]))
    nobody = np.empty(0, np.int64)
    found = retrieval(vectors, Kept(nobody, nobody, np.arange(10), owners, groups))
    assert found == pytest.approx({"rank_1": np.mean(firsts), "mAP": np.mean(precisions)})


def test_losses_and_errors_are_better_when_low():
    for name in ("val_loss", "val_MeanSquaredError", "val_CategoricalHinge", "val_FalsePositives", "KLDivergence"):
        assert is_better(0.1, 0.2, name)
        assert not is_better(0.2, 0.1, name)
    for name in ("mAP", "rank_1", "val_accuracy", "val_CosineSimilarity", "val_AUC"):
        assert is_better(0.2, 0.1, name)
        assert not is_better(0.2, 0.2, name)
    assert not is_better(float("nan"), None, "mAP")


def test_the_process_is_as_it_was_after_a_training():
    import tensorflow
    from tensorflow.python.framework import config

    drawn = random.getstate(), np.random.get_state()[1].tolist()
    with settled("mixed_bfloat16", 3):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        assert config.is_op_determinism_enabled()
        first = keras.random.uniform((3,), seed=keras.random.SeedGenerator())
    assert keras.config.dtype_policy().name == "float32"
    assert not config.is_op_determinism_enabled()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == drawn
    tensorflow.random.uniform((3,))  # needs no seed any more
    with settled("float32", 3):
        assert np.array_equal(first, keras.random.uniform((3,), seed=keras.random.SeedGenerator()))


def test_a_device_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(RecipeError, match=r"no device 'GPU:7': take of CPU:0"):
        strategy_for(["GPU:7"])
    assert strategy_for(None).num_replicas_in_sync == 1
