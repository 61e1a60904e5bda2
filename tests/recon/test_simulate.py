import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume
from medsci.operators import FourierOp
from medsci.recon import SimulateSettings, simulate_kspace

AFFINE = np.array([[-1.0, 0, 0, 20], [0, 2.0, 0, -30], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def head(shape=(24, 30, 6)) -> Volume:
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = (grid[0] ** 2 + grid[1] ** 2) < 0.7
    return Volume((100 * inside * (1 + 0.3 * grid[0])).astype(np.int16), AFFINE)


def test_full_noiseless_data_hold_the_image_up_to_phase() -> None:
    volume = head()
    kspace = simulate_kspace(
        volume, settings=SimulateSettings(acceleration=1.0, noise=0.0, center_fraction=0.2)
    )
    coil_images = FourierOp().adjoint(torch.from_numpy(kspace.data))
    rss = coil_images.abs().square().sum(1).sqrt().numpy()
    assert_close(rss, kspace.reference, rtol=1e-4, atol=1e-3)
    back = kspace.to_volume(rss)
    assert back.same_geometry(volume)
    assert_close(back.array, volume.array.astype(np.float32), rtol=1e-4, atol=1e-2)


def test_slab_keeps_its_place_in_the_world() -> None:
    volume = head()
    kspace = simulate_kspace(volume, settings=SimulateSettings(slices=(2, 5), acceleration=2.0))
    slab = kspace.to_volume(kspace.reference)
    assert slab.same_geometry(volume.slab(2, 2, 5))
    assert not slab.same_geometry(volume.slab(2, 1, 4))
    np.testing.assert_array_equal(slab.array, volume.array[:, :, 2:5])


def test_phase_axis_is_the_shorter_side_unless_asked() -> None:
    assert simulate_kspace(head()).axes == (2, 1, 0)
    asked = simulate_kspace(head(), settings=SimulateSettings(phase_axis=1))
    assert asked.axes == (2, 0, 1)
    assert asked.mask.size == 30
    coronal = simulate_kspace(head(), settings=SimulateSettings(slice_axis=1, center_fraction=0.2))
    assert coronal.axes[0] == 1


def test_noise_is_what_was_asked_for() -> None:
    quiet = simulate_kspace(head(), settings=SimulateSettings(noise=0.0))
    noisy = simulate_kspace(head(), settings=SimulateSettings(noise=0.05))
    difference = (noisy.data - quiet.data)[..., noisy.mask]
    assert np.mean(np.abs(difference) ** 2) ** 0.5 == pytest.approx(
        noisy.attributes["noise_sd"], rel=0.02
    )
    assert np.abs(noisy.data[..., ~noisy.mask]).max() == 0.0


def test_seed_is_the_only_randomness() -> None:
    first, again = simulate_kspace(head()), simulate_kspace(head())
    other = simulate_kspace(head(), settings=SimulateSettings(seed=1))
    assert np.array_equal(first.data, again.data)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.mask, other.mask) or not np.allclose(first.data, other.data)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5, 6), np.float32), "not all zero"),
        (-np.ones((4, 5, 6), np.float32), "not negative"),
        (np.full((4, 5, 6), np.nan, np.float32), "finite"),
        (np.ones((4, 5, 6, 2), np.float32), "3D magnitude"),
    ],
)
def test_bad_volumes_get_one_line(array: np.ndarray, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        simulate_kspace(Volume(array, AFFINE))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slices": (3, 9)}, "slices 0:6"),
        ({"slices": (4, 4)}, "slices"),
        ({"n_coils": 0}, "at least one coil"),
        ({"noise": -0.1}, "not negative"),
        ({"slice_axis": 3}, "choose 0, 1 or 2"),
        ({"phase_axis": 2}, "two other axes"),
        ({"acceleration": 0.5}, "acceleration"),
    ],
)
def test_bad_settings_get_one_line(settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        simulate_kspace(head(), settings=SimulateSettings(**settings))
