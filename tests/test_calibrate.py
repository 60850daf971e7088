"""Thresholds that keep what they promise, and probabilities, from the gallery's own photos."""

import itertools

import numpy as np
import pytest
from herd import fill, sha256_of, to_unit, unit_vectors

from petid_search import calibrate as library
from petid_search.calibrate import MISS, Calibration, calibrate, current_calibration
from petid_search.errors import CalibrationError, GalleryError
from petid_search.index.gallery import Gallery

ARRAYS = ("mated", "non_mated", "genuine", "impostor")


def draw_herd(individuals, photos, *, seed, dimension=24, noise=0.7):
    """Owners and embeddings: each individual a direction, each photo of it that direction with noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(individuals, 1, dimension))
    vectors = to_unit(centres + noise * rng.normal(size=(individuals, photos, dimension)))
    return np.repeat(np.arange(individuals), photos), vectors.reshape(-1, dimension)


def made_of(mated=(), non_mated=(), genuine=(), impostor=(), slope=0.0, intercept=0.0):
    samples = (np.sort(np.asarray(part, np.float32)) for part in (mated, non_mated, genuine, impostor))
    return Calibration(*samples, slope, intercept, 100, 50)


def assert_equal(one, other):
    for name in ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.slope, one.intercept) == (other.slope, other.intercept)
    assert (one.photos, one.gallery_size) == (other.photos, other.gallery_size)


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
    assert calibration.mated == pytest.approx(sorted(mated), abs=1e-6)
    assert calibration.non_mated == pytest.approx(sorted(non_mated), abs=1e-6)
    assert (calibration.photos, calibration.gallery_size) == (len(owners), len(set(owners)))


def test_genuine_and_impostor_pairs_are_those_of_plain_loops_each_counted_once(uneven):
    gallery, owners, vectors = uneven
    genuine, impostor = [], []
    for one, other in itertools.combinations(range(len(owners)), 2):
        (genuine if owners[one] == owners[other] else impostor).append(float(vectors[one] @ vectors[other]))
    calibration = calibrate(gallery)
    assert calibration.genuine == pytest.approx(sorted(genuine), abs=1e-6)
    assert calibration.impostor == pytest.approx(sorted(impostor), abs=1e-6)


def test_blocks_smaller_than_the_gallery_change_nothing(uneven, monkeypatch):
    gallery, _, _ = uneven
    whole = calibrate(gallery)
    for block in (1, 7, 50):
        monkeypatch.setattr("petid_search.index.gallery._BLOCK", block)
        assert len(list(gallery.blocks())) > 1
        parts = calibrate(gallery)
        for name in ARRAYS:
            assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=1e-6)
        assert parts.slope == pytest.approx(whole.slope, rel=1e-3)


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
    monkeypatch.setattr(library, "_PROBES", 50)
    monkeypatch.setattr(library, "_PAIRS", 300)
    monkeypatch.setattr("petid_search.index.gallery._BLOCK", 100)
    owners, vectors = draw_herd(100, 4, seed=2)
    fill(gallery, owners, vectors)
    calibration = calibrate(gallery)
    assert (len(calibration.mated), len(calibration.non_mated)) == (50, 50)
    assert 250 <= len(calibration.impostor) <= 300
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
        measured = getattr(calibration, name)
        assert np.abs(measured[:, None] - values).min(axis=1).max() < 1e-6, name
    # A sample of the photos and of the pairs, and no part of the gallery preferred.
    probes = np.abs(calibration.non_mated[:, None] - possible["non_mated"]).argmin(axis=1)
    assert all((probes // 100 == quarter).sum() > 3 for quarter in range(4))
    assert calibration.impostor.mean() == pytest.approx(similarities[~same].mean(), abs=4 * 0.25 / np.sqrt(250))


def test_the_same_gallery_gives_the_same_calibration(uneven):
    gallery, _, _ = uneven
    assert_equal(calibrate(gallery), calibrate(gallery))


# What is promised


def strangers_over(threshold, herd, individuals, *, seed):
    """How many strangers, one photo each, reach the threshold in a gallery."""
    _, probes = draw_herd(individuals, 1, seed=seed)
    return int(((probes @ herd.T).max(axis=1) >= threshold).sum())


@pytest.mark.parametrize(("individuals", "photos", "fpir"), [(120, 1, 0.01), (120, 1, 0.1), (50, 4, 0.1)])
def test_strangers_reach_the_threshold_no_more_often_than_promised(tmp_path, individuals, photos, fpir):
    """Over many galleries: the promise is of the mean, since a threshold is as random as the gallery it is made of."""
    strangers, rates = 2000, []
    for seed in range(40):
        owners, vectors = draw_herd(individuals, photos, seed=seed)
        with Gallery(tmp_path / str(seed), create=True) as gallery:
            fill(gallery, owners, vectors)
            threshold = calibrate(gallery).threshold(fpir)
        rates.append(strangers_over(threshold, vectors, strangers, seed=10_000 + seed) / strangers)
    n = individuals * photos
    promised = (int(fpir * (n + 1)) + 1) / (n + 1)
    mean, error = np.mean(rates), np.std(rates, ddof=1) / np.sqrt(len(rates))
    assert mean <= promised + 3 * error
    assert mean >= promised / 2, "and the threshold is not so high that it promises nothing"


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
    """k/(n + 1) ≤ rate: of n measured strangers, k - 1 lie over the threshold, and one right under it."""
    similarities = np.linspace(-0.5, 0.5, n).astype(np.float32)
    threshold = made_of(non_mated=similarities).threshold(rate)
    assert int((similarities >= threshold).sum()) == over - 1
    assert threshold == np.nextafter(similarities[n - over], np.float32(1))


def test_a_stranger_as_similar_as_the_last_that_counts_does_not_match():
    calibration = made_of(non_mated=[0.5] * 200)
    assert calibration.threshold(0.01) > 0.5


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1), (0.001, 999), (0.03, 33)])
def test_too_few_photos_say_how_many_are_needed(rate, needed):
    few = np.linspace(0, 0.5, needed - 1)
    enough = np.linspace(0, 0.5, needed)
    for few_of, ask in (
        (made_of(non_mated=few, mated=np.ones(100)), lambda calibration: calibration.threshold(rate)),
        (made_of(non_mated=few, mated=np.ones(100)), lambda calibration: calibration.lower_threshold(rate)),
        (made_of(impostor=few, genuine=np.ones(100)), lambda calibration: calibration.verification_threshold(rate)),
        (
            made_of(impostor=few, genuine=np.ones(100)),
            lambda calibration: calibration.verification_lower_threshold(rate),
        ),
    ):
        with pytest.raises(CalibrationError, match=f"{needed} .* are needed, and it has {needed - 1}$"):
            ask(few_of)
    assert -1 <= made_of(non_mated=enough).threshold(rate) <= 1
    assert -1 <= made_of(impostor=enough).verification_threshold(rate) <= 1


def test_a_lower_threshold_needs_individuals_with_several_photos():
    calibration = made_of(non_mated=np.linspace(0, 0.5, 200), mated=np.linspace(0, 1, 18))
    with pytest.raises(CalibrationError, match=r"19 .* are needed, and it has 18$"):
        calibration.lower_threshold(0.01)


def test_the_lower_threshold_is_never_above_the_threshold():
    calibration = made_of(mated=np.linspace(0.9, 1, 100), non_mated=np.linspace(0, 0.5, 100))
    assert calibration.lower_threshold(0.01) == calibration.threshold(0.01)
    overlapping = made_of(mated=np.linspace(0.2, 1, 100), non_mated=np.linspace(0, 0.9, 100))
    assert overlapping.lower_threshold(0.01) < 0.3 < overlapping.threshold(0.01)


def test_twelve_photos_of_twelve_individuals_have_sixty_six_pairs_and_no_more(gallery):
    fill(gallery, range(12), unit_vectors(12))
    calibration = calibrate(gallery)
    assert len(calibration.impostor) == 66
    with pytest.raises(CalibrationError, match=r"99 pairs of photos of two individuals are needed, and it has 66$"):
        calibration.verification_threshold(0.01)


# Probability


def test_the_probability_rises_with_similarity_and_is_never_certain(uneven):
    gallery, _, _ = uneven
    calibration = calibrate(gallery)
    probabilities = [calibration.probability(similarity) for similarity in np.linspace(-1, 1, 201).tolist()]
    assert all(0.0 < probability < 1.0 for probability in probabilities)
    assert all(low <= high for low, high in itertools.pairwise(probabilities))
    assert probabilities[0] < 0.5 < probabilities[-1]


@pytest.mark.filterwarnings("error")
def test_the_probability_is_never_certain_even_where_nothing_overlaps(gallery):
    """A model that crowds everything together: strangers at 0.9990, the enrolled at 0.9999."""
    rng = np.random.default_rng(0)
    mated = 0.9999 + 1e-6 * rng.normal(size=2000)
    non_mated = 0.9990 + 1e-6 * rng.normal(size=2000)
    mated, non_mated = (np.sort(part).astype(np.float32) for part in (mated, non_mated))
    slope, intercept = library._fit_logistic(mated, non_mated)
    calibration = made_of(mated, non_mated, slope=slope, intercept=intercept)
    probabilities = [calibration.probability(similarity) for similarity in (-1.0, 0.0, 0.9990, 0.9995, 0.9999, 1.0)]
    assert all(0.0 < probability < 1.0 for probability in probabilities)
    assert probabilities == sorted(probabilities)
    assert probabilities[2] < 0.01
    assert probabilities[4] > 0.99


def test_a_probability_is_right_as_often_as_it_says(tmp_path):
    """Of many probes, half of them mated, those given about 70 % are mated in about 70 % of the cases."""
    rng = np.random.default_rng(0)
    mated = np.sort(rng.normal(0.7, 0.1, 4000)).astype(np.float32)
    non_mated = np.sort(rng.normal(0.5, 0.1, 4000)).astype(np.float32)
    slope, intercept = library._fit_logistic(mated, non_mated)
    calibration = made_of(mated, non_mated, slope=slope, intercept=intercept)
    similarity = np.concatenate([mated, non_mated])
    is_mated = np.repeat([True, False], 4000)
    probability = np.array([calibration.probability(value) for value in similarity.tolist()])
    for low in np.arange(0.1, 0.9, 0.1):
        among = (probability >= low) & (probability < low + 0.1)
        assert is_mated[among].mean() == pytest.approx(probability[among].mean(), abs=0.06)
    # Two normal distributions of one width: the log odds are a straight line, (0.7 - 0.5) / 0.1².
    assert slope == pytest.approx(20, rel=0.1)
    assert -intercept / slope == pytest.approx(0.6, abs=0.01)


def test_where_the_enrolled_are_less_alike_than_strangers_every_probability_is_the_same():
    mated, non_mated = np.linspace(0, 0.4, 50, dtype=np.float32), np.linspace(0.6, 1, 50, dtype=np.float32)
    slope, intercept = library._fit_logistic(mated, non_mated)
    assert slope == 0.0
    assert made_of(mated, non_mated, slope=slope, intercept=intercept).probability(0.9) == pytest.approx(0.5, abs=0.01)


def test_there_is_no_probability_without_individuals_of_several_photos(gallery):
    fill(gallery, range(60), unit_vectors(60))
    calibration = calibrate(gallery)
    assert (len(calibration.mated), len(calibration.non_mated)) == (0, 60)
    assert calibration.probability(0.9) is None


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
    assert made.photos == 100
    _, more = draw_herd(12, 1, seed=4)
    fill(gallery, range(100, 110), more[:10], first=1000)
    assert_equal(current_calibration(gallery), made)
    fill(gallery, [110], more[10:11], first=1010)
    renewed = current_calibration(gallery)
    assert (renewed.photos, renewed.gallery_size) == (111, 61)
    assert_equal(current_calibration(gallery), renewed)


def test_a_calibration_serves_until_the_gallery_has_shrunk_by_more_than_a_tenth(gallery):
    owners, vectors = draw_herd(50, 2, seed=3)
    fill(gallery, owners, vectors)
    made = current_calibration(gallery)
    for individual in range(5):
        gallery.remove(str(individual))
    assert_equal(current_calibration(gallery), made)
    gallery.remove("5", photo=sha256_of(10))
    assert current_calibration(gallery).photos == 89


def test_a_calibration_of_another_rule_or_model_does_not_serve(gallery, monkeypatch):
    owners, vectors = draw_herd(50, 2, seed=3)
    fill(gallery, owners, vectors)
    made = calibrate(gallery)
    changed = Calibration(*(getattr(made, name)[:1] for name in ARRAYS), 1.0, 0.0, 100, 50)
    gallery.save_calibration(gallery.model, rule="mean photo", generation=99, photos=100, samples=changed.to_bytes())
    assert_equal(current_calibration(gallery), made)
    other = gallery.add_model("other", "1" * 64, 24)
    gallery.save_calibration(other, rule="best photo", generation=99, photos=100, samples=changed.to_bytes())
    assert_equal(current_calibration(gallery), made)


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
    assert (len(calibration.mated), len(calibration.non_mated)) == (photos if photos > 1 else 0, 0)
    assert (len(calibration.genuine), len(calibration.impostor)) == (photos * (photos - 1) // 2, 0)
    with pytest.raises(CalibrationError, match=r"it has 0$"):
        calibration.threshold(0.5)


@pytest.mark.filterwarnings("error")
def test_a_gallery_whose_photos_were_all_removed_knows_nothing(gallery):
    fill(gallery, ["Rex"], unit_vectors(1))
    gallery.remove("Rex")
    calibration = current_calibration(gallery)
    assert (calibration.photos, calibration.gallery_size, calibration.probability(0.5)) == (0, 0, None)
    with pytest.raises(CalibrationError, match=r"it has 0$"):
        calibration.threshold(0.01)


def test_a_gallery_that_lost_its_embeddings_knows_nothing(gallery):
    fill(gallery, ["Rex", "Bo"], unit_vectors(2))
    gallery.records.db.execute("DELETE FROM embeddings")
    assert len(calibrate(gallery).non_mated) == 0
