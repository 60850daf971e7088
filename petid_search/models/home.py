"""Where models live: one folder each, in PETID_HOME or within petid; added, listed, opened and removed by name.

A model of the user's own takes the place of one of its name that comes with petid.
"""

import hashlib
import re
import secrets
import shutil
from pathlib import Path
from typing import Final

from petid_search.disk import petid_home
from petid_search.errors import ModelError
from petid_search.images import FIT
from petid_search.models import bundle as bundles
from petid_search.models.architecture import Head, Pooling
from petid_search.models.backbones import create_backbone, find_backbone
from petid_search.models.bundle import Bundle, write_bundle
from petid_search.models.weights import Progress

DEFAULT: Final = "petid-dogs"
"""The model that is meant where none is named; it comes with petid."""

HOW_TO_TRAIN: Final = "petid train FOLDER"
"""The command that makes a model with a classifier."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def models_home() -> Path:
    """Return the folder of the user's own models, beside that of downloaded weights; it need not exist yet."""
    return petid_home() / "models"


def list_models() -> list[Bundle]:
    """Return the models that can be used, by name; those that cannot are told by damaged_models."""
    return [found for found in _find_all().values() if isinstance(found, Bundle)]


def damaged_models() -> dict[str, ModelError]:
    """Return the name of each model that cannot be opened, and why."""
    return {name: found for name, found in _find_all().items() if isinstance(found, ModelError)}


def open_model(name: str = DEFAULT) -> Bundle:
    """Open a model by its name.

    Raises:
        ModelError: there is none of that name (the message names those there are), or it is damaged.
    """
    found = _find_all().get(name)
    if isinstance(found, Bundle):
        return found
    if found is not None:
        raise found
    raise _unknown(name)


def has_model(name: str) -> bool:
    """Whether a model can be opened by that name."""
    return isinstance(_find_all().get(name), Bundle)


def find_fingerprint(fingerprint: str) -> Bundle | None:
    """Return a model that embeds as that fingerprint says, whatever its name; None where there is none.

    One that comes with petid is found even where a model of the user's own took its place.
    """
    everything = (*_find_in(models_home()).values(), *_find_in(bundles.SHIPPED).values())
    usable = (found for found in everything if isinstance(found, Bundle))
    return next((bundle for bundle in usable if bundle.card.fingerprint == fingerprint), None)


def only_classifier() -> Bundle:
    """Open the model with a classifier that needs no name, being the only one.

    Raises:
        ModelError: there is none, or there are several.
    """
    with_classifier = [bundle for bundle in list_models() if bundle.card.classes]
    if len(with_classifier) == 1:
        return with_classifier[0]
    if with_classifier:
        names = ", ".join(bundle.card.name for bundle in with_classifier)
        raise ModelError(f"Several models have a classifier ({names}): name one with --model.")
    for damage in damaged_models().values():
        raise damage
    raise ModelError(f"There is no model with a classifier yet. Train one: {HOW_TO_TRAIN}")


def check_new_name(name: str, models: Path | None = None) -> None:
    """Refuse a name that no new model can have, before the work that makes the model.

    That of a model which comes with petid may be given: the new one takes its place.

    Args:
        name: what it would be called.
        models: the folder that it would be in; by default that of petid's models.

    Raises:
        ModelError: it is not one (see add_model), or a model of the user's own has it.
    """
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot name a model: take 1 to 64 letters, digits, '.', '_' or '-', not beginning with a dot."
        )
    if ((models_home() if models is None else models) / name).exists():
        raise ModelError(f"There is a model {name!r} already: choose another name, or `petid models remove {name}`.")


def add_model(
    name: str,
    *,
    backbone: str,
    weights: Path | None = None,
    pooling: Pooling = "avg",
    size: int | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Make a model from the weights of a backbone, and keep it under a name.

    Args:
        name: 1 to 64 letters, digits, `.`, `_` and `-`, not beginning with a dot.
        backbone: one of backbones.BACKBONES.
        weights: a file of weights; by default the published ones are downloaded.
        pooling: how the feature map becomes one vector.
        size: side of the square input, in pixels; by default the backbone's own.
        progress: told of a download (see weights.fetch).

    Raises:
        ModelError: the name is taken or not one, the backbone unknown, the size too small, the weights are not
            to be had or do not fit, or the disk is full.
    """
    check_new_name(name)
    spec = find_backbone(backbone)
    network = create_backbone(backbone, size=size, weights=weights or "download", progress=progress)
    from petid_search.models.heads import create_model

    if weights is None:
        origin, licence = spec.weights_origin, spec.weights_licence
    else:
        with weights.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        origin = f"the file {weights.name} (sha256 {digest})"
        licence = f"that of the published weights ({spec.weights_licence}), where the file holds those"
    head = Head(pooling=pooling)
    return write_bundle(
        create_model(network, head),
        models_home() / name,
        name=name,
        backbone=backbone,
        head=head,
        fit=FIT,
        origin=origin,
        licence=licence,
        data=spec.weights_data,
    )


def remove_model(name: str) -> None:
    """Delete a model, damaged or not; one that comes with petid is there again if this one stood in its place.

    Raises:
        ModelError: there is none of that name, it comes with petid, or it may not be deleted.
    """
    if name not in _find_in(models_home()):
        if name in _find_in(bundles.SHIPPED):
            raise ModelError(f"{name} comes with petid and stays: train or add one of that name to replace it.")
        raise _unknown(name)
    folder = models_home() / name
    # Out of the way first: a removal that is cut short leaves no half of a model under its name.
    doomed = folder.parent / f".{name}.{secrets.token_hex(4)}.partial"
    try:
        if folder.is_symlink():
            folder.unlink()
            return
        folder.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise ModelError(f"{folder} cannot be removed ({error.strerror}): check the rights to it.") from error


def _find_all() -> dict[str, Bundle | ModelError]:
    """Open every model there is, by name; what a damaged one raises stands in its place."""
    return dict(sorted({**_find_in(bundles.SHIPPED), **_find_in(models_home())}.items()))


def _find_in(folder: Path) -> dict[str, Bundle | ModelError]:
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"{folder} cannot be read ({error.strerror}): check the rights to it.") from error
    return {name: _open(folder / name) for name in names}


def _open(folder: Path) -> Bundle | ModelError:
    try:
        bundle = Bundle.open(folder)
    except ModelError as error:
        return error
    if bundle.card.name != folder.name:
        return ModelError(f"{folder} holds model {bundle.card.name!r}: give the folder back that name.")
    return bundle


def _unknown(name: str) -> ModelError:
    if name == DEFAULT:
        return ModelError(f"{name}, which comes with petid, is missing from {bundles.SHIPPED}: install petid again.")
    names = ", ".join(_find_all())
    return ModelError(f"There is no model {name!r}. There are: {names}. Another is added with `petid models add`.")
