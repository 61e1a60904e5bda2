"""The prepared arrays of a list of cases, in memory or in a cache folder."""

__all__ = ["PreparedCases"]

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

import numpy as np

from medsci.data.cache import CacheFolder, content_hash
from medsci.data.case import Case, CaseList
from medsci.data.reading import UnreadableError
from medsci.data.wording import check_choice, one_line
from medsci.errors import InvalidInputError

_log = logging.getLogger(__name__)
_FORMAT = 1  # raise it when a preparation gives other numbers for the same settings


@final
class PreparedCases:
    """One array per readable case.

    Without a cache folder the arrays stay in memory; with one only their shapes do, and every
    `load` maps the entry anew, so that neither memory nor open files grow with the data.
    The numbers are the same either way.

    Args:
        cases: what to prepare.
        prepare: from path to array; raises UnreadableError for what cannot be used.
        settings: everything that decides the numbers of `prepare`.
        accept: looks at a shape and raises UnreadableError if it cannot be used.
        dtype: `float32`, or `float16` at half the space and three digits.
        cache_dir: folder of the prepared arrays.

    Attributes:
        cases: those that could be read, in order.
        shapes: of their arrays.
        skipped: the other files, with the reason.
    """

    def __init__(
        self,
        cases: CaseList,
        prepare: Callable[[Path], np.ndarray],
        *,
        settings: Mapping[str, object],
        accept: Callable[[tuple[int, ...]], None] = lambda shape: None,
        dtype: str = "float32",
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        check_choice(dtype, ("float32", "float16"), name="dtype")
        self._dtype = np.dtype(dtype)
        self._prepare = prepare
        full = {"format": _FORMAT, "dtype": dtype, **settings}
        self._cache = None if cache_dir is None else CacheFolder(cache_dir, settings=full)
        n = len(cases)
        # processes that start together begin at different cases and so share the work
        first = os.getpid() * 7919 % n if self._cache is not None and n else 0
        outcomes: dict[int, tuple[tuple[int, ...], np.ndarray | Path] | str] = {}
        for index in sorted(range(n), key=lambda i: (i - first) % n):
            try:
                outcomes[index] = self._made(cases.cases[index].path, accept)
            except UnreadableError as error:
                outcomes[index] = one_line(error)
        self.cases: list[Case] = []
        self.shapes: list[tuple[int, ...]] = []
        self.skipped: list[tuple[Path, str]] = []
        self._arrays: list[np.ndarray | Path] = []
        for index, case in enumerate(cases):
            outcome = outcomes[index]
            if isinstance(outcome, str):
                self.skipped.append((case.path, outcome))
                _log.warning("skipped %s: %s", case.path, outcome)
                continue
            self.cases.append(case)
            self.shapes.append(outcome[0])
            self._arrays.append(outcome[1])
        if self.skipped:
            _log.warning("%d of %d volumes skipped", len(self.skipped), n)

    def __len__(self) -> int:
        return len(self.cases)

    def load(self, index: int) -> np.ndarray:
        """Return the array of a case; from the cache it is memory-mapped and read-only.

        An entry that was removed or damaged while the run went on is built again.

        Raises:
            InvalidInputError: its file cannot be read any more.
        """
        kept = self._arrays[index]
        if isinstance(kept, np.ndarray):
            return kept
        cache = self._cache
        array = None if cache is None else cache.open(kept)
        if array is not None and array.shape == self.shapes[index] and array.dtype == self._dtype:
            return array
        path = self.cases[index].path
        try:
            array = self._built(path)
        except UnreadableError as error:
            raise InvalidInputError(
                f"{path} could be read when the run began and cannot now: {one_line(error)}; "
                "put it back"
            ) from error
        if array.shape != self.shapes[index]:
            raise InvalidInputError(f"{path} changed while the run went on; start it again")
        if cache is not None:
            cache.write(kept, array)
        return array

    def nothing(self, what: str, advice: str) -> InvalidInputError:
        """Return the error that says why nothing is left."""
        n = len(self.cases) + len(self.skipped)
        first = f"; first: {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
        return InvalidInputError(
            one_line(
                f"none of {n} volumes {what}, {len(self.skipped)} could not be read{first}; "
                f"{advice}",
                limit=1000,
            )
        )

    def _made(
        self, path: Path, accept: Callable[[tuple[int, ...]], None]
    ) -> tuple[tuple[int, ...], np.ndarray | Path]:
        if self._cache is None:
            array = self._built(path)
            accept(array.shape)
            return array.shape, array
        try:
            entry = self._cache.entry(content_hash(path))
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from error
        shape = self._cache.shape(entry)
        if shape is None:
            array = self._built(path)
            self._cache.write(entry, array)
            shape = array.shape
        accept(shape)
        return shape, entry

    def _built(self, path: Path) -> np.ndarray:
        array = self._prepare(path)
        if self._dtype == np.float16:
            limit = float(np.finfo(np.float16).max)
            array = np.clip(array, -limit, limit)
        return np.ascontiguousarray(array, dtype=self._dtype)
