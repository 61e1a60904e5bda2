"""Options reach the job, results reach stdout, words reach stderr."""

import io
import json
import logging
import warnings

import pytest

from medsci.cli.main import main
from medsci.cli.talk import Talk
from medsci.pipelines.cases import CaseReport


@pytest.fixture
def source(tmp_path, kspace_of):
    return kspace_of(tmp_path / "in" / "k.h5")


@pytest.fixture
def run(capfd):
    def call(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def mri(source, output, *more):
    return ["recon", "mri", "-i", source, "-o", output, *more]


def test_every_option_reaches_the_sampler(run, source, tmp_path, quick_sampler):
    options = "--samples 2 --steps 5 --cg 4 --seed 11 --chunk 3 --maps low_res"
    words = [*options.split(), "--precision", "float32", "--device", "cpu"]
    assert run(*mri(source, tmp_path / "r.nii.gz", *words))[0] == 0
    settings = next(value for name, value in quick_sampler if name == "sample")
    assert (settings.n_samples, settings.n_steps, settings.n_cg) == (2, 5, 4)
    assert (settings.seed, settings.chunk, settings.maps) == (11, 3, "low_res")
    assert (settings.precision, settings.device) == ("float32", "cpu")


def test_a_seed_is_drawn_and_recorded(run, source, tmp_path, quick_sampler):
    seeds = []
    for name in "ab":
        run(*mri(source, tmp_path / f"{name}.nii.gz"))
        record = json.loads((tmp_path / f"{name}.json").read_text())
        seeds.append(record["MedsciProvenance"]["Seed"])
        assert record["MedsciProvenance"]["Command"].endswith(f"--seed {seeds[-1]}")
    used = [value.seed for name, value in quick_sampler if name == "sample"]
    assert seeds == used
    assert seeds[0] != seeds[1]


def test_the_recorded_command_repeats_the_run(run, source, tmp_path, quick_sampler, monkeypatch):
    import shlex

    run(*mri(source, tmp_path / "in" / "r.nii.gz", "--samples", 2))
    record = json.loads((tmp_path / "in" / "r.json").read_text())
    first = (tmp_path / "in" / "r.nii.gz").read_bytes()
    monkeypatch.chdir(tmp_path / "in")
    words = shlex.split(record["MedsciProvenance"]["Command"])[1:]
    assert run(*words)[0] == 7, "it writes to the same name"
    assert run(*words, "--overwrite")[0] == 0
    assert (tmp_path / "in" / "r.nii.gz").read_bytes() == first


def test_json_gives_one_object_per_case(run, tmp_path, kspace_of, quick_sampler):
    kspace_of(tmp_path / "in" / "a.h5")
    kspace_of(tmp_path / "in" / "b.h5", bad=True)
    _, out, _ = run(*mri(tmp_path / "in", tmp_path / "out", "--json"))
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["case"], first["status"], first["exit_code"]) == ("a.h5", "done", 0)
    assert first["result"]["metrics"]["reconstruction"]["psnr_db"] > 20
    assert first["outputs"]["reconstruction"].endswith("a.nii.gz")
    assert (second["case"], second["status"], second["exit_code"]) == ("b.h5", "failed", 4)
    assert "kspace" in second["error"]


def test_json_of_a_single_failing_case(run, tmp_path, kspace_of, quick_sampler):
    bad = kspace_of(tmp_path / "b.h5", bad=True)
    code, out, err = run(*mri(bad, tmp_path / "r.nii.gz", "--json"))
    assert code == 4
    assert json.loads(out)["status"] == "failed"
    assert err.count("error: ") == 1


def test_quiet_says_nothing_and_verbose_more(run, source, tmp_path, quick_sampler):
    assert run(*mri(source, tmp_path / "a.nii.gz", "-q"))[2] == ""
    normal = run(*mri(source, tmp_path / "b.nii.gz"))[2]
    assert "wrote" in normal
    assert "sample 1 of 1: 4/4" in normal


def test_skip_existing(run, source, tmp_path, quick_sampler):
    run(*mri(source, tmp_path / "r.nii.gz"))
    code, out, err = run(*mri(source, tmp_path / "r.nii.gz", "--skip-existing", "--json"))
    assert code == 0
    assert json.loads(out)["status"] == "skipped"
    assert "skipped" in err


def test_simulate_options_reach_the_file(run, t1_file, tmp_path):
    from medsci.imaging import read_kspace

    out = tmp_path / "k.h5"
    words = "--acceleration 3 --coils 2 --noise 0 --seed 5 --slices 2:6 --phase-axis 1"
    more = "--center-fraction 0.2 --mask equispaced --json"
    simulate = ("recon", "simulate", "mri", "-i", t1_file, "-o", out)
    code, text, _ = run(*simulate, *f"{words} {more}".split())
    assert code == 0
    kspace = read_kspace(out)
    assert (kspace.n_slices, kspace.n_coils, kspace.axes) == (4, 2, (2, 0, 1))
    assert json.loads(text)["result"]["lines"] == int(kspace.mask.sum())
    assert run("recon", "simulate", "mri", "-i", t1_file, "-o", out)[0] == 7


class TestTalk:
    """The voice itself."""

    def test_bars_on_a_terminal_lines_elsewhere(self, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        texts = {}
        for kind in (Terminal, io.StringIO):
            stream = kind()
            monkeypatch.setattr("sys.stderr", stream)
            with Talk().progress() as progress:
                assert progress is not None
                for done in range(1, 101):
                    progress(done, 100, "sampling")
            texts[kind] = stream.getvalue()
        assert "\x1b[" in texts[Terminal]
        assert "\x1b" not in texts[io.StringIO]
        lines = texts[io.StringIO].splitlines()
        assert lines[0] == "sampling: 1/100"
        assert lines[-1] == "sampling: 100/100"
        assert len(lines) < 20, "now and then, not every step"

    def test_quiet_has_no_progress(self):
        with Talk(verbosity=-1).progress() as progress:
            assert progress is None

    def test_library_warnings_are_for_the_curious_ours_for_all(self, capfd):
        import medsci.errors

        ours, theirs = medsci.errors.__file__, warnings.__file__
        for verbosity, expected in ((0, (True, False)), (1, (True, True)), (-1, (False, False))):
            with Talk(verbosity=verbosity).running():
                warnings.simplefilter("always")
                warnings.warn_explicit("from us", UserWarning, ours, 1)
                warnings.warn_explicit("from them", UserWarning, theirs, 1)
            err = capfd.readouterr().err
            assert ("from us" in err, "from them" in err) == expected

    def test_the_log_is_left_as_it_was(self):
        logger = logging.getLogger("medsci")
        before = (list(logger.handlers), logger.level, logger.propagate)
        with Talk().running():
            assert logger.handlers != before[0]
        assert (list(logger.handlers), logger.level, logger.propagate) == before

    def test_objects_are_strict_json(self, capfd):
        report = CaseReport("a", "done", result={"x": float("nan")})
        with pytest.raises(ValueError, match="JSON"):
            Talk(as_json=True).tell(report)
        assert capfd.readouterr().out == ""
