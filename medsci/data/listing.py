"""From what the user points at to an ordered list of cases, split by subject."""

__all__ = ["Files", "Split", "check_disjoint", "list_cases"]

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from medsci.data.bids import Bids, find_bids
from medsci.data.case import CaseList
from medsci.data.splitting import split_subjects
from medsci.data.tables import Row, Table, encode_conditions, read_table
from medsci.data.wording import check_choice, check_fraction, nearest
from medsci.errors import InvalidInputError, UsageError

Files: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | CaseList
Split: TypeAlias = Literal["all", "train", "validation"]

_SUFFIXES = (".nii", ".nii.gz")
_TABLES = (".csv", ".tsv")
_SUBJECT_COLUMNS = ("subject", "participant_id")
_NOT_CONDITIONS = ("image", "split", "session", *_SUBJECT_COLUMNS)


def list_cases(
    files: Files,
    *,
    bids: Bids | None = None,
    conditions: Sequence[str] | None = None,
    split: str = "all",
    validation_fraction: float | int = 0.0,
    split_seed: int = 0,
    vocabulary: Mapping[str, Sequence[str]] | None = None,
) -> CaseList:
    """List the images of a folder, a pattern, a list, a CSV or TSV table, or a BIDS tree.

    A table has a column `image` with paths relative to the table and, if wanted, `subject` (or
    `participant_id`), `session` and `split` (`train` or `validation`). Without a subject column
    or BIDS names (`sub-XX`), the subject is the first folder below the folder that was given, or
    the file's own name where it lies directly in it.

    The split by `validation_fraction` depends on each subject's name and `split_seed` only, so
    added subjects leave the others where they are; at least one subject goes to either side.

    Args:
        files: what to list; a `CaseList` comes back as it is.
        bids: take these images of a BIDS tree.
        conditions: columns to use. None: every further column of a table, none of a BIDS tree.
        split: `all`, `train` or `validation`.
        validation_fraction: share of subjects for validation if the table does not say.
        split_seed: another seed, another split.
        vocabulary: labels of the training list, so that validation numbers its words alike.

    Raises:
        InvalidInputError: nothing is there, or a table is wrong; one line says what.
        UsageError: the options contradict each other.
    """
    check_choice(split, ("all", "train", "validation"), name="split")
    check_fraction(validation_fraction, name="validation_fraction")
    if isinstance(files, CaseList):
        return files
    where, rows, names = _rows(files, bids, conditions)
    if len({_real(row.path) for row in rows}) < len(rows):
        raise InvalidInputError(f"{where} names {_twice(rows)} twice; keep one line per image")
    _check_sides(where, rows)
    # words are numbered over both sides, so that a label means the same in either
    cases, words = encode_conditions(rows, names, vocabulary=vocabulary, where=where)
    sides = _sides(where, rows, validation_fraction, split_seed)
    if split == "all":
        return CaseList(tuple(cases), words)
    if not sides:
        raise UsageError(
            f"split {split!r} of {where} was asked and nothing says how to split; set "
            "validation_fraction, or give a table with a column split"
        )
    kept = tuple(c for c, row in zip(cases, rows, strict=True) if sides[row.subject] == split)
    if not kept:
        raise InvalidInputError(f"{where} has no case for {split}; check its column split")
    return CaseList(kept, words)


def check_disjoint(train: CaseList, validation: CaseList) -> None:
    """Raise InvalidInputError if the two lists share a subject or a file."""
    files = {_real(case.path) for case in train}
    for case in validation:
        if _real(case.path) in files or case.subject in train.subjects:
            raise InvalidInputError(
                f"subject {case.subject} ({case.path}) is in the training and in the validation "
                "list; keep all images of a subject on one side"
            )


def _rows(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    bids: Bids | None,
    conditions: Sequence[str] | None,
) -> tuple[Path, list[Row], list[str]]:
    """Return where the cases come from, their rows, and the names of their conditions."""
    given = [files] if isinstance(files, str | os.PathLike) else list(files)
    paths = [Path(entry).expanduser() for entry in given]
    if bids is not None:
        if len(paths) != 1:
            raise UsageError(f"{len(paths)} places came; a BIDS tree is given by one folder")
        names = list(conditions or ())
        return paths[0], find_bids(paths[0], bids, conditions=names), names
    tables = [p for p in paths if p.name.lower().endswith(_TABLES)]
    if tables:
        if len(paths) > 1:
            raise UsageError(f"{tables[0]} came with {len(paths) - 1} more; give one table alone")
        table = read_table(tables[0])
        return table.path, *_table_rows(table, conditions)
    if conditions:
        raise UsageError(
            f"conditions {', '.join(conditions)} need a CSV or TSV table, or a BIDS tree with "
            "participants.tsv; a folder or pattern has none"
        )
    return paths[0] if paths else Path(), _find(paths), []


def _table_rows(table: Table, conditions: Sequence[str] | None) -> tuple[list[Row], list[str]]:
    names = [c for c in table.columns if c not in _NOT_CONDITIONS]
    names = names if conditions is None else list(conditions)
    for column in ("image", *names):
        table.require(column)
    subject_column = next((c for c in _SUBJECT_COLUMNS if c in table.columns), None)
    folder = table.path.parent
    rows, absent = [], []
    for number, cells in table.rows:
        if not cells["image"]:
            raise InvalidInputError(f"{table.path} line {number} names no image; fill it in")
        path = folder / Path(cells["image"]).expanduser()
        if not _is_file(path):
            absent.append(cells["image"])
        side = cells.get("split", "")
        if "split" in table.columns and side not in ("train", "validation"):
            raise InvalidInputError(
                f"{table.path} line {number} has split {side!r}; "
                f"{nearest(side, ('train', 'validation'))}"
            )
        subject = cells[subject_column] if subject_column else _subject(path, folder)
        if not subject:
            raise InvalidInputError(f"{table.path} line {number} names no subject; fill it in")
        rows.append(Row(path, subject, cells.get("session", ""), side, cells))
    if absent:
        raise InvalidInputError(
            f"{table.path}: {len(absent)} of {len(rows)} images do not exist, first {absent[0]}; "
            f"paths are relative to {folder}"
        )
    return rows, names


def _find(paths: Sequence[Path]) -> list[Row]:
    found: dict[Path, str] = {}
    for path in paths:
        if path.is_dir():
            below = [f for f in path.rglob("*") if f.name.lower().endswith(_SUFFIXES)]
            found |= {f: _subject(f, path) for f in below if _is_file(f)}
            continue
        matches = [path] if _is_file(path) else [Path(m) for m in _glob(path)]
        matches = [m for m in matches if _is_file(m)]
        # the files of one pattern, or all files of a list, share the folder they hang below
        pool = matches if len(matches) != 1 else [p for p in paths if _is_file(p)] or matches
        root = Path(os.path.commonpath([m.absolute().parent for m in pool])) if pool else path
        found |= {m: _subject(m, root) for m in matches}
    if not found:
        raise InvalidInputError(
            f"no NIfTI file at {', '.join(str(path) for path in paths) or 'an empty list'}; give "
            "a folder, a glob pattern or a list of .nii or .nii.gz files"
        )
    unique: dict[Path, Row] = {}
    for path in sorted(found):
        unique.setdefault(_real(path), Row(path, found[path]))
    return list(unique.values())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def _glob(path: Path) -> list[str]:
    return glob.glob(str(path), recursive=True)  # noqa: PTH207 - absolute patterns


def _subject(path: Path, root: Path) -> str:
    """Return the name after `sub-`, else the first folder below root, else the file's stem."""
    absolute, top = path.absolute(), root.absolute()
    inside = absolute.relative_to(top).parts if absolute.is_relative_to(top) else (path.name,)
    for part in inside:
        if part.startswith("sub-"):
            return part.removeprefix("sub-").split("_")[0].split(".")[0]
    name = inside[0]
    for suffix in reversed(_SUFFIXES):
        name = name[: -len(suffix)] if len(inside) == 1 and name.lower().endswith(suffix) else name
    return name


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _twice(rows: Sequence[Row]) -> str:
    seen: set[Path] = set()
    for row in rows:
        if _real(row.path) in seen:
            return row.path.name
        seen.add(_real(row.path))
    return ""


def _check_sides(where: Path, rows: Sequence[Row]) -> None:
    side: dict[str, str] = {}
    for row in rows:
        if side.setdefault(row.subject, row.split) != row.split:
            raise InvalidInputError(
                f"{where} has subject {row.subject} in train and in validation; keep all images "
                "of a subject on one side"
            )


def _sides(where: Path, rows: Sequence[Row], fraction: float | int, seed: int) -> dict[str, str]:
    """Return the side of each subject, or nothing if neither a column nor a fraction says."""
    if any(row.split for row in rows):
        if fraction > 0.0:
            raise UsageError(
                f"{where} has a column split and validation_fraction {fraction} came; use one"
            )
        return {row.subject: row.split for row in rows}
    if fraction <= 0.0:
        return {}
    return split_subjects({row.subject for row in rows}, fraction=fraction, seed=seed, where=where)
