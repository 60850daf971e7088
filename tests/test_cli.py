"""The command line as it is used day by day: every command, what it prints, what it imports, how it is started."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import draw_animal
from PIL import Image
from typer.testing import CliRunner

import petid_search
from petid_search.cli import app
from petid_search.enroll import enroll, plan_enrolment
from petid_search.index.gallery import Gallery

HEAVY = {
    "tensorflow",
    "keras",
    "faiss",
    "onnxruntime",
    "onnx",
    "tf2onnx",
    "sqlite_utils",
    "numpy",
    "PIL",
    "scipy",
    "matplotlib",
}

# Runs commands one after the other, each as the entry point does, and prints what was imported by then.
RUNNING_COMMANDS = """
import contextlib, io, json, sys
from petid_search.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["petid", *arguments]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code or 0, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def paths_of(command, *before: str):
    """Every command, with the words that call it."""
    for name, sub in getattr(command, "commands", {}).items():
        yield from paths_of(sub, *before, name)
    if before:
        yield before, command


COMMANDS = dict(paths_of(typer.main.get_command(app)))


@pytest.fixture
def filled(take_photos, embedder, tmp_path) -> Path:
    """The default gallery, ./index, of thirty individuals with four photos each: enough for a threshold."""
    with Gallery(tmp_path / "index", create=True) as gallery:
        list(enroll(gallery, plan_enrolment([take_photos(30, 4)]).photos, embedder))
    return tmp_path / "index"


@pytest.fixture
def imports_of(home, tmp_path):
    """Runs commands, which must succeed, in one process; gives the packages imported after each."""

    def run(*commands: tuple[object, ...]) -> list[set[str]]:
        done = subprocess.run(
            [sys.executable, "-c", RUNNING_COMMANDS, json.dumps(commands, default=str)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        said = [json.loads(line) for line in done.stdout.splitlines()]
        assert [code for code, _ in said] == [0] * len(commands), done.stderr
        return [set(packages) for _, packages in said]

    return run


def answer(done: subprocess.CompletedProcess[str]) -> str:
    """What a command printed that went well."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def answers(done: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in answer(done).splitlines()]


# Help


def test_the_commands_are_those_of_the_documentation():
    assert [" ".join(words) for words in COMMANDS] == [
        *(
            "demo",
            "enroll",
            "identify",
            "classify",
            "verify",
            "explain",
            "list",
            "show",
            "rename",
            "merge",
            "remove",
            "undo",
            "purge",
        ),
        *("embed", "reindex", "calibrate", "dedup", "train", "evaluate", "check"),
        *("models add", "models backbones", "models list", "models show", "models export", "models remove", "models"),
    ]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_every_option_of_it_has_help(words):
    command = COMMANDS[words]
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0
    assert command.help.splitlines()[0] in shown.output
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.opts
            assert parameter.opts[0] in shown.output
    assert CliRunner().invoke(app, [*words, "-h"]).exit_code == 0


def test_petid_by_itself_shows_what_there_is(petid):
    done = petid()
    assert "enroll" in done.stdout + done.stderr
    assert petid("--version").stdout == f"petid {petid_search.__version__}\n"


# What is imported


def test_help_imports_nothing_heavy(imports_of):
    for imported in imports_of(("--help",), ("identify", "--help"), ("models", "--help")):
        assert not imported & HEAVY


def test_the_commands_of_every_day_never_import_tensorflow(imports_of, filled, take_photo, take_photos):
    probe = take_photo(3, 99)
    commands = [
        ("enroll", take_photo(40, 1), "--as", "Rex"),
        ("identify", probe),
        ("verify", probe, take_photo(4, 99)),
        ("explain", probe),
        ("embed", probe, "--model", "small", "--output", "vectors.npz"),
        ("calibrate",),
        ("evaluate", take_photos(4, 3), "--model", "small", "--rule", "quality-mean"),
        ("reindex", "--model", "other"),
        ("dedup", probe.parent, "--sheet", "sheet.html"),
        ("check",),
        ("models", "list"),
    ]
    for command, imported in zip(commands, imports_of(*commands), strict=True):
        assert not imported & {"tensorflow", "keras", "tf2onnx", "tf_keras"}, command
        assert {"petid_search", "onnxruntime"} <= imported


# One day after the other


def test_a_folder_of_loose_photos_is_told_to_be_one_animal_when_that_is_new(petid, take_photo):
    folder = take_photo(1, path="found/0.png").parent
    take_photo(2, path="found/1.png")
    told = "All of them are one animal, found, as their folder is called."
    assert told in answer(petid("enroll", folder, "--model", "small"))
    take_photo(3, path="found/2.png")
    assert told not in answer(petid("enroll", folder))
    others = take_photo(4, path="rex/0.png").parent
    take_photo(5, path="rex/1.png")
    assert "one animal" not in answer(petid("enroll", others, "--as", "Rex"))


def test_the_daily_life_of_a_gallery(petid, take_photos, take_photo, tmp_path):
    photos = take_photos(30, 4)
    said = answer(petid("enroll", photos, "--model", "small"))
    assert said.startswith("Enrolled 120 photos in ")
    first, limits = said.splitlines()
    assert first.endswith("0 were enrolled before, 0 failed. The gallery index has 120 photos of 30 individuals.")
    assert limits.startswith("`petid identify` goes by no threshold: the gallery is too small for a threshold for FPIR")
    assert "120 were enrolled before" in answer(petid("enroll", photos))

    # Who is it?
    found, stranger = take_photo(7, 99, "found.png"), take_photo(300, 1, "stranger.png")
    mated, non_mated = answers(petid("identify", found, stranger, "--json", "--fpir", "0.05"))
    assert (mated["decision"], mated["individual"], non_mated["individual"]) == ("match", "7", None)
    assert non_mated["decision"] in ("unknown", "uncertain")
    first, *others = answer(petid("identify", found, "--top", "3", "--fpir", "0.05")).splitlines()
    assert first.startswith(f"{found}: match 7 (threshold 0.")
    assert first.endswith("FPIR 0.05; measured on 30 individuals here, N = 30)")
    assert len(others) == 3
    both = [one for one in answer(petid("identify", found, stranger, "--fpir", "0.05")).splitlines() if "N = " in one]
    assert [one.split("; ")[1] for one in both] == ["measured on 30 individuals here, N = 30)", "as above, N = 30)"]
    assert others[0].split()[0] == "1"
    assert others[0].split()[3] == "7"

    # The same one?
    same = json.loads(answer(petid("verify", found, take_photo(7, 98), "--far", "0.05", "--json")))
    assert (same["decision"], same["photos"][0], same["far"]) == ("match", str(found), 0.05)
    assert same["similarity"] >= same["threshold"]
    assert answer(petid("verify", found, stranger, "--far", "0.05")).startswith("different animals: similarity 0.")

    # Why?
    why = json.loads(answer(petid("explain", found, "--json", "--fpir", "0.05")))
    assert (why["individual"], why["picture"]) == ("7", "found-explained.png")
    with Image.open(tmp_path / "found-explained.png") as picture:
        picture.load()
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.width > 2 * 300
        assert picture.height > 2 * 300
    assert "Drawn to why.png" in answer(petid("explain", found, "--against", "9", "--output", "why.png"))
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.format == "PNG"

    # The herd book
    assert answers(petid("list", "--json"))[:2] == [{"individual": "0", "photos": 4}, {"individual": "1", "photos": 4}]
    assert answer(petid("list")).splitlines()[0] == "     4  0"
    shown = answers(petid("show", "7", "--json"))
    assert [entry["photo"] for entry in shown] == [str(photos / "7" / f"{i}.png") for i in range(4)]
    assert all((tmp_path / entry["file"]).is_file() and not entry["linked"] for entry in shown)
    assert answer(petid("show", "7")).splitlines()[0].startswith(shown[0]["sha256"][:12])

    # Corrections
    assert answer(petid("rename", "7", "Rex")) == "7 is Rex now (4 photos).\n"
    assert answer(petid("merge", "8", "Rex")) == "4 photos of 8 are Rex's now.\n"
    one = answers(petid("show", "Rex", "--json"))[0]["sha256"][:12]
    assert answer(petid("remove", "Rex", "--photo", one)).startswith("1 photos of Rex removed")
    assert answer(petid("remove", "9")).startswith("4 photos of 9 removed")
    assert answer(petid("undo")).startswith("Undone: remove '9' (4 photos)")
    assert answer(petid("remove", "10", "--quiet")) == ""
    assert {entry["individual"]: entry["photos"] for entry in answers(petid("list", "--json"))}["Rex"] == 7
    stored = list((tmp_path / "index" / "photos").glob("??/*"))
    assert petid("purge").returncode == 1, "nobody was there to say yes"
    assert len(list((tmp_path / "index" / "photos").glob("??/*"))) == len(stored) == 120
    assert answer(petid("purge", "--yes")) == "5 photos deleted.\n"
    assert len(list((tmp_path / "index" / "photos").glob("??/*"))) == 115
    assert "nothing to undo" in petid("undo").stderr
    (again,) = answers(petid("identify", found, "--json", "--fpir", "0.05"))
    assert (again["individual"], again["gallery_size"]) == ("Rex", 28)

    # Thresholds
    measured = json.loads(answer(petid("calibrate", "--fpir", "0.05", "--json")))
    assert (measured["fpir"], measured["gallery_size"], measured["mated_probes"]) == (0.05, 28, 115)
    assert measured["lower_threshold"] <= measured["threshold"]
    assert (measured["individuals"], measured["smallest_fpir"], measured["extrapolated"]) == (28, 0.0345, False)
    assert 0 <= measured["fpir_low"] <= measured["fpir_measured"] <= 0.05 <= measured["fpir_high"] < 0.3
    assert (measured["left_out_near_duplicates"], measured["note"]) == (0, "")
    assert answer(petid("calibrate", "--fpir", "0.05")).startswith("match from similarity 0.")

    # Too few animals for one in a hundred: what can be promised is said, and what is not promised is labelled
    too_few = answer(petid("calibrate"))
    assert too_few.startswith("no threshold: the gallery is too small for a threshold for FPIR 0.01: 99 individuals")
    assert "the smallest FPIR that it can promise is 0.0345 (--extrapolate goes by a fit of the tail)" in too_few
    silent = json.loads(answer(petid("calibrate", "--json")))
    assert (silent["threshold"], silent["fpir_low"], silent["smallest_fpir"]) == (None, None, 0.0345)
    assert "too small" in silent["note"]
    fitted = json.loads(answer(petid("calibrate", "--extrapolate", "--json", "--output", "drawn")))
    assert fitted["extrapolated"]
    assert fitted["threshold"] > measured["threshold"]
    assert [Path(file).name for file in fitted["pictures"]] == ["reliability.png", "fnir-fpir.png"]
    assert all((tmp_path / file).read_bytes().startswith(b"\x89PNG") for file in fitted["pictures"])
    assert "FPIR 1.00% extrapolated, not promised" in answer(petid("calibrate", "--extrapolate"))

    # Another model
    assert "uses model other now (115 photos embedded)" in answer(petid("reindex", "--model", "other"))
    (other,) = answers(petid("identify", found, "--json", "--fpir", "0.05"))
    assert (other["model"], other["candidates"][0]["individual"]) == ("other", "Rex")
    assert answer(petid("check")).endswith("The gallery index is whole: 115 photos of 28 individuals.\n")


def test_identify_prints_one_object_a_photo_as_documented(petid, filled, take_photo):
    probes = [take_photo(3, 99), take_photo(300, 1)]
    said = answers(petid("identify", *probes, "--json", "--top", "2", "--fpir", "0.05"))
    assert len(said) == 2
    for entry, probe in zip(said, probes, strict=True):
        assert set(entry) >= {"photo", "decision", "individual", "similarity", "probability", "threshold", "fpir"}
        assert set(entry) >= {"candidates", "model", "gallery_size"}
        assert (entry["photo"], entry["fpir"], entry["model"], entry["gallery_size"]) == (str(probe), 0.05, "small", 30)
        assert entry["decision"] in ("match", "uncertain", "unknown")
        assert isinstance(entry["threshold"], float)
        assert len(entry["candidates"]) == 2
        for candidate in entry["candidates"]:
            assert set(candidate) >= {"individual", "similarity", "probability", "photo", "classifier_score"}
            assert -1.0 <= candidate["similarity"] <= 1.0
            assert 0.0 < candidate["probability"] < 1.0
            assert candidate["classifier_score"] is None
            assert Path(candidate["photo"]).is_file()
        assert entry["similarity"] == entry["candidates"][0]["similarity"]
        assert entry["probability"] == entry["candidates"][0]["probability"]
    assert said[0]["individual"] == said[0]["candidates"][0]["individual"] == "3"
    # What the shell prints, the library gives.
    from petid_search.identify import identify
    from petid_search.models.home import open_model
    from petid_search.models.runtime import Embedder

    with Gallery(filled) as gallery:
        for entry, direct in zip(said, identify(probes, gallery, Embedder(open_model("small")), top=2), strict=True):
            assert entry["similarity"] == pytest.approx(direct.similarity, abs=1e-5)


def test_embed_writes_arrays_that_need_no_pickle(petid, embedder, take_photos, tmp_path):
    folder = take_photos(3, 4)
    (folder / "0" / "broken.png").write_bytes(b"no photo")
    done = petid("embed", folder, "--model", "small", "--output", "vectors.npz")
    assert (done.returncode, done.stdout) == (1, "12 embeddings of 48 numbers written to vectors.npz.\n")
    assert done.stderr.startswith("petid: ")
    assert "broken.png" in done.stderr
    with np.load(tmp_path / "vectors.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["embeddings", "paths"]
        paths, embeddings = arrays["paths"], arrays["embeddings"]
    assert list(paths) == [str(folder / str(i) / f"{k}.png") for i in range(3) for k in range(4)]
    assert (embeddings.shape, embeddings.dtype) == ((12, 48), np.float32)
    image = np.asarray(Image.fromarray(draw_animal(2, 3)).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(embeddings[-1], embedder.embed(image[None])[0], atol=1e-5)

    nothing = petid("embed", tmp_path / "gone.png", "--model", "small", "--output", "nothing.npz")
    assert nothing.returncode == 1
    with np.load(tmp_path / "nothing.npz", allow_pickle=False) as arrays:
        assert (arrays["paths"].shape, arrays["embeddings"].shape) == ((0,), (0, 48))
        assert arrays["paths"].dtype.kind == "U"
    assert sorted(file.name for file in tmp_path.glob("*.npz*")) == ["nothing.npz", "vectors.npz"]
    assert list(tmp_path.glob(".*.part")) == []


def test_models_are_listed_shown_and_removed(petid, home, tmp_path):
    copy = {"PETID_HOME": str(shutil.copytree(home, tmp_path / "home"))}

    def own() -> list[str]:
        listed = answers(petid("models", "list", "--json", **copy))
        return [entry["model"] for entry in listed if not entry["shipped"]]

    assert own() == ["other", "small"]
    assert ["small", "small", "32", "px,", "48", "numbers"] in [
        line.split() for line in answer(petid("models", "list", **copy)).splitlines()
    ]
    card = json.loads(answer(petid("models", "show", "small", "--json", **copy)))
    assert (card["name"], card["dimension"], card["licence"]) == ("small", 48, "CC0-1.0")
    assert [" ".join(line.split()) for line in answer(petid("models", "show", "small", **copy)).splitlines()][:6] == [
        "small",
        "Trained on none",
        "Started from drawn",
        "Licence CC0-1.0",
        "Network small at 32 px, avg pooling",
        "Embedding 48 numbers",
    ]
    assert answer(petid("models", "remove", "small", **copy)) == "Model small removed.\n"
    assert own() == ["other"]
    gone = petid("models", "show", "small", **copy)
    assert gone.returncode == 1
    assert gone.stderr.startswith("petid: There is no model 'small'.")
    assert "mobilenetv2" in answer(petid("models", "backbones", **copy))


# Where from, where to


def test_a_checkout_and_the_module_start_petid_too(tmp_path):
    root = Path(__file__).parents[1]
    for command in ([root / "cli.py"], ["-m", "petid_search"]):
        done = subprocess.run(
            [sys.executable, *map(str, command), "--version"], cwd=root, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, f"petid {petid_search.__version__}\n")


def test_petid_gallery_names_the_gallery_and_an_option_goes_before_it(petid, take_photo, tmp_path):
    here = {"PETID_GALLERY": str(tmp_path / "here")}
    answer(petid("enroll", take_photo(1), "--as", "Rex", "--model", "small", **here))
    assert not (tmp_path / "index").exists()
    assert answers(petid("list", "--json", **here)) == [{"individual": "Rex", "photos": 1}]
    answer(petid("enroll", take_photo(2), "--as", "Ada", "--model", "small", "--gallery", "there", **here))
    assert answers(petid("list", "--json", "--gallery", tmp_path / "there")) == [{"individual": "Ada", "photos": 1}]
    assert answers(petid("list", "--json", **here)) == [{"individual": "Rex", "photos": 1}]


def test_quiet_leaves_results_and_errors_only(petid, take_photo, tmp_path):
    assert answer(petid("enroll", take_photo(1), "--as", "Rex", "--model", "small", "--quiet")) == ""
    done = petid("enroll", tmp_path / "gone.png", "--as", "Rex", "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("petid: There is no photo")
    assert answer(petid("identify", take_photo(1, 9), "--quiet")) != ""
    assert answer(petid("check", "--quiet")) == ""


def test_there_is_no_progress_bar_where_stderr_is_no_terminal(imports_of, take_photos):
    (imported,) = imports_of(("enroll", take_photos(2, 1), "--model", "small"))
    assert "rich" not in imported


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_progress_bar_is_drawn_on_a_terminal_after_two_seconds(tmp_path):
    program = (
        "import time; from petid_search.cli import _with_progress\n"
        "for _ in _with_progress((time.sleep(0.25) for _ in range(12)), 12, 'Enrolling', False): print('result')"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    drawn = b""
    try:
        while chunk := os.read(ours, 4096):
            drawn += chunk
    except OSError:  # how Linux says that the other end was closed
        pass
    finally:
        os.close(ours)
    assert process.communicate(timeout=60)[0] == "result\n" * 12
    assert process.returncode == 0
    assert b"Enrolling" in drawn
    assert b"11/12" in drawn
    assert b" 1/12" not in drawn, "shown before two seconds were over"


def test_a_reader_that_has_seen_enough_gives_no_traceback(filled, home, take_photo, tmp_path):
    probes = [take_photo(i % 30, 90 + i) for i in range(40)]
    for command in (("identify", *probes, "--json"), ("list",), ("show", "3"), ("--help",)):
        process = subprocess.Popen(
            [sys.executable, "-m", "petid_search", *map(str, command)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        process.wait(timeout=60)
        assert said == "", command
