"""How to know: closed-form oracles, and the numbers that judge solvers, fields, laws and couplings.

oracles       Gaussian, mixtures of Gaussians, of atoms and of log-normals; Gauge, Smoothed
solvers       convergence_order, LinearMultistep (stability), straightness, noise_drift
fields        divergence, conservativity, gauge_decomposition, dimension
laws          mmd, energy distance, KS, support distance, log-likelihood
couplings     miscibility, law_shift
"""

__all__ = [
    "Comparison",
    "DiracMixtureOracle",
    "Gauge",
    "GaugeSplit",
    "GaussianMixtureOracle",
    "GaussianOracle",
    "InterpolantOracle",
    "LawShift",
    "LawShiftWarning",
    "LinearMultistep",
    "LogNormalMixtureOracle",
    "NegativeDistance",
    "Oracle",
    "Polynomial",
    "Rbf",
    "Rotation",
    "Smoothed",
    "SpectrumDimension",
    "StationaryMixtureOracle",
    "appearance_times",
    "bits_per_dim",
    "conservativity",
    "convergence_order",
    "dimension_by_divergence",
    "dimension_by_spectrum",
    "divergence",
    "energy_distance",
    "flow_velocity",
    "gauge_decomposition",
    "gaussian_log_density",
    "ghvb_interval",
    "heavy_ball_interval",
    "in_plane",
    "jacobian",
    "ks_distance",
    "law_shift",
    "linear_gauge_split",
    "local_orders",
    "log_likelihood",
    "median_width",
    "miscibility",
    "mmd",
    "mmd_null",
    "noise_drift",
    "perturbation_gain",
    "quadratic_potentials",
    "radial_potentials",
    "real_rows",
    "relative_error",
    "rotation",
    "sliced_ks",
    "straightness",
    "support_distance",
    "trajectory_straightness",
    "value_and_divergence",
]

from medsci.core.check.altered import Gauge, Smoothed
from medsci.core.check.diagnose import convergence_order, local_orders, relative_error
from medsci.core.check.dimension import (
    SpectrumDimension,
    dimension_by_divergence,
    dimension_by_spectrum,
)
from medsci.core.check.dirac import DiracMixtureOracle
from medsci.core.check.distribution import (
    Comparison,
    NegativeDistance,
    Polynomial,
    Rbf,
    energy_distance,
    ks_distance,
    median_width,
    mmd,
    mmd_null,
    sliced_ks,
    support_distance,
)
from medsci.core.check.field import (
    GaugeSplit,
    conservativity,
    divergence,
    gauge_decomposition,
    jacobian,
    linear_gauge_split,
    quadratic_potentials,
    radial_potentials,
    value_and_divergence,
)
from medsci.core.check.gaussian import GaussianOracle
from medsci.core.check.interpolant import InterpolantOracle
from medsci.core.check.likelihood import bits_per_dim, gaussian_log_density, log_likelihood
from medsci.core.check.log_normal import LogNormalMixtureOracle
from medsci.core.check.miscibility import LawShift, LawShiftWarning, law_shift, miscibility
from medsci.core.check.mixture import GaussianMixtureOracle
from medsci.core.check.oracle import Oracle
from medsci.core.check.rotation import (
    Rotation,
    appearance_times,
    in_plane,
    perturbation_gain,
    rotation,
)
from medsci.core.check.stability import LinearMultistep, ghvb_interval, heavy_ball_interval
from medsci.core.check.stationary_mixture import StationaryMixtureOracle, real_rows
from medsci.core.check.straightness import (
    flow_velocity,
    noise_drift,
    straightness,
    trajectory_straightness,
)
