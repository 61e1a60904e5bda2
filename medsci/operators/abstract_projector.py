"""What every CT projector shares: sizes, checks, derivatives."""

__all__ = ["AbstractProjector"]

from abc import abstractmethod
from typing import final

import torch
from jaxtyping import Float, Integer
from numpy import ndarray
from torch import Tensor

from medsci.errors import InvalidInputError
from medsci.imaging.beam import Beam, FanBeam, ImageGrid
from medsci.operators.linear_function import apply_linear
from medsci.operators.linear_op import LinearOp


class AbstractProjector(LinearOp):
    """Integrate images along the rays of a beam, slice by slice: `y = integral of mu dr`.

    Conventions of angles, signs and centres are those of `medsci.imaging.beam`. With mu in 1/mm the
    sinogram is dimensionless. `adjoint` is the plain transpose, without filter or weight; its unit
    is that of y times mm. Sub-classes write `_project` and `_backproject`.

    Args:
        beam: The rays.
        grid: The pixels of a slice.

    Raises:
        InvalidInputError: If the source of a fan lies within the image, or later, if an image or a
            sinogram does not have the operator's size or number type.
    """

    def __init__(self, beam: Beam, grid: ImageGrid) -> None:
        super().__init__()
        reach = grid.radius_mm + (grid.row_mm**2 + grid.col_mm**2) ** 0.5
        if isinstance(beam, FanBeam) and beam.source_mm <= reach:
            raise InvalidInputError(
                f"the source is {beam.source_mm} mm from the rotation centre but the image reaches "
                f"{reach:.1f} mm; give source_mm (source to rotation centre) in mm, or a smaller "
                "grid"
            )
        self.beam = beam
        self.grid = grid

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The number type of images and sinograms."""

    @abstractmethod
    def subset(self, views: Integer[ndarray, " n_kept"] | list[int]) -> "AbstractProjector":
        """Return the projector of some views, in the order given."""

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return self.grid.shape

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """Views and bins of a slice."""
        return self.beam.n_angles, self.beam.n_bins

    def forward(
        self, x: Float[Tensor, "n_slices n_rows n_cols"]
    ) -> Float[Tensor, "n_slices n_angles n_bins"]:
        """Return the sinograms of the images."""
        self._check(x, self.image_shape, what="image", axes="n_rows, n_cols")
        if len(x) == 0:
            return x.new_zeros(0, *self.sinogram_shape)
        return apply_linear(x, self._project, transposed=self._backproject)

    @final
    def adjoint(
        self, y: Float[Tensor, "n_slices n_angles n_bins"]
    ) -> Float[Tensor, "n_slices n_rows n_cols"]:
        """Return the unfiltered backprojections of the sinograms."""
        self._check(y, self.sinogram_shape, what="sinogram", axes="n_angles, n_bins")
        if len(y) == 0:
            return y.new_zeros(0, *self.image_shape)
        return apply_linear(y, self._backproject, transposed=self._project)

    @abstractmethod
    def _project(self, x: Tensor) -> Tensor:
        """Return A x for checked images."""

    @abstractmethod
    def _backproject(self, y: Tensor) -> Tensor:
        """Return A^T y for checked sinograms."""

    def _check(self, x: Tensor, shape: tuple[int, int], *, what: str, axes: str) -> None:
        if x.ndim != 3 or x.shape[1:] != shape:
            raise InvalidInputError(
                f"the {what} is {tuple(x.shape)} but the projector works on (n_slices, {axes}) = "
                f"(any, {shape[0]}, {shape[1]}); crop or pad it, or make a projector for its size"
            )
        if x.dtype != self.dtype:
            raise InvalidInputError(
                f"the {what} is {x.dtype} but the projector computes in {self.dtype}; convert the "
                f"{what}, or ask for projector(..., dtype={x.dtype})"
            )
