"""Explanations as files, as pages, and as pictures with names in any script."""

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from petid_search.enroll import enroll, plan_enrolment
from petid_search.errors import PetidError
from petid_search.explain import Folder, draw, explain, text
from petid_search.index.gallery import Gallery


@pytest.fixture
def filled(take_photos, embedder, tmp_path):
    """The default gallery, ./index, of thirty individuals."""
    with Gallery(tmp_path / "index", create=True) as gallery:
        list(enroll(gallery, plan_enrolment([take_photos(30, 4)]).photos, embedder))
        yield gallery


def test_a_folder_of_probes_becomes_a_folder_with_a_page(filled, petid, take_photo, tmp_path):
    photos = [take_photo(7, 99, "inbox/a/1.png"), take_photo(300, 1, "inbox/b/1.png")]
    (tmp_path / "inbox" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    done = petid("explain", "inbox", "--fpir", "0.05", "--json")
    assert done.returncode == 1
    assert "bad.jpg" in done.stderr
    assert sorted(file.name for file in (tmp_path / "explained").iterdir()) == [
        *("1-2.json", "1-2.npz", "1-2.png", "1.json", "1.npz", "1.png", "index.html")
    ]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    mated, stranger = sorted((one for one in told if "error" not in one), key=lambda one: one["photo"])
    assert json.loads((tmp_path / "explained" / "1.json").read_text())["photo"] in {"inbox/a/1.png", "inbox/b/1.png"}
    assert (mated["individual"], mated["explained"][0]["short_of_threshold"]) == ("7", 0)
    # Why unknown: the nearest, and what they lack.
    assert stranger["individual"] is None
    assert len(stranger["candidates"]) == 5
    short = stranger["explained"][0]
    assert short["short_of_threshold"] == pytest.approx(stranger["threshold"] - short["similarity"])
    with np.load(tmp_path / mated["maps"], allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            **{"candidates": (2,), "on_probe": (2, 12, 12), "on_candidate": (2, 12, 12), "contrast": (12, 12)}
        }
        assert arrays["candidates"][0] == "7"
    page = (tmp_path / "explained" / "index.html").read_text()
    assert {"1.png", "1-2.png"} == set(re.findall(r'src="([^"]+)"', page))
    assert all(str(photo.relative_to(tmp_path)) in page for photo in photos)
    # Nothing is written over it, nor among the probes.
    assert "not empty" in petid("explain", "inbox", "--output", "explained").stderr
    assert "among the photos" in petid("explain", "inbox", "--output", "inbox/out").stderr
    assert not (tmp_path / "inbox" / "out").exists()


def test_where_nothing_could_be_explained_no_folder_is_left(filled, petid, tmp_path):
    assert petid("explain", "gone.jpg", "gone-too.jpg", "--output", "out").returncode == 1
    assert not (tmp_path / "out").exists()


def test_names_on_the_page_are_escaped(gallery, embedder, take_photo, tmp_path):
    list(enroll(gallery, [(take_photo(1), "<b>Rex</b>"), (take_photo(2), "Max")], embedder))
    explanation = explain(take_photo(1, 99, "a&<i>.png"), gallery, embedder)
    with Folder(tmp_path / "out", []) as folder:
        told = folder.add(explanation, draw(explanation))
    page = folder.page.read_text()
    assert "&lt;b&gt;Rex&lt;/b&gt;" in page
    assert "<b>Rex" not in page
    assert "<i>" not in page
    assert told["picture"].endswith("a&<i>.png")


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PetidError, match="is a file"):
        Folder(tmp_path / "file", [])


def test_the_two_contrasted_maps_differ_by_the_similarities(filled, embedder, take_photo):
    explanation = explain(take_photo(7, 99), filled, embedder)
    difference = explanation.embeddings[0] - explanation.embeddings[1]
    own = embedder.embed(np.asarray(Image.open(take_photo(7, 99)).resize((32, 32), 2))[None])[0]
    of_the_photo_itself = 9 * explanation.contrast[1::3, 1::3]
    assert of_the_photo_itself.sum() == pytest.approx(own @ difference, abs=1e-4)


# Names in any script


def drawn(words):
    sheet = Image.new("L", (400, 40), "white")
    text.write(ImageDraw.Draw(sheet), (4, 4), words, 20, colour="black")
    return np.asarray(sheet)


@pytest.mark.parametrize("name", ["Шарик", "Łukasz", "Ρεξ", "כלב", "كلب", "რექსი"])
def test_letters_of_other_scripts_are_no_boxes(name):
    assert text.missing_signs(name) == ""
    box = drawn("\U0010fffd")  # which no font has, and which is written as a code point
    signs = [drawn(sign) for sign in dict.fromkeys(name)]
    assert not any(np.array_equal(one, other) for place, one in enumerate(signs) for other in (*signs[:place], box))


def test_a_sign_that_no_font_has_is_written_as_its_code_point(monkeypatch):
    monkeypatch.setattr(text, "_system_fonts", lambda: ())
    assert text.missing_signs("Bo 猫 猫") == "猫"
    np.testing.assert_array_equal(drawn("Bo 猫"), drawn("Bo [U+732B]"))


def test_a_sign_that_a_font_of_the_system_has_is_written_in_it(monkeypatch):
    monkeypatch.setattr(text, "_system_fonts", lambda: ("STIXGeneral.ttf",))
    sign = chr(min(text._signs("STIXGeneral.ttf") - text._signs("DejaVuSans.ttf") - set(range(0xE000, 0xF900))))
    assert text.missing_signs(sign) == ""
    assert not np.array_equal(drawn(sign), drawn(f"[U+{ord(sign):04X}]"))


def test_control_characters_are_spaces_and_long_names_lose_their_middle():
    np.testing.assert_array_equal(drawn("a\nb\x00c"), drawn("a b c"))
    short = text.shortened("Bartholomew" * 900, 15, 200)
    assert text.width(short, 15) <= 200
    assert short.startswith("Barth")
    assert short.endswith("mew")
    assert text.shortened("Rex", 15, 200) == "Rex"
