import importlib
import math
import warnings

import numpy as np
import pytest
import torch

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam
from medsci.operators._redundancy import fan_redundancy, scanned_span, view_widths
from medsci.operators.filtered_backprojection import filtered_backprojection
from medsci.operators.projector import projector

module = importlib.import_module("medsci.operators.filtered_backprojection")
GRID = ImageGrid(96, 108, 1.5, 1.25)
ROWS, COLUMNS = GRID.centres()
Y, X = np.meshgrid(ROWS, COLUMNS, indexing="ij")
BODY, LUMP = ((-5.0, 3.0, 58.0), 0.01), ((20.0, -14.0, 22.0), 0.02)  # (x, y, radius) mm, 1/mm


def views(n, span=180.0, start=0.0):
    return np.radians(start + np.arange(n) * span / n)


def fan(angles, *, curved=False, offset_bins=0.0):
    return FanBeam(
        angles, 280, 1.5, source_mm=300.0, detector_mm=200.0, offset_bins=offset_bins, curved=curved
    )


def distance(beam, centre):
    points, directions = beam.rays()
    away = points - np.array(centre)
    return np.abs(away[..., 0] * directions[..., 1] - away[..., 1] * directions[..., 0])


def chords(beam):
    """Line integrals of two overlapping discs, from the distances of the rays to their centres."""
    total = 0.0
    for (x, y, radius), value in (BODY, LUMP):
        inside = np.maximum(radius**2 - distance(beam, (x, y)) ** 2, 0.0)
        total = total + 2 * value * np.sqrt(inside)
    return torch.from_numpy(total)[None]


def levels(image):
    """Mean attenuation in lump, body and air over the truth, at some distance from the edges."""
    lump, body = np.hypot(X - 20, Y + 14), np.hypot(X + 5, Y - 3)
    return (
        image[lump < 19].mean() / 0.03,
        image[(body < 54) & (lump > 26)].mean() / 0.01,
        np.abs(image[(body > 62) & (body < 70)]).mean(),
    )


GEOMETRIES = {
    "parallel": ParallelBeam(views(360), 160, 1.0),
    "parallel quarter offset": ParallelBeam(views(360), 160, 1.0, 0.25),
    "parallel twice around": ParallelBeam(views(360, 360.0, 17.0), 160, 1.0),
    "flat fan": fan(views(360, 360.0)),
    "curved fan": fan(views(360, 360.0), curved=True),
    "flat fan quarter offset": fan(views(360, 360.0), offset_bins=0.25),
    "flat short scan": fan(views(360, 260.0, 40.0)),
    "curved short scan": fan(views(360, 260.0, -100.0), curved=True),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_attenuation_comes_out_in_absolute_units(name):
    beam = GEOMETRIES[name]
    image = filtered_backprojection(chords(beam), beam, grid=GRID)[0].numpy()
    lump, body, air = levels(image)
    assert lump == pytest.approx(1.0, abs=0.002)
    assert body == pytest.approx(1.0, abs=0.002)
    assert air < 3e-4


def test_a_disc_of_one_value_to_one_percent_with_360_views():
    beam = GEOMETRIES["parallel"]
    radius, value = 40.0, 0.0192
    y = 2 * value * np.sqrt(np.maximum(radius**2 - distance(beam, (9.0, -6.0)) ** 2, 0.0))
    image = filtered_backprojection(torch.from_numpy(y)[None], beam, grid=GRID)[0].numpy()
    inside = image[np.hypot(X - 9, Y + 6) < radius - 4]
    assert inside.mean() == pytest.approx(value, rel=1e-3)
    assert np.abs(inside / value - 1).max() < 0.01


def test_wrong_geometry_is_seen(monkeypatch):
    beam = GEOMETRIES["flat fan"]
    mistaken = fan(beam.angles, curved=True)
    wrong = levels(filtered_backprojection(chords(beam), mistaken, grid=GRID)[0].numpy())
    assert abs(wrong[0] - 1) > 0.002 or wrong[2] > 3e-4
    mirrored = fan(-beam.angles)
    assert (
        abs(levels(filtered_backprojection(chords(beam), mirrored, grid=GRID)[0].numpy())[0] - 1)
        > 0.2
    )
    # A ramp sampled in frequency loses the mean; the spatial one keeps it.
    beam = GEOMETRIES["parallel"]

    def sampled(n_bins, *, step_rad=None):
        size = 2 ** math.ceil(math.log2(2 * n_bins))
        ramp = torch.linspace(0, 0.5, size // 2 + 1, dtype=torch.float64)
        return torch.fft.irfft(ramp.to(torch.complex128), n=size)

    monkeypatch.setattr(module, "_kernel", sampled)
    wrong = levels(filtered_backprojection(chords(beam), beam, grid=GRID)[0].numpy())
    assert abs(wrong[1] - 1) > 0.01


def test_parker_weights_matter_and_complete_every_line():
    beam = GEOMETRIES["flat short scan"]
    off = filtered_backprojection(chords(beam), beam, grid=GRID, short_scan="off")[0].numpy()
    assert abs(levels(off)[1] - 1) > 0.01
    # Each line is measured as (beta, gamma) and (beta + pi - 2 gamma, -gamma); shares add to one.
    gamma, span = np.array([-0.4, -0.1, 0.0, 0.2, 0.4]), math.pi + 2 * 0.45
    angles = 0.3 + (np.arange(4000) + 0.5) * span / 4000
    weights = fan_redundancy(angles, gamma, short_scan="auto")
    for index, g in enumerate(gamma):
        partner = angles + math.pi - 2 * g
        share = np.interp(partner, angles, weights[:, -1 - index] if g in (-0.4, 0.0, 0.4) else
                          fan_redundancy(angles, np.append(gamma, -g), short_scan="auto")[:, -1],
                          left=0.0, right=0.0)  # fmt: skip
        early = angles < angles[-1] - math.pi + 2 * g
        np.testing.assert_allclose((weights[:, index] + share)[early], 1.0, atol=2e-3)


@pytest.mark.parametrize("curved", [False, True])
def test_limited_fan_warns_and_stays_finite(curved):
    beam = fan(views(100, 120.0), curved=curved)
    with pytest.warns(UserWarning, match="short scan needs .*iterative"):
        image = filtered_backprojection(chords(beam), beam, grid=GRID)
    assert torch.isfinite(image).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filtered_backprojection(chords(beam), beam, grid=GRID, short_scan="off")


def test_one_view_and_limited_angles_do_not_divide_by_zero():
    for angles in (views(1), views(1, start=77.0), np.zeros(2), np.array([0.0, math.pi])):
        beam = ParallelBeam(angles, 160, 1.0)
        image = filtered_backprojection(chords(beam), beam, grid=GRID)
        assert torch.isfinite(image).all()
        assert image.abs().max() > 0
    np.testing.assert_allclose(view_widths(views(1), period=math.pi), math.pi)
    # A limited angle is the plain sum of views times their step: scale pi / A * span / 180.
    for span in (90.0, 120.0, 45.0):
        widths = view_widths(views(30, span, 20.0), period=math.pi)
        np.testing.assert_allclose(widths, math.radians(span / 30))
    np.testing.assert_allclose(view_widths(views(7), period=math.pi), math.pi / 7)
    np.testing.assert_allclose(view_widths(views(7, 360.0), period=math.pi), math.pi / 7)
    np.testing.assert_allclose(view_widths(views(8, 360.0), period=math.pi), math.pi / 8)
    golden = np.mod(np.arange(50) * math.pi * (math.sqrt(5) - 1) / 2, math.pi)
    assert view_widths(golden, period=math.pi).sum() == pytest.approx(math.pi)


def test_span_of_a_scan():
    first, span = scanned_span(np.random.default_rng(0).permutation(views(90, 200.0, 300.0)))
    step = math.radians(200 / 90)
    assert first == pytest.approx(math.radians(300.0) - step / 2)
    assert span == pytest.approx(math.radians(200.0))
    assert scanned_span(views(12, 360.0, 5.0))[1] == pytest.approx(2 * math.pi)


def test_order_of_the_views_does_not_matter():
    beam = fan(views(60, 260.0))
    shuffled = beam.subset(np.random.default_rng(0).permutation(beam.n_angles))
    first = filtered_backprojection(chords(beam), beam, grid=GRID)
    again = filtered_backprojection(chords(shuffled), shuffled, grid=GRID)
    torch.testing.assert_close(first, again, rtol=1e-9, atol=1e-12)


def test_linear_and_one_slice_at_a_time():
    beam = ParallelBeam(views(12), 160, 1.0)
    y = torch.randn(3, 12, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = filtered_backprojection(y, beam, grid=GRID, window="hann")
    for index in range(3):
        alone = filtered_backprojection(y[index : index + 1], beam, grid=GRID, window="hann")
        torch.testing.assert_close(alone[0], whole[index], rtol=1e-12, atol=1e-15)
    mix = filtered_backprojection(2 * y[:1] - 3 * y[1:2], beam, grid=GRID, window="hann")
    torch.testing.assert_close(mix[0], 2 * whole[0] - 3 * whole[1], rtol=1e-10, atol=1e-13)
    single = filtered_backprojection(y.float(), beam, grid=GRID, window="hann")
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), whole, rtol=0, atol=2e-4 * float(whole.abs().max()))


def test_noise_is_the_predicted_one():
    n, pitch, sd = 40, 1.3, 0.05
    beam = ParallelBeam(views(n), 160, pitch)
    generator = torch.Generator().manual_seed(1)
    noise = sd * torch.randn(48, n, 160, dtype=torch.float64, generator=generator)
    image = filtered_backprojection(noise, beam, grid=GRID)
    predicted = (math.pi * sd / pitch) ** 2 * (1 / 18 - 1 / (6 * math.pi**2)) / n
    assert image.var().item() == pytest.approx(predicted, rel=0.02)
    smoother = filtered_backprojection(noise, beam, grid=GRID, window="hann")
    assert smoother.var().item() < 0.3 * predicted


def test_windows_trade_noise_for_detail_and_keep_the_mean():
    beam = ParallelBeam(views(180), 160, 1.0)
    noise = torch.randn(
        1, 180, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    spreads, y = [], chords(beam)
    for window in ("ramp", "shepp-logan", "cosine", "hamming", "hann"):
        image = filtered_backprojection(y, beam, grid=GRID, window=window)[0].numpy()
        assert levels(image)[0] == pytest.approx(1.0, abs=0.005)
        spreads.append(filtered_backprojection(noise, beam, grid=GRID, window=window).std().item())
    assert spreads == sorted(spreads, reverse=True)
    cut = filtered_backprojection(noise, beam, grid=GRID, cutoff=0.5).std().item()
    assert cut < 0.6 * spreads[0]


@pytest.mark.parametrize("curved", [False, True])
def test_agrees_with_the_projector(curved):
    smooth = 0.02 * np.exp(-((X - 15) ** 2 + (Y + 20) ** 2) / (2 * 12.0**2))
    truth = torch.from_numpy(smooth)[None]
    for beam in (ParallelBeam(views(90), 200, 1.0), fan(views(180, 360.0), curved=curved)):
        y = projector(beam, GRID, dtype=torch.float64)(truth)
        image = filtered_backprojection(y, beam, grid=GRID)
        assert ((image - truth).norm() / truth.norm()).item() < 0.01
        moved = filtered_backprojection(y, beam, grid=GRID).roll(1, dims=-1)
        assert ((moved - truth).norm() / truth.norm()).item() > 0.05


def test_says_how_to_fix():
    beam = ParallelBeam(views(12), 160, 1.0)
    y = torch.zeros(1, 12, 160)
    with pytest.raises(InvalidInputError, match="geometry of this very scan"):
        filtered_backprojection(y[:, :11], beam, grid=GRID)
    with pytest.raises(UsageError, match="cutoff=0"):
        filtered_backprojection(y, beam, grid=GRID, cutoff=0.0)
