"""Where results go: refused early, written aside, and moved into place all together."""

__all__ = ["Existing", "check_outputs", "existing_file", "staged"]

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from medsci.errors import InvalidInputError, OutputExistsError, UsageError

Existing: TypeAlias = Literal["refuse", "overwrite", "skip"]
"""What to do about an output that is already there."""


def existing_file(path: str | Path) -> Path:
    """Give the path of an input, or say that no such file is there."""
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise InvalidInputError(f"the input {file} {what}; check its name")
    return file


def check_outputs(outputs: Sequence[Path], *, inputs: Sequence[Path], existing: Existing) -> bool:
    """Decide before the long work whether its results may be written.

    The last of `outputs` is the main one. It is moved into place after the others (see `staged`),
    so where it exists the case is complete: only then does `existing="skip"` skip.

    Returns:
        True to go on, False where a complete case is to be skipped.

    Raises:
        UsageError: two outputs share a name, or an output would replace an input.
        OutputExistsError: an output exists and `existing` is "refuse".
    """
    _reject_collisions(outputs, inputs)
    if existing == "skip" and outputs[-1].exists():
        return False
    there = [path for path in outputs if path.exists()]
    if there and existing == "refuse":
        names = ", ".join(str(path) for path in there)
        raise OutputExistsError(
            f"the output exists already: {names}; choose another name, or pass --overwrite "
            "to replace it or --skip-existing to leave finished cases alone"
        )
    for path in there:
        if path.is_dir():
            raise UsageError(f"the output {path} is a folder; name a file")
    return True


@contextmanager
def staged(outputs: Sequence[Path], *, overwrite: bool) -> Iterator[dict[Path, Path]]:
    """Write several files as one: yields where to write each, then moves all into place.

    The temporary files exist already, so write to them with `overwrite=True`. They take their final
    names, in the order given, only when the block ends without an error; an error or a kill before
    that leaves no result at all, and one in between leaves the main output, the last, missing.
    """
    from medsci.imaging import atomic_path

    with ExitStack() as stack:
        yield {
            path: stack.enter_context(atomic_path(path, overwrite=overwrite))
            for path in reversed(outputs)  # a stack unwinds backwards
        }


def _reject_collisions(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    read = {path.resolve() for path in inputs}
    written: set[Path] = set()
    for path in outputs:
        where = path.resolve()
        if where in read:
            raise UsageError(f"the output {path} would replace the input; choose another name")
        if where in written:
            raise UsageError(f"two outputs would be written to {path}; give each its own name")
        written.add(where)
