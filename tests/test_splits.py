"""Manifests and splits: what is read of a folder, how it is divided, and that no leak passes the audit."""

import csv
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_animal
from PIL import ExifTags, Image

from petid_search.dataset.manifest import LabelledPhoto, read_manifest, time_in_name
from petid_search.dataset.split_file import fit_split, leaks, read_split, refuse_leaks, write_split
from petid_search.dataset.splits import PROTOCOLS, SESSION_GAP, Assigned, Split, make_split, near_duplicate_groups
from petid_search.errors import DatasetError, LeakError

START = datetime(2025, 4, 1, 9, 0, 0)


def listed(individual: str, photo: int, *, taken: datetime | None = None, sha256: str | None = None) -> LabelledPhoto:
    name = f"{individual}/{photo}.jpg"
    return LabelledPhoto(
        Path(name), name, sha256 or name.encode(errors="surrogateescape").hex().ljust(64, "0"), individual, taken
    )


def herd(individuals: int, photos: int) -> list[LabelledPhoto]:
    """Each individual's photos are a day apart."""
    return [
        listed(f"i{number:02d}", photo, taken=START + timedelta(days=photo))
        for number in range(individuals)
        for photo in range(photos)
    ]


def pairs(*those: tuple[int, int]) -> np.ndarray:
    return np.array(those, np.int64).reshape(-1, 2)


def audit(split: Split, photos: list[LabelledPhoto], groups: np.ndarray) -> list[str]:
    places = [place for place, one in enumerate(split.photos) if one.role != "left out"]
    used = Split(split.protocol, tuple(split.photos[place] for place in places))
    return leaks(used, [photos[place] for place in places], groups[places])


def roles(split: Split) -> dict[str, str]:
    return {one.photo: one.role for one in split.photos}


# What is read


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("20250401093214_20250401093754_0018_cls0.jpg", datetime(2025, 4, 1, 9, 32, 14)),
        ("2025-04-01 09.32.14.jpg", datetime(2025, 4, 1, 9, 32, 14)),
        ("PXL_20250401_093214123.jpg", datetime(2025, 4, 1, 9, 32, 14)),
        ("VID_20250401093214999.jpg", datetime(2025, 4, 1, 9, 32, 14)),
        ("WhatsApp Image 2025-04-01 at 09.32.14.jpeg", datetime(2025, 4, 1, 9, 32, 14)),
        ("IMG-20250401-WA0007.jpg", date(2025, 4, 1)),
        ("20250401.jpg", date(2025, 4, 1)),
        ("20250230101010.jpg", None),
        ("998230000006455.jpg", None),
        ("331-2-5-3(1).jpg", None),
        ("1.jpg", None),
    ],
)
def test_a_file_name_tells_the_time_where_it_holds_one(name, taken):
    assert time_in_name(name) == taken


def test_exif_tells_the_time_before_the_file_name_does(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:12:31 23:59:58"
    (tmp_path / "Rex").mkdir()
    Image.fromarray(draw_animal(1, 1)).save(tmp_path / "Rex" / "20200101_101010.jpg", exif=exif)
    broken = Image.Exif()
    broken.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "yesterday"
    Image.fromarray(draw_animal(1, 2)).save(tmp_path / "Rex" / "20200102_101010.jpg", exif=broken)
    assert [photo.taken for photo in read_manifest(tmp_path / "Rex")] == [
        datetime(2024, 12, 31, 23, 59, 58),
        datetime(2020, 1, 2, 10, 10, 10),
    ]


def test_a_manifest_lists_every_photo_once_and_tells_of_those_that_cannot_be_used(tmp_path, take_photo):
    import hashlib

    first = take_photo(1, 0, "folder/Bj\u006f\u0308rn/1.png")  # as macOS writes names
    take_photo(1, 1, "folder/Bj\u00f6rn/2.png")
    take_photo(2, 0, "folder/Rex/2025/3.png")
    take_photo(3, 0, "folder/beside.png")
    (tmp_path / "folder" / "Rex" / "empty.jpg").write_bytes(b"")
    problems = []
    photos = read_manifest(tmp_path / "folder", problems.append)
    assert [(photo.name, photo.individual) for photo in photos] == [
        ("Bj\u006f\u0308rn/1.png", "Bj\u00f6rn"),
        ("Bj\u00f6rn/2.png", "Bj\u00f6rn"),
        ("Rex/2025/3.png", "Rex"),
    ]
    assert photos[0].sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
    assert sorted("beside.png" in str(problem) for problem in problems) == [False, True]
    assert any("empty.jpg is empty" in str(problem) for problem in problems)


# How it is divided


def test_groups_are_what_near_duplicate_pairs_link():
    groups = near_duplicate_groups(7, pairs((5, 1), (3, 5), (2, 6)))
    assert groups.tolist() == [0, 1, 2, 1, 3, 1, 2]
    assert near_duplicate_groups(3, pairs()).tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_split_of_a_random_folder_leaks(protocol):
    rng = np.random.default_rng(PROTOCOLS.index(protocol))
    made = 0
    for _ in range(150):
        individuals = int(rng.integers(2, 9))
        photos = []
        for number in range(individuals):
            for photo in range(int(rng.integers(1, 7))):
                # Few different bytes and times, so that they often meet.
                sha256 = f"{rng.integers(30):064d}" if rng.random() < 0.3 else None
                taken = START + timedelta(minutes=int(rng.integers(600))) if rng.random() < 0.9 else None
                photos.append(listed(f"i{number}", photo, taken=taken, sha256=sha256))
        count = int(rng.integers(0, len(photos)))
        groups = near_duplicate_groups(len(photos), rng.integers(len(photos), size=(count, 2)))
        try:
            split = make_split(photos, groups, protocol, seed=int(rng.integers(9)), enrolled=rng.uniform(0.1, 0.9))
        except DatasetError:
            continue
        made += 1
        assert audit(split, photos, groups) == []
        check_by_plain_loops(split, photos, groups)
    assert made > 50


def check_by_plain_loops(split: Split, photos: list[LabelledPhoto], groups: np.ndarray) -> None:
    assert [one.photo for one in split.photos] == [photo.name for photo in photos]
    used = [place for place, one in enumerate(split.photos) if one.role != "left out"]
    assert len({photos[place].sha256 for place in used}) == len(used), "bytes are counted once"
    for one in split.photos:
        assert (one.role == "left out") == bool(one.reason)
    for a in used:
        for b in used:
            first, second = split.photos[a], split.photos[b]
            if first.role == "gallery" and second.role in ("probe", "stranger"):
                assert groups[a] != groups[b]
                assert (first.individual == second.individual) <= (second.role == "probe")
                if split.protocol == "by-time" and first.individual == second.individual:
                    assert photos[b].taken - photos[a].taken > SESSION_GAP
    enrolled = {split.photos[place].individual for place in used if split.photos[place].role == "gallery"}
    assert all(one.individual in enrolled for one in split.photos if one.role == "probe")


@pytest.mark.parametrize("protocol", ["gallery-probe", "open-set"])
def test_the_same_seed_divides_the_same_and_another_does_not(protocol):
    photos = herd(20, 6)
    groups = near_duplicate_groups(len(photos), pairs((0, 1), (7, 8)))
    assert make_split(photos, groups, protocol, seed=4) == make_split(photos, groups, protocol, seed=4)
    assert make_split(photos, groups, protocol, seed=4) != make_split(photos, groups, protocol, seed=5)


def test_gallery_and_probe_halve_each_individual():
    split = make_split(herd(10, 6), np.arange(60), "gallery-probe")
    for number in range(10):
        mine = [one.role for one in split.photos if one.individual == f"i{number:02d}"]
        assert (mine.count("gallery"), mine.count("probe")) == (3, 3)


def test_the_open_set_enrolls_the_wanted_share_of_individuals():
    for share, known in ((0.5, 10), (0.25, 5), (0.01, 1), (0.99, 19)):
        split = make_split(herd(20, 4), np.arange(80), "open-set", enrolled=share)
        assert len({one.individual for one in split.photos if one.role == "gallery"}) == known
        assert len({one.individual for one in split.photos if one.role == "stranger"}) == 20 - known


def test_individuals_that_share_a_picture_are_enrolled_or_strangers_together():
    photos = herd(6, 3)
    groups = near_duplicate_groups(len(photos), pairs((0, 4), (5, 9)))  # i00 with i01, i01 with i03
    for seed in range(10):
        split = make_split(photos, groups, "open-set", seed=seed)
        strangers = {one.individual for one in split.photos if one.role == "stranger"}
        assert len({"i00", "i01", "i03"} & strangers) in (0, 3)


def test_by_time_enrolls_the_earlier_sessions_and_asks_for_the_later_ones():
    hours = [0, 0.2, 0.9, 1.5, 30, 30.1, 54]
    photos = [listed("Rex", n, taken=START + timedelta(hours=hour)) for n, hour in enumerate(hours)][::-1]
    photos += [listed("Max", 0, taken=START), listed("Max", 1), listed("Ada", 0, taken=START)]
    split = make_split(photos, np.arange(len(photos)), "by-time")
    assert roles(split) == {
        **{f"Rex/{n}.jpg": "gallery" for n in range(4)},
        **{f"Rex/{n}.jpg": "probe" for n in (4, 5, 6)},
        **{"Max/0.jpg": "gallery", "Max/1.jpg": "left out", "Ada/0.jpg": "gallery"},
    }
    assert [one.reason for one in split.photos if one.role == "left out"] == [
        "carries no time, in its EXIF or its file's name"
    ]


def test_a_later_photo_that_is_nearly_an_enrolled_one_is_left_out_and_the_twin_named():
    photos = herd(3, 4)
    split = make_split(photos, near_duplicate_groups(12, pairs((0, 3))), "by-time")
    (left_out,) = [one for one in split.photos if one.role == "left out"]
    assert (left_out.photo, left_out.reason) == (
        "i00/3.jpg",
        "a near-duplicate of i00/0.jpg, which is enrolled",
    )


def test_bytes_that_occur_twice_count_once_and_under_two_names_not_at_all():
    photos = [
        *(listed("Rex", 0, sha256="a"), listed("Rex", 1, sha256="a"), listed("Rex", 2), listed("Rex", 3)),
        *(listed("Max", 0), listed("Max", 1), listed("Max", 2, sha256="b"), listed("Ada", 0, sha256="b")),
    ]
    split = make_split(photos, near_duplicate_groups(8, pairs((0, 1), (6, 7))), "leave-one-out")
    assert {one.photo: one.reason for one in split.photos if one.role == "left out"} == {
        "Rex/1.jpg": "the same bytes as Rex/0.jpg",
        "Max/2.jpg": "the same bytes as Ada/0.jpg, which is under another name",
        "Ada/0.jpg": "the same bytes as Max/2.jpg, which is under another name",
    }


@pytest.mark.parametrize(
    ("photos", "protocol", "said"),
    [
        ([], "leave-one-out", "show nobody"),
        (herd(1, 5), "leave-one-out", "one individual only"),
        (herd(5, 1), "leave-one-out", "no individual has two"),
        (herd(5, 1), "open-set", "no individual has two"),
        ([listed("Rex", 0), listed("Rex", 1), listed("Max", 0)], "by-time", "no photo carries a time"),
        ([listed("Rex", 0, taken=START), listed("Rex", 1, taken=START), listed("Max", 0)], "by-time", "an hour apart"),
    ],
)
def test_what_cannot_be_divided_is_said_with_what_to_do(photos, protocol, said):
    with pytest.raises(DatasetError, match=rf"(?i){said}") as raised:
        make_split(photos, np.arange(len(photos)), protocol)
    assert "\n" not in str(raised.value)
    assert ":" in str(raised.value)


def test_near_duplicates_alone_let_nobody_be_found_again():
    with pytest.raises(DatasetError, match="No individual has two photos"):
        make_split(herd(3, 2), np.array([0, 0, 1, 1, 2, 2]), "leave-one-out")


def test_an_open_set_needs_individuals_that_do_not_all_share_pictures():
    with pytest.raises(DatasetError, match="share near-duplicates"):
        make_split(herd(3, 3), near_duplicate_groups(9, pairs((0, 3), (3, 6))), "open-set")


# The audit


@pytest.fixture
def divided():
    """Four individuals with four photos each, an open set: photos, split, groups."""
    photos = herd(4, 4)
    groups = np.arange(16)
    return photos, make_split(photos, groups, "open-set"), groups


def first_with(split: Split, role: str) -> int:
    return next(place for place, one in enumerate(split.photos) if one.role == role)


@pytest.mark.parametrize("role", ["probe", "stranger"])
def test_the_same_bytes_on_both_sides_are_named(divided, role):
    photos, split, groups = divided
    enrolled, asked = first_with(split, "gallery"), first_with(split, role)
    changed = list(split.photos)
    changed[asked] = replace(changed[asked], sha256=changed[enrolled].sha256)
    found = audit(replace(split, photos=tuple(changed)), photos, groups)
    assert any(
        "the same bytes" in leak and photos[enrolled].name in leak and photos[asked].name in leak for leak in found
    )


@pytest.mark.parametrize(("twin", "said"), [(1, "would be counted twice"), (2, "under two names")])
def test_the_same_bytes_on_one_side_are_named(twin, said):
    photos = herd(3, 2)
    split = make_split(photos, np.arange(6), "leave-one-out")
    changed = list(split.photos)
    changed[twin] = replace(changed[twin], sha256=changed[0].sha256)
    (leak,) = audit(replace(split, photos=tuple(changed)), photos, np.arange(6))
    assert leak.startswith(f"{photos[0].name} and {photos[twin].name} are the same bytes")
    assert leak.endswith(said)


@pytest.mark.parametrize("role", ["probe", "stranger"])
def test_near_duplicates_on_both_sides_are_named(divided, role):
    photos, split, groups = divided
    enrolled, asked = first_with(split, "gallery"), first_with(split, role)
    groups = groups.copy()
    groups[asked] = groups[enrolled]
    assert audit(split, photos, groups) == [
        f"{role} {photos[asked].name} is a near-duplicate of {photos[enrolled].name} of the gallery"
    ]


def test_an_individual_that_is_enrolled_and_a_stranger_is_named(divided):
    photos, split, groups = divided
    asked = first_with(split, "probe")
    changed = list(split.photos)
    changed[asked] = replace(changed[asked], role="stranger")
    (leak,) = audit(replace(split, photos=tuple(changed)), photos, groups)
    assert leak.startswith(f"{photos[asked].individual} is a stranger with {photos[asked].name} and enrolled with ")


def test_a_probe_of_whom_nothing_is_enrolled_is_named(divided):
    photos, split, groups = divided
    asked = first_with(split, "stranger")
    changed = list(split.photos)
    changed[asked] = replace(changed[asked], role="probe")
    (leak,) = audit(replace(split, photos=tuple(changed)), photos, groups)
    assert leak == f"probe {photos[asked].name} shows {photos[asked].individual}, of whom nothing is enrolled"


def test_a_probe_older_than_the_gallery_is_named_where_time_divides():
    photos = herd(3, 4)
    split = make_split(photos, np.arange(12), "by-time")
    first, last = split.photos[0], split.photos[3]
    swapped = (replace(first, role="probe"), *split.photos[1:3], replace(last, role="gallery"), *split.photos[4:])
    found = audit(replace(split, photos=swapped), photos, np.arange(12))
    assert "probe i00/0.jpg is not younger than i00/3.jpg of the gallery, or of one session with it" in found


def test_time_divides_no_session_and_no_photo_without_a_time():
    photos = [listed("Rex", 0, taken=START), listed("Rex", 1, taken=START + SESSION_GAP), listed("Rex", 2)]
    split = Split(
        "by-time",
        tuple(Assigned(p.name, p.sha256, "Rex", r) for p, r in zip(photos, ("gallery", "probe", "probe"), strict=True)),
    )
    assert leaks(split, photos, np.arange(3)) == [
        "probe Rex/2.jpg carries no time",
        "probe Rex/1.jpg is not younger than Rex/0.jpg of the gallery, or of one session with it",
    ]
    later = [photos[0], replace(photos[1], taken=START + 1.1 * SESSION_GAP), replace(photos[2], taken=date(2025, 4, 2))]
    assert leaks(split, later, np.arange(3)) == []


def test_a_day_is_not_parted_where_a_photo_tells_only_the_day():
    day = date(START.year, START.month, START.day)
    times = [day, START, START + timedelta(hours=5), START + timedelta(days=1)]
    photos = [listed("Rex", n, taken=taken) for n, taken in enumerate(times)] + [listed("Max", 0, taken=START)]
    split = make_split(photos, np.arange(5), "by-time")
    assert [one.role for one in split.photos] == ["gallery"] * 3 + ["probe", "gallery"]


def test_no_split_of_random_times_parts_a_session():
    rng = np.random.default_rng(1)
    for seed in range(200):
        photos = [listed("Max", 0, taken=START)]
        for n in range(8):
            taken = START + timedelta(minutes=int(rng.integers(0, 3 * 24 * 60)))
            photos.append(listed("Rex", n, taken=taken.date() if rng.random() < 0.3 else taken))
        photos += [listed("Ada", 0, taken=START), listed("Ada", 1, taken=START + timedelta(days=1))]
        split = make_split(photos, np.arange(len(photos)), "by-time", seed=seed)
        assert audit(split, photos, np.arange(len(photos))) == []


def test_many_leaks_are_one_line_that_names_some_and_counts_the_rest():
    with pytest.raises(LeakError) as raised:
        refuse_leaks([f"leak {number}" for number in range(7)], Path("split.csv"))
    assert str(raised.value).startswith("The split split.csv leaks: leak 0; leak 1; leak 2; and 4 more. ")
    refuse_leaks([], Path("split.csv"))


def test_a_leak_that_petid_made_itself_is_its_own_fault():
    with pytest.raises(LeakError, match=r"is a fault of petid: leak 0\. Please report it"):
        refuse_leaks(["leak 0"], None)


# The file


def test_a_split_is_read_as_it_was_written(tmp_path):
    photos = [*herd(5, 4), listed('Rex; "the, first"\n=1+1', 0), listed("\udce9", 0)]
    groups = near_duplicate_groups(len(photos), pairs((1, 2), (3, 7)))
    for protocol in PROTOCOLS:
        split = make_split(photos, groups, protocol, seed=2)
        write_split(split, tmp_path / "split.csv")
        assert read_split(tmp_path / "split.csv") == split


def test_another_programs_split_needs_four_columns_and_its_roles_tell_the_protocol(tmp_path):
    file = tmp_path / "split.csv"
    lines = ["role;individual;sha256;photo", "gallery;Rex;a;1.jpg", "probe;Rex;b;2.jpg"]
    file.write_text("\n".join(lines), encoding="utf-8-sig")
    assert read_split(file).protocol == "gallery-probe"
    file.write_text("\n".join([*lines, "stranger;Max;c;3.jpg"]))
    assert read_split(file).protocol == "open-set"
    file.write_text("photo,sha256,individual,role\n1.jpg,a,Rex,both\n2.jpg,b,Rex,both\n")
    assert read_split(file).protocol == "leave-one-out"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column 'photo'"),
        ("photo,sha256,individual\n", "has no column 'role'"),
        ("photo,sha256,individual,role\n1.jpg,a,Rex,guest\n", "line 2: the role 'guest' is unknown"),
        ("photo,sha256,individual,role\n1.jpg,a,Rex\n", "line 2: the role '' is unknown"),
        ("photo,sha256,individual,role\n1.jpg,,Rex,both\n", "line 2: a photo needs"),
        ("photo,sha256,individual,role,near_duplicates\n1.jpg,a,Rex,both,few\n", "line 2: near_duplicates is"),
        ("photo,sha256,individual,role\n1.jpg,a,Rex,gallery\n", "has the roles gallery; for"),
        ("photo,sha256,individual,role,protocol\n1.jpg,a,Rex,both,by-time\n", "has the roles both; for"),
        ("photo,sha256,individual,role,protocol\n1.jpg,a,Rex,both,magic\n", "has the protocol 'magic'"),
        ("photo,sha256,individual,role\n1.jpg,a,Rex,gallery\n1.jpg,a,Rex,probe\n", "names 1.jpg 2 times"),
    ],
)
def test_what_is_no_split_is_refused_in_one_line(tmp_path, text, said):
    file = tmp_path / "split.csv"
    file.write_text(text)
    with pytest.raises(DatasetError) as raised:
        read_split(file)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_photo_that_is_missing_or_has_changed_is_named():
    photos = herd(3, 2)
    split = make_split(photos, np.arange(6), "leave-one-out")
    with pytest.raises(DatasetError, match=r"names i01/0\.jpg, which the folder does not hold"):
        fit_split(split, photos[:2] + photos[3:], source=Path("s.csv"))
    with pytest.raises(DatasetError, match=r"i02/1\.jpg changed"):
        fit_split(split, [*photos[:5], replace(photos[5], sha256="0" * 64)], source=Path("s.csv"))
    assert fit_split(split, photos, source=Path("s.csv")) == split
    shuffled = replace(split, photos=split.photos[::-1])
    assert fit_split(shuffled, photos, source=Path("s.csv")) == split


def test_the_file_is_plain_csv(tmp_path):
    write_split(make_split(herd(2, 2), np.arange(4), "leave-one-out"), tmp_path / "split.csv")
    with (tmp_path / "split.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0] == {
        **{"photo": "i00/0.jpg", "sha256": herd(1, 1)[0].sha256, "individual": "i00", "role": "both"},
        **{"near_duplicates": "", "reason": "", "protocol": "leave-one-out"},
    }
