"""Linear operators, their algebra, and what solves with them.

`LinearOp` is the noun: a pair of exact adjoints with products, sums, multiples and a norm.

    MRI       CartesianMriOp = SampleOp @ FourierOp @ CoilOp
    CT        projector(beam, grid): matrices, matrix-free, Fourier-slice or ASTRA
    images    BlurOp, MaskOp, DownsampleOp, SliceProfileOp, DiagonalOp, DifferenceOp
    volumes   ResampleOp.between(two grids in the world), ChannelOp
    by SVD    spectrum_of(op), for the operators whose singular vectors are known
"""

__all__ = [
    "AbstractProjector",
    "BlurOp",
    "CartesianMriOp",
    "ChannelOp",
    "CoilOp",
    "DiagonalOp",
    "DifferenceOp",
    "DownsampleOp",
    "FourierOp",
    "IdentityOp",
    "LineNormalOp",
    "LinearOp",
    "MaskOp",
    "ResampleOp",
    "SampleOp",
    "SliceProfileOp",
    "Spectrum",
    "conjugate_gradient",
    "filtered_backprojection",
    "gaussian_kernel",
    "projector",
    "soft_threshold",
    "spectrum_of",
]

from medsci.operators.abstract_projector import AbstractProjector
from medsci.operators.blur import BlurOp, gaussian_kernel
from medsci.operators.cartesian_mri import CartesianMriOp
from medsci.operators.channel import ChannelOp
from medsci.operators.coil import CoilOp
from medsci.operators.conjugate_gradient import conjugate_gradient
from medsci.operators.diagonal import DiagonalOp
from medsci.operators.difference import DifferenceOp
from medsci.operators.downsample import DownsampleOp, SliceProfileOp
from medsci.operators.filtered_backprojection import filtered_backprojection
from medsci.operators.fourier import FourierOp
from medsci.operators.line_normal import LineNormalOp
from medsci.operators.linear_op import IdentityOp, LinearOp
from medsci.operators.mask import MaskOp
from medsci.operators.projector import projector
from medsci.operators.resample import ResampleOp
from medsci.operators.sample import SampleOp
from medsci.operators.soft_threshold import soft_threshold
from medsci.operators.svd import Spectrum, spectrum_of
