"""Short words for error messages: one line, the nearest right name, checked choices and sizes."""

__all__ = ["check_choice", "check_fraction", "check_size", "nearest", "one_line"]

import difflib
import math
from collections.abc import Iterable, Sequence

from medsci.errors import UsageError


def one_line(text: object, *, limit: int = 300) -> str:
    """Return the text with every run of white space made one blank, cut at `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean X? there are A, B, C", or what there is if nothing is near."""
    names = list(dict.fromkeys(choices))
    lower = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    guess = f"did you mean {lower[close[0]]}? " if close else ""
    return f"{guess}there {'is' if len(names) == 1 else 'are'} {shown or 'none'}"


def check_choice(value: str, choices: Sequence[str], *, name: str) -> None:
    """Raise UsageError unless `value` is one of the choices."""
    if value not in choices:
        raise UsageError(f"{name} {value!r} is unknown; {nearest(str(value), choices)}")


def check_fraction(value: float | int, *, name: str) -> None:
    """Raise UsageError unless 0 <= value <= 1."""
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{name} is {value}; give a number from 0 to 1")


def check_size(
    size: Sequence[float | int], *, n_axes: tuple[int, ...], name: str, whole: bool = True
) -> None:
    """Raise UsageError unless the size has the right number of positive (whole) entries."""
    wanted = " or ".join(str(n) for n in n_axes)
    kind = "whole numbers" if whole else "numbers"
    fine = len(size) in n_axes and all(
        math.isfinite(n) and n > 0 and (not whole or n == int(n)) for n in size
    )
    if not fine:
        raise UsageError(f"{name} is {tuple(size)}; give {wanted} {kind} above zero")
