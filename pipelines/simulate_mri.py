"""A magnitude volume in, simulated multi-coil k-space out."""

__all__ = ["simulate_mri"]

import logging
import time
from pathlib import Path

from medsci.errors import UsageError
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.outputs import Existing, check_outputs, existing_file, staged
from medsci.pipelines.run import Run, sidecar_of
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
    start = time.perf_counter()
    settings = SimulateSettings() if settings is None else settings
    source, target = existing_file(input), Path(output)
    if target.suffix not in (".h5", ".hdf5"):
        raise UsageError(f"the output is {target.name}; k-space is written as HDF5, name it *.h5")
    files = {"sidecar": sidecar_of(target), "kspace": target}
    if not check_outputs(list(files.values()), inputs=[source], existing=existing):
        return CaseReport(source.name, "skipped", outputs=files)

    from medsci.imaging import read_nifti, write_json, write_kspace
    from medsci.recon import simulate_kspace

    kspace = simulate_kspace(read_nifti(source), settings=settings)
    result = {
        "effective_acceleration": kspace.acceleration,
        "lines": int(kspace.mask.sum()),
        "shape": list(kspace.data.shape),
    }
    run = Run(("recon", "simulate"), source, target, settings.seed, options=_options(settings))
    with staged(list(files.values()), overwrite=existing != "refuse") as places:
        record = {
            "Description": "Simulated Cartesian multi-coil k-space of a magnitude image",
            "Sources": [source.name],
            "ParallelReductionFactorInPlane": settings.acceleration,
            "Acquisition": result,
            "MedsciProvenance": run.provenance(),
        }
        write_json(places[files["sidecar"]], record, overwrite=True)
        write_kspace(kspace, places[target], overwrite=True)
    _log.info("wrote %s, R = %.2f", target, kspace.acceleration)
    seconds = time.perf_counter() - start
    return CaseReport(source.name, "done", outputs=files, result=result, seconds=seconds)


def _options(settings: SimulateSettings) -> dict[str, str | int | float | None]:
    """Give the settings under the names they have on the command line."""
    slices = settings.slices
    return {
        "acceleration": settings.acceleration,
        "coils": settings.n_coils,
        "noise": settings.noise,
        "center-fraction": settings.center_fraction,
        "mask": settings.mask,
        "slices": None if slices is None else f"{slices[0]}:{slices[1]}",
        "slice-axis": settings.slice_axis,
        "phase-axis": "auto" if settings.phase_axis is None else settings.phase_axis,
    }
