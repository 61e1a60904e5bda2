"""What a report is made of: key numbers, pictures, tables, paragraphs. Plain data, no layout."""

__all__ = ["Cell", "Column", "Figure", "KeyNumber", "Report", "Section", "Table", "format_number"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeGuard, final

from medsci.errors import InvalidInputError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MISSING = "–"

Cell = str | int | float | None


def format_number(value: Cell, *, decimals: int = 2) -> str:
    """Return the value as a reader expects it; text passes unchanged, `None` and NaN are a dash.

    Whole numbers keep all their digits. A number too small or too large for fixed decimals is
    written as a power of ten.
    """
    if value is None or isinstance(value, str):
        return _MISSING if value is None else value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value).replace("-", "−")
    if math.isnan(value):
        return _MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    vanishes = value != 0 and abs(value) < 0.5 * 10**-decimals
    text = f"{value:.{decimals}f}"
    if vanishes or abs(value) >= 1e7:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa} × 10^{int(exponent)}"
    return text.replace("-", "−")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KeyNumber:
    """One number of the summary.

    Args:
        label: what it is, in a few words.
        value: the number, or text.
        unit: its unit; empty for a pure number.
        decimals: digits after the point.
        note: one short line under it, e.g. what it is compared with.
    """

    label: str
    value: Cell
    unit: str = ""
    decimals: int = 2
    note: str = ""

    @property
    def text(self) -> str:
        """The value with its unit."""
        return " ".join(
            p for p in (format_number(self.value, decimals=self.decimals), self.unit) if p
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table.

    Args:
        title: its heading.
        unit: unit of every number in it, shown in the heading.
        decimals: digits after the point.
        best: which number is printed bold: the highest, the lowest, or none.
        is_text: set the column flush left.
    """

    title: str
    unit: str = ""
    decimals: int = 2
    best: Literal["highest", "lowest", "none"] = "none"
    is_text: bool = False

    @property
    def heading(self) -> str:
        """The title with its unit in brackets."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text and numbers under named columns.

    Raises:
        InvalidInputError: a row has not as many cells as there are columns.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise InvalidInputError(
                    f"table {self.title!r}: row {number} has {len(row)} cells for "
                    f"{len(self.columns)} columns; use None for a value that is missing"
                )

    def is_best(self, row: int, column: int) -> bool:
        """Tell whether this cell is the best number of a column that asks for one."""
        which = self.columns[column].best
        value = self.rows[row][column]
        numbers = [n for n in (r[column] for r in self.rows) if _is_number(n)]
        if which == "none" or len(numbers) < 2 or not _is_number(value):
            return False
        return value == (max(numbers) if which == "highest" else min(numbers))


def _is_number(cell: Cell) -> TypeGuard[float]:
    return isinstance(cell, int | float) and not math.isnan(cell)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture with what a reader who cannot see it needs to know.

    Args:
        title: heading of the picture.
        png: the picture's bytes.
        caption: printed below.
        alt: what is to be seen, in words, for screen readers.

    Raises:
        InvalidInputError: the bytes are no PNG, or `alt` is empty.
    """

    title: str
    png: bytes = field(repr=False)
    caption: str = ""
    alt: str

    def __post_init__(self) -> None:
        if not self.png.startswith(_PNG_SIGNATURE):
            raise InvalidInputError(
                f"figure {self.title!r} holds {len(self.png)} bytes that are no PNG; "
                "pass what three_planes, slice_mosaic or curve returned"
            )
        if not self.alt.strip():
            raise InvalidInputError(
                f"figure {self.title!r} has no alt text; say in one sentence what it shows"
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with paragraphs, then pictures, then tables."""

    title: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole report.

    Args:
        title: what was done.
        subtitle: to which data.
        summary: the numbers a reader wants first.
        sections: the rest, in reading order.
        warnings: what the reader must know before trusting anything; shown at the top.
        limits: one honest line about what the result must not be used for; shown at the top.
        provenance: what ran, on what, with what; nested mappings and lists of plain values.
    """

    title: str
    subtitle: str = ""
    summary: Sequence[KeyNumber] = ()
    sections: Sequence[Section] = ()
    warnings: Sequence[str] = ()
    limits: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict)
