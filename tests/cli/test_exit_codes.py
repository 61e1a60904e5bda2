"""Every class of failure has its exit code, and one line on stderr that says what to do."""

import subprocess
import sys

import pytest

from medsci.cli.main import main
from medsci.errors import ExitCode

MRI = ["recon", "mri"]
SIMULATE = ["recon", "simulate", "mri", "-i", "a", "-o", "b.h5"]


@pytest.fixture
def run(capfd):
    """Run the command in this process; gives (code, stdout, stderr)."""

    def call(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def source(tmp_path, kspace_of):
    return kspace_of(tmp_path / "in" / "k.h5")


def raising(monkeypatch, error: BaseException) -> None:
    import medsci.recon

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(medsci.recon, "posterior", fail)


def the_error(err: str) -> str:
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err
    return line


def test_done(run, source, tmp_path, quick_sampler):
    code, out, err = run(*MRI, "-i", source, "-o", tmp_path / "r.nii.gz", "--seed", 0)
    assert code == ExitCode.DONE == 0
    assert out == ""
    assert "wrote" in err
    assert "PSNR" in err
    assert (tmp_path / "r_std.nii.gz").is_file()


def test_internal_error(run, source, tmp_path, quick_sampler, monkeypatch):
    raising(monkeypatch, ZeroDivisionError("by zero"))
    code, _, err = run(*MRI, "-i", source, "-o", tmp_path / "r.nii.gz")
    assert code == 1
    assert "ZeroDivisionError: by zero" in the_error(err)
    assert "-vv" in err


def test_traceback_only_with_vv(run, source, tmp_path, quick_sampler, monkeypatch):
    raising(monkeypatch, ZeroDivisionError("by zero"))
    _, _, once = run(*MRI, "-i", source, "-o", tmp_path / "r.nii.gz", "-v")
    _, _, twice = run(*MRI, "-i", source, "-o", tmp_path / "r.nii.gz", "-vv")
    assert "Traceback" not in once
    assert "Traceback" in twice


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "No such command"),
        ([*MRI], "Missing option"),
        ([*MRI, "--nope"], "No such option"),
        ([*MRI, "-i", "k.h5", "-o", "r.nii.gz", "--samples", "0"], "--samples"),
        ([*MRI, "-i", "k.h5", "-o", "r.nii.gz", "--maps", "guess"], "--maps"),
        ([*MRI, "-i", "k.h5", "-o", "r.nii.gz", "-q", "-v"], "contradict"),
        ([*MRI, "-i", "k.h5", "-o", "r.nii.gz", "--overwrite", "--skip-existing"], "contradict"),
        ([*SIMULATE, "--slices", "70-106"], "FIRST:STOP"),
        ([*SIMULATE, "--slice-axis", "3"], "--slice-axis"),
    ],
)
def test_usage(run, arguments, words):
    code, out, err = run(*arguments)
    assert code == ExitCode.USAGE == 2
    assert words in the_error(err)
    assert out == ""


@pytest.mark.parametrize("arguments", [[], ["recon"], ["models"]])
def test_no_command_shows_the_help(run, arguments):
    code, _, err = run(*arguments)
    assert code == 2
    assert "Usage: medsci" in err


def test_an_absent_device_is_usage(run, source, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run(*MRI, "-i", source, "-o", tmp_path / "r.nii.gz", "--device", "cuda")
    assert code == 2
    assert "--device cpu" in the_error(err)


def test_some_cases_failed(run, tmp_path, kspace_of, quick_sampler):
    kspace_of(tmp_path / "in" / "a.h5")
    kspace_of(tmp_path / "in" / "b.h5", bad=True)
    code, _, err = run(*MRI, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert code == ExitCode.SOME_CASES_FAILED == 3
    assert (tmp_path / "out" / "a.nii.gz").is_file()
    assert "b.h5" in err
    assert "1 of 2 cases failed" in err


@pytest.mark.parametrize("name", ["gone.h5", "broken.h5", "text.h5"])
def test_invalid_input(run, tmp_path, kspace_of, quick_sampler, name):
    kspace_of(tmp_path / "broken.h5", bad=True)
    (tmp_path / "text.h5").write_text("not HDF5")
    code, _, err = run(*MRI, "-i", tmp_path / name, "-o", tmp_path / "r.nii.gz")
    assert code == ExitCode.INVALID_INPUT == 4
    assert name in the_error(err)


@pytest.mark.parametrize("error", [MemoryError(), "torch"])
def test_out_of_memory(run, source, tmp_path, quick_sampler, monkeypatch, error):
    import torch

    raising(
        monkeypatch, torch.OutOfMemoryError("CUDA out of memory") if error == "torch" else error
    )
    code, _, err = run(*MRI, "-i", source, "-o", tmp_path / "r.nii.gz")
    assert code == ExitCode.OUT_OF_MEMORY == 5
    assert "--chunk" in the_error(err)


def test_missing_weights(run, source, tmp_path):
    code, _, err = run(*MRI, "-i", source, "-o", tmp_path / "r.nii.gz", "--prior", "no-such")
    assert code == ExitCode.WEIGHTS == 6
    assert "no-such" in the_error(err)


def test_existing_output_is_left_alone(run, source, tmp_path, quick_sampler):
    old = tmp_path / "r.nii.gz"
    old.write_text("precious")
    stamp = old.stat().st_mtime_ns
    code, _, err = run(*MRI, "-i", source, "-o", old)
    assert code == ExitCode.OUTPUT_EXISTS == 7
    assert "--overwrite" in the_error(err)
    assert (old.read_text(), old.stat().st_mtime_ns) == ("precious", stamp)
    assert run(*MRI, "-i", source, "-o", old, "--overwrite")[0] == 0
    assert old.read_bytes()[:2] == b"\x1f\x8b"


def test_interrupted(run, source, tmp_path, quick_sampler, monkeypatch):
    raising(monkeypatch, KeyboardInterrupt())
    code, _, err = run(*MRI, "-i", source, "-o", tmp_path / "r.nii.gz")
    assert code == ExitCode.INTERRUPTED == 130
    assert "interrupted" in the_error(err)
    assert not list(tmp_path.glob("r*"))


def test_the_process_exits_with_the_code(tmp_path):
    """The same in a process of its own, through the module that the console script calls."""
    code = "import sys; from medsci.cli.main import main; sys.exit(main())"
    words = ["recon", "mri", "-i", "gone.h5", "-o", "r.nii.gz"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr == "error: the input gone.h5 does not exist; check its name\n"
