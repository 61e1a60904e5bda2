"""Bias fields: the cosine fit is least squares, and both methods take out a known field."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medsci.core import Path
from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.recon.bias_field import cosine_field
from medsci.recon.restoration import restore
from medsci.recon.restore_settings import PriorUnits, RestoreSettings

SHAPE = (32, 36, 8)
AFFINE = np.diag([4.5, 4.5, 4.5, 1.0])
MM = (4.5, 4.5, 4.5)


def axes() -> list[np.ndarray]:
    return np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")


def anatomy() -> np.ndarray:
    """Two tissues in an ellipse, in patches, and air."""
    x, y, z = axes()
    patches = np.where(np.sin(9 * x + 2 * z) * np.cos(8 * y) > 0, 100.0, 60.0)
    noise = np.random.default_rng(0).normal(0, 2, SHAPE)
    return np.where(x**2 + y**2 < 0.8, patches + noise, 0.0).astype(np.float32)


def field() -> np.ndarray:
    x, y, _ = axes()
    return np.exp(0.35 * x - 0.2 * y)


def spread(ratio: np.ndarray) -> float:
    """Return the coefficient of variation where there is tissue."""
    inside = anatomy() > 20
    return float(ratio[inside].std() / ratio[inside].mean())


class Knows(nn.Module):
    """A prior that has seen this very head."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.path = Path.vp_cosine()
        self.image = torch.from_numpy(np.ascontiguousarray(anatomy().transpose(2, 1, 0)) / scale)
        self.place = 0

    def forward(self, x: Tensor, t: float) -> Tensor:
        n = len(x)
        part = self.image[self.place : self.place + n, None]
        self.place = (self.place + n) % len(self.image)
        return part.expand_as(x).clone()


def run(image: np.ndarray, prior=None, **more):
    settings = RestoreSettings(task="bias", **more)
    return restore(Volume(image, AFFINE), prior, settings=settings, units=PriorUnits())


def test_n4_takes_out_a_field():
    truth, b = anatomy(), field()
    found = run((truth * b).astype(np.float32))
    left = spread(found.mean.array / np.maximum(truth, 1))
    assert spread(b) > 0.15
    assert left < 0.4 * spread(b)
    np.testing.assert_allclose(
        found.bias_field.array * found.mean.array, truth * b, rtol=1e-4, atol=1e-3
    )
    inside = anatomy() > 20
    assert abs(np.log(found.bias_field.array[inside]).mean()) < 0.05


def test_a_prior_that_knows_takes_out_a_field():
    truth, b = anatomy(), field()
    image = (truth * b).astype(np.float32)
    found = run(image, Knows(100.0), method="prior", n_steps=3, noise=None)
    left = spread(found.mean.array / np.maximum(truth, 1))
    assert left < 0.15 * spread(b)
    assert found.info["network_calls"] == 3


def test_the_fit_is_least_squares():
    generator = torch.Generator().manual_seed(0)
    shape = (4, 8, 9)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    mm = (10.0, 10.0, 10.0)
    ours = cosine_field(values, weights, spacing_mm=mm, wavelength_mm=60.0, ridge=0.0)
    bases = []
    for n in shape:
        k = torch.arange(int(2.0 * n * 10.0 / 60.0) + 1, dtype=torch.float64)
        place = (torch.arange(n, dtype=torch.float64) + 0.5) * torch.pi / n
        bases.append(torch.cos(place[:, None] * k))
    design = torch.einsum("zc,yb,xa->zyxcba", *bases).reshape(values.numel(), -1)
    root = weights.flatten().sqrt()
    solved = torch.linalg.lstsq(design * root[:, None], root * values.flatten()).solution
    torch.testing.assert_close(ours.flatten(), design @ solved, rtol=0, atol=1e-9)
    plain = cosine_field(
        values, torch.ones_like(weights), spacing_mm=mm, wavelength_mm=60.0, ridge=0.0
    )
    assert (plain - ours).abs().max() > 0.05, "the weights count"


def test_waves_are_counted_in_mm():
    x = torch.linspace(0, 1, 40, dtype=torch.float64)
    ripple = torch.cos(2 * torch.pi * 4 * x).expand(2, 8, 40).contiguous()  # 4 waves in 180 mm
    one = torch.ones_like(ripple)
    kept = cosine_field(ripple, one, spacing_mm=MM, wavelength_mm=20.0)
    lost = cosine_field(ripple, one, spacing_mm=MM, wavelength_mm=120.0)
    assert float((kept - ripple).abs().mean()) < 0.1
    assert float(lost.abs().mean()) < 0.2


def test_says_what_is_wrong():
    with pytest.raises(InvalidInputError, match="not negative"):
        run(anatomy() - 50)
    with pytest.raises(InvalidInputError, match="needs a prior"):
        run(anatomy(), method="prior")
    with pytest.raises(InvalidInputError, match="dark"):
        cosine_field(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), spacing_mm=MM)
    settings = RestoreSettings(task="bias", method="prior")
    units = PriorUnits(1, (-1000.0, 1000.0))
    with pytest.raises(InvalidInputError, match="Hounsfield"):
        restore(Volume(anatomy(), AFFINE), None, settings=settings, units=units)
