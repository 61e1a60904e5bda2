import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medsci.core.process.path import Path
from medsci.core.process.shifted import Centred, MeanReverting, Residual, Shifted

DDPM = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
PATHS = {
    "vp_linear": Path.vp_linear(),
    "vp_cosine": Path.vp_cosine(),
    "vp_cosine_offset": Path.vp_cosine(0.008),
    "ve": Path.ve(),
    "ve_geometric": Path.ve(378.0, 0.01, math.inf),
    "rectified": Path.rectified(),
    "tabulated": Path.tabulated(DDPM),
    "zero_terminal_snr": Path.tabulated(
        np.cos(np.linspace(0.01, math.pi / 2, 50)) ** 2 * (1 - 1e-9)
    ),
}
PATHS |= {
    "residual": Residual(),
    "residual_constant_rates": Residual(1.0, decrease=0.0, increase=0.0),
    "mean_reverting": MeanReverting(),
    "mean_reverting_constant": MeanReverting(rate="constant"),
    "mean_reverting_linear": MeanReverting(rate="linear"),
    "shifted": Shifted(Path.tabulated(DDPM)),
    "centred": Centred(Residual()),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
INSIDE = np.linspace(0.003, 0.997, 41)


@every_path
def test_angle_grows_and_inverts_to_the_last_digits(path: Path) -> None:
    angle = path.angle(INSIDE)
    assert np.all(np.diff(angle) > 0.0)
    np.testing.assert_allclose(path.time_at_angle(angle), INSIDE, rtol=1e-10)
    np.testing.assert_allclose(path.angle(path.time_at_angle(angle)), angle, rtol=1e-13)


@every_path
def test_derived_functions_agree_with_alpha_and_sigma(path: Path) -> None:
    alpha, sigma = path.alpha(INSIDE), path.sigma(INSIDE)
    np.testing.assert_allclose(np.tan(path.angle(INSIDE)), sigma / alpha, rtol=1e-9)
    np.testing.assert_allclose(path.log_snr(INSIDE), np.log(alpha / sigma), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(path.time_at_sigma_hat(sigma / alpha), INSIDE, rtol=1e-9)
    np.testing.assert_allclose(path.time_at_log_snr(np.log(alpha / sigma)), INSIDE, rtol=1e-9)


@every_path
def test_float_array_and_tensor_agree(path: Path) -> None:
    tensor = torch.from_numpy(INSIDE)
    for function in (path.alpha, path.shift, path.sigma, path.angle, path.log_snr):
        array = function(INSIDE)
        assert_close(function(tensor), torch.from_numpy(array), rtol=1e-12, atol=1e-14)
        assert float(function(float(INSIDE[7]))) == pytest.approx(array[7], rel=1e-12)


@every_path
def test_ends_are_finite(path: Path) -> None:
    for t in (0.0, 1.0):
        assert all(math.isfinite(float(f(t))) for f in (path.alpha, path.sigma, path.angle))


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine", "vp_cosine_offset", "tabulated"])
def test_variance_is_preserved_and_a_straight_path_fails_that(name: str) -> None:
    def deviation(path: Path) -> float:
        return float(np.abs(path.alpha(INSIDE) ** 2 + path.sigma(INSIDE) ** 2 - 1.0).max())

    assert deviation(PATHS[name]) < 1e-14
    assert deviation(PATHS["rectified"]) > 0.4


def test_tabulated_is_exact_at_its_nodes_and_clean_at_zero() -> None:
    path = PATHS["tabulated"]
    nodes = np.arange(1, 1001) / 1000
    np.testing.assert_allclose(path.alpha(nodes) ** 2, DDPM, rtol=1e-12)
    assert path.sigma(0.0) == 0.0
    assert path.alpha(0.0) == 1.0


def test_tabulated_between_nodes_stays_between_their_values() -> None:
    path = Path.tabulated([0.9, 0.5, 0.49, 0.1])
    fine = path.angle(np.linspace(0.0, 1.0, 401))
    assert np.all(np.diff(fine) > 0.0)


def test_linear_rate_of_ddpm_matches_its_own_table() -> None:
    # beta(t) = 1000 * table, so the continuous path follows the table to first order in 1 / 1000
    continuous = Path.vp_linear(0.1, 20.0).alpha(np.arange(1, 1001) / 1000) ** 2
    assert np.abs(continuous - DDPM).max() < 2e-3


def test_ve_uniform_grid_is_the_grid_of_karras() -> None:
    path = Path.ve(80.0, 0.002, 7.0)
    t = np.linspace(0.0, 1.0, 11)
    expected = (0.002 ** (1 / 7) + t * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    np.testing.assert_allclose(path.sigma(t), expected, rtol=1e-13)
    geometric = Path.ve(378.0, 0.01, math.inf).sigma(t)
    np.testing.assert_allclose(np.diff(np.log(geometric)), np.log(37800) / 10, rtol=1e-12)


def test_perturb_uses_one_time_per_sample() -> None:
    path = Path.rectified()
    x0, z = torch.ones(2, 3, 4), torch.full((2, 3, 4), 5.0)
    x_t = path.perturb(x0, torch.tensor([0.0, 1.0]), z)
    assert_close(x_t[0], x0[0])
    assert_close(x_t[1], z[1])


def test_a_conditional_mean_is_added_and_never_forgotten() -> None:
    x0, z, mu = torch.ones(2, 3), torch.full((2, 3), 5.0), torch.full((2, 3), -7.0)
    t = torch.tensor([0.0, 0.3])
    moved = Shifted(Path.rectified()).perturb(x0, t, z, mu=mu)
    assert_close(moved, Path.rectified().perturb(x0, t, z) + t[:, None] * mu)
    with pytest.raises(ValueError, match="pass mu="):
        Shifted(Path.rectified()).perturb(x0, t, z)
    assert [PATHS[n].shifted for n in ("residual", "mean_reverting", "shifted")] == [True] * 3
    assert not any(PATHS[n].shifted for n in ("centred", "vp_linear", "tabulated"))


def test_paths_are_values() -> None:
    assert Path.vp_linear() == Path.vp_linear()
    assert hash(Path.tabulated(DDPM)) == hash(Path.tabulated(DDPM))
    assert Path.vp_linear() != Path.vp_linear(0.2)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Path.ve(1.0, 2.0), "sigma_min"),
        (lambda: Path.ve(80.0, 0.0, math.inf), "sigma_min|more"),
        (lambda: Path.tabulated([0.5, 0.6, 0.4]), "cumprod"),
        (lambda: Path.tabulated([1.0, 0.5]), "strictly"),
        (lambda: Path.ve().time_at_sigma_hat(100.0), "sigma_max"),
    ],
)
def test_says_how_to_fix(build, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def test_a_table_that_ends_in_equal_angles_is_finite():
    """A steep schedule saturates: its last rows differ by less than a float64 angle can hold."""
    table = np.cumprod(1.0 - np.linspace(1e-3, 0.2, 1000))
    path = Path.tabulated(table)
    times = np.linspace(0.0, 1.0, 4001)
    assert np.isfinite(path.angle(times)).all()
    assert np.all(np.diff(path.angle(times)) >= 0.0)
    np.testing.assert_allclose(path.alpha((np.arange(300) + 1) / 1000) ** 2, table[:300], rtol=1e-9)
