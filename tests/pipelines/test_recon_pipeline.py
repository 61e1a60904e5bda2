"""One file in, four files out: complete, on the right grid, the same every time, or not at all."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from medsci.errors import ExitCode, InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import Volume, read_nifti, write_nifti
from medsci.pipelines.recon import ReconJob, recon, recon_cases
from medsci.recon.settings import ReconSettings


@pytest.fixture
def source(tmp_path, kspace_of):
    return kspace_of(tmp_path / "in" / "k.h5")


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def job_in(folder: Path, **changes) -> ReconJob:
    return ReconJob(**{"report": folder / "report.html", **changes})


def test_writes_volume_uncertainty_sidecar_and_report(source, tmp_path, quick_sampler, t1_file):
    out = tmp_path / "out"
    report = recon(source, out / "r.nii.gz", job=job_in(out))
    names = ["r.json", "r.nii.gz", "r_std.nii.gz", "report.html"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert report.status == "done"
    assert set(report.outputs) == {"std", "report", "sidecar", "reconstruction"}
    truth = nib.load(t1_file)
    for name in ("r.nii.gz", "r_std.nii.gz"):
        image = nib.load(out / name)
        assert image.get_data_dtype() == np.float32
        assert_allclose(image.affine, truth.affine)
        assert image.header["sform_code"] == 4
        assert image.shape == truth.shape
    values = np.asanyarray(nib.load(out / "r.nii.gz").dataobj)
    assert_allclose(values, np.asanyarray(truth.dataobj), atol=10)


def test_the_sidecar_tells_what_ran_and_how_good_it_is(source, tmp_path, quick_sampler):
    recon(source, tmp_path / "r.nii.gz", job=ReconJob(settings=ReconSettings(seed=5)))
    record = json.loads((tmp_path / "r.json").read_text())
    made = record["MedsciProvenance"]
    assert made["Seed"] == 5
    assert made["Device"] == "cpu"
    assert made["Model"] == {"Name": "brain-t1-2d", "Sha256": "a" * 64}
    assert made["Command"].startswith("medsci recon mri -i k.h5 -o r.nii.gz --prior brain-t1-2d")
    assert "--samples 3" in made["Command"]
    assert made["Command"].endswith("--seed 5")
    assert "Timings" not in made
    assert record["Sources"] == ["k.h5"]
    metrics = record["Metrics"]
    assert metrics["reconstruction"]["psnr_db"] > metrics["zero-filled"]["psnr_db"] + 3
    assert str(tmp_path) not in json.dumps(record)


def test_equal_jobs_give_equal_bytes_in_every_file_wherever_they_lie(
    source, tmp_path, quick_sampler
):
    for name in ("one", "two"):
        recon(source, tmp_path / name / "r.nii.gz", job=job_in(tmp_path / name))
    contents = [{k: v[0] for k, v in state_of(tmp_path / n).items()} for n in ("one", "two")]
    assert len(contents[0]) == 4
    assert contents[0] == contents[1]


def test_another_seed_gives_other_bytes(source, tmp_path, quick_sampler):
    for seed in (0, 1):
        job = ReconJob(settings=ReconSettings(seed=seed))
        recon(source, tmp_path / str(seed) / "r.nii.gz", job=job)
    first, second = (state_of(tmp_path / n) for n in "01")
    assert all(first[name][0] != second[name][0] for name in first)


def test_timings_only_on_request(source, tmp_path, quick_sampler):
    recon(source, tmp_path / "r.nii.gz", job=ReconJob(timings=True))
    made = json.loads((tmp_path / "r.json").read_text())["MedsciProvenance"]
    assert made["Timings"]["Seconds"] > 0


@pytest.mark.parametrize("name", ["r.nii.gz", "r_std.nii.gz", "r.json", "report.html"])
def test_any_existing_output_is_refused_before_the_work(source, tmp_path, quick_sampler, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("precious")
    before = state_of(out)
    with pytest.raises(OutputExistsError, match=re.escape(name)):
        recon(source, out / "r.nii.gz", job=job_in(out))
    assert state_of(out) == before
    assert quick_sampler == [], "neither loaded nor sampled"


def test_overwrite_replaces_and_skip_leaves_alone(source, tmp_path, quick_sampler):
    out = tmp_path / "out"
    recon(source, out / "r.nii.gz", job=job_in(out))
    before = state_of(out)
    skipped = recon(source, out / "r.nii.gz", job=job_in(out, existing="skip"))
    assert skipped.status == "skipped"
    assert state_of(out) == before
    other = job_in(out, existing="overwrite", settings=ReconSettings(seed=9))
    recon(source, out / "r.nii.gz", job=other)
    after = state_of(out)
    assert set(after) == set(before)
    assert all(after[name][0] != before[name][0] for name in before)


def test_a_failure_while_writing_leaves_nothing(source, tmp_path, quick_sampler, monkeypatch):
    import medsci.pipelines.recon_results as results

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_report", fail)
    out = tmp_path / "out"
    with pytest.raises(OSError, match="No space"):
        recon(source, out / "r.nii.gz", job=job_in(out))
    assert state_of(out) == {}


def test_one_sample_has_no_uncertainty(source, tmp_path, quick_sampler):
    one = ReconSettings(n_samples=1)
    recon(source, tmp_path / "r.nii.gz", job=ReconJob(settings=one))
    assert not (tmp_path / "r_std.nii.gz").exists()
    with pytest.raises(UsageError, match="--std needs"):
        recon(source, tmp_path / "s.nii.gz", job=ReconJob(settings=one, std=tmp_path / "s.nii"))


def test_the_output_must_be_nifti(source, tmp_path, quick_sampler):
    with pytest.raises(UsageError, match=r"name it \*\.nii\.gz"):
        recon(source, tmp_path / "r.png")


def test_a_damaged_input_says_so_before_the_prior_is_loaded(tmp_path, kspace_of, quick_sampler):
    bad = kspace_of(tmp_path / "bad.h5", bad=True)
    with pytest.raises(InvalidInputError, match="kspace"):
        recon(bad, tmp_path / "r.nii.gz")
    assert quick_sampler == []


class TestReference:
    """A truth given beside the data is cut to its grid, and only then compared."""

    def larger(self, t1_file, tmp_path, pad: int = 3) -> Path:
        small = read_nifti(t1_file)
        affine = small.affine.copy()
        affine[:3, 3] -= pad * np.diag(small.affine)[:3]
        array = np.pad(0.5 * small.array, pad)
        whole = Volume(array, affine, sform_code=4).to_orientation("LPS")
        return write_nifti(whole, tmp_path / "whole.nii.gz")

    def test_a_larger_turned_truth_is_cut_and_turned(
        self, source, tmp_path, t1_file, quick_sampler
    ):
        given = self.larger(t1_file, tmp_path)
        stored = recon(source, tmp_path / "a.nii.gz").result["metrics"]
        other = recon(source, tmp_path / "b.nii.gz", job=ReconJob(reference=given))
        metrics = other.result["metrics"]["reconstruction"]
        assert metrics["nrmse"] == pytest.approx(1.0, abs=0.1), "twice as bright as this truth"
        assert stored["reconstruction"]["nrmse"] < 0.05

    def test_a_truth_elsewhere_is_refused_before_the_work(
        self, source, tmp_path, t1_file, quick_sampler
    ):
        small = read_nifti(t1_file)
        affine = small.affine.copy()
        affine[0, 3] += 0.7
        path = write_nifti(Volume(small.array, affine), tmp_path / "moved.nii.gz")
        with pytest.raises(InvalidInputError, match="does not contain the grid"):
            recon(source, tmp_path / "r.nii.gz", job=ReconJob(reference=path))
        assert not [call for call in quick_sampler if call[0] == "sample"]


class TestBatch:
    """A folder loads the prior once, checks all names first, and survives a bad case."""

    @pytest.fixture
    def folder(self, tmp_path, kspace_of):
        for name in ("a", "c"):
            kspace_of(tmp_path / "in" / f"{name}.h5")
        kspace_of(tmp_path / "in" / "b.h5", bad=True)
        return tmp_path / "in"

    def test_one_bad_case(self, folder, tmp_path, quick_sampler):
        told = []
        out = tmp_path / "out"
        job = ReconJob(report=tmp_path / "pages")
        code = recon_cases(folder, out, job=job, tell=told.append)
        assert code == ExitCode.SOME_CASES_FAILED
        assert [(r.case, r.status) for r in told] == [
            ("a.h5", "done"),
            ("b.h5", "failed"),
            ("c.h5", "done"),
        ]
        assert sorted(p.name for p in out.glob("*.nii.gz")) == [
            *("a.nii.gz", "a_std.nii.gz", "c.nii.gz", "c_std.nii.gz")
        ]
        assert sorted(p.name for p in (tmp_path / "pages").iterdir()) == ["a.html", "c.html"]
        assert [call for call in quick_sampler if call[0] == "load"] == [("load", "brain-t1-2d")]

    def test_a_second_run_is_refused_as_a_whole(self, folder, tmp_path, quick_sampler):
        out = tmp_path / "out"
        recon_cases(folder, out, job=ReconJob(), tell=lambda _: None)
        (out / "a.nii.gz").unlink()
        before, calls = state_of(out), list(quick_sampler)
        with pytest.raises(OutputExistsError, match=r"c\.nii\.gz"):
            recon_cases(folder, out, job=ReconJob(), tell=lambda _: None)
        assert state_of(out) == before
        assert quick_sampler == calls

    def test_skip_existing_finishes_what_is_missing(self, folder, tmp_path, quick_sampler):
        out, told = tmp_path / "out", []
        (folder / "b.h5").unlink()
        recon_cases(folder, out, job=ReconJob(), tell=lambda _: None)
        whole = state_of(out)
        (out / "a.nii.gz").unlink()
        code = recon_cases(folder, out, job=ReconJob(existing="skip"), tell=told.append)
        assert code == ExitCode.DONE
        assert [(r.case, r.status) for r in told] == [("a.h5", "done"), ("c.h5", "skipped")]
        now = state_of(out)
        assert {k: v[0] for k, v in now.items()} == {k: v[0] for k, v in whole.items()}
        assert now["c.nii.gz"] == whole["c.nii.gz"]

    def test_a_batch_result_equals_the_single_one(self, folder, tmp_path, quick_sampler):
        recon_cases(folder, tmp_path / "out", job=ReconJob(), tell=lambda _: None)
        recon(folder / "c.h5", tmp_path / "one" / "c.nii.gz")
        alone = state_of(tmp_path / "one")
        batch = state_of(tmp_path / "out")
        assert all(batch[name][0] == alone[name][0] for name in alone)

    def test_one_file_options_are_refused(self, folder, tmp_path, quick_sampler):
        with pytest.raises(UsageError, match="leave them out"):
            recon_cases(
                folder, tmp_path / "o", job=ReconJob(std=tmp_path / "s.nii"), tell=lambda _: None
            )
