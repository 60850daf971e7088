"""The command line's options of a training, made from TrainConfig, so that options and recipes cannot differ."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from petid_search.errors import RecipeError
from petid_search.train.config import TrainConfig, limits, word

_NOT_OPTIONS = ("folder", "stages")
"""The folder is an argument; stages are a list of tables, which only a recipe can hold."""


def with_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in place of its `**options`, one option for each field of TrainConfig, None where not given."""
    hints = get_type_hints(TrainConfig)
    signature = inspect.signature(command)
    kept = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    added = [
        inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(one, hints[one.name])
        )
        for one in dataclasses.fields(TrainConfig)
        if one.name not in _NOT_OPTIONS
    ]
    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in kept]
    command.__signature__ = signature.replace(parameters=[*keyword, *added])  # type: ignore[attr-defined]
    command.__annotations__.update({one.name: one.annotation for one in added})
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, by the words of a recipe, lists taken apart.

    Raises:
        RecipeError: a list holds something that is not a number where it should.
    """
    hints = get_type_hints(TrainConfig)
    values = {}
    for name, value in options.items():
        if value is not None:
            hint = hints[name]
            is_list = get_origin(hint) is tuple
            values[word(name)] = _items(word(name), value, get_args(hint)[0]) if is_list else value
    return values


def _annotation(one: "dataclasses.Field[Any]", hint: Any) -> Any:
    kind = next((part for part in get_args(hint) if part is not type(None)), hint) if _optional(hint) else hint
    names = [f"--{word(one.name)}"]
    help, bounds = one.metadata["help"], {}
    if kind is int or kind is float:
        bounds = {key: one.metadata[key] for key in ("min", "max") if key in one.metadata}
    elif kind is bool:
        names = [f"--{word(one.name)}/--no-{word(one.name)}"]
    elif get_origin(kind) is tuple:
        kind = str  # Typer would have the option repeated for each item; its bounds can only be told
        help += f" Each {limits(one)}." if limits(one) else ""
    shown: Any = False
    if one.default not in (None, (), False, dataclasses.MISSING):
        shown = str(one.default)
    return Annotated[kind | None, typer.Option(*names, help=help, show_default=shown, **bounds)]


def _optional(hint: Any) -> bool:
    return type(None) in get_args(hint) and get_origin(hint) is not Literal


def _items(key: str, text: str, kind: type) -> list[Any]:
    """`512,256` as numbers; commas within brackets, as in `sgd(a=1,b=2)`, part nothing."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    try:
        return [kind(part.strip()) for part in parts if part.strip()]
    except ValueError:
        raise RecipeError(f"--{key} is a list such as 512,256; {text!r} is not.") from None
