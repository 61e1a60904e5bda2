"""Images from a mixture of stationary Gaussian textures, each on its own mean: exact, by FFT.

All components share one covariance, diagonal in the Fourier basis with power spectrum P(f). With
`S = alpha^2 P + sigma^2` and F the orthonormal transform,

    w_k  = softmax_k( ln pi_k - 1/2 sum_f |F(x - alpha m_k)|^2 / S )
    D(x) = sum_k w_k m_k + F^-1[ alpha P / S F(x - alpha sum_k w_k m_k) ].

That is an image prior as good as training could make it, without training: solvers of inverse
problems can be judged against the exact posterior mean of the same prior.
"""

__all__ = ["StationaryMixtureOracle", "real_rows"]

import math
from collections.abc import Callable
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medsci.core.check.oracle import coefficients
from medsci.core.process.path import Path


@final
class StationaryMixtureOracle:
    """Data from `sum_k pi_k N(m_k, F^-1 P F)`, seen through a path.

    States are real, `(batch, channels, *space)`; a complex image has two channels, its real and its
    imaginary part, whose textures are independent. It is differentiable in the state.

    Args:
        path: the path of the states.
        means: of the components, shape (k, c, *space).
        spectrum: variance of every coefficient of the orthonormal FFT, positive, in the order of
            `torch.fft.fftn` and equal at f and -f; shape `space`, or `(c, *space)`.
        weights: of the components, positive; equal if left out. They are normalised.

    Raises:
        ValueError: the shapes do not fit, or the spectrum is not that of a real texture.

    Source: own derivation; for one component it is the Wiener filter.
    """

    def __init__(
        self,
        path: Path,
        means: Float[Tensor, "k c *space"],
        *,
        spectrum: Float[Tensor, " ..."],
        weights: Float[Tensor, " k"] | None = None,
    ) -> None:
        space = tuple(means.shape[2:])
        if tuple(spectrum.shape) not in (space, tuple(means.shape[1:])) or not space:
            raise ValueError(
                f"the spectrum is {tuple(spectrum.shape)} but the means are {tuple(means.shape)} "
                "(k, c, *space); give a spectrum of shape space or (c, *space)"
            )
        _check_spectrum(spectrum, len(space))
        if weights is None:
            weights = torch.ones(len(means), dtype=means.dtype, device=means.device)
        if len(weights) != len(means) or (weights <= 0.0).any():
            raise ValueError(
                f"{len(weights)} weights, the smallest {weights.min():g}, came for {len(means)} "
                "means; give one positive weight for each"
            )
        self.path = path
        self.means = means
        self.spectrum = spectrum
        self.weights = weights / weights.sum()

    def __call__(self, x: Float[Tensor, "b c *space"], t: float) -> Float[Tensor, "b c *space"]:
        """Return `E[x0 | x_t = x]`."""
        alpha, _ = coefficients(self.path, t)
        gain = alpha * self._power / self._spread(t)
        seen = self._transform(x)
        centre = self._mix(torch.softmax(self._logits(seen, t), dim=1))
        return self._back(gain * seen + (1.0 - alpha * gain) * centre)

    def score(self, x: Float[Tensor, "b c *space"], t: float) -> Float[Tensor, "b c *space"]:
        """Return the gradient of `ln p_t` with respect to x."""
        alpha, _ = coefficients(self.path, t)
        seen = self._transform(x)
        centre = self._mix(torch.softmax(self._logits(seen, t), dim=1))
        return self._back((alpha * centre - seen) / self._spread(t))

    def log_density(self, x: Float[Tensor, "b c *space"], t: float) -> Float[Tensor, " b"]:
        """Return `ln p_t(x)`."""
        seen = self._transform(x)
        spread = self._spread(t).double()
        own = (seen.abs().double() ** 2 / spread * self._count).flatten(1).sum(1)
        full = (spread.log() * self._count).expand(self._spectra.shape[1:]).sum()
        constant = full + x[0].numel() * math.log(2.0 * math.pi)
        return (torch.logsumexp(self._logits(seen, t), dim=1) - 0.5 * (own + constant)).to(x.dtype)

    def responsibilities(self, x: Float[Tensor, "b c *space"], t: float) -> Float[Tensor, "b k"]:
        """Return the probability of every component given `x_t = x`."""
        return torch.softmax(self._logits(self._transform(x), t), dim=1).to(x.dtype)

    def jacobian(self, x: Float[Tensor, "b c *space"], t: float) -> Float[Tensor, "b n n"]:
        """Return the derivative of the denoiser: n = c prod(space) numbers; for small images."""
        alpha, _ = coefficients(self.path, t)
        n, spread = x[0].numel(), self._spread(t)
        gain = alpha * self._power / spread
        basis = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, *x.shape[1:])
        inside = self._back(gain * self._transform(basis)).reshape(n, n)
        share = self.responsibilities(x, t)
        far = self._back((1.0 - alpha * gain) * self._spectra).flatten(1)
        turn = self._back(alpha * self._spectra / spread).flatten(1)
        far = far - (share @ far)[:, None]
        turn = turn - (share @ turn)[:, None]
        return inside + torch.einsum("bk,bki,bkj->bij", share, far, turn)

    def texture(self, z: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        """Colour white noise: return `F^-1 sqrt(P) F z`, of the covariance of every component."""
        return self._back(self._power.sqrt() * self._transform(z))

    def sample(
        self, n: int, t: float, *, generator: torch.Generator
    ) -> Float[Tensor, "n c *space"]:
        """Draw `n` states `x_t`."""
        alpha, sigma = coefficients(self.path, t)
        mode = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        shape = (n, *self.means.shape[1:])
        z, noise = (torch.randn(shape, generator=generator, dtype=self.means.dtype) for _ in "zn")
        return alpha * (self.means[mode] + self.texture(z)) + sigma * noise

    @torch.no_grad()
    def posterior_mean(
        self, y: Float[Tensor, "b m"], matrix: Float[Tensor, "m n"], *, noise: float
    ) -> tuple[Float[Tensor, "b c *space"], Float[Tensor, "b k"]]:
        """Return `E[x0 | y = M x0 + noise z]` for every row of y, exactly, and the shares.

        All components have the covariance C and so one factor of `M C M^T + noise^2`; they differ
        in their evidence `N(y; M m_k, M C M^T + noise^2)`. Computed in float64.

        Args:
            y: real data, one row per image.
            matrix: M, acting on flattened states; see `real_rows` for that of an operator.
            noise: standard deviation of the noise of every number in y, positive.
        """
        if not noise > 0.0:
            raise ValueError(f"noise={noise} came; the evidence needs a positive noise")
        rows = matrix.double()
        law = self.double()
        shape = self.means.shape[1:]
        spread = law._back(law._power * law._transform(rows.reshape(-1, *shape))).flatten(1)
        inner = rows @ spread.mT
        inner.diagonal().add_(noise**2)
        factor = torch.linalg.cholesky(0.5 * (inner + inner.mT))
        gap = y.double()[:, None] - law.means.flatten(1) @ rows.mT
        white = torch.linalg.solve_triangular(factor, gap.flatten(0, 1).mT, upper=False)
        square = white.square().sum(0).reshape(gap.shape[:2])
        share = torch.softmax(law.weights.log() - 0.5 * square, dim=1)
        weighted = torch.einsum("bk,mbk->mb", share, white.reshape(-1, *square.shape))
        pulled = torch.linalg.solve_triangular(factor.mT, weighted, upper=True).mT @ spread
        mean = share @ law.means.flatten(1) + pulled
        return mean.reshape(-1, *shape).to(y.dtype), share.to(y.dtype)

    def double(self) -> "StationaryMixtureOracle":
        """Return the same law in float64."""
        return StationaryMixtureOracle(
            self.path,
            self.means.double(),
            spectrum=self.spectrum.double(),
            weights=self.weights.double(),
        )

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(2 - self.means.ndim, 0))

    def _transform(self, x: Tensor) -> Tensor:
        return torch.fft.rfftn(x, dim=self._dims, norm="ortho")

    def _back(self, spectra: Tensor) -> Tensor:
        space = self.means.shape[2:]
        return torch.fft.irfftn(spectra, s=tuple(space), dim=self._dims, norm="ortho")

    @cached_property
    def _power(self) -> Tensor:
        """The spectrum on the half grid of the real transform."""
        return self.spectrum[..., : self.means.shape[-1] // 2 + 1]

    @cached_property
    def _count(self) -> Tensor:
        """How often a coefficient of the half grid occurs on the full one: 1 or 2, in float64."""
        n = self.means.shape[-1]
        column = torch.arange(n // 2 + 1, device=self.means.device)
        return torch.where((column == 0) | (2 * column == n), 1.0, 2.0).double()

    @cached_property
    def _spectra(self) -> Tensor:
        return self._transform(self.means)

    def _spread(self, t: float) -> Tensor:
        alpha, sigma = coefficients(self.path, t)
        return alpha**2 * self._power + sigma**2

    def _mix(self, share: Tensor) -> Tensor:
        real = torch.view_as_real(self._spectra)
        mixed = torch.einsum("bk,k...->b...", share.to(real.dtype), real)
        return torch.view_as_complex(mixed.contiguous())

    def _logits(self, seen: Tensor, t: float) -> Tensor:
        """Return `ln pi_k + alpha <Fx, Fm_k> / S - alpha^2 |Fm_k|^2 / 2S`, in float64.

        What all components have in common, `|Fx|^2 / 2S`, is left out; the rest is a product of
        two thin matrices instead of k images.
        """
        alpha, _ = coefficients(self.path, t)
        weight = (alpha * self._count / self._spread(t).double()).unsqueeze(-1)
        real = torch.view_as_real(self._spectra).double()
        pulled = (weight * real).flatten(1)
        own = 0.5 * alpha * (pulled * real.flatten(1)).sum(1)
        cross = torch.view_as_real(seen).double().flatten(1) @ pulled.mT
        return self.weights.double().log() + cross - own


def real_rows(
    adjoint: Callable[[Tensor], Tensor],
    state: Callable[[Tensor], Tensor],
    *,
    like: Shaped[Tensor, " ..."],
) -> Float[Tensor, "m n"]:
    """Return the matrix of a linear map, one row per real number in the data.

    Row i is the state of `A^H e_i`, e_i a unit vector of the data (i times a unit vector as well
    where the data are complex: the imaginary part of a datum is `Re <i e, A x>`).

    Args:
        adjoint: `A^H`, from data to one image with a leading axis of one.
        state: from an image to the real state of the prior.
        like: data of one image, of which shape and type are used.
    """
    numbers = [1.0, 1.0j] if like.is_complex() else [1.0]
    units = torch.tensor(numbers, dtype=like.dtype, device=like.device)
    rows = []
    for i in range(like.numel()):
        for unit in units:
            e = torch.zeros_like(like)
            e.view(-1)[i] = unit
            rows.append(state(adjoint(e)).flatten())
    return torch.stack(rows)


def _check_spectrum(spectrum: Tensor, n_dims: int) -> None:
    if not (spectrum > 0.0).all():
        raise ValueError(f"the smallest power is {spectrum.min():g}; all must be positive")
    dims = tuple(range(-n_dims, 0))
    mirrored = spectrum.flip(dims).roll((1,) * n_dims, dims)
    if not torch.allclose(mirrored, spectrum, rtol=1e-5, atol=0.0):
        raise ValueError(
            "the spectrum differs at f and -f, which no real texture does; "
            "give it in the order of torch.fft.fftn, a function of |f|"
        )
