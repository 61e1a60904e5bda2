"""What noise does: a process is a chart, a path and a noise law, or three methods of your own.

path      VpLinear, VpCosine, VarianceExploding, Rectified, Tabulated: see `Path`
shifted   Residual, MeanReverting: paths around a given image
noise     Gaussian, ComplexGaussian, StudentT, Masked
chart     Log, Logit, RealView, Latent
process   Linear, Bernoulli, Joint; TwoSided for bridges between two data sets
pred      what a network outputs, and how one prediction becomes another
"""

__all__ = [
    "PREDICTIONS",
    "Bernoulli",
    "Centred",
    "Chart",
    "ComplexGaussian",
    "FromResidual",
    "Gaussian",
    "Identity",
    "Joint",
    "Latent",
    "Linear",
    "Log",
    "Logit",
    "Masked",
    "MeanReverting",
    "Noise",
    "Path",
    "Prediction",
    "Process",
    "RealView",
    "Rectified",
    "Residual",
    "Shifted",
    "StudentT",
    "Tabulated",
    "TwoSided",
    "VarianceExploding",
    "VpCosine",
    "VpLinear",
    "convert",
    "row",
    "x0_weights",
]

from medsci.core.process.bernoulli import Bernoulli
from medsci.core.process.chart import Chart, Identity, Latent, Log, Logit, RealView
from medsci.core.process.joint import Joint
from medsci.core.process.noise import ComplexGaussian, Gaussian, Masked, Noise, StudentT
from medsci.core.process.path import (
    Path,
    Rectified,
    Tabulated,
    VarianceExploding,
    VpCosine,
    VpLinear,
)
from medsci.core.process.pred import PREDICTIONS, Prediction, convert, row, x0_weights
from medsci.core.process.process import Linear, Process
from medsci.core.process.shifted import Centred, FromResidual, MeanReverting, Residual, Shifted
from medsci.core.process.two_sided import TwoSided
