"""One HDF5 or npy file of ready samples, checked when it is opened."""

__all__ = ["PAIRED", "ArrayFile"]

import os
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from medsci.data.wording import nearest, one_line
from medsci.errors import InvalidInputError

_HDF5 = (".h5", ".hdf5", ".hdf")
PAIRED = "noise"


@final
class ArrayFile:
    """Samples, pairs and columns of one file.

    It is opened once per process, since HDF5 handles do not survive a fork.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._opened: tuple[int, Any] | None = None
        if not os.access(path, os.R_OK) or not path.is_file():
            raise InvalidInputError(f"{path} is not there or may not be read; check the path")
        self._is_npy = path.suffix.lower() == ".npy"
        if not self._is_npy and path.suffix.lower() not in _HDF5:
            raise InvalidInputError(f"{path} is no .h5, .hdf5 or .npy file; write it as one")
        datasets = self._datasets()
        if name not in datasets:
            raise InvalidInputError(f"{path} has no dataset {name!r}; {nearest(name, datasets)}")
        samples = datasets[name]
        self._check(samples)
        self.n, self.shape = int(samples.shape[0]), tuple(int(n) for n in samples.shape[1:])
        self.columns = sorted(
            key for key, d in datasets.items() if key != name and d.shape[:1] == (self.n,)
        )
        noise = datasets.get(PAIRED)
        if noise is not None and noise.shape != samples.shape:
            raise InvalidInputError(
                f"{path}: noise has shape {noise.shape} and {name} {samples.shape}; they are pairs "
                "and need the same shape"
            )
        if noise is not None:
            self._check(noise)
        for row in {0, self.n // 2, self.n - 1}:
            self.sample(name, row)
        self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _datasets(self) -> dict[str, Any]:
        """Return what is in the file by name, opened in this process."""
        if self._opened is not None and self._opened[0] == os.getpid():
            return self._opened[1]
        try:
            found = self._open()
        except (OSError, ValueError, EOFError, KeyError, RuntimeError) as error:
            objects = "allow_pickle" in str(error) or "object" in str(error).lower()
            raise InvalidInputError(
                f"{self.path} holds Python objects, which are never loaded; save plain numbers"
                if self._is_npy and objects
                else f"{self.path} cannot be read ({one_line(error)}); write it again"
            ) from error
        self._opened = (os.getpid(), found)
        return found

    def _open(self) -> dict[str, Any]:
        if self._is_npy:
            return {self.name: np.load(self.path, mmap_mode="r", allow_pickle=False)}
        import h5py

        file = h5py.File(self.path, "r")
        return {key: file[key] for key in file if isinstance(file.get(key), h5py.Dataset)}

    def _check(self, samples: Any) -> None:
        if samples.dtype.kind not in "fiu":
            raise InvalidInputError(
                f"{self.path}: {self.name} is of type {samples.dtype}; write real numbers "
                "(complex: real and imaginary part as two channels)"
            )
        if len(samples.shape) < 3 or 0 in samples.shape:
            raise InvalidInputError(
                f"{self.path}: {self.name} has shape {samples.shape}; (n, channels, *spatial) with "
                "at least one of each is needed"
            )

    def column(self, name: str) -> np.ndarray:
        """Return a condition whole, words as str."""
        dataset = self._datasets()[name]
        if dataset.dtype.kind in "OS":
            try:
                return np.asarray(dataset.asstr()[()], dtype=str)
            except (TypeError, UnicodeDecodeError) as error:
                raise InvalidInputError(
                    f"{self.path}: {name} is neither numbers nor UTF-8 words; write it again"
                ) from error
        if dataset.dtype.kind not in "fiub":
            raise InvalidInputError(
                f"{self.path}: condition {name!r} is of type {dataset.dtype}; write numbers or "
                "words"
            )
        return np.asarray(dataset[()])

    def sample(self, name: str, row: int) -> Tensor:
        """Return one row as float32."""
        try:
            values = np.asarray(self._datasets()[name][row], dtype=np.float32)
        except OSError as error:
            raise InvalidInputError(
                f"{self.path}: {name} row {row} cannot be read ({one_line(error)}); write it again"
            ) from error
        if not np.isfinite(values).all():
            raise InvalidInputError(
                f"{self.path}: {name} row {row} holds NaN or infinite values; mend or remove it"
            )
        return torch.from_numpy(values.copy())
