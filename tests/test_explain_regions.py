"""Regions of two photos that agree are found on both, and paired."""

import numpy as np
import pytest

from petid_search.explain.regions import REGIONS, pair_regions
from petid_search.models.linear_head import LinearHead


def places(*marks, size=6, channels=8, common=0.2):
    """A feature map: a little of everything everywhere, and at each mark (rows, columns, channel) much of one thing."""
    features = np.full((size, size, channels), common, np.float32)
    for rows, columns, channel in marks:
        features[rows, columns, channel] = 5
    return features


UP, DOWN, LEFT, RIGHT = slice(0, 2), slice(4, 6), slice(0, 2), slice(4, 6)


@pytest.mark.parametrize("common", [0.2, 4])
def test_what_is_alike_is_paired_wherever_it_lies_however_alike_the_rest_is(common):
    probe = places((UP, LEFT, 0), (DOWN, RIGHT, 1), (UP, RIGHT, 2), common=common)
    candidate = places((DOWN, LEFT, 0), (UP, LEFT, 1), (DOWN, RIGHT, 2), common=common)
    regions = pair_regions(probe, candidate, LinearHead("avg"))
    assert len(regions.shares) == REGIONS
    found = set()
    for on_probe, on_candidate in zip(regions.on_probe, regions.on_candidate, strict=True):
        here, there = (np.unravel_index(one.argmax(), one.shape) for one in (on_probe, on_candidate))
        assert probe[here].argmax() == candidate[there].argmax()
        found.add(int(probe[here].argmax()))
        assert (on_probe > 0.5 * on_probe.max()).sum() == (on_candidate > 0.5 * on_candidate.max()).sum() == 4
    assert found == {0, 1, 2}


def test_shares_are_of_what_agrees_and_the_largest_comes_first():
    probe = places((UP, slice(None), 0), (DOWN, RIGHT, 1), common=0.0)
    candidate = places((UP, slice(None), 0), (DOWN, LEFT, 1), common=0.0)
    regions = pair_regions(probe, candidate, LinearHead("avg"))
    # Twelve places with twelve, and four with four, each the same product: 144 and 16 of 160.
    assert regions.shares == pytest.approx((0.9, 0.1), abs=1e-6)
    assert regions.on_probe[0][UP].min() > 0
    assert regions.on_probe[0][2:].max() == 0


def test_through_a_projection_only_what_it_keeps_can_agree():
    probe = places((UP, LEFT, 0), (DOWN, RIGHT, 1))
    candidate = places((UP, LEFT, 0), (DOWN, RIGHT, 1))
    kernel = np.zeros((8, 2), np.float32)
    kernel[1, 0] = kernel[2, 1] = 1
    regions = pair_regions(probe, candidate, LinearHead("avg", kernel, np.zeros(2, np.float32)))
    assert np.unravel_index(regions.on_probe[0].argmax(), (6, 6)) in {(r, c) for r in (4, 5) for c in (4, 5)}


def test_shares_stay_below_one_where_nearly_as_much_disagrees():
    probe = places((UP, LEFT, 0), (DOWN, RIGHT, 1), common=0.0)
    candidate = places((UP, LEFT, 0), (DOWN, RIGHT, 2), common=0.0)
    kernel = np.eye(8, dtype=np.float32)
    kernel[2] = -0.9 * kernel[1]  # of what the probe has down there, the candidate has the opposite
    similarity = (probe.mean((0, 1)) @ kernel) @ (candidate.mean((0, 1)) @ kernel)
    assert similarity > 0
    regions = pair_regions(probe, candidate, LinearHead("avg", kernel, np.zeros(8, np.float32)))
    assert regions.shares == pytest.approx((1.0,))


def test_what_a_bias_takes_away_from_all_photos_is_no_evidence():
    probe = places((UP, LEFT, 0), (DOWN, RIGHT, 1), common=4.0)
    candidate = places((DOWN, LEFT, 0), (UP, RIGHT, 1), common=4.0)
    head = LinearHead("avg", np.eye(8, dtype=np.float32), np.full(8, -4, np.float32))
    regions = pair_regions(probe, candidate, head)
    assert len(regions.shares) == 2
    assert sum(regions.shares) == pytest.approx(1, abs=1e-6)
    assert regions.on_probe[:, 2:4].max() < 1e-6
    for features in (probe, candidate):
        np.testing.assert_allclose(head.places(features).sum(0), head.vector(features), atol=1e-6)


def test_where_nothing_agrees_there_are_no_regions():
    probe, candidate = places((UP, LEFT, 0), common=0.0), places((UP, LEFT, 1), common=0.0)
    regions = pair_regions(probe, candidate, LinearHead("avg"))
    assert (regions.shares, regions.on_probe.shape, regions.on_candidate.shape) == ((), (0, 6, 6), (0, 6, 6))


def test_the_same_photos_give_the_same_regions_and_maps_may_differ_in_size():
    rng = np.random.default_rng(0)
    probe, candidate = (rng.uniform(0, 1, (7, 7, 20)).astype(np.float32) for _ in range(2))
    one, other = (pair_regions(probe, candidate[:5], LinearHead("gem")) for _ in range(2))
    np.testing.assert_array_equal(one.on_probe, other.on_probe)
    assert one.on_candidate.shape[1:] == (5, 7)
