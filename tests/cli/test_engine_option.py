"""`--engine dask` on the command line: refused in one line, or the files of a local run."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pytest

from medsci.cli.main import main

RUN = "from medsci.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"
QUICK = ["--samples", "1", "--steps", "3", "--seed", "1", "--report", "pages"]
DASK = ["--engine", "dask", "--workers", "2"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--workers 2", "belong to --engine dask"),
        ("--scheduler slurm", "belong to --engine dask"),
        ("--engine dask --workers 0", "workers"),
        ("--engine dask --scheduler tcp://a:1 --workers 2", "running cluster"),
        ("--engine dask --threads 2", "use --workers instead"),
        ("--engine dask --scheduler tcp://127.0.0.1:9", "is relative"),
        ("--engine slurm", "engine"),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path, monkeypatch, kspace_of, capfd, more, words):
    monkeypatch.chdir(tmp_path)
    kspace_of(Path("in/a.h5"))
    assert main(["recon", "mri", "-i", "in", "-o", "out", *more.split()]) == 2
    err = capfd.readouterr().err
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_the_missing_extra_is_named(tmp_path, kspace_of, capfd, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "distributed" else found(name)
    )
    assert main(["recon", "mri", "-i", "in", "-o", "out", "--engine", "dask"]) == 2
    assert "pip install 'medsci[cluster]'" in capfd.readouterr().err


def test_help_and_local_runs_import_no_dask():
    code = (
        "import sys; from medsci.cli.main import main; main(['recon', 'mri', '--help']);"
        "import medsci.pipelines.recon;"
        "sys.exit(any(n.split('.')[0] in ('dask', 'distributed', 'torch') for n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--scheduler" in done.stdout


@contextmanager
def started(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run of a cohort in a process group of its own, and never leave it behind."""
    words = ["recon", "mri", "-i", "in", "-o", "dask", *QUICK, *DASK, *more]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *words],
        cwd=folder,
        env=ONE_THREAD,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(folder: Path, pattern: str, n: int = 1) -> None:
    """Wait until so many files are there."""
    end = time.monotonic() + 90
    while len(list(folder.glob(pattern))) < n:
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.02)


def workers_of(group: int) -> list[int]:
    """Find the worker processes of a run by their process group."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes()
            if os.getpgid(int(place.name)) == group and b"spawn_main" in words:
                found.append(int(place.name))
        except (OSError, ProcessLookupError):
            continue
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.slow
def test_a_worker_killed_in_a_real_cohort_leaves_twelve_correct_outputs(tmp_path, kspace_of):
    for number in range(12):
        path = kspace_of(tmp_path / "in" / f"k{number:02d}.h5")
        with h5py.File(path, "r+") as file:
            file["kspace"][...] *= 1 + number  # or a mix-up of two cases would not be seen
    local = ["recon", "mri", "-i", "in", "-o", "local", *QUICK]
    subprocess.run(
        [sys.executable, "-c", RUN, *local], cwd=tmp_path, check=True, timeout=300, env=ONE_THREAD
    )
    (tmp_path / "pages").rename(tmp_path / "local_pages")
    with started(tmp_path, "--json") as process:
        wait_for(tmp_path / "dask", "*.nii.gz")
        wait_for(tmp_path / "dask", ".begun-*.nii.gz", 2)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err.count("died during") == 1
    told = [json.loads(line) for line in out.splitlines()]
    assert sorted(report["case"] for report in told) == [f"k{n:02d}.h5" for n in range(12)]
    assert {report["status"] for report in told} == {"done"}
    assert len(files_of(tmp_path / "dask")) == 24
    local_files = files_of(tmp_path / "local")
    assert len(set(local_files.values())) == 24, "no two are the same"
    assert files_of(tmp_path / "dask") == local_files
    assert files_of(tmp_path / "pages") == files_of(tmp_path / "local_pages")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_it_cleanly(tmp_path, kspace_of, number, code, words):
    for name in "abcdef":
        kspace_of(tmp_path / "in" / f"{name}.h5")
    with started(tmp_path) as process:
        wait_for(tmp_path / "dask", ".begun-*")
        workers = workers_of(process.pid)
        send = os.killpg if number == signal.SIGINT else os.kill  # Ctrl-C goes to the whole group
        send(process.pid, number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"error: {words}" in err
    assert "Traceback" not in err
    assert "died" not in err
    assert workers
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()], "no stray process"
    left = [p.name for p in (tmp_path / "dask").iterdir()]
    assert not [name for name in left if name.startswith(".")]
