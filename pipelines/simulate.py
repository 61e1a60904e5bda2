"""An image in, simulated k-space or a simulated CT scan out."""

__all__ = ["simulate_ct", "simulate_mri"]

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medsci.errors import UsageError
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.outputs import Existing, check_outputs, existing_file, staged
from medsci.pipelines.run import Option, Run, sidecar_of
from medsci.recon.ct_settings import SimulateCtSettings
from medsci.recon.settings import SimulateSettings

_log = logging.getLogger(__name__)


def simulate_mri(
    input: str | Path,
    output: str | Path,
    *,
    settings: SimulateSettings | None = None,
    existing: Existing = "refuse",
) -> CaseReport:
    """Simulate an undersampled acquisition of a NIfTI volume and write it as k-space HDF5.

    The fully sampled magnitude is stored beside the data as the truth, and what was done in a
    sidecar `NAME.json`. Equal settings give equal bytes.

    Args:
        input: a real 3D magnitude image.
        output: the k-space file, `.h5`.
        settings: see `SimulateSettings`.
        existing: what to do about an output that is there.

    Raises:
        InvalidInputError: the input is no usable magnitude image.
        OutputExistsError: an output exists and is not to be replaced.
    """
    chosen = SimulateSettings() if settings is None else settings

    def scan(source: Path) -> tuple[Any, dict[str, Any]]:
        from medsci.imaging import read_nifti
        from medsci.recon import simulate_kspace

        kspace = simulate_kspace(read_nifti(source), settings=chosen)
        _log.info("R = %.2f", kspace.acceleration)
        return kspace, {
            "effective_acceleration": kspace.acceleration,
            "lines": int(kspace.mask.sum()),
            "shape": list(kspace.data.shape),
        }

    def write(kspace: Any, place: Path) -> None:
        from medsci.imaging import write_kspace

        write_kspace(kspace, place, overwrite=True)

    record = {
        "Description": "Simulated Cartesian multi-coil k-space of a magnitude image",
        "ParallelReductionFactorInPlane": chosen.acceleration,
    }
    run = Run(
        ("recon", "simulate", "mri"),
        existing_file(input),
        Path(output),
        chosen.seed,
        options=_mri_options(chosen),
    )
    return _simulate(run, existing, scan=scan, write=write, record=record, kind="kspace")


def simulate_ct(
    input: str | Path,
    output: str | Path,
    *,
    settings: SimulateCtSettings | None = None,
    existing: Existing = "refuse",
) -> CaseReport:
    """Simulate a CT scan of a NIfTI volume in Hounsfield units and write it as sinogram HDF5.

    The volume is stored beside the data as the truth, and what was done in a sidecar `NAME.json`.
    Equal settings give equal bytes.

    Args:
        input: a real 3D image in Hounsfield units.
        output: the sinogram file, `.h5`.
        settings: see `SimulateCtSettings`.
        existing: what to do about an output that is there.

    Raises:
        InvalidInputError: the input is no usable image.
        OutputExistsError: an output exists and is not to be replaced.
    """
    chosen = SimulateCtSettings() if settings is None else settings

    def scan(source: Path) -> tuple[Any, dict[str, Any]]:
        from medsci.imaging import read_nifti
        from medsci.recon.ct_simulation import simulate_ct as simulated

        sinogram = simulated(read_nifti(source), settings=chosen)
        return sinogram, {
            "views": sinogram.n_angles,
            "bins": sinogram.beam.n_bins,
            "shape": list(sinogram.data.shape),
        }

    def write(sinogram: Any, place: Path) -> None:
        from medsci.imaging.sinogram_file import write_sinogram

        write_sinogram(sinogram, place, overwrite=True)

    run = Run(
        ("recon", "simulate", "ct"),
        existing_file(input),
        Path(output),
        chosen.seed,
        options=_ct_options(chosen),
    )
    record = {"Description": "Simulated CT scan of an image in Hounsfield units"}
    return _simulate(run, existing, scan=scan, write=write, record=record, kind="sinogram")


def _simulate(
    run: Run,
    existing: Existing,
    *,
    scan: Callable[[Path], tuple[Any, dict[str, Any]]],
    write: Callable[[Any, Path], None],
    record: Mapping[str, Any],
    kind: str,
) -> CaseReport:
    start = time.perf_counter()
    source, target = run.input, run.output
    if target.suffix not in (".h5", ".hdf5"):
        raise UsageError(f"the output is {target.name}; a {kind} is HDF5, name it *.h5")
    files = {"sidecar": sidecar_of(target), kind: target}
    if not check_outputs(list(files.values()), inputs=[source], existing=existing):
        return CaseReport(source.name, "skipped", outputs=files)

    from medsci.imaging import write_json

    made, result = scan(source)
    with staged(list(files.values()), overwrite=existing != "refuse") as places:
        full = {
            **record,
            "Sources": [source.name],
            "Acquisition": result,
            "MedsciProvenance": run.provenance(),
        }
        write_json(places[files["sidecar"]], full, overwrite=True)
        write(made, places[target])
    _log.info("wrote %s", target)
    seconds = time.perf_counter() - start
    return CaseReport(source.name, "done", outputs=files, result=result, seconds=seconds)


def _mri_options(settings: SimulateSettings) -> dict[str, Option]:
    """Give the settings under the names they have on the command line."""
    return {
        "acceleration": settings.acceleration,
        "coils": settings.n_coils,
        "noise": settings.noise,
        "center-fraction": settings.center_fraction,
        "mask": settings.mask,
        "slices": _slab(settings.slices),
        "slice-axis": settings.slice_axis,
        "phase-axis": "auto" if settings.phase_axis is None else settings.phase_axis,
    }


def _ct_options(settings: SimulateCtSettings) -> dict[str, Option]:
    return {
        "views": settings.n_views,
        "span": settings.span_deg,
        "start": settings.start_deg,
        "geometry": settings.geometry,
        "bins": settings.n_bins,
        "photons": 0.0 if settings.photons is None else settings.photons,
        "slices": _slab(settings.slices),
        "slice-axis": settings.slice_axis,
    }


def _slab(slices: tuple[int, int] | None) -> str | None:
    return None if slices is None else f"{slices[0]}:{slices[1]}"
