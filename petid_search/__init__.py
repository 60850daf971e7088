"""petid: which individual animal does a photo show, or is it none of those known?

What is used most can be had from here. Functions stand in modules of their name: `petid_search.enroll.enroll`,
`petid_search.identify.identify` and so on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petid_search.classify import Classification
    from petid_search.errors import (
        CalibrationError,
        DatasetError,
        DedupError,
        GalleryError,
        LeakError,
        ModelError,
        ModelMismatch,
        PetidError,
        PhotoError,
        RecipeError,
    )
    from petid_search.identify import Candidate, Identification, Verification
    from petid_search.index.gallery import Gallery
    from petid_search.models.home import open_model
    from petid_search.models.runtime import Embedder

__version__ = "0.1.0"

__all__ = [
    "CalibrationError",
    "Candidate",
    "Classification",
    "DatasetError",
    "DedupError",
    "Embedder",
    "Gallery",
    "GalleryError",
    "Identification",
    "LeakError",
    "ModelError",
    "ModelMismatch",
    "PetidError",
    "PhotoError",
    "RecipeError",
    "Verification",
    "open_model",
]

_HOME = {
    "Candidate": "identify",
    "Classification": "classify",
    "Embedder": "models.runtime",
    "Gallery": "index.gallery",
    "Identification": "identify",
    "Verification": "identify",
    "open_model": "models.home",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `petid --help` need not wait for NumPy."""
    if name not in __all__:
        raise AttributeError(f"module 'petid_search' has no attribute {name!r}")
    return getattr(import_module(f"petid_search.{_HOME.get(name, 'errors')}"), name)
