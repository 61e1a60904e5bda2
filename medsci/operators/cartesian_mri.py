"""Multi-coil Cartesian MRI."""

__all__ = ["CartesianMriOp"]

from typing import final

from jaxtyping import Bool, Complex
from torch import Tensor

from medsci.errors import InvalidInputError
from medsci.operators.coil import CoilOp
from medsci.operators.fourier import FourierOp
from medsci.operators.line_normal import LineNormalOp
from medsci.operators.linear_op import LinearOp
from medsci.operators.sample import SampleOp


@final
class CartesianMriOp(LinearOp):
    """Measure an image as undersampled multi-coil k-space: `y_c = M F (S_c x)`.

    The product `SampleOp @ FourierOp @ CoilOp`, slice by slice. Its norm is at most 1 where
    `sum_c |S_c|^2 <= 1`. With a one-dimensional mask, the usual case, `normal` leaves out the
    transform along readout and the shifts, which cancel; see `LineNormalOp`.

    Args:
        maps: Complex coil sensitivities; their type (complex64 or complex128) is that of all data.
        mask: Acquired samples: one value per phase-encoding line, `(n_phase,)`, or one per k-space
            sample, `(n_readout, n_phase)`.

    Raises:
        InvalidInputError: If the mask does not have the maps' in-plane size, or later, if an image
            or a k-space does not have the size this operator works on.

    Source: Pruessmann et al. 2001, doi:10.1002/mrm.1241.
    """

    def __init__(
        self,
        maps: Complex[Tensor, "n_slices n_coils n_readout n_phase"],
        mask: Bool[Tensor, "..."],
    ) -> None:
        super().__init__()
        if mask.shape not in (maps.shape[3:], maps.shape[2:]):
            raise InvalidInputError(
                f"the mask is {tuple(mask.shape)} but the coil maps are {tuple(maps.shape)} "
                "(n_slices, n_coils, n_readout, n_phase); the mask needs n_phase values, or "
                "n_readout x n_phase"
            )
        line_normal_op = LineNormalOp(maps, mask) if mask.ndim == 1 else None
        self._assemble(CoilOp(maps), SampleOp(mask), line_normal_op)

    def _assemble(
        self, coil_op: CoilOp, sample_op: SampleOp, line_normal_op: LineNormalOp | None
    ) -> None:
        self.coil_op = coil_op
        self.fourier_op = FourierOp()
        self.sample_op = sample_op
        self.line_normal_op = line_normal_op

    @property
    def maps(self) -> Complex[Tensor, "n_slices n_coils n_readout n_phase"]:
        """The coil sensitivities."""
        return self.coil_op.maps

    @property
    def mask(self) -> Bool[Tensor, "..."]:
        """The sampling mask as it was given."""
        return self.sample_op.mask

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The domain: n_slices, n_readout, n_phase."""
        n_slices, _, n_readout, n_phase = self.maps.shape
        return n_slices, n_readout, n_phase

    def forward(
        self, x: Complex[Tensor, "n_slices n_readout n_phase"]
    ) -> Complex[Tensor, "n_slices n_coils n_readout n_phase"]:
        """Return k-space, zero where nothing was acquired."""
        return self.sample_op(self.fourier_op(self.coil_op(x)))

    def adjoint(
        self, y: Complex[Tensor, "n_slices n_coils n_readout n_phase"]
    ) -> Complex[Tensor, "n_slices n_readout n_phase"]:
        """Return the coil-combined image of the acquired samples; others are ignored."""
        return self.coil_op.adjoint(self.fourier_op.adjoint(self.sample_op.adjoint(y)))

    def normal(
        self, x: Complex[Tensor, "n_slices n_readout n_phase"]
    ) -> Complex[Tensor, "n_slices n_readout n_phase"]:
        """Return A^H A x."""
        if self.line_normal_op is None or self.maps.requires_grad:
            return self.adjoint(self.forward(x))
        if x.shape != self.image_shape:
            raise InvalidInputError(
                f"the image is {tuple(x.shape)} but the operator works on {self.image_shape} "
                "(n_slices, n_readout, n_phase)"
            )
        return self.line_normal_op(x)

    def slices(self, start: int, stop: int) -> "CartesianMriOp":
        """Return the operator of the slices `start <= s < stop`, sharing this one's memory."""
        part = CartesianMriOp.__new__(CartesianMriOp)
        LinearOp.__init__(part)
        line_normal_op = self.line_normal_op
        part._assemble(
            CoilOp(self.maps[start:stop]),
            self.sample_op,
            None if line_normal_op is None else line_normal_op.slices(start, stop),
        )
        return part
