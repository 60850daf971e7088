"""`petid dedup` as its user calls it: report, move aside, bring back, delete; against an archive and a gallery."""

import csv
import json
from pathlib import Path

import pytest
from conftest import copies, draw_scene
from PIL import Image


@pytest.fixture
def pets(tmp_path) -> Path:
    """Rex on three photos, two of them one picture; Max on three, one of them Rex's picture, and a broken one."""
    scene = draw_scene(1)
    pictures = {
        "Rex/1.png": scene,
        "Rex/2.png": scene.resize((64, 64), Image.Resampling.BICUBIC),
        "Rex/3.png": draw_scene(2),
        "Max/1.png": draw_scene(3),
        "Max/2.png": draw_scene(4),
        "Max/3.jpg": copies(scene)["re-encoded"],
    }
    for name, picture in pictures.items():
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    return tmp_path / "pets"


@pytest.fixture
def dedup(petid, tmp_path):
    """Runs `petid dedup …` with a home of its own; gives what it printed, its errors and its exit code."""

    def run(*arguments, code=0):
        done = petid("dedup", *arguments, PETID_HOME=str(tmp_path / "own-home"))
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    return run


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_nothing_is_changed_without_being_asked(dedup, pets, tmp_path):
    before = {name: (pets / name).read_bytes() for name in files(pets)}
    said, errors = dedup("pets")
    assert errors == ""
    conflict, *_ = said.splitlines()
    assert conflict == "Pairs under two individuals, one of each probably labelled wrong: 2"
    assert "  keep   pets/Rex/1.png  (largest)\n" in said
    assert "6 photos compared in " in said
    assert "nothing was changed; --apply moves " in said
    assert {name: (pets / name).read_bytes() for name in files(pets)} == before
    assert files(tmp_path) == ["own-home/thumbnails.db", *(f"pets/{name}" for name in before)]


def test_what_is_moved_aside_can_be_brought_back(dedup, pets, tmp_path):
    before = {name: (pets / name).read_bytes() for name in files(pets)}
    (pets / "Max" / "3.jpg").unlink()
    del before["Max/3.jpg"]
    said, _ = dedup("pets", "--apply")
    assert said.endswith(
        "1 moved to " + f"{pets}-duplicates; `petid dedup --restore {pets}-duplicates` brings them back.\n"
    )
    assert files(tmp_path / "pets-duplicates") == ["Rex/2.png", "moved-by-petid.jsonl"]
    assert files(pets) == ["Max/1.png", "Max/2.png", "Rex/1.png", "Rex/3.png"]
    assert dedup("--restore", "pets-duplicates") == ("1 photos are back from pets-duplicates.\n", "")
    assert {name: (pets / name).read_bytes() for name in files(pets)} == before
    assert not (tmp_path / "pets-duplicates").exists()
    _, errors = dedup("--restore", "pets-duplicates", code=1)
    assert "There is no moved-by-petid.jsonl in pets-duplicates" in errors


def test_delete_deletes_and_leaves_a_list(dedup, pets, tmp_path):
    (pets / "Max" / "3.jpg").unlink()
    said, _ = dedup("pets", "--delete", "--aside", "what-went")
    assert "1 deleted; what they were stands in what-went/moved-by-petid.jsonl" in said
    assert files(pets) == ["Max/1.png", "Max/2.png", "Rex/1.png", "Rex/3.png"]
    (step,) = map(json.loads, (tmp_path / "what-went" / "moved-by-petid.jsonl").read_text().splitlines())
    assert (step["action"], step["photo"]) == ("delete", str(pets / "Rex" / "2.png"))


def test_json_is_one_object_with_measure_pairs_groups_and_conflicts(dedup, pets):
    said, _ = dedup("pets", "--json", "--threshold", "0.9")
    told = json.loads(said)
    assert len(said.splitlines()) == 1
    assert told["measure"]["size"] == [32, 32]
    assert told["measure"]["window"] == 7
    assert {frozenset(pair[:2]) for pair in told["pairs"]} == {
        frozenset({"pets/Rex/1.png", "pets/Rex/2.png"}),
        frozenset({"pets/Rex/1.png", "pets/Max/3.jpg"}),
        frozenset({"pets/Rex/2.png", "pets/Max/3.jpg"}),
    }
    assert all(0.9 <= pair[2] <= 1 for pair in told["pairs"])
    assert [set(conflict["individuals"]) for conflict in told["conflicts"]] == [{"Rex", "Max"}] * 2
    assert told["done"] == {"list": None, "moved": 0, "deleted": 0}
    assert json.loads(dedup("pets", "--json", "--threshold", "0.9", "--exhaustive")[0]) == told


def test_a_table_and_a_page_are_written(dedup, pets, tmp_path):
    dedup("pets", "--csv", "pairs.csv", "--sheet", "sheet.html")
    with (tmp_path / "pairs.csv").open(newline="") as opened:
        assert len(list(csv.DictReader(opened))) == 3
    assert "<html" in (tmp_path / "sheet.html").read_text()
    _, errors = dedup("pets", "--csv", "no/such/folder.csv", code=1)
    assert errors == "petid: no/such/folder.csv cannot be written (No such file or directory): name another file.\n"


def test_new_photos_are_compared_with_an_archive(dedup, pets, tmp_path):
    (tmp_path / "inbox").mkdir()
    copies(draw_scene(2))["resized"].save(tmp_path / "inbox" / "new.png")
    draw_scene(50).save(tmp_path / "inbox" / "other.png")
    told = json.loads(dedup("inbox", "--against", "pets", "--apply", "--json")[0])
    assert [set(pair[:2]) for pair in told["pairs"]] == [{"inbox/new.png", "pets/Rex/3.png"}]
    assert told["groups"] == [{"keep": "pets/Rex/3.png", "why": "in the archive", "others": ["inbox/new.png"]}]
    assert told["conflicts"] == []  # an inbox is nobody's folder
    assert told["done"]["moved"] == 1
    assert files(tmp_path / "inbox") == ["other.png"]
    assert len(files(pets)) == 6


def test_a_folder_named_after_somebody_the_archive_knows_can_be_a_conflict(dedup, pets, tmp_path):
    (tmp_path / "new" / "Max").mkdir(parents=True)
    draw_scene(2).save(tmp_path / "new" / "Max" / "x.png")
    told = json.loads(dedup("new/Max", "--against", "pets", "--json")[0])
    assert told["conflicts"][0]["individuals"] == ["Max", "Rex"]


def test_new_photos_are_compared_with_a_gallery(dedup, petid, pets, tmp_path):
    (pets / "Max" / "3.jpg").unlink()
    assert petid("enroll", "pets", "--model", "small").returncode == 0
    (tmp_path / "inbox").mkdir()
    copies(draw_scene(2))["resized"].save(tmp_path / "inbox" / "new.png")
    told = json.loads(dedup("inbox", "--against", "index", "--json")[0])
    ((first, second, ssim),) = told["pairs"]
    assert first == "inbox/new.png"
    assert second.startswith("index/photos/")
    assert ssim > 0.95


def test_scope_can_be_one_individual_or_two(dedup, pets):
    within = json.loads(dedup("pets", "--scope", "within", "--json")[0])
    across = json.loads(dedup("pets", "--scope", "across", "--json")[0])
    assert len(within["pairs"]) == 1
    assert within["conflicts"] == []
    assert len(across["pairs"]) == len(across["conflicts"]) == 2


def test_a_batch_goes_on_past_a_broken_photo_and_a_folder_that_is_none(dedup, pets):
    (pets / "Rex" / "4.jpg").write_bytes(b"no photo")
    said, errors = dedup("pets", "nowhere", code=1)
    assert "6 photos compared" in said
    assert errors.splitlines() == [
        "petid: nowhere is not a folder: name one that holds photos.",
        "petid: pets/Rex/4.jpg is not a photo that petid can read: save it as JPEG or PNG.",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--apply", "--delete"],
        ["--apply", "--restore"],
        ["--threshold", "1.5"],
        ["--scope", "some"],
        ["--aside", "somewhere"],
        ["--csv", "pets/Rex/1.png"],
        ["--sheet", "sheet.png"],
        ["--restore", "--csv", "x.csv"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, dedup, pets):
    dedup("pets", *arguments, code=2)


def test_what_was_moved_aside_is_nobodys_photo_afterwards(dedup, petid, pets, tmp_path):
    (pets / "Max" / "3.jpg").unlink()
    dedup("pets/Rex", "--apply")
    assert files(pets / "Rex-duplicates") == ["2.png", "moved-by-petid.jsonl"]
    told = json.loads(dedup("pets", "--json")[0])
    assert (told["photos"], told["pairs"]) == (4, [])
    assert petid("enroll", "pets", "--model", "small").returncode == 0
    assert sorted(json.loads(line)["individual"] for line in petid("list", "--json").stdout.splitlines()) == [
        "Max",
        "Rex",
    ]
    _, errors = dedup("pets/Rex-duplicates", code=1)
    assert "is a gallery, or what was moved aside" in errors


def test_photos_are_not_moved_aside_into_what_is_searched(dedup, pets):
    before = files(pets)
    _, errors = dedup("pets", "--apply", "--aside", "pets/aside", code=1)
    assert errors == "petid: pets/aside lies in pets: name a folder outside with --aside.\n"
    assert files(pets) == before


def test_the_photos_of_a_gallery_are_never_moved(dedup, petid, pets, tmp_path):
    assert petid("enroll", "pets/Rex", "--model", "small").returncode == 0
    before = files(tmp_path / "index")
    told = json.loads(dedup(".", "--unlabelled", "--json")[0])
    assert not any("index" in photo for pair in told["pairs"] for photo in pair[:2])
    for folder in ("index", "index/photos"):
        assert "is a gallery" in dedup(folder, "--apply", code=1)[1]
    assert files(tmp_path / "index") == before


@pytest.mark.parametrize("arguments", [["--against", "indx"], ["gone"]])
@pytest.mark.parametrize("act", ["--apply", "--delete"])
def test_nothing_is_changed_where_a_name_is_mistyped(act, arguments, dedup, pets):
    before = files(pets)
    _, errors = dedup("pets", act, *arguments, code=1)
    assert arguments[-1] in errors
    assert files(pets) == before


def test_unsorted_photos_are_nobodys(dedup, pets):
    told = json.loads(dedup("pets", "--unlabelled", "--json")[0])
    assert told["conflicts"] == []
    assert [len(group["others"]) for group in told["groups"]] == [2]


def test_names_are_compared_as_the_gallery_knows_them(dedup, petid, pets, tmp_path):
    (pets / "Max" / "3.jpg").unlink()
    (pets / "Rex").rename(pets / "Jos\u00e9")
    assert petid("enroll", "pets", "--model", "small").returncode == 0
    assert petid("rename", "Max", "Maximilian").returncode == 0
    for name, scene in (("Jose\u0301", 2), ("Max", 3)):  # accents as some systems write them, and a name of before
        (tmp_path / "new" / name).mkdir(parents=True)
        copies(draw_scene(scene))["resized"].save(tmp_path / "new" / name / "x.png")
    told = json.loads(dedup("new", "--against", "index", "--json")[0])
    assert len(told["pairs"]) == 2
    assert told["conflicts"] == []


def test_an_outer_folder_tells_the_individual_of_an_inner_one(dedup, pets):
    (pets / "Rex" / "2021").mkdir()
    draw_scene(1).save(pets / "Rex" / "2021" / "x.png")
    told = json.loads(dedup("pets/Rex/2021", "pets", "--json", "--scope", "within")[0])
    assert {"pets/Rex/1.png", "pets/Rex/2021/x.png"} in [set(pair[:2]) for pair in told["pairs"]]


def test_restoring_can_be_told_as_json(dedup, pets):
    dedup("pets", "--apply", "--scope", "within")
    told = json.loads(dedup("pets-duplicates", "--restore", "--json")[0])
    assert told == {"folder": "pets-duplicates", "back": 1, "failed": []}


def test_enrolling_warns_of_one_picture_under_two_names(petid, pets, tmp_path):
    done = petid("enroll", "pets", "--model", "small", "--json")
    assert done.returncode == 0
    near = {line["photo"]: line["near_identical"] for line in map(json.loads, done.stdout.splitlines())}
    assert [one["individual"] for one in near["pets/Rex/2.png"]] == ["Rex", "Max"] or [
        one["individual"] for one in near["pets/Rex/2.png"]
    ] == ["Max", "Rex"]
    assert near["pets/Max/1.png"] == []
    assert "pets/Rex/1.png (Rex) is nearly the same picture as" in done.stderr
    assert "probably labelled wrong" in done.stderr
