"""Every loss, optimiser, metric and activation of Keras and of petid is found by name; a mistake is understood."""

import inspect
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from petid_search.errors import RecipeError
from petid_search.models import by_name
from petid_search.models.by_name import (
    OUR_LOSSES,
    REFUSED,
    find_activation,
    find_loss,
    find_metric,
    find_optimizer,
    loss_kind,
    metric_kind,
)

NUMBERS = np.array([0, 1, 2, 3, 3, 1])
ONE_HOT = np.eye(4, dtype=np.float32)[NUMBERS]
SCORES = np.random.default_rng(0).dirichlet(np.ones(4), 6).astype(np.float32)
"""Of 4 classes, adding up to 1."""
EMBEDDINGS = (SCORES - 0.25) / np.linalg.norm(SCORES - 0.25, axis=1, keepdims=True)

NEEDED = {
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}
"""What these metrics cannot do without."""


def spellings(name: str) -> list[str]:
    """A name as Keras writes its class, with underscores, with hyphens, and shouted."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return [name, snake, snake.replace("_", "-"), name.upper()]


def classes_of(module, base) -> set[str]:
    return {name for name, member in vars(module).items() if inspect.isclass(member) and issubclass(member, base)}


@pytest.mark.parametrize("name", by_name.loss_names())
def test_every_loss_gives_a_finite_number_by_each_of_its_spellings(name):
    kind = loss_kind(name)
    labels = NUMBERS if kind.labels == "numbers" else ONE_HOT
    values = EMBEDDINGS if kind.takes == "embeddings" else SCORES
    answers = {float(find_loss(spelling)(labels, values)) for spelling in spellings(name)}
    assert len(answers) == 1
    assert np.isfinite(answers.pop())


@pytest.mark.parametrize("name", by_name.optimizer_names())
def test_every_optimiser_takes_a_step_by_each_of_its_spellings(name):
    for spelling in spellings(name):
        assert type(find_optimizer(spelling, 0.1)) is getattr(keras.optimizers, name)
    weights = keras.Variable(np.ones((2, 2), np.float32), name="kernel")
    optimizer = find_optimizer(name, 0.1)
    optimizer.apply([np.full((2, 2), 0.5, np.float32)], [weights])
    assert np.isfinite(weights.numpy()).all()
    assert (weights.numpy() < 1).all()


@pytest.mark.parametrize("name", by_name.metric_names())
def test_every_metric_gives_one_finite_number_by_each_of_its_spellings(name):
    labels = NUMBERS if metric_kind(name).labels == "numbers" else ONE_HOT
    for spelling in spellings(name):
        metric = find_metric(spelling, classes=4, **NEEDED.get(name, {}))
        metric.update_state(labels, SCORES)
        answer = np.asarray(metric.result())
        assert answer.shape == ()
        assert np.isfinite(answer)


@pytest.mark.parametrize("name", by_name.activation_names())
def test_every_activation_is_a_layers_by_each_of_its_spellings(name):
    for spelling in spellings(name):
        layer = keras.layers.Dense(4, activation=find_activation(spelling))
        assert np.isfinite(layer(SCORES).numpy()).all()
        saved = keras.layers.Dense.from_config(layer.get_config())
        assert saved.activation is layer.activation


def test_what_cannot_serve_is_refused_with_a_reason_and_everything_else_of_keras_is_found():
    finders = {
        "losses": (find_loss, keras.losses.Loss, by_name.loss_names()),
        "optimizers": (lambda name: find_optimizer(name, 0.1), keras.optimizers.Optimizer, by_name.optimizer_names()),
        "metrics": (find_metric, keras.metrics.Metric, by_name.metric_names()),
        "activations": (find_activation, type(None), by_name.activation_names()),
    }
    for module, (find, base, names) in finders.items():
        there = classes_of(getattr(keras, module), base) if module != "activations" else {"threshold"}
        assert there >= set(REFUSED[module])
        # Its word means another class, see below.
        assert there - set(names) == {*REFUSED[module], *({"Accuracy"} if module == "metrics" else ())}
        for name, reason in REFUSED[module].items():
            with pytest.raises(RecipeError, match=f"cannot serve here: {reason}. Take one of: "):
                find(name)


def test_a_loss_says_what_it_takes():
    taken = {name: (loss_kind(name).takes, loss_kind(name).labels) for name in by_name.loss_names()}
    assert {name for name, (takes, _) in taken.items() if takes == "cosines"} == {
        "arcface",
        "subcenter-arcface",
        "cosface",
    }
    assert {name for name, (takes, _) in taken.items() if takes == "embeddings"} == {
        "triplet-semi-hard",
        "triplet-hard",
        "triplet-hard-soft",
        "supcon",
        "Circle",
    }
    assert {name for name, given in taken.items() if given == ("scores", "numbers")} == {
        "SparseCategoricalCrossentropy",
        "CategoricalGeneralizedCrossEntropy",
    }
    assert loss_kind("subcenter-arcface").centres == 3
    assert loss_kind("arcface").centres == 1


@pytest.mark.parametrize("name", OUR_LOSSES)
def test_ours_are_what_their_names_say(name):
    kind = OUR_LOSSES[name]
    loss = find_loss(name)
    assert type(loss).__name__ == kind.constructor
    assert getattr(loss, "soft", None) == {"triplet-hard": False, "triplet-hard-soft": True}.get(name)
    assert kind.source.split(" et al.")[0] in type(loss).__doc__


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mse", "MeanSquaredError"),
        ("KLD", "KLDivergence"),
        ("kullback_leibler_divergence", "KLDivergence"),
        ("cosine_proximity", "CosineSimilarity"),
        ("TripletSemiHardLoss", "triplet-semi-hard"),
        ("sub-centre-arcface", "subcenter-arcface"),
        ("SupervisedContrastive", "supcon"),
    ],
)
def test_short_and_old_names_are_understood(name, found):
    assert loss_kind(name).name == found


def test_parameters_reach_what_is_made():
    assert find_loss("arcface", margin=0.25, scale=12).get_config()["scale"] == 12
    assert float(find_loss("huber", delta=0.5)([[0.0]], [[2.0]])) == 0.5 * (2 - 0.5 / 2)
    optimizer = find_optimizer("sgd", 1, momentum=0.5)
    assert (optimizer.momentum, float(optimizer.learning_rate)) == (0.5, 1.0)
    assert find_metric("top-k-categorical-accuracy", k=2).get_config()["k"] == 2
    schedule = keras.optimizers.schedules.CosineDecay(0.5, 10)
    assert float(find_optimizer("adam", schedule).learning_rate) == 0.5


def test_accuracy_is_the_share_whose_true_class_scores_highest():
    """Keras's own class of this name would count scores that are exactly 0 or 1."""
    for name in ("accuracy", "acc", "Accuracy"):
        metric = find_metric(name)
        metric.update_state(ONE_HOT, 0.6 * ONE_HOT + 0.1)
        assert float(metric.result()) == 1.0
        assert metric.name == "accuracy"


def test_iou_counts_every_class_by_its_highest_score():
    for name in ("iou", "mean-iou", "one-hot-iou", "one-hot-mean-iou"):
        metric = find_metric(name, classes=4)
        metric.update_state(NUMBERS if metric_kind(name).labels == "numbers" else ONE_HOT, 0.6 * ONE_HOT + 0.1)
        assert float(metric.result()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (lambda: find_loss("arcfase"), "Unknown loss 'arcfase'. Did you mean 'arcface'?"),
        (lambda: find_loss("triplet_semihrd"), "Unknown loss 'triplet_semihrd'. Did you mean 'triplet-semi-hard'?"),
        (lambda: find_loss("categorical_crossentropi"), "Did you mean 'CategoricalCrossentropy'?"),
        (lambda: find_loss(""), "Unknown loss ''. Expected one of: triplet-semi-hard, triplet-hard,"),
        (lambda: find_optimizer("adm", 0.1), "Unknown optimiser 'adm'. Did you mean 'Adam'?"),
        (lambda: find_metric("acuracy"), "Unknown metric 'acuracy'. Did you mean 'accuracy'?"),
        (lambda: find_activation("rely"), "Unknown activation 'rely'. Did you mean 'relu'?"),
        (lambda: find_activation("get"), "Unknown activation 'get'."),
        (lambda: find_loss("arcface", margn=0.2), "arcface has no parameter 'margn'. Did you mean 'margin'?"),
        (lambda: find_loss("hinge", margin=0.2), "Hinge has no parameters: leave out 'margin'."),
        (lambda: find_loss("triplet-hard-soft", margin=0.2), "triplet-hard-soft has no parameter 'margin'."),
        (lambda: find_loss("mse", reduction="sum"), "MeanSquaredError has no parameters: leave out 'reduction'."),
        (lambda: find_loss("arcface", margin=2), "margin must be an angle in radians, in [0, π/2). Got 2 instead."),
        (lambda: find_loss("arcface", margin="wide"), "arcface cannot be made of {'margin': 'wide'}: "),
        (lambda: find_optimizer("sgd", 0.1, moment=0.9), "SGD has no parameter 'moment'. Did you mean 'momentum'?"),
        (lambda: find_optimizer("sgd", 0.1, momentum=3), "SGD cannot be made of {'momentum': 3}: "),
        (lambda: find_optimizer("adam", 0.0), "learning_rate must be a number > 0. Got 0.0 instead."),
        (lambda: find_optimizer("adam", float("nan")), "learning_rate must be a number > 0. Got nan instead."),
        (lambda: find_optimizer("adam", "fast"), "Adam cannot be made of"),
        (lambda: find_metric("mean-iou"), "The metric MeanIoU needs to know the number of classes: give classes."),
        (lambda: find_metric("precision-at-recall"), "PrecisionAtRecall needs the parameter 'recall'"),
    ],
)
def test_a_mistake_is_answered_in_one_line_with_the_nearest_right_word(find, message):
    with pytest.raises(RecipeError, match=re.escape(message)) as raised:
        find()
    assert "\n" not in str(raised.value)


def test_ours_are_told_without_importing_keras():
    code = (
        "import sys; from petid_search.models.by_name import loss_kind, OUR_LOSSES;"
        "assert {loss_kind(name.upper()).name for name in OUR_LOSSES} == set(OUR_LOSSES);"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
