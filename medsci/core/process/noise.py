"""Noise laws of unit scale: what `z` is drawn from.

A law answers two questions. `sample` draws the noise of a state. `renew` draws the fresh noise of a
bridge, given the noise that the state holds already: for Gaussians the two are independent, for the
Student-t law they share the random radius of the sample, and only then does the bridge keep the
marginal law.
"""

__all__ = ["ComplexGaussian", "Gaussian", "Masked", "Noise", "StudentT"]

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.rng import Rng


@runtime_checkable
class Noise(Protocol):
    """Anything that draws `z` of unit scale, one stream per sample.

    Unit scale is `E|z|^2 = 1` per entry, except for the Student-t law, whose scale is that of the
    Gaussian it tends to.
    """

    def sample(
        self, shape: Sequence[int], rng: Rng, *, step: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw noise of this shape for this step."""
        ...

    def renew(self, z: Shaped[Tensor, " b *d"], rng: Rng, *, step: int) -> Shaped[Tensor, " b *d"]:
        """Draw the fresh noise of a bridge that starts from a state with noise `z`."""
        ...


@final
@dataclass(frozen=True)
class Gaussian:
    """Independent standard normal entries; circular complex ones when the dtype is complex."""

    def sample(
        self, shape: Sequence[int], rng: Rng, *, step: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw noise of this shape for this step."""
        return rng.normal(shape, step=step, dtype=dtype)

    def renew(self, z: Shaped[Tensor, " b *d"], rng: Rng, *, step: int) -> Shaped[Tensor, " b *d"]:
        """Draw independent noise."""
        return rng.normal(z.shape, step=step, dtype=z.dtype, device=z.device)


@final
@dataclass(frozen=True)
class ComplexGaussian:
    """Circular complex normal entries, whatever real dtype is asked for: `E|z|^2 = 1`."""

    def sample(
        self, shape: Sequence[int], rng: Rng, *, step: int, dtype: torch.dtype = torch.complex64
    ) -> Tensor:
        """Draw noise of this shape for this step."""
        wide = dtype in (torch.float64, torch.complex128)
        return rng.normal(shape, step=step, dtype=torch.complex128 if wide else torch.complex64)

    def renew(self, z: Shaped[Tensor, " b *d"], rng: Rng, *, step: int) -> Shaped[Tensor, " b *d"]:
        """Draw independent noise."""
        return self.sample(z.shape, rng, step=step, dtype=z.dtype).to(z.device)


@final
@dataclass(frozen=True)
class StudentT:
    """Multivariate Student-t noise: `z = g sqrt(dof / chi2_dof)`, one chi2 for a whole sample.

    This is PFGM++: on a path of noise level sigma, `D` extra dimensions at radius
    `r = sigma sqrt(D)` are the same law with `dof = D`. `dof = 1` is the Poisson flow, and
    `dof -> inf` the Gaussian. The second moment of an entry is `dof / (dof - 2)` where it exists.
    Nothing is clipped: small `dof` has rare, very large draws, as the law demands. Stochastic steps
    belong to `Linear.bridge`: a plan that adds noise adds Gaussian noise.

    Args:
        dof: degrees of freedom, positive, not necessarily whole.

    Source: Xu et al. 2023, arXiv:2302.04265; drawn by the Student-t identity instead of
    their Beta variable. The bridge is the conditional of a multivariate t: given `z` of n entries,
    the squared radius is `(dof + |z|^2) / chi2_(dof + n)`.
    """

    dof: float

    def __post_init__(self) -> None:
        if not 0.0 < self.dof < math.inf:
            raise ValueError(
                f"dof={self.dof} came; give positive finite degrees of freedom, or use Gaussian()"
            )

    def sample(
        self, shape: Sequence[int], rng: Rng, *, step: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw noise of this shape for this step."""
        normal = rng.normal(shape, step=step, dtype=dtype)
        log_chi2 = _log_chi2([self.dof] * len(rng.ids), rng, step=step)
        return normal * _per_sample(torch.exp(0.5 * (math.log(self.dof) - log_chi2)), normal)

    def renew(self, z: Shaped[Tensor, " b *d"], rng: Rng, *, step: int) -> Shaped[Tensor, " b *d"]:
        """Draw noise that shares the radius of `z`; entries that are exactly zero carry none."""
        real = 2.0 if z.is_complex() else 1.0  # real degrees of freedom of an entry
        flat = z.flatten(1).abs().double()
        energy = self.dof + real * flat.square().sum(1).cpu()
        dof = [self.dof + real * n for n in (flat != 0.0).sum(1).tolist()]
        radius = torch.exp(0.5 * (energy.log() - _log_chi2(dof, rng, step=step)))
        normal = rng.normal(z.shape, step=step, dtype=z.dtype, device=z.device)
        return normal * _per_sample(radius, normal)


@final
@dataclass(frozen=True, eq=False)
class Masked:
    """Noise where the mask is 1, none where it is 0: the rest of a state stays known.

    Args:
        mask: of zeros and ones, broadcastable over a sample or over the batch.
        law: the noise inside.
    """

    mask: Shaped[Tensor, " *m"]
    law: Noise = field(default_factory=Gaussian)

    def __post_init__(self) -> None:
        if not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise ValueError(
                f"the mask has values from {self.mask.min():g} to {self.mask.max():g}; "
                "give zeros and ones only, for instance (mask > 0.5)"
            )

    def sample(
        self, shape: Sequence[int], rng: Rng, *, step: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw noise of this shape for this step."""
        return self._inside(self.law.sample(shape, rng, step=step, dtype=dtype))

    def renew(self, z: Shaped[Tensor, " b *d"], rng: Rng, *, step: int) -> Shaped[Tensor, " b *d"]:
        """Draw the fresh noise of the law inside."""
        return self._inside(self.law.renew(self._inside(z), rng, step=step))

    def _inside(self, z: Tensor) -> Tensor:
        mask = self.mask.to(device=z.device, dtype=z.real.dtype)
        try:
            fits = torch.broadcast_shapes(mask.shape, z.shape) == z.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"the mask has shape {tuple(mask.shape)} but the noise {tuple(z.shape)}; "
                "give a mask that broadcasts over one sample"
            )
        return z * mask


def _log_chi2(dof: Sequence[float], rng: Rng, *, step: int) -> Tensor:
    return math.log(2.0) + rng.log_gamma([0.5 * nu for nu in dof], step=step)


def _per_sample(radius: Tensor, like: Tensor) -> Tensor:
    return radius.to(device=like.device, dtype=like.real.dtype).reshape(-1, *(1,) * (like.ndim - 1))
