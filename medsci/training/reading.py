"""Reading recipes: YAML, overrides, and errors of one line with the nearest right name."""

__all__ = ["export_schema", "load_recipe", "parse_recipe", "to_yaml"]

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from medsci.errors import InvalidInputError, UsageError
from medsci.training.recipe import TASKS, TrainRecipe

_DEFAULT_TASK = "prior"
_NAMED = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)*: ")


class _Loader(yaml.SafeLoader):
    """`yaml.safe_load` as of YAML 1.2: `1e-4` is a number, `on`, `off`, `yes`, `no` are words."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _load_yaml(text: str, *, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise InvalidInputError(f"{where} is no YAML{line}: {problem}") from error


def load_recipe(file: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> TrainRecipe:
    """Read a recipe and apply `key.key=value` overrides, in their order.

    Raises:
        InvalidInputError: the file is missing, no YAML, or not a recipe; one line that names the
            key and the nearest right one.
        UsageError: an override is not of the form `key=value` or names no key.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise InvalidInputError(f"{path} cannot be read: {reason}; give a recipe file") from error
    return parse_recipe(_load_yaml(text, where=str(path)), overrides=overrides, where=str(path))


def parse_recipe(
    content: Any, *, overrides: Sequence[str] = (), where: str = "recipe"
) -> TrainRecipe:
    """Turn plain data into a recipe; errors as `load_recipe`."""
    if not isinstance(content, Mapping):
        came = "nothing" if content is None else type(content).__name__
        raise InvalidInputError(f"{where} holds {came}; a recipe is a mapping of keys")
    merged = _plain(content)
    for override in overrides:
        _apply(merged, override)
    model = _model_of(merged, where=where)
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        details = error.errors(include_url=False)
        details.sort(key=lambda detail: detail["type"] != "extra_forbidden")  # the likely cause
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        line = _one_line(details[0], merged, model)
        raise InvalidInputError(f"{where}: {line}{more}") from error


def _model_of(content: Mapping[str, Any], *, where: str) -> type[TrainRecipe]:
    task = content.get("task", _DEFAULT_TASK)
    if task not in TASKS:
        near = difflib.get_close_matches(str(task), list(TASKS), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InvalidInputError(
            f"{where}: task: {task!r} came; {hint}choose from {', '.join(TASKS)}"
        )
    return TASKS[task]


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, list) else content


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"override {override!r} came; write --set key.key=value")
    level = content
    for part in parts[:-1]:
        below = level.setdefault(part, {})
        if not isinstance(below, dict):
            raise UsageError(f"override {override!r}: {part!r} holds no keys")
        level = below
    level[parts[-1]] = _load_yaml(text, where=f"override {override!r}")


def _one_line(detail: ErrorDetails, content: Mapping[str, Any], model: type[TrainRecipe]) -> str:
    absent = detail["type"] in ("extra_forbidden", "missing")  # the last part is a key, not a tag
    path = _dotted(detail["loc"], content, ends_in_key=absent)
    if detail["type"] == "extra_forbidden":
        known = _keys_at(path[:-1], content, model)
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"{'.'.join(path)}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{'.'.join(path)}: missing; add it"
    message = " ".join(detail["msg"].removeprefix("Value error, ").split())
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_kind(path, detail.get("ctx", {}).get("tag"), content, model)
    if _NAMED.match(message):  # two keys in conflict: the message names the place itself
        return message
    came = detail.get("input")
    shown = "" if isinstance(came, Mapping) else f"; {came!r} came"
    return f"{'.'.join(path) or 'recipe'}: {message[:1].lower()}{message[1:]}{shown}"


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
        if isinstance(level, Mapping) and part not in level and not is_key:
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


def to_yaml(recipe: TrainRecipe) -> str:
    """Return the resolved recipe as YAML; reading it back gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def export_schema() -> dict[str, Any]:
    """Return the JSON schema of all recipes, for editors that complete and check YAML."""
    every: Any = Union[tuple(TASKS.values())]  # noqa: UP007 - made of a table
    union: Any = TypeAdapter(every)
    schema: dict[str, Any] = union.json_schema()
    return schema
