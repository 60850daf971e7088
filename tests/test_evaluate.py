"""`petid evaluate`: what it measures equals plain loops, and what it writes can be read, repeated and trusted."""

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_animal, write_small_model
from PIL import Image
from typer.testing import CliRunner

from petid_search import metrics
from petid_search.cli import ProtocolName, RuleName, app
from petid_search.dataset.manifest import read_manifest
from petid_search.dataset.near_duplicates import near_duplicate_pairs
from petid_search.dataset.split_file import write_split
from petid_search.dataset.splits import PROTOCOLS
from petid_search.errors import DatasetError, LeakError, ModelError
from petid_search.evaluate import Figure, evaluate, write_report
from petid_search.evaluate.figures import difference, draw_individuals, measure_pairs, measure_ranks
from petid_search.evaluate.page import meaning, warnings
from petid_search.evaluate.quality import sharpness
from petid_search.evaluate.report import output_folder
from petid_search.evaluate.search import BINS, Sides, search
from petid_search.evaluate.trained_on import Known
from petid_search.index.rule import BEST, MEDOIDS, RULES
from petid_search.models.bundle import Bundle
from petid_search.models.runtime import Embedder

IDENTIFICATION = [
    *("rank_1", "rank_5", "rank_10", "mAP", "mINP", "fnir@fpir=0.01", "dir@fpir=0.01", "fnir@fpir=0.1", "dir@fpir=0.1"),
    *("auroc", "oscr", "baks@fpir=0.01", "baus@fpir=0.01"),
]
VERIFICATION = ["auc", "eer", "tar@far=0.01", "tar@far=0.001"]
PICTURES = {"cmc.png", "roc.png", "det.png", "fnir-fpir.png", "oscr.png", "similarities.png"}


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def photos():
    """Embeddings of 150 photos of 13 individuals, one of whom has one photo; owners; groups; qualities."""
    rng = np.random.default_rng(5)
    owners = np.concatenate([np.arange(12), rng.integers(12, size=137), [12]])
    rng.shuffle(owners)
    vectors = unit(unit(rng.standard_normal((13, 16)))[owners] + 1.2 * unit(rng.standard_normal((150, 16))))
    groups = np.arange(150)
    groups[[7, 31, 44]] = 3  # with photo 3: whoever they show
    same = np.flatnonzero(owners == owners[0])
    groups[same[1]] = groups[same[0]]
    return vectors, owners, groups, rng.uniform(0.1, 1, 150).astype(np.float32)


def everyone(owners, groups) -> Sides:
    return Sides(owners, groups, np.arange(len(owners)), np.arange(len(owners)))


def divided(owners, groups) -> Sides:
    """Some enrolled, the others searched for; near-duplicates on one side; individuals 9 to 12 are strangers."""
    rng = np.random.default_rng(6)
    side = rng.random(groups.max() + 1) < 0.6
    enrolled = side[groups] & (owners < 9)
    return Sides(
        owners, groups, rng.permutation(np.flatnonzero(enrolled)), rng.permutation(np.flatnonzero(~side[groups]))
    )


def once(owners):
    return np.ones((1, owners.max() + 1), np.int64)


# The search


@pytest.mark.parametrize("arrange", [everyone, divided])
@pytest.mark.parametrize("rule", RULES)
def test_ranks_and_similarities_equal_plain_loops(photos, arrange, rule):
    vectors, owners, groups, qualities = photos
    sides = arrange(owners, groups)
    found = search(vectors, sides, [RULES[rule]], once(owners), qualities=qualities)
    ranked = found.rules[rule]
    # A template may hold a near-duplicate under another name; the rules that keep photos leave it out.
    shared = {group for group in groups if len({owners[p] for p in np.flatnonzero(groups == group)}) > 1}
    assert found.individuals == len({owners[p] for p in sides.gallery})
    for place, probe in enumerate(sides.probes):
        by_individual = {}
        for individual in sorted({owners[p] for p in sides.gallery}):
            own = [p for p in sides.gallery if owners[p] == individual and groups[p] != groups[probe]]
            if own:
                by_individual[individual] = RULES[rule].similarity(vectors[probe], vectors[own], qualities[own])
        if RULES[rule].templates is not None and groups[probe] in shared:
            continue
        own = by_individual.pop(owners[probe], None)
        nearest = max(by_individual, key=by_individual.get)
        assert ranked.nearest_other[place] == nearest
        assert ranked.other[place] == pytest.approx(by_individual[nearest], abs=1e-5)
        of_nearest = [p for p in sides.gallery if owners[p] == nearest and groups[p] != groups[probe]]
        assert ranked.nearest_photo[place] == max(of_nearest, key=lambda p: vectors[p] @ vectors[probe])
        if own is None:
            assert (ranked.ranks[place], ranked.own[place]) == (0, -np.inf)
        else:
            assert ranked.own[place] == pytest.approx(own, abs=1e-5)
            assert ranked.ranks[place] == 1 + sum(other >= own for other in by_individual.values())


@pytest.mark.parametrize("arrange", [everyone, divided])
def test_precision_penalty_and_nearest_photo_equal_plain_loops(photos, arrange):
    vectors, owners, groups, _ = photos
    sides = arrange(owners, groups)
    found = search(vectors, sides, [RULES["best-photo"]], once(owners))
    for place, probe in enumerate(sides.probes):
        items = sorted(
            (p for p in sides.gallery if groups[p] != groups[probe]), key=lambda p: -float(vectors[p] @ vectors[probe])
        )
        right = [owners[p] == owners[probe] for p in items]
        nearest = next(p for p in items if owners[p] != owners[probe])
        assert found.rules["best-photo"].nearest_photo[place] == nearest
        if any(right):
            precisions = [sum(right[: at + 1]) / (at + 1) for at, hit in enumerate(right) if hit]
            assert found.precisions[place] == pytest.approx(np.mean(precisions))
            assert found.penalties[place] == pytest.approx(sum(right) / (max(np.flatnonzero(right)) + 1))
        else:
            assert np.isnan([found.precisions[place], found.penalties[place]]).all()


@pytest.mark.parametrize("arrange", [everyone, divided])
def test_histograms_of_pairs_equal_plain_loops_under_every_weighting(photos, arrange):
    vectors, owners, groups, _ = photos
    sides = arrange(owners, groups)
    weightings = draw_individuals(np.zeros(13, bool), 3, seed=1)
    pairs = search(vectors, sides, [RULES["best-photo"]], weightings).pairs
    width = pairs.centres[1] - pairs.centres[0]
    counted = np.zeros((2, len(weightings)))
    where = np.zeros((2, len(weightings)))
    for probe in sides.probes:
        for photo in sides.gallery:
            if groups[photo] != groups[probe]:
                kind = int(owners[photo] != owners[probe])
                counted[kind] += weightings[:, owners[probe]]
                where[kind] += weightings[:, owners[probe]] * float(vectors[photo] @ vectors[probe])
    for kind, histograms in enumerate((pairs.genuine, pairs.impostor)):
        assert histograms.shape == (4, BINS)
        np.testing.assert_array_equal(histograms.sum(axis=1), counted[kind])
        np.testing.assert_allclose(histograms @ pairs.centres, where[kind], atol=width * counted[kind].max())
    assert pairs.counts == tuple(counted[:, 0] // (2 if arrange is everyone else 1))


def test_the_result_is_the_same_whatever_the_block(photos):
    vectors, owners, groups, _ = photos
    # Similarities that are exact in float32, so that the block cannot make the last bit different.
    vectors = np.sign(vectors) / 4
    weightings = draw_individuals(np.zeros(13, bool), 20, seed=2)
    whole, *others = (
        search(
            vectors.astype(np.float32),
            everyone(owners, groups),
            [RULES["best-photo"], RULES["best-3"]],
            weightings,
            block=block,
        )
        for block in (1000, 1, 7, 149)
    )
    for other in others:
        for name, ranked in whole.rules.items():
            for field in ("ranks", "own", "other", "nearest_other", "nearest_photo"):
                np.testing.assert_array_equal(getattr(ranked, field), getattr(other.rules[name], field))
        np.testing.assert_array_equal(whole.precisions, other.precisions)
        np.testing.assert_array_equal(whole.pairs.genuine, other.pairs.genuine)
        np.testing.assert_array_equal(whole.pairs.impostor, other.pairs.impostor)


def test_ties_count_against_the_right_individual():
    # Photos 0 and 1 show one individual, 2 another; all are the same picture.
    vectors, owners = np.tile(unit(np.ones(4)), (3, 1)), np.array([0, 0, 1])
    for rule in RULES.values():
        found = search(vectors, everyone(owners, np.arange(3)), [rule], once(owners))
        assert found.rules[rule.name].ranks.tolist() == [2, 2, 0], rule.name


def test_a_thousand_photos_never_stand_in_one_matrix():
    import tracemalloc

    rng = np.random.default_rng(0)
    count = 4000
    vectors, owners = unit(rng.standard_normal((count, 8))), np.repeat(np.arange(count // 4), 4)
    tracemalloc.start()
    search(vectors, everyone(owners, np.arange(count)), [RULES["best-photo"]], once(owners), block=64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < count * count * 4 / 2, "half of a float32 matrix of all pairs"


# The rules


def test_templates_are_what_their_names_say():
    rng = np.random.default_rng(1)
    photos, qualities = unit(rng.standard_normal((9, 5))), rng.uniform(0.1, 1, 9).astype(np.float32)
    probe = unit(rng.standard_normal(5))
    of_photos = sorted(float(photo @ probe) for photo in photos)

    def similarity(rule):
        return RULES[rule].similarity(probe, photos, qualities)

    assert similarity("best-photo") == pytest.approx(of_photos[-1])
    assert similarity("best-3") == pytest.approx(np.mean(of_photos[-BEST:]))
    assert similarity("mean") == pytest.approx(float(unit(photos.mean(axis=0)) @ probe), abs=1e-6)
    assert similarity("quality-mean") == pytest.approx(
        float(unit(sum(q * p for q, p in zip(qualities, photos, strict=True))) @ probe), abs=1e-6
    )
    medoids = RULES["medoids"].templates(photos, qualities)
    assert medoids.shape == (MEDOIDS, 5)
    assert all(any(np.array_equal(medoid, photo) for photo in photos) for medoid in medoids)
    most_central = photos[np.argmax((photos @ photos.T).sum(axis=1))]
    np.testing.assert_array_equal(medoids[0], most_central)
    few = RULES["best-3"].similarity(probe, photos[:2], qualities[:2])
    assert few == pytest.approx(float((photos[:2] @ probe).mean())), "fewer photos than are averaged"


def test_the_command_line_names_the_rules_and_protocols_that_there_are():
    assert [rule.value for rule in RuleName] == list(RULES)
    assert ProtocolName.__args__ == PROTOCOLS


def test_a_blurred_photo_is_less_sharp():
    image = draw_animal(1, 1)
    small = np.asarray(Image.fromarray(image).resize((16, 16)).resize((64, 64)))
    assert 0 < sharpness(small) < sharpness(image)
    darker = (image // 2).astype(np.uint8)
    assert sharpness(darker) == pytest.approx(sharpness(image), rel=0.05)
    assert sharpness(np.full((8, 8, 3), 7, np.uint8)) == 0


# The figures


def measured(photos, arrange, replicates=200, rule="best-photo"):
    vectors, owners, groups, _ = photos
    sides = arrange(owners, groups)
    strangers = owners[sides.probes] >= 9 if arrange is divided else np.zeros(len(sides.probes), bool)
    weightings = draw_individuals(np.zeros(13, bool), replicates, seed=3)
    found = search(vectors, sides, [RULES[rule]], weightings)
    ranked, of_probes = found.rules[rule], owners[sides.probes]
    return found, ranked, of_probes, strangers, measure_ranks(found, ranked, of_probes, strangers, weightings)


@pytest.mark.parametrize("arrange", [everyone, divided])
def test_figures_are_the_measures_of_what_was_found(photos, arrange):
    found, ranked, owners, strangers, those = measured(photos, arrange)
    mated = ranked.ranks > 0
    non_mated = ranked.other[strangers if strangers.any() else slice(None)]
    own, ranks = ranked.own[mated], ranked.ranks[mated]
    values = {name: figure.value for name, figure in those.figures.items()}
    assert values["rank_1"] == np.mean(ranks == 1)
    assert values["rank_5"] == np.mean(ranks <= 5)
    assert values["mAP"] == pytest.approx(np.mean(found.precisions[mated]))
    assert values["mINP"] == pytest.approx(np.mean(found.penalties[mated]))
    threshold = those.thresholds["fpir=0.1"]
    assert np.mean(non_mated >= threshold) <= 0.1 < np.mean(non_mated >= np.nextafter(np.float32(threshold), -1)) + 1e-9
    assert values["fnir@fpir=0.1"] == np.mean((own < threshold) | (ranks > 1))
    assert values["dir@fpir=0.1"] == pytest.approx(1 - values["fnir@fpir=0.1"])
    first = np.maximum(own, ranked.other[mated])
    above = (first[:, None] > non_mated).mean() + (first[:, None] == non_mated).mean() / 2
    assert values["auroc"] == pytest.approx(above)
    right = ((own[:, None] > non_mated) + (own[:, None] == non_mated) / 2) * (ranks == 1)[:, None]
    assert values["oscr"] == pytest.approx(right.mean())
    if arrange is everyone:  # enough non-mated probes
        threshold = those.thresholds["fpir=0.01"]
        found_right = {
            i: np.mean((own >= threshold)[owners[mated] == i] & (ranks == 1)[owners[mated] == i]) for i in owners[mated]
        }
        refused = {i: np.mean((non_mated < threshold)[owners == i]) for i in owners}
        assert values["baks@fpir=0.01"] == pytest.approx(np.mean(list(found_right.values())))
        assert values["baus@fpir=0.01"] == pytest.approx(np.mean(list(refused.values())))
    assert list(those.figures) == IDENTIFICATION
    for figure in those.figures.values():
        if figure.low is not None:
            assert figure.low <= figure.value <= figure.high
            assert np.isfinite([figure.low, figure.high]).all()


def test_pairs_are_measured_as_finely_as_the_bins(photos):
    vectors, owners, groups, _ = photos
    found = search(vectors, everyone(owners, groups), [RULES["best-photo"]], once(owners))
    a, b = np.triu_indices(150, 1)
    apart = groups[a] != groups[b]
    similarities, same = (vectors @ vectors.T)[a, b][apart], (owners[a] == owners[b])[apart]
    figures = measure_pairs(found).figures
    genuine, impostor = similarities[same], similarities[~same]
    assert figures["auc"].value == pytest.approx(metrics.auc(genuine, impostor), abs=1e-3)
    assert figures["eer"].value == pytest.approx(metrics.eer(genuine, impostor), abs=1e-2)
    assert figures["tar@far=0.01"].value == pytest.approx(metrics.tar_at_far(genuine, impostor, 0.01), abs=2e-2)
    assert figures["auc"].of == f"{same.sum()} genuine and {(~same).sum()} impostor pairs"
    threshold = measure_pairs(found).thresholds["far=0.01"]
    assert np.mean(impostor >= threshold) <= 0.01 < np.mean(impostor >= threshold - 2 * (2 / BINS)) + 1 / len(impostor)


def test_intervals_draw_individuals_not_probes(photos):
    _, ranked, owners, _, those = measured(photos, everyone)
    mated = ranked.ranks > 0
    drawn = draw_individuals(np.zeros(13, bool), 200, seed=3)
    by_hand = []
    for weights in drawn[1:]:
        ranks = np.concatenate([np.repeat(ranked.ranks[mated & (owners == i)], weights[i]) for i in range(13)])
        by_hand.append(np.mean(ranks == 1))
    low, high = metrics.percentile_interval(by_hand)
    assert (those.figures["rank_1"].low, those.figures["rank_1"].high) == pytest.approx((low, high))
    probes = metrics.bootstrap_interval(partial(metrics.rank_k, ranked.ranks[mated], 1), np.arange(mated.sum()))
    assert high - low != pytest.approx(probes.high - probes.low)


def test_strangers_and_enrolled_individuals_are_drawn_apart():
    strangers = np.array([False, True, True, False, True])
    drawn = draw_individuals(strangers, 50, seed=0)
    assert (drawn[0] == 1).all()
    assert (drawn[:, strangers].sum(axis=1) == 3).all()
    assert (drawn[:, ~strangers].sum(axis=1) == 2).all()
    assert drawn[1:].max() > 1
    assert not np.array_equal(drawn, draw_individuals(strangers, 50, seed=1))


# A whole evaluation


def test_every_protocol_gives_its_figures(embedder, take_photos):
    photos = read_manifest(take_photos(12, 4))
    for protocol in PROTOCOLS:
        if protocol == "by-time":
            continue
        done = evaluate(photos, [embedder], protocol=protocol, replicates=30)
        (result,) = done.results
        assert list(result.figures) == ([] if protocol == "verification" else IDENTIFICATION) + VERIFICATION
        assert done.split.protocol == protocol
        assert result.found.individuals == (6 if protocol == "open-set" else 12)
        assert done.strangers.any() == (protocol == "open-set")


def test_the_same_seed_gives_the_same_report_and_a_split_can_be_given_again(embedder, take_photos, tmp_path):
    folder = take_photos(10, 4)
    photos = read_manifest(folder)
    reports = []
    for number, options in enumerate(
        ({"protocol": "open-set"}, {"protocol": "open-set"}, {"split": tmp_path / "0/split.csv"})
    ):
        done = evaluate(photos, [embedder], rules=["best-photo", "mean"], seed=7, replicates=50, **options)
        reports.append(write_report(done, folder, tmp_path / str(number)))
        reports[-1].pop("split_given")
    assert reports[0] == reports[1] == reports[2]
    assert (tmp_path / "0/split.csv").read_bytes() == (tmp_path / "2/split.csv").read_bytes()
    assert (tmp_path / "0/probes.csv").read_bytes() == (tmp_path / "2/probes.csv").read_bytes()
    other = evaluate(photos, [embedder], protocol="open-set", seed=8, replicates=50)
    assert other.split != done.split


def test_a_leaky_split_is_refused_and_the_photos_named(embedder, take_photos, tmp_path):
    folder = take_photos(6, 4)
    photos = read_manifest(folder)
    write_report(evaluate(photos, [embedder], protocol="gallery-probe", replicates=5), folder, tmp_path / "report")
    split = tmp_path / "report" / "split.csv"
    rows = list(csv.DictReader(split.open(newline="")))
    probe = next(place for place, row in enumerate(rows) if row["role"] == "probe")
    enrolled = next(place for place, row in enumerate(rows) if row["role"] == "gallery")

    def twins(those):  # the same picture, saved again
        places = {photo.name: place for place, photo in enumerate(those)}
        return np.array([[places[rows[probe]["photo"]], places[rows[enrolled]["photo"]]]])

    with pytest.raises(LeakError) as raised:
        evaluate(photos, [embedder], split=split, replicates=5, near_duplicates=twins)
    assert rows[probe]["photo"] in str(raised.value)
    assert rows[enrolled]["photo"] in str(raised.value)
    # The same pairs, known while the split is made, end up on one side.
    done = evaluate(photos, [embedder], protocol="gallery-probe", replicates=5, near_duplicates=twins)
    role = {one.photo: one.role for one in done.split.photos}
    assert role[rows[probe]["photo"]] == role[rows[enrolled]["photo"]]


def test_a_leak_that_no_picture_need_be_looked_at_for_is_told_before_embedding(embedder, take_photos, tmp_path):
    folder = take_photos(6, 4)
    photos = read_manifest(folder)
    write_report(evaluate(photos, [embedder], protocol="open-set", replicates=5), folder, tmp_path / "report")
    text = (tmp_path / "report" / "split.csv").read_text()
    (tmp_path / "leaky.csv").write_text(re.sub(r",probe,", ",stranger,", text, count=1))
    with pytest.raises(LeakError, match=r"is a stranger with .* and enrolled with"):
        evaluate(photos, [object()], split=tmp_path / "leaky.csv")  # which is no embedder


def test_a_photo_that_changes_meanwhile_is_named_and_left_out(embedder, take_photos):
    folder = take_photos(4, 3)
    photos = read_manifest(folder)
    Image.fromarray(draw_animal(9, 9)).save(folder / "2" / "1.png")
    done = evaluate(photos, [embedder], replicates=5)
    (failed,) = done.failed
    assert str(failed).startswith(f"{folder / '2' / '1.png'} changed while")
    assert {one.photo: one.role for one in done.split.photos}["2/1.png"] == "left out"
    assert len(done.photos) == 11


def test_near_duplicates_that_a_split_names_are_kept_apart_when_it_is_given_again(embedder, take_photos, tmp_path):
    folder = take_photos(4, 3)
    photos = read_manifest(folder)

    def twins(_):
        return np.array([[0, 1], [3, 7]])

    done = evaluate(photos, [embedder], replicates=5, near_duplicates=twins)
    write_report(done, folder, tmp_path / "report")
    again = evaluate(photos, [embedder], split=tmp_path / "report" / "split.csv", replicates=5)
    assert again.sides.groups.tolist() == done.sides.groups.tolist()
    np.testing.assert_array_equal(again.results[0].ranked.own, done.results[0].ranked.own)


def test_near_duplicates_are_those_that_dedup_finds(take_photos, tmp_path):
    folder = take_photos(3, 2)
    shutil.copy(folder / "0" / "0.png", folder / "1" / "copy.png")
    Image.open(folder / "2" / "0.png").save(folder / "2" / "again.jpg", quality=70)
    Image.open(folder / "2" / "0.png").resize((48, 48), Image.Resampling.BICUBIC).save(folder / "2" / "small.png")
    photos = read_manifest(folder)
    pairs = {frozenset(photos[place].name for place in pair) for pair in near_duplicate_pairs(photos)}
    assert pairs == {
        frozenset({"0/0.png", "1/copy.png"}),
        *map(frozenset, itertools.combinations(["2/0.png", "2/again.jpg", "2/small.png"], 2)),
    }
    assert near_duplicate_pairs([]).shape == (0, 2)


def test_a_picture_saved_again_never_stands_on_both_sides(embedder, take_photos):
    folder = take_photos(8, 4)
    for individual in range(8):
        for number in range(4):
            picture = Image.open(folder / str(individual) / f"{number}.png")
            picture.save(folder / str(individual) / f"{number}-again.jpg", quality=60)
    done = evaluate(read_manifest(folder), [embedder], protocol="gallery-probe", replicates=5)
    roles = {one.photo: one.role for one in done.split.photos}
    assert {"gallery", "probe"} <= set(roles.values())
    for photo, role in roles.items():
        assert roles[photo.replace(".png", "-again.jpg")] == role


def test_models_and_rules_are_compared_on_the_same_photos_and_draws(embedder, other_embedder, take_photos):
    photos = read_manifest(take_photos(10, 4))
    done = evaluate(photos, [embedder, other_embedder], rules=["best-photo", "mean"], replicates=100)
    assert [(result.model, result.rule) for result in done.results] == [
        *(("small", "best-photo"), ("small", "mean"), ("other", "best-photo"), ("other", "mean"))
    ]
    first, mean, other, _ = done.results
    assert "auc" not in mean.minus(first), "pairs do not depend on the rule"
    assert "mAP" not in mean.minus(first)
    less = other.minus(first)
    assert set(less) == set(first.figures)
    for name, figure in less.items():
        if figure.value is not None:
            assert figure.value == pytest.approx(other.figures[name].value - first.figures[name].value)
            paired = other.figures[name].replicates - first.figures[name].replicates
            assert (figure.low, figure.high) == pytest.approx(metrics.percentile_interval(paired))
    assert all(figure.value == figure.low == figure.high == 0 for figure in first.minus(first).values() if figure.value)


def test_a_difference_is_paired_draw_by_draw():
    rng = np.random.default_rng(0)
    hard = rng.normal(0.5, 0.2, 100)  # what is hard for one is hard for the other

    def figure(replicates, value=0.5):
        return Figure(value, *metrics.percentile_interval(replicates), 9, "nine probes", "", replicates)

    less = difference(figure(hard + 0.01), figure(hard, 0.49))
    assert (less.value, less.low, less.high) == pytest.approx((0.01, 0.01, 0.01))
    nothing = difference(figure(hard), Figure(None, None, None, 9, "nine probes", "too few", np.empty(0)))
    assert (nothing.value, nothing.reason) == (None, "too few")


def test_what_too_few_strangers_cannot_tell_is_left_out_with_the_reason(embedder, take_photos, tmp_path):
    folder = take_photos(3, 3)
    done = evaluate(read_manifest(folder), [embedder], replicates=20)
    report = write_report(done, folder, tmp_path / "report")
    left_out = report["metrics"]["fnir@fpir=0.01"]
    assert (left_out["value"], left_out["low"], left_out["high"]) == (None, None, None)
    assert left_out["reason"] == "FPIR 0.01 takes 100 non-mated probes at least, and there are 9"
    assert report["metrics"]["tar@far=0.001"]["value"] is None
    assert report["metrics"]["rank_1"]["value"] is not None
    assert report["thresholds"]["fpir=0.01"] is None
    text = (tmp_path / "report" / "report.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == report


def test_photos_that_a_model_was_trained_on_are_counted_and_warned_of(embedder, take_photos, tmp_path, petid, home):
    folder = take_photos(6, 3)
    photos = read_manifest(folder)
    roles = {"0": "train", "1": "train", "2": "validation", "3": "held out"}
    rows = [(one.name, one.sha256, one.individual, roles[one.individual]) for one in photos if one.individual in roles]
    rows += [("far/away.jpg", "00", "Rex", "train")]
    split = tmp_path / "trained.csv"
    split.write_text("\n".join(["photo,sha256,individual,role", *map(",".join, rows), ""]))
    trained = Embedder(write_small_model(tmp_path / "home" / "models", "trained", seed=1, split=split))
    shutil.rmtree(folder / "1")  # its photos are not measured, nor is it
    (folder / "0" / "0.png").rename(folder / "5" / "other-name.png")
    photos = read_manifest(folder)
    done = evaluate(photos, [trained, embedder], rules=["best-photo", "mean"], replicates=5)
    assert [result.known for result in done.results] == [Known(3, 1)] * 2 + [None] * 2
    report = write_report(done, folder, tmp_path / "report")
    assert report["trained_on"] == report["compared"][1]["trained_on"] == {"photos": 3, "individuals": 1}
    assert report["compared"][2]["trained_on"] is None
    said = "Model trained was trained on 3 of the 15 photos measured, and on 1 of their 5 individuals"
    assert (tmp_path / "report" / "report.html").read_text().count(said) == 1
    told = petid("evaluate", folder, "--model", "trained", "--output", "told", PETID_HOME=str(tmp_path / "home"))
    assert (told.returncode, told.stderr.count(said), len(told.stderr.splitlines())) == (0, 1, 1)
    # A folder of which it has seen nothing is passed over in silence.
    shutil.rmtree(folder)
    fresh = evaluate(read_manifest(take_photos(4, 3, first=20)), [trained], replicates=5)
    assert fresh.results[0].known == Known(0, 0)
    assert list(warnings(fresh)) == []


def test_a_damaged_split_of_the_training_is_refused_before_embedding(tmp_path, take_photos):
    split = tmp_path / "trained.csv"
    split.write_text("photo,sha256,individual,role\n")
    bundle = write_small_model(tmp_path / "models", "trained", seed=1, split=split)
    bundle.file("split.csv.gz").write_text("photo,sha256,individual,role\na,b,c,train\n")
    embedded = []
    with pytest.raises(ModelError, match=r"split\.csv\.gz is damaged"):
        evaluate(
            read_manifest(take_photos(3, 3)), [Embedder(Bundle.open(bundle.folder))], advance=lambda: embedded.append(1)
        )
    assert embedded == []


def test_one_individual_is_not_enough(embedder, take_photos):
    with pytest.raises(DatasetError, match="one individual only"):
        evaluate(read_manifest(take_photos(1, 4)), [embedder])


# The command


@pytest.fixture
def strange_folder(take_photo, tmp_path) -> Path:
    """Individuals of odd names, alike enough to be mistaken for each other; one photo is no photo."""
    names = ("<u>Rex", "<u>a & b", "<u>$x_1^2$", "<u>_hidden", "<u>=1+1", '<u title="')
    for number, name in enumerate(names):
        for photo in range(3):
            path = tmp_path / "herd" / name / f"<i>{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = draw_animal(number // 2, 10 * number + photo)
            Image.fromarray(image).save(path)
    (tmp_path / "herd" / "<u>a & b" / "broken.jpg").write_bytes(b"no photo")
    return tmp_path / "herd"


class Page(HTMLParser):
    """What a browser would load, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_holds_what_is_documented_and_a_bad_photo_is_named(petid, strange_folder, tmp_path):
    done = petid("evaluate", "herd", "--model", "small", "--rule", "best-photo", "--rule", "medoids")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "broken.jpg" in done.stderr
    assert re.search(
        r"^rank_1 +\d\.\d{4}  - +N = 6, 18 mated probes \(too few individuals for an interval: 6\)$",
        done.stdout,
        re.MULTILINE,
    )
    assert done.stdout.endswith("The report is in evaluation-herd: open evaluation-herd/report.html.\n")
    folder = tmp_path / "evaluation-herd"
    assert {file.name for file in folder.iterdir()} == {
        *PICTURES,
        *("report.json", "report.html", "metrics.csv", "probes.csv", "split.csv"),
    }
    report = json.loads((folder / "report.json").read_text())
    assert (report["protocol"], report["model"], report["rule"]) == ("leave-one-out", "small", "best-photo")
    assert (report["N"], report["photos"], report["probes"], report["mated_probes"]) == (6, 18, 18, 18)
    assert list(report["metrics"]) == IDENTIFICATION + VERIFICATION
    for figure in report["metrics"].values():
        assert {"value", "low", "high", "N", "count", "of"} <= set(figure)
    assert len(report["failed"]) == 1
    assert "broken.jpg" in report["failed"][0]
    assert [one["rule"] for one in report["compared"]] == ["best-photo", "medoids"]
    assert "differences" not in report["compared"][0]
    assert "rank_1" in report["compared"][1]["differences"]
    assert report["compared"][0]["metrics"] == report["metrics"]

    for picture in PICTURES:
        with Image.open(folder / picture) as opened:
            opened.load()
            assert (opened.format, opened.width >= 600) == ("PNG", True)
            assert len(set(opened.convert("L").resize((100, 80)).tobytes())) > 5, f"{picture} is empty"

    with (folder / "probes.csv").open(newline="") as stream:
        probes = list(csv.DictReader(stream))
    assert len(probes) == 2 * 18
    hits = [probe for probe in probes if probe["rule"] == "best-photo" and probe["rank"] == "1"]
    assert len(hits) / 18 == pytest.approx(report["metrics"]["rank_1"]["value"])
    assert all(probe["first_candidate"] == probe["individual"] for probe in hits)
    with (folder / "metrics.csv").open(newline="") as stream:
        lines = {(line["rule"], line["metric"]): line for line in csv.DictReader(stream)}
    assert float(lines["best-photo", "rank_1"]["value"]) == report["metrics"]["rank_1"]["value"]
    with (folder / "split.csv").open(newline="") as stream:
        left_out = {row["photo"]: row["reason"] for row in csv.DictReader(stream) if row["role"] == "left out"}
    assert left_out == {"<u>a & b/broken.jpg": "cannot be read"}


def test_the_page_needs_nothing_beside_it_and_escapes_every_name(petid, strange_folder, tmp_path):
    petid("evaluate", "herd", "--model", "small", "--rule", "best-photo", "--rule", "mean", "--quiet")
    text = (tmp_path / "evaluation-herd" / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.sources) >= len(PICTURES)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"url\(|@import|https?:", text)
    assert "script" not in page.tags
    assert not {"u", "i"} & set(page.tags), "a name became a tag"
    # The photos of two names are of one coat, so that mistakes must be listed, by their names as they are.
    assert "<i>0.png" in page.text
    assert "<u>$x_1^2$" in page.text
    assert "viewport" in text


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_that_are_not_utf_8_are_reported_and_their_split_can_be_given_again(embedder, take_photos, tmp_path):
    folder = take_photos(4, 3)
    (folder / "2").rename(folder / os.fsdecode(b"caf\xe9"))
    photos = read_manifest(folder)
    done = evaluate(photos, [embedder], replicates=5)
    write_report(done, folder, tmp_path / "report")
    again = evaluate(photos, [embedder], split=tmp_path / "report" / "split.csv", replicates=5)
    assert again.split == done.split
    assert os.fsdecode(b"caf\xe9") in again.individuals


def test_every_figure_has_a_meaning_in_plain_words():
    for name in IDENTIFICATION + VERIFICATION:
        assert meaning(name)
        assert "{}" not in meaning(name)


def test_a_report_is_never_overwritten(petid, take_photos, tmp_path):
    take_photos(3, 3)
    options = ("evaluate", "photos", "--model", "small", "--protocol", "verification", "--json")
    assert json.loads(petid(*options).stdout)["protocol"] == "verification"
    first = (tmp_path / "evaluation-photos" / "report.json").read_bytes()
    assert petid(*options).returncode == 0
    assert (tmp_path / "evaluation-photos-2" / "report.json").read_bytes() == first
    refused = petid(*options, "--output", "evaluation-photos")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "petid: There is a report in evaluation-photos already: name another --output.\n"


def test_what_is_asked_for_on_the_command_line_is_what_is_measured(petid, take_photos, tmp_path):
    take_photos(10, 3)
    options = ("--all-models", "--protocol", "open-set", "--enrolled", "0.3", "--seed", "3", "--output", "here/it/is")
    done = petid("evaluate", "photos", *options, "--rule", "mean", "--json", "--quiet")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "here" / "it" / "is" / "report.json").read_text())
    assert (report["protocol"], report["rule"], report["seed"], report["N"]) == ("open-set", "mean", 3, 3)
    assert report["stranger_probes"] == 7 * 3
    compared = [one["model"] for one in report["compared"]]
    assert [name for name in compared if name != "petid-dogs"] == ["other", "small"]
    again = petid("evaluate", "photos", "--model", "small", "--split", "here/it/is/split.csv", "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    assert all(re.match(r"\S+ +(\d\.\d{4}  |-  )", line) for line in again.stdout.splitlines())
    assert "N = 3, " in again.stdout


def test_what_cannot_be_evaluated_is_said_in_a_line(petid, take_photos, tmp_path):
    take_photos(3, 3)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "taken").write_text("")
    for arguments, said in (
        (("gone",), "There is no folder gone"),
        (("nothing",), "There is no photo in nothing"),
        (("photos/1",), "one individual only"),
        (("photos", "--protocol", "by-time"), "No photo carries a time"),
        (("photos", "--split", "gone.csv"), "The split gone.csv cannot be read"),
        (("photos", "--output", "taken"), "taken is a file"),
        (("photos", "--model", "none"), "There is no model 'none'"),
    ):
        done = petid("evaluate", "--model", "small", *arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["nothing", "photos", "taken"]
    assert petid("evaluate", "photos", "--protocol", "magic").returncode == 2


def test_no_file_of_the_user_is_ever_written_over(petid, take_photos, tmp_path):
    take_photos(3, 3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "split.csv").write_text("my own")
    options = ("evaluate", "photos", "--model", "small", "--protocol", "verification", "--quiet")
    refused = petid(*options, "--output", "mine")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "petid: mine is not empty, and no file is overwritten: name another --output.\n"
    assert (tmp_path / "mine" / "split.csv").read_text() == "my own"
    assert petid(*options, "--output", "").returncode == 2
    (tmp_path / "empty").mkdir()
    assert petid(*options, "--output", "empty").returncode == 0
    assert (tmp_path / "empty" / "report.html").exists()


def test_a_place_that_cannot_be_written_to_is_told_before_any_work(take_photos, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = r"there cannot be written to \(Permission denied\): name another --output"
    with pytest.raises(DatasetError, match=said), output_folder(tmp_path / "there", tmp_path / "photos"):
        pytest.fail("the work began")


def test_a_failed_evaluation_leaves_no_empty_folder_and_removes_none_of_the_users(tmp_path):
    def fail_in(output):
        assert output.is_dir()
        raise DatasetError("It is no use.")

    (tmp_path / "mine").mkdir()
    for output in (tmp_path / "mine" / "a" / "b", tmp_path / "mine"):
        with pytest.raises(DatasetError, match="no use"), output_folder(output, tmp_path / "photos"):
            fail_in(output)
        assert sorted(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_a_report_never_lies_among_the_photos(petid, take_photos, tmp_path, home):
    folder = take_photos(3, 3)
    options = ("--model", "small", "--protocol", "verification", "--quiet")
    for output in ("photos", "photos/report", "photos/1/../report"):
        refused = petid("evaluate", "photos", *options, "--output", output)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.endswith("among the photos: name another --output.\n")
    here = [sys.executable, "-m", "petid_search", "evaluate", ".", *options]
    assert subprocess.run(here, cwd=folder, check=True).returncode == 0
    assert (tmp_path / "evaluation-photos" / "report.json").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2"]


def test_a_report_that_was_moved_among_the_photos_is_no_animal(embedder, take_photos, tmp_path):
    folder = take_photos(3, 3)
    photos = read_manifest(folder)
    write_report(evaluate(photos, [embedder], replicates=5), folder, tmp_path / "report")
    shutil.move(tmp_path / "report", folder / "report")
    assert read_manifest(folder) == photos


def test_broken_photos_are_named_when_the_evaluation_fails_too(petid, take_photos):
    folder = take_photos(1, 3)
    (folder / "other").mkdir()
    (folder / "other" / "broken.jpg").write_bytes(b"no photo")
    done = petid("evaluate", "photos", "--model", "small")
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert "broken.jpg is not a photo" in first
    assert "one individual only" in second


def test_a_folder_of_broken_photos_alone_shows_nobody(embedder, take_photos):
    folder = take_photos(2, 2)
    for photo in folder.rglob("*.png"):
        photo.write_bytes(str(photo).encode())
    told = []
    with pytest.raises(DatasetError, match="show nobody"):
        evaluate(read_manifest(folder), [embedder], problem=told.append)
    assert len(told) == 4


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("probe", "there is no photo with the role probe"),
        ("gallery", "there is no photo with the role gallery"),
        ("one gallery", "nothing of 0 is enrolled"),
        ("both", "there is no photo with the role both"),
    ],
)
def test_a_split_that_lost_what_it_needs_names_the_photos_that_cannot_be_read(
    embedder, take_photos, tmp_path, broken, said
):
    folder = take_photos(3, 3)
    protocol = "leave-one-out" if broken == "both" else "gallery-probe"
    split = evaluate(read_manifest(folder), [embedder], protocol=protocol, replicates=5).split
    role, individual = broken.removeprefix("one "), "0" if broken.startswith("one") else ""
    lost = [one.photo for one in split.photos if one.role == role and one.individual.startswith(individual)]
    for photo in lost:
        (folder / photo).write_bytes(f"no photo: {photo}".encode())
    photos = read_manifest(folder)
    by_name = {photo.name: photo.sha256 for photo in photos}
    write_split(replace(split, photos=tuple(replace(p, sha256=by_name[p.photo]) for p in split.photos)), tmp_path / "s")
    told = []
    with pytest.raises(DatasetError, match=said) as raised:
        evaluate(photos, [embedder], split=tmp_path / "s", replicates=5, problem=told.append)
    assert lost[0] in str(raised.value)
    assert not isinstance(raised.value, LeakError)
    assert len(told) == len(lost)


def test_what_a_split_left_out_stays_left_out_and_need_not_be_there(embedder, take_photos, tmp_path):
    folder = take_photos(4, 3)
    shutil.copy(folder / "0" / "0.png", folder / "0" / "copy.png")
    done = evaluate(read_manifest(folder), [embedder], replicates=5)
    write_report(done, folder, tmp_path / "report")
    for _ in range(2):
        again = evaluate(read_manifest(folder), [embedder], split=tmp_path / "report" / "split.csv", replicates=5)
        assert {one.photo: one.reason for one in again.split.photos if one.role == "left out"} == {
            "0/copy.png": "the same bytes as 0/0.png"
        }
        assert len(again.photos) == 12
        (folder / "0" / "copy.png").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("0/0.png,gallery,0", "0/1.png,probe,0"), "one individual only"),
        (("0/0.png,both,0", "1/0.png,both,1"), "No individual has two photos"),
        (("0/0.png,both,Bj\u00f6rn", "0/1.png,both, Bj\u006f\u0308rn "), "one individual only"),
    ],
)
def test_a_split_with_nothing_to_compare_is_refused_as_a_folder_is(take_photos, tmp_path, rows, said):
    photos = read_manifest(take_photos(2, 2))
    sums = {photo.name: photo.sha256 for photo in photos}
    lines = [f"{row},{sums[row.partition(',')[0]]}" for row in rows]
    (tmp_path / "s.csv").write_text("\n".join(["photo,role,individual,sha256", *lines]), encoding="utf-8")
    with pytest.raises(DatasetError, match=said):
        evaluate(photos, [object()], split=tmp_path / "s.csv")  # which is no embedder


def few_or_many(individuals: int):
    """Figures of so many individuals with two photos each, who are never mistaken."""
    owners = np.repeat(np.arange(individuals), 2)
    vectors = np.eye(individuals, dtype=np.float32)[owners]
    weightings = draw_individuals(np.zeros(individuals, bool), 50, seed=0)
    found = search(vectors, everyone(owners, np.arange(len(owners))), [RULES["best-photo"]], weightings)
    ranks = measure_ranks(found, found.rules["best-photo"], owners, np.zeros(len(owners), bool), weightings)
    return {**ranks.figures, **measure_pairs(found).figures}


def test_where_all_did_right_the_interval_is_that_of_clopper_and_pearson():
    for name, figure in few_or_many(20).items():
        if name in ("rank_1", "mAP", "auc"):
            assert figure.value == figure.high == 1
            assert figure.low == pytest.approx(0.8316, abs=1e-4)  # scipy.stats.binomtest(20, 20).proportion_ci()
        if name in ("eer", "fnir@fpir=0.1"):
            assert figure.low == figure.value == 0
            assert figure.high == pytest.approx(0.1684, abs=1e-4)


def test_few_individuals_have_no_interval_but_the_reason():
    figures = few_or_many(3)
    for name in ("rank_1", "auroc", "auc"):
        assert (figures[name].value, figures[name].low, figures[name].high) == (1, None, None)
        assert figures[name].reason == "too few individuals for an interval: 3"
    assert difference(figures["rank_1"], figures["rank_1"]).low is None


def test_a_threshold_that_few_strangers_define_is_said_and_what_it_makes_true_has_no_interval(photos):
    *_, those = measured(photos, everyone)
    assert re.fullmatch(r"the threshold rests on [12] individuals?", those.figures["fnir@fpir=0.01"].reason)
    assert those.figures["fnir@fpir=0.1"].reason == ""
    refused = those.figures["baus@fpir=0.01"]
    assert (refused.low, refused.high) == (None, None)
    assert refused.reason == "near 1 - FPIR by construction of the threshold: no interval"


def test_the_page_lists_strangers_apart_and_only_those_that_are_called_by_a_name(embedder, take_photos, tmp_path):
    folder = take_photos(24, 10)
    done = evaluate(read_manifest(folder), [embedder], protocol="open-set", rules=["mean"], replicates=5)
    (result,) = done.results
    over = done.strangers & (result.ranked.other >= result.thresholds["fpir=0.01"])
    assert over.any(), "there must be something to list"
    write_report(done, folder, tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text()
    strangers = text.partition("Strangers called by a name")[2].partition("</table>")[0]
    assert strangers.count(">stranger<") == text.count(">stranger<") == over.sum()
    with (tmp_path / "report" / "probes.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            assert row["nearest_other_photo"].startswith(row["nearest_other"] + "/")


@pytest.mark.parametrize(
    "options",
    [
        ("--enrolled", "0.3"),
        ("--enrolled", "0.5", "--protocol", "by-time"),
        ("--enrolled", "0.5", "--protocol", "open-set", "--split", "split.csv"),
        ("--model", "small", "--all-models"),
        ("--protocol", "verification", "--rule", "mean", "--rule", "best-photo"),
    ],
)
def test_options_that_would_say_nothing_are_refused(home, take_photos, options):
    done = CliRunner().invoke(app, ["evaluate", str(take_photos(2, 2)), *options])
    assert done.exit_code == 2
