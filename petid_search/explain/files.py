"""Explanations on disk: a picture, the raw maps as NPZ, and JSON; for several probes a folder with a page."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petid_search.disk import free_name
from petid_search.errors import PetidError
from petid_search.explain.belief import Belief
from petid_search.explain.classes import ClassExplanation
from petid_search.explain.explanation import Explanation
from petid_search.explain.page import page

PAGE: Final = "index.html"
_COMPRESSION: Final = 3
"""Of a PNG: a third of the time that the default takes, for three hundredths more bytes."""
_LONGEST: Final = 80
"""Letters of a photo's name that are kept in the names of its files."""


def write_picture(picture: Image.Image, file: Path, probe: Path) -> None:
    """Write a picture, over what is there, unless that is the probe.

    Raises:
        PetidError: it is the probe, or cannot be written.
    """
    try:
        if file.exists() and file.samefile(probe):
            raise PetidError(f"{file} is the probe itself: name another --output.")
        picture.save(file, compress_level=_COMPRESSION)
    except (OSError, ValueError) as error:
        raise PetidError(f"The picture cannot be written to {file} ({error}): name another --output.") from error


def maps_of(explanation: Explanation | ClassExplanation) -> dict[str, NDArray[Any]]:
    """The raw maps as arrays, as they go into an NPZ file.

    Of a comparison: `candidates` (n,), names; `on_probe` (n, h, w); `on_candidate` (n, h, w); and, with two candidates,
    `contrast` (h, w). Of classes: `classes` (n,) and `maps` (n, h, w). All maps are float32.
    """
    if isinstance(explanation, ClassExplanation):
        return {"classes": np.array(list(explanation.maps)), "maps": np.stack(list(explanation.maps.values()))}
    arrays: dict[str, NDArray[Any]] = {
        "candidates": np.array([candidate.individual for candidate in explanation.candidates]),
        "on_probe": np.stack(explanation.on_probe),
        "on_candidate": np.stack(explanation.on_candidate),
    }
    return arrays if explanation.contrast is None else {**arrays, "contrast": explanation.contrast}


def to_json(explanation: Explanation | ClassExplanation, belief: Belief | None = None) -> dict[str, Any]:
    """An explanation and what its tests have found, as plain JSON values."""
    return {**explanation.to_json(), **({} if belief is None else belief.to_json())}


class Folder:
    """A folder of explanations, with a page that shows all of them: to be used in a `with` block, whose end writes it.

    Args:
        folder: one that is not there yet, or an empty one.
        among: where the probes are, in which it may not lie: its pictures would be taken for photos the next time.

    Raises:
        PetidError: it is a file, holds something, lies among the probes, or cannot be made.
    """

    def __init__(self, folder: Path, among: Sequence[Path]) -> None:
        self.folder = folder
        self._told: list[dict[str, Any]] = []
        try:
            for place in among:
                if place.is_dir() and folder.resolve().is_relative_to(place.resolve()):
                    raise PetidError(f"{folder} lies in {place}, among the photos: name another --output.")
            if folder.exists() and not folder.is_dir():
                raise PetidError(f"{folder} is a file: name another --output.")
            if folder.is_dir() and any(folder.iterdir()):
                raise PetidError(f"{folder} is not empty, and no file is overwritten: name another --output.")
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error

    def add(
        self, explanation: Explanation | ClassExplanation, picture: Image.Image, belief: Belief | None = None
    ) -> dict[str, Any]:
        """Write the picture, the raw maps and the JSON of one probe.

        Returns:
            The JSON values, with `picture` and `maps`, the files.

        Raises:
            PetidError: they cannot be written.
        """
        file = free_name(explanation.photo.stem[:_LONGEST], ".png", self.folder)
        maps = file.with_name(f"{file.stem}.npz")
        told = {**to_json(explanation, belief), "picture": str(file), "maps": str(maps)}
        self._write(lambda: picture.save(file, compress_level=_COMPRESSION))
        self._write(lambda: np.savez_compressed(maps, allow_pickle=False, **maps_of(explanation)))
        text = json.dumps(told, indent=2, ensure_ascii=False)
        self._write(lambda: _write_text(file.with_name(f"{file.stem}.json"), text))
        self._told.append({**told, "picture": file.name, "maps": maps.name})
        return told

    def __len__(self) -> int:
        """How many probes were added."""
        return len(self._told)

    @property
    def page(self) -> Path:
        """The page, once the folder is left."""
        return self.folder / PAGE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Write the page of what was added, however it ended; without anything, the folder goes again."""
        if self._told:
            self._write(lambda: _write_text(self.page, page(self._told)))
        else:
            with suppress(OSError):
                self.folder.rmdir()

    def _write(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            raise _unwritable(self.folder, error) from error


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", errors="backslashreplace")


def _unwritable(folder: Path, error: OSError) -> PetidError:
    return PetidError(f"{folder} cannot be written to ({error.strerror or error}): name another --output.")
