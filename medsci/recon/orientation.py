"""How the slices of a scan lie, seen from a prior that knows one way of lying."""

__all__ = ["Oriented", "View", "prior_view"]

from dataclasses import dataclass
from typing import cast, final

from nibabel.orientations import aff2axcodes
from torch import Tensor, nn

from medsci.core import Path
from medsci.imaging import KSpace
from medsci.imaging.sinogram import Sinogram


@final
@dataclass(frozen=True)
class View:
    """What turns the two axes of a slice into rows to the front and columns to the right.

    Attributes:
        transpose: whether the first axis runs along the columns.
        flip: state dimensions to reverse after that, -2 for rows and -1 for columns.
    """

    transpose: bool = False
    flip: tuple[int, ...] = ()


def prior_view(scan: KSpace | Sinogram) -> View:
    """Return how the slices of a scan must be turned for an axial prior.

    Slices that are not axial are turned as far as their axes allow: the prior then sees anatomy
    it has not been trained on, which the caller may want to warn about.
    """
    codes = aff2axcodes(scan.affine)
    first, second = codes[scan.axes[1]], codes[scan.axes[2]]
    transpose = first in "LR" or second in "AP"
    rows, columns = (second, first) if transpose else (first, second)
    flip = tuple(dim for dim, code in ((-2, rows), (-1, columns)) if code in "PLI")
    return View(transpose, flip)


@final
class Oriented(nn.Module):
    """A denoiser of slices that lie another way: turn, denoise, turn back."""

    def __init__(self, denoiser: nn.Module, view: View) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.path = cast(Path, denoiser.path)
        self.view = view

    def forward(self, x: Tensor, t: float) -> Tensor:
        """Return x0 in the orientation of `x`."""
        turned = x.transpose(-2, -1) if self.view.transpose else x
        x0 = self.denoiser(turned.flip(self.view.flip), t).flip(self.view.flip)
        return x0.transpose(-2, -1) if self.view.transpose else x0
