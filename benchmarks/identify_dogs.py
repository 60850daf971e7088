"""The main job on real dogs: enroll every odd photo of 500 individuals, identify the rest and 250 strangers.

    python benchmarks/identify_dogs.py

Prints rank-1 and FNIR at FPIR 1 % with N, and photos a second.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from common import imagenet_embedder, individuals, report

from petid_search.calibrate import current_calibration
from petid_search.enroll import enroll
from petid_search.identify import Identification, identify
from petid_search.index.gallery import Gallery
from petid_search.metrics import baus, fnir_at, fpir_at, rank_k, threshold_at_fpir

ENROLLED, STRANGERS = 500, 250
FPIR = 0.01


def main() -> None:
    """Run the job and print its figures."""
    dogs = individuals("dogs")
    known, strangers = dogs[:ENROLLED], dogs[ENROLLED : ENROLLED + STRANGERS]
    gallery_photos = [(photo, photo.parent.name) for photos in known for photo in photos[::2]]
    mated = [photo for photos in known for photo in photos[1::2]]
    non_mated = [photo for photos in strangers for photo in photos]
    embedder = imagenet_embedder()
    with tempfile.TemporaryDirectory() as folder, Gallery(Path(folder), create=True) as gallery:
        started = time.perf_counter()
        statuses = [outcome.status for outcome in enroll(gallery, gallery_photos, embedder)]
        enrolling = time.perf_counter() - started
        calibration = current_calibration(gallery)
        started = time.perf_counter()
        # All individuals as candidates, since a rank is asked for even of those far down.
        answers = [one for one in identify(mated, gallery, embedder, top=ENROLLED) if isinstance(one, Identification)]
        asking = time.perf_counter() - started
        unknown = [one for one in identify(non_mated, gallery, embedder) if isinstance(one, Identification)]
        promise = calibration.promise(FPIR)
        promised = promise.threshold

    own, ranks = [], []
    for answer in answers:
        names = [candidate.individual for candidate in answer.candidates]
        place = names.index(answer.photo.parent.name)
        own.append(answer.candidates[place].similarity)
        ranks.append(place + 1)
    own_similarity, rank = np.array(own, np.float32), np.array(ranks)
    highest = np.array([answer.similarity for answer in unknown], np.float32)
    stranger_names = np.array([answer.photo.parent.name for answer in unknown])
    threshold = threshold_at_fpir(highest, FPIR)
    report(
        "identify dogs, MobileNetV2 of ImageNet, untrained for it",
        {
            "gallery: photos": statuses.count("enrolled"),
            "gallery: refused (same bytes under another name)": statuses.count("failed"),
            "gallery: individuals N": ENROLLED,
            "mated probes": len(answers),
            "non-mated probes (250 individuals)": len(unknown),
            "rank-1": rank_k(rank, 1),
            "rank-5": rank_k(rank, 5),
            "FNIR(N=500, R=1) at FPIR 1 %": fnir_at(own_similarity, rank, threshold),
            "threshold at FPIR 1 %": threshold,
            "threshold that the gallery's own calibration promises": promised,
            "share of new strangers that it says will reach it": f"{promise.low:.2%} to {promise.high:.2%}",
            "FPIR measured there, over individuals": 1 - baus(stranger_names, highest < promised),
            "FPIR measured there, over photos": fpir_at(highest, promised),
            "FNIR(N=500, R=1) at the promised threshold": fnir_at(own_similarity, rank, promised),
            "enrolled photos a second": len(gallery_photos) / enrolling,
            "identified photos a second (500 candidates each)": len(mated) / asking,
        },
    )


if __name__ == "__main__":
    main()
