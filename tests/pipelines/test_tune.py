"""Tuning: what is found is better, held-out data judge as the truth does, and the file says so."""

import dataclasses

import numpy as np
import pytest
import torch
import yaml
from contracts.ct_scans import WINDOW, prior_folder, scan_file
from contracts.tune_jobs import job_of
from scipy.stats import spearmanr
from torch import nn

import medsci.inverse.tuning as tuning
from medsci.core import Path
from medsci.errors import InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import Volume, read_kspace, read_sinogram, write_kspace, write_sinogram
from medsci.inverse.methods import settings_of
from medsci.pipelines.recon import Prior
from medsci.pipelines.tune import tune_files
from medsci.pipelines.tune_job import TuneJob
from medsci.pipelines.tune_problem import encoded, middle_slices, posed
from medsci.pipelines.tuned_file import read_tuned
from medsci.recon import SimulateCtSettings, simulate_ct
from medsci.recon.settings import ReconSettings

ROWS, COLUMNS = 24, 20


def spectrum() -> np.ndarray:
    """Variances of the Fourier coefficients of smooth images of deviation 0.1."""
    rows, columns = np.fft.fftfreq(ROWS)[:, None], np.fft.fftfreq(COLUMNS)
    found = np.exp(-(rows**2 + columns**2) / (2 * 0.08**2)) + 1e-4
    return found / found.mean() * 0.1**2


class Smooth(nn.Module):
    """The exact denoiser of smooth Gaussian images around 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path.rectified()
        self.variance = torch.tensor(spectrum(), dtype=torch.float32)

    def forward(self, x, t):
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        variance = self.variance if x.shape[-2:] == (ROWS, COLUMNS) else self.variance.T
        share = alpha * variance / (alpha**2 * variance + sigma**2)
        return torch.fft.ifft2(torch.fft.fft2(x - alpha * 0.5) * share).real + 0.5


@pytest.fixture(scope="module")
def prior():
    return Prior("closed", "a" * 64, "smooth images", Smooth(), WINDOW, 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A scan of five slices drawn from the prior, with 24 views and little noise."""
    draws = np.random.default_rng(0).standard_normal((5, ROWS, COLUMNS))
    image = np.fft.ifft2(np.fft.fft2(draws) * np.sqrt(spectrum())).real + 0.5
    hounsfield = (WINDOW[0] + image * (WINDOW[1] - WINDOW[0])).transpose(2, 1, 0)
    volume = Volume(hounsfield.astype(np.float32), np.diag([5.0, 5.0, 6.0, 1.0]))
    settings = SimulateCtSettings(n_views=24, oversampling=1, photons=1e5, seed=1)
    path = tmp_path_factory.mktemp("tune") / "scan.h5"
    return write_sinogram(simulate_ct(volume, settings=settings), path)


@pytest.fixture
def blind(source, tmp_path):
    """The same scan without its truth."""
    scan = dataclasses.replace(read_sinogram(source), reference=None)
    return write_sinogram(scan, tmp_path / "blind.h5")


def found_in(path) -> dict:
    return yaml.safe_load(path.read_text())


def lambdas(record) -> list[float]:
    return [trial["options"]["lam"] for trial in record["trials"][1:]]


def scores(record) -> list[float]:
    return [trial["score"] for trial in record["trials"]]


def shuffled(judge_of):
    """Judge by the right numbers in the wrong places."""

    def judge(test):
        seen = test.y != 0
        order = torch.randperm(int(seen.sum()), generator=torch.Generator().manual_seed(0))
        y = test.y.clone()
        y[seen] = test.y[seen][order]
        return judge_of(dataclasses.replace(test, y=y))

    return judge


@pytest.fixture(scope="module")
def records(source, prior, tmp_path_factory):
    """One search, judged three ways."""
    out = tmp_path_factory.mktemp("judges")
    for judge in ("truth", "held-out"):
        job = job_of(("lam", 1e-4, 100.0), judge=judge, budget=12)
        tune_files([source], out / f"{judge}.yaml", job=job, prior=prior)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "data_judge", shuffled(tuning.data_judge))
        tune_files([source], out / "shuffled.yaml", job=job, prior=prior)
    return {path.stem: found_in(path) for path in out.iterdir()}


class TestJudges:
    """The truth, held-out data, and a judge that knows nothing, on the same settings."""

    def test_what_is_found_beats_the_defaults_and_the_ends_of_the_range(self, records):
        record = records["truth"]
        assert record["beats_defaults"]
        assert record["score"] > record["default_score"] + 0.5
        by_lambda = sorted(zip(lambdas(record), scores(record)[1:], strict=True))
        best = max(scores(record))
        assert best > by_lambda[0][1] + 1, "too little prior"
        assert best > by_lambda[-1][1] + 8, "too much"
        assert 1e-3 < record["options"]["lam"] < 0.04

    def test_held_out_views_rank_as_the_truth_does(self, records):
        truth, blind = records["truth"], records["held-out"]
        assert (truth["judged_by"], blind["judged_by"]) == ("truth", "held-out")
        assert lambdas(truth) == lambdas(blind)
        assert spearmanr(scores(truth), scores(blind)).statistic > 0.9
        assert blind["options"] == truth["options"]
        assert blind["score"] > blind["default_score"]

    def test_shuffled_data_do_not(self, records):
        truth, fooled = records["truth"], records["shuffled"]
        assert lambdas(truth) == lambdas(fooled)
        assert spearmanr(scores(truth), scores(fooled)).statistic < 0.5
        best, chosen = np.argmax(scores(truth)), np.argmax(scores(fooled))
        assert scores(truth)[best] > scores(truth)[chosen] + 3

    def test_a_file_without_a_truth_is_judged_by_held_out_data(
        self, blind, prior, records, tmp_path
    ):
        job = job_of(("lam", 1e-4, 100.0), judge="auto", budget=12)
        tune_files([blind], tmp_path / "s.yaml", job=job, prior=prior)
        assert scores(found_in(tmp_path / "s.yaml")) == scores(records["held-out"])


class TestHonest:
    """Nothing is claimed that was not found."""

    def test_a_range_of_bad_values_leaves_the_defaults(self, source, prior, tmp_path, caplog):
        with caplog.at_level("INFO", logger="medsci"):
            job = job_of(("lam", 10.0, 100.0), budget=3)
            report = tune_files([source], tmp_path / "s.yaml", job=job, prior=prior)
        record = found_in(tmp_path / "s.yaml")
        assert not record["beats_defaults"]
        assert record["options"] == {"n_steps": 15}, "what was fixed, and nothing else"
        assert (
            record["score"] == record["default_score"] == scores(record)[0] == max(scores(record))
        )
        assert report.result["beats_defaults"] is False
        assert "nothing that was tried surely beats the defaults of red-diff" in caplog.text

    def test_luck_with_one_noise_is_not_enough(self, source, prior, tmp_path, monkeypatch):
        """A judge that tosses coins: the best of the search loses the second time."""
        import medsci.pipelines.tune_problem as problem

        made = []

        def coins(encoded):
            made.append(encoded)
            sequence = iter([0.0, 1.0, 5.0] if len(made) == 1 else [0.5, 0.7])
            return lambda image: next(sequence)

        monkeypatch.setattr(problem, "_truth_judge", coins)
        job = job_of(("lam", 0.01, 0.1), options={"n_steps": "3"}.items(), budget=3)
        tune_files([source], tmp_path / "s.yaml", job=job, prior=prior)
        record = found_in(tmp_path / "s.yaml")
        assert scores(record) == [0.0, 1.0, 5.0]
        assert len(made) == 2
        assert (record["beats_defaults"], record["score"], record["default_score"]) == (
            False, 0.7, 0.7,
        )  # fmt: skip

    def test_the_second_look_has_other_noise_and_other_views(self, source):
        case = encoded(
            middle_slices(read_sinogram(source), 2), "scan.h5", solver="red-diff", maps="espirit",
            window_hu=WINDOW, device="cpu",
        )  # fmt: skip
        seen = [
            {i for i in range(24) if posed(case, judged="held-out", seed=s).measured.y[:, i].any()}
            for s in (0, 0, 1)
        ]
        assert len(seen[0]) == len(seen[2]) == 22
        assert seen[0] == seen[1] != seen[2]

    def test_the_first_trial_is_the_default_of_recon(self, source, prior, tmp_path):
        """Of dds3d that is the walk tuned for the views of the scan, not that of the solver."""
        from medsci.pipelines.recon import ReconJob, recon

        scan = middle_slices(read_sinogram(source), 2)
        write_sinogram(scan, tmp_path / "two.h5")
        options = {"n_steps": "4"}.items()
        job = job_of(("eta", 0.4, 0.6), solver="dds3d", options=options, budget=2, slices=9)
        tune_files([tmp_path / "two.h5"], tmp_path / "s.yaml", job=job, prior=prior)
        recon_job = ReconJob(domain="ct", settings=job.settings)
        done = recon(tmp_path / "two.h5", tmp_path / "r.nii.gz", job=recon_job, prior=prior)
        expected = done.result["metrics"]["reconstruction"]["psnr_db"]
        assert scores(found_in(tmp_path / "s.yaml"))[0] == pytest.approx(expected, abs=1e-3)


def two_ranges(seed=3, **changes) -> TuneJob:
    settings = ReconSettings(
        solver="red-diff", n_samples=1, options=(("antithetic", "true"),), seed=seed,
        precision="float32", device="cpu",
    )  # fmt: skip
    ranges = (("lam", 1e-3, 0.1), ("n-steps", 3.0, 6.0))
    known = {"ranges": ranges, "budget": 4, "slices": 1} | changes
    return TuneJob("ct", settings=settings, **known)


@pytest.fixture(scope="module")
def written(source, prior, tmp_path_factory):
    out = tmp_path_factory.mktemp("file") / "s.yaml"
    tune_files([source], out, job=two_ranges(), prior=prior)
    return out


class TestFile:
    """What is written can be read, repeated and told apart."""

    def test_equal_seeds_give_equal_bytes(self, written, source, prior, tmp_path):
        for seed, name in ((3, "same"), (4, "other")):
            out = tmp_path / name / "s.yaml"
            tune_files([source], out, job=two_ranges(seed), prior=prior)
        same, other = ((tmp_path / name / "s.yaml").read_bytes() for name in ("same", "other"))
        assert same == written.read_bytes() != other
        assert str(tmp_path).encode() not in same

    def test_counts_are_whole_numbers(self, written):
        record = found_in(written)
        steps = [trial["options"]["n_steps"] for trial in record["trials"][1:]]
        assert all(isinstance(n, int) and 3 <= n <= 6 for n in steps)
        assert record["trials"][0]["options"] == {}
        assert len(record["trials"]) == 4

    def test_what_is_written_is_what_a_solver_takes(self, written):
        record = found_in(written)
        solver, options = read_tuned(written, domain="ct")
        assert solver == record["solver"] == "red-diff"
        settings = settings_of(solver, dict(options))
        assert settings.antithetic
        assert dict(options) == {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in record["options"].items()
        }
        if record["beats_defaults"]:
            best = max(record["trials"], key=lambda trial: trial["score"])["options"]
            assert (settings.lam, settings.n_steps) == (best["lam"], best["n_steps"])

    def test_the_record_says_what_ran(self, written):
        record = found_in(written)
        made = record["provenance"]
        assert (record["format_version"], record["domain"]) == (1, "ct")
        assert record["prior"] == {"name": "closed", "sha256": "a" * 64} == {
            key.lower(): value for key, value in made["Model"].items()
        }  # fmt: skip
        assert made["Command"].startswith("medsci recon tune ct -i scan.h5 -o s.yaml")
        assert "--range lam=0.001:0.1,n_steps=3.0:6.0" in made["Command"]
        assert (made["Seed"], made["Device"]) == (3, "cpu")

    def test_several_scans_count_by_their_mean(self, source, blind, prior, tmp_path):
        single = []
        for inputs, name in (([source], "a"), ([blind], "b"), ([source, blind], "ab")):
            out = tmp_path / f"{name}.yaml"
            job = two_ranges(judge="held-out", budget=2)
            tune_files(inputs, out, job=job, prior=prior)
            single.append(found_in(out))
        one, _, both = single
        assert "-i scan.h5 -i blind.h5 -o ab.yaml" in both["provenance"]["Command"]
        names = [entry["Name"] for entry in both["provenance"]["Inputs"]]
        assert names == ["scan.h5", "blind.h5"]
        assert scores(both) != scores(one), "the second has views of its own held out"
        assert both["judged_by"] == "held-out"

    def test_an_existing_file_is_left_alone(self, written, source, prior):
        before = written.read_bytes()
        with pytest.raises(OutputExistsError, match=r"s\.yaml"):
            tune_files([source], written, job=two_ranges(seed=9), prior=prior)
        assert written.read_bytes() == before


class TestMri:
    """k-space: lines outside the centre are held out, the truth is a magnitude."""

    @pytest.fixture
    def scan(self, tmp_path, kspace_of):
        return kspace_of(tmp_path / "k.h5")

    def case(self, scan):
        return encoded(
            middle_slices(read_kspace(scan), 2), "k.h5", solver="red-diff", maps="low_res",
            window_hu=None, device="cpu",
        )  # fmt: skip

    def test_the_centre_is_never_held_out(self, scan):
        case = self.case(scan)
        mask, centre = case.scan.mask, list(case.scan.center_lines)
        gone = set()
        for seed in range(40):
            fit = posed(case, judged="held-out", seed=seed).measured
            left = fit.y.abs().sum(dim=(0, 1, 2)).numpy() > 0
            assert left[centre].all()
            assert not left[~mask].any()
            gone |= set(np.flatnonzero(mask & ~left))
        assert gone == set(np.flatnonzero(mask)) - set(centre)

    def test_the_truth_judges_in_its_own_units(self, scan):
        case = self.case(scan)
        judge = posed(case, judged="truth", seed=0).judge
        truth = torch.from_numpy(case.scan.reference).to(torch.complex64)
        scale = float(case.show(torch.ones_like(truth)).array.max())
        assert judge(truth / scale) > 100
        assert judge(1j * truth / scale) > 100, "a magnitude knows no phase"
        assert judge(truth) < judge(0.9 * truth / scale) < 30
        assert np.isnan(judge(truth * np.nan))

    def test_a_stored_prior_of_two_channels(self, scan, tmp_path):
        stored = prior_folder(tmp_path / "prior", channels=2, window=None, drawn=False)
        settings = ReconSettings(solver="pnp", n_samples=1, maps="low_res", precision="float32",
                                 options=(("n_iter", "3"),))  # fmt: skip
        job = TuneJob("mri", settings=settings, prior=str(stored), budget=3, slices=1)
        tune_files([scan], tmp_path / "s.yaml", job=job)
        record = found_in(tmp_path / "s.yaml")
        assert record["judged_by"] == "truth"
        assert record["prior"]["name"] == "prior"
        assert set(record["trials"][1]["options"]) == {"weight", "sigma_start"}
        assert "--maps low_res" in record["provenance"]["Command"]

    def test_k_space_without_a_gap_has_nothing_to_hold_out(self, scan, tmp_path):
        full = read_kspace(scan)
        whole = dataclasses.replace(full, mask=np.ones_like(full.mask), reference=None)
        write_kspace(whole, tmp_path / "full.h5")
        case = self.case(tmp_path / "full.h5")
        with pytest.raises(InvalidInputError, match=r"k\.h5: nothing can be held out"):
            posed(case, judged="held-out", seed=0)


class TestRefused:
    """What cannot work is refused before the work, in one line."""

    def test_a_truth_that_is_not_there(self, source, blind, prior, tmp_path):
        job = job_of(judge="truth")
        with pytest.raises(UsageError, match=r"blind\.h5 stores no truth"):
            tune_files([source, blind], tmp_path / "s.yaml", job=job, prior=prior)
        assert not (tmp_path / "s.yaml").exists()

    def test_names_of_files(self, source, tmp_path, prior):
        with pytest.raises(UsageError, match=r"name it \*\.yaml"):
            tune_files([source], tmp_path / "s.json", job=job_of(), prior=prior)
        with pytest.raises(InvalidInputError, match="does not exist"):
            tune_files([tmp_path / "no.h5"], tmp_path / "s.yaml", job=job_of(), prior=prior)

    def test_priors_of_other_images(self, source, tmp_path):
        stored = prior_folder(tmp_path / "two", channels=2)
        with pytest.raises(UsageError, match="2 channels, and recon ct needs 1"):
            tune_files([source], tmp_path / "s.yaml", job=job_of(prior=str(stored)))

    def test_a_solver_that_gives_no_number(self, source, tmp_path):
        class Broken(Smooth):
            def forward(self, x, t):
                return x * float("nan")

        broken = Prior("broken", "b" * 64, "", Broken(), WINDOW, 1)
        with pytest.raises(UsageError, match="none of 2 runs gave a number"):
            tune_files([source], tmp_path / "s.yaml", job=job_of(budget=2), prior=broken)
        assert not (tmp_path / "s.yaml").exists()


def test_middle_slices_are_neighbours_in_the_middle(tmp_path):
    scan = read_sinogram(scan_file(tmp_path / "s.h5"))
    two, all_of_them = middle_slices(scan, 1), middle_slices(scan, 9)
    assert np.array_equal(two.data, scan.data[1:2])
    assert np.array_equal(two.reference, scan.reference[1:2])
    assert np.array_equal(all_of_them.data, scan.data)
