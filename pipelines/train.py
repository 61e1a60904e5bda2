"""Train a model from a recipe file."""

__all__ = ["packaged_recipe", "train_from_recipe"]

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsci.errors import InvalidInputError

if TYPE_CHECKING:
    from medsci.training.run import TrainResult


def packaged_recipe(recipe: str | os.PathLike[str]) -> Path:
    """Return a recipe file, or the packaged recipe of that name."""
    path = Path(recipe)
    packaged = Path(__file__).parent / "recipes"
    if path.exists() or path.name != str(recipe):
        return path
    named = packaged / f"{path.stem}.yaml"
    if named.is_file():
        return named
    names = ", ".join(sorted(file.stem for file in packaged.glob("*.yaml")))
    raise InvalidInputError(f"no recipe {str(recipe)!r}; give a file, or one of {names}")


def train_from_recipe(
    recipe: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    resume: str | os.PathLike[str] | Literal["auto"] | None = None,
    dry_run: bool = False,
    print_config: bool = False,
    device: str = "auto",
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> "TrainResult | str":
    """Read a recipe and train, or say what would be trained.

    Args:
        recipe: a YAML file, or the name of a packaged recipe.
        overrides: `key.key=value`, applied in order.
        resume: a checkpoint, a run folder, or `auto`.
        dry_run: build data and network, time three steps, write nothing and return what was found
            as text.
        print_config: return the resolved recipe as YAML and do nothing else.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        output: folder of the run, `runs/NAME` if absent.
        overwrite: replace a run that the output folder holds, unless it is resumed.
        quiet: show no progress.

    Raises:
        InvalidInputError, UsageError: as `medsci.training.load_recipe` and `train`.
        OutputExistsError: the output folder holds a run.
    """
    from medsci.training.reading import load_recipe, to_yaml

    resolved = load_recipe(packaged_recipe(recipe), overrides=overrides)
    if print_config:
        return to_yaml(resolved)
    if dry_run:
        from medsci.training.trial import try_out

        return try_out(resolved, device=device)
    from medsci.training.run import train

    result = train(
        resolved,
        output=output,
        device=device,
        resume=resume,
        existing="replace" if overwrite else "refuse",
        progress=not quiet,
    )
    if result.is_first_process and not quiet:
        sys.stderr.write(f"{result.steps} steps, {result.reason}; model in {result.model}\n")
    return result
