"""DICOM-CT-PD: CT projection data, one file per view, as the AAPM and TCIA publish them (LDCT).

A file holds uint16 pixels, rescaled to line integrals, the rows of a detector column next to each
other, and private elements that say where source and detector were. Scans on a circle and on a
helix, with and without a flying focal spot, become fan sinograms of planes by single-slice
rebinning, see `dicom_rebin`. x and y are the scanner's; how the patient lay on the table is not in
the geometry, so both orientation codes are 0.

Source: Chen et al. 2015, doi:10.1118/1.4935406.
"""

__all__ = ["read_dicom_ct_pd"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Shaped

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.beam import FanBeam, ImageGrid
from medsci.imaging.dicom_rebin import Scanner, lines_of, plane_sinogram
from medsci.imaging.sinogram import Sinogram

_ROWS, _COLUMNS = (0x7029, 0x1010), (0x7029, 0x1011)
_COLUMN_MM, _ROW_MM, _SHAPE = (0x7029, 0x1002), (0x7029, 0x1006), (0x7029, 0x100B)
_PHI, _Z, _RHO = (0x7031, 0x1001), (0x7031, 0x1002), (0x7031, 0x1003)
_DETECTOR, _CENTRE = (0x7031, 0x1031), (0x7031, 0x1033)
_SHIFTS = ((0x7033, 0x100B), (0x7033, 0x100C), (0x7033, 0x100D))
_PER_TURN, _MU_WATER = (0x7033, 0x1013), (0x7041, 0x1001)
_NAMES = {
    _ROWS: "NumberofDetectorRows",
    _COLUMNS: "NumberofDetectorColumns",
    _COLUMN_MM: "DetectorElementTransverseSpacing",
    _ROW_MM: "DetectorElementAxialSpacing",
    _SHAPE: "DetectorShape",
    _PHI: "DetectorFocalCenterAngularPosition",
    _Z: "DetectorFocalCenterAxialPosition",
    _RHO: "DetectorFocalCenterRadialDistance",
    _DETECTOR: "ConstantRadialDistance",
    _CENTRE: "DetectorCentralElement",
}
_CURVED = {"CYLINDRICAL": True, "FLAT": False}
_WATER_PER_MM = (0.01, 0.05)  # attenuation that water can have at the energies of CT
_SIZE = 512


def read_dicom_ct_pd(
    folder: str | Path,
    *,
    grid: ImageGrid | None = None,
    slice_mm: float | None = None,
    z_mm: tuple[float, float] | None = None,
    every: int = 1,
) -> Sinogram:
    """Read a folder of views and rebin them to fan sinograms of planes.

    Args:
        folder: with the files of one scan.
        grid: pixels of the image; 512 x 512 over the field of view if None.
        slice_mm: distance of planes; the height of a detector row at the axis if None.
        z_mm: first and last plane; all that are seen from every angle if None.
        every: use every n-th view only.

    Raises:
        InvalidInputError: files are missing or damaged, lack an element, or differ in what must be
            the same; the detector is of an unknown shape; planes are not seen from every angle.
        UsageError: pydicom is not installed, or an argument is out of range.
    """
    folder = Path(folder)
    if every < 1 or (slice_mm is not None and not slice_mm > 0):
        raise UsageError(f"every={every} and slice_mm={slice_mm} came; give positive numbers")
    try:
        files, scanner, facts = _scan(folder, every)
        planes = _planes(scanner, slice_mm, z_mm)
        n_angles = _views_per_turn(scanner)
        first = lines_of(scanner, 0).theta
        beam = FanBeam(
            first + 2 * np.pi * np.arange(n_angles) / n_angles,
            scanner.shape[0],
            scanner.element_mm[0],
            scanner.rho_mm,
            detector_mm=scanner.detector_mm - scanner.rho_mm,
            offset_bins=scanner.bins_offset,
            curved=scanner.curved,
        )
        views = _Views(files, scanner.shape)
        data = np.empty((len(planes), n_angles, beam.n_bins), dtype=np.float32)
        for one, z in zip(data, planes, strict=True):
            views.forget(scanner.z_mm, z, abs(scanner.pitch_mm))
            one[...] = plane_sinogram(
                scanner, views.rows, float(z), theta=beam.angles, gamma=beam.fan_angles()
            )
    except InvalidInputError as error:
        raise InvalidInputError(f"{folder}: {error}") from error
    grid = _default_grid(beam) if grid is None else grid
    return Sinogram(
        data,
        beam,
        grid,
        affine=_affine(grid, planes),
        mu_water=facts["mu_water"],
        sform_code=0,
        attributes={"layout": "dicom-ct-pd", "pitch_mm": scanner.pitch_mm},
    )


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise UsageError(
            "reading DICOM-CT-PD needs pydicom; install it with: pip install 'medsci[dicom]'"
        ) from error
    return pydicom


def _scan(folder: Path, every: int) -> tuple[list[Path], Scanner, dict[str, Any]]:
    """Read all headers; return files in the order of the scan, and its geometry."""
    pydicom = _pydicom()
    if not folder.is_dir():
        raise InvalidInputError("this is not a folder; name the folder that holds the views")
    heads = []
    for path in sorted(part for part in folder.iterdir() if part.is_file()):
        try:
            head = pydicom.dcmread(path, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError) as error:
            raise InvalidInputError(
                f"{path.name} is no DICOM file, or damaged ({' '.join(str(error).split())}); keep "
                "nothing but the views in the folder"
            ) from error
        heads.append((_number(head, path), path, head))
    if len(heads) < 2:
        raise InvalidInputError(
            f"there are {len(heads)} DICOM files, and a scan has one for each view; name the "
            "folder that holds all of them"
        )
    heads.sort(key=lambda part: part[0])
    numbers = np.array([part[0] for part in heads])
    if (np.diff(numbers) != 1).any():
        worst = int(np.abs(np.diff(numbers) - 1).argmax())
        raise InvalidInputError(
            f"views are missing or doubled: instance {numbers[worst]} is followed by "
            f"{numbers[worst + 1]}; copy the scan again"
        )
    files = [path for _, path, _ in heads][::every]
    headers = [head for _, _, head in heads][::every]
    return files, _scanner(headers), {"mu_water": _water(headers[0])}


def _number(head: Any, path: Path) -> int:
    try:
        return int(head.InstanceNumber)
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{path.name} has no InstanceNumber, so its place in the scan is not known; export the "
            "scan again"
        ) from error


def _scanner(headers: list[Any]) -> Scanner:
    for tag in (_ROWS, _COLUMNS, _COLUMN_MM, _ROW_MM, _SHAPE, _RHO, _DETECTOR, _CENTRE):
        for head in headers:
            _element(head, tag)
        if len({repr(head[tag].value) for head in headers}) > 1:
            raise InvalidInputError(
                f"{_NAMES[tag]} differs between views; put each scan into a folder of its own"
            )
    head = headers[0]
    shape = _element(head, _SHAPE).strip().upper()
    if shape not in _CURVED:
        raise InvalidInputError(
            f"DetectorShape is {shape!r}, and {' and '.join(_CURVED)} are read; rebin the scan "
            "with the vendor's tool"
        )
    sizes = [_floats(head, tag)[0] for tag in (_RHO, _DETECTOR, _COLUMN_MM, _ROW_MM)]
    columns, rows = (int(_floats(head, tag)[0]) for tag in (_COLUMNS, _ROWS))
    if min(*sizes, columns, rows) <= 0 or sizes[1] < sizes[0]:
        raise InvalidInputError(
            f"distances {sizes} mm and a detector of {columns} x {rows} came; all must be "
            "positive, and the detector beyond the axis"
        )
    centre = _floats(head, _CENTRE)
    return Scanner(
        phi=np.unwrap([_floats(part, _PHI)[0] for part in headers]),
        z_mm=np.array([_floats(part, _Z)[0] for part in headers]),
        shift=np.array(
            [[_floats(part, tag)[0] if tag in part else 0.0 for tag in _SHIFTS] for part in headers]
        ),
        rho_mm=sizes[0],
        detector_mm=sizes[1],
        shape=(columns, rows),
        element_mm=(sizes[2], sizes[3]),
        centre=(centre[0], centre[1]),
        curved=_CURVED[shape],
    )


def _element(head: Any, tag: tuple[int, int]) -> str:
    """Return an element as text; readers without its type give bytes."""
    if tag not in head:
        raise InvalidInputError(
            f"{_NAMES.get(tag, tag)} ({tag[0]:04X},{tag[1]:04X}) is missing; these are no "
            "DICOM-CT-PD views, or their private elements were removed"
        )
    value = head[tag].value
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _floats(head: Any, tag: tuple[int, int]) -> list[float]:
    _element(head, tag)
    value = head[tag].value
    if isinstance(value, bytes):
        value = np.frombuffer(value, "<u2" if len(value) == 2 else "<f4").tolist()
    values = [float(part) for part in np.atleast_1d(value)]
    if not values or not np.isfinite(values).all() or (tag == _CENTRE and len(values) != 2):
        raise InvalidInputError(
            f"{_NAMES.get(tag, tag)} is {values}; it must be finite numbers, so export again"
        )
    return values


def _water(head: Any) -> float | None:
    """Return the attenuation of water per mm where the file has one that is possible."""
    if _MU_WATER not in head:
        return None
    value = _floats(head, _MU_WATER)[0]
    return value if _WATER_PER_MM[0] < value < _WATER_PER_MM[1] else None


def _views_per_turn(scanner: Scanner) -> int:
    step = np.diff(scanner.phi)
    usual = float(np.median(step))
    if usual == 0 or np.abs(step - usual).max() > 0.2 * abs(usual):
        raise InvalidInputError(
            f"views are {step.min():.4g} to {step.max():.4g} rad apart; they must follow each "
            "other evenly, so copy the scan again"
        )
    per_turn = round(2 * np.pi / abs(usual))
    if len(scanner.phi) < per_turn:
        raise InvalidInputError(
            f"{len(scanner.phi)} views of {per_turn} in a turn came; a full turn is needed"
        )
    return per_turn


def _planes(
    scanner: Scanner, slice_mm: float | None, z_mm: tuple[float, float] | None
) -> Shaped[np.ndarray, " n"]:
    step = slice_mm or scanner.row_at_axis_mm
    if z_mm is not None:
        first, last = z_mm
        if not first <= last:
            raise UsageError(f"z_mm is {z_mm}; give the first and the last plane, in order")
        return first + step * np.arange(int((last - first) / step + 1e-6) + 1)
    if scanner.pitch_mm == 0:
        low, high = (
            scanner.row_at_axis_mm * (row - scanner.centre[1]) + scanner.z_mm[0]
            for row in (1, scanner.shape[1])
        )
        # Lines at the side of the fan rise further; the outermost rows do not reach their planes.
        gamma = np.abs(lines_of(scanner, 0).gamma).max()
        middle, half = (low + high) / 2, (high - low) / 2 * np.cos(gamma)
        low, high = middle - half, middle + half
    else:
        reach = abs(scanner.pitch_mm) / 2
        low, high = scanner.z_mm.min() + reach, scanner.z_mm.max() - reach
    if high < low:
        raise InvalidInputError(
            f"no plane is seen from every angle: the helix is {np.ptp(scanner.z_mm):.4g} mm long "
            f"and a turn {abs(scanner.pitch_mm):.4g} mm; give a scan of more than a turn"
        )
    n = int((high - low) / step + 1e-6) + 1
    return (low + high) / 2 + step * (np.arange(n) - (n - 1) / 2)


def _default_grid(beam: FanBeam) -> ImageGrid:
    pixel = 2 * beam.source_mm * float(np.sin(np.abs(beam.fan_angles()).max())) / _SIZE
    return ImageGrid(_SIZE, _SIZE, pixel, pixel)


def _affine(grid: ImageGrid, planes: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, "4 4"]:
    step = float(planes[1] - planes[0]) if len(planes) > 1 else 1.0
    affine = np.diag([grid.col_mm, grid.row_mm, step, 1.0])
    affine[:3, 3] = (
        -(grid.n_cols - 1) / 2 * grid.col_mm, -(grid.n_rows - 1) / 2 * grid.row_mm, planes[0],
    )  # fmt: skip
    return affine


@final
@dataclass(eq=False)
class _Views:
    """Line integrals of views, read when asked for and kept while planes near them are made."""

    files: list[Path]
    shape: tuple[int, int]
    kept: dict[int, tuple[np.ndarray, float, float]] = field(default_factory=dict)

    def forget(self, z_mm: Shaped[np.ndarray, " n"], z: float, pitch: float) -> None:
        """Drop the views that planes at z do not need."""
        for view in [v for v in self.kept if abs(z_mm[v] - z) > 1.1 * pitch + 1e-3]:
            del self.kept[view]

    def rows(self, view: int) -> Shaped[np.ndarray, "n_rows n_bins"]:
        """Return (n_rows, n_bins), columns counted from the end, see `Scanner.bins_offset`."""
        if view not in self.kept:
            self.kept[view] = self._read(self.files[view])
        pixels, slope, intercept = self.kept[view]
        return (pixels * np.float32(slope) + np.float32(intercept)).T[:, ::-1]

    def _read(self, path: Path) -> tuple[np.ndarray, float, float]:
        head = _pydicom().dcmread(path)
        content = bytes(head.get("PixelData", b""))
        columns, rows = self.shape
        if len(content) not in (2 * columns * rows, 2 * columns * rows + 1):
            raise InvalidInputError(
                f"{path.name} has {len(content)} bytes of pixels, {columns} columns x {rows} rows "
                f"of uint16 need {2 * columns * rows}; copy it again"
            )
        pixels = np.frombuffer(content, "<u2", count=columns * rows).reshape(columns, rows)
        return pixels, float(head.get("RescaleSlope", 1)), float(head.get("RescaleIntercept", 0))
