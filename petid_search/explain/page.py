"""The page of a folder of explanations: what was decided of each probe, and its picture."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final
from urllib.parse import quote

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 92rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #ddd; }
img { max-width: 100%; height: auto; } .warning { background: #fff3cd; padding: .3rem .6rem; }
"""


def page(explanations: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML; pictures are files beside it, since hundreds would be too many within.

    Args:
        explanations: JSON values of each, with `picture` and `maps`, names of files beside the page. Names of photos
            and individuals come from users: all of them are escaped.
    """
    title = f"petid: {len(explanations)} photo{'s' if len(explanations) != 1 else ''} explained"
    rows = "\n".join(_row(number, one) for number, one in enumerate(explanations))
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
            '<div class="wide"><table><tr><th>photo</th><th>answer</th><th>nearest</th><th></th></tr>',
            rows,
            "</table></div>",
            *(_section(number, one) for number, one in enumerate(explanations)),
            "</body>\n</html>\n",
        ]
    )


def _row(number: int, one: Mapping[str, Any]) -> str:
    answer, nearest = _answer(one)
    warned = "the background may have spoken" if one["warnings"] else ""
    cells = (f'<a href="#p{number}">{escape(one["photo"])}</a>', escape(answer), escape(nearest), warned)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _section(number: int, one: Mapping[str, Any]) -> str:
    answer, nearest = _answer(one)
    warnings = "".join(f'<p class="warning">{escape(warning)}</p>' for warning in one["warnings"])
    alt = escape(f"{answer}; {nearest}: the maps of {one['photo']}")
    return (
        f'<h2 id="p{number}">{escape(one["photo"])}: {escape(answer)}</h2>{warnings}\n'
        f'<p><a href="{quote(one["maps"])}">the maps as numbers</a></p>\n'
        f'<img loading="lazy" src="{quote(one["picture"])}" alt="{alt}">'
    )


def _answer(one: Mapping[str, Any]) -> tuple[str, str]:
    """What was answered for a probe, and what came nearest, in words."""
    if "scores" in one:
        best, score = next(iter(one["scores"].items()))
        return f"{best}", f"score {score:.1%}"
    best = one["candidates"][0]
    named = one["decision"] if one["individual"] is None else f"{one['decision']} {one['individual']}"
    return named, f"{best['individual']}, similarity {best['similarity']:.2f}"
