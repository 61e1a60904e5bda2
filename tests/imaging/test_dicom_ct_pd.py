"""DICOM-CT-PD: the sinogram of a cylinder, by formula, comes back from its files."""

import dataclasses
import re
import sys

import numpy as np
import pytest
from ct_pd_samples import CtScan, save_scan

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.beam import FanBeam, ImageGrid
from medsci.imaging.dicom_ct_pd import read_dicom_ct_pd

pytest.importorskip("pydicom")

GRID = ImageGrid(64, 64, 2.0, 2.0)


def error_of(sinogram, scan):
    """Largest relative L2 error of a plane against the formula."""
    planes = sinogram.affine[2, 3] + np.arange(sinogram.n_slices) * sinogram.affine[2, 2]
    truth = np.stack([scan.fan(sinogram.beam, float(z)) for z in planes])
    gaps = np.linalg.norm(sinogram.data - truth, axis=(1, 2))
    return float((gaps / np.linalg.norm(truth, axis=(1, 2))).max())


@pytest.mark.parametrize(("shape", "implicit"), [("CYLINDRICAL", True), ("FLAT", False)])
def test_one_row_on_a_circle_is_a_fan(tmp_path, shape, implicit):
    scan = CtScan(rows=1, centre=(45.25, 1.0), shape=shape)
    sinogram = read_dicom_ct_pd(save_scan(tmp_path / "a", scan, implicit=implicit), grid=GRID)
    assert sinogram.data.shape == (1, 120, 90)
    assert sinogram.beam.curved == (shape == "CYLINDRICAL")
    assert sinogram.beam.offset_bins == pytest.approx(45.25 - 45.5)
    assert sinogram.mu_water == pytest.approx(0.0195)
    assert (sinogram.sform_code, sinogram.qform_code) == (0, 0)
    assert "Somebody" not in repr(sinogram.attributes)
    assert error_of(sinogram, scan) < 1e-3  # uint16 and float32 angles
    # control: any other reading of the geometry fails
    beam = sinogram.beam
    for wrong in (
        dataclasses.replace(beam, angles=-beam.angles),
        dataclasses.replace(beam, angles=beam.angles + np.pi),
        dataclasses.replace(beam, offset_bins=-beam.offset_bins),
        dataclasses.replace(beam, curved=not beam.curved),
    ):
        gap = np.linalg.norm(sinogram.data[0] - scan.fan(wrong, 0.0))
        assert gap > 5e-3 * np.linalg.norm(sinogram.data)


def test_image_of_the_cylinder(tmp_path):
    """Filtered backprojection puts it where it stood, in the units of attenuation."""
    torch = pytest.importorskip("torch")
    from medsci.operators.projector import projector

    scan = CtScan(rows=1, centre=(45.25, 1.0))
    sinogram = read_dicom_ct_pd(save_scan(tmp_path / "a", scan), grid=GRID)
    op = projector(sinogram.beam, sinogram.grid)
    y = torch.from_numpy(sinogram.data)
    x = torch.zeros(1, 64, 64)
    weight, norm = 1 / op(torch.ones_like(x)).clamp_min(1e-3), op.adjoint(torch.ones_like(y))
    for _ in range(30):  # SIRT
        x = x + op.adjoint(weight * (y - op(x))) / norm.clamp_min(1e-3)
    image = sinogram.to_volume(x.numpy()).array[..., 0]
    index = np.argwhere(image > scan.mu / 2)
    place = sinogram.affine[:2, :2] @ index.mean(0) + sinogram.affine[:2, 3]
    np.testing.assert_allclose(place, scan.at, atol=0.2)
    assert len(index) * 4 == pytest.approx(np.pi * scan.radius**2, rel=0.03)
    i, j = np.rint((np.array(scan.at) - sinogram.affine[:2, 3]) / 2).astype(int)
    assert image[i - 5 : i + 6, j - 5 : j + 6].mean() == pytest.approx(scan.mu, rel=0.02)


def test_rows_on_a_circle_are_planes(tmp_path):
    """A straight cylinder, seen under a cone angle: the cosine of the tilt must be right."""
    scan = CtScan(rows=8, row_mm=9.0)
    sinogram = read_dicom_ct_pd(save_scan(tmp_path / "a", scan), grid=GRID)
    assert sinogram.n_slices == 7
    assert sinogram.affine[2, 2] == pytest.approx(9 * 300 / 560)
    assert error_of(sinogram, scan) < 1e-3


HELIX = CtScan(turns=2.5, per_turn=90, pitch=6.0, slope=(0.25, -0.15), rows=8, start=5.9)


def test_helix_of_a_slanted_cylinder(tmp_path):
    sinogram = read_dicom_ct_pd(save_scan(tmp_path / "a", HELIX), grid=GRID, slice_mm=2.0)
    assert sinogram.attributes["pitch_mm"] == pytest.approx(6.0, rel=1e-3)
    assert sinogram.n_slices == 5
    middle = sinogram.affine[2, 3] + 2 * sinogram.affine[2, 2]
    assert middle == pytest.approx(6.0 * 224 / 90 / 2, abs=1e-4)
    assert error_of(sinogram, HELIX) < 0.02
    straight = dataclasses.replace(HELIX, slope=(0.0, 0.0))
    assert error_of(sinogram, straight) > 0.05  # control: it does follow z
    upside_down = dataclasses.replace(HELIX, slope=(-0.25, 0.15))
    assert error_of(sinogram, upside_down) > 0.1


def test_helix_that_moves_down(tmp_path):
    down = dataclasses.replace(HELIX, pitch=-6.0)
    sinogram = read_dicom_ct_pd(save_scan(tmp_path / "a", down), grid=GRID, z_mm=(-8.0, -6.0))
    assert sinogram.affine[2, 3] == -8.0
    assert error_of(sinogram, down) < 0.02


@pytest.mark.parametrize("pitch", [0.0, 6.0])
def test_flying_focal_spot(tmp_path, pitch):
    """Four positions, in angle, height and distance; ignoring them would be seen."""
    focal = ((0.006, 0.5, 0.2), (-0.006, 0.5, -0.2), (0.006, -0.5, 0.2), (-0.006, -0.5, -0.2))
    fine = {"columns": 180, "column_mm": 1.2, "centre": (90.25, 4.5), "slope": (0.0, 0.0)}
    scan = dataclasses.replace(HELIX, focal=focal, pitch=pitch, turns=1.5, **fine)
    z_mm = (pitch * 0.75, pitch * 0.75)
    sinogram = read_dicom_ct_pd(save_scan(tmp_path / "a", scan), grid=GRID, z_mm=z_mm)
    error = error_of(sinogram, scan)

    def forget(dataset, n):
        for tag in ((0x7033, 0x100B), (0x7033, 0x100C), (0x7033, 0x100D)):
            del dataset[tag]

    blind = save_scan(tmp_path / "b", scan, edit=forget)
    ignored = error_of(read_dicom_ct_pd(blind, grid=GRID, z_mm=z_mm), scan)
    assert error < 0.015
    assert ignored > 4 * error


def test_every_second_view(tmp_path):
    scan = CtScan(rows=1, centre=(45.25, 1.0))
    sinogram = read_dicom_ct_pd(save_scan(tmp_path / "a", scan), grid=GRID, every=2)
    assert sinogram.n_angles == 60
    assert error_of(sinogram, scan) < 1e-3


def test_default_grid_covers_the_field_of_view(tmp_path):
    scan = CtScan(rows=1, centre=(45.5, 1.0))
    sinogram = read_dicom_ct_pd(save_scan(tmp_path / "a", scan))
    assert isinstance(sinogram.beam, FanBeam)
    assert sinogram.grid.shape == (512, 512)
    edge = 300 * np.sin(44.5 * 2.4 / 560)
    assert sinogram.grid.row_mm * 512 == pytest.approx(2 * edge)


def tag_gone(tag):
    def edit(dataset, n):
        del dataset[tag]

    return edit


def tag_set(tag, value, *, at=None):
    def edit(dataset, n):
        if at is None or n == at:
            dataset[tag].value = value

    return edit


def attribute(name, value):
    return lambda dataset, n: setattr(dataset, name, value)


CT_PD = {
    "no detector": ({"edit": tag_gone((0x7029, 0x1011))}, r"Columns \(7029,1011\) is missing"),
    "no source angle": ({"edit": tag_gone((0x7031, 0x1001))}, "AngularPosition .* is missing"),
    "no shape": ({"edit": tag_gone((0x7029, 0x100B))}, "DetectorShape .*is missing"),
    "spherical": ({"edit": tag_set((0x7029, 0x100B), "SPHERICAL")}, "DetectorShape is 'SPHERI"),
    "mixed scans": ({"edit": tag_set((0x7031, 0x1003), 290.0, at=3)}, "Distance differs between"),
    "axis behind": ({"edit": tag_set((0x7031, 0x1031), 200.0)}, "the detector beyond the axis"),
    "negative pitch of bins": ({"edit": tag_set((0x7029, 0x1002), -1.0)}, "must be positive"),
    "no angle": ({"edit": tag_set((0x7031, 0x1001), float("nan"), at=2)}, "must be finite"),
    "centre of one": ({"edit": tag_set((0x7031, 0x1033), 3.0)}, "CentralElement is .3.0.; it"),
    "no numbers": ({"edit": tag_gone((0x0020, 0x0013))}, "no InstanceNumber"),
    "doubled": ({"edit": attribute("InstanceNumber", 3)}, "missing or doubled"),
    "pixels cut": ({"edit": attribute("PixelData", b"1234")}, "has 4 bytes of pixels"),
    "half a turn": ({"scan": {"turns": 0.5}}, "6 views of 12 in a turn came; a full"),
    "less than a turn of helix": ({"scan": {"turns": 1.0, "pitch": 8.0}}, "no plane is seen|not s"),
}  # fmt: skip


@pytest.mark.parametrize("case", CT_PD)
def test_malformed_projections(tmp_path, case):
    options, words = CT_PD[case]
    small = {"columns": 12, "column_mm": 18.0, "centre": (6.5, 1.5), "rows": 2, "per_turn": 12}
    scan = CtScan(**{**small, **options.get("scan", {})})
    folder = save_scan(tmp_path / "raw.d", scan, edit=options.get("edit"))
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_dicom_ct_pd(folder)
    assert "raw.d: " in str(caught.value)
    assert re.search("[;,] ", str(caught.value)), "problem, then remedy"
    assert "\n" not in str(caught.value)


def test_projections_that_are_no_dicom(tmp_path):
    with pytest.raises(InvalidInputError, match="not a folder; name"):
        read_dicom_ct_pd(tmp_path / "gone")
    with pytest.raises(InvalidInputError, match="there are 0 DICOM files"):
        read_dicom_ct_pd(tmp_path)
    (tmp_path / "notes.txt").write_text("about this scan")
    with pytest.raises(InvalidInputError, match=r"notes.txt is no DICOM file.*; keep"):
        read_dicom_ct_pd(tmp_path)


def test_without_pydicom(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(
        UsageError, match=r"needs pydicom; install it with: pip install 'medsci\[di"
    ):
        read_dicom_ct_pd(tmp_path)
    with pytest.raises(UsageError, match="every=0 and slice_mm=None came; give"):
        read_dicom_ct_pd(tmp_path, every=0)
