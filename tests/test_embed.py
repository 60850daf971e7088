"""Many photos become embeddings on all cores: in their order, lazily, and each the same as on its own."""

import itertools
import shutil
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from petid_search.cores import usable_cores
from petid_search.embed import Embedded, Skipped, Unreadable, embed_photos
from petid_search.errors import ModelError
from petid_search.images import open_image, read_photo
from petid_search.models.bundle import ONNX, Bundle
from petid_search.models.runtime import Embedder

# What may be read ahead of what was handed out: chunks of 8, two of them a core, one being filled, one handed out.
AHEAD = 8 * (2 * usable_cores() + 2)


@pytest.fixture
def photos(take_photo):
    """Fifty photos of ten individuals."""
    return [take_photo(i % 10, i) for i in range(50)]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("petid-embed")]


def path_of(result) -> Path:
    return result.path if isinstance(result, Unreadable) else result.photo.path


def test_there_is_one_result_a_photo_in_their_order(photos, embedder):
    results = list(embed_photos(iter(photos), embedder))
    assert [path_of(result) for result in results] == photos
    assert all(isinstance(result, Embedded) for result in results)


@pytest.mark.parametrize("count", [1, 8, 9, 50])
def test_an_embedding_is_the_same_as_that_of_the_photo_on_its_own(photos, embedder, count):
    for result in embed_photos(photos[:count], embedder):
        alone = embedder.embed(open_image(result.photo.path, embedder.input_size)[None])[0]
        assert result.vector.dtype == np.float32
        np.testing.assert_allclose(result.vector, alone, atol=1e-6)


def test_no_photo_gives_no_result(embedder):
    assert list(embed_photos([], embedder)) == []


@pytest.mark.parametrize("count", [6, 50])
def test_an_unreadable_photo_stands_in_its_place(photos, embedder, tmp_path, count):
    damaged, missing = tmp_path / "damaged.png", tmp_path / "missing.png"
    damaged.write_bytes(photos[0].read_bytes()[:200])
    paths = photos[:count]
    paths[0], paths[count // 2], paths[-1] = damaged, missing, damaged
    results = list(embed_photos(paths, embedder))
    assert [path_of(result) for result in results] == paths
    unreadable = [place for place, result in enumerate(results) if isinstance(result, Unreadable)]
    assert unreadable == [0, count // 2, count - 1]
    assert "damaged.png is damaged or cut short" in str(results[0].error)
    assert "There is no photo" in str(results[count // 2].error)


def test_photos_that_are_all_unreadable_are_no_reason_to_stop(tmp_path, embedder):
    results = list(embed_photos([tmp_path / f"{i}.png" for i in range(30)], embedder))
    assert [type(result) for result in results] == [Unreadable] * 30


@pytest.mark.parametrize("count", [6, 50])
def test_a_photo_to_be_skipped_is_read_and_not_embedded(photos, embedder, count):
    paths = photos[:count]
    known = {read_photo(path).sha256 for path in paths[::3]}
    asked: list[str] = []

    def skip(hashes):
        asked.extend(hashes)
        return known

    results = list(embed_photos(paths, embedder, skip=skip))
    assert [isinstance(result, Skipped) for result in results] == [place % 3 == 0 for place in range(count)]
    assert [path_of(result) for result in results] == paths
    assert results[0].photo.sha256 == read_photo(paths[0]).sha256
    assert sorted(asked) == sorted(read_photo(path).sha256 for path in paths)


def test_a_skipped_photo_is_not_even_decoded(tmp_path, embedder):
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"not a photo")
    results = list(embed_photos([damaged], embedder, skip=lambda hashes: hashes))
    assert [type(result) for result in results] == [Skipped]


def test_paths_without_end_are_read_only_a_little_ahead(photos, embedder):
    pulled = 0

    def endless():
        nonlocal pulled
        for path in itertools.cycle(photos):
            pulled += 1
            yield path

    results = embed_photos(endless(), embedder)
    for taken, result in enumerate(itertools.islice(results, 400), start=1):
        assert isinstance(result, Embedded)
        assert pulled - taken <= AHEAD
    results.close()
    assert threads() == []


def test_only_a_few_photos_are_in_memory_at_once(photos, embedder):
    """What was handed out and dropped is let go, with the chunk that it came in."""
    alive: list[weakref.ref] = []
    for result in embed_photos(itertools.islice(itertools.cycle(photos), 400), embedder):
        alive.append(weakref.ref(result.vector.base))
        del result
        alive = [reference for reference in alive if reference() is not None]
        assert len(alive) <= AHEAD


def test_nothing_is_read_before_the_first_result_is_asked_for(embedder):
    def never():
        raise AssertionError("read too early")
        yield

    embed_photos(never(), embedder)


@pytest.mark.parametrize("good", [0, 3, 20, 45])
def test_an_error_in_the_paths_comes_through_and_leaves_no_thread(photos, embedder, good):
    def failing():
        yield from photos[:good]
        raise OSError("the list broke off")

    with pytest.raises(OSError, match="the list broke off"):
        list(embed_photos(failing(), embedder))
    assert threads() == []


def test_an_error_in_skip_comes_through_and_leaves_no_thread(photos, embedder):
    def skip(hashes):
        raise ValueError("asked in vain")

    with pytest.raises(ValueError, match="asked in vain"):
        list(embed_photos(photos, embedder, skip=skip))
    assert threads() == []


def test_a_damaged_model_comes_through_and_leaves_no_thread(photos, home, tmp_path):
    folder = shutil.copytree(home / "models" / "small", tmp_path / "small")
    changed = bytearray((folder / ONNX).read_bytes())
    changed[len(changed) // 2] ^= 1
    (folder / ONNX).write_bytes(changed)
    with pytest.raises(ModelError, match="damaged"):
        list(embed_photos(photos, Embedder(Bundle.open(folder))))
    assert threads() == []


def test_a_consumer_that_stops_half_way_leaves_no_thread(photos, embedder):
    results = embed_photos(itertools.cycle(photos), embedder)
    next(results)
    assert threads() != []
    results.close()
    assert threads() == []


def test_one_photo_is_embedded_without_starting_threads(photos, embedder):
    results = embed_photos(photos[:8], embedder)
    next(results)
    assert threads() == []


@pytest.mark.skipif(usable_cores() < 2, reason="one core has one worker")
def test_several_workers_are_at_work_at_once(photos, embedder):
    # Were there only one, nobody would meet it at the barrier.
    barrier = threading.Barrier(2, timeout=30)

    def skip(hashes):
        barrier.wait()
        return hashes

    # Six chunks, which meet in pairs.
    assert len(list(embed_photos(photos[:48], embedder, skip=skip))) == 48
