"""What is wrong with a recipe, in one line: the path of the field, what came, the nearest name."""

__all__ = ["one_line"]

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from medsci.training.recipe import TASKS, TrainRecipe

_ABSENT = ("extra_forbidden", "missing")  # the last part of a location is a key, not a tag
_NAMED = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)*: ")
_NO_MAPPING = ("model_type", "model_attributes_type", "dict_type", "mapping_type")


def one_line(error: ValidationError, content: Mapping[str, Any], model: type[TrainRecipe]) -> str:
    """Return the first fault that pydantic found in `content`, and how many more there are."""
    details = error.errors(include_url=False)
    details.sort(key=lambda detail: detail["type"] != "extra_forbidden")  # the likely cause
    lines = [_one_line(detail, content, model) for detail in _by_place(details, content)]
    return lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")


def _by_place(details: Sequence[ErrorDetails], content: Any) -> list[ErrorDetails]:
    """Return one error per place: choices that are told apart by type alone fail one by one."""
    places: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in details:
        absent = detail["type"] in _ABSENT
        place = tuple(_dotted(detail["loc"], content, ends_in_key=absent))
        places.setdefault(place, []).append(detail)
    return [
        {**same[0], "msg": ", or ".join(dict.fromkeys(_lowered(each["msg"]) for each in same))}
        for same in places.values()
    ]


def _one_line(detail: ErrorDetails, content: Mapping[str, Any], model: type[TrainRecipe]) -> str:
    path = _dotted(detail["loc"], content, ends_in_key=detail["type"] in _ABSENT)
    if detail["type"] == "extra_forbidden":
        known = _keys_at(path[:-1], content, model)
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        tasks = [task for task, other in TASKS.items() if path[0] in other.model_fields]
        if len(path) == 1 and tasks:
            return f"{path[0]}: unknown key of this task; it belongs to task: {' or '.join(tasks)}"
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"{'.'.join(path)}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{'.'.join(path)}: missing; add it"
    message = " ".join(detail["msg"].removeprefix("value error, ").split())
    if detail["type"] in _NO_MAPPING:
        message = "a mapping of keys is needed"
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_kind(path, detail.get("ctx", {}).get("tag"), content, model)
    if _NAMED.match(message):  # two keys in conflict: the message names the place itself
        return message
    came = detail.get("input")
    shown = "" if isinstance(came, Mapping) else f"; {came!r} came"
    return f"{'.'.join(path) or 'recipe'}: {_lowered(message)}{shown}"


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]


def _wrong_kind(path: list[str], tag: str | None, content: Any, model: type[TrainRecipe]) -> str:
    choices = _choices_at(path, content, model)
    kinds = [str(choice.model_fields["kind"].default) for choice in choices]
    if tag is None:
        return f"{'.'.join(path)}.kind: missing; choose from {', '.join(kinds)}"
    near = difflib.get_close_matches(str(tag), kinds, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{'.'.join(path)}.kind: {tag!r} came; {hint}choose from {', '.join(kinds)}"


def _dotted(loc: Sequence[int | str], content: Any, *, ends_in_key: bool) -> list[str]:
    """Return the keys of an error location, without the tags of unions that pydantic adds."""
    path: list[str] = []
    level = content
    for index, part in enumerate(loc):
        is_key = ends_in_key and index == len(loc) - 1
        known = part in level if isinstance(level, Mapping) else isinstance(part, int)
        if not (known or is_key):
            continue  # a tag such as "simulated_heads"
        path.append(str(part))
        if isinstance(level, Mapping):
            level = level.get(str(part))
        elif isinstance(level, Sequence) and isinstance(part, int) and part < len(level):
            level = level[part]
    return path


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    return [model for argument in arguments for model in _models_in(argument)]


def _choices_at(path: Sequence[str], content: Any, model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the models that may stand at `path`, the one chosen by `kind` first."""
    choices: list[type[BaseModel]] = [model]
    for part in path:
        content = content.get(part, {}) if isinstance(content, Mapping) else {}
        kind = content.get("kind") if isinstance(content, Mapping) else None
        choices = _models_in(choices[0].model_fields[part].annotation)
        choices.sort(key=lambda choice, kind=kind: _kind_of(choice) != kind)  # type: ignore[misc]
    return choices


def _kind_of(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _keys_at(path: Sequence[str], content: Any, model: type[BaseModel]) -> list[str]:
    """Return the keys that a recipe may have at `path`."""
    return list(_choices_at(path, content, model)[0].model_fields)
