"""CT from an image to a reconstruction, all on the command line."""

import json
import shlex
from typing import get_args

import nibabel as nib
import numpy as np
import pytest
from contracts.ct_scans import affine, body, body_file, prior_folder
from numpy.testing import assert_allclose

from medsci.cli.main import main
from medsci.imaging import read_sinogram
from medsci.inverse.methods import METHODS

FEW = ["--steps", "3", "--precision", "float32", "--seed", "0"]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A body, a scan of it by the command itself, and a prior."""
    room = tmp_path_factory.mktemp("room")
    body_file(room / "ct.nii.gz")
    prior_folder(room / "tiny")
    words = ["recon", "simulate", "ct", "-i", room / "ct.nii.gz", "-o", room / "scan.h5"]
    words += ["--views", 24, "--seed", 0, "-q"]
    assert main([str(word) for word in words]) == 0
    return room


@pytest.fixture
def run(capfd):
    def call(*words) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return (code, *capfd.readouterr())

    return call


def ct(room, output, *more):
    return ["recon", "ct", "-i", room / "scan.h5", "-o", output, "--prior", room / "tiny", *more]


def record(path):
    return json.loads(path.read_text())


def volume(path):
    return np.asanyarray(nib.load(path).dataobj)


class TestSimulate:
    """Options become the geometry in the file; what was done is in the sidecar."""

    def test_the_scan_and_its_sidecar(self, room, run, tmp_path):
        scan, beside = read_sinogram(room / "scan.h5"), record(room / "scan.json")
        assert (scan.n_angles, scan.n_slices) == (24, 3)
        assert_allclose(scan.affine, affine())
        assert beside["Acquisition"]["views"] == 24
        assert beside["MedsciProvenance"]["Seed"] == 0
        words = shlex.split(beside["MedsciProvenance"]["Command"])[1:]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(room)
            words[words.index("scan.h5")] = tmp_path / "again.h5"
            assert run(*words)[0] == 0
        assert (tmp_path / "again.h5").read_bytes() == (room / "scan.h5").read_bytes()

    def test_every_option_reaches_the_file(self, room, run, tmp_path):
        out = tmp_path / "s.h5"
        options = "--views 9 --span 200 --start 10 --geometry fan --bins 50 --photons 2e4 --seed 3"
        words = [*options.split(), "--slices", "1:3", "--slice-axis", "0", "--json"]
        code, text, _ = run("recon", "simulate", "ct", "-i", room / "ct.nii.gz", "-o", out, *words)
        scan = read_sinogram(out)
        assert code == 0
        assert (scan.n_angles, scan.n_slices, scan.beam.n_bins) == (9, 2, 50)
        assert scan.axes[0] == 0
        assert_allclose(np.degrees(scan.beam.angles), 10 + np.arange(9) * 200 / 9)
        assert (scan.photons, scan.beam.curved) == (2e4, False)
        assert json.loads(text)["result"] == {"views": 9, "bins": 50, "shape": [2, 9, 50]}

    def test_no_photons_is_no_noise(self, room, run, tmp_path):
        for name, seed in (("a", 0), ("b", 1)):
            words = ["--photons", 0, "--views", 3, "--seed", seed]
            source = room / "ct.nii.gz"
            run("recon", "simulate", "ct", "-i", source, "-o", tmp_path / f"{name}.h5", *words)
        first, second = (read_sinogram(tmp_path / f"{name}.h5") for name in "ab")
        assert np.array_equal(first.data, second.data)
        assert first.photons is None


class TestRecon:
    """From the scan to Hounsfield units."""

    def test_everything_at_once(self, room, run, tmp_path):
        more = ["--samples", 2, "--report", tmp_path / "r.html", "--json", *FEW]
        code, out, err = run(*ct(room, tmp_path / "r.nii.gz", *more))
        assert code == 0, err
        result = json.loads(out)["result"]
        assert set(result["metrics"]) == {"FBP", "reconstruction"}
        assert result["acceleration"] is None
        assert result["data_misfit"] > 0
        names = ["r.html", "r.json", "r.nii.gz", "r_std.nii.gz"]
        assert sorted(path.name for path in tmp_path.iterdir()) == names
        assert_allclose(nib.load(tmp_path / "r.nii.gz").affine, affine(), atol=1e-4)
        assert "PSNR" in err
        assert "(FBP " in err

    def test_the_recorded_command_repeats_the_run(self, room, run, tmp_path, monkeypatch):
        options = ["--option", "consistency.n_cg=3", "--option", "eta=0.5", "--samples", 2]
        monkeypatch.chdir(room)
        first = ct(room, tmp_path / "r.nii.gz", *options, *FEW)
        assert run(*first)[0] == 0
        made = record(tmp_path / "r.json")
        settings = made["Reconstruction"]
        assert (settings["consistency_n_cg"], settings["eta"], settings["n_steps"]) == (3, 0.5, 3)
        words = shlex.split(made["MedsciProvenance"]["Command"])[1:]
        (tmp_path / "twice").mkdir()
        words[words.index("r.nii.gz")] = tmp_path / "twice" / "r.nii.gz"
        assert run(*words)[0] == 0
        for name in ("r.nii.gz", "r_std.nii.gz", "r.json"):
            again = (tmp_path / "twice" / name).read_bytes()
            assert again == (tmp_path / name).read_bytes(), name

    def test_one_sample_and_no_map_where_none_differ(self, room, run, tmp_path):
        more = ["--solver", "red-diff", "--option", "lam=0.05", *FEW]
        assert run(*ct(room, tmp_path / "r.nii.gz", *more))[0] == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.nii.gz"]
        settings = record(tmp_path / "r.json")["Reconstruction"]
        assert (settings["samples"], settings["lam"]) == (1, 0.05)

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (
                "--solver red-diff --samples 3",
                "red-diff, which seeks one image and draws no samples",
            ),
            ("--solver reddiff", "red-diff"),
            ("--option n_stepz=4", "did you mean n_steps"),
            ("--option n_cg=4", "did you mean consistency.n_cg"),
            ("--option n_steps", "give NAME=VALUE"),
            ("--option eta=1,", "give NAME=VALUE"),
            ("--option eta=2", "give a share of fresh noise"),
            ("--solver dps --cg 3 --samples 1", "n_cg=3 came and dps has none"),
            ("--solver ddrm --samples 1", "no singular value decomposition"),
            ("--samples 1 --std s.nii.gz", "--std needs at least --samples 2"),
            ("--steps 2", "--steps"),
            ("--maps espirit", "No such option"),
        ],
    )
    def test_usage(self, room, run, tmp_path, more, words):
        code, out, err = run(*ct(room, tmp_path / "r.nii.gz", "-q", *more.split()))
        assert code == 2
        (line,) = err.splitlines()
        assert words in line
        assert (out, list(tmp_path.iterdir())) == ("", [])

    @pytest.mark.filterwarnings("ignore::medsci.imaging.GeometryWarning")
    @pytest.mark.filterwarnings("ignore::medsci.recon.hounsfield.UnitsWarning")
    def test_plain_arrays_of_a_fan(self, room, run, tmp_path):
        """No truth, no orientation, no attenuation of water: said, and done all the same."""
        words = ["recon", "simulate", "ct", "-i", room / "ct.nii.gz", "-o", tmp_path / "s.h5"]
        assert run(*words, "--geometry", "fan", "--views", 40, "--seed", 0)[0] == 0
        scan = read_sinogram(tmp_path / "s.h5")
        beam = scan.beam
        np.savez(
            tmp_path / "a.npz", sinogram=scan.data, angles=beam.angles, angle_units="radians",
            geometry="fan", bin_mm=beam.bin_mm, source_mm=beam.source_mm,
            detector_mm=beam.detector_mm, pixel_mm=4.0, n_rows=30, n_cols=30,
        )  # fmt: skip
        out = tmp_path / "r.nii.gz"
        more = ["--prior", room / "tiny", "--samples", 1, "--report", tmp_path / "r.html"]
        assert run("recon", "ct", "-i", tmp_path / "a.npz", "-o", out, *more, *FEW)[0] == 0
        assert record(tmp_path / "r.json")["Metrics"] == {}
        assert record(tmp_path / "r.json")["Reconstruction"]["mu_water"] == 0.0192
        assert "left and right are not known" in (tmp_path / "r.html").read_text()
        assert nib.load(out).header["sform_code"] == 0
        tissue = volume(out)[volume(out) > -200]
        assert np.median(tissue) == pytest.approx(40, abs=60)

    def test_a_batch_with_one_failing_case(self, room, run, tmp_path):
        folder, out = tmp_path / "in", tmp_path / "out"
        folder.mkdir()
        for name in ("a", "c"):
            (folder / f"{name}.h5").write_bytes((room / "scan.h5").read_bytes())
        (folder / "b.h5").write_text("broken")
        words = ["recon", "ct", "-i", folder, "-o", out, "--prior", room / "tiny", *FEW]
        words += ["--samples", 1, "--json"]
        code, text, err = run(*words)
        told = [json.loads(line) for line in text.splitlines()]
        assert code == 3
        assert [(t["case"], t["exit_code"]) for t in told] == [
            ("a.h5", 0),
            ("b.h5", 4),
            ("c.h5", 0),
        ]
        assert "1 of 3 cases failed" in err
        assert run(*words)[0] == 7
        (folder / "b.h5").unlink()
        before = (out / "a.nii.gz").stat().st_mtime_ns
        code, text, _ = run(*words, "--skip-existing")
        assert (code, {json.loads(t)["status"] for t in text.splitlines()}) == (0, {"skipped"})
        assert (out / "a.nii.gz").stat().st_mtime_ns == before
        assert run(*words, "--overwrite")[0] == 0
        assert (out / "a.nii.gz").stat().st_mtime_ns > before


class TestBaseline:
    """Classical methods of CT: in Hounsfield units, on the grid, the same every time."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def error_of_air(cls):
        cls.air = float(np.linalg.norm(body() + 1000))

    @pytest.mark.parametrize(
        ("method", "bound"),
        [("fbp", 0.25), ("cg", 0.15), ("tv", 0.08), ("tv-3d", 0.08), ("l1-wavelet", 0.08)],
    )
    def test_methods(self, room, run, tmp_path, method, bound):
        more = [] if method == "fbp" else ["--iterations", 60]
        words = ["recon", "baseline", "-i", room / "scan.h5", "--method", method, *more]
        for name in "ab":
            assert run(*words, "-o", tmp_path / name / "b.nii.gz")[0] == 0
        first, second = ((tmp_path / n / "b.nii.gz").read_bytes() for n in "ab")
        assert first == second
        found = volume(tmp_path / "a" / "b.nii.gz")
        assert_allclose(nib.load(tmp_path / "a" / "b.nii.gz").affine, affine(), atol=1e-4)
        assert np.linalg.norm(found - body()) < bound * self.air
        beside = record(tmp_path / "a" / "b.json")
        assert (beside["Units"], list(beside["Metrics"])) == ("HU", [method])
        assert "ParallelReductionFactorInPlane" not in beside
        assert beside["MedsciProvenance"]["Options"]["method"] == method

    def test_of_a_curved_fan(self, room, run, tmp_path):
        words = ["recon", "simulate", "ct", "-i", room / "ct.nii.gz", "-o", tmp_path / "s.h5"]
        assert run(*words, "--geometry", "fan-curved", "--views", 40, "--seed", 0)[0] == 0
        for method, bound in (("fbp", 0.25), ("cg", 0.15)):
            out = tmp_path / f"{method}.nii"
            words = ["recon", "baseline", "-i", tmp_path / "s.h5", "-o", out, "--method", method]
            assert run(*words)[0] == 0
            assert np.linalg.norm(volume(out) - body()) < bound * self.air

    def test_what_a_direct_method_has_no_use_for(self, room, run, tmp_path):
        words = ["recon", "baseline", "-i", room / "scan.h5", "-o", tmp_path / "b.nii"]
        code, _, err = run(*words, "--method", "fbp", "--iterations", 3)
        assert code == 2
        assert "no weight and no iterations" in err


def test_mri_with_another_solver(run, tmp_path, kspace_of):
    source = kspace_of(tmp_path / "k.h5")
    prior = prior_folder(tmp_path / "two", channels=2, window=None)
    words = ["recon", "mri", "-i", source, "-o", tmp_path / "r.nii.gz", "--prior", prior]
    code, _, err = run(*words, "--solver", "red-diff", "--option", "lam=0.05", *FEW)
    assert code == 0, err
    settings = record(tmp_path / "r.json")["Reconstruction"]
    assert (settings["method"], settings["lam"], settings["samples"]) == ("red-diff", 0.05, 1)
    assert not (tmp_path / "r_std.nii.gz").exists()


def test_the_solvers_of_the_command_are_all_there_are():
    from medsci.cli.recon import Solver

    (choices,) = [arg for arg in get_args(Solver) if get_args(arg)]
    assert get_args(choices) == tuple(METHODS)
