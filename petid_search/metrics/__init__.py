"""Measures of identification, verification and classification on plain arrays.

Each stands in a module of its kind and can be had from here. Samples may have weights: how often each counts
(`weighted`).
"""

from petid_search.metrics.bootstrap import (
    Interval,
    Measure,
    bootstrap_interval,
    individual_weights,
    paired_interval,
    percentile_interval,
)
from petid_search.metrics.classification import (
    PerClass,
    Reliability,
    confusion_matrix,
    expected_calibration_error,
    per_class,
    reliability,
    top_k_accuracy,
)
from petid_search.metrics.identification import (
    average_precision,
    cmc,
    first_ranks,
    inverse_negative_penalty,
    mean_average_precision,
    mean_inverse_negative_penalty,
    rank_k,
)
from petid_search.metrics.open_set import (
    Oscr,
    auroc_known_unknown,
    baks,
    baus,
    dir_at_fpir,
    fnir_at,
    fnir_at_fpir,
    fpir_at,
    open_set_accuracy,
    oscr,
    oscr_area,
    threshold_at_fpir,
)
from petid_search.metrics.verification import Det, Roc, auc, det, eer, probit, roc, tar_at_far

__all__ = [
    "Det",
    "Interval",
    "Measure",
    "Oscr",
    "PerClass",
    "Reliability",
    "Roc",
    "auc",
    "auroc_known_unknown",
    "average_precision",
    "baks",
    "baus",
    "bootstrap_interval",
    "cmc",
    "confusion_matrix",
    "det",
    "dir_at_fpir",
    "eer",
    "expected_calibration_error",
    "first_ranks",
    "fnir_at",
    "fnir_at_fpir",
    "fpir_at",
    "individual_weights",
    "inverse_negative_penalty",
    "mean_average_precision",
    "mean_inverse_negative_penalty",
    "open_set_accuracy",
    "oscr",
    "oscr_area",
    "paired_interval",
    "per_class",
    "percentile_interval",
    "probit",
    "rank_k",
    "reliability",
    "roc",
    "tar_at_far",
    "threshold_at_fpir",
    "top_k_accuracy",
]
