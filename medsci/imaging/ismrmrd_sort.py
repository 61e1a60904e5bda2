"""Readouts of an ISMRMRD file, one after the other, become k-space on the encoded grid.

Which lines count: noise scans (flag 19), navigators (23), phase correction (24), feedback, dummy
and calibration scans of their own (26 to 31) do not; lines acquired for calibration only (20) count
where the header says that they lie on the imaging grid (`embedded` or `interleaved`, or nothing).
Flags are numbered from 1. Lines read backwards (22) are turned round, lines read more than once are
averaged, and each sample lands where its counter and the centre of k-space put it: zero frequency
at `n // 2`. What partial Fourier or an asymmetric echo leaves out stays zero.

A counter that takes several values (contrast, repetition, phase, set; slabs of a 3D scan) must be
chosen, because one reconstruction is one image.

Source: Inati et al. 2017, doi:10.1002/mrm.26089.
"""

__all__ = ["COUNTERS", "Grid", "Readouts", "flagged", "imaging_readouts", "sort_readouts"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Shaped

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.ismrmrd_xml import Encoding

COUNTERS = ("contrast", "repetition", "phase", "set", "slice")
REVERSE = 22
_NO_IMAGE = (19, 23, 24, 26, 27, 28, 29, 30, 31)
_OWN_CALIBRATION = ("separate", "external", "other")


@final
@dataclass(frozen=True, eq=False)
class Readouts:
    """Headers (a structured array) and, for each, samples of shape (n_coils, n_samples)."""

    heads: Shaped[np.ndarray, " n"]
    samples: list[Shaped[np.ndarray, "..."]]

    def where(self, keep: Shaped[np.ndarray, " n"]) -> "Readouts":
        """Return those that the mask keeps."""
        kept = [part for part, one in zip(self.samples, keep, strict=True) if one]
        return Readouts(self.heads[keep], kept)

    def __len__(self) -> int:
        return len(self.samples)


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """Sorted k-space.

    Attributes:
        data: complex64 (n_slices, n_coils, n_readout, n_phase, n_partitions), zero where nothing
            was acquired.
        count: (n_slices, n_phase, n_partitions), how often each line was read.
        first: for each slice, the header of its first readout.
    """

    data: Shaped[np.ndarray, "s c x y z"]
    count: Shaped[np.ndarray, "s y z"]
    first: Shaped[np.ndarray, " s"]


def flagged(heads: Shaped[np.ndarray, " n"], *bits: int) -> Shaped[np.ndarray, " n"]:
    """Say which headers carry any of the flags, numbered from 1 as in the standard."""
    mask = np.uint64(sum(1 << (bit - 1) for bit in bits))
    return (heads["flags"].astype(np.uint64) & mask) != 0


def imaging_readouts(
    readouts: Readouts, encoding: Encoding, *, select: Mapping[str, int]
) -> Readouts:
    """Keep the lines of one image.

    Raises:
        InvalidInputError: there are none, or several images and none was chosen.
        UsageError: the choice names no counter, or a value that is not there.
    """
    keep = ~flagged(readouts.heads, *_NO_IMAGE) & (readouts.heads["encoding_space_ref"] == 0)
    if encoding.calibration in _OWN_CALIBRATION:
        keep &= ~(flagged(readouts.heads, 20) & ~flagged(readouts.heads, 21))
    kept = readouts.where(keep)
    if not len(kept):
        raise InvalidInputError(
            f"none of the {len(readouts)} readouts in this ISMRMRD file is an imaging line (all "
            "are noise, navigator, correction or calibration scans); give the file of the scan"
        )
    unknown = sorted(set(select) - set(COUNTERS))
    if unknown:
        raise UsageError(f"select names {unknown}; choose among {', '.join(COUNTERS)}")
    for name in COUNTERS:
        kept = _chosen(kept, name, select.get(name))
    return kept


def _chosen(readouts: Readouts, name: str, value: int | None) -> Readouts:
    there = np.unique(readouts.heads["idx"][name])
    partitions = np.unique(readouts.heads["idx"]["kspace_encode_step_2"])
    if value is not None and value not in there:
        raise UsageError(f"there is no {name} {value}; this file has {_listed(there)}")
    if value is None and len(there) > 1 and (name != "slice" or len(partitions) > 1):
        raise InvalidInputError(
            f"this ISMRMRD file has several images: {name} {_listed(there)}; choose one with "
            f"select={{'{name}': {there[0]}}}"
        )
    return readouts if value is None else readouts.where(readouts.heads["idx"][name] == value)


def _listed(values: Shaped[np.ndarray, " n"]) -> str:
    return ", ".join(str(value) for value in values[:12]) + (" ..." if len(values) > 12 else "")


def sort_readouts(readouts: Readouts, encoding: Encoding) -> Grid:
    """Put every sample where it belongs, averaging what was read more than once.

    Raises:
        InvalidInputError: lines differ in coils or do not fit into the encoded matrix.
    """
    n_x, n_y, n_z = (int(n) for n in encoding.encoded.matrix)
    centre_y, centre_z = encoding.centre
    if not readouts.heads["idx"]["kspace_encode_step_2"].any():
        n_z, centre_z = 1, 0  # 2D, though some converters give the number of slices as matrix
    slices = np.unique(readouts.heads["idx"]["slice"])
    n_coils = _one_number_of_coils(readouts)
    # Lines first: a readout is then one contiguous row.
    total = np.zeros((len(slices), n_coils, n_y, n_z, n_x), dtype=np.complex64)
    count = np.zeros((len(slices), n_y, n_z), dtype=np.int64)
    first = np.empty(len(slices), dtype=readouts.heads.dtype)
    for head, samples in zip(readouts.heads, readouts.samples, strict=True):
        s = int(np.searchsorted(slices, head["idx"]["slice"]))
        y = _line(head, 1, centre_y, n_y)
        z = _line(head, 2, centre_z, n_z)
        row, start = _placed(head, samples, n_x)
        if not count[s].any():
            first[s] = head
        total[s, :, y, z, start : start + row.shape[1]] += row
        count[s, y, z] += 1
    total /= np.maximum(count, 1)[:, None, :, :, None]
    return Grid(np.moveaxis(total, -1, 2), count, first)


def _one_number_of_coils(readouts: Readouts) -> int:
    numbers = sorted({len(part) for part in readouts.samples})
    if len(numbers) > 1:
        raise InvalidInputError(
            f"imaging lines have {' and '.join(map(str, numbers))} coils; all must have the same, "
            "so split the file into one for each coil set"
        )
    return numbers[0]


def _line(head: np.void, step: int, centre: int, size: int) -> int:
    counter = int(head["idx"][f"kspace_encode_step_{step}"])
    line = counter - centre + size // 2
    if not 0 <= line < size:
        raise InvalidInputError(
            f"kspace_encode_step_{step} is {counter} with its centre at {centre}, outside the "
            f"encoded matrix of {size}; correct matrixSize or encodingLimits in the header"
        )
    return line


def _placed(
    head: np.void, samples: Shaped[np.ndarray, "c n"], size: int
) -> tuple[Shaped[np.ndarray, "c m"], int]:
    """Return the samples to keep, in order of frequency, and where the first one goes."""
    before, after = int(head["discard_pre"]), int(head["discard_post"])
    row = samples[:, before : samples.shape[1] - after]
    n, centre = row.shape[1], int(head["center_sample"]) - before
    if flagged(np.atleast_1d(head), REVERSE)[0]:
        row, centre = row[:, ::-1], n - 1 - centre
    # A line of full width fits in one way only; converters disagree on the centre of a turned one.
    start = 0 if n == size and abs(centre - size // 2) <= 1 else size // 2 - centre
    if n < 1 or start < 0 or start + n > size:
        raise InvalidInputError(
            f"a readout of {n} samples with its centre at {centre} does not fit into the encoded "
            f"matrix of {size}; correct encodedSpace/matrixSize/x or center_sample"
        )
    return row, start
