"""What is trained on, validated on and held out: about the shares asked for, the same for a seed, and without leaks."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from petid_search.dataset.manifest import LabelledPhoto, read_manifest
from petid_search.dataset.near_duplicates import near_duplicate_pairs, told_pairs
from petid_search.dataset.split_file import fit_split, lacks, leaks, read_split, used_photos, write_split
from petid_search.dataset.splits import Split, near_duplicate_groups
from petid_search.dataset.training_split import make_training_split, read_training_split
from petid_search.errors import DatasetError, LeakError, RecipeError


def listed(individual: str, photo: int, sha256: str | None = None) -> LabelledPhoto:
    name = f"{individual}/{photo}.jpg"
    return LabelledPhoto(Path(name), name, sha256 or name.encode().hex().ljust(64, "0"), individual, None)


def herd(*photos: int) -> list[LabelledPhoto]:
    """How many photos each individual has."""
    return [listed(f"i{number:03d}", photo) for number, count in enumerate(photos) for photo in range(count)]


def linked(count: int, *pairs: tuple[int, int]) -> np.ndarray:
    return near_duplicate_groups(count, np.array(pairs, np.int64).reshape(-1, 2))


def with_role(split: Split, role: str) -> list[str]:
    return [one.photo for one in split.photos if one.role == role]


def individuals(split: Split, role: str) -> set[str]:
    return {one.individual for one in split.photos if one.role == role}


def audit(split: Split, groups: np.ndarray) -> list[str]:
    used = np.array([place for place, one in enumerate(split.photos) if one.role != "left out"], np.int64)
    return leaks(used_photos(split), [], groups[used])


# How photos are divided


def test_no_split_of_a_random_folder_leaks():
    rng = np.random.default_rng(3)
    made = 0
    for _ in range(300):
        photos = []
        for number in range(int(rng.integers(2, 12))):
            for photo in range(int(rng.integers(1, 7))):
                sha256 = f"{rng.integers(40):064d}" if rng.random() < 0.2 else None
                photos.append(listed(f"i{number}", photo, sha256))
        links = rng.integers(len(photos), size=(int(rng.integers(0, len(photos))), 2))
        groups = near_duplicate_groups(len(photos), links)
        shares = {"hold_out_individuals": rng.choice([0, 0.3, 0.9]), "hold_out_photos": rng.choice([0, 0.2, 0.9])}
        least = int(rng.integers(1, 4))
        try:
            split = make_training_split(photos, groups, **shares, least_photos=least, seed=int(rng.integers(9)))
        except DatasetError:
            continue
        made += 1
        assert audit(split, groups) == []
        check_by_plain_loops(split, photos, groups, least)
        assert bool(with_role(split, "held out")) == (shares["hold_out_individuals"] > 0)
        assert bool(with_role(split, "validation")) == (shares["hold_out_photos"] > 0)
    assert made > 100


def check_by_plain_loops(split: Split, photos: list[LabelledPhoto], groups: np.ndarray, least: int) -> None:
    assert [one.photo for one in split.photos] == [photo.name for photo in photos]
    used = [place for place, one in enumerate(split.photos) if one.role != "left out"]
    assert len({photos[place].sha256 for place in used}) == len(used), "bytes are counted once"
    lives = defaultdict(set)
    for place, one in enumerate(split.photos):
        assert (one.role == "left out") == bool(one.reason)
        for other in used:
            if place in used and groups[place] == groups[other]:
                assert one.role == split.photos[other].role, "near-duplicates stay on one side"
        if place in used:
            lives[one.individual].add(one.role)
    for roles in lives.values():
        assert roles in ({"held out"}, {"train"}, {"train", "validation"})
    for individual in lives:
        assert sum(split.photos[place].individual == individual for place in used) >= least
    assert sum("train" in roles for roles in lives.values()) >= 2
    assert sum("held out" in roles for roles in lives.values()) != 1


def test_the_shares_are_about_those_asked_for():
    photos = herd(*[3, 5, 8, 13] * 20, *[1] * 50)
    groups = np.arange(len(photos))
    for seed in range(5):
        split = make_training_split(photos, groups, hold_out_individuals=0.25, hold_out_photos=0.2, seed=seed)
        assert len(individuals(split, "held out")) == 20, "a quarter of the 80 that can be searched for"
        trained = [one for one in split.photos if one.role in ("train", "validation") and int(one.individual[1:]) < 80]
        validated = with_role(split, "validation")
        assert len(validated) == pytest.approx(0.2 * len(trained), abs=1)
        for individual in individuals(split, "validation"):
            mine = [one.role for one in trained if one.individual == individual]
            assert abs(mine.count("validation") - 0.2 * len(mine)) < 1, "the share is that of each one's photos"
        assert all(f"i{number:03d}" in individuals(split, "train") for number in range(80, 130))


def test_shares_of_less_than_a_photo_add_up_over_individuals():
    photos = herd(*[2] * 100)
    split = make_training_split(photos, np.arange(200), hold_out_photos=0.1)
    assert len(with_role(split, "validation")) == 20
    assert individuals(split, "train") == {photo.individual for photo in photos}


def test_large_groups_of_near_duplicates_are_validated_as_often_as_small_ones():
    photos = herd(*[6] * 200)
    groups = linked(len(photos), *((6 * n + a, 6 * n + a + 1) for n in range(200) for a in (0, 1, 3, 4)))
    split = make_training_split(photos, groups, hold_out_photos=0.2)
    assert len(with_role(split, "validation")) == pytest.approx(240, abs=3)


@pytest.mark.parametrize("photos", [herd(4, 4, 5, 3), herd(*[6] * 12, 1, 1)])
def test_the_same_seed_divides_the_same_in_any_order_and_another_does_not(photos):
    groups = linked(len(photos), (0, 1), (2, 5))
    shares = {"hold_out_individuals": 0.4, "hold_out_photos": 0.4}
    split = make_training_split(photos, groups, **shares)
    roles = {one.photo: one.role for one in split.photos}
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(photos))
        other = make_training_split([photos[p] for p in order], groups[order], **shares)
        assert [one.photo for one in other.photos] == [photos[place].name for place in order]
        assert {one.photo: one.role for one in other.photos} == roles
    assert any(make_training_split(photos, groups, **shares, seed=seed) != split for seed in (1, 2, 3))


def test_individuals_that_share_a_picture_are_held_out_together():
    photos = herd(*[3] * 8)
    groups = linked(24, (0, 4), (5, 9))  # i000 with i001, i001 with i003 by way of another picture
    for seed in range(20):
        split = make_training_split(photos, groups, hold_out_individuals=0.4, hold_out_photos=0.3, seed=seed)
        assert len({"i000", "i001", "i003"} & individuals(split, "held out")) in (0, 3)
        assert not {"i000/0.jpg", "i001/1.jpg"} & set(with_role(split, "validation")), "a shared picture is trained on"


def test_only_who_can_be_searched_for_is_held_out():
    photos = herd(1, 3, 3, 3, 3, 1, 2)
    groups = linked(len(photos), (14, 15))  # i006 has one picture twice
    for seed in range(10):
        split = make_training_split(photos, groups, hold_out_individuals=0.5, seed=seed)
        assert len(individuals(split, "held out")) == 2
        assert not {"i000", "i005", "i006"} & individuals(split, "held out")


def test_of_the_largest_shares_two_individuals_are_left_to_train_on_and_a_photo_of_each():
    split = make_training_split(herd(*[4] * 10), np.arange(40), hold_out_individuals=0.99, hold_out_photos=0.99)
    assert len(individuals(split, "train")) == 2
    assert (len(with_role(split, "train")), len(with_role(split, "validation"))) == (2, 6)
    assert len(individuals(split, "held out")) == 8


def test_shares_of_nothing_hold_out_nothing():
    split = make_training_split(herd(1, 1, 1), np.arange(3), hold_out_individuals=0, hold_out_photos=0)
    assert {one.role for one in split.photos} == {"train"}


def test_who_has_too_few_photos_is_left_out_with_the_reason():
    photos = [*herd(4, 4, 2), listed("i002", 2, sha256=herd(1)[0].sha256.replace("0", "f"))]
    photos.append(replace(photos[-1], name="i002/3.jpg"))  # the same bytes again
    split = make_training_split(photos, np.arange(12), least_photos=4)
    assert {one.photo: one.reason for one in split.photos if one.role == "left out"} == {
        **dict.fromkeys(("i002/0.jpg", "i002/1.jpg", "i002/2.jpg"), "its individual has 3 of the 4 photos wanted"),
        "i002/3.jpg": "the same bytes as i002/2.jpg",
    }


@pytest.mark.parametrize(
    ("photos", "how", "said"),
    [
        ([], {}, "show nobody, and"),
        (herd(9), {}, "show one individual only, and"),
        (herd(9, 2, 2), {"least_photos": 3}, "one individual only with 3 photos or more"),
        (herd(1, 1, 1, 1), {}, "No photo can be held out to validate on"),
        (herd(5, 5, 5), {"hold_out_photos": 0.01}, "No photo can be held out to validate on"),
        (herd(1, 1, 1, 1), {"hold_out_individuals": 0.5, "hold_out_photos": 0}, "Too few individuals have two photos"),
        (herd(4, 4, 4), {"hold_out_individuals": 0.5}, "Too few individuals"),
    ],
)
def test_what_cannot_be_divided_is_said_in_one_line_with_what_to_do(photos, how, said):
    with pytest.raises(DatasetError, match=said) as raised:
        make_training_split(photos, np.arange(len(photos)), **how)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "how", [{"hold_out_individuals": 1.0}, {"hold_out_photos": -0.1}, {"hold_out_photos": 1}, {"least_photos": 0}]
)
def test_a_share_out_of_range_is_refused(how):
    with pytest.raises(RecipeError, match=next(iter(how)).replace("_", "-")):
        make_training_split(herd(3, 3), np.arange(6), **how)


# The audit and the file


@pytest.fixture
def divided():
    photos = herd(*[4] * 6)
    return photos, make_training_split(photos, np.arange(24), hold_out_individuals=0.4, hold_out_photos=0.25)


@pytest.mark.parametrize(
    ("first", "second"), [("train", "validation"), ("train", "held out"), ("validation", "held out")]
)
def test_the_same_picture_with_two_roles_is_named(divided, first, second):
    _, split = divided
    one, other = (next(p for p, a in enumerate(split.photos) if a.role == role) for role in (first, second))
    groups = np.arange(24)
    groups[one] = groups[other]
    names = split.photos[one].photo, split.photos[other].photo
    assert audit(split, groups) == [f"{names[1]} ({second}) is a near-duplicate of {names[0]} ({first})"]
    changed = list(split.photos)
    changed[other] = replace(changed[other], sha256=changed[one].sha256)
    found = audit(replace(split, photos=tuple(changed)), np.arange(24))
    assert f"{names[1]} ({second}) has the same bytes as {names[0]} ({first})" in found


@pytest.mark.parametrize("role", ["train", "validation"])
def test_an_individual_held_out_and_trained_on_is_named(divided, role):
    _, split = divided
    place = next(p for p, one in enumerate(split.photos) if one.role == "held out")
    changed = list(split.photos)
    changed[place] = replace(changed[place], role=role)
    (leak,) = audit(replace(split, photos=tuple(changed)), np.arange(24))
    assert leak.startswith(f"{changed[place].individual} is held out with ")
    assert leak.endswith(f"and trained on with {changed[place].photo}")


def test_a_validation_photo_of_somebody_not_trained_on_is_named(divided):
    _, split = divided
    individual = next(iter(individuals(split, "validation")))
    without = [one for one in split.photos if one.individual != individual or one.role != "train"]
    kept = replace(split, photos=tuple(without))
    (leak,) = audit(kept, np.arange(24))
    assert leak.endswith(f"(validation) shows {individual}, who is not trained on")
    assert lacks(kept) == f"no photo of {individual} has the role train"
    assert lacks(split) == ""
    assert lacks(replace(split, photos=())) == "there is no photo with the role train"


def test_a_training_split_is_read_as_it_was_written_and_its_roles_tell_what_it_is(divided, tmp_path):
    photos, split = divided
    file = tmp_path / "split.csv"
    write_split(split, file)
    assert read_split(file) == split
    assert fit_split(read_split(file), photos, source=file) == split
    file.write_text("\n".join(line.rsplit(",", 1)[0] for line in file.read_text().splitlines()))
    assert read_split(file).protocol == "training"


@pytest.mark.parametrize(
    "roles", ["validation,validation,training", "train,probe,training", "train,both,", "train,train,leave-one-out"]
)
def test_roles_that_do_not_go_together_are_refused(tmp_path, roles):
    first, second, protocol = roles.split(",")
    file = tmp_path / "split.csv"
    file.write_text(f"photo,sha256,individual,role,protocol\n1,a,A,{first},{protocol}\n2,b,A,{second},{protocol}\n")
    with pytest.raises(DatasetError, match="has the roles"):
        read_split(file)


def test_a_split_given_again_is_audited_with_the_photos_themselves(take_photos, take_photo, tmp_path):
    folder = take_photos(6, 4)
    photos = read_manifest(folder)
    split = make_training_split(photos, np.arange(24), hold_out_individuals=0.4)
    file = tmp_path / "split.csv"
    write_split(split, file)
    assert read_training_split(file, photos) == split
    trained, held_out = with_role(split, "train")[0], with_role(split, "held out")[0]
    place = next(p for p, photo in enumerate(photos) if photo.name == held_out)
    with pytest.raises(LeakError, match=f"{held_out} .held out. is a near-duplicate of {trained} .train"):
        read_training_split(
            file, photos, lambda _: np.array([[[p.name for p in photos].index(trained), place]], np.int64)
        )
    assert near_duplicate_pairs(photos).shape == (0, 2)
    told = replace(
        split, photos=tuple(replace(p, group=7) if p.photo in (trained, held_out) else p for p in split.photos)
    )
    assert len(told_pairs(told.photos)) == 1
    write_split(told, file)
    with pytest.raises(LeakError, match="near-duplicate"):
        read_training_split(file, photos)
    file.write_text(
        file.read_text()
        .replace("held out", "stranger")
        .replace("validation", "probe")
        .replace("train,", "gallery,")
        .replace("training", "open-set")
    )
    with pytest.raises(DatasetError, match=r"one for an evaluation \(open-set\), not for training"):
        read_training_split(file, photos)


def test_evaluate_takes_of_a_training_split_those_who_were_held_out_and_refuses_it_where_nobody_was(
    embedder, take_photos, tmp_path
):
    from petid_search.evaluate import evaluate

    photos = read_manifest(take_photos(6, 4))
    split = make_training_split(photos, np.arange(24), hold_out_individuals=0.5, hold_out_photos=0.2)
    write_split(split, tmp_path / "held.csv")
    done = evaluate(photos, [embedder], split=tmp_path / "held.csv", replicates=5)
    assert {photo.name for photo in done.photos} == {one.photo for one in split.photos if one.role == "held out"}
    write_split(make_training_split(photos, np.arange(24)), tmp_path / "split.csv")
    with pytest.raises(DatasetError, match="holds no individual out") as raised:
        evaluate(photos, [embedder], split=tmp_path / "split.csv")
    assert "\n" not in str(raised.value)
