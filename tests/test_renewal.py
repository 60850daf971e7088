"""A calibration that is renewed is the one that a measurement from nothing would give, whatever has happened."""

import io
import math
from dataclasses import fields

import numpy as np
import pytest
from conftest import draw_scene
from herd import MODEL, OTHER_MODEL, fill, sha256_of, to_unit, unit_vectors

from petid_search.calibrate import Calibration, calibrate, keeping, meeting
from petid_search.calibrate.keeping import _GalleryPhotos
from petid_search.calibrate.measure import measure
from petid_search.calibrate.meeting import Meeting
from petid_search.errors import GalleryError
from petid_search.index import upkeep
from petid_search.index.rule import RULE
from petid_search.likeness import Likeness

DIMENSION = 8


@pytest.fixture(params=["large", "small"])
def limits(request, monkeypatch):
    """Bounds as small as the gallery, so that all of them are reached; or those in force."""
    if request.param == "large":
        for name, value in (("_PROBES", 30), ("LOOKED_AT", 3), ("_KEPT", 5), ("PAIRS", 60), ("_AT_ONCE", 7)):
            monkeypatch.setattr(meeting, name, value)
        monkeypatch.setattr("petid_search.calibrate.measure.LOOKED_AT", 3)
        monkeypatch.setattr("petid_search.index.gallery._BLOCK", 20)
        monkeypatch.setattr(meeting, "_WAITING", 50)


@pytest.fixture
def met_anew(monkeypatch):
    """How many times everything was compared."""
    times = []
    real = meeting.meet

    def meet(source):
        times.append(1)
        return real(source)

    monkeypatch.setattr(meeting, "meet", meet)
    monkeypatch.setattr(keeping, "meet", meet)
    return times


def assert_as_from_nothing(gallery):
    renewed, anew = calibrate(gallery), Calibration.of(measure(_GalleryPhotos(gallery)))
    for part in fields(anew.samples):
        assert np.array_equal(getattr(renewed.samples, part.name), getattr(anew.samples, part.name)), part.name
    assert renewed.to_bytes() == anew.to_bytes()


def show(gallery, scenes):
    """Give photos, by hash, a picture; those of one scene are near-duplicates."""
    pictures = {sha256: draw_scene(scene).convert("L").resize((32, 32)) for sha256, scene in scenes.items()}
    Likeness(gallery).add({sha256: np.asarray(picture) for sha256, picture in pictures.items()})


class Keeper:
    """Somebody who does to a gallery whatever can be done, at random."""

    def __init__(self, gallery, seed):
        self.gallery, self.rng, self.photos, self.model = gallery, np.random.default_rng(seed), 0, MODEL
        self.enroll(60)

    def name(self):
        names = list(self.gallery.individuals())
        return names[self.rng.integers(len(names))] if names else "nobody"

    def enroll(self, count=None):
        count = int(self.rng.integers(1, 6)) if count is None else count
        names = [str(self.rng.integers(25)) for _ in range(count)]
        fill(
            self.gallery,
            names,
            self.vectors(range(self.photos, self.photos + count)),
            first=self.photos,
            model=self.model,
        )
        self.photos += count
        if count > 1:  # some are one picture, maybe under two names
            scenes = {
                sha256_of(int(photo)): draw_scene(int(photo) // 7) for photo in self.rng.integers(0, self.photos, 4)
            }
            Likeness(self.gallery).add(
                {sha256: np.asarray(scene.convert("L").resize((32, 32))) for sha256, scene in scenes.items()}
            )

    def vectors(self, photos):
        """Of a photo by the present model; some photos are equally similar to others."""
        other = self.model != MODEL
        return np.stack([to_unit(unit_vectors(1, DIMENSION, seed=photo // 8 + 1000 * other)[0]) for photo in photos])

    def remove(self):
        self.gallery.remove(self.name())

    def remove_photo(self):
        name = self.name()
        self.gallery.remove(name, photo=next(iter(self.gallery.photos(name))).sha256)

    def rename(self):
        self.gallery.rename(self.name(), str(self.rng.integers(25, 40)))

    def merge(self):
        self.gallery.merge(self.name(), self.name())

    def undo(self):
        self.gallery.undo()

    def purge(self):
        self.gallery.purge()

    def reindex(self):
        self.model = OTHER_MODEL if self.model == MODEL else MODEL
        model = self.gallery.add_model(*self.model, DIMENSION)
        numbers = {sha256_of(photo): photo for photo in range(self.photos)}
        missing = [photo.sha256 for photo in self.gallery.without_embedding(model, -1, 10_000)]
        for sha256 in missing:
            self.gallery.add_embeddings(model, {sha256: self.vectors([numbers[sha256]])[0]})
        assert self.gallery.switch_model(model)


ACTIONS = ["enroll"] * 5 + ["remove", "remove_photo", "rename", "merge", "undo", "undo", "purge", "reindex"]


@pytest.mark.parametrize("seed", range(2))
def test_after_whatever_was_done_the_renewed_calibration_is_that_of_a_measurement_from_nothing(
    gallery, limits, met_anew, seed
):
    keeper = Keeper(gallery, seed)
    calibrate(gallery)
    renewals = 0
    for _ in range(12):
        for action in keeper.rng.choice(ACTIONS, keeper.rng.integers(1, 4)):
            try:
                getattr(keeper, action)()
            except GalleryError:
                continue  # there was nothing to undo, or no such name
        met_anew.clear()
        assert_as_from_nothing(gallery)
        renewals += not met_anew
    assert renewals >= 4


@pytest.fixture
def herd(gallery):
    """30 individuals of two photos, calibrated."""
    fill(gallery, np.repeat(range(30), 2), unit_vectors(60, DIMENSION))
    calibrate(gallery)
    return gallery


def test_after_one_photo_came_only_that_is_compared(herd, limits, met_anew):
    calibrate(herd)
    met_anew.clear()
    fill(herd, ["0"], unit_vectors(1, DIMENSION, seed=5), first=100)
    assert_as_from_nothing(herd)
    assert met_anew == []


def test_a_probe_is_compared_again_when_all_have_gone_that_were_known_to_be_near_it(limits, herd):
    """Only its near-duplicate is left of those that were kept: the next one has to be looked for."""
    met = Meeting.from_bytes(herd.meeting_row(herd.model)["met"])
    nearest = met.other.photos[0]
    sha256 = {photo.id: photo.sha256 for photo in herd.photos()}
    show(herd, {sha256[met.ids[0]]: 1, sha256[nearest[0]]: 1})
    names = {photo.id: photo.individual for photo in herd.photos()}
    for photo in nearest[1:].tolist():
        herd.remove(names[photo], photo=sha256[photo])
    assert_as_from_nothing(herd)


def test_pairs_are_drawn_again_when_too_many_of_those_kept_have_gone(limits, herd):
    for name in range(6):
        herd.remove(str(name))
    assert_as_from_nothing(herd)


@pytest.mark.parametrize("damage", ["cut short", "nothing", "another format", "an array less", "a probe less"])
def test_what_was_met_is_met_again_where_it_cannot_be_read(herd, met_anew, damage):
    with np.load(io.BytesIO(herd.meeting_row(herd.model)["met"])) as arrays:
        kept = dict(arrays)
    if damage == "another format":
        kept["format"] = kept["format"] + 1
    elif damage == "an array less":
        del kept["own_whole"]
    elif damage == "a probe less":
        kept["owners"] = kept["owners"][1:]
    file = io.BytesIO()
    np.savez(file, **kept)
    data = {"cut short": file.getvalue()[:-100], "nothing": b""}.get(damage, file.getvalue())
    assert Meeting.from_bytes(data) is None
    herd.save_meeting(herd.model, rule=RULE, generation=herd.generation, met=data)
    assert_as_from_nothing(herd)
    assert len(met_anew) == 1
    assert Meeting.from_bytes(herd.meeting_row(herd.model)["met"]) is not None


def test_a_changed_byte_of_what_was_met_is_noticed(herd):
    data = bytearray(herd.meeting_row(herd.model)["met"])
    at = data.find(np.float32(Meeting.from_bytes(bytes(data)).other.similarity[3, 0]).tobytes())
    data[at] ^= 1
    assert Meeting.from_bytes(bytes(data)) is None


@pytest.mark.parametrize(("rule", "later"), [("mean photo", 0), (RULE, 1)])
def test_what_was_met_under_another_rule_or_in_the_future_does_not_serve(herd, met_anew, rule, later):
    row = herd.meeting_row(herd.model)
    herd.save_meeting(herd.model, rule=rule, generation=herd.generation + later, met=row["met"])
    assert_as_from_nothing(herd)
    assert len(met_anew) == 1


def test_embeddings_that_came_while_another_model_was_the_gallerys_are_not_overlooked(herd):
    photo = next(herd.photos("3"))
    mine, other = herd.model, herd.add_model(*OTHER_MODEL, DIMENSION)
    upkeep.drop_embeddings(herd, [photo.id])
    calibrate(herd)
    herd.add_embeddings(other, {sha256_of(one): unit_vectors(1, DIMENSION, seed=one)[0] for one in range(60)})
    assert herd.switch_model(other)
    herd.add_embeddings(mine, {photo.sha256: unit_vectors(1, DIMENSION, seed=7)[0]})
    assert herd.switch_model(mine)
    assert_as_from_nothing(herd)


def test_similarities_are_the_same_to_the_last_bit_however_many_are_computed_at_once():
    vectors = unit_vectors(300, 515, seed=4)
    probes = meeting._rounded(vectors[:40])
    at_once = meeting._similarities(probes, vectors)
    one_by_one = [[meeting._similarities(probe[None], photo[None])[0, 0] for photo in vectors] for probe in probes]
    assert np.array_equal(at_once, one_by_one)
    exactly = [[math.fsum(a * b) for b in vectors.astype(float)] for a in vectors[:40].astype(float)]
    assert at_once == pytest.approx(np.array(exactly), abs=1e-7)


def test_pairs_are_drawn_evenly_and_by_nothing_but_their_ids():
    one, other = np.arange(0, 3000, 3), np.arange(1, 6000, 3)
    hashes = meeting._hash_of_pairs(one), meeting._hash_of_pairs(other)
    bar = meeting._RANKS // 20
    rows, columns = meeting._under(*hashes, bar)
    expected = np.argwhere(meeting._rank(hashes[0][:, None], hashes[1]) < bar)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [tuple(pair) for pair in expected.tolist()]
    # 2,000,000 pairs, one in twenty: of every photo about as many as chance has it.
    for places, count, each in ((rows, 1000, 100), (columns, 2000, 50)):
        drawn = np.bincount(places, minlength=count)
        assert drawn.mean() == pytest.approx(each, rel=0.02)
        assert drawn.std() == pytest.approx(np.sqrt(each * 0.95), rel=0.25)
