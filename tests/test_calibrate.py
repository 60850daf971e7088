"""Thresholds that keep what they promise, and probabilities, from the gallery's own photos."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import draw_scene
from herd import fill, sha256_of, to_unit, unit_vectors

from petid_search.calibrate import MISS, Calibration, calibrate, current_calibration, meeting
from petid_search.calibrate.measure import Samples
from petid_search.errors import CalibrationError, GalleryError
from petid_search.index.gallery import Gallery
from petid_search.likeness import Likeness

ARRAYS = (
    *("mated", "mated_of", "non_mated", "non_mated_of", "nearest"),
    *("genuine", "genuine_of", "impostor", "impostor_of"),
)


def draw_herd(individuals, photos, *, seed, dimension=24, noise=0.7):
    """Owners and embeddings: each individual a direction, each photo of it that direction with noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(individuals, 1, dimension))
    vectors = to_unit(centres + noise * rng.normal(size=(individuals, photos, dimension)))
    return np.repeat(np.arange(individuals), photos), vectors.reshape(-1, dimension)


def made_of(mated=(), non_mated=(), genuine=(), impostor=(), *, mated_of=None, non_mated_of=None, nearest=None):
    """A calibration of these similarities; each probe is of an individual of its own, where none are given."""
    (mated, mated_of), (non_mated, non_mated_of, nearest) = (
        in_order(mated, mated_of),
        in_order(non_mated, non_mated_of, nearest),
    )
    genuine, impostor = (np.sort(np.asarray(part, np.float32)) for part in (genuine, impostor))
    one = np.arange(len(impostor), dtype=np.int32)
    pairs = genuine, np.arange(len(genuine), dtype=np.int32), impostor, np.stack([one, np.full_like(one, -1)], axis=1)
    return Calibration.of(Samples(mated, mated_of, non_mated, non_mated_of, nearest, *pairs, 100, 50, 0))


def in_order(similarities, *numbers):
    similarities = np.asarray(similarities, np.float32)
    order = np.argsort(similarities, kind="stable")
    given = (np.arange(len(similarities)) if part is None else np.asarray(part) for part in numbers)
    return similarities[order], *(part.astype(np.int32)[order] for part in given)


def assert_equal(one, other):
    for name in ARRAYS:
        assert np.array_equal(getattr(one.samples, name), getattr(other.samples, name)), name
    for name in ("photos", "gallery_size", "left_out"):
        assert getattr(one.samples, name) == getattr(other.samples, name), name
    for name in ("similarities", "probabilities"):
        assert np.array_equal(getattr(one.probabilities, name), getattr(other.probabilities, name))


# What is measured


@pytest.fixture
def uneven(gallery):
    """40 individuals with one to five photos, and their embeddings."""
    rng = np.random.default_rng(1)
    owners = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    centres = rng.normal(size=(40, 24))
    vectors = to_unit(centres[owners] + 0.7 * rng.normal(size=(len(owners), 24)))
    order = rng.permutation(len(owners))
    owners, vectors = owners[order], vectors[order]
    fill(gallery, owners, vectors)
    return gallery, owners.tolist(), vectors


def test_mated_and_non_mated_similarities_are_those_of_plain_loops(uneven):
    gallery, owners, vectors = uneven
    mated, non_mated = [], []
    for probe, owner in enumerate(owners):
        own, others = [], []
        for photo, photo_owner in enumerate(owners):
            if photo == probe:
                continue
            (own if photo_owner == owner else others).append(float(vectors[probe] @ vectors[photo]))
        if own:
            mated.append(max(own))
        non_mated.append(max(others))
    calibration = calibrate(gallery)
    assert calibration.samples.mated == pytest.approx(sorted(mated), abs=1e-6)
    assert calibration.samples.non_mated == pytest.approx(sorted(non_mated), abs=1e-6)
    assert (calibration.samples.photos, calibration.samples.gallery_size) == (len(owners), len(set(owners)))


def test_genuine_and_impostor_pairs_are_those_of_plain_loops_each_counted_once(uneven):
    gallery, owners, vectors = uneven
    genuine, impostor = [], []
    for one, other in itertools.combinations(range(len(owners)), 2):
        (genuine if owners[one] == owners[other] else impostor).append(float(vectors[one] @ vectors[other]))
    calibration = calibrate(gallery)
    assert calibration.samples.genuine == pytest.approx(sorted(genuine), abs=1e-6)
    assert calibration.samples.impostor == pytest.approx(sorted(impostor), abs=1e-6)


def test_blocks_smaller_than_the_gallery_change_nothing(uneven, monkeypatch):
    gallery, _, _ = uneven
    whole = calibrate(gallery)
    for block in (1, 7, 50):
        monkeypatch.setattr("petid_search.index.gallery._BLOCK", block)
        assert len(list(gallery.blocks())) > 1
        gallery.records.db.table("meetings").delete_where()
        assert_equal(calibrate(gallery), whole)


def test_blocks_hold_every_photo_once_and_individuals_whole(uneven, monkeypatch):
    gallery, owners, vectors = uneven
    monkeypatch.setattr("petid_search.index.gallery._BLOCK", 10)
    first = min(photo.id for photo in gallery.photos())
    seen, individuals = [], []
    for block in gallery.blocks():
        assert np.array_equal(block.vectors, vectors[block.photos - first])
        for individual, photos in zip(block.individuals, np.split(block.photos, block.starts[1:]), strict=True):
            assert len({owners[photo - first] for photo in photos}) == 1
            individuals.append(individual)
        seen.extend(block.photos.tolist())
    assert sorted(seen) == list(range(first, first + len(owners)))
    assert len(individuals) == len(set(individuals)) == 40


def test_a_large_gallery_is_measured_by_some_of_its_photos_and_all_it_holds(gallery, monkeypatch):
    monkeypatch.setattr(meeting, "_PROBES", 50)
    monkeypatch.setattr(meeting, "PAIRS", 300)
    monkeypatch.setattr("petid_search.index.gallery._BLOCK", 100)
    owners, vectors = draw_herd(100, 4, seed=2)
    fill(gallery, owners, vectors)
    samples = calibrate(gallery).samples
    assert (len(samples.mated), len(samples.non_mated)) == (50, 50)
    assert len(np.unique(samples.non_mated_of)) == 50, "as many individuals as there can be"
    assert 250 <= len(samples.impostor) <= 300
    similarities = vectors @ vectors.T
    same = owners[:, None] == owners
    np.fill_diagonal(similarities, -2.0)
    possible = {
        "mated": np.where(same, similarities, -2.0).max(axis=1),
        "non_mated": np.where(same, -2.0, similarities).max(axis=1),
        "genuine": similarities[same],
        "impostor": similarities[~same],
    }
    for name, values in possible.items():
        measured = getattr(samples, name)
        assert np.abs(measured[:, None] - values).min(axis=1).max() < 1e-6, name
    # A sample of the photos and of the pairs, and no part of the gallery preferred.
    probes = np.abs(samples.non_mated[:, None] - possible["non_mated"]).argmin(axis=1)
    assert all((probes // 100 == quarter).sum() > 3 for quarter in range(4))
    assert samples.impostor.mean() == pytest.approx(similarities[~same].mean(), abs=4 * 0.25 / np.sqrt(250))


@pytest.mark.parametrize(("probes", "turns"), [(40, {1}), (60, {1, 2}), (1000, {1, 2, 3, 4, 5})])
def test_every_individual_plays_once_before_another_plays_twice(uneven, monkeypatch, probes, turns):
    monkeypatch.setattr(meeting, "_PROBES", probes)
    gallery, owners, _ = uneven
    samples = calibrate(gallery).samples
    counts = np.bincount(samples.non_mated_of)
    assert len(counts) == 40
    assert set(counts.tolist()) <= turns
    assert counts.sum() == min(probes, len(owners))


def test_the_nearest_other_individual_is_kept_with_its_similarity(uneven):
    gallery, owners, vectors = uneven
    samples = calibrate(gallery).samples
    similarities = np.where(np.equal.outer(owners, owners), -2.0, vectors @ vectors.T)
    # Individuals are numbered as the gallery met them.
    number = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
    of_probe = {(number[owners[row]], number[owners[most]]) for row, most in enumerate(similarities.argmax(axis=1))}
    assert set(zip(samples.non_mated_of.tolist(), samples.nearest.tolist(), strict=True)) == of_probe


def test_the_same_gallery_gives_the_same_calibration(uneven):
    gallery, _, _ = uneven
    assert_equal(calibrate(gallery), calibrate(gallery))


# What is promised


def strangers_over(threshold, herd, individuals, *, seed):
    """How many strangers, one photo each, reach the threshold in a gallery."""
    _, probes = draw_herd(individuals, 1, seed=seed)
    return int(((probes @ herd.T).max(axis=1) >= threshold).sum())


@pytest.mark.parametrize(
    ("individuals", "photos", "fpir"), [(120, 1, 0.01), (120, 1, 0.1), (50, 4, 0.1), (150, 3, 0.01)]
)
def test_strangers_reach_the_threshold_no_more_often_than_promised(tmp_path, individuals, photos, fpir):
    """Over many galleries: the promise is of the mean, since a threshold is as random as the gallery it is made of."""
    strangers, rates = 2000, []
    for seed in range(40):
        owners, vectors = draw_herd(individuals, photos, seed=seed)
        with Gallery(tmp_path / str(seed), create=True) as gallery:
            fill(gallery, owners, vectors)
            threshold = calibrate(gallery).threshold(fpir)
        rates.append(strangers_over(threshold, vectors, strangers, seed=10_000 + seed) / strangers)
    promised = fpir + 1 / (individuals + 1)  # (S + 2)/(G + 1): see `threshold_of`
    mean, error = np.mean(rates), np.std(rates, ddof=1) / np.sqrt(len(rates))
    assert mean <= promised + 3 * error
    assert mean >= fpir / 3, "and the threshold is not so high that it promises nothing"


@pytest.mark.parametrize(("individuals", "photos", "fpir"), [(100, 1, 0.1), (60, 4, 0.05), (200, 2, 0.01)])
def test_new_strangers_fall_into_the_stated_interval_as_often_as_said(tmp_path, individuals, photos, fpir):
    inside = 0
    for seed in range(60):
        owners, vectors = draw_herd(individuals, photos, seed=seed)
        new_owners, new = draw_herd(individuals, photos, seed=5000 + seed)
        with Gallery(tmp_path / str(seed), create=True) as gallery:
            fill(gallery, owners, vectors)
            promise = calibrate(gallery).promise(fpir)
        reached = (new @ vectors.T).max(axis=1) >= promise.threshold
        share = np.mean([reached[new_owners == owner].mean() for owner in range(individuals)])
        assert 0 <= promise.low <= promise.measured <= promise.high <= 1
        inside += promise.low <= share <= promise.high
    assert inside >= 54  # of 60; 57 are said


def test_enrolled_animals_fall_under_the_lower_threshold_no_more_often_than_said(tmp_path):
    rates = []
    for seed in range(15):
        owners, vectors = draw_herd(80, 3, seed=seed)
        enrolled = np.tile([True, True, False], 80)
        with Gallery(tmp_path / str(seed), create=True) as gallery:
            fill(gallery, owners[enrolled], vectors[enrolled])
            calibration = calibrate(gallery)
        own = np.einsum("id,ipd->ip", vectors[~enrolled], vectors[enrolled].reshape(80, 2, -1)).max(axis=1)
        lower = calibration.lower_threshold(0.05)
        assert lower < calibration.threshold(0.05)
        rates.append(np.mean(own < lower))
    # Two photos to be found by instead of one make a probe easier than those measured: less than MISS, if anything.
    assert np.mean(rates) <= MISS + 3 * np.std(rates, ddof=1) / np.sqrt(len(rates))


def test_pairs_of_strangers_reach_the_verification_threshold_no_more_often_than_promised(tmp_path):
    rates = []
    for seed in range(15):
        owners, vectors = draw_herd(60, 2, seed=seed)
        with Gallery(tmp_path / str(seed), create=True) as gallery:
            fill(gallery, owners, vectors)
            threshold = calibrate(gallery).verification_threshold(0.05)
        _, pairs = draw_herd(2000, 1, seed=20_000 + seed)
        rates.append(np.mean(np.sum(pairs[::2] * pairs[1::2], axis=1) >= threshold))
    mean, error = np.mean(rates), np.std(rates, ddof=1) / np.sqrt(len(rates))
    assert mean <= 0.05 + 3 * error
    assert mean >= 0.025


@pytest.mark.parametrize(
    ("n", "rate", "over"), [(99, 0.01, 1), (199, 0.01, 2), (150, 0.01, 1), (1, 0.5, 1), (9, 0.1, 1), (99, 0.29, 29)]
)
def test_the_threshold_lies_just_above_the_kth_highest_of_n(n, rate, over):
    """(S + 1)/(n + 1) ≤ rate, with one photo each: S = k - 1 lie over the threshold, and one right under it."""
    similarities = np.linspace(-0.5, 0.5, n).astype(np.float32)
    for calibration, threshold in (
        (made := made_of(non_mated=similarities), made.threshold(rate)),
        (made := made_of(impostor=similarities), made.verification_threshold(rate)),
    ):
        assert calibration is not None
        assert int((similarities >= threshold).sum()) == over - 1
        assert threshold == np.nextafter(similarities[n - over], np.float32(1))


def test_a_stranger_as_similar_as_the_last_that_counts_does_not_match():
    calibration = made_of(non_mated=[0.5] * 200)
    assert calibration.threshold(0.01) > 0.5


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1), (0.001, 999), (0.03, 33)])
def test_too_few_individuals_say_how_many_are_needed_and_what_these_can_promise(rate, needed):
    few = np.linspace(0, 0.5, needed - 1)
    enough = np.linspace(0, 0.5, needed)
    for few_of, ask, says in (
        (made_of(non_mated=few, mated=np.ones(100)), lambda made: made.threshold(rate), f"{needed} individuals that"),
        (
            made_of(non_mated=few, mated=np.ones(100)),
            lambda made: made.lower_threshold(rate),
            f"{needed} individuals that",
        ),
        (
            made_of(impostor=few, genuine=np.ones(100)),
            lambda made: made.verification_threshold(rate),
            f"{needed} individuals that are compared",
        ),
        (
            made_of(impostor=few, genuine=np.ones(100)),
            lambda made: made.verification_lower_threshold(rate),
            f"{needed} individuals that are compared",
        ),
    ):
        with pytest.raises(CalibrationError, match=says):
            ask(few_of)
    assert -1 <= made_of(non_mated=enough).threshold(rate) <= 1
    assert -1 <= made_of(impostor=enough).verification_threshold(rate) <= 1
    if needed > 1:
        with pytest.raises(
            CalibrationError, match=rf"it has {needed - 1}; the smallest FPIR that it can promise is 0\.\d+$"
        ):
            made_of(non_mated=few).threshold(rate)


def test_a_lower_threshold_needs_individuals_with_several_photos():
    calibration = made_of(non_mated=np.linspace(0, 0.5, 200), mated=np.linspace(0, 1, 18))
    with pytest.raises(CalibrationError, match=r"19 individuals with several photos are needed, and it has 18$"):
        calibration.lower_threshold(0.01)


def test_the_lower_threshold_is_never_above_the_threshold():
    calibration = made_of(mated=np.linspace(0.9, 1, 100), non_mated=np.linspace(0, 0.5, 100))
    assert calibration.lower_threshold(0.01) == calibration.threshold(0.01)
    overlapping = made_of(mated=np.linspace(0.2, 1, 100), non_mated=np.linspace(0, 0.9, 100))
    assert overlapping.lower_threshold(0.01) < 0.3 < overlapping.threshold(0.01)


@pytest.mark.parametrize("far", [0.1, 0.2, 0.5])
def test_two_photos_are_verified_by_individuals_and_not_by_pairs(uneven, far):
    gallery, owners, vectors = uneven
    threshold = calibrate(gallery).verification_threshold(far)

    def reached(limit):
        shares = []
        for individual in range(40):
            mine = [photo for photo, owner in enumerate(owners) if owner == individual]
            others = [photo for photo, owner in enumerate(owners) if owner != individual]
            shares.append(np.mean([float(vectors[one] @ vectors[other]) >= limit for one in mine for other in others]))
        return sum(shares)

    assert (reached(threshold) + 1) / 41 <= far < (reached(threshold - 0.005) + 1) / 41


def test_the_pairs_of_one_individual_that_never_looks_like_itself_count_as_one_of_many():
    calibration = made_of(impostor=np.linspace(0, 0.3, 99), genuine=np.linspace(0.4, 1, 39))
    samples = calibration.samples
    crowd = np.full(500, 0.1, np.float32)
    pairs = np.concatenate([crowd, samples.genuine]), np.concatenate([np.full(500, 39, np.int32), samples.genuine_of])
    with_crowd = Calibration.of(replace(samples, genuine=pairs[0], genuine_of=pairs[1]))
    assert with_crowd.verification_lower_threshold(0.01) == pytest.approx(
        calibration.verification_lower_threshold(0.01), abs=0.05
    )


def test_twelve_photos_of_twelve_individuals_have_sixty_six_pairs_and_no_more(gallery):
    fill(gallery, range(12), unit_vectors(12))
    calibration = calibrate(gallery)
    assert len(calibration.samples.impostor) == 66
    with pytest.raises(
        CalibrationError, match=r"99 individuals that are compared with others are needed, and it has 12$"
    ):
        calibration.verification_threshold(0.01)


# Probability


def test_the_probability_rises_with_similarity_and_is_never_certain(uneven):
    gallery, _, _ = uneven
    calibration = calibrate(gallery)
    probabilities = [calibration.probability(similarity) for similarity in np.linspace(-1, 1, 201).tolist()]
    assert all(0.0 < probability < 1.0 for probability in probabilities)
    assert all(low <= high for low, high in itertools.pairwise(probabilities))
    assert probabilities[0] < 0.5 < probabilities[-1]


def test_there_is_no_probability_without_individuals_of_several_photos(gallery):
    fill(gallery, range(60), unit_vectors(60))
    calibration = calibrate(gallery)
    assert (len(calibration.samples.mated), len(calibration.samples.non_mated)) == (0, 60)
    assert calibration.probability(0.9) is None
    assert calibration.calibration_error() is None


# Kept and renewed


def test_a_calibration_is_the_same_when_loaded(uneven):
    gallery, _, _ = uneven
    calibration = calibrate(gallery)
    assert_equal(Calibration.from_bytes(calibration.to_bytes()), calibration)
    with Gallery(gallery.folder) as reopened:
        assert_equal(current_calibration(reopened), calibration)


def test_a_calibration_serves_until_the_gallery_has_grown_by_more_than_a_tenth(gallery):
    owners, vectors = draw_herd(50, 2, seed=3)
    fill(gallery, owners, vectors)
    made = current_calibration(gallery)
    assert made.samples.photos == 100
    _, more = draw_herd(12, 1, seed=4)
    fill(gallery, range(100, 110), more[:10], first=1000)
    assert_equal(current_calibration(gallery), made)
    fill(gallery, [110], more[10:11], first=1010)
    renewed = current_calibration(gallery)
    assert (renewed.samples.photos, renewed.samples.gallery_size) == (111, 61)
    assert_equal(current_calibration(gallery), renewed)


def test_a_calibration_serves_until_the_gallery_has_shrunk_by_more_than_a_tenth(gallery):
    owners, vectors = draw_herd(50, 2, seed=3)
    fill(gallery, owners, vectors)
    made = current_calibration(gallery)
    for individual in range(5):
        gallery.remove(str(individual))
    assert_equal(current_calibration(gallery), made)
    gallery.remove("5", photo=sha256_of(10))
    assert current_calibration(gallery).samples.photos == 89


def test_a_calibration_of_another_rule_or_model_does_not_serve(gallery, monkeypatch):
    owners, vectors = draw_herd(50, 2, seed=3)
    fill(gallery, owners, vectors)
    made = calibrate(gallery)
    changed = made_of([0.5], [0.5])
    gallery.save_calibration(gallery.model, rule="mean photo", generation=99, photos=100, samples=changed.to_bytes())
    assert_equal(current_calibration(gallery), made)
    other = gallery.add_model("other", "1" * 64, 24)
    gallery.save_calibration(other, rule="best photo", generation=99, photos=100, samples=changed.to_bytes())
    assert_equal(current_calibration(gallery), made)


@pytest.mark.parametrize(
    "stored", [b"", b"not a file", b"PK\x03\x04 cut short", "an older petid's", "a later petid's", "one array short"]
)
def test_a_calibration_that_cannot_be_read_is_made_anew_and_never_misread(gallery, stored):
    owners, vectors = draw_herd(50, 2, seed=3)
    fill(gallery, owners, vectors)
    made = calibrate(gallery)
    if isinstance(stored, str):
        with np.load(io.BytesIO(made.to_bytes())) as arrays:
            kept = dict(arrays)
        if stored == "an older petid's":  # it had the same arrays, a size of two numbers and no format
            kept = {**kept, "size": kept["size"][:2], "logistic": np.array([1.0, 0.0])}
            del kept["format"]
        elif stored == "a later petid's":
            kept["format"] = kept["format"] + 1
        else:
            del kept["nearest"]
        file = io.BytesIO()
        np.savez_compressed(file, **kept)
        stored = file.getvalue()
    gallery.save_calibration(gallery.model, rule="best photo", generation=99, photos=100, samples=stored)
    assert Calibration.from_bytes(stored) is None
    assert_equal(current_calibration(gallery), made)
    assert gallery.calibration_row(gallery.model)["samples"] == made.to_bytes()


def test_who_may_not_write_the_gallery_gets_a_calibration_all_the_same(gallery, monkeypatch):
    owners, vectors = draw_herd(50, 2, seed=3)
    fill(gallery, owners, vectors)

    def refuse(*_, **__):
        raise GalleryError("may not be written")

    monkeypatch.setattr(gallery, "save_calibration", refuse)
    assert current_calibration(gallery).samples.gallery_size == 50
    with pytest.raises(GalleryError, match="may not be written"):
        calibrate(gallery)


# Near-duplicates


@pytest.fixture
def pictures(gallery):
    """Gives photos of the gallery a picture: `pictures({photo: scene})`; those of one scene are near-duplicates."""

    def give(scenes):
        thumbnails = {
            sha256_of(photo): np.asarray(draw_scene(scene).convert("L").resize((32, 32)))
            for photo, scene in scenes.items()
        }
        Likeness(gallery).add(thumbnails)

    return give


def test_a_mated_photo_is_not_found_by_its_near_duplicates(gallery, pictures):
    vectors = unit_vectors(8, seed=5)
    vectors[1] = to_unit(vectors[0] + 0.1 * vectors[1])  # the same picture, saved again
    vectors[2] = to_unit(vectors[0] + 1.0 * vectors[2])
    fill(gallery, [0, 0, 0, 1, 1, 2, 2, 2], vectors)
    pictures({photo: photo for photo in range(8)} | {1: 0})
    by_itself = [float(vectors[0] @ vectors[2]), float(vectors[1] @ vectors[2])]
    samples = calibrate(gallery).samples
    of_first = samples.mated[samples.mated_of == 0]
    assert sorted(of_first)[:2] == pytest.approx(sorted(by_itself), abs=1e-6)
    assert samples.mated.max() < float(vectors[0] @ vectors[1]) - 0.1
    assert not np.isclose(samples.genuine, float(vectors[0] @ vectors[1])).any()
    assert samples.left_out == 0


def test_an_individual_of_one_picture_saved_twice_is_not_mated(gallery, pictures):
    fill(gallery, [0, 0, 1], unit_vectors(3))
    pictures({0: 7, 1: 7, 2: 8})
    samples = calibrate(gallery).samples
    assert (len(samples.mated), len(samples.genuine), len(samples.non_mated)) == (0, 0, 3)


def test_one_picture_under_two_names_does_not_raise_the_threshold_and_is_told(gallery, pictures):
    owners, vectors = draw_herd(60, 1, seed=8)
    twin = to_unit(vectors[17] + 0.05 * vectors[18])
    fill(gallery, [*owners, 60], np.concatenate([vectors, twin[None]]))
    wrong = calibrate(gallery)
    assert wrong.samples.non_mated.max() > 0.99
    pictures({photo: photo for photo in range(60)} | {60: 17})
    right = calibrate(gallery)
    assert right.samples.left_out == 1
    assert right.samples.non_mated.max() < 0.9
    assert len(right.samples.non_mated) == 61, "both are still searched for among the others"
    assert right.samples.impostor.max() < 0.9
    assert right.threshold(0.02) < wrong.threshold(0.02)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -1)
    assert np.isin(similarities.max(axis=1).round(5), right.samples.non_mated.round(5)).sum() >= 58


def test_photos_whose_picture_is_not_known_are_measured_as_they_are(gallery, pictures):
    owners, vectors = draw_herd(30, 2, seed=3)
    fill(gallery, owners, vectors)
    before = calibrate(gallery)
    pictures(dict.fromkeys(range(0, 60, 2), 1))  # of every pair of photos one
    after = calibrate(gallery).samples
    assert np.array_equal(after.mated, before.samples.mated)


# Hardly anything there


def test_an_empty_gallery_says_how_to_fill_it(gallery):
    for ask in (calibrate, current_calibration):
        with pytest.raises(GalleryError, match="petid enroll"):
            ask(gallery)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("photos", [1, 2, 3])
def test_one_individual_has_no_strangers(gallery, photos):
    fill(gallery, ["Rex"] * photos, unit_vectors(photos))
    calibration = calibrate(gallery)
    samples = calibration.samples
    assert (len(samples.mated), len(samples.non_mated)) == (photos if photos > 1 else 0, 0)
    assert (len(samples.genuine), len(samples.impostor)) == (photos * (photos - 1) // 2, 0)
    assert (calibration.smallest_fpir(), calibration.calibration_error()) == (1.0, None)
    for extrapolate in (False, True):
        with pytest.raises(CalibrationError, match="too small"):
            calibration.promise(0.5, extrapolate=extrapolate)


@pytest.mark.filterwarnings("error")
def test_a_gallery_whose_photos_were_all_removed_knows_nothing(gallery):
    fill(gallery, ["Rex"], unit_vectors(1))
    gallery.remove("Rex")
    calibration = current_calibration(gallery)
    samples = calibration.samples
    assert (samples.photos, samples.gallery_size, calibration.probability(0.5)) == (0, 0, None)
    with pytest.raises(CalibrationError, match=r"it has 0$"):
        calibration.threshold(0.01)


def test_a_gallery_that_lost_its_embeddings_knows_nothing(gallery):
    fill(gallery, ["Rex", "Bo"], unit_vectors(2))
    gallery.records.db.execute("DELETE FROM embeddings")
    assert len(calibrate(gallery).samples.non_mated) == 0


@pytest.mark.filterwarnings("error")
def test_photos_that_are_all_alike_give_thresholds_that_nobody_reaches(gallery):
    fill(gallery, np.repeat(range(40), 2), np.repeat(unit_vectors(1), 80, axis=0))
    calibration = calibrate(gallery)
    promise = calibration.promise(0.05)
    assert promise.threshold > calibration.samples.non_mated.max()
    assert (promise.measured, promise.low) == (0.0, 0.0)
    assert 0.0 < promise.high < 0.3
    assert calibration.probability(1.0) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(CalibrationError, match="all alike"):
        calibration.promise(0.01, extrapolate=True)
