"""Reading recipes: YAML, overrides, and errors of one line with the nearest right name."""

__all__ = ["export_schema", "load_recipe", "parse_recipe", "to_yaml"]

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import yaml
from pydantic import TypeAdapter, ValidationError

from medsci.errors import InvalidInputError, UsageError
from medsci.training.complaint import one_line
from medsci.training.recipe import TASKS, TrainRecipe

_DEFAULT_TASK = "prior"
_LONGEST = 80  # characters of an override that a message repeats


class _Loader(yaml.SafeLoader):
    """`yaml.safe_load` as of YAML 1.2: `1e-4` is a number, `on`, `off`, `yes`, `no` are words.

    A key that comes twice is an error, where `yaml.safe_load` takes the last one silently.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the next mapping, whose keys are all different, before aliases are merged."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(
                        problem=f"the key {key.value} comes twice; keep one",
                        problem_mark=key.start_mark,
                    )
                seen.add((key.tag, key.value))
        return node


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
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise InvalidInputError(f"{where} is no YAML{line}: {problem}") from error
    except (ValueError, RecursionError) as error:  # a date such as 2026-13-45, endless nesting
        raise InvalidInputError(f"{where} is no YAML that a recipe is made of: {error}") from error


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
    try:
        merged = _plain(content)
    except RecursionError as error:
        raise InvalidInputError(f"{where} holds itself by an alias; write it out") from error
    for override in overrides:
        _apply(merged, override)
    model = _model_of(merged, where=where)
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        line = one_line(error, merged, model)
        raise InvalidInputError(f"{where}: {line}") from error


def _model_of(content: Mapping[str, Any], *, where: str) -> type[TrainRecipe]:
    task = content.get("task", _DEFAULT_TASK)
    if not isinstance(task, str) or task not in TASKS:
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
    override = override if len(override) < _LONGEST else f"{override[:_LONGEST]}..."
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


def to_yaml(recipe: TrainRecipe) -> str:
    """Return the resolved recipe as YAML; reading it back gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def export_schema() -> dict[str, Any]:
    """Return the JSON schema of all recipes, for editors that complete and check YAML."""
    every: Any = Union[tuple(TASKS.values())]  # noqa: UP007 - made of a table
    union: Any = TypeAdapter(every)
    schema: dict[str, Any] = union.json_schema()
    return schema
