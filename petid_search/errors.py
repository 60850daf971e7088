"""Every error that petid raises on purpose, as one short tree.

PetidError
├── PhotoError          one photo cannot be used; a batch goes on without it
├── GalleryError        the gallery cannot do what was asked
│   └── ModelMismatch   embeddings of two models were about to be compared
├── ModelError          a model bundle, its weights or its name is not usable
├── DatasetError        a folder of photos, or a split of it, cannot be used
│   └── LeakError       a split has on two sides what belongs on one
├── RecipeError         a training recipe or option is not right
├── DedupError          duplicates cannot be moved aside, deleted or brought back
└── CalibrationError    too little is known to state a threshold

Each message is one line that says what to do next; the command line prints it and exits with 1.
"""


class PetidError(Exception):
    """Base of every error raised on purpose."""


class PhotoError(PetidError):
    """One photo cannot be used."""


class GalleryError(PetidError):
    """The gallery cannot do what was asked of it."""


class ModelMismatch(GalleryError):  # noqa: N818 - it says what happened
    """Embeddings of two different models were about to be compared."""

    def __init__(self, expected: str, received: str) -> None:
        super().__init__(
            f"This gallery holds embeddings of model {expected!r}; received {received!r}. "
            "Embeddings of different models cannot be compared: use the gallery's model (run the command again if the "
            f"gallery was moved over to it just now), or move it over with `petid reindex --model {received}`."
        )


class ModelError(PetidError):
    """A model bundle, its weights or its name is not usable."""


class DatasetError(PetidError):
    """A folder of photos, or a split of it, cannot be used."""


class LeakError(DatasetError):
    """A split has on two sides what belongs on one: what is measured with it would flatter."""


class RecipeError(PetidError):
    """A training recipe or option is not right."""


class DedupError(PetidError):
    """Duplicates cannot be moved aside, deleted or brought back."""


class CalibrationError(PetidError):
    """Too few photos are known to state a threshold for the error rate asked for."""
