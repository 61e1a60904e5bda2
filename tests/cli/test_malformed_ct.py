"""Malformed CT on the command line: one helpful line, the right exit code, nothing written."""

import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest
from contracts.ct_scans import affine, body, body_file, scan_file
from imaging.dicom_samples import save_series

from medsci.cli.main import main

pytestmark = pytest.mark.filterwarnings(
    "ignore::medsci.imaging.GeometryWarning", "ignore::medsci.recon.hounsfield.UnitsWarning"
)

SHAPE = (3, 6, 38)  # slices, views, bins


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return scan_file(tmp_path_factory.mktemp("whole") / "scan.h5", n_views=SHAPE[1])


@pytest.fixture
def run(capfd, tmp_path):
    """Run a command and check what every refusal has in common; give its line."""

    def call(code: int, *words) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        capfd.readouterr()
        assert main([str(word) for word in words]) == code, capfd.readouterr().err
        out, err = capfd.readouterr()
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert out == ""
        assert "Traceback" not in line
        assert "internal" not in line
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return line

    return call


def recon(source, folder, *more):
    """Words of a reconstruction. The prior is not there: a file that passes ends with code 6."""
    out = folder / "out" / "r.nii.gz"
    return ["recon", "ct", "-i", source, "-o", out, "--prior", "absent", *more]


def setting(name, value):
    def edit(file) -> None:
        file.attrs[name] = value

    return edit


def without(*names):
    def edit(file) -> None:
        for name in names:
            del (file.attrs if name in file.attrs else file)[name]

    return edit


def array(name, change, **attrs):
    def edit(file) -> None:
        values, known = file[name][()], dict(file[name].attrs)
        del file[name]
        file[name] = change(values)
        file[name].attrs.update(known | attrs)

    return edit


def one(values, value):
    values = np.array(values, dtype=np.result_type(values, np.float32))
    values.flat[7 % values.size] = value
    return values


def fan(file) -> None:
    file.attrs.update({"geometry": "fan", "source_mm": -5.0, "detector_mm": 100.0})


EDITS = {
    "too few angles": (array("angles", lambda a: a[:-1]), "6 views but there are 5 angles"),
    "NaN angle": (array("angles", lambda a: one(a, np.nan)), "angle"),
    "text for angles": (array("angles", lambda a: a.astype("S9")), "angles are"),
    "unknown angle units": (array("angles", lambda a: a, units="gradians"), "degrees or radians"),
    "NaN": (array("sinogram", lambda s: one(s, np.nan)), "1 NaN or infinite"),
    "infinite": (array("sinogram", lambda s: one(s, np.inf)), "1 NaN or infinite"),
    "zero": (array("sinogram", np.zeros_like), "nothing but zeros"),
    "complex": (array("sinogram", lambda s: s + 0j), "real line integrals"),
    "one slice without its axis": (array("sinogram", lambda s: s[0]), "add an axis of length 1"),
    "no slices": (array("sinogram", lambda s: s[:0]), "none of them 0"),
    "swapped axes": (array("sinogram", lambda s: s.swapaxes(1, 2)), "swap its last two axes"),
    "no geometry": (without("geometry"), "geometry is not stated"),
    "unknown geometry": (setting("geometry", "cone"), "geometry is 'cone'"),
    "fan without distances": (setting("geometry", "fan"), "source_mm and detector_mm"),
    "source behind": (fan, "source"),
    "no bin size": (without("bin_mm"), "bin_mm of the parallel geometry"),
    "negative bin size": (setting("bin_mm", -1.0), "bin_mm"),
    "NaN bin size": (setting("bin_mm", np.nan), "bin_mm"),
    "text for a number": (setting("bin_mm", "wide"), "bin_mm is 'wide'"),
    "no rows": (setting("n_rows", 0), "n_rows"),
    "pixels against the affine": (setting("row_mm", 9.0), "affine says"),
    "axes twice": (setting("axes", [0, 0, 1]), "some order"),
    "singular affine": (array("affine", lambda a: a * 0), "affine"),
    "small affine": (array("affine", lambda a: a[:3]), "affine"),
    "mixed sizes": (array("reference_hu", lambda r: r[:, :-1]), "the reference is"),
    "NaN truth": (array("reference_hu", lambda r: one(r, np.nan)), "reference holds NaN"),
    "negative water": (setting("mu_water_per_mm", -0.02), "mu_water"),
    "no photons": (setting("photons", 0.0), "photons"),
    "attributes are no JSON": (setting("attributes", "{"), "attribute"),
    "another version": (setting("format_version", 99), "format_version is 99"),
    "another kind": (setting("medsci_format", "volume"), "medsci volume file, not a sinogram"),
    "no angles": (without("angles"), "angles is missing"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_sinogram_file_of_ours(run, whole, tmp_path, name):
    edit, words = EDITS[name]
    source = tmp_path / "scan.h5"
    shutil.copy(whole, source)
    with h5py.File(source, "r+") as file:
        edit(file)
    line = run(4, *recon(source, tmp_path))
    assert "scan.h5" in line
    assert words in line


def test_the_file_before_its_edits_is_good(whole, tmp_path, capfd):
    """The control: it comes as far as the prior, which is missing."""
    assert main([str(word) for word in recon(whole, tmp_path)]) == 6
    assert "absent" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda whole: whole[:2500], "cut short"),
        (lambda whole: whole[: len(whole) // 2], "cut short"),
        (lambda whole: b"angle,bin\n", "not HDF5"),
        (lambda whole: b"", "0 bytes"),
    ],
    ids=["truncated", "half", "text", "empty"],
)
@pytest.mark.parametrize("command", ["ct", "baseline"])
def test_bytes(run, whole, tmp_path, content, words, command):
    source = tmp_path / "scan.h5"
    source.write_bytes(content(whole.read_bytes()))
    call = recon(source, tmp_path)
    if command == "baseline":
        call = ["recon", "baseline", "-i", source, "-o", tmp_path / "b.nii.gz"]
    line = run(4, *call)
    assert "scan.h5" in line
    assert words in line


NPZ = {
    "without angles": ({"sinogram": np.ones(SHAPE)}, "no array is named angles"),
    "without units": (
        {"sinogram": np.ones(SHAPE), "angles": np.arange(6.0), "geometry": "parallel", "bin_mm": 1},
        "unit of the angles is not stated",
    ),
    "without geometry": (
        {"sinogram": np.ones(SHAPE), "angles": np.arange(6.0), "angle_units": "degrees"},
        "geometry is not stated",
    ),
    "objects": ({"sinogram": np.array([{}], dtype=object), "angles": np.arange(6.0)}, "objects"),
    "four axes": (
        {
            "sinogram": np.ones((1, *SHAPE)), "angles": np.arange(6.0), "angle_units": "degrees",
            "geometry": "parallel", "bin_mm": 1.0,
        },
        "must be (n_slices, n_angles, n_bins)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NPZ)
def test_arrays_of_others(run, tmp_path, name):
    arrays, words = NPZ[name]
    np.savez(tmp_path / "a.npz", **arrays)
    assert words in run(4, *recon(tmp_path / "a.npz", tmp_path))
    convert = ["convert", "-i", tmp_path / "a.npz", "-o", tmp_path / "b.h5"]
    assert words in run(4, *convert)


class TestTheWrongFile:
    """A good file of another kind, or none."""

    def test_k_space(self, run, tmp_path, kspace_of):
        source = kspace_of(tmp_path / "k.h5")
        assert "not a sinogram" in run(4, *recon(source, tmp_path))
        words = ["recon", "baseline", "-i", source, "-o", tmp_path / "b.nii", "--method", "fbp"]
        assert "fbp is not for MRI" in run(2, *words)

    def test_a_sinogram_for_mri(self, run, whole, tmp_path):
        words = ["recon", "mri", "-i", whole, "-o", tmp_path / "r.nii.gz", "--prior", "absent"]
        assert "not k-space" in run(4, *words)
        words = ["recon", "baseline", "-i", whole, "-o", tmp_path / "r.nii", "--method", "sense"]
        assert "sense is not for CT" in run(2, *words)

    def test_an_image(self, run, tmp_path):
        source = body_file(tmp_path / "ct.nii.gz")
        assert "recon simulate ct" in run(4, *recon(source, tmp_path))

    def test_none(self, run, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "does not exist" in run(4, *recon(tmp_path / "gone.h5", tmp_path))
        assert "holds no *.h5" in run(4, *recon(tmp_path / "empty", tmp_path))
        assert "no file matches" in run(4, *recon(tmp_path / "*.h5", tmp_path))


class TestReference:
    """A truth that cannot be compared with."""

    @pytest.mark.parametrize(
        ("values", "shift", "words"),
        [
            (body(), 2.0, "does not contain the grid"),
            (body()[:-4], 0.0, "does not contain the grid"),
            (np.stack([body(), body()], -1), 0.0, "one real 3D image"),
            (body() + 0j, 0.0, "one real 3D image"),
            (one(body(), np.nan), 0.0, "NaN or infinite"),
        ],
        ids=["elsewhere", "smaller", "four axes", "complex", "NaN"],
    )
    def test_truths(self, run, whole, tmp_path, values, shift, words):
        place = affine()
        place[:3, 3] += shift
        nib.save(nib.Nifti1Image(values, place), tmp_path / "truth.nii")
        line = run(4, *recon(whole, tmp_path, "--reference", tmp_path / "truth.nii"))
        assert "truth.nii" in line
        assert words in line

    def test_none(self, run, whole, tmp_path):
        line = run(4, *recon(whole, tmp_path, "--reference", tmp_path / "gone.nii"))
        assert "gone.nii does not exist" in line


class TestSimulate:
    """Images that cannot be scanned, and options that ask for the impossible."""

    @staticmethod
    def words(source, folder, *more):
        return ["recon", "simulate", "ct", "-i", source, "-o", folder / "out" / "s.h5", *more]

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            (np.stack([body(), body()], -1), "one real 3D image"),
            (one(body(), np.nan), "NaN or infinite"),
            (body() + 0j, "one real 3D image"),
        ],
        ids=["four axes", "NaN", "complex"],
    )
    def test_images(self, run, tmp_path, values, words):
        nib.save(nib.Nifti1Image(values, affine()), tmp_path / "a.nii")
        assert words in run(4, *self.words(tmp_path / "a.nii", tmp_path))

    def test_a_sheared_image(self, run, tmp_path):
        sheared = affine()
        sheared[:3, 1] += 0.2 * sheared[:3, 0]
        image = nib.Nifti1Image(body(), None)
        image.set_sform(sheared, code=1)
        nib.save(image, tmp_path / "a.nii")
        assert "without shear" in run(4, *self.words(tmp_path / "a.nii", tmp_path))

    def test_files_that_are_no_image(self, run, whole, tmp_path):
        (tmp_path / "a.nii.gz").write_text("not an image")
        assert "a.nii.gz" in run(4, *self.words(tmp_path / "a.nii.gz", tmp_path))
        assert "scan.h5" in run(4, *self.words(whole, tmp_path))
        assert "is a folder" in run(4, *self.words(tmp_path, tmp_path))

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ("--slices 2:9", "slices 2:9 came; the volume has slices 0:3"),
            ("--slices 2:1", "slices 2:1 came"),
            ("--slices 1-2", "FIRST:STOP"),
            ("--slice-axis 3", "--slice-axis"),
            ("--span 0", "span_deg=0.0 came"),
            ("--span nan", "span_deg=nan came"),
            ("--start inf", "start_deg=inf came"),
            ("--photons nan", "--photons"),
            ("--views 0", "--views"),
            ("--geometry cone", "--geometry"),
        ],
    )
    def test_options(self, run, tmp_path, more, words):
        source = body_file(tmp_path / "ct.nii.gz")
        assert words in run(2, *self.words(source, tmp_path, *more.split()))

    def test_an_image_without_hounsfield_units_is_warned_of(self, tmp_path, capfd):
        """The one thing here that is not refused: nobody can know for sure."""
        nib.save(nib.Nifti1Image(body() + 1000, affine()), tmp_path / "a.nii")
        words = self.words(tmp_path / "a.nii", tmp_path, "--views", 3, "-v")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.filters", [])
            assert main([str(word) for word in words]) == 0
        assert "does not look like Hounsfield units" in capfd.readouterr().err


class TestConvert:
    """Folders and files that hold nothing to convert."""

    def test_folders(self, run, tmp_path):
        pytest.importorskip("pydicom")
        for name, words in (("empty", "no DICOM"), ("two", "2 series"), ("gap", "slice")):
            folder = tmp_path / name
            folder.mkdir()
            if name != "empty":
                save_series(folder, skip=(1,) if name == "gap" else ())
            if name == "two":
                save_series(folder, series="2")
            call = ["convert", "-i", folder, "-o", tmp_path / "out" / "ct.nii.gz"]
            assert words in run(4, *call)

    def test_one_file_of_a_series(self, run, tmp_path):
        pytest.importorskip("pydicom")
        folder = save_series(tmp_path / "series")
        call = ["convert", "-i", sorted(folder.iterdir())[0], "-o", tmp_path / "k.h5"]
        assert "DICOM, not k-space" in run(4, *call)

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("--geometry", "bin_mm"), "NAME=VALUE"),
            (("--geometry", "binmm=1"), "did you mean bin_mm"),
            (("--spacing", "1,2"), "3 numbers"),
            (("--crop", "a,b"), "2 whole numbers"),
            (("--crop", "8.5,8"), "2 whole numbers"),
            (("--select", "slice=x"), "whole number"),
            (("--every", "2"), "every is for projections"),
        ],
    )
    def test_options(self, run, whole, tmp_path, more, words):
        call = ["convert", "-i", whole, "-o", tmp_path / "out.h5", *more]
        assert words in run(2, *call)
