"""The runtime embeds images by ONNX Runtime: from any thread, and never with a silent mistake."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from petid_search.errors import ModelError
from petid_search.images import open_image
from petid_search.models.architecture import Head
from petid_search.models.backbones import create_backbone, import_keras
from petid_search.models.bundle import Bundle, write_bundle
from petid_search.models.linear_head import LinearHead
from petid_search.models.runtime import Embedder

SIZE = 96


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    keras = import_keras()
    from petid_search.models.heads import create_model

    keras.utils.set_random_seed(1)
    return write_bundle(
        create_model(create_backbone("mobilenetv2", size=SIZE), Head()),
        tmp_path_factory.mktemp("models") / "small",
        name="small",
        backbone="mobilenetv2",
        head=Head(),
        fit="stretch",
        origin="drawn at random",
        licence="CC0",
        data="nothing",
    )


@pytest.fixture(scope="module")
def embedder(bundle):
    return Embedder(bundle)


@pytest.fixture(scope="module")
def photos():
    """Images, uint8, (12, 96, 96, 3), of coloured patches."""
    generator = np.random.default_rng(2)
    return generator.integers(0, 256, (12, 6, 6, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)


def test_embeddings_have_unit_length(embedder, photos):
    embeddings = embedder.embed(photos)
    assert embeddings.shape == (12, 1280)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_the_embedder_says_whose_embeddings_it_makes(embedder, bundle):
    assert embedder.name == "small"
    assert embedder.fingerprint == bundle.card.fingerprint
    assert (embedder.dimension, embedder.input_size) == (1280, SIZE)
    assert embedder.head() == LinearHead("avg")


def test_integers_and_floats_of_the_same_pixels_embed_alike(embedder, photos):
    np.testing.assert_array_equal(embedder.embed(photos), embedder.embed(photos.astype(np.float32)))


def test_an_image_embeds_alike_alone_and_in_a_batch(embedder, photos):
    together = embedder.embed(photos)
    alone = np.concatenate([embedder.embed(photos[i : i + 1]) for i in range(len(photos))])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert (together @ together.T).min() < 0.99  # different images are told apart


def test_images_that_are_no_copy_of_their_own_embed_alike(embedder, photos):
    for mirrored in (photos[::-2, :, ::-1], photos.astype(np.float32)[::-2, :, ::-1]):
        np.testing.assert_array_equal(embedder.embed(mirrored), embedder.embed(np.ascontiguousarray(mirrored)))


def test_features_are_what_the_embeddings_are_pooled_from(embedder, photos):
    embeddings, features = embedder.features(photos)
    assert features.shape == (12, 3, 3, 1280)
    np.testing.assert_allclose(embeddings, embedder.embed(photos), atol=1e-6)
    pooled = features.mean(axis=(1, 2))
    np.testing.assert_allclose(embeddings, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-5)


def test_no_images_have_no_embeddings(embedder, photos):
    assert embedder.embed(photos[:0]).shape == (0, 1280)
    assert [array.shape for array in embedder.features(photos[:0])] == [(0, 1280), (0, 3, 3, 1280)]


def test_threads_may_embed_at_once_from_the_first_image_on(bundle, photos):
    expected = Embedder(bundle).embed(photos)
    shared = Embedder(bundle, threads=1)
    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda i: (i % 12, shared.embed(photos[i % 12 : i % 12 + 1])), range(96))
        for place, answer in answers:
            np.testing.assert_allclose(answer, expected[place : place + 1], atol=1e-5)


@pytest.mark.parametrize(
    "shape", [(SIZE, SIZE, 3), (1, SIZE, SIZE), (1, 3, SIZE, SIZE), (1, SIZE, SIZE, 4), (1, 95, SIZE, 3)]
)
def test_images_of_another_shape_are_refused(embedder, shape):
    with pytest.raises(ValueError, match=rf"\(n, 96, 96, 3\)\. Received: \({', '.join(map(str, shape))}\)"):
        embedder.embed(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("kind", [np.float64, np.int64, np.bool_, np.float16])
def test_images_of_another_kind_are_refused(embedder, kind):
    with pytest.raises(ValueError, match=f"Received: {np.dtype(kind)}"):
        embedder.embed(np.zeros((1, SIZE, SIZE, 3), kind))


@pytest.mark.parametrize("pixel", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_refused(embedder, photos, pixel):
    broken = photos[:2].astype(np.float32)
    broken[1, 40, 40] = pixel
    for ask in (embedder.embed, embedder.features):
        with pytest.raises(ModelError, match="not finite") as raised:
            ask(broken)
        assert "\n" not in str(raised.value)


def test_a_model_is_not_read_before_the_first_image(bundle, photos):
    reopened = Bundle.open(bundle.folder)
    embedder = Embedder(reopened)
    assert reopened._verified == set()
    embedder.embed(photos[:1])
    assert reopened._verified == {"embed.onnx"}  # and the weights for Keras not at all


def test_embedding_imports_no_tensorflow(bundle):
    code = (
        "import sys, numpy, pathlib\n"
        "from petid_search.models.bundle import Bundle\n"
        "from petid_search.models.runtime import Embedder\n"
        "embedder = Embedder(Bundle.open(pathlib.Path(sys.argv[1])))\n"
        "assert 'onnxruntime' not in sys.modules\n"
        f"embedder.embed(numpy.zeros((1, {SIZE}, {SIZE}, 3), numpy.uint8))\n"
        "print({'tensorflow', 'keras', 'onnx', 'h5py'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle.folder], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_without_onnx_runtime_the_way_to_install_it_is_told(bundle, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as Python marks a module that cannot be imported
    with pytest.raises(ModelError, match=r"petid-search\[cpu\]"):
        Embedder(bundle).embed(photos[:1])


def test_scores_come_with_the_embedding_in_one_run(five, take_photo):
    images = np.stack([open_image(take_photo(individual), 32) for individual in (4, 5, 20)])
    embeddings, scores = five.embed_and_score(images)
    np.testing.assert_allclose(embeddings, five.embed(images), atol=1e-6)
    np.testing.assert_allclose(scores, five.scores(images), atol=1e-6)
    assert (scores.dtype, scores.shape) == (np.float32, (3, 5))
    assert five.scores(images[:0]).shape == (0, 5)


def test_a_model_without_a_classifier_has_no_scores(embedder, photos):
    assert embedder.classes == ()
    embeddings, scores = embedder.embed_and_score(photos)
    np.testing.assert_allclose(embeddings, embedder.embed(photos), atol=1e-6)
    assert scores.shape == (12, 0)
    with pytest.raises(ModelError, match="petid train FOLDER"):
        embedder.scores(photos)


def test_one_thread_scores_as_several_do(five, take_photo):
    images = np.stack([open_image(take_photo(individual), 32) for individual in range(7)])
    alone = Embedder(five.bundle, threads=1)
    for several, one in zip(five.embed_and_score(images), alone.embed_and_score(images), strict=True):
        np.testing.assert_allclose(several, one, atol=1e-5)


def test_a_score_that_is_no_number_is_refused(five, take_photo):
    broken = open_image(take_photo(4), 32)[None].astype(np.float32)
    broken[0, 3, 3] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        five.scores(broken)
