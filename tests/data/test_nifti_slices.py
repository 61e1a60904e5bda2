"""One's own volumes as slices: orientation, scale, size, and files that cannot be read."""

import gzip
import logging

import nibabel as nib
import numpy as np
import pytest
import torch

from medsci.data.nifti_slices import NiftiSlices
from medsci.data.source import Source
from medsci.errors import InvalidInputError


def head():
    """Return an asymmetric volume on axes R, A, S."""
    data = np.zeros((12, 14, 10), dtype=np.float32)
    data[2:10, 2:12, 1:9] = 100.0
    data[8:10, 10:12, 1:9] = 200.0  # right, anterior
    return data


def save(path, data, affine=None):
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def volume(tmp_path):
    return save(tmp_path / "head.nii.gz", head())


def test_it_is_a_source_and_depends_on_item_and_seed_only(volume):
    source = NiftiSlices(volume, size=(16, 16))
    assert isinstance(source, Source)
    assert source.n_items == 8
    first = source.draw(3, 9)
    assert first.shape == (2, 16, 16)
    assert first.dtype == torch.float32
    source.draw(1, 1)
    assert torch.equal(source.draw(3, 9), first)
    assert torch.equal(NiftiSlices(volume, size=(16, 16)).draw(3, 9), first)
    assert not torch.equal(source.draw(3, 10), first)
    assert not torch.equal(source.draw(4, 9), source.draw(4, 10))


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SAL", "ARI"])
def test_every_orientation_gives_the_same_slices(tmp_path, axcodes):
    image = nib.Nifti1Image(head(), np.eye(4))
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axcodes)
    )
    nib.save(image.as_reoriented(turn), tmp_path / "turned.nii.gz")
    save(tmp_path / "plain.nii.gz", head())
    turned = NiftiSlices(tmp_path / "turned.nii.gz", size=(14, 12))
    plain = NiftiSlices(tmp_path / "plain.nii.gz", size=(14, 12))
    torch.testing.assert_close(turned.draw(2, 5), plain.draw(2, 5))


def test_rows_run_to_anterior_and_columns_to_right(volume):
    source = NiftiSlices(volume, size=(14, 12), channels="magnitude", axis="axial")
    image = source._slices[0]
    row, column = np.unravel_index(np.argmax(image), image.shape)
    assert row >= 10
    assert column >= 8


@pytest.mark.parametrize(("axis", "n"), [("axial", 8), ("coronal", 10), ("sagittal", 8)])
def test_each_axis_gives_its_slices(volume, axis, n):
    source = NiftiSlices(volume, size=(14, 14), axis=axis)
    assert source.n_items == n


def test_the_scale_is_the_99th_percentile_whatever_the_units(tmp_path):
    for name, factor in (("small", 1e-3), ("large", 1e4)):
        save(tmp_path / f"{name}.nii.gz", head() * factor)
    small, large = (
        NiftiSlices(tmp_path / f"{name}.nii.gz", size=(16, 16)) for name in ("small", "large")
    )
    torch.testing.assert_close(small.draw(0, 1), large.draw(0, 1), rtol=1e-3, atol=1e-3)
    magnitudes = [small.draw(0, seed).square().sum(0).sqrt() for seed in range(200)]
    gains = [2.0 * float(m[m > 0.1].median()) for m in magnitudes]  # tissue is half of the scale
    assert 0.78 < min(gains) < 0.85
    assert 1.18 < max(gains) < 1.27


def test_the_residual_phase_is_smooth_and_leaves_the_magnitude(volume):
    both = NiftiSlices(volume, size=(16, 16))
    one = NiftiSlices(volume, size=(16, 16), channels="magnitude")
    z = torch.view_as_complex(both.draw(0, 3).permute(1, 2, 0).contiguous())
    torch.testing.assert_close(z.abs(), one.draw(0, 3)[0])
    assert one.draw(0, 3).shape == (1, 16, 16)
    inside = z.abs() > 0.5
    phase = z.angle()[inside]
    assert 0.0 < phase.abs().max() < 1.0


@pytest.mark.parametrize("size", [(8, 8), (14, 12), (32, 24), (9, 30)])
def test_slices_are_cropped_or_padded_about_the_centre(tmp_path, size):
    data = np.zeros((13, 13, 3), dtype=np.float32)
    data[5:8, 5:8] = 1.0
    source = NiftiSlices(save(tmp_path / "dot.nii", data), size=size, min_signal=0.0)
    image = source._slices[1].astype(np.float64)
    assert image.shape == size
    assert image.sum() == pytest.approx(9.0)
    centre = [(np.indices(size)[a] * image).sum() / image.sum() for a in range(2)]
    assert centre == pytest.approx([(n - 1) / 2 for n in size], abs=0.5)


def test_empty_slices_are_left_out_unless_wanted(volume):
    assert NiftiSlices(volume, size=(14, 12), min_signal=0.0).n_items == 10
    assert NiftiSlices(volume, size=(14, 12), min_signal=0.05).n_items == 8


def test_files_that_cannot_be_read_are_reported_and_skipped(tmp_path, caplog):
    save(tmp_path / "good.nii.gz", head())
    whole = (tmp_path / "good.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "words.nii").write_text("not an image")
    (tmp_path / "garbage.nii.gz").write_bytes(gzip.compress(b"not an image either"))
    save(tmp_path / "zero.nii", np.zeros((4, 4, 4), dtype=np.float32))
    save(tmp_path / "nan.nii", np.full((4, 4, 4), np.nan, dtype=np.float32))
    save(tmp_path / "series.nii", np.ones((4, 4, 4, 3), dtype=np.float32))
    with caplog.at_level(logging.WARNING):
        source = NiftiSlices(tmp_path, size=(14, 12))
    assert source.n_items == 8
    assert {path.name for path, _ in source.skipped} == {
        "cut.nii.gz", "empty.nii.gz", "words.nii", "garbage.nii.gz", "zero.nii", "nan.nii",
        "series.nii",
    }  # fmt: skip
    assert "7 of 8 volumes skipped" in caplog.text
    assert "cut.nii.gz" in caplog.text


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(InvalidInputError, match="no NIfTI file"):
        NiftiSlices(tmp_path)
    with pytest.raises(InvalidInputError, match="no NIfTI file"):
        NiftiSlices(str(tmp_path / "*.nii.gz"))
    (tmp_path / "bad.nii").write_text("x")
    with pytest.raises(InvalidInputError, match=r"none of 1 volumes .* 1 could not be read"):
        NiftiSlices(tmp_path)


def test_folders_patterns_and_lists_are_taken(tmp_path):
    (tmp_path / "deep").mkdir()
    one = save(tmp_path / "one.nii.gz", head())
    two = save(tmp_path / "deep" / "two.nii", head())
    counts = [
        NiftiSlices(files, size=(14, 12)).n_items
        for files in (tmp_path, str(tmp_path / "*.nii.gz"), [one, two], one)
    ]
    assert counts == [16, 8, 16, 8]
