"""The report of one reconstruction: how good, what it looks like, how sure, how it was made."""

__all__ = ["ReconImages", "Score", "recon_report", "recon_score"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool

from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.metrics import head_mask, nrmse, psnr, ssim
from medsci.report.document import Column, Figure, KeyNumber, Report, Section, Table, format_number
from medsci.report.planes import three_planes
from medsci.report.recon_text import (
    LIMITS,
    SEEN_UNKNOWN,
    SIDES_UNKNOWN,
    picture_words,
    score_words,
    settings_table,
    uncertainty_section,
)

_ERROR_SCALE = 4.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How one method did on one volume; `None` where it was not measured.

    Args:
        method: its name in the table.
        psnr_db: inside the mask, data range = largest reference value there.
        ssim: inside the mask, 2D windows slice by slice.
        nrmse: norm of the error over norm of the reference inside the mask.
        data_misfit: `||A x - y|| / ||y||` over the acquired samples.
        seconds: wall time.
        ours: marks the reconstruction that the report is about.
    """

    method: str
    psnr_db: float | None = None
    ssim: float | None = None
    nrmse: float | None = None
    data_misfit: float | None = None
    seconds: float | None = None
    ours: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReconImages:
    """What there is to see, all on one grid.

    Args:
        reconstruction: magnitude of the result.
        std: sample standard deviation (n - 1 in the denominator) of the samples it is the mean of.
        simple: what comes out without a prior, to compare with.
        simple_name: what that is, `zero-filled` or `FBP`.
        reference: fully sampled truth; `None` for a real accelerated scan.
        mask: the region that counts; the head, found in the reference, if left out.
        slice_axis: array axis along which 2D slices were acquired.
        modality: `MRI` or `CT`.
        region: what the mask is called.
        air: value of air. Measures and pictures are of what exceeds it, so that CT in Hounsfield
            units has a zero where there is nothing.
    """

    reconstruction: Volume
    std: Volume | None = None
    simple: Volume | None = None
    simple_name: str = "zero-filled"
    reference: Volume | None = None
    mask: Bool[np.ndarray, "i j k"] | None = None
    slice_axis: int = 2
    modality: str = "MRI"
    region: str = "head"
    air: float = 0.0

    def above_air(self, volume: Volume) -> Volume:
        """Return a volume whose air is 0."""
        if self.air == 0.0:
            return volume
        return volume.with_array(volume.array.astype(np.float32) - np.float32(self.air))


def recon_score(
    method: str, estimate: Volume, *, images: ReconImages, mask: Bool[np.ndarray, "i j k"] | None
) -> Score:
    """Score one volume against the reference of `images` inside the mask.

    Raises:
        InvalidInputError: there is no reference, or the two cannot be compared.
    """
    if images.reference is None:
        raise InvalidInputError("there is no reference to measure against; pass images.reference")
    truth, found = (images.above_air(v).array for v in (images.reference, estimate))
    return Score(
        method=method,
        psnr_db=psnr(found, truth, mask=mask),
        ssim=ssim(found, truth, mask=mask, slice_axis=images.slice_axis),
        nrmse=nrmse(found, truth, mask=mask),
        ours=estimate is images.reconstruction,
    )


def recon_report(
    images: ReconImages,
    *,
    settings: Mapping[str, object],
    provenance: Mapping[str, object],
    scores: Sequence[Score] = (),
    warnings: Sequence[str] = (),
    prior_seen: str = "",
) -> Report:
    """Build the report of one reconstruction, with or without a truth to compare it with.

    Args:
        images: the volumes.
        settings: how it was made, by name: `acceleration`, `n_lines`, `n_coils`, `prior`,
            `prior_sha256`, `n_samples`, `n_steps`, `seed` and whatever else was chosen. Known names
            get a readable label; `n_samples` is also used to judge the uncertainty.
        provenance: what ran, as in the sidecar file; shown as it is, so keep private names out.
        scores: one row per method. Left out, the simple image and the reconstruction are measured
            here if there is a reference.
        warnings: shown at the top.
        prior_seen: what the prior was trained on and has not seen, from its model card.

    Raises:
        InvalidInputError: images on different grids, or values that cannot be measured or drawn.
    """
    mask = _mask(images)
    rows = list(scores) or _own_scores(images, mask=mask)
    n_samples = settings.get("n_samples")
    sections = [Section(title="What it looks like", figures=[_picture(images, rows=rows)])]
    if rows:
        sections.insert(0, _score_section(rows, region=images.region))
    if images.std is not None:
        sections.append(
            uncertainty_section(
                images.std.array,
                error=None if images.reference is None else _error(images).array,
                mask=mask,
                n_samples=n_samples if isinstance(n_samples, int) else None,
                region=images.region,
            )
        )
    sections.append(Section(title="How it was made", tables=[settings_table(settings)]))
    return Report(
        title=f"{images.modality} reconstruction",
        subtitle=_subtitle(images.reconstruction, settings=settings),
        summary=_summary(rows, settings=settings, region=images.region),
        sections=sections,
        warnings=[*warnings, *([] if _sides_known(images) else [SIDES_UNKNOWN])],
        limits=f"{LIMITS} {prior_seen or SEEN_UNKNOWN}",
        provenance=provenance,
    )


def _mask(images: ReconImages) -> Bool[np.ndarray, "i j k"] | None:
    if images.mask is not None or images.reference is None:
        return images.mask
    truth = images.above_air(images.reference)
    return head_mask(truth.array, spacing_mm=truth.spacing_mm)


def _sides_known(images: ReconImages) -> bool:
    shown = (images.reference, images.simple, images.reconstruction)
    return all(volume.has_orientation for volume in shown if volume is not None)


def _own_scores(images: ReconImages, *, mask: Bool[np.ndarray, "i j k"] | None) -> list[Score]:
    if images.reference is None:
        return []
    named = {images.simple_name: images.simple, "reconstruction": images.reconstruction}
    return [
        recon_score(name, volume, images=images, mask=mask)
        for name, volume in named.items()
        if volume is not None
    ]


def _error(images: ReconImages) -> Volume:
    if images.reference is None:
        raise InvalidInputError("there is no reference, so there is no error to show")
    truth = images.reference
    if not truth.same_geometry(images.reconstruction):
        raise InvalidInputError(
            f"reconstruction {images.reconstruction!r} and reference {truth!r} lie on different "
            "grids; resample one of them first"
        )
    values = images.reconstruction.array.astype(np.float64) - truth.array.astype(np.float64)
    return images.reconstruction.with_array(np.abs(values))


def _picture(images: ReconImages, *, rows: Sequence[Score]) -> Figure:
    named = {
        "truth": images.reference,
        images.simple_name: images.simple,
        "reconstruction": images.reconstruction,
    }
    grey = {n: images.above_air(volume) for n, volume in named.items() if volume is not None}
    errors = {} if images.reference is None else {"|error|": _error(images)}
    png = three_planes(grey, errors=errors, uncertainty=images.std, error_scale=_ERROR_SCALE)
    columns = [*grey, *errors, *(["uncertainty"] if images.std is not None else [])]
    caption, alt = picture_words(
        columns,
        error_scale=_ERROR_SCALE,
        sides_known=_sides_known(images),
        region=images.region,
        air=images.air,
    )
    quality = [
        f"{row.method} {format_number(row.psnr_db)} dB" for row in rows if row.psnr_db is not None
    ]
    if quality:
        alt += f" PSNR inside the {images.region}: {', '.join(quality)}."
    return Figure(title="Three planes", png=png, caption=caption, alt=alt)


def _score_section(rows: Sequence[Score], *, region: str) -> Section:
    """Show every quantity that was measured for at least one method."""
    quantities = {
        "psnr_db": Column(title="PSNR", unit="dB", best="highest"),
        "ssim": Column(title="SSIM", decimals=4, best="highest"),
        "nrmse": Column(title="NRMSE", decimals=4, best="lowest"),
        "data_misfit": Column(title="Data misfit", decimals=4),
        "seconds": Column(title="Time", unit="s", decimals=1),
    }
    shown = [q for q in quantities if any(getattr(row, q) is not None for row in rows)]
    has_truth = any(row.psnr_db is not None for row in rows)
    table = Table(
        title=f"Inside the {region} mask" if has_truth else "Measured data",
        columns=[Column(title="Method"), *(quantities[q] for q in shown)],
        rows=[[row.method, *(getattr(row, q) for q in shown)] for row in rows],
        caption=score_words(shown),
    )
    title = "Against the truth" if has_truth else "How well the data are met"
    return Section(title=title, tables=[table])


def _summary(
    rows: Sequence[Score], *, settings: Mapping[str, object], region: str
) -> list[KeyNumber]:
    ours = next((row for row in rows if row.ours), None)
    numbers = []
    if ours is not None:
        others = [row for row in rows if row is not ours]
        for name, label, unit, decimals in (
            ("psnr_db", f"PSNR in the {region}", "dB", 2),
            ("ssim", f"SSIM in the {region}", "", 3),
        ):
            value = getattr(ours, name)
            if value is not None:
                note = _compared(value, others, name=name, decimals=decimals)
                numbers.append(
                    KeyNumber(label=label, value=value, unit=unit, decimals=decimals, note=note)
                )
        if ours.data_misfit is not None:
            numbers.append(
                KeyNumber(
                    label="Data misfit",
                    value=100 * ours.data_misfit,
                    unit="%",
                    note="‖Ax − y‖ / ‖y‖ over what was acquired",
                )
            )
        if ours.seconds is not None:
            numbers.append(KeyNumber(label="Time", value=ours.seconds, unit="s", decimals=0))
    acceleration = settings.get("acceleration")
    if isinstance(acceleration, int | float):
        note = f"{settings['n_lines']} lines acquired" if "n_lines" in settings else ""
        numbers.append(KeyNumber(label="Acceleration", value=f"R = {acceleration:g}", note=note))
    views = settings.get("n_views")
    if isinstance(views, int):
        note = f"over {settings['span_degrees']:g} degrees" if "span_degrees" in settings else ""
        numbers.append(KeyNumber(label="Views", value=str(views), note=note))
    return numbers


def _compared(value: float, others: Sequence[Score], *, name: str, decimals: int) -> str:
    """Say how far the best other method is away."""
    measured = [
        (getattr(row, name), row.method) for row in others if getattr(row, name) is not None
    ]
    if not measured:
        return ""
    best, method = max(measured)
    sign = "+" if value >= best else ""
    gap = format_number(float(value - best), decimals=decimals)
    return f"{sign}{gap} against {method} ({format_number(best, decimals=decimals)})"


def _subtitle(volume: Volume, *, settings: Mapping[str, object]) -> str:
    size = " × ".join(str(n) for n in volume.shape[:3])
    step = " × ".join(f"{mm:.3g}" for mm in volume.spacing_mm)
    parts = [f"{size} voxels of {step} mm"]
    if "n_coils" in settings:
        parts.append(f"{settings['n_coils']} coils")
    if "prior" in settings:
        parts.append(f"prior {settings['prior']}")
    return ", ".join(parts)
