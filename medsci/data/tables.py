"""Lists of cases as CSV or TSV files, and their columns as conditions."""

__all__ = ["Row", "Table", "encode_conditions", "read_table"]

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from medsci.data.case import Case
from medsci.data.wording import nearest, one_line
from medsci.errors import InvalidInputError

_MISSING = {"", "n/a", "na", "nan", "none", "null"}
_RESERVED = {"x0", "noise", "x", "t"}


@final
@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        path: where it was read.
        columns: names in the first line.
        rows: line number and cells by column name.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]

    def require(self, column: str) -> None:
        """Raise InvalidInputError unless the table has the column."""
        if column not in self.columns:
            raise InvalidInputError(
                f"{self.path} has no column {column!r}; {nearest(column, self.columns)}"
            )


@final
@dataclass(frozen=True)
class Row:
    """One case before its words are numbered: `values` holds text by column name."""

    path: Path
    subject: str
    session: str = ""
    split: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


def read_table(path: Path) -> Table:
    """Read a table in UTF-8, separated by tabs (`.tsv`), commas, or semicolons.

    Raises:
        InvalidInputError: it cannot be read, is not UTF-8, is empty, names a column twice, or a
            line has more cells than the first.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as CSV UTF-8"
        ) from error
    except OSError as error:
        raise InvalidInputError(
            f"{path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    head = text.split("\n", 1)[0]
    semicolons = ";" in head and "," not in head
    mark = "\t" if path.suffix.lower() == ".tsv" else ";" if semicolons else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        lines = [(reader.line_num, [c.strip() for c in cells]) for cells in reader]
    except csv.Error as error:
        raise InvalidInputError(
            f"{path} line {reader.line_num}: {one_line(error)}; save it as plain CSV"
        ) from error
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise InvalidInputError(f"{path} is empty; its first line must name the columns")
    return _named(path, lines[0][1], lines[1:])


def _named(path: Path, columns: list[str], lines: list[tuple[int, list[str]]]) -> Table:
    while columns and not columns[-1]:
        columns = columns[:-1]
    if "" in columns:
        raise InvalidInputError(f"{path} has a column without a name; name every column")
    twice = sorted({c for c in columns if columns.count(c) > 1})
    if twice:
        raise InvalidInputError(f"{path} has column {twice[0]!r} twice; rename one of them")
    if not lines:
        raise InvalidInputError(f"{path} names columns and holds no row; add one row per image")
    rows = []
    for number, cells in lines:
        if any(cells[len(columns) :]):
            raise InvalidInputError(
                f"{path} line {number} has {len(cells)} cells and the first line {len(columns)}; "
                "put quotes around cells that hold the separator"
            )
        padded = cells + [""] * (len(columns) - len(cells))
        rows.append((number, dict(zip(columns, padded, strict=False))))
    return Table(path, tuple(columns), tuple(rows))


def encode_conditions(
    rows: Sequence[Row],
    names: Sequence[str],
    *,
    vocabulary: Mapping[str, Sequence[str]] | None = None,
    where: Path,
) -> tuple[list[Case], dict[str, tuple[str, ...]]]:
    """Turn columns into numbers: a column of numbers stays, words become sorted integer labels.

    Args:
        rows: the cases with their text.
        names: columns to use.
        vocabulary: labels of an earlier listing, kept; columns in it are words even if their
            cells look like numbers.
        where: file named in errors.

    Raises:
        InvalidInputError: a cell is empty, a name is reserved, or a word is not in `vocabulary`.
    """
    known = {name: tuple(words) for name, words in (vocabulary or {}).items()}
    words: dict[str, tuple[str, ...]] = {}
    columns: list[list[float] | list[int]] = []
    for name in names:
        if name in _RESERVED:
            raise InvalidInputError(f"{where}: a condition cannot be called {name!r}; rename it")
        cells = [row.values[name] for row in rows]
        for row, cell in zip(rows, cells, strict=True):
            if cell.lower() in _MISSING:
                raise InvalidInputError(
                    f"{where}: column {name!r} has no value for {row.path.name} (subject "
                    f"{row.subject}); fill it in, or leave the column out of `conditions`"
                )
        numbers = None if name in known else _numbers(cells)
        if numbers is not None:
            columns.append(numbers)
            continue
        words[name] = known.get(name, tuple(sorted(set(cells))))
        columns.append([_label(cell, words[name], f"{where}: column {name!r}") for cell in cells])
    cases = [
        Case(
            row.path,
            row.subject,
            row.session,
            {n: c[i] for n, c in zip(names, columns, strict=True)},
        )
        for i, row in enumerate(rows)
    ]
    return cases, words


def _numbers(cells: Sequence[str]) -> list[float] | None:
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    return numbers if all(math.isfinite(n) for n in numbers) else None


def _label(cell: str, words: tuple[str, ...], where: str) -> int:
    if cell not in words:
        raise InvalidInputError(
            f"{where} holds {cell!r}, unknown in training; {nearest(cell, words)}"
        )
    return words.index(cell)
