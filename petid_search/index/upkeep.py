"""Looking after a gallery's rows and files: what is damaged, what was left behind."""

import json
import sqlite3
from collections.abc import Sequence

import numpy as np

from petid_search.index.gallery import UNIT_TOLERANCE, Gallery
from petid_search.index.records import WHOLE


def damage(gallery: Gallery) -> list[str]:
    """What SQLite itself finds wrong with the file: nothing, as long as all is well."""
    try:
        problems = [str(row[0]) for row in gallery.records.db.execute("PRAGMA integrity_check")]
        strays = gallery.records.db.execute("PRAGMA foreign_key_check").fetchall()
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return [problem for problem in problems if problem != "ok"] + [f"row without its other: {row}" for row in strays]


def bad_embeddings(gallery: Gallery) -> list[int]:
    """Photo ids whose embedding by the gallery's model is not a finite unit vector of the right size."""
    model = gallery.model
    if model is None:
        return []
    bad = []
    for photo_id, data in gallery.records.db.execute(
        "SELECT photo_id, vector FROM embeddings WHERE model_id = ? AND crop = ?", [model.id, WHOLE]
    ):
        length = float(np.linalg.norm(np.frombuffer(data, "<f4"))) if len(data) == 4 * model.dimension else 0.0
        if not abs(length - 1.0) < UNIT_TOLERANCE:
            bad.append(int(photo_id))
    return bad


def drop_embeddings(gallery: Gallery, photo_ids: Sequence[int]) -> None:
    """Delete these photos' embeddings by the gallery's model, so that they are made again."""
    ids = json.dumps(list(photo_ids))
    with gallery.records.write() as generation:
        gallery.records.db.execute(
            "DELETE FROM embeddings WHERE model_id = (SELECT value FROM state WHERE key = 'model') "
            "AND photo_id IN (SELECT value FROM json_each(?))",
            [ids],
        )
        # So that the index forgets them, too.
        gallery.records.db.execute(
            "UPDATE photos SET changed = ? WHERE id IN (SELECT value FROM json_each(?))", [generation, ids]
        )


def delete_orphans(gallery: Gallery) -> int:
    """Delete stored photos that no row names, left by killed processes; returns how many."""
    gallery.store.sweep()
    return gallery.delete_unnamed(gallery.store.files())
