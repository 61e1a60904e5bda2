import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from medsci.core import Path
from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import KSpace, Volume
from medsci.metrics import psnr
from medsci.recon import (
    ReconSettings,
    SimulateSettings,
    posterior,
    reconstruct,
    sense_cg,
    simulate_kspace,
)
from medsci.recon.encoding import encode
from medsci.recon.orientation import Oriented, View, prior_view

SHAPE = (32, 40, 5)


def head() -> Volume:
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    radius = np.sqrt((grid[0] / 0.8) ** 2 + (grid[1] / 0.9) ** 2)
    image = 100.0 * ((radius < 1.0) - 0.4 * (radius < 0.6) + 0.3 * (np.abs(grid[0] - 0.2) < 0.1))
    return Volume((image * (radius < 1.0)).astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))


def acquired(**settings) -> KSpace:
    chosen = {"acceleration": 3.0, "center_fraction": 0.2, "n_coils": 4, **settings}
    return simulate_kspace(head(), settings=SimulateSettings(**chosen))


class MixturePrior(nn.Module):
    """A few known slices, each blurred by white noise of sd 0.05: exact denoiser in closed form."""

    path = Path.vp_cosine()

    def __init__(self, known: np.ndarray) -> None:
        super().__init__()
        real = torch.from_numpy((known / np.quantile(known, 0.99)).astype(np.float32))
        self.known = torch.stack([real, torch.zeros_like(real)], dim=1)  # (m, 2, rows, columns)

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        y, level, spread = x / alpha, (sigma / alpha) ** 2, 0.05**2
        gap = y[:, None] - self.known
        weights = torch.softmax(-gap.square().flatten(2).sum(-1) / (2 * (spread + level)), dim=1)
        shrunk = self.known + spread / (spread + level) * gap
        return torch.einsum("bm,bmcrp->bcrp", weights, shrunk)


def prior_of(*images: np.ndarray) -> MixturePrior:
    """Know the middle slice of each volume, rows posterior to anterior."""
    return MixturePrior(np.stack([image[:, :, 2].T for image in images]))


def decoys() -> list[np.ndarray]:
    truth = head().array
    return [truth[::-1].copy(), np.roll(truth, 5, axis=1), truth * (truth > 80)]


def test_the_right_slice_is_found_among_decoys_and_the_grid_is_kept() -> None:
    kspace, truth = acquired(), head().array
    settings = ReconSettings(n_samples=2, n_steps=12)
    result = posterior(kspace, prior_of(truth, *decoys()), settings=settings)
    encoding = encode(kspace)
    sense = kspace.to_volume((sense_cg(encoding.y, encoding.op).abs() * encoding.scale).numpy())
    found = psnr(result.mean.array, truth)
    assert found > psnr(sense.array, truth) + 3.0
    assert found > psnr(result.simple.array, truth) + 5.0
    blind = posterior(kspace, prior_of(*decoys()), settings=settings)  # control: truth not known
    assert psnr(blind.mean.array, truth) < found - 3.0
    assert result.mean.same_geometry(head())
    assert result.mean.array.dtype == np.float32
    assert result.std is not None
    assert float(result.std.array.min()) >= 0.0
    np.testing.assert_array_equal(result.reference.array, truth)


def test_one_sample_has_no_uncertainty() -> None:
    result = posterior(
        acquired(), prior_of(head().array), settings=ReconSettings(n_samples=1, n_steps=4)
    )
    assert result.std is None
    assert result.info["samples"] == 1


@pytest.mark.parametrize("chunk", [1, 5])
def test_chunk_changes_nothing(chunk: int) -> None:
    settings = ReconSettings(n_samples=1, n_steps=4, chunk=2)
    first = reconstruct(acquired(), prior_of(head().array), settings=settings)
    other = dataclasses.replace(settings, chunk=chunk)
    again = reconstruct(acquired(), prior_of(head().array), settings=other)
    np.testing.assert_allclose(again.array, first.array, rtol=1e-5, atol=1e-3)


def test_equal_seeds_equal_bytes_other_seeds_differ() -> None:
    settings = ReconSettings(n_samples=2, n_steps=4)
    first = reconstruct(acquired(), prior_of(head().array), settings=settings)
    again = reconstruct(acquired(), prior_of(head().array), settings=settings)
    assert first.array.tobytes() == again.array.tobytes()
    other = dataclasses.replace(settings, seed=1)
    assert not np.allclose(
        reconstruct(acquired(), prior_of(head().array), settings=other).array, first.array
    )


def test_scale_of_the_data_does_not_matter() -> None:
    kspace = acquired()
    settings = ReconSettings(n_samples=1, n_steps=4)
    plain = reconstruct(kspace, prior_of(head().array), settings=settings)
    loud = dataclasses.replace(kspace, data=1e4 * kspace.data, reference=None)
    scaled = reconstruct(loud, prior_of(head().array), settings=settings)
    np.testing.assert_allclose(scaled.array, 1e4 * plain.array, rtol=2e-3, atol=100.0)


def test_image_left_for_the_prior_is_nearly_real() -> None:
    encoding = encode(acquired(acceleration=1.0, noise=0.0))
    x = encoding.op.adjoint(encoding.y)
    assert float(x.imag.square().sum() / x.abs().square().sum()) < 0.02
    assert float(torch.quantile(x.abs().flatten(), 0.99)) == pytest.approx(1.0, abs=0.25)


def test_noise_of_the_data_is_found() -> None:
    kspace = acquired(noise=0.05)
    encoding = encode(kspace)
    estimated = encoding.noise_variance**0.5 * encoding.scale
    assert estimated == pytest.approx(kspace.attributes["noise_sd"], rel=0.5)


def test_progress_reaches_its_total() -> None:
    seen: list[tuple[int, int]] = []
    posterior(
        acquired(), prior_of(head().array), settings=ReconSettings(n_samples=2, n_steps=3),
        progress=lambda done, total, text: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (6, 6)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_missing_maps_and_empty_data_are_said_plainly() -> None:
    with pytest.raises(InvalidInputError, match="stores no coil maps"):
        encode(acquired(), maps="file")
    silent = dataclasses.replace(acquired(), data=np.zeros_like(acquired().data))
    with pytest.raises(InvalidInputError):
        encode(silent)


@pytest.mark.parametrize("bad", [{"n_samples": 0}, {"n_steps": 2}, {"chunk": 0}, {"n_cg": -1}])
def test_bad_settings_get_one_line(bad: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        ReconSettings(**bad)


class Recorder(nn.Module):
    path = Path.rectified()

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.seen = x
        return 2.0 * x


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("axes", [(2, 1, 0), (2, 0, 1)])
def test_the_prior_always_sees_posterior_first_and_left_first(axes, flips) -> None:
    """A mark at the front left of the head is seen in one place, however the voxels lie."""
    n = (6, 8, 2)
    affine = np.diag([*flips, 1.0])
    affine[:3, 3] = [0.0 if f > 0 else m - 1.0 for f, m in zip(flips, n, strict=True)]
    voxel = np.linalg.inv(affine) @ [0.0, n[1] - 1.0, 0.0, 1.0]  # left is -x, front is +y
    array = np.zeros(n, np.float32)
    array[tuple(np.round(voxel[:3]).astype(int))] = 1.0
    image = array.transpose(axes)
    data = np.zeros((n[2], 1, *image.shape[1:]), np.complex64)
    kspace = KSpace(data, np.ones(image.shape[2], bool), affine=affine, axes=axes)
    recorder = Recorder()
    x = torch.from_numpy(np.stack([image, image], axis=1).copy())
    out = Oriented(recorder, prior_view(kspace))(x, 0.5)
    assert torch.equal(out, 2.0 * x)  # turned back
    rows, columns = torch.nonzero(recorder.seen[:, 0].amax(0)).T.tolist()
    assert (rows, columns) == ([n[1] - 1], [0])  # last row is anterior, first column is left


def test_identity_view_does_nothing() -> None:
    recorder, x = Recorder(), torch.randn(1, 2, 3, 4)
    Oriented(recorder, View())(x, 0.5)
    assert torch.equal(recorder.seen, x)
