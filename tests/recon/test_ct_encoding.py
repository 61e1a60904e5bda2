import dataclasses
import math

import numpy as np
import pytest
import torch
from contracts.operators import assert_adjoint

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume
from medsci.operators import conjugate_gradient
from medsci.operators.filtered_backprojection import filtered_backprojection
from medsci.recon.ct_encoding import encode_ct, fbp_hu
from medsci.recon.ct_settings import SimulateCtSettings
from medsci.recon.ct_simulation import simulate_ct
from medsci.recon.hounsfield import UnitsWarning

AFFINE = np.array([[-1.5, 0, 0, 40], [0, 1.2, 0, -30], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])


def head() -> Volume:
    """Water with smooth bone around it, in air."""
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in (56, 64, 2)], indexing="ij")
    radius = np.hypot(x, y / 1.1)
    soft = 1000.0 / (1.0 + np.exp((radius - 0.8) * 40)) - 1000.0
    bone = 1400.0 * np.exp(-(((radius - 0.7) / 0.06) ** 2))
    lump = 300.0 * np.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / 0.02)
    return Volume((soft + bone + lump).astype(np.float32), AFFINE, sform_code=1)


def scan(**settings):
    settings = {"n_views": 40, "photons": None, "oversampling": 1} | settings
    return simulate_ct(head(), settings=SimulateCtSettings(**settings))


WINDOWS = [(-1000.0, 2000.0), (-1024.0, 1500.0), (-300.0, 600.0)]


@pytest.mark.parametrize(
    ("geometry", "weights", "window"),
    [
        ("parallel", "none", WINDOWS[0]),
        ("parallel", "statistical", WINDOWS[1]),
        ("parallel", "none", WINDOWS[2]),
        ("fan-curved", "none", WINDOWS[1]),
        ("fan-curved", "statistical", WINDOWS[2]),
    ],
)
def test_data_are_the_operator_of_the_image(geometry, weights, window):
    coded = encode_ct(scan(geometry=geometry), window_hu=window, weights=weights)
    measured = coded.measured
    truth = coded.encode_image(head())
    gap = (measured.op(truth) - measured.y).norm() / measured.op(truth).norm()
    assert gap.item() < 2e-5
    wrong = encode_ct(scan(geometry=geometry), window_hu=(window[0] - 50, window[1]),
                      weights=weights).measured  # fmt: skip
    assert ((wrong.op(truth) - wrong.y).norm() / wrong.op(truth).norm()).item() > 1e-3
    shape = measured.backprojection.shape
    noise = torch.randn(measured.y.shape, generator=torch.Generator().manual_seed(0))
    assert_adjoint(
        measured.op, torch.rand(shape, generator=torch.Generator().manual_seed(1)), noise
    )
    assert measured.state(truth).shape == (2, 1, *shape[1:])


def test_norm_is_that_of_the_operator_and_its_weights():
    plain, weighted = encode_ct(scan()), encode_ct(scan(), weights="statistical")
    assert plain.norm == pytest.approx(
        plain.projector.norm(plain.measured.backprojection), rel=1e-3
    )
    assert weighted.norm < 0.95 * plain.norm
    for coded in (plain, weighted):
        like = coded.measured.backprojection
        assert coded.measured.op.norm(like, n_iter=200) == pytest.approx(1.0, abs=2e-3)
    assert encode_ct(scan(slices=(0, 1))).norm == plain.norm  # slices share their rays


def test_images_come_back_in_hounsfield_units_where_they_were():
    coded = encode_ct(scan(), window_hu=(-1000.0, 1500.0))
    back = coded.decode(coded.encode_image(head()))
    np.testing.assert_allclose(back.array, head().array, atol=2e-3)
    assert back.same_geometry(head())
    assert back.array.dtype == np.float32
    assert coded.decode(torch.zeros(2, 64, 56)).array.max() == -1000.0
    assert coded.decode(torch.ones(2, 64, 56)).array.min() == pytest.approx(1500.0)
    with pytest.raises(InvalidInputError, match=r"makes \(2, 64, 56\)"):
        coded.decode(torch.zeros(2, 56, 64))


@pytest.mark.parametrize("weights", ["none", "statistical"])
@pytest.mark.parametrize("photons", [3e3, 1e5])
def test_misfit_of_the_truth_is_one(weights, photons):
    sinogram = scan(photons=photons, seed=1)
    truth = encode_ct(sinogram).encode_image(head())
    known = encode_ct(sinogram, weights=weights)
    assert 0.95 < known.measured.misfit(truth) < 1.05
    unknown = encode_ct(dataclasses.replace(sinogram, photons=None), weights=weights)
    assert 0.95 < unknown.measured.misfit(truth) < 1.05
    assert unknown.noise == pytest.approx(known.noise, rel=0.05)
    wrong = encode_ct(dataclasses.replace(sinogram, photons=photons / 4), weights=weights)
    assert wrong.measured.misfit(truth) < 0.6
    nothing = encode_ct(scan(photons=None), weights=weights)
    assert nothing.noise < 0.3 * known.noise


def test_noise_in_the_units_of_the_prior():
    sinogram = scan(photons=1e4)
    coded = encode_ct(sinogram, window_hu=(-1000.0, 1000.0))
    assert sinogram.mu_water is not None
    span = 2.0 * sinogram.mu_water
    assert coded.measured.noise == pytest.approx(coded.noise / span / coded.norm)
    exact = torch.from_numpy(scan().data)
    wanted = math.sqrt(torch.exp(exact).mean().item() / 1e4)
    assert coded.noise == pytest.approx(wanted, rel=0.02)


def test_weights_make_the_noise_of_all_rays_equal():
    sinogram, exact = scan(photons=3e3), torch.from_numpy(scan().data)
    dense, thin = exact > exact.quantile(0.8), exact < exact.quantile(0.2)
    ratios = {}
    for weights in ("none", "statistical"):
        coded = encode_ct(sinogram, weights=weights)
        left = coded.measured.op(coded.encode_image(head())) - coded.measured.y
        ratios[weights] = (left[dense].std() / left[thin].std()).item()
    assert ratios["statistical"] == pytest.approx(1.0, abs=0.07)
    counts = torch.exp(exact)
    wanted = (counts[dense].mean() / counts[thin].mean()).sqrt().item()
    assert ratios["none"] == pytest.approx(wanted, rel=0.05)
    assert wanted > 2.0


def test_weights_help_where_photons_are_few():
    sinogram = scan(photons=300.0, n_views=80)
    errors = {}
    for weights in ("none", "statistical"):
        coded = encode_ct(sinogram, weights=weights)
        measured = coded.measured
        image = conjugate_gradient(
            lambda x, op=measured.op: op.normal(x) + 1e-2 * x, measured.backprojection, n_iter=12
        )
        errors[weights] = (image - coded.encode_image(head())).square().mean().sqrt().item()
    assert errors["statistical"] < errors["none"]


def test_filtered_backprojection_is_in_hounsfield_units():
    sinogram = scan(n_views=180)
    volume = fbp_hu(sinogram)
    assert volume.same_geometry(head())
    water = np.abs(head().array) < 1.0
    assert water.sum() > 100
    assert volume.array[water].mean() == pytest.approx(0.0, abs=10.0)
    # The mapped data give the mapped image: the window moves through the reconstruction.
    coded = encode_ct(sinogram, window_hu=(-1000.0, 1500.0))
    mapped = filtered_backprojection(
        coded.measured.y * coded.norm, sinogram.beam, grid=sinogram.grid
    )
    np.testing.assert_allclose(coded.decode(mapped).array, volume.array, atol=0.5)
    smoother = fbp_hu(sinogram, window="hann", cutoff=0.5)
    assert smoother.array.std() < volume.array.std()


def test_unknown_water_scales_and_says_so():
    sinogram = dataclasses.replace(scan(mu_water=0.0205, n_views=180), mu_water=None)
    with pytest.warns(UnitsWarning, match="not known"):
        coded = encode_ct(sinogram)
    assert coded.window.mu_water == 0.0192
    with pytest.warns(UnitsWarning, match="not known"):
        volume = fbp_hu(sinogram)
    water = np.abs(head().array) < 1.0
    assert volume.array[water].mean() == pytest.approx(1000 * (0.0205 / 0.0192 - 1), abs=15)


def test_says_how_to_fix():
    sinogram = scan(slices=(0, 1))
    with pytest.raises(UsageError, match="the lower first"):
        encode_ct(sinogram, window_hu=(1000.0, -1000.0))
    with pytest.raises(InvalidInputError, match="zero everywhere"):
        encode_ct(dataclasses.replace(sinogram, data=np.zeros_like(sinogram.data)))
    with pytest.raises(UsageError, match="backend"):
        encode_ct(sinogram, backend="abacus")
