"""A model's card as text to be read: what it is for and not for, what it was trained on, how well it does, its licence.

Source: what a card should say is from Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, arXiv:1810.03993.
"""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from petid_search.models.bundle import Card

_LABEL: Final = 14
_WIDTH: Final = 110


def write(card: Card) -> Iterator[str]:
    """Write a card, line by line; what nobody said is left out."""
    projection = f", projected to {card.head.projection}" if card.head.projection else ""
    kept = f", beside {card.head.kept.numbers} of {card.head.kept.layer} as it was" if card.head.kept else ""
    mirror = ", of each photo and its mirror image" if card.head.mirror else ""
    figures = {name: value for name, value in card.metrics.items() if name != "protocol"}
    parts = {
        "For": card.purpose,
        "Not for": card.limits,
        "Trained on": card.data,
        "Started from": card.origin,
        "Licence": card.licence,
        "Measured by": card.metrics.get("protocol", ""),
        "Figures": "; ".join(f"{name} {value}" for name, value in _flat(figures)),
        "Network": f"{card.backbone} at {card.input_size} px, {card.head.pooling} pooling{projection}{kept}{mirror}",
        "Embedding": f"{card.dimension} numbers",
        "Classifier": f"{len(card.classes)} individuals" if card.classes else "",
        "Made": f"{card.created} by petid {card.petid}; fingerprint {card.fingerprint[:12]}",
    }
    yield card.name
    for label, text in parts.items():
        if text:
            yield from textwrap.wrap(text, _WIDTH, initial_indent=f"  {label:{_LABEL}s}", subsequent_indent=" " * 16)


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Figures by name, those within others by both names."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        else:
            said = f"{before}{name}".replace("rank_", "rank-").replace("_", " ")
            yield said, f"{value:.4f}" if isinstance(value, float) else str(value)
