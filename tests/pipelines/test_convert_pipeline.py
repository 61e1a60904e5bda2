"""Files of others in, files of ours out, and back: values, geometry, and nobody's name."""

import dataclasses
import json

import h5py
import numpy as np
import pytest
from contracts.ct_scans import scan_file
from imaging.ct_pd_samples import CtScan, save_scan
from imaging.dicom_samples import INTERCEPT, SLOPE, save_series, stored
from imaging.ismrmrd_samples import Scan, save

from medsci.errors import InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import (
    FanBeam,
    GeometryWarning,
    ImageGrid,
    KSpace,
    SinogramLayout,
    read_bart,
    read_cfl,
    read_dicom_ct_pd,
    read_dicom_series,
    read_kspace,
    read_nifti,
    read_sinogram,
    write_cfl,
    write_kspace,
)
from medsci.pipelines.convert import ConvertOptions, convert

pytest.importorskip("pydicom")

SPACING = (2.5, 1.25, 0.75)
no_geometry = pytest.mark.filterwarnings("ignore::medsci.imaging.GeometryWarning")


def samples(shape=(3, 2, 8, 10), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def lines(n=10):
    mask = np.zeros(n, dtype=bool)
    mask[[0, 3, 4, 5, 6, 9]] = True
    return mask


def kspace(**changes):
    affine = np.array([[0.7, 0.2, 0, 5], [-0.2, 0.7, 0, -3], [0, 0, 2.5, 40], [0, 0, 0, 1]])
    known = {"affine": affine, "sform_code": 1} | changes
    return KSpace(samples() * lines(), lines(), **known)


def same(first, second):
    assert np.array_equal(first.data, second.data)
    assert np.array_equal(first.mask, second.mask)
    np.testing.assert_allclose(first.affine, second.affine)
    assert (first.axes, first.sform_code) == (second.axes, second.sform_code)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


class TestKSpace:
    """Every format of k-space becomes ours, and ours becomes BART's."""

    def test_ismrmrd(self, tmp_path):
        scan = Scan(n_slices=3)
        source = save(tmp_path / "raw.mrd", scan.lines(), scan.xml())
        report = convert(source, tmp_path / "k.h5")
        found, expected = read_kspace(tmp_path / "k.h5"), read_kspace(source)
        same(found, expected)
        assert found.sform_code == 1
        assert "KSpace" in report.result["content"]
        again = convert(tmp_path / "k.h5", tmp_path / "k2.h5")
        assert again.status == "done"
        assert (tmp_path / "k2.h5").read_bytes() == (tmp_path / "k.h5").read_bytes()

    @no_geometry
    def test_ours_to_bart_and_back(self, tmp_path):
        ours = kspace(maps=samples(seed=1))
        write_kspace(ours, tmp_path / "k.h5")
        out = tmp_path / "bart"
        report = convert(tmp_path / "k.h5", out / "k.cfl")
        assert files(out) == ["k.cfl", "k.hdr", "k_maps.cfl", "k_maps.hdr"]
        assert sorted(path.name for path in report.outputs.values()) == files(out)
        back = ConvertOptions(maps=out / "k_maps.cfl", spacing_mm=SPACING)
        convert(out / "k.cfl", tmp_path / "back.h5", options=back)
        found = read_kspace(tmp_path / "back.h5")
        assert np.array_equal(found.data, ours.data)
        assert np.array_equal(found.maps, ours.maps)
        assert np.array_equal(found.mask, ours.mask)
        np.testing.assert_allclose(np.linalg.norm(found.affine[:3, :3], axis=0), SPACING[::-1])
        assert not np.array_equal(found.data, ours.maps), "control"

    @no_geometry
    def test_bart_without_maps_is_a_pair(self, tmp_path):
        write_kspace(kspace(), tmp_path / "k.h5")
        convert(tmp_path / "k.h5", tmp_path / "bart" / "k.cfl")
        assert files(tmp_path / "bart") == ["k.cfl", "k.hdr"]
        assert read_cfl(tmp_path / "bart" / "k").shape[:4] == (8, 10, 1, 2)
        assert np.array_equal(read_bart(tmp_path / "bart" / "k.cfl").data, kspace().data)

    @pytest.mark.parametrize("name", ["k.hdr", "k_maps.cfl", "k_maps.hdr"])
    def test_no_part_of_a_pair_is_replaced_unasked(self, tmp_path, name):
        write_kspace(kspace(maps=samples(seed=1)), tmp_path / "k.h5")
        out = tmp_path / "bart"
        out.mkdir()
        (out / name).write_text("precious")
        with pytest.raises(OutputExistsError, match=name):
            convert(tmp_path / "k.h5", out / "k.cfl")
        assert files(out) == [name]
        convert(tmp_path / "k.h5", out / "k.cfl", existing="overwrite")
        assert (out / name).read_bytes() != b"precious"
        assert len(files(out)) == 4

    def test_npz_with_an_affine(self, tmp_path):
        ours = kspace()
        arrays = {"kspace": ours.data, "mask": ours.mask, "affine": ours.affine}
        np.savez(tmp_path / "a.npz", **arrays)
        convert(tmp_path / "a.npz", tmp_path / "k.h5")
        same(read_kspace(tmp_path / "k.h5"), ours)

    def test_hdf5_with_other_names(self, tmp_path):
        ours = kspace()
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["raw/samples"], file["raw/where"] = ours.data, ours.mask
            file["affine"] = ours.affine
        names = {"kspace": "raw/samples", "mask": "raw/where", "affine": "affine"}
        convert(tmp_path / "a.h5", tmp_path / "k.h5", options=ConvertOptions(names=names))
        same(read_kspace(tmp_path / "k.h5"), ours)
        with pytest.raises(InvalidInputError, match=r"kspace is missing.*give names"):
            convert(tmp_path / "a.h5", tmp_path / "k2.h5")

    def test_fastmri_layout(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["kspace"] = kspace().data
            file["mask"] = lines().astype(np.float32)
        with pytest.warns(GeometryWarning):
            convert(tmp_path / "a.h5", tmp_path / "one.h5")
        options = ConvertOptions(spacing_mm=SPACING)
        convert(tmp_path / "a.h5", tmp_path / "k.h5", options=options)
        found = read_kspace(tmp_path / "k.h5")
        assert np.array_equal(found.data, kspace().data)
        np.testing.assert_allclose(
            sorted(np.linalg.norm(found.affine[:3, :3], axis=0)), sorted(SPACING), rtol=1e-5
        )


class TestCt:
    """Projections and plain arrays become sinograms; images become NIfTI."""

    def test_dicom_series(self, tmp_path):
        folder = save_series(tmp_path / "dicom")
        convert(folder, tmp_path / "ct.nii.gz")
        found, expected = read_nifti(tmp_path / "ct.nii.gz"), read_dicom_series(folder)
        assert found.same_geometry(expected)
        np.testing.assert_array_equal(found.array, SLOPE * stored().T.astype(float) + INTERCEPT)
        assert b"Some^Body" not in (tmp_path / "ct.nii.gz").read_bytes()

    def test_one_series_of_two(self, tmp_path):
        save_series(tmp_path / "dicom")
        save_series(tmp_path / "dicom", series="2", n=3)
        with pytest.raises(InvalidInputError, match="2 series"):
            convert(tmp_path / "dicom", tmp_path / "ct.nii")
        for uid, n in (("1", 4), ("2", 3)):
            options = ConvertOptions(series_uid=f"1.2.826.0.1.3680043.8.498.{uid}")
            convert(tmp_path / "dicom", tmp_path / f"{uid}.nii", options=options)
            assert read_nifti(tmp_path / f"{uid}.nii").shape[2] == n

    def test_dicom_ct_pd(self, tmp_path):
        scan = CtScan(rows=1, columns=30, centre=(15.25, 1.0), per_turn=24, column_mm=7.2)
        folder = save_scan(tmp_path / "raw", scan)
        grid = ImageGrid(16, 16, 8.0, 8.0)
        convert(folder, tmp_path / "scan.h5")
        found, expected = read_sinogram(tmp_path / "scan.h5"), read_dicom_ct_pd(folder, grid=grid)
        assert np.array_equal(found.data, expected.data)
        assert isinstance(found.beam, FanBeam)
        assert np.array_equal(found.beam.angles, expected.beam.angles)
        assert dataclasses.replace(found.beam, angles=np.zeros(24)) == dataclasses.replace(
            expected.beam, angles=np.zeros(24)
        )
        assert found.mu_water == pytest.approx(0.0195)
        assert b"Somebody" not in (tmp_path / "scan.h5").read_bytes()
        half = ConvertOptions(every=2)
        convert(folder, tmp_path / "half.h5", options=half)
        assert read_sinogram(tmp_path / "half.h5").n_angles == 12

    @no_geometry
    def test_plain_arrays_by_what_is_said(self, tmp_path):
        ours = read_sinogram(scan_file(tmp_path / "scan.h5", n_views=7, geometry="fan-curved"))
        beam = ours.beam
        degrees = np.degrees(beam.angles)
        np.savez(tmp_path / "a.npz", rays=ours.data, theta=degrees)
        said = {
            "sinogram": "rays", "angles": "theta", "angle_units": "degrees",
            "geometry": "fan-curved", "bin_mm": repr(beam.bin_mm),
            "source_mm": repr(beam.source_mm), "detector_mm": repr(beam.detector_mm),
            "n_rows": "20", "n_cols": "24", "pixel_mm": "4.5", "slice_mm": "6",
            "mu_water_per_mm": "0.019", "photons": "1e5",
        }  # fmt: skip
        assert set(said) < {f.name for f in dataclasses.fields(SinogramLayout)}
        convert(tmp_path / "a.npz", tmp_path / "b.h5", options=ConvertOptions(geometry=said))
        found = read_sinogram(tmp_path / "b.h5")
        assert np.array_equal(found.data, ours.data)
        np.testing.assert_allclose(found.beam.angles, beam.angles)
        np.testing.assert_allclose(found.beam.fan_angles(), beam.fan_angles())
        assert (found.grid.shape, found.mu_water, found.photons) == ((20, 24), 0.019, 1e5)
        np.testing.assert_allclose(np.linalg.norm(found.affine[:3, :3], axis=0), (4.5, 4.5, 6))
        with pytest.raises(InvalidInputError, match="name the ones to read"):
            convert(tmp_path / "a.npz", tmp_path / "c.h5", options=ConvertOptions(kind="sinogram"))

    def test_ours_stays_as_it_is(self, tmp_path):
        source = scan_file(tmp_path / "scan.h5", n_views=5)
        convert(source, tmp_path / "again.h5")
        assert (tmp_path / "again.h5").read_bytes() == source.read_bytes()


class TestRefused:
    """Names and options that do not fit the input, before anything is written."""

    @pytest.fixture
    def source(self, tmp_path):
        return write_kspace(kspace(), tmp_path / "k.h5")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"every": 2}, "every is for projections, and the input is kspace"),
            ({"series_uid": "1"}, "series_uid is for image"),
            ({"kind": "sinogram", "spacing_mm": SPACING}, "spacing_mm is for kspace"),
            ({"kind": "kspace", "geometry": {"bin_mm": "1"}}, "geometry is for sinogram"),
            ({"geometry": {"bin": "1"}}, "no 'bin'; did you mean bin_mm"),
            ({"geometry": {"bin_mm": "one"}}, "bin_mm=one came; bin_mm is a number"),
            ({"geometry": {"n_rows": "1.5"}}, "n_rows is a whole number"),
        ],
    )
    def test_options(self, source, tmp_path, changes, words):
        with pytest.raises(UsageError, match=words):
            convert(source, tmp_path / "out.h5", options=ConvertOptions(**changes))
        assert files(tmp_path) == ["k.h5"]

    @pytest.mark.parametrize(
        ("name", "words"),
        [("a.nii", r"kspace, which is written as \.h5"), ("a.npz", r"\.cfl"), ("k.h5", "replace")],
    )
    def test_names(self, source, tmp_path, name, words):
        with pytest.raises(UsageError, match=words):
            convert(source, tmp_path / name)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(InvalidInputError, match="does not exist"):
            convert(tmp_path / "gone", tmp_path / "a.h5")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InvalidInputError, match="no DICOM image series"):
            convert(tmp_path / "empty", tmp_path / "a.nii")

    def test_existing_outputs(self, source, tmp_path):
        (tmp_path / "a.h5").write_text("precious")
        with pytest.raises(OutputExistsError):
            convert(source, tmp_path / "a.h5")
        assert convert(source, tmp_path / "a.h5", existing="skip").status == "skipped"
        assert (tmp_path / "a.h5").read_text() == "precious"
        convert(source, tmp_path / "a.h5", existing="overwrite")
        same(read_kspace(tmp_path / "a.h5"), kspace())

    def test_a_failed_write_leaves_nothing(self, source, tmp_path, monkeypatch):
        import medsci.imaging

        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(medsci.imaging, "write_kspace", fail)
        with pytest.raises(OSError, match="No space"):
            convert(source, tmp_path / "out" / "a.h5")
        assert files(tmp_path / "out") == []


def test_the_report_of_a_conversion_is_json(tmp_path):
    write_cfl(samples((8, 10)), tmp_path / "a")
    with pytest.warns(GeometryWarning):
        report = convert(tmp_path / "a.cfl", tmp_path / "k.h5")
    assert json.loads(json.dumps(report.as_dict()))["outputs"] == {
        "converted": str(tmp_path / "k.h5")
    }
