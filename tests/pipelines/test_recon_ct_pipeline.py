"""A sinogram in, Hounsfield units out: complete, on the right grid, the same every time."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from contracts.ct_scans import WINDOW, affine, body, body_file, prior_folder, scan_file
from numpy.testing import assert_allclose

from medsci.errors import ExitCode, InvalidInputError, UsageError
from medsci.inverse.methods import METHODS
from medsci.pipelines.recon import ReconJob, load_prior, recon, recon_cases
from medsci.recon.settings import ReconSettings


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return scan_file(tmp_path_factory.mktemp("ct") / "scan.h5")


@pytest.fixture(scope="module")
def priors(tmp_path_factory):
    room = tmp_path_factory.mktemp("priors")
    prior_folder(room / "two", channels=2)
    prior_folder(room / "no-window", window=None)
    prior_folder(room / "tiny")
    return room


@pytest.fixture(scope="module")
def prior(priors):
    return load_prior(str(priors / "tiny"), settings=ReconSettings(precision="float32"))


def job_of(priors: Path, *, report=None, existing="refuse", name="tiny", **settings) -> ReconJob:
    known = {"n_samples": 2, "n_steps": 4, "precision": "float32"} | settings
    return ReconJob(
        domain="ct", prior=str(priors / name), settings=ReconSettings(**known), report=report,
        existing=existing,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def values(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def out(source, priors, prior, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    job = job_of(priors, report=out / "report.html", seed=5)
    report = recon(source, out / "r.nii.gz", job=job, prior=prior)
    assert set(report.outputs) == {"std", "report", "sidecar", "reconstruction"}
    assert report.result["acceleration"] is None
    return out


class TestOne:
    """One scan, written once with everything."""

    def test_volumes_lie_where_the_body_lay(self, out):
        assert sorted(contents(out)) == ["r.json", "r.nii.gz", "r_std.nii.gz", "report.html"]
        for name in ("r.nii.gz", "r_std.nii.gz"):
            image = nib.load(out / name)
            assert_allclose(image.affine, affine(), atol=1e-4)
            assert image.shape == body().shape
            assert image.get_data_dtype() == np.float32
            assert image.header["sform_code"] == 1

    def test_values_are_hounsfield_units(self, out):
        found = values(out / "r.nii.gz")
        for tissue, width in ((40.0, 60.0), (-1000.0, 60.0), (700.0, 150.0)):
            assert np.median(found[body() == tissue]) == pytest.approx(tissue, abs=width)
        turned = np.flip(found, 0)  # control: the body is not symmetric
        assert np.abs(turned - body()).mean() > 2 * np.abs(found - body()).mean()
        assert 0 < values(out / "r_std.nii.gz").mean() < 300

    def test_the_sidecar_says_what_ran(self, out, prior):
        record = json.loads((out / "r.json").read_text(encoding="utf-8"))
        made, about = record["MedsciProvenance"], record["Reconstruction"]
        assert (record["Units"], record["Sources"]) == ("HU", ["scan.h5"])
        assert made["Seed"] == about["seed"] == 5
        assert made["Model"] == {"Name": "tiny", "Sha256": prior.sha256}
        assert len(prior.sha256) == 64
        assert about["window_hu"] == list(WINDOW)
        assert about["method"] == made["Options"]["solver"] == "dds3d"
        assert about["n_steps"] == 4
        assert (about["n_views"], about["span_degrees"]) == (24, 180.0)
        assert 0 < about["relative_data_misfit"] < 0.2
        assert about["misfit_over_noise"] > 0
        assert about["network_calls"] == 4
        assert set(record["Metrics"]) == {"FBP", "reconstruction"}
        assert "ParallelReductionFactorInPlane" not in record
        assert made["Command"].startswith("medsci recon ct -i scan.h5 -o r.nii.gz --prior tiny")
        assert "--maps" not in made["Command"]

    def test_the_report_speaks_of_ct(self, out):
        page = (out / "report.html").read_text(encoding="utf-8")
        text = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
        words = re.sub(r"<[^>]+>", " ", re.sub(r'"data:[^"]*"', "", text))
        for word in (
            *("CT reconstruction", "PSNR in the body", "24", "over 180 degrees", "FBP"),
            *("Hounsfield units", "Values count from that of air, -1000", "Detector bins"),
            "weights are not trained",
        ):
            assert word in words, word
        for word in ("head", "k-space", "zero-filled", "Acceleration", "Phase-encode", "Coils"):
            assert word not in words, word
        assert page.count("data:image/png;base64,") >= 1

    def test_twice_is_the_same_in_every_byte(self, out, source, priors, tmp_path):
        """With a prior loaded anew, in another folder; another seed gives other files."""
        for seed, name in ((5, "same"), (6, "other")):
            room = tmp_path / name
            job = job_of(priors, report=room / "report.html", seed=seed)
            recon(source, room / "r.nii.gz", job=job)
        first, second, other = (contents(p) for p in (out, tmp_path / "same", tmp_path / "other"))
        assert first == second
        assert all(other[name] != first[name] for name in first)

    @pytest.mark.parametrize("chunk", [1, 3])
    def test_the_chunk_does_not_change_the_result(
        self, out, source, priors, prior, tmp_path, chunk
    ):
        """But for rounding, which an untrained network amplifies; exact in `test_drawing`."""
        recon(source, tmp_path / "r.nii.gz", job=job_of(priors, chunk=chunk, seed=5), prior=prior)
        spread = values(out / "r_std.nii.gz").mean()
        for name in ("r.nii.gz", "r_std.nii.gz"):
            apart = np.abs(values(tmp_path / name) - values(out / name))
            assert apart.mean() < 0.01 * spread, "other noise would change it by the spread"
            assert np.quantile(apart, 0.99) < 0.1 * spread
        assert spread > 5, "control: the samples do differ"


class TestSolvers:
    """Every solver is reached, and says of itself what it is."""

    @pytest.mark.parametrize("solver", [name for name in METHODS if name != "ddrm"])
    def test_each_is_reached(self, source, priors, prior, tmp_path, solver):
        """Three solvers need more steps than a test has; how good they are is shown elsewhere."""
        slow = solver in ("dps", "flowchef", "mbir")
        n_steps = {"red-diff": 30}.get(solver, 4 if slow else 8)
        job = job_of(priors, solver=solver, n_samples=1, n_steps=n_steps)
        recon(source, tmp_path / "r.nii.gz", job=job, prior=prior)
        record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        assert record["Reconstruction"]["method"] == solver
        assert not (tmp_path / "r_std.nii.gz").exists()
        found = values(tmp_path / "r.nii.gz")
        assert np.isfinite(found).all()
        error = np.abs(found - body()).mean()
        assert slow or error < 0.7 * np.abs(body() + 1000).mean()

    def test_ddrm_says_that_it_cannot(self, source, priors, prior, tmp_path):
        with pytest.raises(UsageError, match="no singular value decomposition"):
            recon(source, tmp_path / "r.nii.gz", job=job_of(priors, solver="ddrm"), prior=prior)
        assert contents(tmp_path) == {}

    @pytest.mark.parametrize("solver", [name for name, m in METHODS.items() if not m.samples])
    def test_those_that_seek_one_image_draw_no_samples(self, solver):
        with pytest.raises(UsageError, match=f"{solver}, which seeks one image"):
            ReconSettings(solver=solver, n_samples=3)

    def test_options_reach_the_solver(self, source, priors, prior, tmp_path):
        options = (("consistency.n_cg", "3"), ("eta", "0.5"))
        job = job_of(priors, options=options, n_samples=1)
        recon(source, tmp_path / "r.nii.gz", job=job, prior=prior)
        record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        found = record["Reconstruction"]
        assert (found["consistency_n_cg"], found["eta"]) == (3, 0.5)
        assert record["MedsciProvenance"]["Options"]["option"] == "consistency.n_cg=3,eta=0.5"


class TestRefused:
    """What cannot work is refused before the work, and nothing is written."""

    @pytest.mark.parametrize(
        ("name", "words"),
        [("two", "2 channels, and recon ct needs 1"), ("no-window", "which Hounsfield units")],
    )
    def test_priors_of_other_images(self, source, priors, tmp_path, name, words):
        with pytest.raises(UsageError, match=words):
            recon(source, tmp_path / "r.nii.gz", job=job_of(priors, name=name))
        assert contents(tmp_path) == {}

    def test_a_ct_prior_for_mri(self, priors, tmp_path, kspace_of):
        job = ReconJob(prior=str(priors / "tiny"))
        with pytest.raises(UsageError, match="1 channels, and recon mri needs 2"):
            recon(kspace_of(tmp_path / "k.h5"), tmp_path / "r.nii.gz", job=job)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"name": "two"}, "2 channels"),
            ({"options": (("n_stepz", "3"),)}, "did you mean n_steps"),
        ],
        ids=["prior", "option"],
    )
    def test_what_fails_everywhere_ends_a_batch_before_its_first_case(
        self, source, priors, tmp_path, changes, words
    ):
        told = []
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.h5").write_bytes(source.read_bytes())
        job = job_of(priors, **changes)
        with pytest.raises(UsageError, match=words):
            recon_cases(tmp_path / "in", tmp_path / "out", job=job, tell=told.append)
        assert told == []

    def test_a_wrong_option_before_anything_is_read(self, tmp_path, priors):
        (tmp_path / "broken.h5").write_text("not HDF5")
        job = job_of(priors, name="absent", options=(("n_stepz", "3"),))
        with pytest.raises(UsageError, match="did you mean n_steps"):
            recon(tmp_path / "broken.h5", tmp_path / "r.nii.gz", job=job)

    def test_a_truth_on_another_grid(self, source, priors, tmp_path):
        moved = nib.load(body_file(tmp_path / "body.nii.gz"))
        place = moved.affine.copy()
        place[:3, 3] += 2.0
        nib.save(nib.Nifti1Image(moved.get_fdata(), place), tmp_path / "moved.nii.gz")
        job = ReconJob(
            domain="ct", prior=str(priors / "absent"), reference=tmp_path / "moved.nii.gz"
        )
        with pytest.raises(InvalidInputError, match="does not contain the grid"):
            recon(source, tmp_path / "r.nii.gz", job=job)


class TestBatch:
    """A folder loads the prior once and survives a bad case."""

    @pytest.fixture
    def folder(self, source, tmp_path):
        room = tmp_path / "in"
        room.mkdir()
        for name in ("a.h5", "c.h5"):
            (room / name).write_bytes(source.read_bytes())
        (room / "b.h5").write_bytes(source.read_bytes()[:3000])
        return room

    def test_one_bad_case_then_skip_then_overwrite(self, folder, priors, tmp_path, monkeypatch):
        import medsci.pipelines.recon as job

        loads, load = [], job.load_prior
        monkeypatch.setattr(
            job,
            "load_prior",
            lambda name, *, settings: loads.append(name) or load(name, settings=settings),
        )
        out = tmp_path / "out"

        def run(**changes):
            told = []
            chosen = job_of(priors, n_steps=3, n_samples=1, **changes)
            code = recon_cases(folder, out, job=chosen, tell=told.append)
            return code, [(r.case, r.status, int(r.code)) for r in told]

        code, told = run()
        assert code == ExitCode.SOME_CASES_FAILED
        assert told == [("a.h5", "done", 0), ("b.h5", "failed", 4), ("c.h5", "done", 0)]
        assert len(loads) == 1
        assert sorted(contents(out)) == ["a.json", "a.nii.gz", "c.json", "c.nii.gz"]
        before = contents(out)
        assert before["a.nii.gz"] == before["c.nii.gz"], "equal scans, equal noise"
        code, told = run(existing="skip", seed=1)
        assert [status for _, status, _ in told] == ["skipped", "failed", "skipped"]
        assert contents(out) == before
        run(existing="overwrite", seed=1)
        assert all(contents(out)[name] != before[name] for name in before)
