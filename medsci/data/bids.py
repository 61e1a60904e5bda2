"""Cases of a tree named after BIDS: `sub-XX[/ses-YY]/anat/sub-XX[_ses-YY]_T1w.nii.gz`.

Source: Gorgolewski et al. 2016, doi:10.1038/sdata.2016.44.
"""

__all__ = ["Bids", "find_bids"]

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from medsci.data.tables import Row, read_table
from medsci.data.wording import nearest
from medsci.errors import InvalidInputError, UsageError

_FILE = re.compile(r"sub-(?P<subject>[^_]+)(?:_.+)?_(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?")


@final
@dataclass(frozen=True)
class Bids:
    """Which images of a BIDS-like tree to take.

    Attributes:
        suffix: the last part of the file name, as `T1w`.
        datatype: the folder, as `anat`; any if None.
        sessions: with or without `ses-`; all if empty.
        subjects: with or without `sub-`; all if empty.
    """

    suffix: str
    datatype: str | None = None
    sessions: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class _Entry:
    path: Path
    subject: str
    session: str
    datatype: str
    suffix: str


def find_bids(root: Path, choice: Bids, *, conditions: Sequence[str] = ()) -> list[Row]:
    """Return the chosen images in order of their path, with columns of `participants.tsv`.

    Raises:
        UsageError: `root` is no folder.
        InvalidInputError: nothing is named after BIDS, a chosen suffix, datatype, session or
            subject is not there, or `participants.tsv` lacks a column or a subject.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder; a BIDS tree is given by its top folder")
    entries = _entries(root)
    if not entries:
        raise InvalidInputError(
            f"{root} holds no file named sub-XX[_ses-YY]_SUFFIX.nii.gz below a folder sub-XX; "
            "give the top folder of the tree, or leave out the BIDS suffix"
        )
    wanted: list[tuple[str, tuple[str, ...]]] = [
        ("subject", tuple(s.removeprefix("sub-") for s in choice.subjects)),
        ("session", tuple(s.removeprefix("ses-") for s in choice.sessions)),
        ("datatype", (choice.datatype,) if choice.datatype else ()),
        ("suffix", (choice.suffix,)),
    ]
    for what, names in wanted:
        if names:
            entries = _chosen(root, entries, what, names)
    values = _participants(root, entries, conditions) if conditions else {}
    return [Row(e.path, e.subject, e.session, values=values.get(e.subject, {})) for e in entries]


def _entries(root: Path) -> list[_Entry]:
    found = []
    for path in sorted(root.glob("sub-*/**/*")):
        match = _FILE.fullmatch(path.name)
        folders = path.relative_to(root).parts[:-1]
        if match is None or folders[0] != f"sub-{match['subject']}" or not path.is_file():
            continue
        session = next((f.removeprefix("ses-") for f in folders if f.startswith("ses-")), "")
        datatype = folders[-1] if not folders[-1].startswith(("sub-", "ses-")) else ""
        found.append(_Entry(path, match["subject"], session, datatype, match["suffix"]))
    return found


def _chosen(root: Path, entries: list[_Entry], what: str, names: tuple[str, ...]) -> list[_Entry]:
    there = sorted({getattr(e, what) for e in entries} - {""})
    for name in names:
        if name not in there:
            raise InvalidInputError(f"{root} has no {what} {name!r}; {nearest(name, there)}")
    return [e for e in entries if getattr(e, what) in names]


def _participants(
    root: Path, entries: list[_Entry], conditions: Sequence[str]
) -> dict[str, dict[str, str]]:
    table = read_table(root / "participants.tsv")
    for column in ("participant_id", *conditions):
        table.require(column)
    values: dict[str, dict[str, str]] = {}
    for number, cells in table.rows:
        subject = cells["participant_id"].removeprefix("sub-")
        if subject in values:
            raise InvalidInputError(
                f"{table.path} line {number} names sub-{subject} again; keep one line per subject"
            )
        values[subject] = {name: cells[name] for name in conditions}
    for entry in entries:
        if entry.subject not in values:
            raise InvalidInputError(
                f"{table.path} has no line for sub-{entry.subject}; add it, or choose `subjects`"
            )
    return values
