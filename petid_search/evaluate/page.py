"""One HTML page that needs nothing beside it: figures, pictures and the worst mistakes of an evaluation."""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petid_search.dataset.manifest import LabelledPhoto
from petid_search.errors import PhotoError
from petid_search.evaluate.evaluation import Evaluation, Result
from petid_search.evaluate.figures import FPIRS, LEVEL, Figure
from petid_search.evaluate.plots import TITLES, label
from petid_search.images import open_image

_MISTAKES: Final = 20
_THUMBNAIL: Final = 96

PROTOCOLS: Final = {
    "leave-one-out": "each photo searched for among all others",
    "gallery-probe": "about half of each individual's photos enrolled, the others searched for",
    "open-set": "some individuals enrolled, the others strangers",
    "verification": "all pairs of photos",
    "by-time": "earlier photos enrolled, later ones searched for",
}

MEANINGS: Final = {
    "rank": "the right individual is among the first {}",
    "mAP": "mean average precision over photos",
    "mINP": "how few wrong photos precede the last right one",
    "auc": "area under the ROC of pairs",
    "eer": "where both errors of verification are the same",
    "tar": "pairs of one individual accepted, when {} of pairs of two are",
    "fnir": "enrolled animals missed, when {} of strangers are called by a name",
    "dir": "enrolled animals found first, when {} of strangers are called by a name",
    "auroc": "known told from unknown by the highest similarity",
    "oscr": "area under right answers against strangers called by a name",
    "baks": "right answers, each enrolled individual weighing the same, at FPIR {}",
    "baus": "strangers called unknown, each individual weighing the same, at FPIR {}",
}

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top;
  overflow-wrap: normal; }
td.n, th.n { white-space: nowrap; text-align: right; }
img { max-width: 100%; height: auto; }
figure { margin: 1rem 0; } .small { color: #555; font-size: .85rem; }
"""


def page(evaluation: Evaluation, report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page. Names of individuals and photos come from users: all of them are escaped.

    Args:
        evaluation: what was measured.
        report: the same as JSON values.
        pictures: PNG files by name, which the page holds as data.
    """
    title = f"petid: evaluation of {escape(report['folder'])}"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
            f"<p>{_summary(report)}</p>",
            *(f"<p><b>{escape(warning)}</b></p>" for warning in warnings(evaluation)),
            *(_comparison(evaluation.results) if len(evaluation.results) > 1 else []),
            *_figures(evaluation.results[0]),
            *_thresholds(evaluation.results[0]),
            *(_picture(name, pictures[name]) for name in TITLES if name in pictures),
            *_mistakes(evaluation),
            *_left_out(evaluation),
            f'<p class="small">petid {escape(report["petid"])}, seed {report["seed"]}. The numbers are in report.json '
            "and metrics.csv, each probe in probes.csv, the split in split.csv.</p>\n</body>\n</html>\n",
        ]
    )


def warnings(evaluation: Evaluation) -> Iterator[str]:
    """A sentence for each model that was trained on what it is measured on."""
    photos, individuals = len(evaluation.photos), len(evaluation.individuals)
    of_models = {result.model: result.known for result in evaluation.results}
    for model, known in of_models.items():
        if known is not None and (known.photos or known.individuals):
            yield (
                f"Model {model} was trained on {known.photos} of the {photos} photos measured, and on "
                f"{known.individuals} of their {individuals} individuals (by name): these figures flatter."
            )


def meaning(name: str) -> str:
    """What a figure says, in plain words."""
    kind, _, rate = name.partition("@")
    if kind.startswith("rank_"):
        return MEANINGS["rank"].format(kind[5:]) if kind != "rank_1" else "the right individual comes first"
    return MEANINGS[kind].format(f"{float(rate.partition('=')[2]) * 100:.4g} %" if rate else "")


def _summary(report: Mapping[str, Any]) -> str:
    several = "compared" in report
    return (
        f"Protocol <b>{report['protocol']}</b> ({PROTOCOLS[report['protocol']]}). "
        f"{'First model' if several else 'Model'} <b>{escape(report['model'])}</b>, rule {escape(report['rule'])}. "
        f"N = {report['N']} individuals enrolled; {report['photos']} photos of {report['individuals']} individuals "
        f"used, {report['left_out']} left out. Intervals hold {LEVEL:.0%} of {report['interval']['replicates']} "
        "replicates with individuals drawn anew, and are exact (Clopper and Pearson) where all did right or all wrong. "
        "They hold for this gallery: the individuals of the probes are drawn, the gallery is not. Figures at FPIR "
        f"{FPIRS[0] * 100:g} % rest on the few strangers that reach highest."
    )


def _figures(result: Result) -> Iterable[str]:
    rows = [
        [_name(name), _value(figure), _interval(figure), str(result.found.individuals), escape(figure.of)]
        for name, figure in result.figures.items()
    ]
    yield "<h2>Figures</h2>"
    yield _table(["", "value", f"{LEVEL:.0%} interval", "N", "measured on"], rows, numbers={1, 2, 3})


def _comparison(results: Sequence[Result]) -> Iterable[str]:
    first = results[0]
    labels = [escape(label(result, results)) for result in results]
    differences = [result.minus(first) for result in results[1:]]
    differing = [name for name in first.figures if any(name in those for those in differences)]
    rows = [
        [_name(name), *(f"{_value(result.figures[name])}<br>{_interval(result.figures[name])}" for result in results)]
        for name in differing
    ]
    yield "<h2>Compared on the same photos</h2>"
    yield _table(["", *labels], rows, numbers=set(range(1, len(results) + 1)))
    rows = []
    for name in differing:
        cells = [those.get(name) for those in differences]
        rows.append([_name(name), *("" if cell is None else _difference(cell) for cell in cells)])
    yield f"<h2>Differences from {labels[0]}</h2>"
    yield (
        "<p>On the same individuals, drawn the same. A difference whose interval does not hold 0 is marked: "
        "the two differ. Of many marks, those of about one comparison in twenty come by chance.</p>"
    )
    yield _table(["", *labels[1:]], rows, numbers=set(range(1, len(results))))


def _difference(figure: Figure) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return "–" if figure.value is None else f"{figure.value:+.4f}<br>–"
    mark = " ✱" if figure.low > 0 or figure.high < 0 else ""
    return f"{figure.value:+.4f}{mark}<br>{figure.low:+.4f} to {figure.high:+.4f}"


def _thresholds(result: Result) -> Iterable[str]:
    rows = [
        [escape(name.replace("=", " = ").upper()), "–" if value is None else f"{value:.4f}"]
        for name, value in result.thresholds.items()
    ]
    yield "<h2>Thresholds</h2><p>The lowest similarity at which the rate was held on these photos.</p>"
    yield _table(["", "similarity"], rows, numbers={1})


def _picture(name: str, picture: bytes) -> str:
    data = base64.b64encode(picture).decode()
    title = escape(TITLES[name])
    return f'<figure><img alt="{title}" src="data:image/png;base64,{data}"></figure>'


def _mistakes(evaluation: Evaluation) -> Iterable[str]:
    """Probes to which another individual came first, the most similar first: wrong answers, or wrong labels."""
    result = evaluation.results[0]
    if result.ranks is None:
        return
    ranked, threshold = result.ranked, result.thresholds[f"fpir={FPIRS[0]:g}"]
    heads = ["probe", "rank", "came first", "similarity", "its nearest photo"]
    if rows := _rows_of_mistakes(evaluation, np.flatnonzero(ranked.ranks > 1)):
        yield "<h2>The most similar mistakes</h2><p>Where two names are one animal, the label is the mistake.</p>"
        yield _table(heads, rows, numbers={1, 3})
    if threshold is None:
        return
    named = np.flatnonzero(evaluation.strangers & (ranked.nearest_other >= 0) & (ranked.other >= threshold))
    if rows := _rows_of_mistakes(evaluation, named):
        yield (
            f"<h2>Strangers called by a name</h2><p>Those at or over {threshold:.4f}, the threshold at FPIR "
            f"{FPIRS[0] * 100:g} %.</p>"
        )
        yield _table(heads, rows, numbers={1, 3})


def _rows_of_mistakes(evaluation: Evaluation, wrong: NDArray[np.int64]) -> list[list[str]]:
    """Lines of a table of these probes, the most similar first."""
    ranked = evaluation.results[0].ranked
    photos, names, sides = evaluation.photos, evaluation.individuals, evaluation.sides
    rows: list[list[str]] = []
    told: set[frozenset[int]] = set()
    for place in wrong[np.argsort(-ranked.other[wrong], kind="stable")]:
        probe, nearest = int(sides.probes[place]), int(ranked.nearest_photo[place])
        # Where each photo is a probe, two that are mistaken for each other would be told twice.
        if len(rows) == _MISTAKES or frozenset((probe, nearest)) in told:
            continue
        told.add(frozenset((probe, nearest)))
        rows.append(
            [
                _thumbnail(photos[probe]) + escape(photos[probe].name),
                "stranger" if evaluation.strangers[place] else str(ranked.ranks[place]),
                escape(names[ranked.nearest_other[place]]),
                f"{ranked.other[place]:.4f}",
                _thumbnail(photos[nearest]) + escape(photos[nearest].name) if nearest >= 0 else "",
            ]
        )
    return rows


def _thumbnail(photo: LabelledPhoto) -> str:
    """A photo as the model sees it, small; nothing where it can no longer be read."""
    try:
        image = Image.fromarray(open_image(photo.path, _THUMBNAIL))
    except PhotoError:
        return ""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="" width="{_THUMBNAIL}" height="{_THUMBNAIL}" src="data:image/jpeg;base64,{data}"><br>'


def _left_out(evaluation: Evaluation) -> Iterable[str]:
    reasons: dict[str, int] = {}
    for one in evaluation.split.photos:
        if one.role == "left out":
            kind = one.reason.partition(" as ")[0] if one.reason.startswith("the same bytes") else one.reason
            kind = "a near-duplicate of an enrolled photo" if kind.startswith("a near-duplicate") else kind
            reasons[kind or "left out by the split"] = reasons.get(kind or "left out by the split", 0) + 1
    if reasons:
        items = "".join(f"<li>{count}: {escape(reason)}</li>" for reason, count in reasons.items())
        yield f"<h2>Left out</h2><ul>{items}</ul>"


def _name(name: str) -> str:
    return f'{escape(name)}<br><span class="small">{escape(meaning(name))}</span>'


def _value(figure: Figure) -> str:
    return f'<span class="small">{escape(figure.reason)}</span>' if figure.value is None else f"{figure.value:.4f}"


def _interval(figure: Figure) -> str:
    interval = "–" if figure.low is None or figure.high is None else f"{figure.low:.4f} to {figure.high:.4f}"
    told = figure.reason and figure.value is not None  # else the reason stands in the value's place
    return f'{interval}<br><span class="small">{escape(figure.reason)}</span>' if told else interval


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: set[int]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{one}</th>" for one in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if place in numbers else ''}>{cell}</td>" for place, cell in enumerate(row))
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'
