"""Recipes: a training as a file, in TOML, or in the JSON of the configurable trainer that petid grew out of."""

import json
import tomllib
from pathlib import Path
from typing import Any, Final

import tomli_w

from petid_search.errors import RecipeError
from petid_search.train.config import PATHS, TrainConfig, make_config, nearest, placed

_ORIGIN: Final = (
    *("name", "model_save_path", "dropout", "activation", "epochs", "batch_size"),
    *("verbose", "loss_type", "optimizer", "metrics", "include_top"),
)
"""What the configurable trainer's JSON may hold."""


def read_recipe(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Read a recipe as plain values, for make_config; relative paths in it start from its own folder.

    Args:
        file: `*.toml` with the words of TrainConfig, or `*.json` as the configurable trainer's.

    Returns:
        the values by their words, every one right, and what of the file has no meaning here, a sentence each.

    Raises:
        RecipeError: the file cannot be read or holds an unknown word or a wrong value; the nearest right one is named.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise RecipeError(f"The recipe {file} cannot be read ({reason}): check the name.") from None
    if file.suffix == ".json":
        return _from_origin(text, file)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe {file} is not TOML ({error}): mend that place.") from None
    return make_config(values, source=str(file), folder=file.parent).to_json(), []


def write_recipe(config: TrainConfig, file: Path) -> None:
    """Write a recipe that, read again, is the same training, wherever it lies: its paths are whole.

    Raises:
        OSError: the file cannot be written.
    """
    values = config.to_json()
    values.update({name: placed(name, values[name], Path.cwd()) for name in PATHS if name in values})
    file.write_text(tomli_w.dumps(values), encoding="utf-8")


def _from_origin(text: str, file: Path) -> tuple[dict[str, Any], list[str]]:
    """Translate the configurable trainer's words: its `name` is a network of Keras, its `loss_type` the loss."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"The recipe {file} is not JSON ({error}): mend that place.") from None
    if not isinstance(values, dict):
        raise RecipeError(f"The recipe {file} is not a JSON object with words such as name and epochs.")
    for key in values:
        if key not in _ORIGIN:
            raise RecipeError(f"{file} has an unknown word {key!r}. {nearest(key, list(_ORIGIN))}")
    values = {key: value for key, value in values.items() if value is not None}
    notes = []
    if values.get("include_top"):
        notes.append(
            "include_top is true: the network's own top knows ImageNet's classes; a new classifier stands there."
        )
    if "verbose" in values:
        notes.append("verbose has no meaning here: --quiet hides the progress bar.")
    translated: dict[str, Any] = {
        "backbone": _backbone_of(values.get("name", "MobileNetV2"), file),
        "loss": values.get("loss_type", "categorical_crossentropy"),
        "freeze": "all",
        # Keras's fit, which that trainer called, leaves the learning rate as it is.
        "schedule": "constant",
        "warmup": 0.0,
    }
    if save_path := values.get("model_save_path"):
        translated["name"] = Path(str(save_path)).stem
        notes.append(f"model_save_path gives the model its name, {translated['name']}: petid keeps models in its home.")
    translated.update({key: values[key] for key in ("optimizer", "epochs", "batch_size", "metrics") if key in values})
    if "dropout" in values:
        translated["dropout"] = values["dropout"]
    if "activation" in values:
        translated["output_activation"] = values["activation"]
    return make_config(translated, source=str(file), folder=file.parent).to_json(), notes


def _backbone_of(name: object, file: Path) -> str:
    """The registry's name of a network that Keras calls `MobileNetV2` or `mobilenet_v2.MobileNetV2`."""
    from petid_search.models.backbones import BACKBONES

    of_keras = {one.constructor.lower(): one for one in BACKBONES.values() if one.family == "keras"}
    wanted = str(name).rsplit(".", 1)[-1].lower()
    found = of_keras.get(wanted) or BACKBONES.get(wanted)
    if found is None:
        near = nearest(str(name), [one.constructor for one in of_keras.values()])
        raise RecipeError(f"{file} names the network {name!r}, which petid does not have. {near}")
    return found.name
