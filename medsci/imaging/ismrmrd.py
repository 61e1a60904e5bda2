"""ISMRMRD raw data in HDF5 (`.h5`, `.mrd`): read, sorted, made white, put where the patient lay.

A group, usually `dataset`, holds `xml`, the header, and `data`, one compound of `head`, `traj` and
`data` for each readout. See `ismrmrd_sort` for which lines count and where they go. Then

1. coils are whitened with the noise scan, scaled to the bandwidth of the image;
2. partitions of a 3D scan become slices by an inverse transform, and those of slice oversampling
   are left out;
3. readout oversampling is removed: images are cut to the field of view of `reconSpace` and
   transformed back. Transforms are orthonormal, so white noise stays white.

Position and direction in the readouts are LPS, in mm, and belong to the voxel of zero frequency's
conjugate, index `n // 2` of each axis; index grows along `read_dir`, `phase_dir` and `slice_dir`.
Volumes come out with readout along i, phase along j, slices along k, in RAS+.

Source: Inati et al. 2017, doi:10.1002/mrm.26089.
"""

__all__ = ["find_group", "read_ismrmrd"]

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from medsci.errors import InvalidInputError
from medsci.imaging.geometry import fallback_affine
from medsci.imaging.ismrmrd_sort import Grid, Readouts, flagged, imaging_readouts, sort_readouts
from medsci.imaging.ismrmrd_xml import Encoding, encoding_of
from medsci.imaging.kspace import KSpace
from medsci.imaging.volume import GeometryWarning
from medsci.imaging.whitening import noise_covariance, whitening_matrix

_HEAD = (
    "version", "flags", "number_of_samples", "active_channels", "discard_pre", "discard_post",
    "center_sample", "encoding_space_ref", "trajectory_dimensions", "sample_time_us", "position",
    "read_dir", "phase_dir", "slice_dir", "idx",
)  # fmt: skip
_TWO = ("xml", "data")
_EVEN_MM = 0.1  # how far a slice may lie from its place in an even stack
_NO_DIRECTION = 0.5  # unit vectors have length 1, absent ones 0


def find_group(file: Any) -> str | None:
    """Return the name of the group with raw data in it, or None: `dataset` if there is one."""
    names = [n for n in file if all(hasattr(file.get(f"{n}/{m}"), "dtype") for m in _TWO)]
    return "dataset" if "dataset" in names else min(names, default=None)


def read_ismrmrd(
    file: Any, group: str, *, select: Mapping[str, int] | None = None, whiten: bool = True
) -> KSpace:
    """Make a `KSpace` of an open ISMRMRD file.

    Args:
        file: an `h5py.File`.
        group: where `xml` and `data` are, see `find_group`.
        select: which contrast, repetition, phase, set or slice to take, where there are several.
        whiten: use the noise scan, if the file has one; its samples then have variance 1.

    Raises:
        InvalidInputError: the file is not as described above, holds no image, or several and none
            is chosen; or not Cartesian.
        UsageError: `select` names what is not there.
    """
    readouts = _readouts(file[group]["data"][()])
    encoding = encoding_of(_xml(file[group]["xml"][()]))
    if encoding.trajectory != "cartesian":
        raise InvalidInputError(
            f"the trajectory is {encoding.trajectory}, and only cartesian is read; grid the data "
            "with another tool (BART, Gadgetron) and give the result"
        )
    lines = imaging_readouts(readouts, encoding, select=select or {})
    noise = readouts.where(flagged(readouts.heads, 19))
    whitened = whiten and len(noise) > 0
    if whitened:
        lines = _whitened(lines, noise, encoding)
    grid = sort_readouts(lines, encoding)
    data, mask = _slices(grid, encoding)
    data = _without_oversampling(data, encoding)
    crop = (data.shape[2], _kept(encoding, 1, data.shape[3]))
    affine, known = _affine(grid, encoding, data.shape, crop)
    order = _order(grid) if len(grid.first) > 1 else range(len(data))
    facts = {
        "layout": "ismrmrd",
        "whitened": whitened,
        "averages": float(grid.count[grid.count > 0].mean()),
        "select": dict(select or {}),
    }
    return KSpace(
        data[list(order)],
        mask,
        affine=affine,
        axes=(2, 0, 1),
        sform_code=1 if known else 0,
        crop=None if crop == data.shape[2:] else crop,
        attributes=facts,
    )


def _xml(raw: Any) -> bytes:
    content = np.asarray(raw).reshape(-1)
    text = content[0] if content.size == 1 else None
    if not isinstance(text, bytes | str):
        raise InvalidInputError(
            "dataset xml of this ISMRMRD raw file is not one text; convert the raw data again"
        )
    return text.encode("utf-8") if isinstance(text, str) else bytes(text)


def _readouts(table: np.ndarray) -> Readouts:
    """Check the table and return headers and complex samples."""
    table = np.atleast_1d(table)
    names = table.dtype.names or ()
    heads = table["head"] if "head" in names else None
    missing = sorted({"head", "data"} - set(names))
    if heads is not None and not missing:
        missing = [name for name in _HEAD if name not in (heads.dtype.names or ())]
    if heads is None or missing:
        raise InvalidInputError(
            f"dataset data of this ISMRMRD raw file lacks {', '.join(missing)}; it must be the "
            "compound of head, traj and data of version 1, so convert the raw data again"
        )
    if (heads["version"] > 1).any():
        raise InvalidInputError(
            f"readouts are of ISMRMRD version {heads['version'].max()}, and version 1 is read; "
            "convert the raw data to it"
        )
    samples = [_complex(head, part) for head, part in zip(heads, table["data"], strict=True)]
    return Readouts(heads, samples)


def _complex(head: np.void, part: Any) -> np.ndarray:
    shape = (int(head["active_channels"]), int(head["number_of_samples"]))
    values = np.ascontiguousarray(part, dtype=np.float32)
    if values.ndim != 1 or values.size != 2 * shape[0] * shape[1]:
        raise InvalidInputError(
            f"a readout holds {values.size} numbers, its header says {shape[0]} coils x {shape[1]} "
            "samples x 2; the file is damaged, convert the raw data again"
        )
    return values.view(np.complex64).reshape(shape)


def _whitened(lines: Readouts, noise: Readouts, encoding: Encoding) -> Readouts:
    coils = sorted({len(part) for part in lines.samples})
    others = sorted({len(part) for part in noise.samples} - set(coils))
    if others or len(coils) > 1:
        raise InvalidInputError(
            f"the noise scan has {(others or coils)[0]} coils and the image {coils[-1]}; read the "
            "file with whiten=False, or give the noise scan of the same coils"
        )
    dwell = [float(np.median(part.heads["sample_time_us"])) for part in (noise, lines)]
    factor = dwell[0] / dwell[1] if min(dwell) > 0 else 1.0
    covariance = noise_covariance(
        np.concatenate(noise.samples, axis=1), variance_factor=factor / encoding.noise_bandwidth
    )
    matrix = whitening_matrix(covariance).astype(np.complex64)
    return Readouts(lines.heads, [matrix @ part for part in lines.samples])


def _slices(grid: Grid, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Return (n_slices, n_coils, n_readout, n_phase) and the mask that all slices share."""
    acquired = grid.count > 0
    n_z = acquired.shape[2]
    if n_z == 1:
        mask = acquired[0, :, 0]
        if (acquired[..., 0] != mask).any():
            raise InvalidInputError(
                f"slices were sampled on different lines ({acquired.sum(axis=1).min()} to "
                f"{acquired.sum(axis=1).max()} of {mask.size}); read them one by one with "
                "select={'slice': n}"
            )
        return grid.data[..., 0], mask
    mask = acquired[0].any(axis=1)
    if not all(_unbroken(line) for line in acquired[0][mask]):
        raise InvalidInputError(
            "the 3D scan is undersampled along kspace_encode_step_2 as well, and only one "
            "undersampled direction is read; reconstruct that direction with another tool first"
        )
    start, kept = _window(n_z, _kept(encoding, 2, n_z))
    out = np.empty((kept, *grid.data.shape[1:4]), dtype=np.complex64)
    for coil, part in enumerate(grid.data[0]):  # coil by coil, to bound memory
        image = _inverse_fft(part, axis=2)[..., start : start + kept]
        out[:, coil] = np.moveaxis(image, 2, 0)
    return out, mask


def _unbroken(line: np.ndarray) -> bool:
    """Say whether the partitions of a line are one run with the centre in it."""
    there = np.flatnonzero(line)
    return bool(line[line.size // 2] and there[-1] - there[0] + 1 == there.size)


def _without_oversampling(data: np.ndarray, encoding: Encoding) -> np.ndarray:
    kept = _kept(encoding, 0, data.shape[2])
    if kept == data.shape[2]:
        return data
    start, kept = _window(data.shape[2], kept)
    out = np.empty((*data.shape[:2], kept, data.shape[3]), dtype=np.complex64)
    for one, part in zip(out, data, strict=True):  # slice by slice, to bound memory
        image = _inverse_fft(part, axis=1)[:, start : start + kept]
        one[...] = _shifted(np.fft.fft, image, axis=1)
    return out


def _inverse_fft(data: np.ndarray, axis: int) -> np.ndarray:
    return _shifted(np.fft.ifft, data, axis=axis)


def _shifted(transform: Any, data: np.ndarray, *, axis: int) -> np.ndarray:
    moved = transform(np.fft.ifftshift(data, axis), axis=axis, norm="ortho")
    return np.fft.fftshift(moved, axis).astype(np.complex64)


def _kept(encoding: Encoding, axis: int, size: int) -> int:
    """Return how many voxels of the encoded field of view the reconstructed one has."""
    share = encoding.recon.fov_mm[axis] / encoding.encoded.fov_mm[axis]
    return min(size, max(1, round(size * share)))


def _window(size: int, kept: int) -> tuple[int, int]:
    """Return start and length of the middle, so that index n // 2 stays index n // 2."""
    return size // 2 - kept // 2, kept


def _affine(
    grid: Grid, encoding: Encoding, shape: tuple[int, ...], crop: tuple[int, int]
) -> tuple[Float64[np.ndarray, "4 4"], bool]:
    """Return the affine of the cropped grid and whether the file vouches for it."""
    dx, dy, dz = encoding.encoded.spacing_mm
    is_3d = grid.data.shape[4] > 1
    if not is_3d:
        dz = encoding.recon.spacing_mm[2]
    heads = grid.first[_order(grid)] if len(grid.first) > 1 else grid.first
    columns = np.stack([heads[n][0].astype(np.float64) for n in ("read_dir", "phase_dir")])
    normal = heads["slice_dir"][0].astype(np.float64)
    lengths = np.linalg.norm([*columns, normal], axis=1)
    places = heads["position"].astype(np.float64)
    if min(lengths) < _NO_DIRECTION or (len(places) > 1 and np.ptp(places, axis=0).max() == 0):
        warnings.warn(
            "the readouts state no usable position or direction; volumes get an affine of spacing "
            "only, so left and right are not known",
            GeometryWarning,
            stacklevel=4,
        )
        return fallback_affine((*crop, shape[0]), (dx, dy, dz)), False
    step = normal / lengths[2] * dz if len(places) == 1 else _step(places)
    # KSpace cuts the phase direction around its middle, see `to_volume`.
    first_phase = (shape[3] - crop[1]) // 2
    middle = (shape[2] // 2, shape[3] // 2 - first_phase, shape[0] // 2 if is_3d else 0)
    lps = np.eye(4)
    lps[:3, :3] = np.stack([columns[0] / lengths[0] * dx, columns[1] / lengths[1] * dy, step], 1)
    lps[:3, 3] = places[0] - lps[:3, :3] @ middle
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, True


def _order(grid: Grid) -> Shaped[np.ndarray, " s"]:
    """Return the slices sorted along their normal; refuse slices that are no stack."""
    normals = grid.first["slice_dir"].astype(np.float64)
    for name in ("read_dir", "phase_dir", "slice_dir"):
        if np.abs(grid.first[name] - grid.first[name][0]).max() > 1e-3:
            raise InvalidInputError(
                "slices are not parallel (such as a localiser's); read them one by one with "
                "select={'slice': n}"
            )
    return np.argsort(grid.first["position"] @ normals[0], kind="stable")


def _step(places: Shaped[np.ndarray, "s 3"]) -> Shaped[np.ndarray, " 3"]:
    """Return the way from slice to slice in mm; refuse an uneven stack."""
    step = (places[-1] - places[0]) / (len(places) - 1)
    even = places[0] + np.arange(len(places))[:, None] * step
    off = np.linalg.norm(places - even, axis=1).max()
    if off > _EVEN_MM:
        raise InvalidInputError(
            f"slices lie up to {off:.3g} mm away from an even stack (gaps, or several stacks); "
            "read them one by one with select={'slice': n}"
        )
    return step
