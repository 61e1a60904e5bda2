"""What noise does: paths, noise laws, predictions and processes."""

__all__ = [
    "PREDICTIONS",
    "ComplexGaussian",
    "Gaussian",
    "Linear",
    "Noise",
    "Path",
    "Prediction",
    "Process",
    "convert",
    "row",
    "x0_weights",
]

from medsci.core.process.noise import ComplexGaussian, Gaussian, Noise
from medsci.core.process.path import Path
from medsci.core.process.pred import PREDICTIONS, Prediction, convert, row, x0_weights
from medsci.core.process.process import Linear, Process
