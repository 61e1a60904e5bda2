"""The words of a reconstruction report: what the pictures show and what they do not prove."""

__all__ = [
    "LIMITS",
    "SEEN_UNKNOWN",
    "SIDES_UNKNOWN",
    "picture_words",
    "score_words",
    "settings_table",
    "uncertainty_section",
]

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Shaped

from medsci.metrics import calibrated_coverage, coverage, uncertainty_correlation
from medsci.report.document import Cell, Column, Section, Table, format_number

LIMITS = (
    "Research use only: this is not a medical device, and nothing here may guide diagnosis or "
    "treatment. A learnt prior can draw plausible anatomy that is not there, and can leave out "
    "what is."
)
SEEN_UNKNOWN = "What the prior was trained on was not stated; see its model card."
SIDES_UNKNOWN = (
    "The file does not say how its axes lie in the patient: left and right are not known, "
    "and the pictures name no sides."
)

_LABELS = {
    "acceleration": "Acceleration R, nominal",
    "effective_acceleration": "Acceleration, effective",
    "n_views": "Views",
    "span_degrees": "Angle they cover, degrees",
    "n_bins": "Detector bins",
    "window_hu": "Hounsfield units that the prior sees as 0 and 1",
    "mu_water": "Attenuation of water, 1/mm",
    "n_lines": "Phase-encode lines acquired",
    "n_phase": "Phase-encode lines in full",
    "n_centre_lines": "Central lines acquired",
    "centre_fraction": "Central lines, fraction",
    "n_coils": "Coils",
    "n_slices": "Slices",
    "noise": "Noise added",
    "prior": "Prior",
    "prior_sha256": "Prior, SHA-256",
    "method": "Method",
    "n_samples": "Samples averaged",
    "n_steps": "Sampler steps",
    "cg_iterations": "CG iterations per step",
    "tv_weight": "TV weight",
    "seed": "Seed",
    "precision": "Precision of the network",
    "device": "Device",
}


def settings_table(settings: Mapping[str, object]) -> Table:
    """Return the settings as a table, known names first and in a fixed order."""
    names = [n for n in _LABELS if n in settings] + [n for n in settings if n not in _LABELS]
    rows: list[tuple[Cell, Cell]] = [
        (_LABELS.get(name, name.replace("_", " ").capitalize()), _spell(settings[name]))
        for name in names
    ]
    return Table(
        title="Settings",
        columns=[Column(title="What"), Column(title="Value", is_text=True)],
        rows=rows,
    )


def picture_words(
    columns: Sequence[str],
    *,
    error_scale: float,
    sides_known: bool,
    region: str = "head",
    air: float = 0.0,
) -> tuple[str, str]:
    """Return caption and alternative text of the three-plane picture."""
    caption = [
        "Grey pictures share one window, 0 to the 99.5th percentile of the first column "
        f"({columns[0]}).",
    ]
    if air != 0.0:
        caption.append(f"Values count from that of air, {air:g}.")
    if "|error|" in columns:
        caption.append(
            f"|error|: absolute difference of reconstruction and truth, {error_scale:g} times "
            "brighter than the grey pictures; its colour bar is in image units."
        )
    if "uncertainty" in columns:
        caption.append("Uncertainty: standard deviation across samples, with its own colour bar.")
    if sides_known:
        caption.append(
            "Radiological convention: the patient's right is at the left of axial and coronal "
            "pictures, the front at the left of sagittal ones. Positions are in scanner or "
            "template millimetres (RAS+)."
        )
    alt = (
        f"Slices through the {region}: axial, coronal and sagittal rows; columns "
        f"{', '.join(columns[:-1])}{' and ' if len(columns) > 1 else ''}{columns[-1]}."
    )
    return " ".join(caption), alt


def score_words(quantities: Sequence[str]) -> str:
    """Return the definitions of the quantities a score table shows."""
    words = {
        "psnr_db": "PSNR and SSIM: data range is the largest value of the truth inside the mask.",
        "ssim": "SSIM: Gaussian window of 1.5 voxels, 11 taps, slice by slice, averaged over the "
        "mask.",
        "nrmse": "NRMSE: norm of the error over norm of the truth.",
        "data_misfit": "Data misfit: ‖Ax − y‖ / ‖y‖ over what was acquired; below the noise "
        "level it means that noise was fitted.",
    }
    chosen = [text for name, text in words.items() if name in quantities]
    return " ".join([*chosen, "Bold: best of the column."] if "psnr_db" in quantities else chosen)


def uncertainty_section(
    std: Shaped[np.ndarray, "i j k"],
    *,
    error: Shaped[np.ndarray, "i j k"] | None,
    mask: Bool[np.ndarray, "i j k"] | None,
    n_samples: int | None,
    region: str = "head",
) -> Section:
    """Say what the standard deviation is, what it is not, and, with a truth, how it did."""
    several = "several" if n_samples is None else str(n_samples)
    is_ = (
        f"The uncertainty is the standard deviation, voxel by voxel, of {several} reconstructions "
        "that agree with the same measured data and start from different random noise. Where it is "
        "high, the data left room and the prior filled it differently each time."
    )
    is_not = (
        "It is not an error bar. It cannot show what all samples get wrong together: anatomy "
        "unlike anything the prior has seen, motion, a wrong noise level, errors of what was taken "
        "as known of the scan (coil maps in MRI, rays in CT). "
        "A dark voxel is not a proven one."
    )
    if n_samples is not None and n_samples >= 2:
        relative = 100 / math.sqrt(2 * (n_samples - 1))
        is_not += f" From {n_samples} samples it is itself uncertain by about {relative:.0f} %."
    tables = [] if error is None else [_calibration(std, error, mask=mask, n_samples=n_samples)]
    tables = [replace(table, title=f"{table.title} inside the {region} mask") for table in tables]
    return Section(title="How sure it is", paragraphs=[is_, is_not], tables=tables)


def _calibration(
    std: Shaped[np.ndarray, "i j k"],
    error: Shaped[np.ndarray, "i j k"],
    *,
    mask: Bool[np.ndarray, "i j k"] | None,
    n_samples: int | None,
) -> Table:
    usable = n_samples if n_samples is None or n_samples >= 2 else None
    rows: list[tuple[Cell, ...]] = [
        (
            f"Voxels with |error| ≤ {factor:g} std (%)",
            100 * coverage(std, error, factor=factor, mask=mask),
            100 * calibrated_coverage(factor, n_samples=usable),
        )
        for factor in (1.0, 2.0)
    ]
    correlation = uncertainty_correlation(std, error, mask=mask)
    rows.append(("Rank correlation of std with |error| (Spearman, −1 to 1)", correlation, None))
    return Table(
        title="Uncertainty against the true error",
        columns=[
            Column(title="Question"),
            Column(title="Here"),
            Column(title="If calibrated"),
        ],
        rows=rows,
        caption=(
            "“If calibrated” is what samples of the true Gaussian posterior would reach with this "
            "number of samples. Less than that: the map promises too much."
        ),
    )


def _spell(value: object) -> str:
    if value is None or isinstance(value, str | int):
        return format_number(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
