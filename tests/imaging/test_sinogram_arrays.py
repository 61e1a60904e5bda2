import h5py
import numpy as np
import pytest
from sinogram_samples import N_ANGLES, N_BINS, N_SLICES, lines

from medsci.errors import InvalidInputError
from medsci.imaging import GeometryWarning
from medsci.imaging.beam import FanBeam, ParallelBeam
from medsci.imaging.sinogram_arrays import SinogramLayout
from medsci.imaging.sinogram_file import read_sinogram

DEGREES = np.linspace(0.0, 144.0, N_ANGLES)
FAN = {"geometry": "fan", "bin_mm": 1.5, "source_mm": 500.0, "detector_mm": 250.0}


def hdf5(path, *, sinogram="sinogram", angles="angles", units="degrees", data=None, **attrs):
    with h5py.File(path, "w") as file:
        file[sinogram], file[angles] = lines() if data is None else data, DEGREES
        if units is not None:
            file[angles].attrs["units"] = units
        file.attrs.update(attrs)
    return path


def npz(path, **entries):
    np.savez(path, **{"sinogram": lines(), "angles": DEGREES, "angle_units": "deg"} | entries)
    return path


def read(path, **layout):
    with pytest.warns(GeometryWarning, match="how the patient lay"):
        return read_sinogram(path, layout=SinogramLayout(**layout) if layout else None)


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_arrays_with_their_geometry(tmp_path, kind):
    facts = {"geometry": "parallel", "bin_mm": 0.8, "n_rows": 20, "n_cols": 24, "pixel_mm": 0.9}
    facts |= {"slice_mm": 3.0, "mu_water_per_mm": 0.02, "photons": 1e4}
    path = hdf5(tmp_path / "a.h5", **facts) if kind == "hdf5" else npz(tmp_path / "a.npz", **facts)
    sinogram = read(path)
    np.testing.assert_allclose(sinogram.beam.angles, np.radians(DEGREES))
    assert isinstance(sinogram.beam, ParallelBeam)
    assert (sinogram.beam.bin_mm, sinogram.beam.n_bins) == (0.8, N_BINS)
    assert sinogram.image_shape == (N_SLICES, 20, 24)
    volume = sinogram.to_volume(np.zeros((N_SLICES, 20, 24), np.float32))
    assert volume.spacing_mm == pytest.approx((0.9, 0.9, 3.0))
    assert not volume.has_orientation
    assert (sinogram.mu_water, sinogram.photons) == (0.02, 1e4)


def test_what_the_caller_says_comes_first(tmp_path):
    path = hdf5(tmp_path / "a.h5", sinogram="proj", angles="theta", units=None, bin_mm=9.0)
    sinogram = read(
        path,
        sinogram="proj",
        angles="theta",
        angle_units="radians",
        geometry="parallel",
        bin_mm=1.0,
    )
    np.testing.assert_array_equal(sinogram.beam.angles, DEGREES)
    assert sinogram.beam.bin_mm == 1.0
    assert sinogram.image_shape == (N_SLICES, N_BINS, N_BINS)


def test_fan_and_a_single_slice(tmp_path):
    sinogram = read(npz(tmp_path / "a.npz", sinogram=lines()[0], **FAN))
    assert isinstance(sinogram.beam, FanBeam)
    assert (sinogram.beam.source_mm, sinogram.beam.detector_mm) == (500.0, 250.0)
    assert not sinogram.beam.curved
    assert sinogram.n_slices == 1
    assert sinogram.grid.row_mm == pytest.approx(1.0)  # 1.5 mm on the detector, at the centre


@pytest.mark.parametrize(("changes", "words"), [
    ({}, "geometry is not stated"),
    ({"geometry": "helical", "bin_mm": 1.0}, "geometry is 'helical'"),
    ({"geometry": "parallel"}, "bin_mm of the parallel geometry is not stated"),
    ({"geometry": "fan", "bin_mm": 1.0}, "source_mm and detector_mm of the fan"),
    (FAN | {"angle_units": "turns"}, "angles are in 'turns'"),
    (FAN | {"angles": DEGREES[:4]}, "5 views but there are 4 angles"),
    (FAN | {"angles": np.array(["a"] * 5)}, "one number per view"),
    (FAN | {"sinogram": lines((N_SLICES, N_BINS, N_ANGLES))}, "swap its last two axes"),
    (FAN | {"sinogram": lines((N_BINS,))}, "must be"),
    (FAN | {"sinogram": lines() * np.nan}, "165 NaN"),
    (FAN | {"n_rows": 7.5}, "n_rows=7.5 came; give a whole number"),
    (FAN | {"pixel_mm": -1.0}, "row_mm=-1.0"),
    (FAN | {"source_mm": np.ones(())* np.inf}, "source_mm=inf"),
    (FAN | {"photons": "many"}, "photons is 'many'"),
])  # fmt: skip
def test_malformed_arrays(tmp_path, changes, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_quietly(npz(tmp_path / "a.npz", **changes))
    assert "a.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def read_quietly(path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeometryWarning)
        return read_sinogram(path)


def test_units_names_and_damage(tmp_path):
    with pytest.raises(InvalidInputError, match=r"unit of the angles is not stated.*144"):
        read_quietly(hdf5(tmp_path / "a.h5", units=None, geometry="parallel", bin_mm=1.0))
    with pytest.raises(InvalidInputError, match=r"no array is named angles; the file has .*theta"):
        read_quietly(hdf5(tmp_path / "b.h5", angles="theta", geometry="parallel", bin_mm=1.0))
    path = npz(tmp_path / "c.npz", **FAN)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InvalidInputError, match="npz file is cut short"):
        read_quietly(path)
    np.savez(tmp_path / "d.npz", sinogram=np.array([{}], dtype=object), angles=DEGREES)
    with pytest.raises(InvalidInputError, match="holds objects"):
        read_quietly(tmp_path / "d.npz")
