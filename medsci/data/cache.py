"""Prepared arrays on disk: named by content and settings, written atomically, never trusted.

An entry is a .npy file followed by 16 bytes: a mark, the number of bytes before the footer and
their CRC-32. Its name is a hash of the source file's content and of everything that decides the
numbers, so a changed file or setting never meets an old entry. Length and header are checked when
an entry is looked up, the checksum when a process first reads it; what fails is built again.
Any number of processes may share a folder: each writes under a name of its own and renames.
"""

__all__ = ["CacheFolder", "content_hash"]

import contextlib
import hashlib
import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import final

import numpy as np

from medsci.data.wording import one_line
from medsci.errors import UsageError

_FOOTER = struct.Struct("<4sQI")
_MARK = b"mdc1"
_BLOCK = 1 << 22


@final
class CacheFolder:
    """A folder of prepared arrays.

    Args:
        folder: made if it is not there.
        settings: everything beside the file that decides the numbers; must be JSON.

    Raises:
        UsageError: the folder is a file or cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], *, settings: Mapping[str, object]) -> None:
        self.folder = Path(folder).expanduser()
        text = json.dumps(settings, sort_keys=True)
        self._settings = hashlib.sha256(text.encode()).hexdigest()[:16]
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"cache_dir {self.folder} is a file; give a folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cache_dir {self.folder} cannot be made ({error.strerror}); give another folder"
            ) from error
        self._verified: set[Path] = set()

    def entry(self, content: str) -> Path:
        """Return the file of the entry made from a file with this content hash."""
        return self.folder / f"{content}-{self._settings}.npy"

    def shape(self, entry: Path) -> tuple[int, ...] | None:
        """Return the shape of an entry by its header, or None if it is absent or damaged."""
        try:
            return self._map(entry).shape
        except (OSError, ValueError, EOFError):
            return None

    def open(self, entry: Path) -> np.ndarray | None:
        """Return an entry, memory-mapped and read-only, or None if it is absent or damaged."""
        try:
            array = self._map(entry)
            if entry not in self._verified:
                _verify(entry)
                self._verified.add(entry)
        except (OSError, ValueError, EOFError):
            return None
        return array

    def write(self, entry: Path, array: np.ndarray) -> None:
        """Write an entry under a temporary name and rename it.

        Raises:
            UsageError: the folder cannot be written, or is full.
        """
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            stream, np.lib.format.header_data_from_array_1_0(array)
        )
        head, body = stream.getvalue(), np.ascontiguousarray(array)
        check = zlib.crc32(body.data if body.size else b"", zlib.crc32(head))
        footer = _FOOTER.pack(_MARK, len(head) + body.nbytes, check)
        temporary = ""
        try:
            handle, temporary = tempfile.mkstemp(prefix=".partial-", dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(head)
                if body.size:
                    file.write(body.data)
                file.write(footer)
            Path(temporary).replace(entry)
        except OSError as error:
            raise UsageError(
                f"cache_dir {self.folder} cannot be written ({one_line(error.strerror)}); free "
                "space, or give another folder"
            ) from error
        finally:
            if temporary:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
        self._verified.discard(entry)

    def _map(self, entry: Path) -> np.ndarray:
        with entry.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError("another version of npy")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            size = os.fstat(file.fileno()).st_size
            n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
            file.seek(max(size - _FOOTER.size, 0))
            mark, length, _ = _FOOTER.unpack(file.read(_FOOTER.size).ljust(_FOOTER.size, b"\0"))
            whole = start + n_bytes
            if fortran or dtype.hasobject or mark != _MARK or length != whole:
                raise ValueError("not an entry of this cache")
            if size != whole + _FOOTER.size:
                raise ValueError("cut short")
            if n_bytes == 0:
                return np.zeros(shape, dtype)
            return np.memmap(file, dtype=dtype, mode="r", offset=start, shape=shape)


def _verify(entry: Path) -> None:
    check = 0
    left = entry.stat().st_size - _FOOTER.size
    with entry.open("rb") as file:
        while left > 0:
            block = file.read(min(_BLOCK, left))
            if not block:
                raise ValueError("cut short")
            check = zlib.crc32(block, check)
            left -= len(block)
        if _FOOTER.unpack(file.read(_FOOTER.size))[2] != check:
            raise ValueError("damaged")


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, and of its other half if it is an hdr/img pair."""
    parts = {path}
    if path.suffix.lower() in (".hdr", ".img"):
        parts |= {path.with_suffix(s) for s in (".hdr", ".img")}
    digest = hashlib.sha256(path.suffix.lower().encode())
    for part in sorted(p for p in parts if p.is_file()):
        with part.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]
