"""Can a map be believed: deletion, insertion, and what becomes of it when the weights are shuffled."""

import numpy as np
import pytest
from conftest import draw_animal
from test_explain_classes import tiny, tiny_network, write_bundle_of  # noqa: F401 - a fixture

from petid_search.explain import ClassExplainer, Examiner, border_share, border_warning, draw
from petid_search.explain.faithfulness import STEPS, centred_blob, measure
from petid_search.explain.maps import BORDER_AREA
from petid_search.explain.sanity import SHARES, rank_correlation
from petid_search.explain.views import stitched
from petid_search.models.architecture import Classifier, Head
from petid_search.models.gradients import Differentiable
from petid_search.models.runtime import Embedder


def brightness_of_the_corner(images):
    """A value that depends on the upper left quarter alone: there is no doubt what a map of it must show."""
    return images[:, :16, :16].mean((1, 2, 3)).astype(np.float32) / 255


@pytest.fixture
def bright_corner():
    image = np.full((32, 32, 3), 30, np.uint8)
    image[:16, :16] = 250
    return image


def test_a_map_of_the_right_place_beats_chance_and_the_middle(bright_corner):
    heat = np.zeros((4, 4), np.float32)
    heat[:2, :2] = 1
    found = measure(bright_corner, stitched([heat]), brightness_of_the_corner)
    assert found.beats_random
    assert found.beats_blob
    curves = found.of_map
    assert curves.deletion.shape == curves.insertion.shape == (STEPS + 1,)
    assert curves.deletion[0] == curves.insertion[-1] == pytest.approx(250 / 255)
    # A quarter of the picture holds all of it: after a third, everything has gone or come back.
    assert curves.deletion[STEPS // 3 + 1] == pytest.approx(curves.deletion[-1], abs=0.01)
    assert curves.insertion[STEPS // 3 + 1] == pytest.approx(250 / 255, abs=0.01)


def test_a_map_of_the_wrong_place_beats_nothing(bright_corner):
    heat = np.zeros((4, 4), np.float32)
    heat[2:, 2:] = 1
    found = measure(bright_corner, stitched([heat]), brightness_of_the_corner)
    assert not found.beats_random
    assert not found.beats_blob
    assert found.of_map.deletion_area > found.of_random.deletion_area


def test_an_empty_map_is_no_better_than_chance(bright_corner):
    found = measure(bright_corner, np.zeros((4, 4), np.float32), brightness_of_the_corner)
    assert found.of_map.deletion_area == pytest.approx(found.of_random.deletion_area, abs=0.1)


def test_the_same_seed_gives_the_same_and_json_tells_all_three_orders(bright_corner):
    heat = centred_blob((4, 4))
    one, other = (measure(bright_corner, heat, brightness_of_the_corner, seed=3).to_json() for _ in range(2))
    assert one == other
    assert list(one) == ["map", "random", "blob"]
    assert set(one["map"]) == {"deletion", "insertion", "deletion_curve", "insertion_curve"}


def test_a_flat_map_has_the_borders_area_as_its_share():
    assert border_share(np.ones((7, 7), np.float32)) == pytest.approx(BORDER_AREA)
    assert border_share(np.ones((13, 5), np.float32)) == pytest.approx(BORDER_AREA)
    assert border_share(np.zeros((7, 7), np.float32)) == 0
    assert border_share(np.full((7, 7), -1, np.float32)) == 0


def test_evidence_at_the_border_is_warned_of_and_in_the_middle_is_not():
    heat = np.zeros((10, 10), np.float32)
    heat[5, 5] = 1
    assert border_share(heat) == pytest.approx(0)
    assert border_warning(heat) is None
    heat[:] = 0
    heat[0, 3] = heat[4, 9] = 1
    assert border_share(heat) == pytest.approx(1)
    assert "background" in border_warning(heat)
    # A cell of 7 × 7 in a corner lies in the border but for 0.3 by 0.3 of it.
    heat = np.zeros((7, 7), np.float32)
    heat[0, 0] = 2
    assert border_share(heat) == pytest.approx(1 - 0.3**2)


def test_ranks_correlate_whatever_the_values():
    one = np.random.default_rng(0).random((6, 6)).astype(np.float32)
    assert rank_correlation(one, one**3) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert rank_correlation(one, np.ones_like(one)) == 0


def test_that_both_are_higher_in_the_middle_is_not_counted():
    first, second = (np.random.default_rng(seed).random((12, 12)).astype(np.float32) for seed in (1, 2))
    middle = 3 * centred_blob((12, 12))
    assert np.corrcoef((first + middle).ravel(), (second + middle).ravel())[0, 1] > 0.8
    assert abs(rank_correlation(first + middle, second + middle)) < 0.25
    assert rank_correlation(first + middle, middle) == pytest.approx(0)


def test_shuffling_begins_at_the_output_and_changes_nothing_but_kernels(tiny):  # noqa: F811 - a fixture
    bundle, model = tiny(Head(classifier=Classifier()))
    network = Differentiable(bundle)
    network.shuffle_kernels(0.1, 0)
    shuffled = {layer.name: layer.get_weights() for layer in network._model.layers if layer.weights}
    for name, weights in shuffled.items():
        learned = model.get_layer(name).get_weights()
        np.testing.assert_array_equal(np.sort(weights[0].ravel()), np.sort(learned[0].ravel()))
        assert np.array_equal(weights[0], learned[0]) == (name != "classifier")
        np.testing.assert_array_equal(weights[1], learned[1])
    network.shuffle_kernels(1.0, 0)
    assert not np.array_equal(
        network._model.get_layer("lower").get_weights()[0], model.get_layer("lower").get_weights()[0]
    )


def test_both_tests_are_made_of_an_explanation_and_drawn(tiny, take_photo):  # noqa: F811 - a fixture
    bundle, _ = tiny(Head(classifier=Classifier(flatten=True)))
    embedder = Embedder(bundle)
    explanation = ClassExplainer(embedder).explain(take_photo(3))
    belief = Examiner(embedder).examine(explanation)
    assert set(belief.under_shuffled_weights) == set(SHARES)
    assert all(-1 <= value < 0.999 for value in belief.under_shuffled_weights.values())
    image, score = draw_animal(3, 0), next(iter(explanation.scores.values()))
    assert belief.faithfulness.of_map.deletion[0] == pytest.approx(score, abs=1e-4)
    assert embedder.scores(image[None]).max() == pytest.approx(score, abs=1e-4)
    assert draw(explanation, belief).height > draw(explanation).height + 200
    told = belief.to_json()
    assert list(told["rank_correlation_under_shuffled_weights"]) == ["0.1", "0.5", "1"]
