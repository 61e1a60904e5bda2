"""The schedule of the published head generators: its table, and the noise that steps add."""

import numpy as np
import pytest

from medsci.core.denoise.schedules import alphas_bar_of
from medsci.core.process import Path
from medsci.core.solve import Ancestral, grid

BETAS = np.linspace(1e-4, 2e-2, 1000)
TABLE = {  # row: cumulative product, weight of the data, weight of the noise
    0: (0.9999, 0.99995, 0.01),
    100: (0.895142, 0.946119, 0.323818),
    250: (0.521423, 0.722096, 0.691793),
    500: (0.0777967, 0.278921, 0.960314),
    750: (3.30016e-3, 0.057447, 0.998349),
    945: (1.16707e-4, 0.0108031, 0.999942),
    999: (4.03583e-5, 0.00635282, 0.99997982),
}


def linear_path():
    return Path.tabulated(alphas_bar_of("linear"))


def rows(path):
    times = np.arange(1, 1001) / 1000
    return path.alpha(times), path.sigma(times)


@pytest.mark.parametrize("row", TABLE)
def test_the_table_to_its_last_printed_digit(row):
    product, a, s = TABLE[row]
    path, t = linear_path(), (row + 1) / 1000
    assert alphas_bar_of("linear")[row] == pytest.approx(product, rel=6e-6)
    assert float(path.alpha(t)) == pytest.approx(a, rel=1e-5)
    assert float(path.sigma(t)) == pytest.approx(s, rel=2e-6)
    beside = float(path.alpha(t - 1e-3 if row else t + 1e-3))
    assert beside != pytest.approx(a, rel=1e-5)  # control: the row beside is another one


def test_the_path_is_the_schedule_at_every_row():
    a, s = rows(linear_path())
    np.testing.assert_allclose(a**2, alphas_bar_of("linear"), rtol=1e-11)
    np.testing.assert_allclose(a**2 + s**2, 1.0, rtol=1e-14)
    assert np.all(np.diff(alphas_bar_of("linear")) < 0.0)
    other, _ = rows(Path.tabulated(alphas_bar_of("scaled_linear")))
    assert np.abs(other - a).max() > 1e-2  # control: another schedule between the same betas


def test_what_the_flow_is_divided_by_stays_away_from_zero():
    """`a + s` over all rows; noise prediction divides by `a`, which falls to 1 / 157."""
    a, s = rows(linear_path())
    total = a + s
    assert total.min() == pytest.approx(1.00633, abs=5e-6)
    assert total.max() == pytest.approx(1.41422, abs=7e-6)
    assert int(total.argmax()) == 258
    assert int(total.argmin()) == 999
    assert a.min() == pytest.approx(1.0 / 157.4, rel=1e-3)


def test_the_noise_at_the_end_is_not_pure():
    path = linear_path()
    assert float(path.alpha(1.0) / path.sigma(1.0)) ** 2 == pytest.approx(4.04e-5, rel=1e-3)
    assert float(path.sigma(1 / 1000)) == pytest.approx(0.01, rel=1e-9)  # and row 0 is not clean


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_fresh_noise_is_the_posterior_of_ddpm(eta):
    """On neighbouring rows, `eta^2 beta (1 - abar') / (1 - abar)`; none on the last step."""
    now = np.cumprod(1.0 - BETAS)
    before = np.append(1.0, now[:-1])
    expected = eta**2 * BETAS * (1.0 - before) / (1.0 - now)
    steps = Ancestral(eta).plan(linear_path(), grid.indices(1000, 1000)).steps[::-1]
    found = np.array([step.z**2 for step in steps])
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-12)
    assert found[0] == 0.0
    assert np.abs(found - eta**2 * BETAS).max() > 1e-6  # control: the other choice of DDPM
    halved = Ancestral(eta).plan(linear_path(), grid.indices(1000, 500)).steps[::-1]
    assert abs(halved[-1].z ** 2 - expected[-1]) > 1e-3  # control: rows two apart


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_general_variance_holds_on_the_straight_path_too(eta):
    """`eta^2 s'^2 / s^2 (s^2 - (a s' / a')^2)`, with `(a, s) = (1 - u, u)`."""
    u = grid.uniform(10)
    steps = Ancestral(eta).plan(Path.rectified(), u).steps
    for step, t, v in zip(steps, u[:-1], u[1:], strict=True):
        left = t**2 - ((1.0 - t) * v / (1.0 - v)) ** 2
        assert step.z**2 == pytest.approx(eta**2 * v**2 / t**2 * left, rel=1e-12, abs=1e-15)
        kept = step.rows[0].a ** 2 * t**2 + step.z**2
        assert kept == pytest.approx(v**2, rel=1e-12, abs=1e-15)  # the noise of the path remains
