"""Linear operators, their algebra, and what solves with them.

`LinearOp` is the noun: a pair of exact adjoints with products, sums, multiples and a norm.
`CartesianMriOp` is multi-coil MRI; `FourierOp`, `SampleOp` and `CoilOp` are its factors.
"""

__all__ = [
    "CartesianMriOp",
    "CoilOp",
    "DifferenceOp",
    "FourierOp",
    "IdentityOp",
    "LineNormalOp",
    "LinearOp",
    "SampleOp",
    "conjugate_gradient",
    "soft_threshold",
]

from medsci.operators.cartesian_mri import CartesianMriOp
from medsci.operators.coil import CoilOp
from medsci.operators.conjugate_gradient import conjugate_gradient
from medsci.operators.difference import DifferenceOp
from medsci.operators.fourier import FourierOp
from medsci.operators.line_normal import LineNormalOp
from medsci.operators.linear_op import IdentityOp, LinearOp
from medsci.operators.sample import SampleOp
from medsci.operators.soft_threshold import soft_threshold
