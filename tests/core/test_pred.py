import math

import pytest
import torch
from torch.testing import assert_close

from medsci.core.process.pred import PREDICTIONS, convert, row, x0_weights

LEVELS = [(math.cos(a), math.sin(a)) for a in (0.01, 0.6, 1.2, 1.56)] + [(0.3, 0.7), (1.0, 40.0)]


def pair(sigma_data: float = 0.5):
    generator = torch.Generator().manual_seed(1)
    x0, z = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    return sigma_data * x0, z


@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_every_conversion_is_exact(source, target, alpha, sigma) -> None:
    x0, z = pair()
    x = alpha * x0 + sigma * z
    p, q = row(source, alpha, sigma, sigma_data=0.5)
    r, s = row(target, alpha, sigma, sigma_data=0.5)
    converted = convert(
        p * x0 + q * z, x, source=source, target=target, alpha=alpha, sigma=sigma, sigma_data=0.5
    )
    assert_close(converted, r * x0 + s * z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pred", ["x0", "v", "flow", "edm"])
def test_data_are_recovered_at_pure_noise_and_at_pure_data(pred) -> None:
    x0, z = pair()
    for alpha, sigma in ((0.0, 1.0), (1.0, 0.0)):
        p, q = row(pred, alpha, sigma, sigma_data=0.5)
        on_x, on_f = x0_weights(pred, alpha, sigma, sigma_data=0.5)
        assert_close(on_x * (alpha * x0 + sigma * z) + on_f * (p * x0 + q * z), x0)


def test_noise_cannot_determine_the_data_at_pure_noise() -> None:
    with pytest.raises(ZeroDivisionError):
        x0_weights("eps", 0.0, 1.0)


def test_edm_is_the_published_preconditioning() -> None:
    # Karras et al. 2022, table 1, in their own frame y = x / alpha
    sigma_hat, sd = 0.8, 0.5
    skip = sd**2 / (sigma_hat**2 + sd**2)
    out = sigma_hat * sd / math.hypot(sigma_hat, sd)
    on_x, on_f = x0_weights("edm", 1.0, sigma_hat, sigma_data=sd)
    assert (on_x, on_f) == pytest.approx((skip, out), rel=1e-12)


def test_edm_targets_have_unit_variance_and_plain_targets_do_not() -> None:
    sd = 0.3
    for alpha, sigma in LEVELS:
        p, q = row("edm", alpha, sigma, sigma_data=sd)
        assert (p * sd) ** 2 + q**2 == pytest.approx(1.0, rel=1e-12)
    p, q = row("flow", 0.5, 0.5)
    assert (p * sd) ** 2 + q**2 != pytest.approx(1.0, rel=1e-2)


def test_v_at_unit_data_is_minus_edm() -> None:
    assert row("v", 0.6, 0.8) == pytest.approx([-c for c in row("edm", 0.6, 0.8)], rel=1e-12)


def test_unknown_prediction_is_named() -> None:
    with pytest.raises(Exception, match=r"velocity|Literal|type"):
        row("velocity", 0.6, 0.8)
