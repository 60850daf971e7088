"""A probability is right as often as it says, never certain, and never falls with similarity."""

import itertools

import numpy as np
import pytest
from PIL import Image

from petid_search.calibrate import plots
from petid_search.calibrate.calibration import Calibration
from petid_search.calibrate.measure import Samples
from petid_search.calibrate.probability import ProbabilityMap, cross_validated
from petid_search.errors import CalibrationError


def fit(mated, non_mated):
    mated, non_mated = (np.sort(np.asarray(part, np.float32)) for part in (mated, non_mated))
    return ProbabilityMap.fit(mated, np.arange(len(mated)), non_mated, np.arange(len(non_mated)))


def told(fitted, *similarities):
    return fitted(np.asarray(similarities, np.float32)).tolist()


def samples_of(mated, non_mated, individuals):
    """Samples in which each individual has as many probes as it comes to."""
    mated, non_mated = (np.sort(np.asarray(part, np.float32)) for part in (mated, non_mated))
    rng = np.random.default_rng(0)
    of = [rng.permutation(np.arange(len(part)) % individuals).astype(np.int32) for part in (mated, non_mated)]
    nothing = np.empty(0, np.float32)
    no_pairs = nothing, np.empty(0, np.int32), nothing, np.empty((0, 2), np.int32)
    return Samples(mated, of[0], non_mated, of[1], np.full_like(of[1], -1), *no_pairs, 1, individuals, 0)


def test_a_probability_is_right_as_often_as_it_says():
    """Of many probes, half of them mated, those given about 70 % are mated in about 70 % of the cases."""
    rng = np.random.default_rng(0)
    fitted = fit(rng.normal(0.7, 0.1, 4000), rng.normal(0.5, 0.1, 4000))
    mated, non_mated = rng.normal(0.7, 0.1, 4000), rng.normal(0.5, 0.1, 4000)
    probability = np.array(told(fitted, *mated, *non_mated))
    is_mated = np.repeat([True, False], 4000)
    for low in np.arange(0.1, 0.9, 0.1):
        among = (probability >= low) & (probability < low + 0.1)
        assert is_mated[among].mean() == pytest.approx(probability[among].mean(), abs=0.08)
    # Two normal distributions of one width: the log odds are a straight line, (0.7 - 0.5) / 0.1², nought at 0.6.
    for similarity in (0.5, 0.55, 0.6, 0.65, 0.7):
        assert told(fitted, similarity)[0] == pytest.approx(1 / (1 + np.exp(-20 * (similarity - 0.6))), abs=0.06)


def test_it_follows_what_no_logistic_curve_does():
    """Near-copies lie far above, all else overlaps: as the photos of one animal do that were taken in one minute."""
    rng = np.random.default_rng(1)
    fitted = fit(
        np.concatenate([rng.normal(0.5, 0.05, 3000), rng.normal(0.95, 0.01, 1000)]), rng.normal(0.5, 0.05, 4000)
    )
    low, middle, high = told(fitted, 0.45, 0.55, 0.95)
    assert (low, middle) == (pytest.approx(0.43, abs=0.05), pytest.approx(0.43, abs=0.05))
    assert high > 0.99


@pytest.mark.filterwarnings("error")
def test_the_probability_is_never_certain_even_where_nothing_overlaps():
    """A model that crowds everything together: strangers at 0.9990, the enrolled at 0.9999."""
    rng = np.random.default_rng(0)
    fitted = fit(0.9999 + 1e-6 * rng.normal(size=2000), 0.9990 + 1e-6 * rng.normal(size=2000))
    probabilities = told(fitted, -1.0, 0.0, 0.9990, 0.9995, 0.9999, 1.0)
    assert all(0.0 < probability < 1.0 for probability in probabilities)
    assert probabilities == sorted(probabilities)
    assert probabilities[2] < 0.01
    assert probabilities[4] > 0.99


def test_few_individuals_make_it_less_certain_than_many_however_many_photos_they_have():
    few = ProbabilityMap.fit(
        np.linspace(0.8, 0.9, 500, dtype=np.float32),
        np.repeat(np.arange(5), 100),
        np.linspace(0.1, 0.2, 500, dtype=np.float32),
        np.repeat(np.arange(5), 100),
    )
    assert told(few, 0.1, 0.9) == pytest.approx([1 / 7, 6 / 7])
    assert told(fit(np.linspace(0.8, 0.9, 500), np.linspace(0.1, 0.2, 500)), 0.9) == pytest.approx([501 / 502])


def test_where_the_enrolled_are_less_alike_than_strangers_every_probability_is_the_same():
    fitted = fit(np.linspace(0, 0.4, 50), np.linspace(0.6, 1, 50))
    assert told(fitted, 0.0, 0.5, 0.9) == pytest.approx([0.5, 0.5, 0.5], abs=0.01)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(5))
def test_it_never_falls(seed):
    rng = np.random.default_rng(seed)
    fitted = fit(rng.integers(0, 12, 60) / 12, rng.integers(0, 10, 60) / 12)  # with ties
    probabilities = told(fitted, *np.linspace(-1, 1, 301))
    assert all(low <= high for low, high in itertools.pairwise(probabilities))
    assert 0.0 < probabilities[0] <= probabilities[-1] < 1.0


def test_nineteen_probes_are_too_few():
    assert not len(fit(np.linspace(0, 1, 19), np.linspace(0, 1, 200)).similarities)
    assert len(fit(np.linspace(0, 1, 20), np.linspace(0, 1, 20)).similarities)


# How far it can be believed


def test_the_calibration_error_is_that_of_individuals_who_were_held_out():
    rng = np.random.default_rng(2)
    samples = samples_of(rng.normal(0.7, 0.1, 900), rng.normal(0.5, 0.1, 900), 300)
    probability, mated, weights = cross_validated(samples)
    assert (weights[mated].sum(), weights[~mated].sum()) == (pytest.approx(0.5), pytest.approx(0.5))
    fold = np.concatenate([samples.mated_of, samples.non_mated_of]) % 5
    similarity = np.concatenate([samples.mated, samples.non_mated])
    for one in range(5):
        others, kept = fold[mated] != one, fold[~mated] != one
        fitted = ProbabilityMap.fit(
            samples.mated[others], samples.mated_of[others], samples.non_mated[kept], samples.non_mated_of[kept]
        )
        assert probability[fold == one] == pytest.approx(fitted(similarity[fold == one]))
    assert 0.0 < Calibration.of(samples).calibration_error() < 0.06


def test_a_calibration_error_is_not_told_of_too_few():
    assert cross_validated(samples_of(np.linspace(0, 1, 22), np.linspace(0, 1, 22), 22)) is None


# Drawn


def test_two_pictures_are_drawn_and_can_be_opened(tmp_path):
    rng = np.random.default_rng(2)
    calibration = Calibration.of(samples_of(rng.normal(0.7, 0.1, 900), rng.normal(0.5, 0.1, 900), 300))
    files = plots.write(calibration, calibration.promise(0.05), tmp_path / "drawn")
    assert [file.name for file in files] == ["reliability.png", "fnir-fpir.png"]
    for file in files:
        with Image.open(file) as picture:
            picture.load()
            assert picture.size == (768, 528)


def test_what_there_are_no_numbers_for_is_not_drawn(tmp_path):
    assert plots.draw(Calibration.of(samples_of([], np.linspace(0, 1, 50), 50)), None) == {}
    few = Calibration.of(samples_of(np.linspace(0, 1, 10), np.linspace(0, 1, 50), 10))
    assert list(plots.draw(few, None)) == ["fnir-fpir"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "taken").write_text("a file")
    few = Calibration.of(samples_of(np.linspace(0, 1, 10), np.linspace(0, 1, 50), 10))
    with pytest.raises(CalibrationError, match="name another --output"):
        plots.write(few, None, tmp_path / "taken")
