"""Pairs of noise and the samples a model makes of it, kept as HDF5: `medsci models pairs`.

Layout, format version 1:

    attributes    medsci_format = "pairs", format_version, model (name), sha256 (of its weights),
                  seed, steps (network evaluations), solver, guidance (1 is none)
    x0            (n, c, *spatial) float16 or float32, the end of the walk
    noise         the same shape, of unit law; the walk began at sigma(1) noise
    cond/NAME     (n, ...) integers or floats, the condition each pair was made with

One item is one chunk, so that an item is one read wherever it lies. Noise does not compress, so
nothing is compressed. Files hold no time, host, user or folder: equal content gives equal bytes.
"""

__all__ = ["FORMAT_VERSION", "PairFile", "PairInfo", "write_pair_file"]

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.atomic import atomic_path

FORMAT_VERSION = 1
PairDtype: TypeAlias = Literal["float16", "float32"]
AddPairs: TypeAlias = Callable[[Tensor, Tensor, Mapping[str, Tensor]], None]
_SUFFIXES = (".h5", ".hdf5")
_TAKEN = ("x0", "noise")


@final
@dataclass(frozen=True)
class PairInfo:
    """Where pairs come from.

    Args:
        model: name of the model that made them.
        sha256: of its weights.
        seed: of the noise; the pair number is the sample id.
        steps: network evaluations of a walk.
        solver: in words.
        guidance: scale of the guidance, 1 for none.
    """

    model: str
    sha256: str
    seed: int
    steps: int
    solver: str
    guidance: float = 1.0


@contextmanager
def write_pair_file(
    path: str | Path,
    *,
    n_items: int,
    info: PairInfo,
    dtype: PairDtype = "float16",
    overwrite: bool = False,
) -> Iterator[AddPairs]:
    """Write a file of pairs batch by batch: `with write_pair_file(...) as add: add(x0, z, cond)`.

    The file appears whole when the block ends, and not at all if it ends early.

    Args:
        path: ends in `.h5` or `.hdf5`.
        n_items: pairs that will come in all.
        info: where they come from.
        dtype: of `x0` and `noise` on disk.
        overwrite: replace a file that is there.

    Raises:
        OutputExistsError: the file exists and `overwrite` is False.
        UsageError: the suffix is another, or another number of pairs came than was announced.
        InvalidInputError: a batch does not fit the one before, or is not finite in `dtype`.
    """
    import h5py

    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"cannot write {path.name}: its name must end in .h5 or .hdf5")
    if n_items < 1:
        raise UsageError(f"{n_items} pairs were announced; write one or more")
    with atomic_path(path, overwrite=overwrite) as temporary, h5py.File(temporary, "w") as file:
        kind = {"medsci_format": "pairs", "format_version": FORMAT_VERSION}
        file.attrs.update(kind | asdict(info))
        writer = _Writer(file, n_items, dtype)
        yield writer.add
        if writer.done != n_items:
            raise UsageError(
                f"{writer.done} pairs came and {n_items} were announced; no file was written"
            )


class _Writer:
    """Datasets of an open file, filled from the front."""

    def __init__(self, file: Any, n_items: int, dtype: PairDtype) -> None:
        self.file, self.n_items, self.dtype, self.done = file, n_items, dtype, 0

    def add(self, x0: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> None:
        """Append pairs with their conditions."""
        rows = {"x0": self._rounded(x0, "x0"), "noise": self._rounded(noise, "noise")}
        for name, given in cond.items():
            if name in _TAKEN:
                raise InvalidInputError(f"a condition is called {name!r}; give it another name")
            rows[f"cond/{name}"] = np.asarray(given.detach().cpu().numpy())
        stop = self.done + len(x0)
        if stop > self.n_items:
            raise UsageError(f"{stop} pairs came and {self.n_items} were announced")
        if self.done == 0:
            for name, value in rows.items():
                shape = (self.n_items, *value.shape[1:])
                short = value.size <= len(value)  # a label takes a few bytes: many to a chunk
                chunk = (min(self.n_items, 4096) if short else 1, *value.shape[1:])
                self.file.create_dataset(
                    name, shape, dtype=value.dtype, chunks=chunk, track_times=False
                )
        for name, value in rows.items():
            known = self.file.get(name)
            if known is None or value.shape != (len(x0), *known.shape[1:]):
                expected = "none before" if known is None else f"rows of {known.shape[1:]}"
                raise InvalidInputError(
                    f"{name} came as {value.shape} for {len(x0)} pairs with {expected}; "
                    "give batches of one shape"
                )
            known[self.done : stop] = value
        self.done = stop

    def _rounded(self, x: Tensor, name: str) -> np.ndarray:
        stored = x.detach().to("cpu", torch.float16 if self.dtype == "float16" else torch.float32)
        if not bool(stored.isfinite().all()):
            raise InvalidInputError(
                f"{name} is not finite as {self.dtype}; store float32, or use a model that works"
            )
        return np.asarray(stored.numpy())


@final
class PairFile:
    """Pairs of a file as training data: `draw(i, seed) -> {"x0": ..., "noise": ..., **cond}`.

    The file is opened by every process for itself, when it first draws, so loader processes may be
    forked or spawned. What is drawn depends on the item alone, as a pair has no augmentation.

    Args:
        path: of the file.

    Raises:
        InvalidInputError: the file is missing, empty, cut short, not HDF5, of another kind or
            version, or its parts are missing or do not fit each other.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._handle: tuple[int, Any] | None = None
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise InvalidInputError(f"{self.path} {what}; give a file of 'medsci models pairs'")
        if self.path.stat().st_size == 0:
            raise InvalidInputError(f"{self.path} is empty (0 bytes); copy or make it again")
        with self._guarded():
            import h5py

            with h5py.File(self.path, "r") as file:
                self.info = _info(file.attrs)
                self.shape = _check_arrays(file)
                self.conditions = tuple(sorted(file["cond"])) if "cond" in file else ()

    @property
    def n_items(self) -> int:
        """Return the number of pairs."""
        return self.shape[0]

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample, `(c, *spatial)`."""
        return self.shape[1:]

    def draw(self, item: int, seed: int) -> dict[str, Tensor]:
        """Return a pair in float32 and its conditions; `seed` changes nothing.

        Raises:
            InvalidInputError: there is no such item, or its part of the file cannot be read or
                holds what is not finite.
        """
        if not 0 <= item < self.n_items:
            raise InvalidInputError(
                f"item {item} was asked of {self.path} with {self.n_items} pairs"
            )
        with self._guarded():
            file = self._open()
            found = {name: torch.from_numpy(file[name][item].astype("f4")) for name in _TAKEN}
            for name in self.conditions:
                value = np.asarray(file["cond"][name][item])
                kind = "f4" if value.dtype.kind == "f" else "i8"
                found[name] = torch.from_numpy(np.asarray(value.astype(kind)))
        broken = [name for name, value in found.items() if not bool(value.isfinite().all())]
        if broken:
            raise InvalidInputError(
                f"{self.path}: {' and '.join(broken)} of item {item} holds NaN or infinity; "
                "make the pairs again"
            )
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind when sent to another process."""
        return self.__dict__ | {"_handle": None}

    def _open(self) -> Any:
        import h5py

        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), h5py.File(self.path, "r"))
        return self._handle[1]

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn what the HDF5 library raises into one message with the name of the file."""
        try:
            yield
        except InvalidInputError as error:
            if str(self.path) in str(error):
                raise
            raise InvalidInputError(f"{self.path}: {error}") from error
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InvalidInputError(
                f"{self.path} is cut short, damaged or not HDF5 ({reason}); copy or make it again"
            ) from error


def _info(attrs: Any) -> PairInfo:
    kind, version = attrs.get("medsci_format"), attrs.get("format_version")
    if kind != "pairs":
        raise InvalidInputError(
            f"this is {'no medsci file' if kind is None else f'a medsci {kind!s} file'}, not "
            "pairs; make pairs with 'medsci models pairs'"
        )
    if version != FORMAT_VERSION:
        raise InvalidInputError(
            f"format_version is {version}, this medsci reads {FORMAT_VERSION}; update medsci, or "
            "make the pairs again with this version"
        )
    try:
        return PairInfo(
            model=str(attrs["model"]),
            sha256=str(attrs["sha256"]),
            seed=int(attrs["seed"]),
            steps=int(attrs["steps"]),
            solver=str(attrs["solver"]),
            guidance=float(attrs["guidance"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"a root attribute is missing or of the wrong type ({error}); make the pairs again"
        ) from error


def _check_arrays(file: Any) -> tuple[int, ...]:
    """Return the shape of `x0`, after all parts were found and fit each other."""
    import h5py

    missing = [name for name in _TAKEN if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise InvalidInputError(
            f"dataset {' and '.join(missing)} is missing; the file has {sorted(file) or 'nothing'}"
        )
    x0, noise = file["x0"], file["noise"]
    if x0.shape != noise.shape or x0.ndim < 2 or min(x0.shape) < 1:
        raise InvalidInputError(
            f"x0 has shape {x0.shape} and noise {noise.shape}; both must be (pairs, channels, ...) "
            "and equal"
        )
    for name in _TAKEN:
        if file[name].dtype.kind != "f":
            raise InvalidInputError(f"{name} has type {file[name].dtype}; it must be real floats")
    cond = file.get("cond", {})
    if not isinstance(cond, h5py.Group | dict):
        raise InvalidInputError("cond is a dataset; it must be a group of datasets")
    for name in cond:
        part = cond[name]
        wrong = not isinstance(part, h5py.Dataset) or part.ndim < 1 or part.dtype.kind not in "iuf"
        if wrong or name in _TAKEN or len(part) != len(x0):
            raise InvalidInputError(
                f"cond/{name} is no list of numbers with one entry for each of {len(x0)} pairs"
            )
    return tuple(int(n) for n in x0.shape)
