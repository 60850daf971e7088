"""The search is exact: whatever FAISS rounds, forgets or finds in its file, SQLite's embeddings have the last word."""

import hashlib
import itertools

import numpy as np
import pytest
from herd import MODEL, OTHER_MODEL, fill, put, sha256_of, to_unit, unit_vectors, vector_of

from petid_search.errors import GalleryError, ModelMismatch
from petid_search.index.gallery import Gallery
from petid_search.index.rule import similarity_by_individual
from petid_search.index.vectors import ROUNDING, VectorIndex


def brute_force(owners, vectors, probe, top):
    """The best individuals and their similarities, by plain numpy over all embeddings."""
    similarities = vectors @ probe
    best = {}
    for owner, similarity in zip(owners, similarities.tolist(), strict=True):
        best[str(owner)] = max(similarity, best.get(str(owner), -2.0))
    return sorted(best.items(), key=lambda item: -item[1])[:top]


def assert_exact(gallery, owners, vectors, probes, top):
    """The answer has the highest similarities there are, best first, each one its individual's and its photo's own."""
    first = min((photo.id for photo in gallery.photos()), default=0)
    found = gallery.index.search(probes, top, model=gallery.model)
    assert len(found) == len(probes)
    for probe, hits in zip(probes, found, strict=True):
        everyone = dict(brute_force(owners, vectors, probe, len(vectors)))
        expected = sorted(everyone.values(), reverse=True)[:top]
        assert [hit.similarity for hit in hits] == pytest.approx(expected, abs=1e-6)
        assert len({hit.individual for hit in hits}) == len(hits)
        assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
        for hit in hits:
            assert hit.similarity == pytest.approx(everyone[hit.individual], abs=1e-6)
            row = hit.photo_id - first
            assert str(owners[row]) == hit.individual
            assert float(vectors[row] @ probe) == pytest.approx(hit.similarity, abs=1e-6)


def names(gallery, probe, top=3):
    return [hit.individual for hit in gallery.index.search(probe[None], top, model=gallery.model)[0]]


@pytest.fixture
def faiss_reads(monkeypatch):
    """The sha256 of everything that FAISS is given to read."""
    import faiss

    reads = []
    deserialize = faiss.deserialize_index

    def noted(data):
        reads.append(hashlib.sha256(data).hexdigest())
        return deserialize(data)

    monkeypatch.setattr(faiss, "deserialize_index", noted)
    return reads


def saved_file(gallery):
    files = list(gallery.folder.glob("vectors-*.faiss"))
    assert len(files) == 1
    return files[0]


# Exact


@pytest.mark.parametrize("top", [1, 5, 100])
@pytest.mark.parametrize("dimension", [2, 64, 512])
def test_random_embeddings_are_found_as_by_brute_force(gallery, dimension, top):
    owners, vectors = np.arange(600) // 6, unit_vectors(600, dimension, seed=1)
    fill(gallery, owners, vectors)
    assert_exact(gallery, owners, vectors, unit_vectors(40, dimension, seed=2), top)


def test_near_ties_that_half_precision_cannot_tell_apart_are_ordered_rightly(gallery):
    """300 individuals, all within a thousandth of one another: hundreds lie inside FAISS's rounding."""
    rng = np.random.default_rng(3)
    centre = unit_vectors(1, 256, seed=4)
    vectors = to_unit(centre + 2e-3 * rng.normal(size=(900, 256)) / 16)
    owners = np.arange(900) % 300
    fill(gallery, owners, vectors)
    probes = to_unit(centre + 1e-2 * rng.normal(size=(20, 256)) / 16)
    similarities = vectors @ probes[0]
    assert similarities.max() - similarities.min() < 4 * ROUNDING
    assert_exact(gallery, owners, vectors, probes, 5)


def test_clusters_as_real_embeddings_have_them_are_found_as_by_brute_force(gallery):
    rng = np.random.default_rng(5)
    centres = unit_vectors(80, 128, seed=6)
    vectors = to_unit(np.repeat(centres, 10, axis=0) + 0.04 * rng.normal(size=(800, 128)))
    owners = np.arange(800) // 10
    fill(gallery, owners, vectors)
    assert_exact(gallery, owners, vectors, to_unit(centres[:30] + 0.05 * rng.normal(size=(30, 128))), 5)


def test_equal_embeddings_of_many_individuals_are_all_offered(gallery):
    vectors = np.repeat(unit_vectors(3, 32, seed=7), 100, axis=0)
    owners = np.arange(300)
    fill(gallery, owners, vectors)
    assert_exact(gallery, owners, vectors, unit_vectors(5, 32, seed=8), 7)
    hits = gallery.index.search(vectors[:1], 200, model=gallery.model)[0]
    assert [hit.similarity for hit in hits[:100]] == pytest.approx([1.0] * 100, abs=1e-6)
    assert max(hit.similarity for hit in hits) <= 1.0


def test_an_individual_of_very_many_photos_does_not_crowd_the_others_out(gallery):
    rng = np.random.default_rng(9)
    crowd = to_unit(unit_vectors(1, 64, seed=10) + 0.01 * rng.normal(size=(700, 64)))
    vectors = np.concatenate([crowd, unit_vectors(20, 64, seed=11)])
    owners = [0] * 700 + list(range(1, 21))
    fill(gallery, owners, vectors)
    probes = np.concatenate([crowd[:3], unit_vectors(3, 64, seed=12)])
    assert_exact(gallery, owners, vectors, probes, 5)


def test_an_individual_is_as_similar_as_its_best_photo_however_far_the_others_are(gallery):
    probe = unit_vectors(1, 32, seed=13)[0]
    vectors = np.stack([probe, -probe, *to_unit(probe + 0.3 * unit_vectors(60, 32, seed=14))])
    owners = ["Rex", "Rex", *range(60)]
    fill(gallery, owners, vectors)
    assert names(gallery, probe, 1) == ["Rex"]
    assert_exact(gallery, owners, vectors, probe[None], 10)


@pytest.mark.parametrize("top", [1, 2, 50])
def test_one_photo_is_a_gallery(gallery, top):
    fill(gallery, ["Rex"], unit_vectors(1, 8, seed=15))
    assert_exact(gallery, ["Rex"], unit_vectors(1, 8, seed=15), unit_vectors(4, 8, seed=16), top)


def test_a_photo_that_lost_its_embedding_is_not_offered_and_cannot_be_compared(gallery):
    fill(gallery, ["Rex"], unit_vectors(1, 8))
    gallery.index.save()
    gallery.records.db.execute("DELETE FROM embeddings")
    assert gallery.index.search(unit_vectors(2, 8), 5, model=gallery.model) == [[], []]
    with pytest.raises(GalleryError, match="petid check"):
        gallery.index.compare(unit_vectors(1, 8)[0], np.array([1]), model=gallery.model)


def test_no_probes_give_no_answers(gallery):
    fill(gallery, ["Rex"], unit_vectors(1, 8))
    assert gallery.index.search(np.empty((0, 8), np.float32), 5, model=gallery.model) == []


def test_probes_of_a_batch_are_answered_as_each_by_itself(gallery):
    vectors = unit_vectors(500, 32, seed=17)
    fill(gallery, np.arange(500) // 2, vectors)
    probes = unit_vectors(30, 32, seed=18)
    together = gallery.index.search(probes, 5, model=gallery.model)
    for probe, hits in zip(probes, together, strict=True):
        alone = gallery.index.search(probe[None], 5, model=gallery.model)[0]
        assert [(hit.individual, hit.photo_id) for hit in alone] == [(hit.individual, hit.photo_id) for hit in hits]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_probe_that_is_not_finite_is_refused(gallery, bad):
    fill(gallery, range(3), unit_vectors(3, 8))
    probe = unit_vectors(1, 8)
    probe[0, 3] = bad
    with pytest.raises(ValueError, match="finite"):
        gallery.index.search(probe, 5, model=gallery.model)


def test_a_probe_of_another_size_is_refused(gallery):
    fill(gallery, range(3), unit_vectors(3, 8))
    with pytest.raises(ValueError, match="Received"):
        gallery.index.search(unit_vectors(1, 9), 5, model=gallery.model)


# What changed


def test_the_search_follows_every_change(gallery):
    put(gallery, [(number, f"pet {number % 20}") for number in range(60)])
    probe = vector_of(7)
    assert names(gallery, probe)[0] == "pet 7"
    gallery.remove("pet 7", photo=sha256_of(7))
    assert gallery.index.search(probe[None], 1, model=gallery.model)[0][0].similarity < 0.99
    gallery.undo()
    assert names(gallery, probe)[0] == "pet 7"
    gallery.merge("pet 7", "pet 8")
    assert names(gallery, probe)[0] == "pet 8"
    gallery.rename("pet 8", "Rex")
    assert names(gallery, probe)[0] == "Rex"
    gallery.remove("Rex")
    assert "Rex" not in names(gallery, probe, 60)
    gallery.purge()
    assert len(names(gallery, probe, 60)) == 18
    put(gallery, [(7, "Max")])
    assert names(gallery, probe)[0] == "Max"


def test_the_index_holds_every_enrolled_photo_once_after_every_change(gallery):
    put(gallery, [(number, f"pet {number % 20}") for number in range(60)])
    with Gallery(gallery.folder) as another:
        for change in (
            lambda: another.remove("pet 7", photo=sha256_of(7)),
            lambda: another.undo(),
            lambda: another.merge("pet 7", "pet 8"),
            lambda: another.rename("pet 8", "Rex"),
            lambda: (another.remove("Rex"), another.purge()),
            lambda: put(another, [(7, "Max"), (100, "Ada")]),
        ):
            names(gallery, vector_of(7))
            change()
            names(gallery, vector_of(7))
            assert sorted(gallery.index._index.ids) == [photo.id for photo in gallery.photos()]


def test_what_another_process_changed_is_searched(gallery):
    put(gallery, [(number, f"pet {number}") for number in range(20)])
    assert names(gallery, vector_of(3))[0] == "pet 3"
    with Gallery(gallery.folder) as another:
        another.rename("pet 3", "Rex")
        put(another, [(100, "Ada")])
        assert names(gallery, vector_of(3))[0] == "Rex"
        assert names(gallery, vector_of(100))[0] == "Ada"
        another.remove("Rex")
        another.purge()
        put(another, [(101, "Bo")])
    assert names(gallery, vector_of(101))[0] == "Bo"
    assert "Rex" not in names(gallery, vector_of(3), 50)


def test_a_row_number_that_sqlite_gives_away_again_is_the_new_photo(gallery):
    put(gallery, [(1, "Rex"), (2, "Bo")])
    gallery.index.save()
    assert names(gallery, vector_of(2))[0] == "Bo"
    gallery.remove("Bo")
    with Gallery(gallery.folder) as another:
        another.purge()
        put(another, [(3, "Ada")])
    assert [photo.id for photo in gallery.photos()] == [1, 2]
    hit = gallery.index.search(vector_of(3)[None], 2, model=gallery.model)[0][0]
    assert (hit.individual, hit.similarity) == ("Ada", pytest.approx(1.0, abs=1e-6))


# The FAISS file


def test_a_saved_file_is_read_instead_of_all_embeddings(gallery, faiss_reads):
    put(gallery, [(number, f"pet {number}") for number in range(20)])
    gallery.index.save()
    file = saved_file(gallery)
    with Gallery(gallery.folder) as reopened:
        assert names(reopened, vector_of(3))[0] == "pet 3"
    assert faiss_reads == [hashlib.sha256(file.read_bytes()).hexdigest()]


def test_a_file_that_is_behind_is_caught_up_with(gallery, faiss_reads):
    put(gallery, [(number, f"pet {number}") for number in range(20)])
    gallery.index.save()
    before = saved_file(gallery)
    put(gallery, [(50, "Ada")])
    gallery.remove("pet 3")
    gallery.index.save()
    assert saved_file(gallery) == before, "two changes are no reason to write the file again"
    with Gallery(gallery.folder) as reopened:
        assert names(reopened, vector_of(50))[0] == "Ada"
        assert "pet 3" not in names(reopened, vector_of(3), 50)
        assert len(names(reopened, vector_of(3), 50)) == 20
    assert len(faiss_reads) == 1


def test_the_file_is_written_again_once_much_has_changed(gallery, monkeypatch):
    monkeypatch.setattr("petid_search.index.search._STALE_LEAST", 10)
    put(gallery, [(number, f"pet {number}") for number in range(20)])
    gallery.index.save()
    before = saved_file(gallery)
    put(gallery, [(number, f"pet {number}") for number in range(20, 31)])
    gallery.index.save()
    assert saved_file(gallery) != before
    assert len(VectorIndex.load(saved_file(gallery), dimension=16, sha256=_sha256(saved_file(gallery)))) == 31


def test_a_deleted_file_changes_no_answer_and_is_written_again(gallery):
    put(gallery, [(number, f"pet {number}") for number in range(20)])
    gallery.index.save()
    saved_file(gallery).unlink()
    with Gallery(gallery.folder) as reopened:
        assert names(reopened, vector_of(3))[0] == "pet 3"
        reopened.index.save()
    assert saved_file(gallery).is_file()


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "empty", "garbage", "of another gallery"])
def test_a_file_that_is_not_the_one_written_never_reaches_faiss(gallery, tmp_path, faiss_reads, damage):
    put(gallery, [(number, f"pet {number}") for number in range(20)])
    gallery.index.save()
    file = saved_file(gallery)
    data = bytearray(file.read_bytes())
    match damage:
        case "flipped bit":
            data[len(data) // 2] ^= 1
        case "cut short":
            del data[-1]
        case "empty":
            data.clear()
        case "garbage":
            data[:] = np.random.default_rng(0).bytes(len(data))
        case "of another gallery":
            with Gallery(tmp_path / "another", create=True) as another:
                put(another, [(number, f"stranger {number}") for number in range(100, 120)])
                another.index.save()
                data[:] = saved_file(another).read_bytes()
    file.write_bytes(data)
    with Gallery(gallery.folder) as reopened:
        assert names(reopened, vector_of(3))[0] == "pet 3"
        assert len(names(reopened, vector_of(3), 50)) == 20
        assert not reopened.index.is_right()
    assert faiss_reads == []


def test_a_file_that_the_gallery_has_no_note_of_is_not_read(gallery, faiss_reads):
    put(gallery, [(number, f"pet {number}") for number in range(20)])
    gallery.index.save()
    gallery.records.db.execute("DELETE FROM vector_files")
    with Gallery(gallery.folder) as reopened:
        assert names(reopened, vector_of(3))[0] == "pet 3"
    assert faiss_reads == []


def test_a_file_from_before_a_purge_is_neither_read_nor_kept(gallery, faiss_reads):
    put(gallery, [(number, f"pet {number}") for number in range(20)])
    gallery.index.save()
    before = saved_file(gallery)
    gallery.remove("pet 19")
    gallery.purge()
    assert saved_file(gallery) != before, "what was deleted for good is not in the new file"
    with Gallery(gallery.folder) as reopened:
        assert len(names(reopened, vector_of(3), 50)) == 19
    assert faiss_reads == [_sha256(saved_file(gallery))]


def test_an_index_that_holds_what_it_should_is_right_and_another_is_not(gallery):
    assert gallery.index.is_right()
    put(gallery, [(number, f"pet {number}") for number in range(20)])
    gallery.index.save()
    assert gallery.index.is_right()
    for ids in (np.arange(20)[::-1] + 1, np.arange(20) + 2):  # under one another's ids; one unknown, one missing
        index = VectorIndex(16)
        index.add(ids, np.stack([vector_of(number) for number in range(20)]))
        file = saved_file(gallery)
        file.unlink()
        gallery.records.db.execute("UPDATE vector_files SET sha256 = ?", [index.save(file)])
        assert not gallery.index.is_right()
        gallery.index.rebuild()
        assert gallery.index.is_right()
        assert names(gallery, vector_of(3))[0] == "pet 3"


def test_only_one_file_is_kept_however_often_it_is_made_again(gallery):
    put(gallery, [(1, "Rex")])
    for _ in range(3):
        gallery.index.rebuild()
    assert saved_file(gallery).is_file()


def _sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


# Other models


def embed_all(gallery, model, dimension=8, *, seed=0):
    """Gives every photo an embedding by another model."""
    photos = gallery.without_embedding(model, -1, 1000)
    gallery.add_embeddings(
        model, {photo.sha256: unit_vectors(1, dimension, seed=[seed, photo.id])[0] for photo in photos}
    )


def test_a_switch_made_by_another_process_is_an_error_and_never_a_mixture(gallery):
    put(gallery, [(number, f"pet {number}") for number in range(10)])
    old = gallery.model
    names(gallery, vector_of(3))
    with Gallery(gallery.folder) as another:
        new = another.add_model(*OTHER_MODEL, 16)
        embed_all(another, new, 16)
        assert names(gallery, vector_of(3))[0] == "pet 3", "until the switch the old model is searched"
        assert another.switch_model(new)
    with pytest.raises(ModelMismatch, match="reindex"):
        gallery.index.search(vector_of(3)[None], 3, model=old)
    with pytest.raises(ModelMismatch):
        gallery.index.compare(vector_of(3), np.array([4]), model=old)
    probe = unit_vectors(1, 16, seed=[0, 4])[0]
    hit = gallery.index.search(probe[None], 1, model=new)[0][0]
    assert (hit.individual, hit.similarity) == ("pet 3", pytest.approx(1.0, abs=1e-6))


def test_a_gallery_that_went_back_to_its_first_model_finds_what_came_in_between(gallery):
    put(gallery, [(number, f"pet {number}") for number in range(10)])
    gallery.index.save()
    first = gallery.model
    second = gallery.add_model(*OTHER_MODEL, 8)
    embed_all(gallery, second)
    assert gallery.switch_model(second)
    gallery.index.save()
    assert len(list(gallery.folder.glob("vectors-*.faiss"))) == 2
    fill(gallery, ["Ada"], unit_vectors(1, 8, seed=99), first=50, model=OTHER_MODEL)
    assert not gallery.switch_model(first), "a photo has no embedding by it yet"
    gallery.add_embeddings(first, {sha256_of(50): vector_of(50)})
    assert gallery.switch_model(first)
    with Gallery(gallery.folder) as reopened:
        for searched in (gallery, reopened):
            assert names(searched, vector_of(50))[0] == "Ada"
            assert names(searched, vector_of(3))[0] == "pet 3"
            assert len(names(searched, vector_of(3), 50)) == 11


def test_a_search_before_the_first_photo_is_a_mismatch(gallery):
    model = gallery.add_model(*MODEL, 16)
    with pytest.raises(ModelMismatch):
        gallery.index.search(vector_of(1)[None], 1, model=model)


# FAISS itself


@pytest.mark.parametrize("dimension", [64, 128, 512, 1280, 2048])
def test_searched_similarities_are_within_the_stated_rounding(dimension):
    vectors, queries = unit_vectors(500, dimension, seed=1), unit_vectors(50, dimension, seed=2)
    queries[:20] = vectors[:20]
    _assert_within_rounding(vectors, queries)


def test_the_stated_rounding_holds_for_the_worst_numbers_there_are():
    """Numbers just under the middle of two halves, all of which round down: the error comes near 2⁻¹¹."""
    worst = np.zeros((4, 1024), np.float32)
    worst[0, :1022] = np.float32(2.0**-5 * (1 + 2.0**-11))
    worst[1, :255] = np.float32(2.0**-4 * (1 + 2.0**-11))
    worst[2, :] = np.float32(2.0**-5)
    worst[3, 0] = 1.0
    worst[3, 1:] = np.float32(2.0**-26)  # under half of the smallest half there is: all vanish
    worst = np.concatenate([to_unit(worst), -to_unit(worst)])
    error = _assert_within_rounding(worst, worst)
    assert error > 0.0
    exact = np.zeros((1, 1024), np.float32)
    exact[0, :1023] = np.float32(2.0**-5 * (1 + 2.0**-11))
    assert _assert_within_rounding(exact, exact) > 0.95 * 2.0**-11


@pytest.mark.parametrize("dimension", [64, 512, 2048])
def test_the_stated_rounding_holds_for_vectors_chosen_to_break_it(dimension):
    """Each number is put where rounding hurts most, and the query points along the errors."""
    rng = np.random.default_rng(dimension)
    exponents = np.floor(np.log2(1 / np.sqrt(dimension))) - rng.integers(0, 12, (200, dimension))
    vectors = (2.0**exponents * (1 + 2.0**-11 * rng.uniform(0.9, 1.0, (200, dimension)))).astype(np.float32)
    vectors[:, -1] = np.sqrt(1 - np.sum(vectors[:, :-1].astype(np.float64) ** 2, axis=1))
    errors = vectors.astype(np.float16).astype(np.float32) - vectors
    for queries in (errors, -errors, vectors, np.abs(errors)):
        _assert_within_rounding(vectors, to_unit(queries))


def _assert_within_rounding(vectors, queries):
    index = VectorIndex(vectors.shape[1])
    index.add(np.arange(len(vectors)), vectors)
    similarities, ids = index.search(queries, len(vectors))
    exact = np.take_along_axis(queries.astype(np.float64) @ vectors.astype(np.float64).T, ids, axis=1)
    error = np.abs(similarities - exact).max()
    assert error <= ROUNDING
    return error


def test_vectors_keep_their_ids_through_additions_and_removals():
    rng = np.random.default_rng(0)
    vectors = unit_vectors(400, 32, seed=1)
    index, there = VectorIndex(32), set()
    for _ in range(30):
        new = rng.choice(sorted(set(range(400)) - there), size=min(20, 400 - len(there)), replace=False)
        index.add(new, vectors[new])
        there |= set(new.tolist())
        gone = rng.choice(400, size=10, replace=False)  # some of these are not in it
        index.remove(gone)
        there -= set(gone.tolist())
        assert len(index) == len(there)
        assert sorted(index.ids) == sorted(there)
        _, ids = index.search(vectors[sorted(there)], 1)
        assert ids[:, 0].tolist() == sorted(there)
    index.remove(np.arange(400))
    assert len(index) == 0
    similarities, ids = index.search(vectors[:2], 5)
    assert similarities.shape == ids.shape == (2, 0)


def test_a_saved_index_is_the_same_when_loaded_and_can_be_changed(tmp_path):
    vectors = unit_vectors(50, 32, seed=1)
    index = VectorIndex(32)
    index.add(np.arange(50) * 3, vectors)
    sha256 = index.save(tmp_path / "index")
    loaded = VectorIndex.load(tmp_path / "index", dimension=32, sha256=sha256)
    for before, after in zip(index.search(vectors, 10), loaded.search(vectors, 10), strict=True):
        assert np.array_equal(before, after)
    loaded.remove(np.array([0]))
    loaded.add(np.array([1]), vectors[:1])
    assert loaded.search(vectors[:1], 1)[1].tolist() == [[1]]
    with pytest.raises(GalleryError, match="petid check"):
        VectorIndex.load(tmp_path / "index", dimension=32, sha256="0" * 64)
    with pytest.raises(GalleryError, match="petid check"):
        VectorIndex.load(tmp_path / "no such file", dimension=32, sha256=sha256)
    with pytest.raises(FileExistsError):
        index.save(tmp_path / "index")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(bad):
    index = VectorIndex(8)
    vectors = unit_vectors(3, 8)
    vectors[1, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        index.add(np.arange(3), vectors)
    assert len(index) == 0


def test_vectors_of_another_shape_are_refused():
    index = VectorIndex(8)
    for count, vectors in ((3, unit_vectors(3, 7)), (2, unit_vectors(3, 8)), (1, unit_vectors(1, 8)[0])):
        with pytest.raises(ValueError, match="Expected vectors of shape"):
            index.add(np.arange(count), vectors)


# The rule


def test_the_rule_takes_the_best_photo_of_each_individual():
    rng = np.random.default_rng(0)
    similarities = rng.uniform(-1, 1, (5, 12)).astype(np.float32)
    starts = np.array([0, 1, 4, 9])
    expected = [
        [max(row[first:end]) for first, end in itertools.pairwise([*starts.tolist(), 12])]
        for row in similarities.tolist()
    ]
    answered = similarity_by_individual(similarities, starts)
    assert answered.tolist() == expected
    assert answered.dtype == np.float32
