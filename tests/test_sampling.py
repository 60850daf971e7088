"""Sampling: what a batch holds, told by plain counting."""

from collections import Counter

import numpy as np
import pytest

from petid_search.errors import RecipeError
from petid_search.train.sampling import balanced, few_photos, p_k, shuffled


def random_labels(rng: np.random.Generator) -> np.ndarray:
    """Some classes have one photo, some many; they stand in no order."""
    sizes = rng.integers(1, 12, size=int(rng.integers(3, 20)))
    return rng.permutation(np.repeat(np.arange(len(sizes)), sizes))


def epochs_of(way: str, labels: np.ndarray, seed: int, epoch: int) -> list[np.ndarray]:
    if way == "shuffled":
        return shuffled(len(labels), 4, seed=seed, epoch=epoch)
    if way == "balanced":
        return balanced(labels, 4, seed=seed, epoch=epoch)
    return p_k(labels, 3, 4, seed=seed, epoch=epoch)


@pytest.mark.parametrize("way", ["shuffled", "balanced", "p-k"])
def test_seed_and_epoch_alone_tell_what_is_drawn(way):
    labels = random_labels(np.random.default_rng(5))
    once = [epochs_of(way, labels, seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    again = [epochs_of(way, labels, seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    for first, second in zip(once, again, strict=True):
        assert len(first) == len(second)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    told = {tuple(np.concatenate(epoch).tolist()) for epoch in once}
    assert len(told) == 4, "another seed or epoch draws something else"
    assert len({len(epoch) for epoch in once}) == 1, "every epoch has as many batches"


def test_shuffled_takes_every_photo_once_and_keeps_the_last_few():
    batches = shuffled(11, 4, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert sorted(np.concatenate(batches).tolist()) == list(range(11))
    assert np.concatenate(batches).tolist() != list(range(11))
    assert shuffled(0, 4, seed=0, epoch=0) == []


def test_balanced_takes_each_class_as_often_as_another_and_each_photo_of_it_too():
    rng = np.random.default_rng(0)
    for seed in range(60):
        labels = random_labels(rng)
        batches = balanced(labels, 5, seed=seed, epoch=seed)
        assert {len(batch) for batch in batches} == {5}
        assert len(batches) == len(shuffled(len(labels), 5, seed=0, epoch=0))
        drawn = np.concatenate(batches)
        per_class = Counter({int(label): 0 for label in labels}) | Counter(labels[drawn].tolist())
        assert max(per_class.values()) - min(per_class.get(int(c), 0) for c in set(labels.tolist())) <= 1
        for label in set(labels.tolist()):
            times = Counter(drawn[labels[drawn] == label].tolist())
            counts = [times[place] for place in np.flatnonzero(labels == label).tolist()]
            assert max(counts) - min(counts) <= 1
    assert balanced(np.empty(0, np.int64), 5, seed=0, epoch=0) == []


def test_a_batch_holds_p_individuals_with_k_photos_each():
    rng = np.random.default_rng(1)
    for seed in range(60):
        labels = random_labels(rng)
        p, k = int(rng.integers(2, len(set(labels.tolist())) + 1)), int(rng.integers(2, 6))
        batches = p_k(labels, p, k, seed=seed, epoch=seed)
        assert len(batches) == -(-len(labels) // (p * k))
        turns = Counter()
        for batch in batches:
            shown = labels[batch].reshape(p, k)
            assert all(len(set(row.tolist())) == 1 for row in shown)
            assert len(set(shown[:, 0].tolist())) == p, "nobody comes twice in a batch"
            for row in batch.reshape(p, k):
                have = int((labels == labels[row[0]]).sum())
                times = Counter(row.tolist())
                assert len(times) == min(k, have), "a photo comes twice only where there are too few"
                assert max(times.values()) - min(times.values()) <= (have < k)
            turns.update(shown[:, 0].tolist())
        assert max(turns.values()) - min(turns.get(int(label), 0) for label in set(labels.tolist())) <= 1


def test_an_individuals_photos_take_turns():
    labels = np.repeat(np.arange(2), [8, 30])
    drawn = np.concatenate(p_k(labels, 2, 4, seed=0, epoch=0))
    times = Counter(drawn[labels[drawn] == 0].tolist())
    assert len(times) == 8
    assert max(times.values()) - min(times.values()) <= 1


def test_what_p_k_must_repeat_is_counted():
    told = few_photos(np.repeat(np.arange(5), [1, 1, 2, 4, 9]), 4)
    assert (told.classes, told.fewer, told.single) == (5, 3, 2)


@pytest.mark.parametrize(
    ("individuals", "photos", "said"),
    [(1, 4, "two individuals"), (4, 2, "there are 3 to train on"), (2, 1, "two photos of an individual")],
)
def test_a_batch_that_cannot_be_is_refused(individuals, photos, said):
    with pytest.raises(RecipeError, match=said):
        p_k(np.arange(9) % 3, individuals, photos, seed=0, epoch=0)
    with pytest.raises(RecipeError, match="one photo at least"):
        shuffled(3, 0, seed=0, epoch=0)
    with pytest.raises(RecipeError, match="one photo at least"):
        balanced(np.arange(3), 0, seed=0, epoch=0)
