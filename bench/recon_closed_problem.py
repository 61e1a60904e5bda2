"""Volumes whose prior is known exactly: no training, no data, and an exact posterior to compare to.

The prior of a slice is a mixture of 12 Gaussians. Their means are phantoms of 64 x 64 pixels, a
body with seven organs; they share a stationary texture of power `(1 + |f|^2 / 16)^-1.5` and
standard deviation 0.06. A volume has 16 slices of one component, whose textures follow an
autoregression with coefficient 0.95 from slice to slice. The prior of the solvers knows single
slices only.

CT: 8 views over 180 degrees, or 90 views over 90 degrees; 91 bins of one pixel; white noise of 1 %
of the largest datum. MRI: 8 of 64 lines, 4 of them in the centre, with one coil or with 4 at the
corners; complex images, each phantom with a smooth phase of its own, whose texture is shared by
real and imaginary part (0.06 in magnitude); white noise of 0.01 in both parts of every sample.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from medsci.core import Path
from medsci.core.check.stationary_mixture import StationaryMixtureOracle, real_rows
from medsci.data.phase import smooth_phase
from medsci.imaging.beam import ImageGrid, ParallelBeam
from medsci.inverse.measurement import Measurement
from medsci.operators import CartesianMriOp, conjugate_gradient
from medsci.operators.projector import projector
from medsci.recon.masks import cartesian_mask

SIZE, N_SLICES, N_COMPONENTS, N_BINS = 64, 16, 12, 91
TEXTURE, CORRELATION = 0.06, 0.95
COIL = 0.7  # width of a coil's Gaussian, in halves of the image's side
GRID = ImageGrid(SIZE, SIZE, 1.0, 1.0)
KINDS = ("ct8", "lact", "mri", "mri1")
PATH = Path.ve(400.0)


def phantoms(seed: int = 0) -> np.ndarray:
    """Return the means of the components, (12, 64, 64), within [0, 1]."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1.0, 1.0, SIZE)
    y, x = np.meshgrid(axis, axis, indexing="ij")

    def ellipse(cx: float, cy: float, half: np.ndarray, turn: float) -> np.ndarray:
        along = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        across = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        return (along / half[0]) ** 2 + (across / half[1]) ** 2 <= 1.0

    images = []
    for _ in range(N_COMPONENTS):
        half, level, turn = rng.uniform(0.73, 0.9, 2), rng.uniform(0.5, 0.64), rng.uniform(0, np.pi)
        image = level * ellipse(0.0, 0.0, half, turn)
        for _ in range(7):
            radius, phi = 0.6 * math.sqrt(rng.uniform()), rng.uniform(0.0, 2.0 * np.pi)
            contrast, half = rng.uniform(-0.3, 0.3), rng.uniform(0.05, 0.25, 2)
            centre = (radius * np.cos(phi), radius * np.sin(phi))
            image = image + contrast * ellipse(*centre, half, rng.uniform(0.0, np.pi))
        images.append(np.clip(image, 0.0, 1.0))
    return np.stack(images)


@cache
def prior_of(kind: str, *, seed: int = 0) -> StationaryMixtureOracle:
    """Return the exact prior of slices; another seed has other phantoms."""
    means = torch.from_numpy(phantoms(seed)).float()[:, None]
    frequency = np.fft.fftfreq(SIZE) * SIZE
    power = (1.0 + (frequency[:, None] ** 2 + frequency**2) / 16.0) ** -1.5
    variance = TEXTURE**2
    if kind.startswith("mri"):
        phase = torch.from_numpy(_phases(seed))
        means = torch.cat([means * phase.cos(), means * phase.sin()], dim=1)
        variance = variance / 2.0
    spectrum = torch.from_numpy(power * (variance / power.mean())).float()
    return StationaryMixtureOracle(PATH, means, spectrum=spectrum)


@dataclass(frozen=True, eq=False)
class Problem:
    """One volume and its measurement.

    Attributes:
        kind: of `KINDS`.
        seed: of volume, mask and noise.
        truth: the image, (slices, rows, columns), real or complex.
        component: from which it was drawn.
        raw: the measurement as it came.
        beam: of CT.
    """

    kind: str
    seed: int
    truth: Tensor
    component: int
    raw: Measurement
    beam: ParallelBeam | None = None

    @property
    def prior(self) -> StationaryMixtureOracle:
        """The law that the slices were drawn from."""
        return prior_of(self.kind)

    @cached_property
    def measured(self) -> Measurement:
        """The measurement with an operator of norm one."""
        return self.raw.normalised(n_iter=60)[0]

    def psnr(self, image: Tensor) -> float:
        """Return the PSNR for a data range of one, in dB; of the complex error in MRI."""
        return -10.0 * math.log10(float((image - self.truth).abs().square().mean()))

    def posterior_mean(self) -> Tensor:
        """Return the mean of every slice given its own data, exactly."""
        if self.kind == "ct8":
            y = self.raw.y.flatten(1)
            rows = _rows(self.kind)
            state, _ = self.prior.posterior_mean(y, rows, noise=self.raw.noise)
            return self.raw.image(state)
        return self._mean_of_component()

    def _mean_of_component(self) -> Tensor:
        """Return the mean under the true component, which many data leave no doubt of, by CG."""
        op, variance, like = self.raw.op, self.raw.noise**2, self.raw.state(self.truth)
        mean = self.prior.means[self.component].expand(like.shape)

        def covered(u: Tensor) -> Tensor:
            state = self.raw.state(op.adjoint(u))
            state = self.prior.texture(self.prior.texture(state))
            return op(self.raw.image(state)) + variance * u

        gap = self.raw.y - op(self.raw.image(mean))
        white = conjugate_gradient(covered, gap, n_iter=600, tol=1e-4, batched=True)
        pulled = self.prior.texture(self.prior.texture(self.raw.state(op.adjoint(white))))
        return self.raw.image(mean + pulled)


def problem(kind: str, seed: int, *, n_slices: int = N_SLICES) -> Problem:
    """Draw a volume and measure it; `seed` decides everything."""
    generator = torch.Generator().manual_seed(seed)
    prior = prior_of(kind)
    component = int(torch.randint(N_COMPONENTS, (1,), generator=generator))
    state = prior.means[component] + _texture(prior, n_slices, generator)
    if kind.startswith("mri"):
        truth = torch.complex(state[:, 0], state[:, 1])
        op = CartesianMriOp(_maps(kind, n_slices), _mask(seed))
        clean = op(truth)
        noise = op.sample_op(torch.complex(*_normals(clean.shape, generator)))
        n_data = 2 * clean.shape[1] * SIZE * n_slices * int(op.mask.sum())
        raw = Measurement(clean + 0.01 * noise, op, noise=0.01, n_data=n_data)
        return Problem(kind, seed, truth, component, raw)
    truth = state[:, 0]
    op = _projector(kind)
    clean = op(truth)
    sd = 0.01 * float(clean.max())
    y = clean + sd * torch.randn(clean.shape, generator=generator)
    return Problem(kind, seed, truth, component, Measurement(y, op, noise=sd), _beam(kind))


def constant_prior(kind: str) -> Callable[[Tensor, float], Tensor]:
    """Return a prior that knows nothing: half for every pixel, whatever it is shown."""
    return _Constant(prior_of(kind).path)


def wrong_prior(kind: str) -> StationaryMixtureOracle:
    """Return the prior of other phantoms, with the right texture."""
    return prior_of(kind, seed=99)


@dataclass(frozen=True)
class _Constant:
    path: Path

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return torch.full_like(x, 0.5) + 0.0 * x


def _phases(seed: int) -> np.ndarray:
    """Return the smooth phase of every component's mean, as a scanner leaves it."""
    rng = np.random.default_rng([seed, 1])
    drawn = [smooth_phase((SIZE, SIZE), generator=rng) for _ in range(N_COMPONENTS)]
    return np.stack(drawn)[:, None]


def _texture(prior: StationaryMixtureOracle, n: int, generator: torch.Generator) -> Tensor:
    shape = (n, *prior.means.shape[1:])
    fresh = prior.texture(torch.randn(shape, generator=generator))
    slices = [fresh[0]]
    for one in fresh[1:]:
        slices.append(CORRELATION * slices[-1] + math.sqrt(1.0 - CORRELATION**2) * one)
    return torch.stack(slices)


def _normals(shape: torch.Size, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def _beam(kind: str) -> ParallelBeam:
    angles = np.arange(8) * math.pi / 8 if kind == "ct8" else np.arange(90) * math.pi / 180
    return ParallelBeam(angles, N_BINS, 1.0)


@cache
def _projector(kind: str):
    return projector(_beam(kind), GRID)


@cache
def _rows(kind: str) -> Tensor:
    op = _projector(kind)
    like = torch.zeros(1, op.beam.n_angles, op.beam.n_bins)
    return real_rows(op.adjoint, lambda image: image[:, None], like=like)


def _maps(kind: str, n_slices: int) -> Tensor:
    if kind == "mri1":
        return torch.ones(n_slices, 1, SIZE, SIZE, dtype=torch.complex64)
    axis = np.linspace(-1.0, 1.0, SIZE)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    corners = [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)]
    maps = np.stack([np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * COIL**2)) for a, b in corners])
    maps = torch.from_numpy(maps / np.sqrt((maps**2).sum(0))).to(torch.complex64)
    return maps.expand(n_slices, -1, -1, -1).contiguous()


def _mask(seed: int) -> Tensor:
    return cartesian_mask(SIZE, acceleration=8.0, center_fraction=4 / SIZE, seed=seed)
