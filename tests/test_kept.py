"""Features of the network as it was: distilled while it learns, set beside what it learnt when it has."""

from dataclasses import replace

import numpy as np
import pytest
from test_train import (  # noqa: F401 - fixtures
    BrokenOff,
    are_equal,
    breaking_off_after,
    home,
    measured,
    photos,
    trained,
    weights,
)

from petid_search.errors import RecipeError
from petid_search.images import open_image
from petid_search.models.architecture import Head, Kept
from petid_search.models.backbones import create_backbone, import_keras
from petid_search.models.bundle import load_keras
from petid_search.models.copying import weights_by_layer
from petid_search.models.heads import backbone_of, create_model
from petid_search.models.runtime import Embedder
from petid_search.train.config import Stage
from petid_search.train.distil import Before
from petid_search.train.finishing import blend, fit_kept

keras = import_keras()

NOISE = np.random.default_rng(0).uniform(0, 255, (5, 48, 48, 3)).astype(np.float32)
KEPT = Kept(after="conv_2_relu", layer="conv_4_bn", channels=24, numbers=6, share=0.3)
LEARNS = (Stage(epochs=1), Stage(epochs=2, freeze="first-8", learning_rate=0.01))
KEEPS = {"keep": "conv_4_relu", "keep_share": 0.25, "keep_classifier": False, "stages": LEARNS}


@pytest.fixture
def tiny(home):  # noqa: F811
    return create_backbone("tiny")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_head_sets_the_backbones_old_features_beside_its_new_ones(tiny):
    model = create_model(tiny, Head(projection=4, kept=KEPT))
    old = np.asarray(keras.Model(tiny.input, tiny.get_layer("conv_4_bn").output)(NOISE))
    tiny.get_layer("conv_3").set_weights([np.ones((3, 3, 16, 1))])
    answers = model(NOISE)
    assert answers["embedding"].shape == (5, 10)
    np.testing.assert_allclose(answers["features"], np.concatenate([tiny(NOISE), old], axis=-1), atol=1e-5)
    kernel, bias = model.get_layer("projection").get_weights()
    beside, beside_bias = model.get_layer("kept_projection").get_weights()
    learnt = np.asarray(tiny(NOISE)).mean((1, 2)) @ kernel + bias
    kept = old.mean((1, 2)) @ beside + beside_bias
    expected = np.concatenate([np.sqrt(0.7) * unit(learnt), np.sqrt(0.3) * unit(kept)], axis=1)
    np.testing.assert_allclose(answers["embedding"], expected, atol=1e-5)
    np.testing.assert_array_equal(backbone_of(model)(NOISE), tiny(NOISE))
    learning = {weight.path.split("/")[0] for weight in model.trainable_weights}
    assert "kept_projection" not in learning
    assert not any(name.startswith("kept") for name in learning)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": "conv_9"}, "no layers 'conv_2_relu' and 'conv_9'"),
        ({"layer": "conv_3_relu", "channels": 16}, "does not fit beside"),
    ],
)
def test_what_the_backbone_does_not_have_cannot_be_kept(tiny, change, said):
    with pytest.raises(RecipeError, match=said):
        create_model(tiny, Head(projection=4, kept=replace(KEPT, **change)))


def test_a_mirroring_head_answers_the_same_to_a_photo_and_its_mirror_image(tiny):
    head = Head(pooling="gem", projection=4, kept=KEPT)
    plain, mirroring = create_model(tiny, head), create_model(tiny, replace(head, mirror=True))
    assert mirroring.count_params() == plain.count_params()
    own, turned = (np.asarray(plain(one)["features"]) for one in (NOISE, NOISE[:, :, ::-1]))
    answers = mirroring(NOISE)
    np.testing.assert_allclose(answers["features"], (own + turned[:, :, ::-1]) / 2, atol=1e-5)
    np.testing.assert_allclose(mirroring(NOISE[:, :, ::-1])["embedding"], answers["embedding"], atol=1e-5)
    assert np.abs(own[:, :, ::-1] - turned).max() > 0.01
    np.testing.assert_array_equal(backbone_of(mirroring)(NOISE), tiny(NOISE))


def test_what_is_kept_is_white(tiny):
    head = Head(projection=4, kept=KEPT)
    model = create_model(tiny, head)
    pooled = np.random.default_rng(1).normal(3, 1, (400, 48)).astype(np.float32) * np.linspace(0.1, 5, 48)
    fit_kept(model, head, pooled[:, 24:].astype(np.float32))
    beside, beside_bias = model.get_layer("kept_projection").get_weights()
    kept = pooled[:, 24:] @ beside + beside_bias
    np.testing.assert_allclose(kept.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(kept.T), np.eye(6), atol=1e-3)


def test_what_is_kept_has_its_share_of_every_photo_however_long_what_was_learnt_is(tiny):
    model = create_model(tiny, Head(projection=4, kept=KEPT))
    kernel, bias = model.get_layer("projection").get_weights()
    for times in (1, 1000):
        model.get_layer("projection").set_weights([times * kernel, times * bias])
        embeddings = np.asarray(model(NOISE)["embedding"])
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.sum(embeddings[:, 4:] ** 2, axis=1), 0.3, atol=1e-5)


def test_a_direction_in_which_nothing_differs_is_not_blown_up(tiny):
    head = Head(projection=4, kept=KEPT)
    model = create_model(tiny, head)
    pooled = np.random.default_rng(1).normal(3, 1, (400, 48)).astype(np.float32)
    pooled[:, 24 + 3 :] = 7.0  # all but three channels
    fit_kept(model, head, pooled[:, 24:])
    assert np.isfinite(model.get_layer("kept_projection").get_weights()[0]).all()


def test_a_training_keeps_what_the_network_answered_before(trained, photos):  # noqa: F811
    result = trained(**KEEPS, pooling="gem", blend=0.7, freeze_norm=True, half=True, mirror=True, embed_size=64)
    card = result.bundle.card
    kept = Kept(after="conv_2_relu", layer="conv_4_relu", channels=24, numbers=8, share=0.25)
    assert (card.head.kept, card.head.mirror, card.dimension) == (kept, True, 16)
    model = load_keras(result.bundle)
    start = weights_by_layer(create_backbone("tiny", size=64))
    ours = {weight.path: np.asarray(weight) for weight in model.weights}
    assert not any(np.array_equal(ours["conv_4/kernel"], one) for one in start["conv_4"])
    images = np.stack([open_image(file, 64) for file in sorted(photos.glob("*/*.png"))])
    embedder = Embedder(result.bundle)
    embeddings, features = embedder.features(images)
    np.testing.assert_allclose(embeddings, model(images.astype(np.float32))["embedding"], atol=2e-3)
    np.testing.assert_allclose(embeddings, embedder.embed(images[:, :, ::-1]), atol=1e-5)
    head = embedder.head()
    assert (head.kernel.shape, head.bias.shape, head.kept) == ((48, 16), (16,), kept)
    vectors = np.stack([head.vector(one) * head.scale(one) for one in features])
    np.testing.assert_allclose(embeddings, vectors, atol=1e-3)
    assert result.report["figures"]["rank_1"] == card.metrics["rank_1"]


def test_a_training_goes_on_from_a_model_that_keeps_and_what_it_keeps_stays(trained):  # noqa: F811
    first = trained("first", mirror=True, **KEEPS)
    on = {"backbone": "first", "weights": None, "projection": None}
    second = trained("second", **on, stages=(Stage(epochs=2, freeze="first-8", learning_rate=0.01),))
    assert second.bundle.card.head.kept == first.bundle.card.head.kept
    assert second.bundle.card.head.mirror
    before, after = ({one.path: np.asarray(one) for one in load_keras(own.bundle).weights} for own in (first, second))
    still = {path for path in before if np.array_equal(before[path], after[path])}
    assert {path.split("/")[0] for path in before if path not in still} == {
        "conv_3", "conv_3_bn", "conv_4", "conv_4_bn", "projection",
    }  # fmt: skip
    assert any(path.startswith("kept_projection") for path in still)
    with pytest.raises(RecipeError, match=r"stand on its first 8 layers.*first-8 or more"):
        trained("third", **on, stages=(Stage(epochs=1, freeze="none"),))
    with pytest.raises(RecipeError, match="keeps features of conv_4_relu already"):
        trained("fourth", **on, **KEEPS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keep": "conv_9"}, "no such layer: take one such as .*conv_4"),
        ({"keep": "conv_3_relu"}, r"another feature map there than at its end, which is \(6, 6\)"),
        ({"projection": 24}, "needs 48 photos to train on for 24 numbers, and there are 24"),
        ({"keep_classifier": True}, "add no-keep-classifier"),
        ({"stages": (), "freeze": "all"}, r"the first \d+ layers never learn, it among them: freeze fewer"),
        ({"stages": (), "freeze": "first-14"}, "the first 14 layers never learn"),
        ({"stages": (), "distil": 1.0}, "distil is for layers that learn, and all are frozen"),
        ({"projection": None, "loss": "categorical_crossentropy"}, "stands beside a projection: give one"),
    ],
)
def test_what_cannot_be_kept_is_told_before_anything_is_trained(trained, change, said):  # noqa: F811
    with pytest.raises(RecipeError, match=said):
        trained(**KEEPS | change)


def test_blending_leaves_what_never_learnt_as_it_was_to_the_last_bit(tiny):
    start = weights_by_layer(tiny)
    learnt = tiny.get_layer("conv_4")
    learnt.set_weights([one + 1 for one in learnt.get_weights()])
    blend(tiny, start, 0.85)
    blended = weights_by_layer(tiny)
    for name in start:
        for before, now in zip(start[name], blended[name], strict=True):
            if name == "conv_4":
                np.testing.assert_allclose(now, before + 0.85, atol=1e-6)
            else:
                np.testing.assert_array_equal(now, before)


def test_nothing_is_forgotten_until_the_network_changes(tiny):
    model = create_model(tiny, Head(projection=4))
    before = Before(tiny, weights_by_layer(tiny), "avg", frozen=4)
    centre = before.centre([NOISE[:3], NOISE[3:]])
    np.testing.assert_allclose(centre, np.asarray(tiny(NOISE)).mean((0, 1, 2)), atol=1e-5)
    forgotten = keras.Model(model.input, before.forgotten(model, centre))
    np.testing.assert_allclose(forgotten(NOISE), 0, atol=1e-5)
    tiny.get_layer("conv_4").set_weights([one[..., ::-1] for one in tiny.get_layer("conv_4").get_weights()])
    changed = np.asarray(forgotten(NOISE))
    assert changed.shape == (5,)
    assert changed.min() > 0.01
    assert changed.max() <= 2


def test_what_is_not_to_be_forgotten_is_the_start_also_where_a_stage_freezes_what_another_moved(trained):  # noqa: F811
    stages = (Stage(epochs=2, freeze="none", learning_rate=0.01), Stage(epochs=1, freeze="first-11"))
    history = measured(trained(stages=stages, distil=0.001, learning_rate=1e-9))
    assert history[2]["forgotten_loss"] == pytest.approx(history[1]["forgotten_loss"], rel=0.3)


def test_distilling_holds_the_features_near_to_what_they_were(trained):  # noqa: F811
    stages = (Stage(epochs=4, freeze="first-8", learning_rate=0.01),)
    histories = [measured(trained(f"by-{weight:g}", stages=stages, distil=weight)) for weight in (0.001, 30.0)]
    loose, held = (history[-1]["forgotten_loss"] for history in histories)
    assert 0 < held < 0.5 * loose


def test_distilling_broken_off_ends_with_the_same(trained, tmp_path):  # noqa: F811
    config = {"distil": 2.0, **KEEPS}
    whole = trained("whole", **config)
    for epoch in (1, 2):
        with pytest.raises(BrokenOff):
            trained("broken", output=tmp_path / "broken", watch=breaking_off_after(epoch), **config)
    again = trained("broken", output=tmp_path / "broken", **config)
    assert measured(again) == measured(whole)
    assert are_equal(weights(again), weights(whole))
