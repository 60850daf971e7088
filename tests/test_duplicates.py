"""Near-identical photos of folders: which pairs, which groups, which photo is kept and why, and who stands twice."""

import csv
import json
import os
from pathlib import Path

import pytest
from conftest import copies, draw_scene
from PIL import Image, ImageFilter
from skimage.metrics import structural_similarity
from test_ssim import small

from petid_search.dedup.duplicates import MEASURE, Labelled, find_duplicates
from petid_search.dedup.sheet import write_sheet
from petid_search.dedup.thumbnails import ThumbnailStore
from petid_search.errors import PhotoError


@pytest.fixture
def find(tmp_path):
    def run(*photos: Labelled | Path, **options):
        labelled = [one if isinstance(one, Labelled) else Labelled(one) for one in photos]
        with ThumbnailStore(tmp_path / "thumbnails.db") as store:
            return find_duplicates(labelled, store=store, **options)

    return run


@pytest.fixture
def save(tmp_path):
    def write(name: str, picture: Image.Image | int, *, age: int = 0, **options) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (draw_scene(picture) if isinstance(picture, int) else picture).save(path, **options)
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
        return path

    return write


def groups_of(found) -> list[tuple[str, str, list[str]]]:
    return [(g.keep.path.name, g.why, [other.photo.path.name for other in g.others]) for g in found.groups]


def test_each_pair_is_told_once_with_the_ssim_of_scikit_image(find, save):
    scene = draw_scene(1)
    paths = [save("a.png", scene), save("b.png", copies(scene)["brightened"]), save("c.png", 2), save("d.png", scene)]
    pairs = [(pair.first.path.name, pair.second.path.name, pair.ssim) for pair in find(*paths).pairs()]
    brighter = structural_similarity(small(scene), small(copies(scene)["brightened"]))
    assert pairs == [
        ("a.png", "d.png", 1.0),
        ("a.png", "b.png", pytest.approx(brighter, abs=1e-6)),
        ("b.png", "d.png", pytest.approx(brighter, abs=1e-6)),
    ]


def test_the_largest_is_kept(find, save):
    scene = draw_scene(1)
    small_one, large = save("a.png", scene.resize((48, 48))), save("b.png", scene)
    assert groups_of(find(small_one, large)) == [("b.png", "largest", ["a.png"])]


def test_bytes_of_two_formats_are_not_compared(find, save):
    save("a.jpg", 1, quality=75, age=100)
    derived = save("b.png", Image.open(save("a.jpg", 1, quality=75, age=100)))
    assert derived.stat().st_size > (derived.parent / "a.jpg").stat().st_size
    assert groups_of(find(derived, derived.parent / "a.jpg")) == [("a.jpg", "oldest", ["b.png"])]


def test_of_equal_size_the_sharpest_is_kept(find, save):
    scene = draw_scene(1)
    blurred = save("a.png", scene.filter(ImageFilter.GaussianBlur(2)))
    assert groups_of(find(blurred, save("b.png", scene))) == [("b.png", "sharpest", ["a.png"])]


def test_of_equally_sharp_ones_the_least_compressed_is_kept(find, save):
    scene = draw_scene(1)
    paths = [save(f"{quality}.jpg", scene, quality=quality) for quality in (60, 95, 75)]
    assert groups_of(find(*paths)) == [("95.jpg", "least compressed", ["60.jpg", "75.jpg"])]


def test_of_copies_the_oldest_is_kept_and_of_those_the_first_by_name(find, save):
    new, old = save("a.png", 1, age=10), save("b.png", 1, age=20)
    assert groups_of(find(new, old)) == [("b.png", "oldest", ["a.png"])]
    assert groups_of(find(save("z.png", 2), save("y.png", 2))) == [("y.png", "first by name", ["z.png"])]


def test_every_other_is_near_identical_to_the_one_kept_not_only_by_way_of_a_third(find, save):
    scene = draw_scene(1, 128)
    steps = [scene.crop((cut, cut, 128, 128)).resize((128, 128)) for cut in (0, 2, 4, 6)]
    ssim = [[structural_similarity(small(a), small(b)) for b in steps] for a in steps]
    threshold = min(ssim[i][i + 1] for i in range(3)) - 0.005
    assert ssim[0][2] < threshold  # a chain: each is near-identical to the next, and not to the one after
    paths = [save(f"{place}.png", step) for place, step in enumerate(steps)]
    found = find(*paths, threshold=threshold)
    assert len(list(found.pairs())) == 3
    kept = {group.keep.path: group for group in found.groups}
    moved = [other.photo.path for group in found.groups for other in group.others]
    assert len(moved) == len(set(moved))
    assert not set(moved) & set(kept)
    for group in found.groups:
        for other in group.others:
            assert ssim[paths.index(group.keep.path)][paths.index(other.photo.path)] >= threshold
            assert other.ssim == pytest.approx(ssim[paths.index(group.keep.path)][paths.index(other.photo.path)])


def test_one_picture_under_two_individuals_is_a_conflict(find, save):
    rex = [Labelled(save(f"Rex/{name}.png", 1), "Rex") for name in "ab"]
    found = find(*rex, Labelled(save("Max/c.png", 1), "Max"), Labelled(save("d.png", 1)))
    conflicts = [{pair.first.path.name, pair.second.path.name} for pair in found.conflicts()]
    assert sorted(map(sorted, conflicts)) == [["a.png", "c.png"], ["b.png", "c.png"]]


def test_a_photo_that_tells_whom_it_shows_is_kept_before_a_larger_one_that_does_not(find, save):
    stray = save("large.png", draw_scene(1, 200))
    named = Labelled(save("Rex/small.png", draw_scene(1, 200).resize((90, 90))), "Rex")
    assert groups_of(find(stray, named)) == [("small.png", "its individual is told", ["large.png"])]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("all", {"ab", "ac", "ad", "bc", "bd", "cd"}),
        ("within", {"ab"}),
        ("across", {"ac", "bc"}),
    ],
)
def test_scope_tells_which_pairs_are_looked_for(scope, expected, find, save):
    names = {"a": "Rex", "b": "Rex", "c": "Max", "d": None}
    found = find(*(Labelled(save(f"{name}.png", 1), individual) for name, individual in names.items()), scope=scope)
    assert {pair.first.path.stem + pair.second.path.stem for pair in found.pairs()} == expected


def test_photos_of_an_archive_are_compared_with_those_searched_alone_and_always_stay(find, save):
    archive = [Labelled(save(f"archive/{name}.png", 1), "Rex", archived=True) for name in "xy"]
    new = save("new.png", draw_scene(1).resize((300, 300)))
    found = find(*archive, new, save("other.png", 2))
    assert {pair.second.path.name for pair in found.pairs()} == {"x.png", "y.png"}
    assert {pair.first.path.name for pair in found.pairs()} == {"new.png"}
    assert [(why, others) for _, why, others in groups_of(found)] == [("in the archive", ["new.png"])]


def test_a_file_that_several_names_lead_to_is_one_photo(find, save, tmp_path):
    photo = save("a.png", 1)
    (tmp_path / "link.png").symlink_to(photo)
    (tmp_path / "hard.png").hardlink_to(photo)
    found = find(photo, photo, tmp_path / "link.png", tmp_path / "hard.png", tmp_path / "." / "a.png")
    assert [one.path for one in found.photos] == [photo]
    assert not found.groups


def test_a_photo_of_the_archive_is_never_looked_for_by_another_name(find, save):
    photo = save("a.png", 1)
    found = find(photo, Labelled(photo, archived=True), save("b.png", 1))
    assert groups_of(found) == [("a.png", "in the archive", ["b.png"])]


def test_what_cannot_be_read_is_told_and_the_rest_compared(find, save, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    found = find(tmp_path / "broken.jpg", save("a.png", 1), tmp_path / "gone.png", save("b.png", 1))
    assert len(found.groups) == 1
    assert len(found.problems) == 2
    assert all(isinstance(problem, PhotoError) for problem in found.problems)


def test_nothing_is_no_trouble(find, save):
    assert find().photos == []
    assert find(save("a.png", 1)).groups == []


def test_json_tells_the_measure_and_everything_found(find, save):
    found = find(Labelled(save("Rex/a.png", 1), "Rex"), Labelled(save("Max/b.png", 1), "Max"))
    told = json.loads(json.dumps(found.to_json()))
    assert told["measure"] == MEASURE
    assert told["threshold"] == 0.95
    a, b = (str(one.path) for one in found.photos)
    assert told["pairs"] == [[a, b, 1.0]]
    assert told["groups"] == []  # which of the two is labelled wrong, nobody knows
    assert told["conflicts"] == [{"photos": [a, b], "individuals": ["Rex", "Max"], "ssim": 1.0}]


def test_a_table_has_a_line_for_each_pair(find, save, tmp_path):
    found = find(Labelled(save("Rex/ä,b.png", 1), "Rex"), save("c.png", 1))
    found.write_csv(tmp_path / "pairs.csv")
    with (tmp_path / "pairs.csv").open(newline="", encoding="utf-8") as opened:
        (row,) = csv.DictReader(opened)
    assert row["photo_1"] == str(tmp_path / "Rex" / "ä,b.png")
    assert (row["individual_1"], row["individual_2"]) == ("Rex", "")
    assert (row["part_1"], row["part_2"], row["ssim"]) == ("keep", "other", "1.0000000")


def test_a_sheet_shows_conflicts_first_and_trusts_no_name(find, save, tmp_path):
    evil = "<script>alert(1)</script>"
    found = find(
        Labelled(save("1/a.png", 1), evil), Labelled(save("2/b.png", 1), "Max"), save("c.png", 2), save("d.png", 2)
    )
    write_sheet(found, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert "<script>" not in page
    assert page.count("data:image/jpeg;base64,") == 4
    assert page.index("Under two individuals") < page.index("Groups")
    assert not list(tmp_path.glob(".*.part"))
