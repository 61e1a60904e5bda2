"""BART's pair of files: written and read back, and the centred transform that both share."""

import warnings

import numpy as np
import pytest
from kspace_samples import MASK, centred_ifft, noise, sample

from medsci.errors import InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import GeometryWarning, read_kspace
from medsci.imaging.bart import read_bart, read_cfl, write_bart, write_cfl

SPACING = (2.5, 1.25, 0.75)


def test_layout_is_column_major(tmp_path):
    """The bytes, by hand: first dimension fastest, real before imaginary, little endian."""
    array = (np.arange(6).reshape(2, 3) + 1j).astype(np.complex64)
    path = write_cfl(array, tmp_path / "a")
    assert path == tmp_path / "a.cfl"
    assert np.fromfile(path, "<f4").tolist() == [0, 1, 3, 1, 1, 1, 4, 1, 2, 1, 5, 1]
    assert (tmp_path / "a.hdr").read_text().splitlines()[:2] == [
        "# Dimensions", "2 3" + 14 * " 1",
    ]  # fmt: skip
    for name in ("a", "a.cfl", "a.hdr"):
        again = read_cfl(tmp_path / name)
        assert again.shape == (2, 3, *[1] * 14)
        assert np.array_equal(again.reshape(2, 3), array)


def test_header_of_bart_s_own_tools(tmp_path):
    """They write fewer dimensions at times, and sections after the first."""
    write_cfl(np.ones((4, 2), np.complex64), tmp_path / "a")
    (tmp_path / "a.hdr").write_text(
        "# Dimensions\n4 2 \n# Command\nfft 3 in out\n# Creator\nBART\n"
    )
    assert read_cfl(tmp_path / "a").shape[:3] == (4, 2, 1)


def test_round_trip(tmp_path):
    kspace = sample(maps=noise(seed=1))
    path = write_bart(kspace, tmp_path / "a.cfl")
    assert read_cfl(path).shape == (8, 10, 1, 2, *[1] * 9, 3, 1, 1)
    again = read_kspace(path, maps=tmp_path / "a_maps.cfl", spacing_mm=SPACING)
    assert np.array_equal(again.data, kspace.data)
    assert np.array_equal(again.maps, kspace.maps)
    assert np.array_equal(again.mask, MASK)
    assert again.sform_code == 0
    volume = again.to_volume(np.zeros((3, 8, 10), np.float32))
    np.testing.assert_allclose(volume.spacing_mm, (0.75, 1.25, 2.5))
    with pytest.raises(OutputExistsError):
        write_bart(kspace, path)
    write_bart(kspace, path, overwrite=True)
    wrong = again.data[:, ::-1]  # control: coils in another order are not the same
    assert not np.array_equal(wrong, kspace.data)


def test_partitions_become_slices(tmp_path):
    """k-space of a volume, by a 3D transform, is that of its slices."""
    stack = noise((6, 2, 8, 10), seed=3)
    samples = np.fft.fftshift(
        np.fft.fft(np.fft.ifftshift(stack, 0), axis=0, norm="ortho"), 0
    ).transpose(2, 3, 0, 1)
    write_cfl(samples, tmp_path / "a")
    kspace = read_kspace(tmp_path / "a", spacing_mm=SPACING)
    np.testing.assert_allclose(kspace.data, stack, atol=1e-5)
    image = np.sqrt((np.abs(centred_ifft(kspace.data)) ** 2).sum(1))
    assert kspace.to_volume(image.astype(np.float32)).shape == (10, 8, 6)
    # maps of a volume are images, so partitions are slices already
    write_cfl(stack.transpose(2, 3, 0, 1), tmp_path / "m")
    both = read_bart(tmp_path / "a", maps=tmp_path / "m", spacing_mm=SPACING)
    assert np.array_equal(both.maps, stack)


def test_first_of_several_maps(tmp_path):
    data, maps = noise((1, 2, 8, 10)), noise((2, 2, 8, 10), seed=5)
    write_cfl(data.transpose(2, 3, 0, 1), tmp_path / "a")
    write_cfl(maps.transpose(2, 3, 1, 0)[:, :, None], tmp_path / "m")
    kspace = read_kspace(tmp_path / "a.cfl", maps=tmp_path / "m", spacing_mm=SPACING)
    assert np.array_equal(kspace.maps[0], maps[0])


def test_without_spacing(tmp_path):
    path = write_bart(sample(), tmp_path / "a.cfl")
    with pytest.warns(GeometryWarning, match="took 1 mm"):
        kspace = read_kspace(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert kspace.to_volume(np.zeros((3, 8, 10))).spacing_mm == (1, 1, 1)


def test_options_that_bart_has_no_use_for(tmp_path):
    path = write_bart(sample(), tmp_path / "a.cfl")
    with pytest.raises(UsageError, match="names came, and bart files have no use"):
        read_kspace(path, names={"kspace": "a"})
    with pytest.raises(InvalidInputError, match="more than 16 axes"):
        write_cfl(np.ones([1] * 17, np.complex64), tmp_path / "b")
