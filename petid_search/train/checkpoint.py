"""Where a training stands, in one file that is whole or not there; taken up again, it ends as if it had not stopped."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from petid_search.disk import sync
from petid_search.errors import DatasetError

Weights = list[NDArray[Any]]

_PARTS: Final = ("weights", "optimizer", "best", "began")


@dataclass(slots=True)
class Standing:
    """How far a training is.

    Attributes:
        stage: the one under way, from 0.
        epoch: epochs of it that are done.
        history: one entry an epoch.
        best: the best value of what is monitored.
        best_epoch: the epoch that gave it, from 1 on through all stages; None as long as there is none.
        waited: epochs since then.
        reduced: what plateaus have brought the learning rate down to, as a factor.
        before: what the network measured before it was trained, by name.
    """

    stage: int = 0
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    reduced: float = 1.0
    before: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A standing with the weights that belong to it.

    Attributes:
        standing: how far the training is.
        weights: of the network that is trained.
        optimizer: the optimiser's variables and what else the stage has of its own; empty between two stages.
        best: weights of the best epoch; empty as long as there is none.
        began: the weights that the stage began with, where it averages; else empty.
    """

    standing: Standing
    weights: Weights
    optimizer: Weights
    best: Weights
    began: Weights


def save(checkpoint: Checkpoint, file: Path) -> None:
    """Write a checkpoint in place of the one before, which stays until the new one is whole.

    Raises:
        DatasetError: the disk is full or may not be written.
    """
    arrays: dict[str, Any] = {
        f"{part}-{number}": one for part in _PARTS for number, one in enumerate(getattr(checkpoint, part))
    }
    arrays["standing"] = np.array(json.dumps(asdict(checkpoint.standing)))
    partial = file.with_suffix(".partial")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        sync(partial)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DatasetError(
            f"The training cannot be saved to {file} ({error.strerror}): make room and run the command again to go on."
        ) from error


def load(file: Path) -> Checkpoint:
    """Read what `save` wrote.

    Raises:
        DatasetError: the file cannot be read, or is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            standing = Standing(**json.loads(str(arrays["standing"])))
            parts: dict[str, Weights] = {part: [] for part in _PARTS}
            for part, those in parts.items():
                while f"{part}-{len(those)}" in arrays.files:
                    those.append(arrays[f"{part}-{len(those)}"])
            if 1 + sum(map(len, parts.values())) != len(arrays.files):
                raise ValueError("arrays are missing")
    except Exception as error:  # there are a dozen kinds: a bit may say that it is encrypted, or of a later version
        raise DatasetError(f"{file} is damaged: delete it to begin the training again.") from error
    return Checkpoint(standing, **parts)
