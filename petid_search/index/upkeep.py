"""Looking after a gallery's rows and files: what is damaged, what was left behind."""

import json
import sqlite3
from collections.abc import Sequence

import numpy as np

from petid_search.index.gallery import Gallery
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
        if len(data) != 4 * model.dimension or not abs(float(np.linalg.norm(np.frombuffer(data, "<f4"))) - 1.0) < 1e-3:
            bad.append(int(photo_id))
    return bad


def drop_embeddings(gallery: Gallery, photo_ids: Sequence[int]) -> None:
    """Delete these photos' embeddings by the gallery's model, so that they are made again."""
    with gallery.records.write():
        gallery.records.db.execute(
            "DELETE FROM embeddings WHERE model_id = (SELECT value FROM state WHERE key = 'model') "
            "AND photo_id IN (SELECT value FROM json_each(?))",
            [json.dumps(list(photo_ids))],
        )


def delete_orphans(gallery: Gallery) -> int:
    """Delete stored photos that no row names, left by killed processes; returns how many."""
    gallery.store.sweep()
    with gallery.records.write(
        changes=False
    ):  # a process that settles files holds this lock until their rows are there
        named = {row[0] for row in gallery.records.db.execute("SELECT stored FROM photos WHERE stored IS NOT NULL")}
        orphans = [file for file in gallery.store.files() if file not in named]
        for file in orphans:
            gallery.store.delete(file)
    return len(orphans)
