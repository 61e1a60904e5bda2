"""Write a file whole or not at all.

Content goes to a hidden temporary name in the final folder, is flushed to disk, and takes the final
name in one step of the file system. A reader, or a killed process, therefore sees the old file, no
file, or the complete new file, and never a part.
"""

__all__ = ["atomic_path", "write_json", "write_text"]

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medsci.errors import InvalidInputError, OutputExistsError, UsageError


@contextmanager
def atomic_path(final: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path that becomes `final` when the block ends without an exception.

    The temporary file exists (empty) from the start and ends with the final name, so writers that
    look at the suffix behave; it is removed on any exception. Missing parent folders are made. A
    symbolic link at `final` is replaced, its target is left alone.

    Args:
        final: the name the file shall have.
        overwrite: replace a file that is there; otherwise it is refused, at the start and, against
            a second process, again at the end.

    Raises:
        OutputExistsError: `final` exists and `overwrite` is False; nothing has changed.
        UsageError: `final` is a folder, or its folder cannot be written to.
    """
    final = Path(final)
    _refuse(final, overwrite=overwrite)
    temporary = _reserve(final)
    try:
        yield temporary
        _flush(temporary)
        _publish(temporary, final, overwrite=overwrite)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(final.parent)


def write_text(path: str | Path, text: str, *, overwrite: bool = False) -> Path:
    """Write UTF-8 text with `\\n` line ends, atomically, and return the path."""
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path: str | Path, content: Any, *, overwrite: bool = False) -> Path:
    """Write JSON atomically and return the path; keys keep their order, equal content equal bytes.

    NumPy scalars and arrays become numbers and lists. Paths, NaN and infinity are refused: the
    first would put a user's folders into a file, the others are not JSON.

    Raises:
        InvalidInputError: `content` holds something that JSON cannot say.
        OutputExistsError: the file exists and `overwrite` is False.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"cannot write {Path(path).name}: {error}; give numbers, text, lists and dictionaries, "
            "and null instead of NaN"
        ) from error
    return write_text(path, text + "\n", overwrite=overwrite)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _refuse(final: Path, *, overwrite: bool) -> None:
    if final.is_dir():
        raise UsageError(f"{final} is a folder; name a file in it")
    if not overwrite and os.path.lexists(final):
        raise _exists(final)


def _exists(final: Path) -> OutputExistsError:
    return OutputExistsError(
        f"{final} exists and was left as it is; ask to overwrite it, or name another output"
    )


def _reserve(final: Path) -> Path:
    """Create the temporary file with the permissions that an ordinary new file would get."""
    temporary = final.with_name(f".tmp-{secrets.token_hex(6)}-{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise UsageError(
            f"cannot write {final}: {error.strerror}; choose a folder that you may write to"
        ) from error
    return temporary


def _flush(path: Path) -> None:
    """Ask the system to put a file, or a folder's list of names, on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder cannot be opened on some systems; the rename itself is still atomic
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(descriptor)


def _publish(temporary: Path, final: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(final)
        return
    try:
        os.link(temporary, final)  # unlike a rename, a link never replaces what is there
    except FileExistsError as error:
        raise _exists(final) from error
    except OSError:  # no hard links on this file system
        _refuse(final, overwrite=False)
        temporary.replace(final)
