"""Sensitivities of receive coils."""

__all__ = ["CoilOp"]

from typing import final

from jaxtyping import Complex
from torch import Tensor

from medsci.errors import InvalidInputError
from medsci.operators.linear_op import LinearOp


@final
class CoilOp(LinearOp):
    """See an image through every coil: `y_c = S_c x`, with adjoint `sum_c conj(S_c) y_c`.

    Where `sum_c |S_c|^2 = 1` the adjoint is the optimal (noise-whitened) coil combination and
    the normal operator is the identity.

    Args:
        maps: Complex coil sensitivities, dimensionless.

    Raises:
        InvalidInputError: If the image does not have the maps' size.

    Source: Pruessmann et al. 1999, Magn Reson Med 42:952, PMID 10542355.
    """

    maps: Tensor

    def __init__(self, maps: Complex[Tensor, "n_slices n_coils n_readout n_phase"]) -> None:
        super().__init__()
        self.register_buffer("maps", maps)

    def forward(
        self, x: Complex[Tensor, "n_slices n_readout n_phase"]
    ) -> Complex[Tensor, "n_slices n_coils n_readout n_phase"]:
        """Return one image per coil."""
        n_slices, _, n_readout, n_phase = self.maps.shape
        if x.shape != (n_slices, n_readout, n_phase):
            raise InvalidInputError(
                f"the image is {tuple(x.shape)} but the coil maps are {tuple(self.maps.shape)} "
                "(n_slices, n_coils, n_readout, n_phase); give an image of "
                f"{(n_slices, n_readout, n_phase)}, or maps for this image"
            )
        return self.maps * x[:, None]

    def adjoint(
        self, y: Complex[Tensor, "n_slices n_coils n_readout n_phase"]
    ) -> Complex[Tensor, "n_slices n_readout n_phase"]:
        """Return the coil images combined into one."""
        if y.shape != self.maps.shape:
            raise InvalidInputError(
                f"the coil images are {tuple(y.shape)} but the coil maps are "
                f"{tuple(self.maps.shape)} (n_slices, n_coils, n_readout, n_phase); "
                "give both the same size"
            )
        return (self.maps.conj() * y).sum(dim=1)
