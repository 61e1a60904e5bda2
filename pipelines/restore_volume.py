"""Which kind of prior restores: one of slices, or one of whole volumes."""

__all__ = ["check_fits", "restored_by", "units_of"]

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from medsci.errors import UsageError
from medsci.pipelines import Progress
from medsci.recon.restore_settings import PriorUnits, RestoreSettings
from medsci.recon.volume_frame import VolumePrior

if TYPE_CHECKING:
    from medsci.imaging import Volume
    from medsci.recon.restoration import Restored


@runtime_checkable
class _Loaded(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def denoiser(self) -> Any: ...
    @property
    def units(self) -> PriorUnits | VolumePrior: ...


def units_of(config: Any) -> PriorUnits | VolumePrior:
    """Return what a stored model's states mean.

    Raises:
        UsageError: it is no prior that can restore.
    """
    if config.network.spatial_dims == 3:
        return VolumePrior.of(config)
    return PriorUnits.of(config)


def check_fits(prior: _Loaded, settings: RestoreSettings, *, labels: bool) -> None:
    """Refuse options that only a prior of volumes, or one with tissues, knows.

    Raises:
        UsageError: one of them came.
    """
    units = prior.units
    if isinstance(units, VolumePrior):
        if labels and len(units.channels) < 2:
            raise UsageError(f"--labels came, but the prior {prior.name} knows no tissues")
        return
    named = {"--labels": labels or None, "--thickness": settings.thickness_mm,
             "--centre": settings.centre_mm}  # fmt: skip
    given = [name for name, value in named.items() if value is not None]
    if given:
        raise UsageError(
            f"{', '.join(given)} came, but {prior.name} is a prior of slices; choose one of "
            "volumes by --prior, such as brain-t1-small"
        )


def restored_by(
    prior: "_Loaded | None",
    volume: "Volume",
    *,
    settings: RestoreSettings,
    mask: "Volume | None" = None,
    progress: Progress | None = None,
) -> "Restored":
    """Restore a volume by a loaded prior of either kind, or by none where the method needs none.

    Raises:
        InvalidInputError: image or mask are not what they should be.
        UsageError: the method is not one for this prior.
    """
    units = None if prior is None else prior.units
    denoiser: Any = None if prior is None else prior.denoiser
    if isinstance(units, VolumePrior):
        from medsci.recon.volume_restoration import restore_volume

        return restore_volume(
            volume, denoiser, settings=settings, prior=units, mask=mask, progress=progress
        )
    from medsci.recon.restoration import restore

    return restore(
        volume,
        denoiser,
        settings=settings,
        units=units,
        mask=mask,
        progress=progress,
    )
