"""Why two photos are alike: the heat maps are HiResCAM, and the picture shows what it says."""

import numpy as np
import pytest
from conftest import draw_animal
from PIL import Image

from petid_search.enroll import enroll, plan_enrolment
from petid_search.errors import GalleryError, PhotoError
from petid_search.explain import draw, explain, hires_cam
from petid_search.explain.maps import evidence_for
from petid_search.models.architecture import Head, Kept
from petid_search.models.linear_head import LinearHead

KEPT = Kept(after="block_5_add", layer="block_13_depthwise_relu", channels=5, numbers=2, share=0.36)


@pytest.fixture
def filled(gallery, embedder, take_photos):
    list(enroll(gallery, plan_enrolment([take_photos(30, 4)]).photos, embedder))
    return gallery


@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
@pytest.mark.parametrize("projection", [None, 16])
def test_the_closed_form_is_what_automatic_differentiation_gives(pooling, projection):
    from petid_search.models.backbones import import_keras

    keras = import_keras()
    import tensorflow as tf

    from petid_search.models.heads import create_model, pooling_layer

    keras.utils.set_random_seed(5)
    pixels = keras.Input((48, 48, 3))
    features = keras.layers.Conv2D(20, 5, strides=3, activation="relu")(keras.layers.Rescaling(1 / 127.5, -1)(pixels))
    model = create_model(keras.Model(pixels, features), Head(pooling=pooling, projection=projection))
    images = np.stack([draw_animal(1, 1, 48), draw_animal(2, 1, 48)]).astype(np.float32)
    answers = model(images)
    maps, embeddings = answers["features"], answers["embedding"].numpy()
    head = LinearHead(pooling)
    if projection is not None:
        layer = model.get_layer("projection")
        layer.bias.assign(np.random.default_rng(0).normal(size=projection))
        embeddings = model(images)["embedding"].numpy()
        head = LinearHead(pooling, layer.kernel.numpy(), layer.bias.numpy())

    with tf.GradientTape() as tape:
        tape.watch(maps)
        vector = pooling_layer(pooling)(maps)
        if projection is not None:
            vector = vector @ head.kernel + head.bias
        similarity = tf.reduce_sum(vector[0] * embeddings[1]) / tf.stop_gradient(tf.norm(vector[0]))
    gradient = tape.gradient(similarity, maps)[0].numpy()
    expected = (maps[0].numpy() * gradient).sum(-1)

    drawn = hires_cam(maps[0].numpy(), embeddings[1], head)
    assert expected.max() > 0
    np.testing.assert_allclose(drawn, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
def test_the_closed_form_of_what_is_kept_is_what_automatic_differentiation_gives(pooling):
    import tensorflow as tf

    from petid_search.models.heads import pooling_layer

    rng = np.random.default_rng(0)
    features = rng.uniform(0, 1, (6, 6, 12)).astype(np.float32)
    kernel, bias = rng.normal(size=(12, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    other = rng.normal(size=8).astype(np.float32)
    maps = tf.constant(features[None])
    with tf.GradientTape() as tape:
        tape.watch(maps)
        pooled = tf.concat([pooling_layer(pooling)(maps[..., :7]), tf.reduce_mean(maps[..., 7:], (1, 2))], -1)
        vector = (pooled @ kernel + bias)[0]
        learnt, kept = (part / tf.stop_gradient(tf.norm(part)) for part in (vector[:6], vector[6:]))
        similarity = tf.reduce_sum(tf.concat([0.8 * learnt, 0.6 * kept], 0) * other)
    expected = (features * tape.gradient(similarity, maps)[0].numpy()).sum(-1)
    drawn = hires_cam(features, other, LinearHead(pooling, kernel, bias, KEPT))
    np.testing.assert_allclose(drawn, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
def test_the_maps_add_up_to_the_similarity_with_what_speaks_against_it(pooling):
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(-1, 1, (2, 7, 7, 30)), 0).astype(np.float32)
    head = LinearHead(pooling, rng.normal(size=(30, 12)).astype(np.float32), np.zeros(12, np.float32))
    embeddings = np.stack([head.vector(one) * head.scale(one) for one in features])
    heat = hires_cam(features[0], embeddings[1], head)
    assert heat.min() < 0
    assert heat.sum() == pytest.approx(embeddings[0] @ embeddings[1], abs=1e-5)


@pytest.mark.parametrize("kept", [None, KEPT])
def test_with_a_bias_the_evidence_adds_up_to_the_similarity_too(kept):
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(-1, 1, (2, 7, 7, 30)), 0).astype(np.float32)
    kernel = rng.normal(size=(30, 12)).astype(np.float32)
    head = LinearHead("gem", kernel, -features.mean((0, 1, 2)) @ kernel, kept)
    embeddings = np.stack([head.vector(one) * head.scale(one) for one in features])
    heat = evidence_for(features[0], embeddings[1], head)
    assert heat.sum() == pytest.approx(embeddings[0] @ embeddings[1], abs=1e-5)
    assert abs(hires_cam(features[0], embeddings[1], head).sum() - heat.sum()) > 0.1
    itself = evidence_for(features[0], embeddings[0], head)
    contrast = evidence_for(features[0], embeddings[0] - embeddings[1], head)
    np.testing.assert_allclose(contrast, itself - heat, atol=1e-6)


def test_the_heat_lies_where_the_two_photos_agree():
    features = np.zeros((6, 6, 4), np.float32)
    features[1, 4] = (0, 0, 9, 0)  # only here is what the other has
    features[5, 0] = (9, 0, 0, 0)
    other = np.array([0, 0, 1, 0], np.float32)
    heat = hires_cam(features, other, LinearHead("avg"))
    assert np.unravel_index(heat.argmax(), heat.shape) == (1, 4)
    assert heat[5, 0] == 0


def test_the_best_candidate_and_the_runner_up_are_explained(filled, embedder, take_photo):
    explanation = explain(take_photo(7, 99), filled, embedder)
    assert explanation.candidates == explanation.identification.candidates[:2]
    assert explanation.candidates[0].individual == "7"
    for heat in (*explanation.on_probe, *explanation.on_candidate):
        assert heat.shape == (12, 12)
        assert np.isfinite(heat).all()
        assert heat.max() > 0


def test_anybody_can_be_named_in_place_of_the_runner_up(filled, embedder, take_photo):
    explanation = explain(take_photo(7, 99), filled, embedder, against="21")
    assert [candidate.individual for candidate in explanation.candidates] == ["7", "21"]
    explanation = explain(take_photo(7, 99), filled, embedder, against="7")
    assert [candidate.individual for candidate in explanation.candidates] == ["7"]
    with pytest.raises(GalleryError, match="'nobody'"):
        explain(take_photo(7, 99), filled, embedder, against="nobody")


def test_whoever_is_named_has_the_classifiers_score_too(gallery, five, take_photos, take_photo):
    list(enroll(gallery, plan_enrolment([take_photos(10, 2)]).photos, five))
    best, asked = explain(take_photo(7, 99), gallery, five, against="4").candidates
    assert (best.individual, asked.individual) == ("7", "4")
    assert 0 <= asked.classifier_score < best.classifier_score <= 1


def test_the_picture_shows_probe_and_candidates_beside_their_maps(filled, embedder, take_photo):
    probe = take_photo(7, 99)
    explanation = explain(probe, filled, embedder)
    picture = np.asarray(draw(explanation)).astype(int)
    expected = small(probe)
    rows = [row for row in range(picture.shape[0] - TILE) if tile_is(picture, row, 0, expected)]
    assert len(rows) == 2  # the best candidate and the runner-up
    for row, candidate in zip(rows, explanation.candidates, strict=True):
        assert tile_is(picture, row, 1, small(candidate.file))
        for column in range(2, 6):
            assert not tile_is(picture, row, column, expected)
            assert not tile_is(picture, row, column, small(candidate.file))


TILE, COLUMNS = 220, (24, 252, 500, 728, 976, 1204)


def small(photo):
    with Image.open(photo) as picture:
        return np.asarray(picture.resize((TILE, TILE), Image.Resampling.BICUBIC)).astype(int)


def tile_is(picture, row, column, expected):
    shown = picture[row : row + TILE, COLUMNS[column] : COLUMNS[column] + TILE]
    return np.abs(shown[100] - expected[100]).mean() < 4 and np.abs(shown - expected).mean() < 2


def test_a_gallery_of_one_individual_is_explained_without_a_runner_up(gallery, embedder, take_photo):
    list(enroll(gallery, [(take_photo(1), "Rex")], embedder))
    explanation = explain(take_photo(1, 99), gallery, embedder)
    assert [candidate.individual for candidate in explanation.candidates] == ["Rex"]
    assert draw(explanation).width > 1200


def test_an_emptied_gallery_and_a_broken_probe_are_said(gallery, embedder, take_photo, tmp_path):
    list(enroll(gallery, [(take_photo(1), "Rex")], embedder))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(PhotoError, match=r"broken\.jpg"):
        explain(broken, gallery, embedder)
    gallery.remove("Rex")
    with pytest.raises(GalleryError, match="Nobody is enrolled"):
        explain(take_photo(1, 99), gallery, embedder)
