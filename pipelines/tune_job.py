"""What to search of a solver, and on what to judge it; checked before any work."""

__all__ = ["MAX_RANGES", "RANGES", "TuneJob"]

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

from medsci.errors import UsageError
from medsci.inverse.methods import options_of, settings_of
from medsci.pipelines.outputs import Existing
from medsci.pipelines.recon_job import PRIORS
from medsci.pipelines.scans import Domain
from medsci.recon.settings import ReconSettings

Range = tuple[float, float]

RANGES: Mapping[str, Mapping[str, Range]] = {
    "dds3d": {"prox_noise": (1e-8, 1e-2), "eta": (0.1, 1.0), "consistency.threshold": (0.002, 0.2)},
    "mbir": {"snr": (0.03, 0.5), "consistency.threshold": (0.002, 0.2)},
    "red-diff": {"lam": (1e-3, 1.0), "lr": (0.02, 0.2)},
    "flowchef": {"scale": (0.05, 1.0)},
    "diffpir": {"weight": (0.1, 25.0), "zeta": (0.05, 1.0)},
    "pigdm": {"sigma_data": (0.05, 2.0), "eta": (0.1, 1.0)},
    "dps": {"zeta": (0.05, 5.0), "eta": (0.1, 1.0)},
    "ddrm": {"eta": (0.1, 1.0), "eta_b": (0.1, 1.0)},
    "pnp": {"weight": (0.02, 2.0), "sigma_start": (0.05, 0.5)},
}
"""What is searched of each solver if nothing is asked for. Counts of steps buy quality with time,
so they are searched on request only."""
MAX_RANGES = 6


@final
@dataclass(frozen=True)
class TuneJob:
    """What to search, and on what to judge it.

    Attributes:
        domain: `mri` or `ct`.
        settings: solver, options that stay fixed, and the rest as for `recon`.
        ranges: `(option, low, high)`, log-uniform; those of `RANGES` if none is given. Options that
            count are drawn as whole numbers.
        prior: name or folder of a stored denoiser; that of `PRIORS` if empty.
        budget: runs of the search, the defaults being the first. If something beats them, both are
            run once more with noise, and held-out data, that the search has not seen.
        judge: `truth` is the PSNR against the truth stored in the files, `held-out` the misfit of
            views, or of lines outside the centre of k-space, that were not fitted; `auto` takes
            the truth if every file has one.
        slices: how many neighbours in the middle of every scan.
        existing: what to do about an output that is there.
    """

    domain: Domain
    settings: ReconSettings = field(
        default_factory=lambda: ReconSettings(solver="red-diff", n_samples=1)
    )
    ranges: tuple[tuple[str, float, float], ...] = ()
    prior: str = ""
    budget: int = 40
    judge: Literal["auto", "truth", "held-out"] = "auto"
    slices: int = 4
    existing: Existing = "refuse"

    def __post_init__(self) -> None:
        if not self.prior:
            object.__setattr__(self, "prior", PRIORS[self.domain])
        if self.budget < 2:
            raise UsageError(
                f"budget={self.budget} came; give at least 2, as the defaults are the first run"
            )
        if self.slices < 1:
            raise UsageError(f"slices={self.slices} came; give at least 1")
        if self.domain == "ct" and self.settings.solver == "ddrm":
            raise UsageError(
                "ddrm needs the singular value decomposition of the operator, and none is known of "
                "projections; tune another solver for CT"
            )
        self._check_ranges()

    @property
    def solver(self) -> str:
        """Name of the solver."""
        return self.settings.solver

    @property
    def space(self) -> dict[str, Range]:
        """What is searched, by option."""
        if not self.ranges:
            fixed = {name.replace("-", "_") for name, _ in self.settings.options}
            return {k: v for k, v in RANGES[self.solver].items() if k not in fixed}
        return {name.replace("-", "_"): (low, high) for name, low, high in self.ranges}

    def texts(self, drawn: Mapping[str, float]) -> dict[str, str]:
        """Write values as options: whole numbers where the option is one, else four digits."""
        known = options_of(self.solver)
        found = {}
        for name, value in drawn.items():
            low, high = self.space[name]
            if _is_count(known[name]):
                found[name] = str(min(max(round(value), math.ceil(low)), math.floor(high)))
            else:
                found[name] = repr(min(max(float(f"{value:.4g}"), low), high))
        return found

    def _check_ranges(self) -> None:
        """Refuse what any run would refuse, before the first."""
        fixed = {name.replace("-", "_"): text for name, text in self.settings.options}
        settings_of(self.solver, fixed)
        if not self.space:
            raise UsageError(f"all that is searched of {self.solver} is fixed; give a range")
        if len(self.space) > MAX_RANGES:
            raise UsageError(
                f"{len(self.space)} ranges came; search at most {MAX_RANGES} at a time"
            )
        if len(self.space) < len(self.ranges):
            raise UsageError("an option came with two ranges; give it one")
        for name, (low, high) in self.space.items():
            if name in fixed:
                raise UsageError(f"{name} came with a range and with a value; leave one out")
            if name not in options_of(self.solver):
                settings_of(self.solver, {name: str(low)})  # which names the nearest
            _check_range(self.solver, name, low=low, high=high)
        for corner in itertools.product(*self.space.values()):
            drawn = dict(zip(self.space, corner, strict=True))
            settings_of(self.solver, fixed | self.texts(drawn))


def _check_range(solver: str, name: str, *, low: float, high: float) -> None:
    default = options_of(solver)[name]
    if isinstance(default, bool | str):
        raise UsageError(f"{name} of {solver} is no number; fix it with --option {name}=VALUE")
    if not 0.0 < low < high < math.inf:
        raise UsageError(f"the range {name}={low:g}:{high:g} came; give 0 < low < high")
    if _is_count(default) and math.ceil(low) > math.floor(high):
        raise UsageError(f"the range {name}={low:g}:{high:g} holds no whole number; widen it")


def _is_count(default: object) -> bool:
    return isinstance(default, int) and not isinstance(default, bool)
