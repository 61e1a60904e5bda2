"""The options of `medsci convert` reach the files it writes."""

import json

import h5py
import numpy as np
import pytest
from contracts.ct_scans import scan_file
from imaging.dicom_samples import save_series
from imaging.ismrmrd_samples import Scan, noise_lines, save

from medsci.cli.main import main
from medsci.imaging import read_kspace, read_nifti, read_sinogram, write_cfl

no_geometry = pytest.mark.filterwarnings("ignore::medsci.imaging.GeometryWarning")


@pytest.fixture
def run(capfd):
    def call(source, output, *more) -> tuple[int, str, str]:
        capfd.readouterr()
        words = ["convert", "-i", source, "-o", output, *more]
        code = main([str(word) for word in words])
        return (code, *capfd.readouterr())

    return call


def samples(shape=(3, 2, 8, 10), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def test_plain_hdf5_with_names_spacing_and_crop(run, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["coils"] = samples(), samples(seed=1)
    names = ["--dataset", "kspace=raw", "--dataset", "maps=coils"]
    more = ["--spacing", "2.5,1.25,0.75", "--crop", "6,8"]
    code, out, err = run(tmp_path / "a.h5", tmp_path / "k.h5", *names, *more, "--json")
    assert code == 0, err
    found = read_kspace(tmp_path / "k.h5")
    assert np.array_equal(found.data, samples())
    assert np.array_equal(found.maps, samples(seed=1))
    assert found.image_shape == (3, 6, 8)
    np.testing.assert_allclose(np.linalg.norm(found.affine[:3, :3], axis=0), (0.75, 1.25, 2.5))
    told = json.loads(out)
    assert told["outputs"] == {"converted": str(tmp_path / "k.h5")}
    assert told["result"]["content"].startswith("KSpace(")
    assert "wrote" in err


@no_geometry
def test_bart_with_maps_and_back(run, tmp_path):
    array = samples((8, 10, 1, 2))
    write_cfl(array, tmp_path / "k")
    write_cfl(samples((8, 10, 1, 2), seed=1), tmp_path / "maps")
    maps = ["--maps", tmp_path / "maps.cfl"]
    assert run(tmp_path / "k.cfl", tmp_path / "k.h5", *maps)[0] == 0
    assert run(tmp_path / "k.h5", tmp_path / "back.cfl", "-q") == (0, "", "")
    assert (tmp_path / "back.cfl").read_bytes() == (tmp_path / "k.cfl").read_bytes()
    assert (tmp_path / "back_maps.cfl").read_bytes() == (tmp_path / "maps.cfl").read_bytes()


def test_ismrmrd_white_or_not(run, tmp_path):
    scan = Scan()
    mixing = np.diag([1.0, 2.0, 3.0]).astype(complex)
    noise = list(noise_lines(scan, np.random.default_rng(0), mixing))
    source = save(tmp_path / "a.h5", [*noise, *scan.lines()], scan.xml())
    assert run(source, tmp_path / "white.h5")[0] == 0
    assert run(source, tmp_path / "raw.h5", "--no-whiten")[0] == 0
    white, raw = (read_kspace(tmp_path / f"{name}.h5") for name in ("white", "raw"))
    assert (white.attributes["whitened"], raw.attributes["whitened"]) == (True, False)
    assert not np.allclose(white.data, raw.data)
    np.testing.assert_allclose(white.affine, raw.affine)
    code, _, err = run(source, tmp_path / "one.h5", "--select", "slice=1")
    assert code == 0, err
    one = read_kspace(tmp_path / "one.h5")
    assert one.n_slices == 1 < white.n_slices


@no_geometry
def test_plain_sinogram(run, tmp_path):
    ours = read_sinogram(scan_file(tmp_path / "scan.h5", n_views=7))
    angles = np.degrees(ours.beam.angles)
    np.savez(tmp_path / "a.npz", sinogram=ours.data, angles=angles)
    said = {"angle_units": "degrees", "geometry": "parallel", "bin_mm": ours.beam.bin_mm}
    words = [word for pair in said.items() for word in ("--geometry", "=".join(map(str, pair)))]
    code, _, err = run(tmp_path / "a.npz", tmp_path / "b.h5", *words)
    assert code == 0, err
    found = read_sinogram(tmp_path / "b.h5")
    assert np.array_equal(found.data, ours.data)
    np.testing.assert_allclose(found.beam.angles, ours.beam.angles)
    assert found.beam.bin_mm == ours.beam.bin_mm


def test_dicom_series(run, tmp_path):
    pytest.importorskip("pydicom")
    folder = save_series(tmp_path / "dicom")
    save_series(folder, series="2", n=3)
    code, _, err = run(folder, tmp_path / "ct.nii.gz")
    assert code == 4
    assert "2 series" in err
    uid = "1.2.826.0.1.3680043.8.498.2"
    assert run(folder, tmp_path / "ct.nii.gz", "--series", uid)[0] == 0
    assert read_nifti(tmp_path / "ct.nii.gz").shape == (7, 5, 3)
    assert run(folder, tmp_path / "ct.nii.gz", "--series", uid)[0] == 7
    assert run(folder, tmp_path / "ct.nii.gz", "--series", uid, "--overwrite")[0] == 0
