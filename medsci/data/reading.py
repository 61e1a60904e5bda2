"""One NIfTI volume to an array for training: orientation, voxel size, intensity, extent.

The volume is turned to the closest RAS+ orientation without resampling. `Preparation` then says
whether it is resampled to another voxel size, how its intensity is scaled and to what extent it
is cropped or padded. After scaling, zero always means background, so that zeros may be padded.
"""

__all__ = [
    "Intensity",
    "Preparation",
    "UnreadableError",
    "centred",
    "oriented",
    "read_array",
    "resampled",
]

import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, final

import numpy as np

from medsci.data.wording import check_choice, check_size, one_line
from medsci.errors import UsageError

Intensity: TypeAlias = Literal["percentile", "minmax", "zscore"] | tuple[float, float]

_SCALES = ("percentile", "minmax", "zscore")
_SLICED_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
_PLAIN = (".nii", ".img")
_DEFLATE_LIMIT = 1100  # deflate packs 1032 to 1 at most, so a header that claims more lies
_MAX_VOXELS = 2**27  # or eight times what the file holds; beyond, its voxel size is not believed
_PLAUSIBLE_MM = (1e-3, 1e3)
_UNIT_MM = {"meter": 1e3, "micron": 1e-3}


@final
class UnreadableError(Exception):
    """A file that cannot be used; the reason is one line."""


@final
@dataclass(frozen=True)
class Preparation:
    """How a volume becomes an array.

    Attributes:
        voxel_size_mm: resample to this voxel size (linear, smoothed first where it gets coarser);
            None keeps the voxels.
        size: crop or zero-pad about the centre to this extent; None keeps it.
        intensity: `percentile` divides magnitudes by the 99th percentile of those above zero;
            `minmax` maps the range to [0, 1]; `zscore` gives the voxels other than zero mean 0
            and standard deviation 1 and leaves the others 0; `(a, b)` maps this window, as
            (-160, 240) HU, to [0, 1] and clips.

    Raises:
        UsageError: a size is not positive, a word is unknown, or the window is empty.
    """

    voxel_size_mm: Sequence[float | int] | None = None
    size: Sequence[int] | None = None
    intensity: str | Sequence[float | int] = "percentile"

    def __post_init__(self) -> None:
        if self.voxel_size_mm is not None:
            check_size(self.voxel_size_mm, n_axes=(3,), name="voxel_size_mm", whole=False)
        if self.size is not None:
            check_size(self.size, n_axes=(3,), name="size")
        if isinstance(self.intensity, str):
            check_choice(self.intensity, _SCALES, name="intensity")
            return
        window = tuple(self.intensity)
        if len(window) != 2 or not np.isfinite(window).all() or window[0] >= window[1]:
            raise UsageError(f"intensity window is {window}; give (low, high) with low below high")

    def settings(self) -> dict[str, object]:
        """Return what decides the numbers, for the name of a cache entry."""
        intensity = self.intensity
        return {
            "voxel_size_mm": None if self.voxel_size_mm is None else list(self.voxel_size_mm),
            "size": None if self.size is None else list(self.size),
            "intensity": intensity if isinstance(intensity, str) else list(intensity),
        }

    def read(self, path: Path) -> np.ndarray:
        """Return the volume as float32 (i, j, k).

        Raises:
            UnreadableError: whatever is wrong with the file.
        """
        data, voxel_size_mm = read_array(path)
        with np.errstate(all="ignore"):  # values that overflow are found just below
            values = _real_values(data, magnitude=self.intensity == "percentile")
            if not np.isfinite(values).all():
                raise UnreadableError("it holds NaN or infinite values")
            if self.voxel_size_mm is not None:
                values = resampled(values, voxel_size_mm, self.voxel_size_mm)
            values = _scaled(values, self.intensity)
            if not np.isfinite(values).all():
                raise UnreadableError("its values leave the range of float32 when scaled")
        return values if self.size is None else centred(values, self.size)


def read_array(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return the voxels in closest RAS+ orientation as stored, and their size in mm.

    Raises:
        UnreadableError: not a NIfTI volume of three axes (or four with one frame), cut short,
            damaged, or not allowed to be read.
    """
    from xml.parsers.expat import ExpatError

    from nibabel.cifti2 import Cifti2HeaderError
    from nibabel.filebasedimages import ImageFileError
    from nibabel.orientations import OrientationError
    from nibabel.spatialimages import HeaderDataError, HeaderTypeError, ImageDataError
    from nibabel.wrapstruct import WrapStructError

    damaged = (
        OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
        ArithmeticError, MemoryError, zlib.error, struct.error,
        ImageFileError, HeaderDataError, HeaderTypeError, ImageDataError, OrientationError,
        WrapStructError, Cifti2HeaderError, ExpatError,
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(path)
    except damaged as error:
        raise UnreadableError(one_line(error) or type(error).__name__) from error


def _read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    import nibabel as nib

    if path.stat().st_size == 0:
        raise UnreadableError("it is empty")
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        raise UnreadableError(f"it is {type(image).__name__}, not a NIfTI volume")
    shape, dtype = image.shape, image.get_data_dtype()
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)):
        kind = f"a 2D image {shape}" if len(shape) == 2 else f"shape {shape}"
        raise UnreadableError(f"{kind} came, a 3D volume is needed")
    if min(shape) < 1 or dtype.kind not in "fiucb":
        raise UnreadableError(f"shape {shape} of voxels {dtype} came; numbers in 3D are needed")
    claimed = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    voxels = Path(image.file_map["image"].filename or path)
    limit = voxels.stat().st_size * (1 if voxels.suffix.lower() in _PLAIN else _DEFLATE_LIMIT)
    if claimed > limit:  # said before nibabel sets aside what the header claims
        raise UnreadableError(f"it is cut short: its header claims {claimed} bytes of voxels")
    image = nib.as_closest_canonical(image)
    data = np.asanyarray(image.dataobj)
    unit = _UNIT_MM.get(image.header.get_xyzt_units()[0], 1.0)
    zooms = tuple(float(z) * unit for z in nib.affines.voxel_sizes(image.affine))
    return (data[..., 0] if data.ndim == 4 else data), zooms


def _real_values(data: np.ndarray, *, magnitude: bool) -> np.ndarray:
    if data.dtype.kind == "c":
        return np.abs(data).astype(np.float32)
    values = data.astype(np.float32)
    return np.abs(values) if magnitude else values


def resampled(
    values: np.ndarray, have_mm: Sequence[float | int], want_mm: Sequence[float | int]
) -> np.ndarray:
    """Interpolate linearly on a grid of the same centre and, to half a voxel, the same extent."""
    from scipy import ndimage

    if not all(_PLAUSIBLE_MM[0] <= size <= _PLAUSIBLE_MM[1] for size in have_mm):
        raise UnreadableError(f"its voxel size is {tuple(have_mm)} mm, so it cannot be resampled")
    ratio = np.array(want_mm, dtype=float) / np.array(have_mm, dtype=float)
    if np.allclose(ratio, 1.0, atol=1e-3, rtol=0.0):
        return values
    n_old = np.array(values.shape)
    n_new = np.maximum(np.round(n_old / ratio), 1.0)
    if n_new.prod() > max(_MAX_VOXELS, 8 * values.size):
        raise UnreadableError(
            f"its voxel size {tuple(have_mm)} mm makes {n_new.prod():.3g} voxels when resampled"
        )
    # the kernel whose width in quadrature makes up for the coarser voxel (FWHM of each voxel)
    sigma = np.sqrt(np.maximum(ratio**2 - 1.0, 0.0)) / (2.0 * np.sqrt(2.0 * np.log(2.0)))
    smooth = ndimage.gaussian_filter(values, sigma, mode="nearest") if sigma.any() else values
    offset = (n_old - 1) / 2.0 - ratio * (n_new - 1) / 2.0
    return ndimage.affine_transform(
        smooth, ratio, offset, tuple(int(n) for n in n_new), order=1, mode="nearest"
    )


def _scaled(values: np.ndarray, intensity: str | Sequence[float | int]) -> np.ndarray:
    inside = values[values != 0]
    if not isinstance(intensity, str):
        low, high = intensity
        return ((np.clip(values, low, high) - low) / (high - low)).astype(np.float32)
    if inside.size == 0:
        raise UnreadableError("it is zero everywhere")
    if intensity == "percentile":
        return (values / np.percentile(inside, 99.0)).astype(np.float32, copy=False)
    low, high = float(values.min()), float(values.max())
    if intensity == "minmax":
        if low == high:
            raise UnreadableError(f"it is {low:g} everywhere")
        return ((values - low) / (high - low)).astype(np.float32)
    spread = float(inside.std(dtype=np.float64))
    if spread == 0.0:
        raise UnreadableError("its voxels other than zero are all the same")
    mean = float(inside.mean(dtype=np.float64))
    return np.where(values != 0, (values - mean) / spread, 0.0).astype(np.float32)


def oriented(volume: np.ndarray, axis: str) -> np.ndarray:
    """Return a view (slice, row, column): rows to anterior or superior, columns to right.

    Sagittal slices have columns to anterior.
    """
    return np.moveaxis(volume, _SLICED_AXIS[axis], 0).transpose(0, 2, 1)


def centred(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Crop or zero-pad the last axes about their centre to `size`."""
    first = array.ndim - len(size)
    for axis, wanted in enumerate(size, start=first):
        have = array.shape[axis]
        if have >= wanted:
            start = (have - wanted) // 2
            keep = [slice(None)] * array.ndim
            keep[axis] = slice(start, start + wanted)
            array = array[tuple(keep)]
        else:
            before = (wanted - have) // 2
            widths = [(0, 0)] * array.ndim
            widths[axis] = (before, wanted - have - before)
            array = np.pad(array, widths)
    return array
